"""Time in tests: a clock that is set, chance without chance, and waiting for what only time shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

SECONDS = 120.0
"""Far more than anything here takes; only a failure waits that long."""


class Clock:
    """A monotonic clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.moment = 1_000.0

    def __call__(self) -> float:
        return self.moment


class LongestPauses(Random):
    """Chance that always gives the longest pause, so that tests know when something is due."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def until(condition: Callable[[], Any], what: str = "it did not become true") -> None:
    """Wait for what only time shows, such as a process's threads.

    Args:
        condition: Is asked again and again.
        what: Is said if it does not become true.
    """
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
