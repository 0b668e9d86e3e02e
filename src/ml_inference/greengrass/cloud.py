"""Publishes results to AWS IoT Core without ever making the fast path wait.

New results go first and straight from memory; what the nucleus refuses, or what comes while the cloud is out of reach,
goes to the outbox on disk and follows later, beside the new ones. A message is given up only by the outbox's bound, and
counted. The accounting holds at every moment, in scored readings:

    for the cloud + carried over = delivered + waiting + expired + unwanted
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from threading import Condition, Thread
from typing import Any

from awsiot.greengrasscoreipc.model import GreengrassCoreIPCError, InvalidArgumentsError

from ml_inference.greengrass.session import Session, describe
from ml_inference.monitoring.pacing import Pacer
from ml_inference.outbox import Outbox, OutboxMessage
from ml_inference.routing import Message

WINDOW = 8
"""Messages in flight; nucleus lite refuses an eleventh that is unacknowledged."""
WINDOW_BYTES = 14_000
"""Bytes in flight; nucleus lite holds 15 kB."""
MEMORY_MESSAGES = 1_000
"""New results that may wait in memory before they go to disk."""
SPILL_SECONDS = 1.0
"""While the cloud is out of reach the results of this long are written together, to spare the flash."""
ANSWER_SECONDS = 30.0
"""A publish without an answer for so long counts as refused; a stalled lite needs some 5 s for each."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CloudCounts:
    """Scored readings on their way to the cloud.

    Attributes:
        delivered: Taken by the nucleus: sent on lite, spooled on classic.
        waiting: In memory, in flight or in the outbox.
        expired: Given up: for want of space, the oldest normal results first; by a damaged disk; or refused as invalid.
        unwanted: Not wanted by `CloudPublish`.
        carried_over: Of those, found in the outbox at start, scored by an earlier process.
    """

    delivered: int
    waiting: int
    expired: int
    unwanted: int
    carried_over: int

    def as_message(self) -> dict[str, int]:
        """As they stand in the health message."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A message on its way: its place in the outbox, if it came from there, and when it was sent."""

    message: Message
    stored: int | None
    sent: float


