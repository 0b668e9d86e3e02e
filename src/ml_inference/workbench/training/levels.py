"""What alarms come of a model's scores, and the smoothing and levels that keep false ones rare.

A score a second that is wrong once in a thousand times is wrong 600 times a week; an alarm is the smoothed log-odds above a
level. The rule is the device's own (`ml_inference.monitoring.alarms`), here for whole tables at once. Levels are chosen on
validation rows alone, by the episodes that are noticed and how early, at the allowed number of false alarms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from ml_inference.monitoring.alarms import MAX_WEIGHT, SMALLEST
from ml_inference.workbench.training.episodes import EQUIPMENT, Episode, Series
from ml_inference.workbench.training.table import FloatArray

WEEK = 7 * 86_400.0
DRAWS = 500
SMOOTHING_SECONDS = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
"""Candidates for the time constant, in seconds. Below the usual step nothing is smoothed."""
WIDTHS = (0.5, 1.0, 2.0, 3.0)
"""Candidates for the distance of the closing level below the opening one, in log-odds: what keeps one episode one alarm."""
LOWEST, HIGHEST, RESOLUTION = -6.0, 6.0, 0.05
"""Candidates for the opening level, in log-odds: scores of 0.25 % to 99.75 %."""


@dataclass(frozen=True, slots=True)
class Levels:
    """When an alarm opens and closes.

    Attributes:
        smoothing_seconds: Time constant of the smoothed log-odds.
        open_score: Smoothed score at or above which an alarm opens, 0 to 1.
        close_score: Smoothed score below which it closes.
    """

    smoothing_seconds: float
    open_score: float
    close_score: float


@dataclass(frozen=True, slots=True)
class Noticed:
    """What became of one episode.

    Attributes:
        episode: Which.
        at: When the first alarm in it opened; None where none did.
        alarms: How many opened in it.
    """

    episode: Episode
    at: float | None
    alarms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What levels come to on some machines.

    Attributes:
        levels: Which.
        machines: Names of the machines.
        seconds: Shape (m,), how long each machine was observed.
        false_alarms: Shape (m,), alarms that opened outside every episode of the equipment.
        noticed: Every complete episode of the equipment.
        step: Median time between two readings of a machine, in seconds.
    """

    levels: Levels
    machines: tuple[str, ...]
    seconds: FloatArray
    false_alarms: npt.NDArray[np.intp]
    noticed: tuple[Noticed, ...]
    step: float

    @property
    def weeks(self) -> float:
        """Machine-weeks."""
        return float(self.seconds.sum()) / WEEK

    def figures(self) -> dict[str, float]:
        """All figures by name; NaN where there is nothing to tell."""
        return _figures(self, np.ones(len(self.machines)))

    def intervals(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Intervals of 95 % by the percentile bootstrap over machines.

        Args:
            seed: Of the draws.
        """
        random = np.random.default_rng(seed)
        count = len(self.machines)
        draws = [
            _figures(self, np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64))
            for _ in range(DRAWS)
        ]
        result = {}
        for name in draws[0]:
            known = np.array([draw[name] for draw in draws])
            known = known[np.isfinite(known)]
            low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            result[name] = (float(low), float(high))
        return {**result, **_never_seen(self, result)}


def _never_seen(outcome: Outcome, intervals: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Exact bounds where all draws agree because something never happened: no false alarm, no episode missed, none noticed."""
    result = {}
    if not outcome.false_alarms.any() and outcome.weeks:
        result["false_alarms_per_week"] = (0.0, -np.log(0.025) / outcome.weeks)
    count = len(outcome.noticed)
    for name in ("noticed", "before_label"):
        low, high = intervals[name]
        if count and low == high == 1.0:
            result[name] = (0.025 ** (1.0 / count), 1.0)
        elif count and low == high == 0.0:
            result[name] = (0.0, 1.0 - 0.025 ** (1.0 / count))
    return result


def log_odds(scores: npt.NDArray[np.floating]) -> FloatArray:
    """The log-odds of probabilities, finite."""
    chance = np.clip(scores.astype(np.float64), SMALLEST, 1.0 - SMALLEST)
    return np.log(chance / (1.0 - chance))


def smoothed(table: Series, odds: FloatArray, smoothing_seconds: float, closes: float = LOWEST) -> FloatArray:
    """Exponentially smoothed log-odds of each machine, right for readings that come irregularly.

    Args:
        table: The rows.
        odds: Shape (n,), in the series' order; NaN where a reading does not count (the machine stands still).
        smoothing_seconds: Time constant.
        closes: Log-odds of the closing level, above which a machine's first reading does not count.

    Returns:
        Shape (n,); where a reading does not count, what stood before; NaN before the first that does.
    """
    result = np.full(len(odds), np.nan)
    for _, part in table.parts():
        counted = np.flatnonzero(np.isfinite(odds[part])) + part.start
        if not len(counted):
            continue
        # A reading counts for the time since the machine's reading before, whether that one counted or not.
        steps = np.diff(table.seconds[part], prepend=table.seconds[part.start])[counted - part.start]
        weights = np.minimum(-np.expm1(-np.maximum(steps[1:], 0.0) / smoothing_seconds), MAX_WEIGHT)
        values = odds[counted]
        first = min(float(values[0]), closes)
        pairs = zip(weights.tolist(), values[1:].tolist(), strict=True)
        result[counted] = list(accumulate(pairs, lambda old, new: old + new[0] * (new[1] - old), initial=first))
        _carry(result, counted, part)
    return result


def _carry(result: FloatArray, counted: npt.NDArray[np.intp], part: slice) -> None:
    """Where readings did not count, the value before them holds."""
    place = np.zeros(part.stop - part.start, dtype=np.intp)
    place[counted - part.start] = counted - part.start
    np.maximum.accumulate(place, out=place)
    result[part] = result[part][place]


def alarms(table: Series, level: FloatArray, opens: float, closes: float) -> list[list[tuple[float, float]]]:
    """When alarms are open.

    Args:
        table: The rows.
        level: Of `smoothed`.
        opens: Log-odds from which one opens.
        closes: Log-odds below which it closes.

    Returns:
        For each machine the moments at which alarms open and close; one that is still open closes at infinity.
    """
    return [list(_intervals(table.seconds[part], level[part], opens, closes)) for _, part in table.parts()]


def _intervals(seconds: FloatArray, level: FloatArray, opens: float, closes: float) -> Iterator[tuple[float, float]]:
    above = np.flatnonzero(level >= opens)
    below = np.flatnonzero(level < closes)
    at = 0
    while True:
        first = int(np.searchsorted(above, at))
        if first == len(above):
            return
        begin = int(above[first])
        end = int(np.searchsorted(below, begin))
        if end == len(below):
            yield float(seconds[begin]), np.inf
            return
        at = int(below[end])
        yield float(seconds[begin]), float(seconds[at])


def outcome(table: Series, odds: FloatArray, episodes: Sequence[Episode], levels: Levels) -> Outcome:
    """What levels come to.

    Args:
        table: The rows.
        odds: Of `log_odds`, in the series' order; NaN where a reading does not count.
        episodes: Of these machines.
        levels: To try.
    """
    closes = float(log_odds(np.array(levels.close_score)))
    level = smoothed(table, odds, levels.smoothing_seconds, closes)
    return _outcome(_Judge(table, episodes), level, levels)


def choose(
    table: Series,
    odds: FloatArray,
    episodes: Sequence[Episode],
    *,
    false_alarms: float,
    smoothings: Sequence[float] = SMOOTHING_SECONDS,
) -> tuple[Levels, list[Outcome]]:
    """The smoothing and levels that notice most, and early, at no more than so many false alarms.

    For each smoothing and each distance of the closing level the lowest opening level is taken that keeps the number of false
    alarms; among these the one that is worth most (`_worth`).

    Args:
        table: Validation rows.
        odds: Of `log_odds` by boosters that did not see these rows, in the series' order; NaN where a reading does not count.
        episodes: Of these machines.
        false_alarms: Allowed, a machine-week.
        smoothings: Candidates for the time constant, in seconds.

    Returns:
        The levels, and the best outcome of each smoothing, the longest last.
    """
    judge = _Judge(table, episodes)
    grid = np.arange(LOWEST, HIGHEST + RESOLUTION / 2, RESOLUTION)
    best: list[Outcome] = []
    # Below the usual step nothing is smoothed: one such candidate is enough.
    longer = [seconds for seconds in smoothings if seconds >= table.step]
    for seconds in longer or [max(table.step, *smoothings)]:
        level = smoothed(table, odds, seconds)
        tried = []
        for width in WIDTHS:
            low, high = 0, len(grid) - 1
            while low < high:
                middle = (low + high) // 2
                if judge.false_alarms(level, grid[middle], grid[middle] - width) <= false_alarms:
                    high = middle
                else:
                    low = middle + 1
            opens = float(grid[low])
            levels = Levels(seconds, _short(opens), _short(opens - width))
            tried.append(_outcome(judge, level, levels))
        best.append(max(tried, key=_worth))
    return max(best, key=_worth).levels, best


class _Judge:
    """Episodes beside the readings of their machines."""

    def __init__(self, table: Series, episodes: Sequence[Episode]) -> None:
        self.table = table
        self.seconds = np.array([table.observed(part) for _, part in table.parts()])
        self.weeks = float(self.seconds.sum()) / WEEK
        own: dict[str, list[Episode]] = {name: [] for name in table.machines}
        for episode in episodes:
            if episode.machine in own:
                own[episode.machine].append(episode)
        self.episodes = [own[name] for name in table.machines]

    def false_alarms(self, level: FloatArray, opens: float, closes: float) -> float:
        """A machine-week."""
        counts = (self.false(k, found) for k, found in enumerate(alarms(self.table, level, opens, closes)))
        return sum(counts) / self.weeks if self.weeks else 0.0

    def false(self, machine: int, found: Sequence[tuple[float, float]]) -> int:
        """Alarms that opened in no episode of the equipment; one in a sensor's episode is false, too."""
        right = [(e.onset, e.repair) for e in self.episodes[machine] if e.kind == EQUIPMENT]
        return sum(not any(onset <= begin <= repair for onset, repair in right) for begin, _ in found)

    def complete(self) -> Iterator[tuple[int, Episode]]:
        """Episodes of the equipment that the readings cover from the onset to the end, and that got as far as the label."""
        for machine, (_, part) in enumerate(self.table.parts()):
            first, last = (float(self.table.seconds[at]) for at in (part.start, part.stop - 1))
            for episode in self.episodes[machine]:
                if episode.kind == EQUIPMENT and episode.label is not None and episode.label >= first:
                    end = episode.repair if episode.full is None else episode.full
                    if end <= last:
                        yield machine, episode


def _outcome(judge: _Judge, level: FloatArray, levels: Levels) -> Outcome:
    found = alarms(
        judge.table, level, float(log_odds(np.array(levels.open_score))), float(log_odds(np.array(levels.close_score)))
    )
    noticed = []
    for machine, episode in judge.complete():
        # One that is open since before the onset says nothing of this episode: else the best alarm were one that never closes.
        during = [begin for begin, _ in found[machine] if episode.onset <= begin <= episode.repair]
        noticed.append(Noticed(episode, during[0] if during else None, len(during)))
    return Outcome(
        levels=levels,
        machines=judge.table.machines,
        seconds=judge.seconds,
        false_alarms=np.array([judge.false(machine, own) for machine, own in enumerate(found)]),
        noticed=tuple(noticed),
        step=judge.table.step,
    )


def _figures(outcome: Outcome, weights: FloatArray) -> dict[str, float]:
    """Figures with so much weight on each machine."""
    weight = dict(zip(outcome.machines, weights.tolist(), strict=True))
    weeks = float((outcome.seconds * weights).sum()) / WEEK
    episodes = [(one, weight[one.episode.machine]) for one in outcome.noticed]
    total = sum(w for _, w in episodes)
    early = sum(w for one, w in episodes if one.at is not None and one.at < _label(one))
    return {
        "false_alarms_per_week": float((outcome.false_alarms * weights).sum()) / weeks if weeks else np.nan,
        "noticed": sum(w for one, w in episodes if one.at is not None) / total if total else np.nan,
        "before_label": early / total if total else np.nan,
        "lead_to_label": _median([(_label(one) - one.at, w) for one, w in episodes if one.at is not None]),
        "lead_to_full": _median(
            [
                (one.episode.full - one.at, w)
                for one, w in episodes
                if one.at is not None and one.episode.full is not None
            ]
        ),
        "alarms_per_episode": _median([(float(one.alarms), w) for one, w in episodes if one.at is not None]),
    }


def _label(one: Noticed) -> float:
    label = one.episode.label
    return np.inf if label is None else label


def _median(values: Sequence[tuple[float, float]]) -> float:
    """The weighted median; NaN of nothing."""
    ordered = sorted((value, weight) for value, weight in values if weight > 0)
    if not ordered:
        return np.nan
    reached = np.cumsum([weight for _, weight in ordered])
    # Half of the weight below and half above: the mean of the two in the middle, where they differ.
    low = int(np.searchsorted(reached, reached[-1] / 2, side="left"))
    high = int(np.searchsorted(reached, reached[-1] / 2, side="right"))
    return (ordered[low][0] + ordered[min(high, len(ordered) - 1)][0]) / 2


def _worth(outcome: Outcome) -> float:
    """How much levels are worth: a missed episode costs most, then one noticed late, then one that is several alarms.

    The mean over episodes of 1 for being noticed and up to half as much again for being noticed early: all of it at the onset,
    none at the end. More than one alarm an episode takes a twentieth each.
    """
    if not outcome.noticed:
        return -outcome.levels.open_score
    worth = 0.0
    for one in outcome.noticed:
        if one.at is not None:
            end = one.episode.repair if one.episode.full is None else one.episode.full
            early = (end - one.at) / max(end - one.episode.onset, 1e-9)
            worth += 1.0 + 0.5 * min(1.0, max(0.0, early)) - 0.05 * min(one.alarms - 1, 10)
    return worth / len(outcome.noticed)


def _short(odds: float) -> float:
    """The score of log-odds, in as few digits as tell the candidates apart."""
    return float(f"{1.0 / (1.0 + np.exp(-odds)):.4g}")
