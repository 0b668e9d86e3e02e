"""Sensors of one machine set against one another: a machine's faults move them together, a sensor that breaks moves alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import Consistency, MeanReference
from ml_inference.monitoring.consistency import NEW_NORMAL_SECONDS, ConsistencyWatch, Course
from ml_inference.workbench.training.consistency import consistency_of

NAMES = ("current", "load", "vibration", "heat")
USUAL = np.array([100.0, 80.0, 50.0, 60.0])
NOISE = np.array([1.0, 1.0, 1.0, 0.5])
FEATURES = [
    Feature(name=name, means=[MeanReference(window_seconds=14_400.0, mean=mean, spread=1.0, limit=5.0)])
    for name, mean in zip(NAMES, USUAL.tolist(), strict=True)
]
HOUR = 3_600.0
Spoil = Callable[[float, list[float]], list[float]]


def readings(seed: int, hours: float, step: float = 60.0) -> Iterator[tuple[float, list[float]]]:
    """A machine whose load wanders, and jumps with its product; all but the heat follow it at once."""
    random = np.random.default_rng(seed)
    load, product, heat = 0.0, 0.0, 0.0
    for number in range(round(hours * HOUR / step)):
        if number % 180 == 0:
            product = random.normal(0.0, 0.05)
        load += 0.05 * (product - load) + random.normal(0.0, 0.005)
        heat += 0.02 * (load - heat)
        follows = np.array([load, load, load / 2, heat])
        yield number * step, (USUAL * (1.0 + follows) + NOISE * random.normal(size=4)).tolist()


@pytest.fixture(scope="module")
def reference() -> Consistency:
    rows = [(number, at, values) for number in range(4) for at, values in readings(number, 70.0)]
    found = consistency_of(
        FEATURES,
        np.array([values for _, _, values in rows]),
        np.array([number for number, _, _ in rows]),
        np.array([at for _, at, _ in rows]),
        well=np.ones(len(rows), dtype=bool),
    )
    assert found is not None
    return found


def watched(
    reference: Consistency,
    spoil: Spoil,
    hours: float = 6.0,
    step: float = 60.0,
    *,
    repeats: float = 0.0,
    well: bool = True,
) -> list[tuple[float, int, bool]]:
    """Times, columns, and whether these were found broken rather than well again, of a machine spoiled from hour 3 on."""
    watch, course = ConsistencyWatch(reference, FEATURES), Course()
    found = []
    for at, values in readings(99, hours, step):
        given = spoil(at - 3 * HOUR, values) if at >= 3 * HOUR else values
        column = watch.add(course, at, given, [repeats] * 4, well=well)
        if column is not None:
            found.append((at - 3 * HOUR, column, course.broken is not None))
    return found


def scaled(column: int, factor: float, until: float = math.inf) -> Spoil:
    def spoil(after: float, values: list[float]) -> list[float]:
        return [v * factor if at == column and after < until else v for at, v in enumerate(values)]

    return spoil


@pytest.mark.parametrize("step", [5.0, 60.0, 120.0])
@pytest.mark.parametrize(("column", "factor"), [(0, 1.5), (1, 0.7), (2, 1.35), (3, 0.75)])
def test_a_sensor_that_jumps_alone_is_found_within_a_quarter_of_an_hour(
    reference: Consistency, step: float, column: int, factor: float
) -> None:
    found = watched(reference, scaled(column, factor), hours=4.0, step=step)
    assert [(at, broken) for _, at, broken in found] == [(column, True)]
    assert found[0][0] <= 900.0


def test_it_is_well_again_when_it_reads_what_the_others_say(reference: Consistency) -> None:
    found = watched(reference, scaled(0, 1.5, until=HOUR))
    assert [(column, broken) for _, column, broken in found] == [(0, True), (0, False)]
    assert HOUR < found[1][0] <= HOUR + 900.0


def test_what_it_reads_for_days_is_its_new_normal(reference: Consistency) -> None:
    found = watched(reference, lambda _, values: [values[0] + 40.0, *values[1:]], hours=3.0 + 4 * 24, step=120.0)
    assert [(column, broken) for _, column, broken in found] == [(0, True), (0, False)]
    assert found[1][0] - found[0][0] == pytest.approx(NEW_NORMAL_SECONDS, abs=600.0)


def test_a_sensor_that_was_mended_before_anybody_had_found_it_broken_is_not_named(reference: Consistency) -> None:
    def mended(after: float, values: list[float]) -> list[float]:
        return values if after >= HOUR else [values[0] * 1.5, *values[1:]]

    watch, course = ConsistencyWatch(reference, FEATURES), Course()
    for at, values in readings(99, 4.0):  # broken from the beginning
        assert watch.add(course, at, mended(at - HOUR, values), [0.0] * 4) is None


def _all_at_once(after: float, values: list[float]) -> list[float]:
    return [value * 1.3 for value in values]


def _two_over_hours(after: float, values: list[float]) -> list[float]:
    grown = min(after / (10 * HOUR), 1.0)
    return [values[0], values[1], values[2] * (1 + 0.25 * grown), values[3] * (1 + 0.1 * grown)]


def _a_spike(after: float, values: list[float]) -> list[float]:
    return [values[0] * 50.0, *values[1:]] if 600.0 <= after < 700.0 else values


@pytest.mark.parametrize("spoil", [lambda _, values: values, _all_at_once, _two_over_hours, _a_spike])
def test_machines_that_are_well_or_at_fault_and_spikes_are_no_broken_sensors(
    reference: Consistency, spoil: Spoil
) -> None:
    assert watched(reference, spoil, hours=16.0) == []


def test_while_the_machine_is_at_fault_or_a_value_recurs_no_sensor_disagrees(reference: Consistency) -> None:
    assert watched(reference, scaled(0, 1.5), well=False) == []
    assert watched(reference, scaled(0, 1.5), repeats=3.0) == []


def test_a_machine_that_warms_up_or_has_a_gap_is_not_compared(reference: Consistency) -> None:
    watch, course = ConsistencyWatch(reference, FEATURES), Course()
    for at, values in readings(5, 4.0):
        if 2 * HOUR <= at < 2.2 * HOUR:
            assert watch.add(course, at, values, [0.0] * 4, off=True) is None
        else:  # another heat after the pause, and another current
            jump = [values[0] * 1.5, *values[1:3], 30.0] if at >= 2.2 * HOUR else values
            assert watch.add(course, at, jump, [0.0] * 4) is None


def test_too_few_sensors_or_readings_give_no_reference() -> None:
    rows = list(readings(1, 80.0))
    values, seconds = np.array([one for _, one in rows]), np.array([at for at, _ in rows])
    one = np.zeros(len(rows), dtype=int)
    well = np.ones(len(rows), dtype=bool)
    assert consistency_of(FEATURES, values, one, seconds, well=well) is not None
    assert consistency_of(FEATURES[:2], values[:, :2], one, seconds, well=well) is None
    assert consistency_of(FEATURES, values[:900], one[:900], seconds[:900], well=well[:900]) is None
