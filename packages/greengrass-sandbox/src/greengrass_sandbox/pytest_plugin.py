"""Fixtures for tests of Greengrass components: a running nucleus for each test, and what the components wrote where a test fails.

pytest imports this module in every run of an environment that has the package, so it must import nothing heavy and change nothing for tests that do not ask
for its fixtures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from greengrass_sandbox import BackgroundNucleus, ProfileName

    MakeNucleus = Callable[..., BackgroundNucleus]

__all__ = ["classic", "lite", "make_nucleus", "nucleus", "nucleus_profile"]

SHOWN_LINES = 60
"""Lines at the end of a component's log that the report of a failed test shows."""

_NUCLEI = pytest.StashKey["list[BackgroundNucleus]"]()


@pytest.fixture
def make_nucleus(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeNucleus]:
    """Starts a nucleus: `make_nucleus(profile="lite", **options)`, with the options of `BackgroundNucleus`. It ends with the test."""
    from greengrass_sandbox import BackgroundNucleus  # noqa: PLC0415  only for tests that ask for it

    nuclei = request.node.stash.setdefault(_NUCLEI, [])
    with contextlib.ExitStack() as stack:

        def make(profile: ProfileName = "lite", *, root: Path | None = None, **options: Any) -> BackgroundNucleus:
            folder = root or tmp_path / f"greengrass-{len(nuclei)}"
            nucleus = stack.enter_context(BackgroundNucleus(folder, profile, **options))
            nuclei.append(nucleus)
            return nucleus

        yield make


@pytest.fixture(params=["lite", "classic"])
def nucleus_profile(request: pytest.FixtureRequest) -> ProfileName:
    """The runtime of `nucleus`; a test that uses it runs once for each."""
    profile: ProfileName = request.param
    return profile


@pytest.fixture
def nucleus(nucleus_profile: ProfileName, make_nucleus: MakeNucleus) -> BackgroundNucleus:
    """A running nucleus; the test runs once for each runtime."""
    return make_nucleus(nucleus_profile)


@pytest.fixture
def lite(make_nucleus: MakeNucleus) -> BackgroundNucleus:
    """A running nucleus lite."""
    return make_nucleus("lite")


@pytest.fixture
def classic(make_nucleus: MakeNucleus) -> BackgroundNucleus:
    """A running classic nucleus."""
    return make_nucleus("classic")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Adds the states and logs of all components to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed or report.when == "teardown":
        return
    for nucleus in item.stash.get(_NUCLEI, []):
        for component in nucleus.components:
            report.sections.append(
                (f"Greengrass component {component.name} ({component.state})", component.describe(SHOWN_LINES))
            )
