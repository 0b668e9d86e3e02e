"""Series in memory and the history on disk: what comes back, after a restart, too, and that both stay within their bounds."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from inference_dashboard import history as history_module
from inference_dashboard.history import Batch, History, open_history
from inference_dashboard.messages import Alarm, Feature, alarm_of
from inference_dashboard.series import Ring, Summary
from support import told

NOW = 1_790_000_040.0
MINUTE = int(NOW // 60)
LIMIT = 8 * 1024 * 1024


def alarm(identity: str, machine: str = "a", opened: float = NOW, closed: float | None = None, **more: Any) -> Alarm:
    event = "opened" if closed is None else "closed"
    entered = alarm_of(told.alarm(identity, machine, opened, event=event, closed=closed, **more))
    assert entered is not None
    return entered


def test_a_ring_keeps_the_last_samples_in_order_and_one_a_step() -> None:
    ring = Ring(3)
    for second, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        ring.add(NOW + second, (value,))
    ring.add(NOW + 4.5, (5.5,))  # within the step: takes the place of the last one
    ring.add(NOW, (0.0,))  # older than the last one
    assert [(at - NOW, list(values)) for at, values in ring.since(NOW + 2)] == [(3.0, [4.0]), (4.0, [5.5])]
    assert ring.column(0, 10) == [3.0, 4.0, 5.5]


def test_a_ring_grows_wider_with_a_new_sensor() -> None:
    ring = Ring(4)
    ring.add(NOW, (1.0,))
    ring.add(NOW + 1, (2.0, 7.0))
    (_, first), (_, second) = ring.since(0)
    assert first[0] == 1.0
    assert math.isnan(first[1])
    assert list(second) == [2.0, 7.0]


def test_a_minute_is_lowest_mean_and_highest_and_begins_anew() -> None:
    summary = Summary()
    for value in (1.0, 2.0, 6.0):
        summary.add(1, value)
    packed = summary.take()
    assert packed is not None
    assert all(math.isnan(value) for value in packed[:3])
    assert list(packed[3:]) == [1.0, 3.0, 6.0]
    assert summary.take() is None


def test_minutes_come_back_by_machine_and_column_and_are_put_together_for_long_spans(tmp_path: Path) -> None:
    history, _ = open_history(tmp_path / "h" / "dashboard.sqlite", LIMIT, NOW)
    for offset in range(10):
        records = {number: array("f", [offset, offset + number, offset + 9, 1, 1, 1]) for number in (1, 17)}
        history.write(Batch(minute=MINUTE + offset, records=records))
    times, (score, missing) = history.minutes(17, NOW, NOW + 599, [0, 5], points=100)
    assert [time - 60 * MINUTE for time in times] == [60 * offset + 30 for offset in range(10)]
    assert score[3] == (3.0, 20.0, 12.0)
    assert set(missing) == {None}
    _, (coarse,) = history.minutes(1, NOW, NOW + 599, [0], points=3)
    assert len(coarse) in (3, 4)
    assert min(triple[0] for triple in coarse if triple) == 0.0
    assert max(triple[2] for triple in coarse if triple) == 18.0


def test_after_a_restart_machines_columns_features_and_open_alarms_are_there(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.sqlite"
    history, _ = open_history(path, LIMIT, NOW)
    facts = {"columns": ["x"], "features": [Feature("x", "A", low=1.0, high=2.0).as_json()], "model": "m 1"}
    machines = [(3, "<b>", NOW, {"state": "normal"}), (4, "gone", NOW - 40 * 86_400, {})]
    alarms = [alarm("open", sensor="x", kind="sensor", reason="stuck"), alarm("done", closed=NOW + 5)]
    history.write(Batch(machines=list(machines), alarms=alarms, facts=facts))
    history.close()
    _, restored = open_history(path, LIMIT, NOW + 60)
    assert restored.machines == [(3, "<b>", {"state": "normal"})]
    assert restored.columns == ["x"]
    assert restored.features == [Feature("x", "A", low=1.0, high=2.0)]
    assert restored.model == "m 1"
    assert restored.open_alarms == [alarms[0]]


def test_alarms_are_found_by_machine_kind_state_and_time(tmp_path: Path) -> None:
    history, _ = open_history(tmp_path / "dashboard.sqlite", LIMIT, NOW)
    history.write(
        Batch(
            alarms=[
                alarm("1", "a", NOW - 1000, NOW - 900),
                alarm("2", "b", NOW - 500),
                alarm("3", "a", NOW - 100, kind="sensor", sensor="x", reason="stuck"),
            ]
        )
    )

    def found(**conditions: object) -> list[str]:
        return [entry["id"] for entry in history.alarms(**conditions)]  # type: ignore[arg-type]

    assert found() == ["3", "2", "1"]
    assert found(machine="a") == ["3", "1"]
    assert found(kind="sensor") == ["3"]
    assert found(state="open") == ["3", "2"]
    assert found(state="closed") == ["1"]
    assert found(begin=NOW - 800) == ["3", "2"]
    assert found(limit=1) == ["3"]


def test_the_file_stays_within_its_bound_and_the_oldest_minutes_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "ALARM_ROOM_BYTES", 0)
    path = tmp_path / "dashboard.sqlite"
    history = History(path, 400_000)
    for offset in range(200):
        history.write(Batch(minute=MINUTE + offset, records={n: array("f", [1.0] * 21) for n in range(1, 60)}))
    assert history.size_bytes < 420_000
    assert path.stat().st_size < 600_000
    times, _ = history.minutes(1, NOW, NOW + 200 * 60, [0], points=1000)
    assert 20 < len(times) < 199
    assert times[-1] == 60 * (MINUTE + 199) + 30


@pytest.mark.parametrize("damage", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_put_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "dashboard.sqlite"
    path.write_bytes(damage)
    history, restored = open_history(path, LIMIT, NOW)
    assert restored.machines == []
    history.write(Batch(minute=MINUTE, records={1: array("f", [1, 2, 3])}))
    assert (tmp_path / "dashboard.damaged").read_bytes() == damage


def test_contents_of_another_kind_are_put_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.sqlite"
    history, _ = open_history(path, LIMIT, NOW)
    history.write(Batch(facts={"columns": 3}))
    history.close()
    _, restored = open_history(path, LIMIT, NOW)
    assert restored.columns == []
    assert (tmp_path / "dashboard.damaged").exists()
