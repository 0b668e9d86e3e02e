"""What the component listens to, and what happens while it may not.

A topic that accessControl does not allow never ends the component: it says so, tries again with growing pauses, and goes on
with the topic that it was allowed before. On nucleus classic a configuration can come seconds before the permission that
belongs to it, and a deployment can bring the permission at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ml_inference.backoff import Backoff
from ml_inference.greengrass.errors import CallFailedError
from ml_inference.greengrass.listener import Listener
from ml_inference.greengrass.session import Session

logger = logging.getLogger(__name__)


class InputSubscription:
    """The subscription to the input topic that the configuration wants.

    Args:
        listener: Subscribes.
        monotonic: Seconds of a clock that never goes back.
        pause: Seconds after the first refusal.
        longest_pause: Seconds that it grows to.
        grace: Seconds for which a new topic may be refused before that counts as a problem: classic grants permissions after
            the event.

    Attributes:
        problem: Why it does not listen to the topic that is wanted; None if it does, or may soon.
    """

    def __init__(
        self,
        listener: Listener,
        monotonic: Callable[[], float],
        *,
        pause: float = 1.0,
        longest_pause: float = 30.0,
        grace: float = 30.0,
    ) -> None:
        self._listener = listener
        self._monotonic = monotonic
        self._grace = grace
        self._wanted: str | None = None
        self._fallback: str | None = None
        self._retry = Backoff(monotonic, first=pause, longest=longest_pause)
        self.problem: str | None = None

    @property
    def listening(self) -> bool:
        """Whether there is a subscription, be it to the topic before."""
        return self._listener.topic is not None

    @property
    def settled(self) -> bool:
        """Whether it listens to the topic that is wanted."""
        return self._wanted is not None and self._listener.topic == self._wanted

    def want(self, topic: str, fallback: str | None = None) -> None:
        """Ask for a topic; `look` subscribes.

        Args:
            topic: MQTT filter.
            fallback: Filter to listen to while that one is refused and there is no subscription; without it the last one that
                was allowed.
        """
        if topic != self._wanted:
            self._retry.succeeded()
        self._retry.hurry()
        self._wanted, self._fallback = topic, fallback or self._fallback

    def look(self, session: Session) -> bool:
        """Subscribe if that is due, and have a silent subscription prove that it is alive.

        Returns:
            Whether something changed: the subscription or the problem.

        Raises:
            CallFailedError: The nucleus did not answer.
        """
        if self._wanted is None:
            return False
        if self.settled:
            self._listener.check()
            cured, self.problem = self.problem is not None, None
            return cured
        if self.listening:
            self._listener.check()
        if self._monotonic() < self._retry.at:
            return False
        before = self._listener.topic, self.problem
        try:
            self._listener.listen(session, self._wanted)
        except CallFailedError as error:
            if not error.refused:
                raise
            self._refused(session, error)
        else:
            if self.problem:
                logger.warning("InputTopic: listening on %s at last", self._wanted)
            self.problem, self._fallback = None, self._wanted
            self._retry.succeeded()
        return (self._listener.topic, self.problem) != before

    def close(self) -> None:
        """Stop listening, for good."""
        self._wanted = None
        self._listener.close()

    def forget(self) -> None:
        """The session is over, and the subscription with it."""
        self._listener.forget()
        self._retry.at = self._monotonic()

    def _refused(self, session: Session, error: CallFailedError) -> None:
        self._retry.failed()
        listening = self.listening
        if self._fallback and not listening and self._fallback != self._wanted:
            try:
                self._listener.listen(session, self._fallback)
            except CallFailedError as second:
                if not second.refused:
                    raise
        if self.problem is None and (not listening or self._retry.lasted >= self._grace):
            self.problem = f"InputTopic: {error}; tried again until a deployment allows it"
            logger.error("%s", self.problem)
