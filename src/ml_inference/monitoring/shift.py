"""Whether a sensor reads other than on the machines that the model was trained on: of one machine, or of all of them.

For each machine and sensor a mean over time (exponentially weighted, sampled in time and not in readings) is set against
what such means were in training: their spread over machines and hours, and how far out the furthest of them lay. So a heavy
week on one machine is nothing unusual, and the same on all machines is. It judges nothing and changes no score.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import MeanReference

SAMPLE_SECONDS = 20.0
"""Time between two samples of a machine."""
MAX_SHARE = 0.25
"""Most that one sample weighs, so that one reading after a gap does not stand for the gap."""
KNOWN = 2.0
"""So many windows of operating time are needed before a mean is compared."""
REACH = 3.0
"""Spreads that one machine counts at most in the mean over the line."""
LINE_LIMIT = 4.5
"""Standard deviations from which the mean over a line is unusual: what is limited for each machine has no long tail."""
CLOSE_SHARE = 0.7
"""An alarm closes when the deviation falls below this share of its limit."""


class Means:
    """A machine's means.

    Attributes:
        sampled: Time of the latest sample, in epoch seconds; NaN before the first.
        seconds: Operating time so far.
        means: By window and sensor.
    """

    __slots__ = ("means", "sampled", "seconds")

    def __init__(self, size: int) -> None:
        self.sampled = math.nan
        self.seconds = 0.0
        self.means = array("d", [math.nan]) * size


@dataclass(frozen=True, slots=True)
class Deviation:
    """How unusual a mean is.

    Attributes:
        column: Of the sensor's feature.
        window_seconds: Of the mean.
        deviations: Distance from the usual mean, in its spread; negative below it.
        limit: Size from which it is unusual.
    """

    column: int
    window_seconds: float
    deviations: float
    limit: float

    @property
    def share(self) -> float:
        """Size as a share of the limit."""
        return abs(self.deviations) / self.limit


class ShiftWatch:
    """Compares machines, and the line, with the training data of one model.

    Args:
        features: The model's, in column order. Those without a reference are left out.

    Attributes:
        active: Whether there is anything to compare with.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        # Shortest window first: of the line all are looked at, of a single machine the longest.
        self._references: list[tuple[int, MeanReference]] = sorted(
            ((column, reference) for column, feature in enumerate(features) for reference in feature.means or ()),
            key=lambda pair: (pair[1].window_seconds, pair[0]),
        )
        self._columns = [column for column, _ in self._references]
        self.active = bool(self._references)
        self._step, self._shares = 0.0, [0.0] * len(self._references)
        longest = max((reference.window_seconds for _, reference in self._references), default=0.0)
        self._own = [
            place for place, (_, reference) in enumerate(self._references) if reference.window_seconds == longest
        ]

    def state(self) -> Means:
        """Of a machine that is new."""
        return Means(len(self._references))

    def add(self, means: Means, seconds: float, values: Sequence[float]) -> bool:
        """Take a reading of a machine in operation into account.

        Returns:
            Whether it was a sample: at most one each `SAMPLE_SECONDS`.
        """
        step = seconds - means.sampled
        if step < SAMPLE_SECONDS:
            return False
        means.sampled = seconds
        if math.isnan(step):  # the first one
            step = 0.0
        means.seconds += min(step, MAX_SHARE * self._references[0][1].window_seconds)
        if step != self._step:
            # Mostly it is the same one again.
            self._step = step
            self._shares = [
                min(-math.expm1(-step / reference.window_seconds), MAX_SHARE) for _, reference in self._references
            ]
        held = means.means
        for place, (column, share) in enumerate(zip(self._columns, self._shares, strict=True)):
            value, before = values[column], held[place]
            if before != before:  # NaN  # noqa: PLR0124
                held[place] = value
            elif value == value:  # noqa: PLR0124
                held[place] = before + share * (value - before)
        return True

    def of_machine(self, means: Means) -> list[Deviation]:
        """How unusual a machine's long means are; none before they are known."""
        found = []
        for place in self._own:
            column, reference = self._references[place]
            mean = means.means[place]
            if not math.isnan(mean) and means.seconds >= KNOWN * reference.window_seconds:
                found.append(_deviation(column, reference, mean, math.hypot(reference.spread, reference.common)))
        return found

    def distances(self, means: Means) -> dict[int, float]:
        """How far a machine's long means lie from the usual ones, in spreads, by column; without those not known yet."""
        return {
            column: abs(means.means[place] - reference.mean) / math.hypot(reference.spread, reference.common)
            for column, reference, place in ((*self._references[place], place) for place in self._own)
            if not math.isnan(means.means[place])
        }

    def of_line(self, machines: Iterable[Means]) -> list[Deviation]:
        """How unusual the means of all machines together are: for each sensor the most unusual window."""
        sums = [0.0] * len(self._references)
        counts = [0] * len(self._references)
        for means in machines:
            for place, (_, reference) in enumerate(self._references):
                mean = means.means[place]
                if not math.isnan(mean) and means.seconds >= KNOWN * reference.window_seconds:
                    # One broken sensor is not the line's matter: no machine counts for more than a few spreads.
                    reach = REACH * math.hypot(reference.spread, reference.common)
                    sums[place] += min(max(mean, reference.mean - reach), reference.mean + reach)
                    counts[place] += 1
        most: dict[int, Deviation] = {}
        for (column, reference), total, count in zip(self._references, sums, counts, strict=True):
            if not count:
                continue
            # What machines do each for themselves averages out; what they do together does not.
            spread = math.hypot(reference.spread / math.sqrt(count), reference.common)
            found = Deviation(column, reference.window_seconds, (total / count - reference.mean) / spread, LINE_LIMIT)
            if column not in most or found.share > most[column].share:
                most[column] = found
        return list(most.values())


def _deviation(column: int, reference: MeanReference, mean: float, spread: float) -> Deviation:
    return Deviation(column, reference.window_seconds, (mean - reference.mean) / spread, reference.limit)
