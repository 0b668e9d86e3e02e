"""A nucleus stand-in of each profile with the component on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox.background import BackgroundNucleus
from support.line import NAME, Line, own_recipe


@pytest.fixture(params=["lite", "classic"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_line(
    tmp_path: Path, model_directory: Path, profile: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Line]]:
    """Makes a nucleus of the profile with the component running on it."""
    lines: list[Line] = []
    stack: list[BackgroundNucleus] = []

    def make(*, start: bool = True, model: Path | None = None, **settings: Any) -> Line:
        nucleus = BackgroundNucleus(tmp_path / "nucleus", profile).__enter__()
        stack.append(nucleus)
        work = tmp_path / "work"
        work.mkdir()
        environment = os.environ | nucleus.credentials(NAME, own_recipe(tmp_path))
        line = Line(nucleus, model or model_directory, work, environment)
        lines.append(line)
        if start:
            line.start(**settings)
        return line

    failed_before = request.session.testsfailed
    yield make
    for line in lines:
        line.end()
        if request.session.testsfailed > failed_before and line.log.exists():
            sys.stderr.write(line.log.read_text())
    for nucleus in stack:
        nucleus.__exit__(None, None, None)


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    """The component running with the recipe's configuration."""
    return make_line()
