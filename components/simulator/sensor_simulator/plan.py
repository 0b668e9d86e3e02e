"""How a story's quantities change over time: a value that holds for a while, or one that wanders.

Both are drawn in order, whatever the steps in which time passes.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import Generic, TypeVar

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

_T = TypeVar("_T")


class Plan(Generic[_T]):
    """A value that holds for a while, then the next one."""

    def __init__(self, stretches: Iterator[tuple[_T, float]]) -> None:
        """Begin with the first one.

        Args:
            stretches: Values, each with the seconds for which it holds; without end.
        """
        self._stretches = stretches
        self._value, self._until_s = next(stretches)

    def at(self, time_s: float) -> _T:
        """Give the value at a story time; times must not go back."""
        while time_s >= self._until_s:
            self._advance()
        return self._value

    def until(self, time_s: float) -> Iterator[tuple[_T, float]]:
        """Give each value from now on up to that of a story time, with the time at which it ends."""
        yield self._value, self._until_s
        while time_s >= self._until_s:
            self._advance()
            yield self._value, self._until_s

    def _advance(self) -> None:
        self._value, seconds = next(self._stretches)
        self._until_s += seconds


class Wander:
    """A slow wander around zero: an Ornstein-Uhlenbeck process, exact for any step (Gillespie 1996, Phys. Rev. E 54, 2084)."""

    def __init__(self, random: Random, *, deviation: float, memory_s: float) -> None:
        """Begin anywhere.

        Args:
            random: Draws one number a step.
            deviation: Standard deviation.
            memory_s: Seconds after which it has forgotten all but 1/e.
        """
        self.random = random
        self.deviation = deviation
        self.memory_s = memory_s
        self.value = random.gauss(0.0, deviation)

    def advance(self, seconds: float) -> float:
        """Let time pass and give the value."""
        keep = math.exp(-seconds / self.memory_s)
        self.value = self.value * keep + self.random.gauss(0.0, self.deviation) * math.sqrt(1.0 - keep * keep)
        return self.value
