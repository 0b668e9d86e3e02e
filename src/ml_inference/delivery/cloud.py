"""Publishes results to AWS IoT Core without ever making the fast path wait.

New results go first and straight from memory; what the nucleus refuses, or what comes while the cloud is out of reach,
goes to the outbox on disk and follows later, beside the new ones. What a nucleus took and may yet lose is taken back when
the cloud turns out to be gone (`Window`, `Reach`). A message is dropped only by the outbox's bound or because it can never
be delivered, and counted (`Ledger`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from threading import Condition, Thread

from ml_inference.delivery.backlog import MEMORY_MESSAGES, Backlog
from ml_inference.delivery.ledger import CloudCounts, Ledger
from ml_inference.delivery.outbox.outbox import Outbox, OutboxMessage, StoredMessage
from ml_inference.delivery.pacing import Pacer
from ml_inference.delivery.reach import PROBE_SECONDS, Reach, is_probe
from ml_inference.delivery.routing import Message
from ml_inference.delivery.window import SPOOLED_SECONDS, WINDOW, Flight, Window
from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.greengrass.session import Session
from ml_inference.limits import CLOUD_ANSWER_SECONDS, DEAD_NETWORK_SECONDS
from ml_inference.logs import Occurrences

SPILL_SECONDS = 0.2
"""While the cloud is out of reach the results of this long, in seconds, are written together, to spare the flash. What a
kill -9 costs then is at most what was scored within it."""
SPILLED_AT_ONCE = 100
"""Messages, of usual size, that fit into one transaction of the outbox."""
DISK_RETRY_SECONDS = 5.0
"""After which a disk that refused is tried again."""
LONGEST_NAP = 60.0
MAX_EXPLAINED_REFUSALS = 3
"""Refusals in a row, over some 50 ms, that a full window alone does not explain."""

logger = logging.getLogger(__name__)


class CloudPublisher:
    """A thread that delivers; every method may be called from any other thread.

    Args:
        open_outbox: Opens the outbox; called on the thread, the only one that uses it.
        qos: MQTT quality of service.
        monotonic: Seconds of a clock that never goes back.
        answer: Seconds without an answer after which a publish counts as refused.
        pacer: Decides how fast; None for the usual one.
        probe: What asks a nucleus that spools whether it is online; None for no such question.
        hold: Told how many readings are in memory only, whenever that changes; must not wait.
    """

    def __init__(
        self,
        open_outbox: Callable[[], Outbox],
        *,
        qos: int,
        monotonic: Callable[[], float],
        answer: float = CLOUD_ANSWER_SECONDS,
        pacer: Pacer | None = None,
        probe: Message | None = None,
        hold: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._monotonic = monotonic
        self._pacer = pacer or Pacer(monotonic)
        # Guards everything below, and is never held while the SDK or the disk is at work.
        self._changed = Condition()
        self._news = False
        self._session: Session | None = None
        self._qos = qos
        self._resized: int | None = None
        self._backlog = Backlog()
        self._window = Window(monotonic, answer)
        self._ledger = Ledger(hold)
        self._deliver_until: float | None = None
        self._spill_from: tuple[float, bool] | None = None
        self._errors = Occurrences()
        self._reach = Reach(monotonic)
        self._reach.probe = probe
        self._thread = Thread(target=self._run, args=(open_outbox,), name="cloud", daemon=True)

    def start(self) -> None:
        """Begin; until a session is attached everything waits."""
        self._thread.start()

    def attach(self, session: Session) -> None:
        """Deliver over a new session."""
        with self._changed:
            self._session = session
            self._reach.begin(spools=session.spools)
            self._pacer.retry_now()
            self._wake()

    def detach(self) -> None:
        """The session is over: what was in flight has not been delivered, as far as anybody knows."""
        with self._changed:
            self._session = None
            self._window.suspect_oldest()
            self._return_in_flight()
            self._reach.begin(spools=self._reach.spools)
            self._wake()

    def offer(self, messages: Sequence[Message], unwanted: int = 0) -> None:
        """Take messages for the cloud. Never blocks for longer than a lock.

        Args:
            messages: In order.
            unwanted: Scored readings of the same input that the cloud does not want.
        """
        with self._changed:
            self._ledger.offered(sum(message.weight for message in messages), unwanted)
            for message in messages:
                self._backlog.add(message)
            if self._backlog.overfull:
                self._shed()
            if messages:
                self._wake()

    def configure(self, *, qos: int, outbox_bytes: int, probe: Message | None = None) -> None:
        """Put another quality of service, another bound of the outbox and another probe in force."""
        with self._changed:
            self._qos = qos
            self._reach.probe = probe
            self._resized = outbox_bytes
            self._pacer.retry_now()
            self._wake()

    def counts(self) -> CloudCounts:
        """The counts at one moment."""
        with self._changed:
            return self._ledger.counts()

    @property
    def recovery(self) -> Sequence[str]:
        """What the outbox reports of its file, a sentence each."""
        return self._ledger.recovery

    @property
    def offline(self) -> bool:
        """Whether the cloud seems to be out of reach."""
        return self._pacer.offline or self._reach.closed

    @property
    def problem(self) -> str | None:
        """What is wrong with the way to the cloud; None if nothing is known to be."""
        return self._reach.problem

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
            with self._changed:
                lost = self._ledger.in_memory
                self._ledger.dropped(lost)  # the process ends now; what was put is safe without the close
            if lost:
                logger.error("%d results for the cloud are lost: the disk did not take them in time", lost)

    def _wake(self) -> None:
        self._news = True
        self._changed.notify_all()

    # On the thread.

    def _run(self, open_outbox: Callable[[], Outbox]) -> None:
        outbox = open_outbox()
        self._settle_outbox(outbox)
        while (nap := self._try_step(outbox)) is not None:
            with self._changed:
                if nap > 0 and not self._news:
                    self._changed.wait(nap)
        outbox.close()
        self._settle_outbox(outbox)

    def _try_step(self, outbox: Outbox) -> float | None:
        """A step that an internal error does not end."""
        try:
            return self._step(outbox)
        except Exception:
            if self._errors.add():
                logger.exception("%d errors in the delivery to the cloud; the last", self._errors.count)
            self._reach.problem = "an internal error in the delivery to the cloud; see the log"
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
            resized, self._resized = self._resized, None
        if resized is not None:
            outbox.resize(resized)
            self._settle_outbox(outbox)
        self._settle(outbox)
        if self._is_over():
            self._settle(outbox)
            self._suspect_spool()
            outbox.hurry()
            self._spill(outbox, last=True)
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
            hopeless = not self._backlog or self._session is None or self.offline
            asking = self._session is not None and not self.offline and self._needs_probe(stored=0)
            return hopeless and not self._window and not asking

    def _settle(self, outbox: Outbox) -> None:
        """Take the answers of the nucleus into account."""
        delivered: list[int] = []
        invalid: list[int] = []
        with self._changed:
            for flight, failure in self._window.settle():
                if is_probe(flight.message):
                    self._probe_answered(failure)
                elif not self._is_final(flight, failure):
                    if flight.stored is None:  # one from the outbox never left it
                        self._backlog.put_back(flight.order, flight.message)
                elif flight.stored is not None:
                    (delivered if failure is None else invalid).append(flight.stored)
                else:
                    self._backlog.forget(flight.message)
                    count = self._ledger.delivered if failure is None else self._ledger.dropped
                    count(flight.message.weight)
        if delivered:
            self._settle_outbox(outbox, delivered=outbox.remove(delivered).weight)
        if invalid:
            self._settle_outbox(outbox, dropped=outbox.remove(invalid).weight)

    def _is_final(self, flight: Flight, failure: Failure | None) -> bool:
        """Whether an answer ends a message's way: it was taken, or would be refused for ever and hold up all behind it."""
        if failure is None:
            self._pacer.succeeded()
            self._reach.took()
            if self._qos:
                self._window.confirm_later(flight, spooled=self._reach.probes)
            return True
        if failure.kind is FailureKind.INVALID:
            self._pacer.inconclusive()
            self._reach.invalid(flight.message, failure.text)
            return True
        self._refused(flight.message, failure)
        return False

    def _settle_outbox(self, outbox: Outbox, *, stored: int = 0, delivered: int = 0, dropped: int = 0) -> None:
        with self._changed:
            self._ledger.settle(outbox, stored=stored, delivered=delivered, dropped=dropped)

    def _refused(self, message: Message, failure: Failure) -> None:
        self._pacer.refused()
        self._reach.refused(failure.text)
        if self._pacer.offline:
            self._reach.out_of_reach()
        if self._reach.probes:
            return  # a full spool; whether the cloud is out of reach, the next probe tells
        unexplained = self._pacer.refusals >= MAX_EXPLAINED_REFUSALS
        if unexplained or not self._window.may_be_full(message, self._pacer.rate):
            self._take_back(certain=self._pacer.offline)

    def _probe_answered(self, failure: Failure | None) -> None:
        if failure is None:
            if self._reach.closed:
                self._pacer.succeeded()
            self._pacer.inconclusive()
            self._reach.took_probe()
        elif failure.kind in (FailureKind.INVALID, FailureKind.UNAUTHORIZED):
            self._pacer.inconclusive()
            self._reach.may_not_probe(failure.text)
        else:
            self._pacer.refused()
            self._reach.refused_probe(failure.text)
            self._reach.out_of_reach()
            self._take_back(seconds=SPOOLED_SECONDS)

    def _suspect_spool(self) -> None:
        """A process that ends without a session ends, on classic, since the nucleus did, and its spool with it."""
        with self._changed:
            if self._session is None and self._reach.probes:
                self._take_back(seconds=PROBE_SECONDS)

    def _take_back(self, *, certain: bool = True, seconds: float = DEAD_NETWORK_SECONDS) -> None:
        for flight in self._window.take_back(certain=certain, seconds=seconds):  # with the same id
            self._ledger.taken_back(flight.message.weight)
            self._backlog.remember(flight.message)
            self._backlog.put_back(flight.order, flight.message)

    def _return_in_flight(self) -> None:
        for flight in self._window.return_unanswered():
            if is_probe(flight.message):
                self._reach.unanswered()
            elif flight.stored is None:
                self._backlog.put_back(flight.order, flight.message)

    def _shed(self) -> None:
        """Drop what the disk is too slow for; many at a time, never for each offer."""
        dropped = sum(message.weight for message in self._backlog.shed())
        self._ledger.dropped(dropped)
        logger.warning("the disk does not keep up: %d results for the cloud were dropped", dropped)

    def _spill_if_due(self, outbox: Outbox) -> None:
        with self._changed:
            now = self._monotonic()
            many = len(self._backlog) > MEMORY_MESSAGES
            if not self._backlog or not (many or self.offline or self._session is None):
                self._spill_from = None
                return
            if self._spill_from is None:
                self._spill_from = now, False
            at_once = (many or self._backlog.has_alarm) and not self._spill_from[1]
            if now < self._spill_at() and not at_once:
                return
        refused = self._spill(outbox)
        self._spill_from = (self._monotonic(), True) if refused else None

    def _spill_at(self) -> float:
        """When results in memory are to be on disk; the answer to an older one, which then belongs before them, may take as long."""
        if self._spill_from is None:
            return inf
        since, refused = self._spill_from
        if refused:
            return since + DISK_RETRY_SECONDS
        awaited = any(flight.stored is None for flight in self._window.flights)
        return since + SPILL_SECONDS * (2 if awaited else 1)

    def _spill(self, outbox: Outbox, *, last: bool = False) -> bool:
        """Move what waits in memory to disk, a transaction at a time, so that the books never run ahead of it.

        What the disk refuses stays in memory, but for the last time.

        Returns:
            Whether it did.
        """
        with self._changed:
            taken = self._backlog.take_all()
        while taken:
            some, taken = taken[:SPILLED_AT_ONCE], taken[SPILLED_AT_ONCE:]
            messages = [message for _, message in some]
            try:
                report = outbox.put([self._kept(message) for message in messages], expire_refused=last)
            except BaseException:
                with self._changed:
                    self._backlog.return_all(some + taken)
                raise
            handled = len(messages) - report.refused
            with self._changed:
                for message in messages[:handled]:
                    self._backlog.forget(message)
                self._ledger.settle(outbox, stored=sum(message.weight for message in messages[:handled]))
                if report.refused:
                    self._backlog.return_all(some[handled:] + taken)
                    if self._backlog.overfull:
                        self._shed()
                    return True
        return False

    def _kept(self, message: Message) -> OutboxMessage:
        return OutboxMessage(message.id, message.topic, message.payload, self._qos, message.alarm, message.weight)

    def _send_next(self, outbox: Outbox) -> float:
        """Send one message if the pace allows; new results before old ones.

        Returns:
            0 if one was sent, else seconds until one may go; infinity for not before there is news.
        """
        with self._changed:
            session, qos = self._session, self._qos
            if session is None or self._window.full:
                return inf
            pause = self._pacer.wait()
            if pause > 0:
                return pause
            launched = self._launch_probe(outbox)
            if launched is not None:
                qos = 0
            elif not self._reach.asks_first:
                launched = self._launch_new()
            is_next = launched is None and not self._reach.asks_first and not self._backlog
        if is_next:
            launched = self._launch_stored(outbox, session)
        if launched is None:
            return inf
        number, message = launched
        session.publish_cloud(message.topic, message.payload, qos, partial(self._answered, number))
        return 0.0

    def _launch_probe(self, outbox: Outbox) -> tuple[int, Message] | None:
        if not self._needs_probe(outbox.waiting.messages):
            return None
        probe = self._reach.ask()
        return self._launch(probe, 0, None), probe

    def _needs_probe(self, stored: int) -> bool:
        """Whether the nucleus is to be asked: there is something to send, or to be sure of."""
        last = self._deliver_until is not None
        waiting = bool(self._backlog) or (stored > 0 and not last)
        return self._reach.wants_probe(last=last) and (waiting or not self._reach.asks_first)

    def _launch_new(self) -> tuple[int, Message] | None:
        if not self._backlog or not self._window.fits(self._backlog.first()):
            return None
        order, message = self._backlog.take()
        return self._launch(message, order, None), message

    def _launch_stored(self, outbox: Outbox, session: Session) -> tuple[int, Message] | None:
        held = self._next_stored(outbox)
        if held is None:
            return None
        kept = held.message
        message = Message(kept.topic, kept.payload, kept.weight, kept.alarm, kept.id)
        with self._changed:
            if self._session is not session or not self._window.fits(message):
                return None
            return self._launch(message, 0, held.sequence), message

    def _launch(self, message: Message, order: int, stored: int | None) -> int:
        self._pacer.sent()
        return self._window.launch(message, order, stored)

    def _next_stored(self, outbox: Outbox) -> StoredMessage | None:
        """The oldest message of the outbox that is not in flight; none any more when the component stops."""
        with self._changed:
            if self._deliver_until is not None:
                return None
            in_flight = {flight.stored for flight in self._window.flights}
        return next((held for held in outbox.peek(WINDOW) if held.sequence not in in_flight), None)

    def _answered(self, number: int, failure: Failure | None) -> None:
        """Runs on the SDK's thread, or on this one if the answer was known at once."""
        if failure is not None and failure.kind is FailureKind.LOST:
            return  # The connection is going; `detach` collects what was on it, in order.
        with self._changed:
            self._window.answered(number, failure)
            self._wake()

    def _nap(self, pause: float) -> float:
        """Seconds until something is due without anybody telling."""
        with self._changed:
            now = self._monotonic()
            due = [now + min(pause, LONGEST_NAP), self._spill_at(), *self._window.next_timeout()]
            if self._reach.due > now:  # else it could not go just now, and what hinders it will wake us
                due.append(self._reach.due)
            if self._deliver_until is not None:
                due.append(self._deliver_until)
            return max(0.0, min(due) - now)
