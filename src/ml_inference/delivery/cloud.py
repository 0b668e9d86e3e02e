"""Publishes results to AWS IoT Core without ever making the fast path wait.

New results go first and straight from memory; what the nucleus refuses, or what comes while the cloud is out of reach,
goes to the outbox on disk and follows later, beside the new ones. A message is given up only by the outbox's bound, and
counted. The accounting holds at every moment, in scored readings:

    for the cloud + carried over = delivered + waiting + expired + unwanted
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from threading import Condition, Thread
from typing import Any

from awsiot.greengrasscoreipc.model import GreengrassCoreIPCError, InvalidArgumentsError

from ml_inference.delivery.local import ATTEMPTS
from ml_inference.delivery.outbox.outbox import Outbox, OutboxMessage, StoredMessage
from ml_inference.delivery.pacing import Pacer
from ml_inference.delivery.routing import Message
from ml_inference.greengrass.session import Session, describe

WINDOW = 8
"""Messages in flight; nucleus lite refuses an eleventh that is unacknowledged."""
WINDOW_BYTES = 14_000
"""Bytes in flight, topics included; nucleus lite holds 15 kB of packets."""
PACKET_BYTES = 16
"""What MQTT adds to a topic and a payload, at most."""
MEMORY_MESSAGES = 1_000
"""New results that may wait in memory before they go to disk."""
MEMORY_BYTES = 10_000_000
"""Payloads of new results that may be in memory where the disk does not keep up."""
SPILL_SECONDS = 1.0
"""While the cloud is out of reach the results of this long, in seconds, are written together, to spare the flash."""
ANSWER_SECONDS = 30.0
"""A stalled nucleus lite needs some 5 s for each message."""
LONGEST_NAP = 60.0
DOUBTFUL_MESSAGES = 10
"""Nucleus lite answers a QoS 1 publish when it has written it to its socket. If the network or the broker goes then, it
forgets as many as it allows to be unacknowledged, and tells nobody."""
SLOW = 1.5
"""Times as long as at full pace. If the window was not filled within that, there was room for another message, and a refusal
means that the cloud is gone."""
TOO_MANY = 3
"""Refusals in a row, over some 50 ms, that a full window alone does not explain."""
DOUBTFUL_SECONDS = 90.0
"""For so long a dead network can look alive to lite: it asks every 30 s, and closes when the next asking finds no answer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CloudCounts:
    """Scored readings on their way to the cloud.

    Attributes:
        delivered: Taken by the nucleus: sent on lite, spooled on classic. What it took last is taken back, and goes again,
            if the cloud then turns out to be out of reach. An outage so short that nothing was sent meanwhile goes unseen.
        waiting: In memory, in flight or in the outbox.
        expired: Given up: for want of space or a disk that is too slow, the oldest normal results first; lost with a damaged
            file; or refused as invalid.
        unwanted: Not wanted by `CloudPublish`.
        carried_over: Of those, found in the outbox, scored by an earlier process.
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
    """A message on its way.

    Attributes:
        message: What was sent.
        order: Its place among the new results.
        stored: Its place in the outbox; None for a new result.
        sent: When, in seconds of the monotonic clock.
    """

    message: Message
    order: int
    stored: int | None
    sent: float


class CloudPublisher:
    """A thread that delivers; every method may be called from any other thread.

    Args:
        open_outbox: Opens the outbox; called on the thread, the only one that uses it.
        qos: MQTT quality of service.
        monotonic: Seconds of a clock that never goes back.
        answer: Seconds without an answer after which a publish counts as refused.
    """

    def __init__(
        self,
        open_outbox: Callable[[], Outbox],
        *,
        qos: int,
        monotonic: Callable[[], float],
        answer: float = ANSWER_SECONDS,
    ) -> None:
        self._open_outbox = open_outbox
        self._monotonic = monotonic
        self._answer = answer
        self._pacer = Pacer(monotonic)
        # Guards everything below, and is never held while the SDK or the disk is at work.
        self._changed = Condition()
        self._news = False
        self._session: Session | None = None
        self._qos = qos
        self._live: deque[tuple[int, Message]] = deque()
        self._offered = 0
        self._in_flight: dict[int, _Flight] = {}
        self._sent = 0
        self._answers: list[tuple[int, BaseException | None]] = []
        self._doubtful: deque[tuple[float, int, Message]] = deque(maxlen=DOUBTFUL_MESSAGES)
        self._taken_back: deque[str] = deque(maxlen=2 * DOUBTFUL_MESSAGES)
        self._suspect = ""
        self._losses = 0
        self._deliver_until: float | None = None
        self._resized: int | None = None
        self._delivered = self._expired = self._unwanted = self._carried_over = self._in_memory = self._on_disk = 0
        self._given_up = 0
        self._bytes = 0
        self._out_of_reach_since: float | None = None
        self._failures = 0
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
            self._wake()

    def detach(self) -> None:
        """The session is over: what was in flight has not been delivered, as far as anybody knows."""
        with self._changed:
            self._session = None
            self._suspect_oldest()
            self._return_in_flight()
            self._wake()

    def _suspect_oldest(self) -> None:
        """What breaks each connection on which it is sent would do so for ever, and keep everything else from going."""
        answered = {number for number, _ in self._answers}
        oldest = next((number for number in self._in_flight if number not in answered), None)
        if oldest is None:
            return
        identity = self._in_flight[oldest].message.id
        self._losses = self._losses + 1 if identity == self._suspect else 1
        self._suspect = identity
        if self._losses >= ATTEMPTS:
            error = InvalidArgumentsError(message=f"the connection broke {ATTEMPTS} times when it was sent")
            self._answers.append((oldest, error))

    def offer(self, messages: Sequence[Message], unwanted: int = 0) -> None:
        """Take messages for the cloud. Never blocks for longer than a lock.

        Args:
            messages: In order.
            unwanted: Scored readings of the same input that the cloud does not want.
        """
        with self._changed:
            self._unwanted += unwanted
            for message in messages:
                self._live.append((self._offered, message))
                self._offered += 1
                self._in_memory += message.weight
                self._bytes += len(message.payload)
            if self._bytes > MEMORY_BYTES:
                self._shed()
            if messages:
                self._wake()

    def configure(self, *, qos: int, outbox_bytes: int) -> None:
        """Put another quality of service and another bound of the outbox in force."""
        with self._changed:
            self._qos = qos
            self._resized = outbox_bytes
            self._pacer.retry_now()
            self._wake()

    def counts(self) -> CloudCounts:
        """The counts at one moment."""
        with self._changed:
            waiting = self._in_memory + self._on_disk
            expired = self._expired + self._given_up
            return CloudCounts(self._delivered, waiting, expired, self._unwanted, self._carried_over)

    @property
    def offline(self) -> bool:
        """Whether the cloud seems to be out of reach."""
        return self._pacer.offline

    def stop(self, timeout: float) -> None:
        """Deliver what can be delivered soon, and put the rest into the outbox.

        Args:
            timeout: Seconds; half of them are the disk's.
        """
        with self._changed:
            self._deliver_until = self._monotonic() + timeout / 2
            self._wake()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the outbox did not close within %.1f s", timeout)

    def _wake(self) -> None:
        self._news = True
        self._changed.notify_all()

    # On the thread.

    def _run(self) -> None:
        outbox = self._open_outbox()
        self._account(outbox)
        while (nap := self._try_step(outbox)) is not None:
            with self._changed:
                if nap > 0 and not self._news:
                    self._changed.wait(nap)
        outbox.close()
        self._account(outbox)

    def _try_step(self, outbox: Outbox) -> float | None:
        """A step that an error of ours does not end."""
        try:
            return self._step(outbox)
        except Exception:
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:
                logger.exception("%d errors in the delivery to the cloud; the last", self._failures)
            self.problem = "an internal error in the delivery to the cloud; see the log"
        with self._changed:
            self._news = False
            over = self._deliver_until is not None and self._monotonic() >= self._deliver_until
        return None if over else 1.0

    def _step(self, outbox: Outbox) -> float | None:
        """One round: answers, spill, send.

        Returns:
            Seconds to wait for news before the next, or None after the last.
        """
        with self._changed:
            self._news = False
            late = self._monotonic() - self._answer
            for number, flight in self._in_flight.items():
                if flight.sent <= late:
                    self._answers.append((number, TimeoutError(f"no answer within {self._answer:g} s")))
            answers, self._answers = self._answers, []
            resized, self._resized = self._resized, None
        if resized is not None:
            outbox.resize(resized)
            self._account(outbox)
        self._settle(answers, outbox)
        if self._is_over():
            self._settle(self._answers, outbox)
            self._spill(outbox)
            return None
        self._spill_if_due(outbox)
        pause = self._send_next(outbox)
        return 0.0 if pause == 0 else self._nap(pause)

    def _is_over(self) -> bool:
        """Whether the component stops and nothing more will be delivered; what was in flight then waits for the next start."""
        with self._changed:
            if self._deliver_until is None:
                return False
            if self._monotonic() >= self._deliver_until:
                self._return_in_flight()
                return True
            hopeless = not self._live or self._session is None or self._pacer.offline
            return hopeless and not self._in_flight

    def _settle(self, answers: Sequence[tuple[int, BaseException | None]], outbox: Outbox) -> None:
        """Take the answers of the nucleus into account."""
        delivered: list[int] = []
        invalid: list[int] = []
        with self._changed:
            for number, error in answers:
                flight = self._in_flight.pop(number, None)
                if flight is None:
                    continue  # of a session that is over, or too late
                if error is None:
                    self._pacer.succeeded()
                    self.problem = None
                elif _is_invalid(error):
                    # It would be refused for ever, and hold up everything behind it.
                    self._pacer.undecided()
                    logger.error("the nucleus finds a message to %r invalid: %s", flight.message.topic, describe(error))
                else:
                    self._refused(flight.message, error)
                    self._put_back(flight)
                    continue
                if error is None and self._qos:
                    self._doubtful.append((self._monotonic(), flight.order, flight.message))
                if flight.stored is not None:
                    (delivered if error is None else invalid).append(flight.stored)
                    continue
                self._leave_memory(flight.message)
                if error is None:
                    self._delivered += flight.message.weight
                else:
                    self._given_up += flight.message.weight
        if delivered:
            self._account(outbox, delivered=outbox.remove(delivered).weight)
        if invalid:
            self._account(outbox, invalid=outbox.remove(invalid).weight)

    def _account(
        self, outbox: Outbox, *, to_disk: Sequence[Message] = (), delivered: int = 0, invalid: int = 0
    ) -> None:
        """Take over the outbox's own counts, together with the readings that went there or came from there."""
        with self._changed:
            explained = self._on_disk + self._expired - delivered - invalid
            for message in to_disk:
                explained += message.weight
                self._leave_memory(message)
            self._delivered += delivered
            self._given_up += invalid
            self._on_disk = outbox.waiting.weight
            self._expired = outbox.expired.weight + outbox.lost.weight
            # The rest was found in the file: at the start, or when a file that could not be used can be used again.
            self._carried_over += self._on_disk + self._expired - explained
            self.recovery = outbox.problems

    def _refused(self, message: Message, error: BaseException) -> None:
        was_offline = self._pacer.offline
        self._pacer.refused()
        self.problem = f"AWS IoT Core: {describe(error)}"
        if self._pacer.offline and not was_offline:
            logger.warning("AWS IoT Core is out of reach (%s); results wait in the outbox", describe(error))
        if self._pacer.refusals >= TOO_MANY or not self._window_may_be_full(message):
            self._take_back_doubtful(certain=self._pacer.offline)

    def _window_may_be_full(self, refused: Message) -> bool:
        """Whether the nucleus may have refused a message only because it came too soon after others."""
        since = self._monotonic() - SLOW * DOUBTFUL_MESSAGES / self._pacer.rate
        recent = [message for moment, _, message in self._doubtful if moment >= since]
        return len(recent) == DOUBTFUL_MESSAGES or _packet_bytes([*recent, refused]) > WINDOW_BYTES

    def _take_back_doubtful(self, *, certain: bool) -> None:
        """What the nucleus took last may never have left the device; it goes again, with the same id.

        Args:
            certain: Whether the cloud is out of reach. If it only may be, nothing goes a third time: others may fill the window.
        """
        since = self._monotonic() - DOUBTFUL_SECONDS
        doubtful = [each for each in self._doubtful if each[0] >= since]
        self._doubtful.clear()
        for moment, order, message in reversed(doubtful):  # each goes before what is waiting
            if message.id in self._taken_back and not certain:
                self._doubtful.appendleft((moment, order, message))
                continue
            self._taken_back.append(message.id)
            self._delivered -= message.weight
            self._in_memory += message.weight
            self._bytes += len(message.payload)
            self._put_back(_Flight(message, order, None, moment))

    def _return_in_flight(self) -> None:
        """Nobody will hear the answers that are still missing."""
        final = [(number, error) for number, error in self._answers if error is None or _is_invalid(error)]
        self._answers = final
        answered = {number for number, _ in self._answers}
        for number in [number for number in self._in_flight if number not in answered]:
            self._put_back(self._in_flight.pop(number))

    def _put_back(self, flight: _Flight) -> None:
        """Let a message wait again in its place; one from the outbox never left it."""
        if flight.stored is not None:
            return
        # Only what was sent before and came back, a window at most, can be older.
        older = 0
        while older < len(self._live) and self._live[older][0] < flight.order:
            older += 1
        self._live.insert(older, (flight.order, flight.message))

    def _leave_memory(self, message: Message) -> None:
        self._in_memory -= message.weight
        self._bytes -= len(message.payload)

    def _shed(self) -> None:
        """Give up what the disk is too slow for: the oldest normal results, then the oldest alarms; never for each offer."""
        excess = self._bytes - MEMORY_BYTES * 3 // 4
        given_up = 0
        for alarms in (False, True):
            kept: deque[tuple[int, Message]] = deque()
            for order, message in self._live:
                if excess > 0 and message.alarm == alarms:
                    excess -= len(message.payload)
                    given_up += message.weight
                    self._leave_memory(message)
                else:
                    kept.append((order, message))
            self._live = kept
        self._given_up += given_up
        logger.warning("the disk does not keep up: %d results for the cloud were given up", given_up)

    def _spill_if_due(self, outbox: Outbox) -> None:
        with self._changed:
            moment = self._monotonic()
            many = len(self._live) > MEMORY_MESSAGES
            if not self._live or not (many or self._pacer.offline or self._session is None):
                self._out_of_reach_since = None
                return
            if self._out_of_reach_since is None:
                self._out_of_reach_since = moment
            if not many and moment < self._spill_at():
                return
        self._spill(outbox)
        self._out_of_reach_since = None

    def _spill_at(self) -> float:
        """When results in memory are to be on disk; the answer to an older one, which then belongs before them, may take as long."""
        if self._out_of_reach_since is None:
            return inf
        awaited = any(flight.stored is None for flight in self._in_flight.values())
        return self._out_of_reach_since + SPILL_SECONDS * (2 if awaited else 1)

    def _spill(self, outbox: Outbox) -> None:
        """Move what waits in memory to disk."""
        with self._changed:
            taken, self._live = self._live, deque()
        messages = [message for _, message in taken]
        if not messages:
            return
        try:
            outbox.put(
                [
                    OutboxMessage(message.id, message.topic, message.payload, self._qos, message.alarm, message.weight)
                    for message in messages
                ]
            )
        except BaseException:
            with self._changed:
                self._live.extendleft(reversed(taken))
            raise
        self._account(outbox, to_disk=messages)

    def _send_next(self, outbox: Outbox) -> float:
        """Send one message if the pace allows; new results before old ones.

        Returns:
            0 if one was sent, else seconds until one may go; infinity for not before there is news.
        """
        with self._changed:
            session = self._session
            if session is None or len(self._in_flight) >= WINDOW:
                return inf
            pause = self._pacer.wait()
            if pause > 0:
                return pause
            number = None
            if self._live:
                order, message = self._live[0]
                if not self._fits(message):
                    return inf
                self._live.popleft()
                number = self._launch(_Flight(message, order, None, self._monotonic()))
        if number is None:
            held = self._next_stored(outbox)
            if held is None:
                return inf
            kept = held.message
            message = Message(kept.topic, kept.payload, kept.weight, kept.alarm, kept.id)
            with self._changed:
                if self._session is not session or not self._fits(message):
                    return inf
                number = self._launch(_Flight(message, 0, held.sequence, self._monotonic()))
        future = session.publish_cloud(message.topic, message.payload, self._qos)
        future.add_done_callback(partial(self._answered, number))
        return 0.0

    def _fits(self, message: Message) -> bool:
        """Whether the window has room; a message that is larger than the window goes alone."""
        if not self._in_flight:
            return True
        return _packet_bytes([*(flight.message for flight in self._in_flight.values()), message]) <= WINDOW_BYTES

    def _launch(self, flight: _Flight) -> int:
        self._sent += 1
        self._in_flight[self._sent] = flight
        self._pacer.sent()
        return self._sent

    def _next_stored(self, outbox: Outbox) -> StoredMessage | None:
        """The oldest message of the outbox that is not in flight; none any more when the component stops."""
        with self._changed:
            if self._deliver_until is not None:
                return None
            in_flight = {flight.stored for flight in self._in_flight.values()}
        return next((held for held in outbox.peek(WINDOW) if held.sequence not in in_flight), None)

    def _answered(self, number: int, future: Future[Any]) -> None:
        """Runs on the SDK's thread, or on this one if the future had already ended."""
        error = future.exception()
        if error is not None and not isinstance(error, GreengrassCoreIPCError):
            return  # The connection is going; `detach` collects what was on it, in order.
        with self._changed:
            self._answers.append((number, error))
            self._wake()

    def _nap(self, pause: float) -> float:
        """Seconds until something is due without anybody telling."""
        with self._changed:
            moment = self._monotonic()
            due = [moment + min(pause, LONGEST_NAP), self._spill_at()]
            due += [flight.sent + self._answer for flight in self._in_flight.values()]
            if self._deliver_until is not None:
                due.append(self._deliver_until)
            return max(0.0, min(due) - moment)


def _packet_bytes(messages: Iterable[Message]) -> int:
    """What messages take as MQTT packets."""
    return sum(len(message.topic.encode()) + len(message.payload) + PACKET_BYTES for message in messages)


def _is_invalid(error: BaseException) -> bool:
    """Whether the same message would be refused again and again."""
    return isinstance(error, InvalidArgumentsError)
