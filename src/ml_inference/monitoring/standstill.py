"""Whether a machine stands still, by the condition in the manifest, where the sensors that say so can break, too.

It must never take a broken sensor for a machine at rest: nothing opens in off-time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ml_inference.model.manifest import Manifest
from ml_inference.model.over_time import holds
from ml_inference.monitoring.consistency import Course
from ml_inference.monitoring.sensors import INCONSISTENT, SensorState


class Standstill:
    """Tells machines at rest from those in operation, for one model.

    Args:
        manifest: The model's.
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

    def uncertain(self, sensors: SensorState) -> bool:
        """Whether a sensor that says so is broken, and it cannot be known."""
        faulty = sensors.faulty or {}
        return any(faulty.get(column, INCONSISTENT) != INCONSISTENT for column, _, _ in self._conditions)
