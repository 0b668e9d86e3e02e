"""Listens to requests about alarms, where accessControl allows it; where not, that is a problem and nothing more."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ml_inference.backoff import Backoff
from ml_inference.greengrass.errors import CallFailedError
from ml_inference.greengrass.listener import Listener
from ml_inference.greengrass.session import Session

logger = logging.getLogger(__name__)


class ControlSubscription:
    """The subscription to the control topic that the configuration wants.

    Args:
        listener: Subscribes.
        monotonic: Seconds of a clock that never goes back.
        pause: Seconds after the first refusal.
        longest_pause: Seconds that it grows to.

    Attributes:
        problem: Why it does not listen; None if it does, or is not to.
    """

    def __init__(
        self, listener: Listener, monotonic: Callable[[], float], *, pause: float = 1.0, longest_pause: float = 30.0
    ) -> None:
        self._listener = listener
        self._monotonic = monotonic
        self._retry = Backoff(monotonic, first=pause, longest=longest_pause)
        self._wanted = ""
        self.problem: str | None = None

    def want(self, topic: str) -> None:
        """Ask for a topic; "" for none. `look` subscribes, and at once if it was refused: a permission may have come."""
        self._retry.hurry()
        if topic == self._wanted:
            return
        self._wanted, self.problem = topic, None
        if not topic:
            self._listener.close()
            self._listener.forget()

    def look(self, session: Session) -> None:
        """Subscribe if that is due.

        Raises:
            CallFailedError: The nucleus did not answer.
        """
        if not self._wanted:
            return
        if self._listener.topic == self._wanted:
            self._listener.check()
            return
        if self._monotonic() < self._retry.at:
            return
        try:
            self._listener.listen(session, self._wanted)
        except CallFailedError as error:
            if not error.refused:
                raise
            self._retry.failed()
            if self.problem is None:
                logger.warning("no requests about alarms: %s", error)
            self.problem = f"ControlTopic: {error}; tried again until a deployment allows it"
        else:
            self._retry.succeeded()
            self.problem = None

    def close(self) -> None:
        """Stop listening, for good."""
        self._wanted = ""
        self._listener.close()

    def forget(self) -> None:
        """The session is over, and the subscription with it."""
        self._listener.forget()
        self._retry.hurry()
