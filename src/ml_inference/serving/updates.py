"""What a deployment asks before it changes something: whether the configuration is valid, and whether it has to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_inference.greengrass.session import Session


class UpdateGate:
    """Puts an update off while readings are queued, but not for long; has the nucleus ask about configurations, or not.

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
        self._asked: tuple[Session, Callable[[], object]] | None = None

    def be_asked(self, session: Session, on_check: Callable[[str, dict[str, Any]], None], *, wanted: bool) -> None:
        """Have the nucleus ask whether a deployment's configuration is valid, or have it stop that.

        Args:
            session: The session that is in use.
            on_check: As for `Session.watch_configuration_checks`.
            wanted: Whether it is to ask.

        Raises:
            CallFailedError: It refuses.
        """
        if self._asked is not None and self._asked[0] is not session:
            self._asked = None  # it ended with its session
        if wanted and self._asked is None:
            self._asked = session, session.watch_configuration_checks(on_check)
        elif not wanted and self._asked is not None:
            self._asked[1]()
            self._asked = None

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
