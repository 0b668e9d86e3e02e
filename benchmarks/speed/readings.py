"""Readings to measure with: the simulator's, of machines that are well and of the same with much more vibration and heat, one a second each.

It must never give the component anything that a line would not send.
"""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import count, cycle, islice
from typing import Any

import numpy as np

from sensor_simulator import SENSORS, Fleet, many

MACHINES = 20
KNOWN_SECONDS = 700
"""Readings of each machine, one a second, after which alarms may open."""
_LENGTH = 3_000


class Line:
    """A line whose machines send one reading a second by their own clock, however fast it is played.

    Args:
        abnormal: Whether its machines are ill, or well.
        seed: Of the story.
    """

    def __init__(self, *, abnormal: bool = False, seed: int = 3) -> None:
        self._columns = [_values(machine, abnormal=abnormal, seed=seed) for machine in range(MACHINES)]
        self._began = datetime.now(timezone.utc) - timedelta(days=2)
        self._rows = self._readings()

    def messages(self, number: int) -> list[bytes]:
        """The next messages of one reading each."""
        return [json.dumps(row, separators=(",", ":")).encode() for row in islice(self._rows, number)]

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        """The next readings."""
        return islice(self._rows, number)

    def batches(self, number: int, size: int) -> list[bytes]:
        """The next messages of several readings each."""
        return [json.dumps(list(islice(self._rows, size)), separators=(",", ":")).encode() for _ in range(number)]

    def _readings(self) -> Iterator[dict[str, Any]]:
        for second in count():
            moment = (self._began + timedelta(seconds=second)).isoformat(timespec="milliseconds")[:-6] + "Z"
            for machine, values in enumerate(self._columns):
                row = dict(zip(SENSORS, next(values), strict=True))
                yield {"correlation_id": second, "equipment_id": f"cylinder-{machine + 1}", "timestamp": moment, **row}


def _values(number: int, *, abnormal: bool, seed: int) -> Iterator[list[float]]:
    """Consecutive readings of one machine in one condition, over and over."""
    fleet = Fleet(machines=number + 1, seed=seed)
    values = many.read(fleet.machines[number], count=_LENGTH, step=1.0).values
    values = values[values[:, SENSORS.index("wRMSCurrent")] > 20.0]  # it runs
    if abnormal:
        values[:, 1:3] *= 1.6
        values[:, 0] += 12.0
    return cycle(np.round(values, 2).tolist())
