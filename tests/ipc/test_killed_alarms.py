"""The component is killed at random moments, over and over: one id for one alarm, none forgotten.

`ALARM_KILLS` is how often, `FAULTS_SEED` decides when.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ml_inference.monitoring.alarms import epoch, iso
from support.line import Line
from support.models import ABNORMAL, NORMAL, over_time, train_small

START = 1_767_225_600.0
HOUR = 360
"""Readings of the machine in an hour: one each ten seconds."""
AT_ONCE = 6
KILLS = int(os.environ.get("ALARM_KILLS", "4"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))


@pytest.fixture(scope="module")
def alarming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return over_time(train_small(tmp_path_factory.mktemp("model") / "small"))


def readings(begin: int) -> list[dict[str, Any]]:
    """Readings of one machine, abnormal for the last third of each hour; no two alike, or its sensors would be stuck."""
    rows = []
    for number in range(begin, begin + AT_ONCE):
        values = ABNORMAL if number % HOUR >= 2 * HOUR // 3 else NORMAL
        row = {key: float(value) + (number * 7 % 89) / 100 for key, value in values.items()}
        rows.append(row | {"equipment_id": "m", "timestamp": iso(START + 10.0 * number)})
    return rows


@pytest.mark.parametrize("profile", ["lite"])
def test_an_alarm_keeps_its_id_and_none_is_forgotten_at_whatever_moments_the_component_is_killed(
    make_line: Callable[..., Line], alarming: Path
) -> None:
    random = Random(SEED)
    line = make_line(start=False, model=alarming)
    watch = line.watch("ml/inference/alarm")
    sent = 0

    def send(until: int) -> None:
        nonlocal sent
        while sent < until:
            line.send_json(readings(sent))
            sent += AT_ONCE
            last = iso(START + 10.0 * (sent - 1))
            line.results.until(lambda result, last=last: result["results"][-1]["timestamp"] == last)  # type: ignore[misc]

    for _ in range(KILLS):
        line.start()
        # Some of them around an alarm's opening or closing, where something is to be lost.
        near = random.choice((2 * HOUR // 3 + 6, HOUR + 12, random.randrange(HOUR)))
        send(sent - sent % HOUR + near if sent % HOUR < near else sent - sent % HOUR + HOUR + near)
        for _ in range(random.randrange(1, 4)):
            line.send_json(readings(sent))
            sent += AT_ONCE
        time.sleep(random.uniform(0.0, 0.03))
        line.kill()
    line.start()
    send(sent - sent % HOUR + HOUR + HOUR // 2)
    line.finish()

    told: dict[str, dict[int, dict[str, Any]]] = {}
    for message in watch.here():
        if message["kind"] == "equipment":
            told.setdefault(message["id"], {})[message["sequence"]] = message
    assert told
    alarms = sorted(told.values(), key=lambda events: events[min(events)]["opened"])
    for events in alarms:
        assert sorted(events) == list(range(1, len(events) + 1))
        assert [event["event"] for _, event in sorted(events.items())][:: max(1, len(events) - 1)] == [
            "opened",
            "closed",
        ]
    # One for each hour of the story.
    hours = [int((epoch(events[1]["opened"]) - START) // 3_600) for events in alarms]
    assert hours == list(range(sent // HOUR))
