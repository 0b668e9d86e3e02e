"""The wheels: what each holds. A module that stands in two of them is one package's file overwritten by the other's."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

PROJECTS = {"ml-inference": ".", "greengrass-sandbox": "packages/greengrass-sandbox"}


@pytest.fixture(scope="module")
def wheels(checkout: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheels")
    found = {}
    for name, project in PROJECTS.items():
        target = folder / name
        done = command(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=checkout / project)
        assert done.returncode == 0, done.stderr
        (path,) = target.iterdir()
        found[name] = zipfile.ZipFile(path)
    return found


def read(wheel: zipfile.ZipFile, file: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
    return wheel.read(name).decode()


def test_no_module_is_in_two_wheels(wheels: dict[str, zipfile.ZipFile]) -> None:
    first, second = ({name for name in wheel.namelist() if name.endswith(".py")} for wheel in wheels.values())
    assert first
    assert second
    assert first & second == set()
    assert not [name for name in first if "sandbox" in name]


def test_the_stand_in_is_typed_and_brings_a_parser_of_recipes_and_nothing_else(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    wheel = wheels["greengrass-sandbox"]
    assert "greengrass_sandbox/py.typed" in wheel.namelist()
    needed = [line for line in read(wheel, "METADATA").splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in needed if "extra ==" not in line] == ["Requires-Dist: pyyaml>=6.0.2"]
    entry_points = read(wheel, "entry_points.txt")
    assert "[pytest11]\ngreengrass-sandbox = greengrass_sandbox.pytest_plugin" in entry_points
    assert "greengrass-sandbox = greengrass_sandbox.__main__:main" in entry_points


def test_no_extra_of_the_component_names_a_package_of_this_repository(wheels: dict[str, zipfile.ZipFile]) -> None:
    needed = [line for line in read(wheels["ml-inference"], "METADATA").splitlines() if "Requires-Dist:" in line]
    assert needed
    assert not [line for line in needed if "sandbox" in line]
