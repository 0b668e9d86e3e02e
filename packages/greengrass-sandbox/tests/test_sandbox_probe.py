"""The lite profile gives the answers of a real nucleus lite 2.6.0 to some sixty questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus

PROBE = Path(__file__).parents[2].parent / "shared" / "greengrass" / "probe"

pytestmark = pytest.mark.skipif(
    not (PROBE / "probe.py").is_file(),
    reason="the probe of a real nucleus is not beside this checkout (../shared/greengrass/probe)",
)


def ask(environment: dict[str, str], *questions: str) -> dict[str, Any]:
    command = [sys.executable, str(PROBE / "probe.py"), *questions]
    asked = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=True
    )
    answers: dict[str, Any] = json.loads(asked.stdout)
    return answers


def test_the_lite_profile_answers_the_probe_as_nucleus_lite_does(lite: BackgroundNucleus) -> None:
    environment = lite.credentials("com.example.Probe", PROBE / "com.example.Probe-1.0.0.json")
    answers = ask(environment)
    lite.iot_core.online = False
    answers["iot_core_offline"] = ask(environment, "iot_core")["iot_core"]
    expected = json.loads((PROBE / "lite-2.6.0.json").read_text())
    # A frame this much too long can be noticed while it is still being sent, or after.
    either = expected["message_limits"]["binary_100000"]["publish"]
    if answers["message_limits"]["binary_100000"]["publish"] in either.split(" or "):
        answers["message_limits"]["binary_100000"]["publish"] = either
    assert answers == expected
