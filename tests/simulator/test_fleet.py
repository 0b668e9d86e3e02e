"""Several machines over time: determinism, the rate of rows, and how ordinary operation looks."""

import itertools
from datetime import datetime, timedelta, timezone
from statistics import median, quantiles

import numpy as np
import pytest

from sensor_simulator import COLUMNS, LABEL, SENSORS, UNITS, Fleet

DAY_S = 86_400.0
PUBLISHED = (69.71, 89.42, 50.58, 106.94, 107.94, 25.88)


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = (list(Fleet(machines=3, seed=11).rows(seconds=7200, step=60)) for _ in range(2))
    assert first == second


def test_another_seed_tells_another_story() -> None:
    first, second = (list(Fleet(machines=1, seed=seed).rows(seconds=60)) for seed in (1, 2))
    assert first != second


def test_a_seed_means_the_same_on_every_python_and_machine() -> None:
    rows = list(Fleet(machines=2, seed=7).rows(seconds=7 * DAY_S, step=DAY_S))
    assert [rows[-1][sensor] for sensor in SENSORS] == [73.61, 101.14, 56.19, 113.72, 114.29, 25.25]


def test_a_machine_is_the_same_in_a_fleet_of_any_size() -> None:
    alone = list(Fleet(machines=1, seed=4).rows(seconds=600))
    among = [row for row in Fleet(machines=5, seed=4).rows(seconds=600) if row["equipment_id"] == "cylinder-1"]
    assert alone == among


def test_machines_differ() -> None:
    rows = list(Fleet(machines=6, seed=4, fault_rate=0.0).rows(seconds=5 * DAY_S, step=600))
    means = {
        f"cylinder-{number}": median(
            float(row["rVibration_Z_RMS_Velocity"]) for row in rows if row["equipment_id"] == f"cylinder-{number}"
        )
        for number in range(1, 7)
    }
    assert max(means.values()) > 1.05 * min(means.values())


def test_every_machine_gives_a_row_a_step_in_the_order_of_time() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    rows = list(Fleet(machines=3, seed=1).rows(seconds=10, step=0.5, start=start))
    assert [row["equipment_id"] for row in rows] == ["cylinder-1", "cylinder-2", "cylinder-3"] * 20
    stamps = [datetime.fromisoformat(str(row["timestamp"]).replace("Z", "+00:00")) for row in rows]
    assert stamps == [start + timedelta(seconds=0.5 * count) for count in range(20) for _ in range(3)]
    assert rows[3]["timestamp"] == "2026-03-01T12:00:00.500Z"


def test_a_row_has_the_documented_columns() -> None:
    row = next(Fleet(machines=1).rows(seconds=1))
    assert tuple(row) == COLUMNS
    assert tuple(UNITS) == SENSORS


def test_a_second_call_goes_on_where_the_first_ended() -> None:
    whole = [tuple(row[key] for key in SENSORS) for row in Fleet(machines=2, seed=9).rows(seconds=20)]
    fleet = Fleet(machines=2, seed=9)
    parts = [tuple(row[key] for key in SENSORS) for _ in range(2) for row in fleet.rows(seconds=10)]
    assert parts == whole


def test_episodes_do_not_depend_on_the_rate_of_readings() -> None:
    def told(step: float) -> dict[tuple[object, object], tuple[object, object]]:
        # The first reading comes one step into the story: shift the stamps so that equal ones mean equal story time.
        start = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=step)
        rows = Fleet(machines=3, seed=2, fault_rate=1.0).rows(seconds=6 * DAY_S, step=step, start=start)
        return {(row["equipment_id"], row["timestamp"]): (row["episode"], row[LABEL]) for row in rows}

    fine, coarse = told(600.0), told(3600.0)
    assert len(coarse) == 3 * 24 * 6
    assert coarse == {key: fine[key] for key in coarse}
    assert len(set(coarse.values())) > 10


def test_an_accelerated_story_is_the_same_story_in_less_time() -> None:
    def told(accelerate: float) -> list[tuple[object, object]]:
        fleet = Fleet(machines=3, seed=2, fault_rate=1.0, accelerate=accelerate)
        rows = fleet.rows(seconds=3 * DAY_S / accelerate, step=1800.0 / accelerate)
        return [(row["episode"], row[LABEL]) for row in rows]

    assert told(1800.0) == told(1.0)
    assert len(set(told(1800.0))) > 5


def test_abnormal_readings_are_few() -> None:
    rows = list(Fleet(machines=40, seed=7).rows(seconds=21 * DAY_S, step=3600))
    assert 0.04 < sum(float(row[LABEL]) for row in rows) / len(rows) < 0.10


def test_readings_stay_within_the_registers_and_two_decimals() -> None:
    for row in Fleet(machines=4, seed=3, fault_rate=3.0).rows(seconds=10 * DAY_S, step=1200):
        for sensor in SENSORS:
            value = float(row[sensor])
            assert value == round(value, 2)
            assert -327.68 <= value <= 655.35


def test_the_published_reading_is_in_the_middle_of_ordinary_operation() -> None:
    rows = [
        tuple(float(row[sensor]) for sensor in SENSORS)
        for row in Fleet(machines=12, seed=7, fault_rate=0.0).rows(seconds=7 * DAY_S, step=600)
        if float(row["wEncoderVelocity"]) > 1.0
    ]
    for column, value in zip(zip(*rows, strict=True), PUBLISHED, strict=True):
        quarters = quantiles(column, n=10)
        assert quarters[1] < value < quarters[7]
    # Not only each value by itself: the six together, too.
    table = np.array(rows)
    center, inverse = table.mean(axis=0), np.linalg.inv(np.cov(table.T))
    distances = np.einsum("ij,jk,ik->i", table - center, inverse, table - center)
    offset = np.array(PUBLISHED) - center
    assert offset @ inverse @ offset < np.quantile(distances, 0.75)


def test_machines_pause_and_start_cold() -> None:
    rows = list(Fleet(machines=6, seed=7, fault_rate=0.0).rows(seconds=4 * DAY_S, step=120))
    standing = [row for row in rows if row["wEncoderVelocity"] == 0.0]
    assert 0.01 < len(standing) / len(rows) < 0.12
    by_machine = itertools.groupby(sorted(rows, key=lambda row: str(row["equipment_id"])), lambda r: r["equipment_id"])
    starts = [
        float(now["rVibration_Temp"])
        for _, own in by_machine
        for before, now in itertools.pairwise(own)
        if before["wEncoderVelocity"] == 0.0 and now["wEncoderVelocity"] != 0.0
    ]
    assert len(starts) > 20
    assert min(starts) < 50.0


@pytest.mark.parametrize("sensor", SENSORS)
def test_healthy_readings_vary(sensor: str) -> None:
    values = [float(row[sensor]) for row in Fleet(machines=1, seed=7, fault_rate=0.0).rows(seconds=120)]
    assert len(set(values)) > 60
