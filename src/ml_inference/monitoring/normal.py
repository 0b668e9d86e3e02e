"""What is normal for each sensor of one machine, so that an alarm can name the ones that left it.

A model's contributions say what raised the score, and where sensors move together that need not be the one to look at. So
they are weighed by how far each sensor's mean over an hour lies from the machine's own normal, in the spread that this mean
usually has. The normal is learnt while the machine is well, over days; until it is known all sensors count alike.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

SAMPLE_SECONDS = 60.0
RECENT_SECONDS = 3_600.0
NORMAL_SECONDS = 3 * 86_400.0
MAX_STEP_SECONDS = 900.0
"""Most time that one sample stands for."""
KNOWN_SECONDS = 6 * 3_600.0
SMALLEST_SPREAD = 0.005
"""Of the mean itself: a sensor that hardly ever moves would turn its rounding into a reason."""
MOST = 20.0


class Normal:
    """One machine's sensors.

    Attributes:
        sampled: Time of the latest sample, in epoch seconds; NaN before the first.
        seconds: Time over which the normal was learnt.
        recent: Means over `RECENT_SECONDS`.
        mean: Means over `NORMAL_SECONDS` of `recent`.
        variance: Of `recent` around `mean`.
    """

    __slots__ = ("mean", "recent", "sampled", "seconds", "variance")

    def __init__(self, sensors: int) -> None:
        self.sampled = math.nan
        self.seconds = 0.0
        self.recent = array("d", [math.nan]) * sensors
        self.mean = array("d", [math.nan]) * sensors
        self.variance = array("d", bytes(8 * sensors))

    def add(self, seconds: float, values: Sequence[float], *, learn: bool) -> None:
        """Take a reading into account, at most one each `SAMPLE_SECONDS`.

        Args:
            seconds: Its time, in epoch seconds.
            values: In column order; NaN for what is missing.
            learn: Whether the machine is well, so that its normal may follow.
        """
        step = seconds - self.sampled
        if step < SAMPLE_SECONDS:
            return
        self.sampled = seconds
        step = 0.0 if math.isnan(step) else min(step, MAX_STEP_SECONDS)
        if learn:
            self.seconds += step
        recent_share = -math.expm1(-step / RECENT_SECONDS)
        # A mean of all at first, then one that forgets.
        share = max(-math.expm1(-step / NORMAL_SECONDS), step / max(self.seconds, SAMPLE_SECONDS)) if learn else 0.0
        for column, value in enumerate(values):
            if math.isnan(value):
                continue
            recent = self.recent[column]
            recent = value if math.isnan(recent) else recent + recent_share * (value - recent)
            self.recent[column] = recent
            if not learn:
                continue
            mean = self.mean[column]
            if math.isnan(mean):
                self.mean[column] = recent
                continue
            distance = recent - mean
            self.mean[column] = mean + share * distance
            self.variance[column] += share * (distance * distance - self.variance[column])

    def unusual(self, column: int) -> float:
        """How far a sensor's recent mean lies from the machine's normal, in spreads; 1 before that is known."""
        mean, recent = self.mean[column], self.recent[column]
        if self.seconds < KNOWN_SECONDS or math.isnan(mean) or math.isnan(recent):
            return 1.0
        spread = max(math.sqrt(self.variance[column]), SMALLEST_SPREAD * abs(mean), 1e-9)
        return min(abs(recent - mean) / spread, MOST)
