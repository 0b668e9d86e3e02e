"""A machine's own past: the same by readings and by tables, and what is and is not learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_inference.model.history import BASELINE_STEPS, STATISTICS, History, HistoryError, Plan
from ml_inference.model.over_time import Statistic
from ml_inference.workbench.training import history
from ml_inference.workbench.training.history import (
    default_plan,
    history_table,
    order_of_arrival,
    usual_windows,
    window_text,
)

HOUR, DAY = 3_600.0, 86_400.0
FEATURES = ("temperature", "current", "speed")


def plan(*windows: float, statistics: Sequence[Statistic] = STATISTICS) -> Plan:
    return Plan.of(default_plan(FEATURES, windows or (HOUR, 6 * HOUR), statistics=statistics), FEATURES)


def column(plan_: Plan, source: str, statistic: str, window: float = HOUR) -> int:
    found = [f"{one.source} {one.statistic} {one.window_seconds}" for one in plan_.derived]
    return found.index(f"{source} {statistic} {window}")


def every(seconds: float, count: int) -> npt.NDArray[np.float64]:
    passed: npt.NDArray[np.float64] = seconds * np.arange(count, dtype=np.float64)
    return passed


def one_by_one(plan_: Plan, rows: Any, machines: Any, seconds: Any, learn: Any) -> npt.NDArray[np.float64]:
    device = History(plan_)
    return np.array(
        [
            device.update(str(machine), time, row, counts=bool(said))
            for machine, time, row, said in zip(machines, seconds, rows, learn, strict=True)
        ]
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[Any, ...]:
    """Machines with irregular readings, gaps, late and repeated ones, off-time, missing values and missing times."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 250))
    usual = draw(st.sampled_from([1.0, 60.0, 600.0, 3_000.0]))
    machines = random.integers(0, draw(st.integers(1, 4)), count)
    seconds = 1.7e9 + np.cumsum(random.exponential(usual, count))
    gaps = random.random(count) < draw(st.sampled_from([0.0, 0.02]))
    seconds += np.cumsum(np.where(gaps, random.exponential(2 * DAY, count), 0.0))
    late = random.random(count) < draw(st.sampled_from([0.0, 0.1]))
    seconds[late] -= random.exponential(10 * usual, int(late.sum()))
    repeated = np.flatnonzero(random.random(count) < draw(st.sampled_from([0.0, 0.1])))
    seconds[repeated] = seconds[np.maximum(repeated - 1, 0)]
    if draw(st.booleans()):  # a clock that was set back
        seconds[count // 2 :] -= 40 * usual
    seconds[random.random(count) < draw(st.sampled_from([0.0, 0.05]))] = np.nan
    size = draw(st.sampled_from([1e-3, 1.0, 1e5]))
    rows = size * (50.0 + random.normal(0.0, 3.0, (count, 3)) + np.linspace(0.0, 10.0, count)[:, None])
    rows[:, 2] = size * 7.0
    rows[random.random(rows.shape) < draw(st.sampled_from([0.0, 0.05]))] = np.nan
    learn = random.random(count) >= draw(st.sampled_from([0.0, 0.3]))
    return rows, machines, seconds, learn


def assert_same(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
    assert np.array_equal(np.isnan(left), np.isnan(right))
    # What is the difference of two nearly equal means is compared on the scale of the column.
    scale = np.nanmax(np.abs(left), axis=0, initial=0.0)
    assert np.all(np.isnan(left) | (np.abs(left - right) <= 1e-6 * np.abs(left) + 1e-9 * scale))


@settings(max_examples=25)
@given(tables())
def test_a_table_and_single_readings_give_the_same(table: tuple[Any, ...]) -> None:
    rows, machines, seconds, learn = table
    expected = one_by_one(plan(), rows, machines, seconds.tolist(), learn)
    actual = history_table(rows, machines, seconds, plan(), running=learn, dtype=np.float64)
    assert_same(expected, actual)


@pytest.mark.parametrize("lanes", [1, 7, 200])
def test_however_a_table_is_cut_the_result_is_the_same(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    rows, machines = random.normal(50.0, 3.0, (1_500, 3)), random.integers(0, 3, 1_500)
    rows[random.random(rows.shape) < 0.03] = np.nan
    seconds = np.cumsum(random.exponential(400.0, 1_500))
    expected = one_by_one(plan(), rows, machines, seconds, np.full(1_500, True))
    monkeypatch.setattr(history, "_LANES", lanes)
    assert_same(expected, history_table(rows, machines, seconds, plan(), dtype=np.float64))


@settings(max_examples=10)
@given(tables(), st.integers(2, 40))
def test_a_batch_gives_what_its_readings_give_one_by_one(table: tuple[Any, ...], size: int) -> None:
    rows, machines, seconds, learn = table
    expected = one_by_one(plan(), rows, machines, seconds.tolist(), learn)
    device = History(plan())
    parts = [slice(at, at + size) for at in range(0, len(rows), size)]
    actual = [
        device.update_many([str(one) for one in machines[part]], seconds[part].tolist(), rows[part], learn[part])
        for part in parts
    ]
    assert np.array_equal(expected, np.concatenate(actual), equal_nan=True)


@settings(max_examples=10)
@given(tables(), st.floats(0.0, 1.0))
def test_a_restart_changes_nothing(table: tuple[Any, ...], share: float) -> None:
    rows, machines, seconds, learn = table
    cut = int(share * len(rows))
    expected = one_by_one(plan(), rows, machines, seconds.tolist(), learn)[cut:]
    before, after = History(plan()), History(plan())
    names = [str(one) for one in machines]
    before.update_many(names[:cut], seconds[:cut].tolist(), rows[:cut], learn[:cut]) if cut else None
    after.restore(before.state())
    actual = [after.update(names[at], seconds[at], rows[at], counts=bool(learn[at])) for at in range(cut, len(rows))]
    assert np.array_equal(expected, np.array(actual).reshape(expected.shape), equal_nan=True)


def test_a_table_of_float32_is_what_a_device_sees() -> None:
    random = np.random.default_rng(6)
    rows, seconds = random.normal(70.0, 0.01, (700, 3)).round(2), every(60.0, 700)
    device = History(plan()).update_many(["m"] * 700, seconds.tolist(), rows.tolist())
    table = history_table(rows.astype(np.float32), np.zeros(700, int), seconds, plan(), dtype=np.float64)
    assert_same(device, table)


def test_a_table_with_late_readings_is_in_the_order_of_arrival_and_a_reversed_one_is_not() -> None:
    machine, seconds = np.tile([0, 1], 50), np.repeat(np.arange(50.0), 2)
    seconds[40:46] -= 20.0
    assert order_of_arrival(machine, seconds) is None
    backwards = order_of_arrival(machine[::-1], seconds[::-1])
    assert backwards is not None
    assert np.all(np.diff(seconds[::-1][backwards]) >= 0)


def test_thinning_leaves_the_rows_that_stay_as_they_were() -> None:
    random = np.random.default_rng(2)
    rows, machines = random.normal(50.0, 3.0, (900, 3)), random.integers(0, 2, 900)
    seconds = np.cumsum(random.exponential(100.0, 900)) - 500.0 * (random.random(900) < 0.1)
    keep = random.random(900) < 0.1
    whole = history_table(rows, machines, seconds, plan())
    assert np.array_equal(whole[keep], history_table(rows, machines, seconds, plan(), keep=keep), equal_nan=True)


def test_the_moments_of_regular_readings_are_those_of_the_textbook() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, 300).astype(np.float32).astype(float)
    plan_ = plan(HOUR, statistics=("mean", "std"))
    table = history_table(np.column_stack([values] * 3), np.zeros(300, int), every(60.0, 300), plan_, dtype=np.float64)
    weights = np.exp(-60.0 / HOUR) ** np.arange(298, -1, -1)
    mean = np.average(values[1:], weights=weights)
    assert table[-1, column(plan_, "current", "mean")] == pytest.approx(mean, rel=1e-12)
    std = math.sqrt(np.average((values[1:] - mean) ** 2, weights=weights))
    assert table[-1, column(plan_, "current", "std")] == pytest.approx(std, rel=1e-12)


def test_the_slope_of_a_ramp_is_its_rise_over_three_quarters_of_the_window() -> None:
    plan_ = plan(HOUR, statistics=("slope",))
    seconds = every(10.0, 10_000)
    table = history_table(np.column_stack([0.01 * seconds] * 3), np.zeros(10_000, int), seconds, plan_)
    assert table[-1, 0] == pytest.approx(0.01 * 0.75 * HOUR, rel=1e-3)


def test_before_a_machine_has_a_past_its_features_are_missing() -> None:
    plan_ = plan()
    device = History(plan_)
    rows = [device.update("m", 60.0 * at, [50.0, 10.0, 7.0]) for at in range(600)]
    hour, six = column(plan_, "current", "mean"), column(plan_, "current", "mean", 6 * HOUR)
    assert all(math.isnan(value) for value in rows[0])
    known_after = math.ceil(math.log(2.0) * 60)
    assert [math.isnan(row[hour]) for row in rows].index(False) == known_after
    assert [math.isnan(row[six]) for row in rows].index(False) == 1 + math.floor(math.log(2.0) * 360)
    assert rows[-1][hour] == pytest.approx(10.0)


def test_after_a_long_gap_the_windows_are_missing_and_the_baseline_is_not() -> None:
    plan_ = plan()
    device = History(plan_)
    for at in range(3_000):
        device.update("m", 60.0 * at, [50.0, 10.0 + at % 2, 7.0])
    gap = 60.0 * 3_000 + 3 * DAY
    first = device.update("m", gap, [50.0, 10.0, 7.0])
    assert math.isnan(first[column(plan_, "current", "mean", HOUR)])
    for at in range(1, 120):
        later = device.update("m", gap + 60.0 * at, [50.0, 10.0 + at % 2, 7.0])
    assert later[column(plan_, "current", "shift")] == pytest.approx(0.0, abs=0.1)


def test_one_reading_after_a_gap_does_not_stand_for_the_gap() -> None:
    plan_ = plan(HOUR, statistics=("mean",))
    device = History(plan_)
    for at in range(300):
        device.update("m", 60.0 * at, [50.0, 10.0, 7.0])
    described = device.update("m", 60.0 * 300 + 40 * 60.0, [50.0, 110.0, 7.0])
    assert described[column(plan_, "current", "mean")] < 60.0


def test_late_and_repeated_readings_and_those_in_off_time_change_nothing() -> None:
    quiet, disturbed = History(plan()), History(plan())
    for at in range(200):
        time, values = 600.0 * at, [50.0 + at % 5, 10.0, 7.0]
        expected = quiet.update("m", time, values)
        actual = disturbed.update("m", time, values)
        assert np.array_equal(actual, expected, equal_nan=True)
        for late, learn in ((time, True), (time - 30.0, True), (time + 30.0, False), (None, True), (math.nan, True)):
            seen = disturbed.update("m", late, [999.0, 999.0, 999.0], counts=learn)
            assert np.array_equal(seen, expected, equal_nan=True)


def test_a_clock_that_was_set_back_stops_the_past_for_thirty_readings_only() -> None:
    plan_ = plan(HOUR, statistics=("mean",))
    device = History(plan_)
    for at in range(200):
        device.update("m", 1e9 + 60.0 * at, [50.0, 10.0, 7.0])
    means = [device.update("m", 60.0 * at, [50.0, 20.0, 7.0])[column(plan_, "current", "mean")] for at in range(60)]
    assert means[29] == pytest.approx(10.0)
    assert means[30] > 10.1
    assert means[-1] > 13.0


def test_a_missing_value_leaves_its_sensor_alone_and_the_others_go_on() -> None:
    plan_ = plan(HOUR, statistics=("mean",))
    device = History(plan_)
    for at in range(120):
        device.update("m", 60.0 * at, [50.0, 10.0, 7.0])
    for at in range(120, 150):
        described = device.update("m", 60.0 * at, [math.nan, 20.0, 7.0])
    assert described[column(plan_, "temperature", "mean")] == pytest.approx(50.0)
    assert described[column(plan_, "current", "mean")] > 13.0
    for at in range(150, 200):
        described = device.update("m", 60.0 * at, [math.nan, 20.0, 7.0])
    assert math.isnan(described[column(plan_, "temperature", "mean")])


def test_the_baseline_does_not_learn_a_fault_that_grows_over_a_day() -> None:
    random = np.random.default_rng(8)
    minutes = np.arange(16 * 1440)
    product = np.repeat(random.normal(0.0, 3.0, 16 * 8), 180)
    fault = np.clip((minutes - 14 * 1440) / 1440, 0.0, 1.0) * 40.0
    values = 100.0 + product + random.normal(0.0, 1.0, len(minutes)) + fault
    plan_ = plan(HOUR, DAY)
    table = history_table(
        np.column_stack([values] * 3), np.zeros(len(values), int), every(60.0, len(minutes)), plan_, dtype=np.float64
    )
    shift, deviation = column(plan_, "current", "shift"), column(plan_, "current", "deviation")
    end_of_fault = table[-1]
    assert end_of_fault[shift] > 37.0
    assert end_of_fault[deviation] > 8.0
    assert np.nanmax(np.abs(table[: 14 * 1440, deviation])) < 6.0


def test_a_baseline_that_began_in_a_fault_recovers() -> None:
    minutes = np.arange(30 * 1440)
    values = 100.0 + np.random.default_rng(4).normal(0.0, 3.0, 30 * 24).repeat(60) + 30.0 * (minutes < 2 * 1440)
    plan_ = plan(HOUR, DAY)
    table = history_table(
        np.column_stack([values] * 3), np.zeros(len(values), int), every(60.0, len(minutes)), plan_, dtype=np.float64
    )
    shift = table[:, column(plan_, "current", "shift", DAY)]
    assert shift[3 * 1440] < -15.0
    assert abs(shift[-1]) < 6.0


def test_a_sensor_that_never_moves_has_no_deviation() -> None:
    plan_ = plan()
    table = history_table(np.full((4_000, 3), 7.0), np.zeros(4_000, int), every(60.0, 4_000), plan_)
    assert table[-1, column(plan_, "speed", "std")] == 0.0
    assert table[-1, column(plan_, "speed", "deviation")] == 0.0
    zeros = history_table(np.zeros((4_000, 3)), np.zeros(4_000, int), every(60.0, 4_000), plan_)
    assert math.isnan(zeros[-1, column(plan_, "speed", "deviation")])


def test_a_count_of_cycles_is_a_time() -> None:
    machine = np.repeat(np.arange(5), 200)
    cycles = np.tile(np.arange(1.0, 201.0), 5)
    windows = usual_windows(machine, cycles, counted=True)
    assert windows == [5.0, 20.0]
    derived = default_plan(FEATURES, windows, counted=True)
    assert derived[0].name == "temperature std 5"
    table = history_table(np.random.default_rng(1).normal(size=(1_000, 3)), machine, cycles, Plan.of(derived, FEATURES))
    known = ~np.isnan(table).any(axis=1).reshape(5, 200)
    assert known[:, BASELINE_STEPS + 10 :].all()
    assert not known[:, :BASELINE_STEPS].any()


@pytest.mark.parametrize(
    ("gap", "days", "windows"),
    [
        (60.0, 28, [HOUR, 6 * HOUR, DAY]),
        (1.0, 1.5, [HOUR, 6 * HOUR]),
        (3 * HOUR, 90, [6 * HOUR, DAY]),
        (60.0, 0.01, []),
    ],
)
def test_windows_fit_the_length_and_the_rate_of_a_table(gap: float, days: float, windows: list[float]) -> None:
    seconds = np.arange(0.0, days * DAY, gap)
    assert usual_windows(np.zeros(len(seconds), int), seconds) == windows


def test_names_say_source_statistic_and_window() -> None:
    assert [window_text(window) for window in (HOUR, 90.0, 6 * HOUR, DAY, 2 * DAY, 900.0)] == [
        "1h",
        "90s",
        "6h",
        "24h",
        "2d",
        "15min",
    ]


def test_made_up_ids_displace_each_other_and_no_machine_with_a_baseline() -> None:
    device = History(plan(), max_machines=4)
    values = [50.0, 10.0, 7.0]
    for at in range(450):
        for machine in ("one", "two"):
            expected = device.update(machine, 60.0 * at, values)
    for number in range(100):
        device.update_many([f"x{number}", f"y{number}", f"z{number}"], [60.0 * number] * 3, [values] * 3)
    assert len(device) == 4
    for machine in ("one", "two"):
        assert np.array_equal(device.update(machine, 60.0 * 449, values), expected, equal_nan=True)


def test_machines_that_displace_each_other_within_a_batch_are_not_mixed_up() -> None:
    device = History(plan(statistics=("mean",)), max_machines=1)
    for at in range(60, 9_000, 60):
        described = device.update_many(["a", "b"], [float(at)] * 2, [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
        assert np.isnan(described).all()


def test_a_state_of_other_features_or_a_damaged_one_is_refused_and_nothing_changes() -> None:
    device, other = History(plan()), History(plan(2 * HOUR))
    for at in range(200):
        device.update("m", 60.0 * at, [50.0, 10.0, 7.0])
    state = device.state()
    for damaged, reason in (
        (other.state(), "other derived features"),
        (state[:-8], "length"),
        (b"", "damaged"),
        (state.replace(b'["m"]', b'{"m":1}'), "names no machines"),
        (state.replace(b'"format": 1', b'"format": 9'), "format 9"),
    ):
        with pytest.raises(HistoryError, match=reason):
            device.restore(damaged)
    assert device.state() == state
