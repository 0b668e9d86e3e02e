"""Whether a machine stands still, by the condition in the manifest, where the sensors that say so can break, too.

Where at least two other sensors read at rest what they never read in operation, they outvote a sensor of the condition that
says otherwise. It must never take a broken sensor for a machine at rest: nothing opens in off-time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ml_inference.model.manifest import Manifest
from ml_inference.model.over_time import holds
from ml_inference.monitoring.consistency import Course
from ml_inference.monitoring.sensors import INCONSISTENT, SUSPICIOUS, SensorState

VOTES = 2
"""Sensors that it takes to outvote the condition: one of them may be broken itself."""


class Standstill:
    """Tells machines at rest from those in operation, for one model.

    Args:
        manifest: The model's.

    Attributes:
        columns: Of the features in the condition.
    """

    def __init__(self, manifest: Manifest) -> None:
        names = manifest.feature_names
        self._conditions = []
        for condition in manifest.running or ():
            column = names.index(condition.feature)
            usual = manifest.features[column].usual_off
            # Below what machines at rest read by more than all of their range is a sensor that is dead.
            least = -math.inf if usual is None else 2.0 * usual.lowest - usual.highest
            self._conditions.append((column, condition, least))
        self.columns = frozenset(column for column, _, _ in self._conditions)
        self._voters: list[tuple[int, float, float, float, float]] = []
        for column, feature in enumerate(manifest.features):
            running, rest = feature.usual, feature.usual_off
            if running is None or rest is None or column in self.columns:
                continue
            width = rest.highest - rest.lowest
            lowest, highest = rest.lowest - width, rest.highest + width
            if highest < running.lowest or lowest > running.highest:
                self._voters.append((column, lowest, highest, running.lowest, running.highest))

    @property
    def known(self) -> bool:
        """Whether there is a condition."""
        return bool(self._conditions)

    def off(self, values: Sequence[float], sensors: SensorState, course: Course | None) -> bool:
        """Whether a machine stands still.

        Args:
            values: Of its reading, by column.
            sensors: Its sensors.
            course: How they went together.
        """
        off = self._off_by_condition(values, sensors, course)
        return off is not self._outvoted(values, sensors.faulty or (), off=off)

    def uncertain(self, sensors: SensorState) -> bool:
        """Whether a sensor that says so is broken, or may be, and it cannot be known."""
        faulty = sensors.faulty or {}
        for column, _, _ in self._conditions:
            if faulty.get(column, INCONSISTENT) != INCONSISTENT or sensors.evidence[column] >= SUSPICIOUS:
                return sum(voter[0] not in faulty for voter in self._voters) < VOTES
        return False

    def _off_by_condition(self, values: Sequence[float], sensors: SensorState, course: Course | None) -> bool:
        for column, condition, least in self._conditions:
            value, reason = values[column], (sensors.faulty or {}).get(column)
            # What a broken sensor says is no reason to believe that a machine stands still, nor is what none at rest reads.
            if reason not in (None, INCONSISTENT) or (reason is None and value < least):
                continue
            if not holds(condition, value):
                return True
            broken = course.broken if course is not None and reason == INCONSISTENT else None
            # With an offset it reads at rest what others read in operation.
            if broken is not None and not holds(condition, value - broken.jump):
                return True
        return False

    def _outvoted(self, values: Sequence[float], faulty: Collection[int], *, off: bool) -> bool:
        """Whether at least `VOTES` of the other sensors contradict, and none agrees."""
        votes = 0
        for column, lowest, highest, least, most in self._voters:
            value = values[column]
            if faulty and column in faulty:
                continue
            if (lowest <= value <= highest) if off else (least <= value <= most):
                return False
            votes += (least <= value <= most) if off else (lowest <= value <= highest)
        return votes >= VOTES
