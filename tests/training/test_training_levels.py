"""What alarms come of scores, and which smoothing and levels are chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ml_inference.monitoring import alarms as device
from ml_inference.workbench.training.episodes import Episode, Series, series
from ml_inference.workbench.training.levels import Levels, alarms, choose, log_odds, outcome, smoothed

HOUR = 3600.0
DAY = 24 * HOUR


def one_machine(length: int, step: float = 60.0) -> Series:
    return series(np.full(length, "m"), np.arange(float(length)) * step)


def fleet(
    machines: int, days: float, seed: int, step: float = 600.0
) -> tuple[Series, npt.NDArray[np.float64], list[Episode]]:
    """Noisy log-odds that rise over the hours before and after each episode's label, one episode every ten days."""
    random = np.random.default_rng(seed)
    per_machine = int(days * DAY / step)
    names = np.repeat([f"m{k}" for k in range(machines)], per_machine)
    moments = np.tile(np.arange(per_machine) * step, machines)
    table = series(names, moments)
    odds = random.normal(-4.0, 1.5, len(moments))
    episodes = []
    for name, part in table.parts():
        for day in range(3, int(days) - 2, 10):
            onset = (day + random.random()) * DAY
            episodes.append(Episode(name, onset, onset + 10 * HOUR, onset + 20 * HOUR, onset + 24 * HOUR))
            inside = (table.seconds[part] >= onset) & (table.seconds[part] <= onset + 24 * HOUR)
            odds[part][inside] += 9.0 * (table.seconds[part][inside] - onset) / (20 * HOUR)
    return table, odds, episodes


def test_smoothing_is_right_for_readings_that_come_irregularly_and_no_reading_decides_alone() -> None:
    seconds = np.array([0.0, 60.0, 70.0, 70.0, 4000.0])
    table = series(np.full(5, "m"), seconds)
    odds = np.array([3.0, 2.0, -1.0, 5.0, 0.0])
    expected = [1.0]  # the first reading does not open an alarm
    for step, value in zip(np.diff(seconds), odds[1:], strict=True):
        expected.append(expected[-1] + min(0.5, 1 - np.exp(-step / 300.0)) * (value - expected[-1]))
    assert smoothed(table, odds, 300.0, closes=1.0) == pytest.approx(expected)


