"""When to try again: after pauses that double, spread by chance, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from random import Random


class Backoff:
    """Pauses between attempts.

    Args:
        monotonic: Seconds of a clock that never goes back.
        first: First pause in seconds.
        longest: Longest pause in seconds.
        random: Spreads the pauses, so that components that lost the same nucleus do not come back at once.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, first: float, longest: float, random: Random | None = None
    ) -> None:
        self._monotonic = monotonic
        self._first = first
        self._longest = longest
        self._random = random or Random()  # noqa: S311 - jitter
        self._pause = first
        self._since: float | None = None
        self.at = monotonic()

    @property
    def lasted(self) -> float:
        """Seconds since the first failure in a row; 0 without one."""
        return 0.0 if self._since is None else self._monotonic() - self._since

    def failed(self) -> None:
        """An attempt failed, or what it had reached is lost; `at` is when the next one is due."""
        moment = self._monotonic()
        if self._since is None:
            self._since = moment
        self.at = moment + self._pause * self._random.uniform(0.5, 1.0)
        self._pause = min(self._longest, self._pause * 2)

    def hurry(self) -> None:
        """Something has changed that may cure it: the next attempt is due, and the pauses grow anew."""
        self._pause, self.at = self._first, self._monotonic()

    def succeeded(self) -> None:
        """An attempt reached its end."""
        self._pause, self._since = self._first, None
