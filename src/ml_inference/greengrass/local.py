"""Publishes to local topics, in order, with a bounded number in flight.

A message that was on its way when the connection broke goes again on the next one, before anything newer. It never
waits for an answer message by message, which would cost a round trip each, and never without a limit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Lock
from typing import Any

from awsiot.greengrasscoreipc.model import GreengrassCoreIPCError

from ml_inference.greengrass.session import Session, describe
from ml_inference.routing import Message

WINDOW = 32
"""Messages in flight. More bring nothing, and each may block a stalled lite for 5 s."""
ATTEMPTS = 3
"""Connections on which a message is tried. A payload that itself breaks the connection must not be tried for ever."""

logger = logging.getLogger(__name__)


class _Flight:
    """A message on its way."""

    __slots__ = ("attempts", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.attempts = 0


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
        self._in_flight: dict[int, _Flight] = {}
        self._again: deque[_Flight] = deque()
        self._next = 0
        self._abandoned = False
        self._progress = monotonic()
        self.published = 0
        self.failed = 0

    def attach(self, session: Session) -> None:
        """Go on over a new session, first with what the last one left."""
        with self._sending:
            with self._changed:
                again, self._again = self._again, deque()
            for flight in again:
                self._send(session, flight)
            with self._changed:
                self._session = session
                self._changed.notify_all()

    def detach(self) -> None:
        """The session is over: what was in flight waits for the next."""
        with self._changed:
            self._session = None
            left = list(self._in_flight.values())
            self._in_flight.clear()
            for flight in left:
                if flight.attempts < ATTEMPTS:
                    self._again.append(flight)
                else:
                    self._fail(flight.message, "the connection broke each time it was sent")
            self._changed.notify_all()

    def publish(self, message: Message) -> None:
        """Send a message; waits while too many are in flight or there is no session.

        After `abandon` it fails at once.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or self._is_free())
                if self._abandoned:
                    self._fail(message, "the component has to stop")
                    return
            if self.try_publish(message, wait=True):
                return

    def try_publish(self, message: Message, *, wait: bool = False) -> bool:
        """Send a message if there is a session with room.

        Args:
            message: What to send.
            wait: Whether to wait for another thread that is just sending.

        Returns:
            Whether it was sent.
        """
        if not self._sending.acquire(blocking=wait):
            return False
        try:
            with self._changed:
                session = self._session if self._is_free() else None
            if session is None:
                return False
            self._send(session, _Flight(message))
            return True
        finally:
            self._sending.release()

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is in flight.

        Args:
            timeout: Seconds.

        Returns:
            Whether that was reached.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_flight and not self._again, timeout)

    def abandon(self) -> None:
        """Wait for nothing any more: the time to stop is over."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def stalled_for(self) -> float:
        """Seconds since the nucleus last answered, while something is in flight; else 0."""
        with self._changed:
            return self._monotonic() - self._progress if self._in_flight else 0.0

    def _is_free(self) -> bool:
        return self._session is not None and len(self._in_flight) < WINDOW

    def _send(self, session: Session, flight: _Flight) -> None:
        with self._changed:
            number = self._next
            self._next += 1
            if not self._in_flight:
                self._progress = self._monotonic()
            self._in_flight[number] = flight
            flight.attempts += 1
        future = session.publish_local(flight.message.topic, flight.message.payload)
        future.add_done_callback(lambda done: self._answered(number, done))

    def _answered(self, number: int, future: Future[Any]) -> None:
        """Runs on the SDK's thread, or on the caller's if the future had already ended."""
        with self._changed:
            flight = self._in_flight.get(number)
            if flight is None:
                return  # of a session that is over
            error = future.exception()
            if error is not None and not isinstance(error, GreengrassCoreIPCError):
                return  # The connection is going; `detach` collects what was on it, in order.
            del self._in_flight[number]
            self._progress = self._monotonic()
            if error is None:
                self.published += 1
            else:
                self._fail(flight.message, describe(error))
            self._changed.notify_all()

    def _fail(self, message: Message, reason: str) -> None:
        self.failed += 1
        # 1, 2, 4, 8, ...: a topic that is not allowed fails for every message.
        if self.failed & (self.failed - 1) == 0:
            logger.error("%d local messages failed; the last, to %r: %s", self.failed, message.topic, reason)
