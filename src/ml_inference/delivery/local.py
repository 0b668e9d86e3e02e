"""Publishes to local topics, in order, with a bounded number in flight.

A message that was on its way when the connection broke goes again on the next one, before anything newer. It never
waits for an answer message by message, which would cost a round trip each, and never without a limit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Condition, Lock

from ml_inference.delivery.guard import MAX_LOST_CONNECTIONS, ConnectionGuard
from ml_inference.delivery.routing import Message
from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.greengrass.session import Session
from ml_inference.logs import Occurrences, escaped

WINDOW = 32
"""Messages in flight. More bring nothing, and each may block a stalled lite for 5 s."""
RESERVE = 4
"""Beside these, for what must get out even when results alone would fill the window: the health message."""

logger = logging.getLogger(__name__)


class LocalPublisher:
    """Thread-safe; survives the sessions it is attached to.

    Args:
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Whoever sends holds `_sending`, so that order is kept; the SDK's thread never takes it. `_changed` guards the
        # state and is never held while the SDK is called.
        self._sending = Lock()
        self._changed = Condition()
        self._session: Session | None = None
        self._in_flight: dict[int, Message] = {}
        self._again: deque[Message] = deque()
        self._next = 0
        self._abandoned = False
        self._progress = monotonic()
        self._guard = ConnectionGuard()
        self._failures = Occurrences()
        self.published = 0

    def attach(self, session: Session) -> None:
        """Go on over a new session, first with what the last one left."""
        with self._sending:
            with self._changed:
                again, self._again = self._again, deque()
            for message in again:
                with self._changed:
                    number = self._enter(message)
                self._send(session, number, message)
            with self._changed:
                self._session = session
                self._changed.notify_all()

    def detach(self) -> None:
        """The session is over: what was in flight waits for the next."""
        # Nobody may be about to send over the old session: that message would wait for an answer for ever.
        with self._sending, self._changed:
            self._session = None
            if self._in_flight:
                number, oldest = next(iter(self._in_flight.items()))
                if self._guard.lost(oldest):
                    del self._in_flight[number]
                    self._fail(oldest, f"dropped after {MAX_LOST_CONNECTIONS} lost connections")
                self._again.extend(self._in_flight.values())
                self._in_flight.clear()
            self._changed.notify_all()

    def publish(self, message: Message) -> None:
        """Send a message; waits while too many are in flight or there is no session.

        After `abandon` it fails at once.
        """
        while self._abandoned or not self._send_if(self._is_free, message):
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or self._is_free())
                if self._abandoned:
                    self._fail(message, "the component has to stop")
                    return

    def try_publish(self, message: Message) -> bool:
        """Send a message if there is a session with room; a little is kept for what comes this way.

        Returns:
            Whether it was sent.
        """
        return self._send_if(lambda: self._session is not None and len(self._in_flight) < WINDOW + RESERVE, message)

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is in flight.

        Args:
            timeout: Seconds.

        Returns:
            Whether that was reached.
        """
        with self._changed:
            hopeless = self._abandoned and self._session is None
            return self._changed.wait_for(lambda: not self._in_flight and not self._again, 0 if hopeless else timeout)

    @property
    def unconfirmed(self) -> int:
        """Messages that the nucleus has not answered."""
        with self._changed:
            return len(self._in_flight) + len(self._again)

    @property
    def failed(self) -> int:
        """Messages that the nucleus refused, or that were dropped."""
        return self._failures.count

    def abandon(self) -> None:
        """Wait for nothing any more: the time to stop is over."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def stalled_for(self) -> float:
        """Seconds for which the oldest message in flight has been the oldest; 0 if there is none.

        The nucleus answers in order, so an answer that is overtaken by many others will not come any more.
        """
        with self._changed:
            return self._monotonic() - self._progress if self._in_flight else 0.0

    def _is_free(self) -> bool:
        return self._session is not None and len(self._in_flight) < WINDOW

    def _send_if(self, condition: Callable[[], bool], message: Message) -> bool:
        with self._sending:
            with self._changed:
                session = self._session if condition() else None
                if session is None:
                    return False
                number = self._enter(message)
            self._send(session, number, message)
            return True

    def _enter(self, message: Message) -> int:
        """A message is in flight from now on; returns the number by which its answer is told."""
        number = self._next
        self._next += 1
        if not self._in_flight:
            self._progress = self._monotonic()
        self._in_flight[number] = message
        return number

    def _send(self, session: Session, number: int, message: Message) -> None:
        session.publish_local(message.topic, message.payload, partial(self._answered, number))

    def _answered(self, number: int, failure: Failure | None) -> None:
        """Runs on the SDK's thread, or on the caller's if the answer was known at once."""
        with self._changed:
            message = self._in_flight.get(number)
            if message is None:
                return  # of a session that is over
            if failure is not None and failure.kind is FailureKind.LOST:
                return  # The connection is going; `detach` collects what was on it, in order.
            if number == next(iter(self._in_flight)):
                self._progress = self._monotonic()
            del self._in_flight[number]
            if failure is None:
                self.published += 1
            else:
                self._fail(message, failure.text)
            self._changed.notify_all()

    def _fail(self, message: Message, reason: str) -> None:
        if self._failures.add():  # a topic that is not allowed fails for every message
            logger.error("%d local messages failed; the last, to '%s': %s", self.failed, escaped(message.topic), reason)
