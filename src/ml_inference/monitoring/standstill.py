"""Whether a machine stands still, by the condition in the manifest, where the sensors that say so can break, too.

Where at least two other sensors read at rest what they never read in operation, they outvote a sensor of the condition that
says otherwise. It must never take a broken sensor for a machine at rest: nothing opens in off-time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence

from ml_inference.model.manifest import Manifest
from ml_inference.monitoring.consistency import Course
from ml_inference.monitoring.sensors import INCONSISTENT, SUSPICIOUS, SensorState

FAILS = {">": operator.le, ">=": operator.lt, "<": operator.ge, "<=": operator.gt}
"""A comparison that is true where the condition is not met; a value that is missing (NaN) says nothing against it."""
VOTES = 2
"""Sensors that it takes to outvote the condition: one of them may be broken itself."""


class Standstill:
    """Tells machines at rest from those in operation, for one model.

    Args:
        manifest: The model's.

    Attributes:
        known: Whether there is a condition.
        columns: Of the features in it.
    """

    def __init__(self, manifest: Manifest) -> None:
        names = manifest.feature_names
        self._conditions = []
        for condition in manifest.running or ():
            column = names.index(condition.feature)
            usual = manifest.features[column].usual_off
            # Below what machines at rest read by more than all of their range is a sensor that is dead.
            least = -math.inf if usual is None else 2.0 * usual.lowest - usual.highest
            self._conditions.append((column, FAILS[condition.operator], condition.value, least))
        self.columns = frozenset(column for column, _, _, _ in self._conditions)
        self._voters: list[tuple[int, float, float, float, float]] = []
        for column, feature in enumerate(manifest.features):
            running, rest = feature.usual, feature.usual_off
            if running is None or rest is None or column in self.columns:
                continue
            width = rest.highest - rest.lowest
            lowest, highest = rest.lowest - width, rest.highest + width
            if highest < running.lowest or lowest > running.highest:
                self._voters.append((column, lowest, highest, running.lowest, running.highest))

        self._first, _, _, self._least, self._most = (
            self._voters[0] if self._voters else (0, 0.0, 0.0, math.inf, -math.inf)
        )
        self.known = bool(self._conditions)

    def off(self, values: Sequence[float], sensors: SensorState, course: Course | None) -> bool:
        """Whether a machine stands still.

        Args:
            values: Of its reading, by column.
            sensors: Its sensors.
            course: How they went together.
        """
        if sensors.faulty is None:
            off = False
            for column, fails, bound, least in self._conditions:
                if fails(values[column], bound) and not values[column] < least:
                    off = True
                    break
            # The usual case: nothing is broken, and the first voter agrees that it runs.
            if not off and self._least <= values[self._first] <= self._most:
                return False
        else:
            off = self._off_by_condition(values, sensors.faulty, course)
        if not self._voters:
            return off
        return off is not self._outvoted(values, sensors.faulty or (), off=off)

    def uncertain(self, sensors: SensorState) -> bool:
        """Whether a sensor that says so is broken, or may be, and it cannot be known."""
        faulty = sensors.faulty
        for column in self.columns:
            if sensors.evidence[column] >= SUSPICIOUS or (faulty and faulty.get(column, INCONSISTENT) != INCONSISTENT):
                return sum(voter[0] not in (faulty or ()) for voter in self._voters) < VOTES
        return False

    def _off_by_condition(self, values: Sequence[float], faulty: Mapping[int, str], course: Course | None) -> bool:
        for column, fails, bound, least in self._conditions:
            value, reason = values[column], faulty.get(column)
            # What a broken sensor says is no reason to believe that a machine stands still, nor is what none at rest reads.
            if reason not in (None, INCONSISTENT) or (reason is None and value < least):
                continue
            if fails(value, bound):
                return True
            broken = course.broken if course is not None and reason == INCONSISTENT else None
            # With an offset it reads at rest what others read in operation.
            if broken is not None and fails(value - broken.jump, bound):
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
