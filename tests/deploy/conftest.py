"""Projects to build, and what is made of them. Everything runs as a user or a runtime runs it: as a command of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
SOURCES = (
    "LICENSE",
    "components",
    "device",
    "examples",
    "gdk-config.json",
    "recipe.yaml",
    "requirements.lock",
    "scripts",
    "src/ml_inference",
)

Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeCheckout = Callable[[], Path]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def make_checkout(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> MakeCheckout:
    """Copies of what building needs, with the tests' small model; all of the same moment."""
    snapshot = tmp_path_factory.mktemp("snapshot")
    for name in SOURCES:
        source, target = CHECKOUT / name, snapshot / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("greengrass-build", "wheelhouse"))
        else:
            shutil.copyfile(source, target)
    shutil.copytree(model_directory, snapshot / "artifacts" / "model")

    def make() -> Path:
        copy = tmp_path_factory.mktemp("checkout")
        return Path(shutil.copytree(snapshot, copy, dirs_exist_ok=True))

    return make


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """This process's environment, in which `python3` is the Python that runs the tests."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs a command to its end."""

    def run(
        *arguments: object, cwd: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(argument) for argument in arguments],
            cwd=cwd,
            env={**environment, **(variables or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    return run


@pytest.fixture(scope="session")
def build(command: Command) -> Callable[..., Path]:
    """Builds a project, after changes to its `gdk-config.json`; the path of its `greengrass-build`."""

    def build(project: Path, **changes: Any) -> Path:
        path = project / "gdk-config.json"
        config = json.loads(path.read_text())
        ((name, component),) = config["component"].items()
        config["component"] = {changes.pop("name", name): component | changes}
        path.write_text(json.dumps(config))
        done = command(*component["build"]["custom_build_command"], cwd=project)
        assert done.returncode == 0, done.stderr
        return project / "greengrass-build"

    return build


@pytest.fixture(scope="session")
def built(make_checkout: MakeCheckout, build: Callable[..., Path]) -> dict[str, Path]:
    """The build of each component; nobody changes it."""
    copy = make_checkout()
    return {
        "bridge": build(copy / "components" / "bridge"),
        "dashboard": build(copy / "components" / "dashboard"),
        "inference": build(copy),
        "model": build(copy / "components" / "model"),
        "simulator": build(copy / "components" / "simulator"),
    }
