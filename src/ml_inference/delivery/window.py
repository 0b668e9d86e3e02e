"""What is on its way to the cloud: in flight without an answer, or answered and not yet safe.

It knows how much nucleus lite carries at a time, and which deliveries lite may have forgotten. It neither sends nor decides
when to. Not locked: `CloudPublisher` calls it under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ml_inference.delivery.guard import MAX_LOST_CONNECTIONS, ConnectionGuard
from ml_inference.delivery.reach import PROBE_SECONDS
from ml_inference.delivery.routing import Message
from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.limits import (
    CLASSIC_SPOOL_BYTES,
    DEAD_NETWORK_SECONDS,
    LITE_UNACKNOWLEDGED_MESSAGES,
    MQTT_PACKET_BYTES,
)

WINDOW = 8
"""Messages in flight; below `LITE_UNACKNOWLEDGED_MESSAGES`, for others on the device have to send, too."""
WINDOW_BYTES = 14_000
"""Bytes in flight, topics included; below `LITE_UNACKNOWLEDGED_BYTES`."""
UNCONFIRMED_MESSAGES = LITE_UNACKNOWLEDGED_MESSAGES
"""The latest deliveries that nucleus lite may forget when the network or the broker goes, and tell nobody."""
SPOOLED_SECONDS = DEAD_NETWORK_SECONDS + PROBE_SECONDS
"""Age of the deliveries that may still be in the classic nucleus's spool when a probe finds that it is offline."""
FULL_WINDOW_FACTOR = 1.5
"""Times as long as at full pace. If the window was not filled within that, there was room for another message, and a refusal
means that the cloud is gone."""


@dataclass(frozen=True, slots=True)
class Flight:
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


class Window:
    """The messages in flight, and the deliveries that are not confirmed.

    Args:
        monotonic: Seconds of a clock that never goes back.
        answer: Seconds without an answer after which a message counts as refused.
    """

    def __init__(self, monotonic: Callable[[], float], answer: float) -> None:
        self._monotonic = monotonic
        self._answer = answer
        self._in_flight: dict[int, Flight] = {}
        self._sent = 0
        self._answers: list[tuple[int, Failure | None]] = []
        self._unconfirmed: deque[Flight] = deque()
        self._unconfirmed_bytes = 0
        self._taken_back: deque[str] = deque(maxlen=2 * UNCONFIRMED_MESSAGES)
        self._guard = ConnectionGuard()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def flights(self) -> tuple[Flight, ...]:
        """What has no answer yet, oldest first."""
        return tuple(self._in_flight.values())

    @property
    def full(self) -> bool:
        """Whether not even a small message may go."""
        return len(self._in_flight) >= WINDOW

    def fits(self, message: Message) -> bool:
        """Whether there is room for a message; one that is larger than the window goes alone."""
        if not self._in_flight:
            return True
        return packet_bytes([*(flight.message for flight in self._in_flight.values()), message]) <= WINDOW_BYTES

    def launch(self, message: Message, order: int, stored: int | None = None) -> int:
        """A message goes out; returns the number by which its answer is told."""
        self._sent += 1
        self._in_flight[self._sent] = Flight(message, order, stored, self._monotonic())
        return self._sent

    def answered(self, number: int, failure: Failure | None) -> None:
        """The nucleus answered; what follows from it is decided in `settle`."""
        self._answers.append((number, failure))

    def settle(self) -> list[tuple[Flight, Failure | None]]:
        """Take the answers so far, and failures for what has waited too long for one."""
        late = self._monotonic() - self._answer
        for number, flight in self._in_flight.items():
            if flight.sent <= late:
                failure = Failure(FailureKind.TRANSIENT, f"no answer within {self._answer:g} s")
                self._answers.append((number, failure))
        answers, self._answers = self._answers, []
        # An answer of a session that is over, or too late, finds nothing.
        found = ((self._in_flight.pop(number, None), failure) for number, failure in answers)
        return [(flight, failure) for flight, failure in found if flight is not None]

    def next_timeout(self) -> list[float]:
        """When each message in flight will have waited too long."""
        return [flight.sent + self._answer for flight in self._in_flight.values()]

    def confirm_later(self, flight: Flight, *, spooled: bool = False) -> None:
        """The nucleus took a message, which does not yet mean that it left the device.

        Args:
            flight: It.
            spooled: Whether the nucleus spools: then it may hold as many as its spool, for as long as it can believe that it
                is connected; else no more than a window.
        """
        now = self._monotonic()
        self._unconfirmed.append(Flight(flight.message, flight.order, flight.stored, now))
        self._unconfirmed_bytes += len(flight.message.payload)
        while (
            self._unconfirmed_bytes > CLASSIC_SPOOL_BYTES or self._unconfirmed[0].sent < now - SPOOLED_SECONDS
            if spooled
            else len(self._unconfirmed) > UNCONFIRMED_MESSAGES
        ):
            self._unconfirmed_bytes -= len(self._unconfirmed.popleft().message.payload)

    def may_be_full(self, refused: Message, rate: float) -> bool:
        """Whether nucleus lite may have refused a message only because it came too soon after others.

        Args:
            refused: The message.
            rate: Messages a second at full pace.
        """
        since = self._monotonic() - FULL_WINDOW_FACTOR * UNCONFIRMED_MESSAGES / rate
        recent = [flight.message for flight in self._unconfirmed if flight.sent >= since]
        return len(recent) == UNCONFIRMED_MESSAGES or packet_bytes([*recent, refused]) > WINDOW_BYTES

    def take_back(self, *, certain: bool, seconds: float = DEAD_NETWORK_SECONDS) -> list[Flight]:
        """What the nucleus took last may never have left the device: give it back, the newest first, to be sent again.

        Args:
            certain: Whether the cloud is out of reach. If it only may be, nothing goes a third time: others may fill the window.
            seconds: How long ago it may have been taken.
        """
        since = self._monotonic() - seconds
        unconfirmed = [flight for flight in self._unconfirmed if flight.sent >= since]
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        taken = []
        for flight in reversed(unconfirmed):
            if flight.message.id in self._taken_back and not certain:
                self._unconfirmed.appendleft(flight)
                self._unconfirmed_bytes += len(flight.message.payload)
                continue
            self._taken_back.append(flight.message.id)
            taken.append(flight)
        return taken

    def suspect_oldest(self) -> None:
        """The connection is lost: what breaks each connection on which it is sent is dropped after some."""
        answered = {number for number, _ in self._answers}
        oldest = next((number for number in self._in_flight if number not in answered), None)
        if oldest is not None and self._guard.lost(self._in_flight[oldest].message.id):
            text = f"dropped after {MAX_LOST_CONNECTIONS} lost connections"
            self._answers.append((oldest, Failure(FailureKind.INVALID, text)))

    def return_unanswered(self) -> list[Flight]:
        """Nobody will hear the answers that are still missing: give back what waits for one."""
        final = [
            (number, failure)
            for number, failure in self._answers
            if failure is None or failure.kind is FailureKind.INVALID
        ]
        self._answers = final
        answered = {number for number, _ in final}
        return [self._in_flight.pop(number) for number in list(self._in_flight) if number not in answered]


def packet_bytes(messages: Iterable[Message]) -> int:
    """What messages take as MQTT packets."""
    return sum(len(message.topic.encode()) + len(message.payload) + MQTT_PACKET_BYTES for message in messages)
