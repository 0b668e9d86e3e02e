"""A component in Node on both runtimes: the stand-in's socket is a real one, so the language does not matter.

The SDK is taken from `node_modules` in this folder, after `npm install`; otherwise it is installed for this run.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from greengrass_sandbox import BackgroundNucleus

HERE = Path(__file__).parent
SDK = "aws-iot-device-sdk-v2"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm"
)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules with the SDK."""
    if (HERE / "node_modules" / SDK).is_dir():
        return HERE / "node_modules"
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(HERE / "package.json", folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install took too long")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {SDK}: {done.stderr.strip().splitlines()[-1:]}")
    return folder / "node_modules"


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_a_number_is_answered_with_its_double(
    make_nucleus: Callable[..., BackgroundNucleus], modules: Path, profile: str
) -> None:
    """Node finds the SDK by `NODE_PATH`, which the component inherits."""
    nucleus = make_nucleus(profile, environment={**os.environ, "NODE_PATH": str(modules)})
    answers = nucleus.watch("demo/double")
    nucleus.deploy(HERE / "recipe.yaml", HERE)
    nucleus.wait_for_subscriber("demo/number")
    nucleus.publish("demo/number", b'{"number": 21}')
    assert answers.get(timeout=10).json() == {"double": 42}
