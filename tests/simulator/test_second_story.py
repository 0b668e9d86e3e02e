"""The second story: rarer faults, some of which stop, labels as people give them, shifts, other products and sensors."""

from datetime import datetime, timedelta
from statistics import median

import numpy as np
import pytest

from sensor_simulator import LABEL, SENSORS, START, Fleet, Truth, many

DAY_S, HOUR_S = 86_400.0, 3_600.0
WEEKS = 12
STEP_S = 3600.0


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(machines=40, seed=5, story=2)


@pytest.fixture(scope="module")
def truths(fleet: Fleet) -> list[Truth]:
    return fleet.truth(seconds=7 * WEEKS * DAY_S, step=STEP_S)


@pytest.fixture(scope="module")
def readings(fleet: Fleet) -> dict[str, many.Readings]:
    count = round(7 * WEEKS * DAY_S / STEP_S)
    return {machine.equipment_id: many.read(machine, count=count, step=STEP_S) for machine in fleet.machines}


def test_faults_are_rarer(truths: list[Truth]) -> None:
    first = Fleet(machines=40, seed=5).truth(seconds=7 * WEEKS * DAY_S, step=STEP_S)
    assert 40 < len(truths) < len(first) / 3


def test_some_faults_begin_and_do_not_go_on(truths: list[Truth]) -> None:
    stopped = [truth for truth in truths if truth.label is None]
    assert 0.15 < len(stopped) / len(truths) < 0.45
    assert all(truth.labelled is None for truth in stopped)


def test_people_label_late_and_sometimes_never(truths: list[Truth]) -> None:
    called = [truth for truth in truths if truth.label is not None]
    labelled = [truth for truth in called if truth.labelled is not None]
    assert 0.0 < 1.0 - len(labelled) / len(called) < 0.3
    delays = [(truth.labelled - truth.label).total_seconds() for truth in labelled if truth.labelled and truth.label]
    assert min(delays) > 0.0
    assert 0.5 * HOUR_S < median(delays) < 4 * HOUR_S


def test_the_label_of_the_rows_is_what_people_gave(truths: list[Truth], readings: dict[str, many.Readings]) -> None:
    def at(moment: datetime) -> int:
        return max(0, int((moment - START).total_seconds() // STEP_S) + 1)

    needless = 0
    for machine, series in readings.items():
        free = series.abnormal.copy()
        for truth in truths:
            if truth.equipment_id == machine and truth.labelled is not None and truth.labelled < truth.repair:
                assert series.abnormal[at(truth.labelled) : at(truth.repair)].all()
                free[at(truth.labelled) - 1 : at(truth.repair + timedelta(hours=6))] = False
        needless += int(free.sum())
    assert needless > 0


def test_lines_work_in_shifts_and_rest_at_the_weekend(readings: dict[str, many.Readings]) -> None:
    hours = np.arange(len(next(iter(readings.values())).values)) * STEP_S / 3600.0
    night, weekend = hours % 24 < 4, hours // 24 % 7 == 6
    standing = {name: series.values[:, SENSORS.index("wEncoderVelocity")] == 0.0 for name, series in readings.items()}
    resting = [name for name, still in standing.items() if still[weekend].mean() > 0.99 and still[night].mean() > 0.99]
    always = [name for name, still in standing.items() if still.mean() < 0.2]
    assert len(resting) > 15
    assert len(always) > 3


def test_products_and_sensors_change_for_good(readings: dict[str, many.Readings]) -> None:
    moved = []
    for series in readings.values():
        load = series.values[:, SENSORS.index("wCurrentLoad")].reshape(WEEKS, -1)
        weeks = [np.median(week[week > 20.0]) for week in load]
        moved.append(max(weeks) / min(weeks))
    assert median(moved) > 1.05
    exchanged = [
        sum(1 for _ in machine.instruments.exchanged.until(365 * DAY_S))
        for machine in Fleet(machines=5, seed=1, story=2).machines
    ]
    assert all(count > 3 for count in exchanged)


def test_a_story_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="3 is not a story"):
        Fleet(story=3)


def test_labels_are_numbers_in_both_stories() -> None:
    assert {type(row[LABEL]) for row in Fleet(machines=1, story=2).rows(seconds=5)} == {float}
