"""Machines that used to report and do not any more.

Measured on the line's clock: the latest time that any reading brought, and what has passed since. A machine is missed only
after an hour of regular reporting, and never because this component was away. Where more than ten fall silent at once it is
the line that is silent, which is one alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

REGULAR_SECONDS = 3600.0
"""A machine that reported for less has no habit to break."""
INTERVALS = 10.0
"""So many of its usual intervals without a reading are silence, where nothing else is set."""
LONGEST_GAPS = 3.0
"""So many of the longest gaps that it had lately are needed as well."""
FORGET_GAP = 0.999
"""What is left of the longest gap after each reading."""
SHORTEST_SECONDS = 60.0
LINE_MACHINES = 10
"""More silent machines than this are one alarm for the line."""
SWEEP_SECONDS = 10.0
"""Time between two looks at all machines."""


class Habit:
    """When a machine reports.

    Attributes:
        seen: Time of its latest reading on the line's clock; NaN before the first, and after a restart.
        interval: Its usual interval in seconds; NaN before the second reading.
        longest: The longest gap lately, in seconds.
        regular: For how long it has been reporting regularly, in seconds, up to `REGULAR_SECONDS`.
    """

    __slots__ = ("interval", "longest", "regular", "seen")

    def __init__(self) -> None:
        self.seen = math.nan
        self.interval = math.nan
        self.longest = 0.0
        self.regular = 0.0

    def report(self, now: float) -> None:
        """It reported."""
        gap = now - self.seen
        self.seen = now
        if gap > 0.0:
            if self.interval != self.interval:  # NaN
                self.interval = gap
            elif gap < INTERVALS * self.interval:
                self.interval += 0.05 * (gap - self.interval)
            else:
                self.regular = 0.0
                self.interval += 0.2 * (gap - self.interval)
            longest = self.longest * FORGET_GAP
            self.longest = max(gap, longest)
            if self.regular < REGULAR_SECONDS:
                self.regular += gap

    def limit(self, setting: float | None) -> float:
        """Seconds without a reading from which on it is silent; infinity where that cannot be said.

        Args:
            setting: What is configured; None for what the machine itself shows.
        """
        if self.regular < REGULAR_SECONDS:
            return math.inf
        if setting is not None:
            return setting
        return max(INTERVALS * self.interval, LONGEST_GAPS * self.longest, SHORTEST_SECONDS)


@dataclass(frozen=True, slots=True)
class Silent:
    """What a look at all machines found.

    Attributes:
        machines: Silent ones.
        line: Whether they are so many that the line counts as silent.
    """

    machines: tuple[str, ...]
    line: bool


def silent(habits: Iterable[tuple[str, Habit]], now: float, setting: float | None) -> Silent:
    """Look at all machines.

    Args:
        habits: Machines that are known, with their habits.
        now: The line's clock.
        setting: Configured seconds; None for what each machine shows.
    """
    found = tuple(name for name, habit in habits if now - habit.seen > habit.limit(setting))
    return Silent(found, len(found) > LINE_MACHINES)
