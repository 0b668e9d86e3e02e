"""Fixtures for tests of Greengrass components: a running nucleus for each test.

pytest imports this module in every run of an environment that has the package, so it must import nothing heavy and change nothing for tests that do not ask
for its fixtures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from greengrass_sandbox import BackgroundNucleus

__all__ = ["classic", "lite", "make_nucleus", "nucleus"]


@pytest.fixture
def make_nucleus(tmp_path: Path) -> Iterator[Callable[..., BackgroundNucleus]]:
    """Starts a nucleus: `make_nucleus(profile="lite", **options)`, with the options of `BackgroundNucleus`; it ends with the test."""
    from greengrass_sandbox import BackgroundNucleus  # noqa: PLC0415  only for tests that ask for it

    with contextlib.ExitStack() as stack:
        count = 0

        def make(profile: str = "lite", **options: Any) -> BackgroundNucleus:
            nonlocal count
            count += 1
            return stack.enter_context(BackgroundNucleus(tmp_path / f"greengrass-{count}", profile, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture(params=["lite", "classic"])
def nucleus(request: pytest.FixtureRequest, make_nucleus: Callable[..., BackgroundNucleus]) -> BackgroundNucleus:
    """A running nucleus; the test runs once for each runtime."""
    return make_nucleus(request.param)


@pytest.fixture
def lite(make_nucleus: Callable[..., BackgroundNucleus]) -> BackgroundNucleus:
    """A running nucleus lite."""
    return make_nucleus("lite")


@pytest.fixture
def classic(make_nucleus: Callable[..., BackgroundNucleus]) -> BackgroundNucleus:
    """A running classic nucleus."""
    return make_nucleus("classic")
