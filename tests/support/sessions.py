"""A session whose nucleus is the test: it answers each publish when, and as, the test says."""

from __future__ import annotations

from threading import Condition, Event

from awsiot.eventstreamrpc import ConnectionClosedError, StreamClosedError
from awsiot.greengrasscoreipc.model import InvalidArgumentsError, ServiceError, UnauthorizedError

from ml_inference.greengrass.errors import classify
from ml_inference.greengrass.session import Answered

REFUSED = ServiceError(message="no network")
INVALID = InvalidArgumentsError(message="bad topic")
FORBIDDEN = UnauthorizedError(message="not allowed")
BROKEN = StreamClosedError()


class Call:
    """A publish that waits for its answer."""

    def __init__(self, topic: str, payload: bytes, qos: int | None, answered: Answered) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.done = False
        self._answered = answered

    def answer(self, error: Exception | None = None) -> None:
        """Succeed, or fail with an error."""
        self.done = True
        self._answered(None if error is None else classify(error))


class FakeSession:
    """Takes the place of `Session` for publishers.

    Attributes:
        calls: Every publish so far, in order.
        spools: Whether it is a classic nucleus's, which takes messages while it is offline.
        at_once: What a publish is answered with at once: None for success, an error, or "later" for when the test says.
    """

    def __init__(self, at_once: Exception | str | None = "later") -> None:
        self.calls: list[Call] = []
        self.at_once = at_once
        self.lost = Event()
        self.spools = False
        self._changed = Condition()

    def publish_local(self, topic: str, payload: bytes, answered: Answered) -> None:
        self._publish(Call(topic, payload, None, answered))

    def publish_cloud(self, topic: str, payload: bytes, qos: int, answered: Answered) -> None:
        self._publish(Call(topic, payload, qos, answered))

    def break_off(self) -> None:
        """The connection is gone: every call ends, and each further one fails at once."""
        self.at_once = ConnectionClosedError()
        self.lost.set()
        for call in self.open():
            call.answer(BROKEN)

    def open(self) -> list[Call]:
        """Calls that have no answer yet."""
        return [call for call in self.calls if not call.done]

    def payloads(self) -> list[bytes]:
        return [call.payload for call in self.calls]

    def wait_for_calls(self, count: int, timeout: float = 10.0) -> list[Call]:
        """Wait until there were so many calls in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, timeout), f"only {len(self.calls)} calls"
            return list(self.calls)

    def _publish(self, call: Call) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        if not isinstance(self.at_once, str):
            call.answer(self.at_once)
