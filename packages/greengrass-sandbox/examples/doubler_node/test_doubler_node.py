"""A component in Node on both runtimes: the stand-in's socket is a real one, so the language does not matter."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from greengrass_sandbox import BackgroundNucleus

HERE = Path(__file__).parent
SDK = "aws-iot-device-sdk-v2"
MODULES = os.pathsep.join(filter(None, [str(HERE / "node_modules"), os.environ.get("NODE_PATH")]))


def sdk_is_there() -> bool:
    """Whether Node finds the SDK."""
    command = ["node", "-e", f"require.resolve('{SDK}')"]
    found = subprocess.run(command, env={**os.environ, "NODE_PATH": MODULES}, capture_output=True, check=False)
    return found.returncode == 0


pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not sdk_is_there(), reason=f"needs node with {SDK}: npm install in {HERE.name}"
)


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_a_number_is_answered_with_its_double(make_nucleus: Callable[..., BackgroundNucleus], profile: str) -> None:
    """Node finds the SDK by `NODE_PATH`, which the component inherits."""
    nucleus = make_nucleus(profile, environment={**os.environ, "NODE_PATH": MODULES})
    answers = nucleus.watch("demo/double")
    nucleus.deploy(HERE / "recipe.yaml", HERE)
    nucleus.wait_for_subscriber("demo/number")
    nucleus.publish("demo/number", b'{"number": 21}')
    assert answers.get(timeout=10).json() == {"double": 42}
