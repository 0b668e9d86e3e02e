"""Each profile gives the answers that a real nucleus gave to the same probe, to the letter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus

PROBE = Path(__file__).parent / "probe"


def ask(environment: dict[str, str], *questions: str) -> dict[str, Any]:
    command = [sys.executable, str(PROBE / "probe.py"), *questions]
    asked = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=True
    )
    answers: dict[str, Any] = json.loads(asked.stdout)
    return answers


@pytest.mark.parametrize(("profile", "recorded"), [("lite", "lite-2.6.0.json"), ("classic", "classic-2.18.2.json")])
def test_the_probe_gets_the_answers_of_the_real_runtime(
    make_nucleus: Callable[..., BackgroundNucleus], profile: str, recorded: str
) -> None:
    nucleus = make_nucleus(profile)
    environment = nucleus.credentials("com.example.Probe", PROBE / "com.example.Probe-1.0.0.json")
    answers = ask(environment)
    nucleus.iot_core.online = False
    answers["iot_core_offline"] = ask(environment, "iot_core")["iot_core"]
    expected = json.loads((PROBE / recorded).read_text())
    # A frame this much too long can be noticed while it is still being sent, or after.
    either = expected["message_limits"]["binary_100000"]["publish"]
    if answers["message_limits"]["binary_100000"]["publish"] in either.split(" or "):
        answers["message_limits"]["binary_100000"]["publish"] = either
    # As text, in which 1 is not 1.0.
    assert json.dumps(answers, indent=1, sort_keys=True) == json.dumps(expected, indent=1, sort_keys=True)
