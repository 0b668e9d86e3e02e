"""Broken sensors: what each kind reports, when they come, and that the truth tells of them."""

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from sensor_simulator import COLUMNS, SENSORS, Fleet, SensorFault, Truth
from sensor_simulator.fleet import SENSOR_FAULT, Row

DAY_S = 86_400.0
STEP_S = 1200.0


def told(**story: Any) -> tuple[list[Row], list[Row], list[Truth]]:
    """Rows with broken sensors, the same rows without, and the truth."""
    common: dict[str, Any] = {"machines": 3, "seed": 21, "fault_rate": 0.3}
    fleet, sound = Fleet(**common | {"sensor_fault_rate": 1.0} | story), Fleet(**common)
    seconds = 12 * DAY_S
    truths = fleet.truth(seconds=seconds, step=STEP_S)
    return list(fleet.rows(seconds=seconds, step=STEP_S)), list(sound.rows(seconds=seconds, step=STEP_S)), truths


def stamp(row: Row) -> datetime:
    return datetime.fromisoformat(str(row["timestamp"]).replace("Z", "+00:00"))


def within(rows: list[Row], truth: Truth) -> list[Row]:
    return [
        row for row in rows if row["equipment_id"] == truth.equipment_id and truth.onset <= stamp(row) < truth.repair
    ]


@pytest.mark.parametrize("kind", list(SensorFault))
def test_one_sensor_lies_as_its_fault_does_and_nothing_else_changes(kind: SensorFault) -> None:
    rows, sound, truths = told(sensor_fault=kind.value)
    broken = [truth for truth in truths if truth.episode.split("/")[1].startswith("sensor-")]
    assert len(broken) > 10
    assert {truth.fault for truth in broken} == {kind.value}
    assert len({truth.sensors for truth in broken}) > 3
    for truth in broken:
        assert truth.kind == "sensor"
        (sensor,) = truth.sensors
        lies, facts = within(rows, truth), within(sound, truth)
        assert [row[SENSOR_FAULT] for row in lies] == [kind.value] * len(lies)
        values = [float(row[sensor]) for row in lies]
        true = [float(row[sensor]) for row in facts]
        if kind is SensorFault.STUCK:
            before = [row for row in sound if row["equipment_id"] == truth.equipment_id and stamp(row) < truth.onset]
            assert set(values) == {before[-1][sensor]}
        elif kind is SensorFault.DEAD:
            assert set(values) == {0.0}
        elif kind is SensorFault.SATURATED:
            assert values[0] in ((155.0, 327.67) if sensor == "rVibration_Temp" else (655.35,))
            assert len(set(values)) == 1
        elif kind is SensorFault.SCALED:
            large = [(lie, fact) for lie, fact in zip(values, true, strict=True) if fact > 1.0 and lie < 327.0]
            factor = large[0][0] / large[0][1]
            assert 0.4 < factor < 0.8 or 1.3 < factor < 2.1
            assert all(lie == pytest.approx(factor * fact, rel=0.01) for lie, fact in large)
        else:
            moved = {round(lie - fact, 2) for lie, fact in zip(values, true, strict=True) if lie > 0.0}
            assert len(moved) == 1
        for lie, fact in zip(lies, facts, strict=True):
            assert {key: lie[key] for key in COLUMNS if key != sensor} == {
                key: fact[key] for key in COLUMNS if key != sensor
            }
    told_of = {(truth.equipment_id, truth.episode) for truth in broken}
    assert len(told_of) == len(broken)
    healthy = [pair for pair in zip(rows, sound, strict=True) if pair[0][SENSOR_FAULT] == ""]
    assert len(healthy) > len(rows) / 3
    assert all({key: row[key] for key in COLUMNS} == fact for row, fact in healthy)


def test_a_story_without_broken_sensors_has_no_column_for_them() -> None:
    fleet = Fleet(machines=1)
    assert fleet.columns == COLUMNS == tuple(next(fleet.rows(seconds=1)))


def test_alone_means_beside_no_episode() -> None:
    rows, _, truths = told(sensor_fault_when="alone", fault_rate=0.5)
    assert any(row["episode"] for row in rows)
    assert sum(row[SENSOR_FAULT] != "" for row in rows) > 100
    assert not [row for row in rows if row["episode"] and row[SENSOR_FAULT]]
    ordered = sorted(truths, key=lambda truth: (truth.equipment_id, truth.onset))
    for first, second in pairwise(ordered):
        assert first.equipment_id != second.equipment_id or first.repair <= second.onset


def test_during_means_in_every_episode_of_the_equipment_from_before_its_onset_to_its_repair() -> None:
    rows, _, truths = told(sensor_fault_when="during", fault_rate=0.8)
    broken = [truth for truth in truths if truth.episode.split("/")[1].startswith("sensor-")]
    machines = [truth for truth in truths if truth.kind == "equipment"]
    assert len(broken) == len(machines) > 5
    for truth in machines:
        assert all(row[SENSOR_FAULT] for row in within(rows, truth))
        (sensor,) = [
            other for other in broken if other.equipment_id == truth.equipment_id and other.repair == truth.repair
        ]
        assert sensor.onset <= truth.onset


def test_broken_sensors_are_the_same_at_every_rate_of_readings() -> None:
    def found(step: float) -> list[tuple[str, tuple[str, ...]]]:
        truths = Fleet(machines=2, seed=5, sensor_fault_rate=1.0).truth(seconds=6 * DAY_S, step=step)
        return [(truth.episode, truth.sensors) for truth in truths]

    assert found(60.0) == found(1.0)
    assert len(found(1.0)) > 6


def test_every_sensor_breaks_at_some_time() -> None:
    truths = Fleet(machines=10, seed=5, fault_rate=0.0, sensor_fault_rate=1.0).truth(seconds=12 * DAY_S, step=60.0)
    assert {truth.sensors for truth in truths} == {(sensor,) for sensor in SENSORS}
    assert {truth.fault for truth in truths} == {kind.value for kind in SensorFault}
