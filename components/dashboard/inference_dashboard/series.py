"""What a machine measured lately, in little memory: one sample a second in a ring, and a summary of the running minute.

Numbers are float32 and NaN stands for "not measured"; both never leave this module's callers as NaN in JSON. It knows nothing of
messages or of files.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence

NAN = math.nan


class Ring:
    """The last samples, oldest first, at most one for each step of time.

    Args:
        capacity: Samples that are kept.
        step: Seconds; a sample that comes sooner after the last one takes its place.
    """

    __slots__ = ("_capacity", "_next", "_step", "_times", "_values", "_width")

    def __init__(self, capacity: int, step: float = 0.9) -> None:
        self._capacity = capacity
        self._step = step
        self._width = 0
        self._next = 0
        self._times = array("d")
        self._values = array("f")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, at: float, sample: Sequence[float]) -> None:
        """Take a sample.

        Args:
            at: Seconds since 1970; what is older than the last sample is left out.
            sample: One number for each column; a longer one than before widens the ring.
        """
        if len(sample) != self._width:
            self._widen(len(sample))
        width, held = self._width, len(self._times)
        if held:
            last = (self._next - 1) % held
            since = at - self._times[last]
            if since < 0:
                return
            if since < self._step:
                # A reading that lacks a sensor takes nothing away from one that had it.
                for column, value in enumerate(sample):
                    if value == value:  # noqa: PLR0124 - false for NaN
                        self._values[last * width + column] = value
                return
        if held < self._capacity:
            self._times.append(at)
            self._values.extend(sample)
            self._next = (held + 1) % self._capacity
            return
        self._times[self._next] = at
        self._values[self._next * width : (self._next + 1) * width] = array("f", sample)
        self._next = (self._next + 1) % self._capacity

    def since(self, begin: float) -> Iterator[tuple[float, array[float]]]:
        """Samples after a moment, oldest first."""
        held, width = len(self._times), self._width
        first = self._next if held == self._capacity else 0
        for offset in range(held):
            place = (first + offset) % held
            if self._times[place] > begin:
                yield self._times[place], self._values[place * width : (place + 1) * width]

    def column(self, column: int, count: int) -> list[float]:
        """The last values of a column, oldest first."""
        held = len(self._times)
        first = self._next if held == self._capacity else 0
        places = [(first + offset) % held for offset in range(max(0, held - count), held)]
        return [self._values[place * self._width + column] for place in places] if column < self._width else []

    def _widen(self, width: int) -> None:
        before = self._width
        if width < before:
            raise ValueError(f"a sample of {width} columns in a ring of {before}")
        wider = array("f")
        for place in range(len(self._times)):
            wider.extend(self._values[place * before : (place + 1) * before])
            wider.extend([NAN] * (width - before))
        self._width, self._values = width, wider


class Summary:
    """Smallest, mean and largest value of each column within a minute."""

    __slots__ = ("counts", "highs", "lows", "totals")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.totals: list[float] = []
        self.counts: list[int] = []

    def add(self, column: int, value: float) -> None:
        """Take one value."""
        while column >= len(self.counts):
            self.lows.append(math.inf)
            self.highs.append(-math.inf)
            self.totals.append(0.0)
            self.counts.append(0)
        self.lows[column] = min(self.lows[column], value)
        self.highs[column] = max(self.highs[column], value)
        self.totals[column] += value
        self.counts[column] += 1

    def take(self) -> array[float] | None:
        """Lows, means and highs column by column, and begin anew; None if nothing came."""
        if not any(self.counts):
            return None
        packed = array("f")
        for low, high, total, count in zip(self.lows, self.highs, self.totals, self.counts, strict=True):
            packed.extend((low, total / count, high) if count else (NAN, NAN, NAN))
        self._begin()
        return packed
