"""Whether a deployment has to wait for the queue before it stops the component, and for how long."""

from __future__ import annotations

from collections.abc import Callable


class UpdateGate:
    """Puts an update off while readings are queued, but not for long.

    Args:
        monotonic: Seconds of a clock that never goes back.
        pause: Seconds after which the nucleus is to ask again.
        longest: Seconds for which an update is put off in all.
    """

    def __init__(self, monotonic: Callable[[], float], *, pause: float, longest: float) -> None:
        self._monotonic = monotonic
        self._pause = pause
        self._longest = longest
        self._since: float | None = None

    def recheck_after(self, *, busy: bool) -> float:
        """Seconds after which the nucleus is to ask again; 0 to go on at once.

        Args:
            busy: Whether readings are queued.
        """
        now = self._monotonic()
        if self._since is None:
            self._since = now
        if busy and now - self._since < self._longest:
            return self._pause
        self._since = None
        return 0.0
