"""A nucleus stand-in of each profile with the component on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus, ProfileName
from support.line import NAME, Line, own_recipe


@pytest.fixture(params=["lite", "classic"])
def profile(request: pytest.FixtureRequest) -> ProfileName:
    name: ProfileName = request.param
    return name


@pytest.fixture
def make_line(
    tmp_path: Path, model_directory: Path, profile: ProfileName, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Line]]:
    """Makes a nucleus of the profile with the component running on it."""
    lines: list[Line] = []
    stack: list[BackgroundNucleus] = []

    def make(*, start: bool = True, model: Path | None = None, **options: Any) -> Line:
        number = len(lines)
        nucleus = BackgroundNucleus(tmp_path / f"nucleus-{number}", profile).__enter__()
        stack.append(nucleus)
        work = tmp_path / f"work-{number}"
        work.mkdir()
        environment = os.environ | nucleus.credentials(NAME, own_recipe(tmp_path))
        line = Line(nucleus, model or model_directory, work, environment)
        lines.append(line)
        if start:
            line.start(**options)
        return line

    failed_before = request.session.testsfailed
    yield make
    try:
        for line in lines:
            line.end()
    finally:
        for line in lines:
            if request.session.testsfailed > failed_before and line.log.exists():
                sys.stderr.write(line.log.read_text())
        for nucleus in stack:
            nucleus.__exit__(None, None, None)


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    """The component running with the recipe's configuration."""
    return make_line()
