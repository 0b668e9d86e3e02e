"""More readings than can be scored: what is given up, and that it is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from ml_inference.delivery.local import WINDOW
from support.clocks import SECONDS
from support.line import Line
from support.models import ABNORMAL, NORMAL

MakeLine = Callable[..., Line]


def reading(machine: str, number: int) -> dict[str, Any]:
    return NORMAL | {"equipment_id": machine, "correlation_id": number}


@pytest.mark.parametrize("profile", ["lite"])
def test_when_the_queue_is_full_the_oldest_reading_of_the_same_machine_goes_first_and_is_counted(
    make_line: MakeLine,
) -> None:
    line = make_line(MaxQueue=20, CloudPublish="none")
    first = line.hold_up()
    line.send_all(reading("first", WINDOW + number) for number in range(2))
    line.send_all(reading("quiet", number) for number in range(3))
    line.send_all(reading("busy", number) for number in range(100))
    line.let_go()
    assert line.results.take(WINDOW) == first
    counts = line.finish()["counters"]
    results = [(result["equipment_id"], result["correlation_id"]) for result in line.results.here()]
    # The worker may have taken up to a quarter of the queue before that was full, or only after.
    kept = len(results) - 2 - 3
    assert 20 - 2 - 3 <= kept <= 20
    assert results == [
        *(("first", WINDOW + number) for number in range(2)),
        *(("quiet", number) for number in range(3)),
        *(("busy", number) for number in range(100 - kept, 100)),
    ]
    scored = WINDOW + 2 + 3 + kept
    dropped = 100 - kept
    assert counts == {"received": scored + dropped, "scored": scored, "rejected": 0, "dropped": dropped, "queued": 0}


@pytest.mark.parametrize("profile", ["classic"])
def test_under_overload_it_says_so_keeps_its_memory_and_is_quick_again_when_the_load_ends(make_line: MakeLine) -> None:
    # Explanations cost most: a batch of these takes the component some ten times as long as the nucleus.
    line = make_line(MaxQueue=50, CloudPublish="none", HealthIntervalSeconds=1, ExplainTopK=6)
    assert line.process is not None
    process = psutil.Process(line.process.pid)
    batch = {"readings": [ABNORMAL] * 200}

    def overload(health_messages: int) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        deadline = time.monotonic() + SECONDS
        while len(told) < health_messages and time.monotonic() < deadline:
            line.send_all([batch] * 50)
            line.results.here()
            told += line.health.here()
        return told

    assert overload(1)
    memory = process.memory_info().rss
    told = overload(2)
    assert [health["counters"]["queued"] > 0 < health["counters"]["dropped"] for health in told] == [True, True]
    assert process.memory_info().rss - memory < 5_000_000
    line.health.until(lambda health: health["counters"]["queued"] == 0)
    line.results.here()
    for number in range(20):
        line.send_json(reading("last", number))
        assert line.results.next()["correlation_id"] == number
    counts = line.finish()["counters"]
    assert counts["received"] == counts["scored"] + counts["dropped"]