def test_a_reading_that_does_not_count_leaves_the_level_as_it_is() -> None:
    odds = np.array([np.nan, 1.0, np.nan, 3.0])
    level = smoothed(one_machine(4), odds, 120.0, closes=2.0)
    assert np.isnan(level[0])
    assert level[1:3].tolist() == [1.0, 1.0]
    assert level[3] == pytest.approx(1.0 + (1 - np.exp(-0.5)) * 2.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_tables_alarms_are_those_of_a_device(seed: int) -> None:
    random = np.random.default_rng(seed)
    seconds = np.cumsum(random.choice([1.0, 60.0, 600.0, 7_200.0], 400, p=[0.2, 0.6, 0.15, 0.05]))
    scores = np.clip(random.normal(0.4, 0.3, 400) + 0.3 * np.sin(np.arange(400) / 30), 0.0, 1.0).astype(np.float32)
    off = random.random(400) < 0.1
    smoothing, opens, closes = 900.0, 0.2, -0.6
    state, alarm, before = device.Smoothed(), False, None
    levels, opened, closed = [], [], []
    for moment, score, rests in zip(seconds.tolist(), scores.tolist(), off.tolist(), strict=True):
        if not rests:
            state.add(score, 0.0 if before is None else moment - before, smoothing, closes)
            if not alarm and state.odds >= opens:
                alarm = True
                opened.append(moment)
            elif alarm and state.odds < closes:
                alarm = False
                closed.append(moment)
        before = moment
        levels.append(state.odds)
    table = series(np.full(400, "m"), seconds)
    level = smoothed(table, np.where(off, np.nan, log_odds(scores)), smoothing, closes)
    assert level == pytest.approx(levels, nan_ok=True, rel=1e-9)
    (found,) = alarms(table, level, opens, closes)
    assert [begin for begin, _ in found] == opened
    assert [end for _, end in found if np.isfinite(end)] == closed
    assert len(opened) > 2


def test_an_alarm_opens_at_the_upper_level_and_closes_below_the_lower_one() -> None:
    level = np.array([0.0, 2.0, 1.0, 0.5, 0.4, 1.9, 2.5])
    assert alarms(one_machine(7, step=1.0), level, 2.0, 0.5) == [[(1.0, 4.0), (6.0, np.inf)]]


def test_machines_do_not_share_an_alarm() -> None:
    table = series(np.array(["a", "a", "b", "b"]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert alarms(table, np.array([0.0, 5.0, 1.0, 1.0]), 2.0, 0.5) == [[(1.0, np.inf)], []]


def test_an_alarm_before_the_onset_or_in_a_sensors_episode_is_false_and_one_within_an_episode_is_not() -> None:
    table = one_machine(100)
    odds = np.full(100, -5.0)
    for minute in (5, 30, 50, 82):
        odds[minute : minute + 3] = 5.0
    at = 60.0
    episodes = [
        Episode("m", 29 * at, 35 * at, 38 * at, 40 * at),
        Episode("m", 45 * at, 46 * at, 50 * at, 55 * at, "sensor"),
        Episode("m", 81 * at, 90 * at, 95 * at, 96 * at),
    ]
    result = outcome(table, odds, episodes, Levels(1.0, 0.4, 0.3))
    assert result.false_alarms.tolist() == [2]
    assert [(one.at, one.alarms) for one in result.noticed] == [(30 * at, 1), (82 * at, 1)]
    figures = result.figures()
    assert figures["noticed"] == 1.0
    assert figures["before_label"] == 1.0
    assert figures["lead_to_full"] == 10.5 * at
    assert figures["lead_to_label"] == 6.5 * at
    assert figures["alarms_per_episode"] == 1.0
    assert figures["false_alarms_per_week"] == pytest.approx(2 / (99 * at / (7 * DAY)))


def test_an_episode_that_the_data_cut_off_is_not_counted() -> None:
    table = one_machine(100)
    cut = [Episode("m", -600.0, -60.0, 300.0, 600.0), Episode("m", 5400.0, 5600.0, 9000.0, 9900.0)]
    assert outcome(table, np.full(100, -5.0), cut, Levels(60.0, 0.5, 0.5)).noticed == ()


@pytest.mark.parametrize("allowed", [0.15, 1.0])
def test_the_levels_keep_the_allowed_false_alarms_and_hold_on_other_machines(allowed: float) -> None:
    table, odds, episodes = fleet(24, 33.0, seed=1)
    levels, tried = choose(table, odds, episodes, false_alarms=allowed)
    own = outcome(table, odds, episodes, levels).figures()
    assert own["false_alarms_per_week"] <= allowed
    fresh = outcome(*fleet(24, 33.0, seed=2), levels).figures()
    assert fresh["false_alarms_per_week"] <= allowed + 0.3
    assert fresh["noticed"] >= 0.95
    assert fresh["alarms_per_episode"] == 1.0
    assert len({one.levels.smoothing_seconds for one in tried}) == len(tried) >= 3


def test_more_false_alarms_buy_earlier_ones() -> None:
    data = fleet(12, 33.0, seed=3)
    strict, loose = (outcome(*data, choose(*data, false_alarms=allowed)[0]).figures() for allowed in (0.05, 2.0))
    assert loose["lead_to_full"] > strict["lead_to_full"]
    assert loose["before_label"] >= strict["before_label"]


def test_intervals_are_drawn_over_machines() -> None:
    table, odds, episodes = fleet(8, 33.0, seed=4)
    levels, _ = choose(table, odds, episodes, false_alarms=0.15)
    result = outcome(table, odds, episodes, levels)
    values, intervals = result.figures(), result.intervals()
    for name, value in values.items():
        low, high = intervals[name]
        assert low <= value <= high
    assert intervals["lead_to_full"][0] < intervals["lead_to_full"][1]


def test_what_was_never_seen_has_an_interval_all_the_same() -> None:
    table, odds, episodes = fleet(10, 33.0, seed=5)
    result = outcome(table, odds, episodes, Levels(600.0, 0.999999, 0.99))
    assert (result.figures()["noticed"], result.figures()["false_alarms_per_week"]) == (0.0, 0.0)
    low, high = result.intervals()["false_alarms_per_week"]
    assert low == 0.0
    assert high == pytest.approx(3.69 / result.weeks, rel=0.01)
    assert 0.0 < result.intervals()["noticed"][1] < 0.2


def test_log_odds_of_certain_scores_are_finite() -> None:
    assert log_odds(np.array([0.0, 0.5, 1.0], dtype=np.float32)) == pytest.approx([-13.8155, 0.0, 13.8155], abs=1e-3)
