"""Targets of the Makefile that need nothing set up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def folder(checkout: Path, tmp_path: Path) -> Path:
    """A checkout with nothing but the Makefile and what it includes."""
    shutil.copyfile(checkout / "Makefile", tmp_path / "Makefile")
    shutil.copytree(checkout / "make", tmp_path / "make")
    return tmp_path


def test_clean_removes_what_the_targets_made_and_nothing_else(folder: Path, command: Command) -> None:
    made = [".venv", ".sandbox", "greengrass-build", "wheelhouse", "components/simulator/wheelhouse", ".ruff_cache"]
    for path in (*made, "work", "components/simulator/sensor_simulator"):
        (folder / path / "something").mkdir(parents=True)
    done = command("make", "clean", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [path for path in made if (folder / path).exists()] == []
    assert (folder / "work" / "something").is_dir()
    assert (folder / "components" / "simulator" / "sensor_simulator").is_dir()


def test_a_build_without_gdk_says_how_the_guide_installs_it(folder: Path, checkout: Path, command: Command) -> None:
    done = command("make", "build", "GDK=gdk-that-is-nowhere", cwd=folder)
    assert done.returncode == 2
    guide = (checkout / "docs" / "deploy.md").read_text()
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ~/gdk") or " -m venv " in line]
    assert len(commands) == 2
    assert all(f"\n{line}\n" in guide for line in commands)
