"""Logging without floods: a failure that repeats is logged at 1, 2, 4, 8, ... occurrences."""

from __future__ import annotations


class Occurrences:
    """Counts a repeating failure and says when it is worth a line.

    Attributes:
        count: How many there were.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int = 1) -> bool:
        """Count, and say whether to log: when the count reaches or passes a power of two."""
        before, self.count = self.count, self.count + number
        return before.bit_length() != self.count.bit_length()
