"""What the messages of the line make of it: states, alarms, sensors, bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_dashboard import line as line_module
from inference_dashboard.line import Kind, Line
from support import told

NOW = 1_790_000_000.0
HOSTILE = (
    b"",
    b"null",
    b"[]",
    b"[null, 3, [], {}]",
    b"not json",
    b"\xff\xfe",
    b'{"id": 7}',
    b'{"id": "x", "opened": {}}',
    b'{"equipment_id": [], "score": [], "explanation": {"a": 1}, "sensors": [1], "missing": 3, "threshold": "x"}',
    b'{"equipment_id": "a", "score": NaN, "smoothed_score": Infinity, "state": 3, "correlation_id": Infinity}',
    b'{"equipment_id": "\\ud800", "score": 1e999, "timestamp": 1e300}',
    b'{"state": "running", "counters": {"received": NaN, "x": {"y": {"z": {"w": {}}}}}, "model": 3}',
    b'{"features": [1, {"name": 3}, {"name": "x", "minimum": "y"}], "part": -3, "parts": 1e9}',
    b'{"errors": {"loc": 1}, "equipment_id": 3}',
    b'{"errors": [{"loc": [[1]], "msg": null}, 3]}',
    b"[" * 100_000,
    b'{"timestamp": "0001-01-01T00:00:00+23:59", "equipment_id": "b", "score": 0.5}',
    json.dumps({"equipment_id": "x" * 10_000, "score": 0.1, "state": "y" * 10_000}).encode(),
    json.dumps({f"key-{number}": number for number in range(1000)} | {"equipment_id": "b"}).encode(),
)


class Told:
    """A line, and messages for it."""

    def __init__(self) -> None:
        self.now = NOW
        self.line = Line(lambda: self.now)

    def take(self, kind: Kind, *documents: Any) -> None:
        for document in documents:
            self.line.take(kind, told.payload(document), self.now)

    def tile(self, machine: str = "a") -> dict[str, Any]:
        return self.line.tile(self.line.machines[machine], spark=True)


@pytest.fixture
def line() -> Told:
    return Told()


def test_a_result_makes_a_machine_known_and_later_ones_move_its_score(line: Told) -> None:
    line.take("result", told.result("a", NOW, 0.1, smoothed=0.08))
    line.now += 1
    line.take("result", told.result("a", NOW + 1, 0.2, smoothed=0.12))
    tile = line.tile()
    assert (tile["mood"], tile["smoothed"], tile["score"]) == ("normal", 0.12, 0.2)
    assert tile["spark"] == pytest.approx([0.08, 0.12], rel=1e-4)


def test_a_batch_is_its_results_without_those_that_were_rejected(line: Told) -> None:
    rejected = {"equipment_id": "c", "index": 1, "error": {"errors": []}}
    line.take("result", {"results": [told.result("a", NOW), rejected, told.result("b", NOW)], "correlation_id": "x"})
    assert sorted(line.line.machines) == ["a", "b"]


def test_a_score_without_smoothing_stands_in_for_the_smoothed_one_and_a_list_of_scores_for_none(line: Told) -> None:
    plain = told.result("a", NOW, 0.2)
    del plain["smoothed_score"]
    line.take("result", plain, told.result("b", NOW) | {"score": [0.2, 0.8], "smoothed_score": None})
    assert line.tile("a")["smoothed"] == 0.2
    assert line.tile("b")["smoothed"] is None


def test_an_alarm_is_opened_updated_and_closed_once_however_often_its_events_come(line: Told) -> None:
    opened = told.alarm("x", "a", NOW)
    updated = told.alarm("x", "a", NOW, sequence=2, event="updated", peak_score=0.99)
    closed = told.alarm("x", "a", NOW, sequence=3, event="closed", closed=NOW + 60)
    line.take("alarm", opened, opened, updated, opened)
    assert line.tile()["mood"] == "abnormal"
    assert [alarm["peak"] for alarm in line.tile()["alarms"]] == [0.99]
    line.take("alarm", closed, updated, closed)
    assert "alarms" not in line.tile()
    assert (line.line.counts.opened["equipment"], line.line.counts.closed["equipment"]) == (1, 1)
    assert [event for event, _ in line.line.news] == ["opened", "closed"]


def test_a_machine_says_the_gravest_of_what_holds(line: Told) -> None:
    line.take("result", told.result("a", NOW, sensors={"wRMSCurrent": "stuck"}))
    assert line.tile()["mood"] == "sensor"
    line.take("alarm", told.alarm("s", "a", NOW, kind="silence"))
    assert line.tile()["mood"] == "silent"
    line.take("alarm", told.alarm("e", "a", NOW))
    assert line.tile()["mood"] == "abnormal"


def test_results_that_contradict_an_open_alarm_for_long_end_it(line: Told) -> None:
    line.take("alarm", told.alarm("e", "a", NOW), told.alarm("s", "a", NOW, kind="sensor", sensor="wRMSCurrent"))
    for second in range(20):
        line.now = NOW + second
        line.take("result", told.result("a", line.now, sensors={"wRMSCurrent": "stuck"}))
        if second == 10:
            assert len(line.tile()["alarms"]) == 2
    (left,) = line.tile()["alarms"]
    assert left["id"] == "s"
    (ended,) = [alarm for event, alarm in line.line.news if event == "closed"]
    assert (ended.id, ended.presumed, ended.closed) == ("e", True, NOW)


def test_reasons_stay_with_an_abnormal_machine_and_go_with_its_recovery(line: Told) -> None:
    line.take("result", told.result("a", NOW, 0.9))
    line.take("result", told.result("a", NOW + 1, 0.8, explanation=[]))
    assert line.tile()["reasons"][0]["feature"] == "rVibration_Z_RMS_Velocity"
    line.take("result", told.result("a", NOW + 2, 0.1))
    assert "reasons" not in line.tile()


def test_sensors_come_from_the_model_in_its_order_once_it_is_known_and_impossible_values_are_left_out(
    line: Told,
) -> None:
    line.take("result", told.result("a", NOW))
    line.take("reading", told.reading("a", NOW, batchNumber=4))
    assert "batchNumber" in [feature.name for feature in line.line.shown_features()]
    line.take("health", told.features())
    assert [feature.name for feature in line.line.shown_features()] == list(told.SENSORS)
    line.now += 1
    line.take("reading", told.reading("a", NOW + 1, wRMSCurrent=1e9))
    (_, _), (_, last) = line.line.machines["a"].readings.since(0)
    assert last[line.line.columns["wRMSCurrent"]] != last[line.line.columns["wRMSCurrent"]]  # NaN
    assert last[line.line.columns["wCurrentLoad"]] == pytest.approx(102.9)


def test_features_that_come_in_parts_count_when_all_are_there(line: Told) -> None:
    names = list(told.SENSORS)
    line.take("health", told.features(2, 2, names[3:]))
    assert not line.line.features
    line.take("health", told.features(1, 2, names[:3]))
    assert list(line.line.features) == names


def test_the_time_between_a_reading_and_its_result_is_measured(line: Told) -> None:
    line.take("reading", told.reading("a", NOW, "k1"))
    line.now += 0.02
    line.take("result", told.result("a", NOW, key="k1"))
    line.take("result", told.result("a", NOW, key="nobody asked"))
    assert sum(line.line.counts.latency) == 1
    assert line.line.counts.latency_total == pytest.approx(0.02)


def test_a_message_with_a_clock_that_is_wrong_counts_at_its_arrival(line: Told) -> None:
    for at in (NOW + 86_400, NOW - 86_400):
        line.take("result", told.result("a", at))
        line.now += 1
    assert [at for at, _ in line.line.machines["a"].scores.since(0)] == [NOW, NOW + 1]


def test_whatever_comes_nothing_raises_and_what_goes_out_is_json(line: Told) -> None:
    kinds: tuple[Kind, ...] = ("reading", "result", "alarm", "error", "health")
    line.take("result", told.result("b", NOW))
    for kind in kinds:
        for payload in HOSTILE:
            line.line.take(kind, payload, NOW)
    line.line.advance()
    tiles = [line.line.tile(machine, spark=True) for machine in line.line.machines.values()]
    text = json.dumps([tiles, line.line.system(), line.line.moved_since(0)], allow_nan=False)
    assert len(text) < 30_000
    assert len(line.line.columns) <= line_module.MAX_COLUMNS


def test_machines_beyond_the_bound_are_counted_not_kept(line: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "MAX_MACHINES", 3)
    line.take("result", *(told.result(str(number), NOW) for number in range(5)))
    assert len(line.line.machines) == 3
    assert line.line.counts.not_shown == 2


def test_a_tick_tells_what_changed_in_it_and_nothing_else(line: Told) -> None:
    line.take("result", told.result("a", NOW), told.result("b", NOW))
    first = line.line.advance()
    line.take("result", told.result("a", NOW + 1, 0.06))
    second = line.line.advance()
    assert [moved[0] for moved in line.line.moved_since(first)] == [line.line.machines["a"].number]
    assert line.line.changed_since(first) == []
    line.take("alarm", told.alarm("x", "b", NOW))
    line.line.advance()
    assert [tile["name"] for tile in line.line.changed_since(second)] == ["b"]