class CloudPublisher:
    """A thread that delivers; every method may be called from any other thread.

    Args:
        open_outbox: Opens the outbox; called on the thread, the only one that uses it.
        qos: MQTT quality of service.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, open_outbox: Callable[[], Outbox], *, qos: int, monotonic: Callable[[], float]) -> None:
        self._open_outbox = open_outbox
        self._monotonic = monotonic
        self._pacer = Pacer(monotonic)
        self._changed = Condition()
        self._session: Session | None = None
        self._qos = qos
        self._live: deque[Message] = deque()
        self._in_flight: dict[int, _Flight] = {}
        self._answers: deque[tuple[int, BaseException | None]] = deque()
        self._next = 0
        self._stopping = False
        self._resized: int | None = None
        self._delivered = self._expired = self._unwanted = self._carried_over = self._in_memory = self._on_disk = 0
        self._invalid = 0
        self._spill_at: float | None = None
        self._thread = Thread(target=self._run, name="cloud", daemon=True)
        self.problem: str | None = None
        self.recovery: Sequence[str] = ()

    def start(self) -> None:
        """Begin; until a session is attached everything waits."""
        self._thread.start()

    def attach(self, session: Session) -> None:
        """Deliver over a new session."""
        with self._changed:
            self._session = session
            self._pacer.retry_now()
            self._changed.notify_all()

    def detach(self) -> None:
        """The session is over: what was in flight has not been delivered, as far as anybody knows."""
        with self._changed:
            self._session = None
            self._return_in_flight()
            self._changed.notify_all()

    def offer(self, messages: Sequence[Message], unwanted: int = 0) -> None:
        """Take messages for the cloud. Never blocks for longer than a lock.

        Args:
            messages: In order.
            unwanted: Scored readings of the same input that the cloud does not want.
        """
        with self._changed:
            self._unwanted += unwanted
            if not messages:
                return
            for message in messages:
                self._live.append(message)
                self._in_memory += message.weight
            self._changed.notify_all()

    def configure(self, *, qos: int, outbox_bytes: int) -> None:
        """Put another quality of service and another bound of the outbox in force."""
        with self._changed:
            self._qos = qos
            self._resized = outbox_bytes
            self._pacer.retry_now()
            self._changed.notify_all()

    def counts(self) -> CloudCounts:
        """The counts at one moment."""
        with self._changed:
            waiting = self._in_memory + self._on_disk
            expired = self._expired + self._invalid
            return CloudCounts(self._delivered, waiting, expired, self._unwanted, self._carried_over)

    @property
    def offline(self) -> bool:
        """Whether the cloud seems to be out of reach."""
        return self._pacer.offline

    def stop(self, timeout: float) -> None:
        """Deliver what can be delivered at once, and put the rest into the outbox.

        Args:
            timeout: Seconds.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the outbox did not close within %.1f s", timeout)

    def _run(self) -> None:
        outbox = self._open_outbox()
        self._account(outbox)
        with self._changed:
            self._carried_over = self._on_disk + self._expired
        try:
            while self._step(outbox):
                pass
        except Exception:
            logger.exception("the delivery to the cloud has failed")
            self.problem = "the delivery to the cloud has failed; see the log"
        finally:
            outbox.close()

    def _step(self, outbox: Outbox) -> bool:
        """One round: answers, spill, send, wait. Returns whether to go on."""
        with self._changed:
            late = self._monotonic() - ANSWER_SECONDS
            for number, flight in self._in_flight.items():
                if flight.sent <= late:
                    self._answers.append((number, TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")))
            answers, self._answers = self._answers, deque()
            resized, self._resized = self._resized, None
        if resized is not None:
            outbox.resize(resized)
            self._account(outbox)
        self._settle(answers, outbox)
        stopping = self._stopping
        if stopping and not self._in_flight and (not self._live or self._session is None or self._pacer.offline):
            self._spill(outbox)
            return False
        self._spill_if_due(outbox)
        sent = self._send_next(outbox)
        if not sent:
            with self._changed:
                if not self._answers and self._stopping == stopping:
                    self._changed.wait(self._nap())
        return True

    def _settle(self, answers: Sequence[tuple[int, BaseException | None]], outbox: Outbox) -> None:
        """Take the answers of the nucleus into account."""
        delivered: list[int] = []
        invalid: list[int] = []
        refused: list[_Flight] = []
        with self._changed:
            for number, error in answers:
                flight = self._in_flight.pop(number, None)
                if flight is None:
                    continue  # of a session that is over, or too late
                weight = flight.message.weight
                if error is None:
                    self._pacer.succeeded()
                    self.problem = None
                    if flight.stored is None:
                        self._in_memory -= weight
                        self._delivered += weight
                    else:
                        delivered.append(flight.stored)
                elif isinstance(error, InvalidArgumentsError):
                    # It would be refused for ever, and hold up everything behind it.
                    logger.error("the nucleus finds a message to %r invalid: %s", flight.message.topic, describe(error))
                    if flight.stored is None:
                        self._in_memory -= weight
                        self._invalid += weight
                    else:
                        invalid.append(flight.stored)
                else:
                    self._refused(error)
                    refused.append(flight)
            self._live.extendleft(flight.message for flight in reversed(refused) if flight.stored is None)
        if delivered:
            self._account(outbox, delivered=outbox.remove(delivered).weight)
        if invalid:
            self._account(outbox, invalid=outbox.remove(invalid).weight)

    def _account(self, outbox: Outbox, *, to_disk: int = 0, delivered: int = 0, invalid: int = 0) -> None:
        """Take over the outbox's own counts, together with the readings that went there or came from there."""
        with self._changed:
            self._in_memory -= to_disk
            self._delivered += delivered
            self._invalid += invalid
            self._on_disk = outbox.waiting.weight
            self._expired = outbox.expired.weight + outbox.lost.weight
            self.recovery = outbox.problems

    def _refused(self, error: BaseException) -> None:
        was_offline = self._pacer.offline
        self._pacer.refused()
        if isinstance(error, GreengrassCoreIPCError):
            self.problem = f"AWS IoT Core: {describe(error)}"
        if self._pacer.offline and not was_offline:
            logger.warning("AWS IoT Core is out of reach (%s); results wait in the outbox", describe(error))

    def _return_in_flight(self) -> None:
        self._live.extendleft(flight.message for flight in reversed(self._in_flight.values()) if flight.stored is None)
        self._in_flight.clear()
        self._answers.clear()
        self._pacer.retry_now()

    def _spill_if_due(self, outbox: Outbox) -> None:
        moment = self._monotonic()
        if not self._live or not (self._pacer.offline or self._session is None or len(self._live) > MEMORY_MESSAGES):
            self._spill_at = None
            return
        if self._spill_at is None:
            self._spill_at = moment + SPILL_SECONDS
        if moment >= self._spill_at or len(self._live) > MEMORY_MESSAGES:
            self._spill(outbox)
            self._spill_at = None

    def _spill(self, outbox: Outbox) -> None:
        """Move what waits in memory to disk."""
        with self._changed:
            messages = list(self._live)
            self._live.clear()
        if not messages:
            return
        outbox.put(
            [
                OutboxMessage(message.id, message.topic, message.payload, self._qos, message.alarm, message.weight)
                for message in messages
            ]
        )
        self._account(outbox, to_disk=sum(message.weight for message in messages))

    def _send_next(self, outbox: Outbox) -> bool:
        """Send one message if the pace allows; new results before old ones. Returns whether one was sent."""
        with self._changed:
            session = self._session
            if session is None or len(self._in_flight) >= WINDOW or self._pacer.wait() > 0:
                return False
            message, stored = self._live.popleft() if self._live else None, None
        if message is None:
            if self._stopping:
                return False
            message, stored = self._next_stored(outbox)
            if message is None:
                return False
        with self._changed:
            if self._session is not session:
                if stored is None:
                    self._live.appendleft(message)
                return True
            in_flight = sum(len(flight.message.payload) for flight in self._in_flight.values())
            if self._in_flight and in_flight + len(message.payload) > WINDOW_BYTES:
                if stored is None:
                    self._live.appendleft(message)
                return False
            number = self._next
            self._next += 1
            self._in_flight[number] = _Flight(message, stored, self._monotonic())
            self._pacer.sent()
        future = session.publish_cloud(message.topic, message.payload, self._qos)
        future.add_done_callback(lambda done: self._answered(number, done))
        return True

    def _next_stored(self, outbox: Outbox) -> tuple[Message | None, int | None]:
        """The oldest message of the outbox that is not in flight."""
        if not self._on_disk:
            return None, None
        in_flight = {flight.stored for flight in self._in_flight.values()}
        for held in outbox.peek(WINDOW + 1):
            if held.sequence not in in_flight:
                kept = held.message
                return Message(kept.topic, kept.payload, kept.weight, kept.alarm, kept.id), held.sequence
        return None, None

    def _answered(self, number: int, future: Future[Any]) -> None:
        """Runs on the SDK's thread."""
        error = future.exception()
        with self._changed:
            self._answers.append((number, error))
            self._changed.notify_all()

    def _nap(self) -> float:
        """Seconds until something may be due without anybody telling; holds the lock."""
        naps = [1.0 if self._in_flight else 60.0]
        if self._session is not None and (self._live or self._on_disk) and len(self._in_flight) < WINDOW:
            naps.append(max(self._pacer.wait(), 0.005))
        if self._spill_at is not None:
            naps.append(max(self._spill_at - self._monotonic(), 0.005))
        return min(naps)
