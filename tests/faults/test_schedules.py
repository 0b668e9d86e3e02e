"""Some schedules of `make faults` in each test run, and that they are drawn again as they were."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from faults.campaign import play
from faults.schedule import draw
from greengrass_sandbox import ProfileName

A_HANDFUL = 3
"""`make faults` plays hundreds."""


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_after_some_random_faults_nothing_is_missing(
    tmp_path: Path, profile: ProfileName, capsys: pytest.CaptureFixture[str]
) -> None:
    totals: Counter[str] = Counter()
    _, passed = asyncio.run(play(tmp_path, profile, range(1, 1 + A_HANDFUL), totals))
    assert passed, capsys.readouterr().out
    assert totals["scored"] > 0 < totals["in the cloud"]


def test_a_seed_gives_the_same_schedule_again_and_another_one_another() -> None:
    assert draw(7, "lite") == draw(7, "lite")
    assert draw(7, "lite") != draw(7, "classic")
    assert len({str(draw(seed, "lite").steps) for seed in range(50)}) > 45
