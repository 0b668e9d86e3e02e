"""Readings on their way to the nucleus: packed into batches, sent a bounded number at a time, kept while there is no nucleus.

It must never wait for an answer, hold more than its room (the oldest make it, and are counted), or lose count of a reading.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

from pydantic_core import to_json

from inference_bridge.accounts import ReadingCounts
from ml_inference.backoff import Backoff
from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.limits import CALL_SECONDS, MAX_PAYLOAD_BYTES
from ml_inference.logs import Occurrences

WINDOW = 32
"""Batches on their way without an answer: some 200 kB."""

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """What a session offers."""

    def publish_local(self, topic: str, payload: bytes, answered: Callable[[Failure | None], None]) -> None:
        """Publish; see `ml_inference.greengrass.session.Session`."""


@dataclass(slots=True, eq=False)
class _Batch:
    payload: bytes
    readings: int
    sent_at: float = 0.0
    # The answer to an earlier attempt must not count for a later one.
    attempt: int = 0


def pack(readings: Iterable[dict[str, Any]], limit: int = MAX_PAYLOAD_BYTES) -> list[tuple[bytes, int]]:
    """Readings as JSON arrays.

    Args:
        readings: Of any number.
        limit: Bytes of one array; a reading that is larger alone is an array of its own.

    Returns:
        Payloads, each with the number of its readings.
    """
    batches: list[tuple[bytes, int]] = []
    parts: list[bytes] = []
    size = 2
    for reading in readings:
        part = to_json(reading)  # a third of the cost of json.dumps
        if parts and size + len(part) > limit:
            batches.append((b"[" + b",".join(parts) + b"]", len(parts)))
            parts, size = [], 2
        parts.append(part)
        size += len(part) + 1
    if parts:
        batches.append((b"[" + b",".join(parts) + b"]", len(parts)))
    return batches


class Outbox:
    """Batches on their way. May be used from any thread.

    Args:
        counts: Takes what became of the readings.
        max_bytes: Room for those that wait.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self, counts: ReadingCounts, *, max_bytes: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts = counts
        self.max_bytes = max_bytes
        self._monotonic = monotonic
        self._lock = Lock()
        self._waiting: deque[_Batch] = deque()
        self._bytes = 0
        self._sent: dict[_Batch, None] = {}
        self._pause = Backoff(monotonic, first=0.2, longest=10.0)
        self._failures = Occurrences()
        self._drops = Occurrences()
        self.problem: str | None = None

    def put(self, readings: list[dict[str, Any]]) -> None:
        """Take readings."""
        batches = pack(readings)
        with self._lock:
            for payload, number in batches:
                self.counts.assembled += number
                if len(payload) > MAX_PAYLOAD_BYTES:
                    self.counts.refused += number
                    self.problem = f"a reading of {len(payload)} bytes is larger than a message may be"
                    continue
                self.counts.waiting += number
                self._waiting.append(_Batch(payload, number))
                self._bytes += len(payload)
            self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self.max_bytes and self._waiting:
            oldest = self._waiting.popleft()
            self._bytes -= len(oldest.payload)
            self._settle(oldest, dropped=True)

    def _settle(self, batch: _Batch, *, dropped: bool) -> None:
        self.counts.waiting -= batch.readings
        if dropped:
            self.counts.dropped += batch.readings
            if self._drops.add(batch.readings):
                logger.warning("no room for readings: %d dropped", self._drops.count)
        else:
            self.counts.published += batch.readings

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self._waiting and not self._sent

    def send(self, session: Publisher, topic: str) -> None:
        """Send what may be sent now."""
        now = self._monotonic()
        with self._lock:
            self._give_up_on_answers(now)
            if now < self._pause.at:
                return
            batches = []
            while self._waiting and len(self._sent) < WINDOW:
                batch = self._waiting.popleft()
                self._bytes -= len(batch.payload)
                batch.sent_at = now
                batch.attempt += 1
                self._sent[batch] = None
                batches.append((batch, batch.attempt))
        for batch, attempt in batches:
            session.publish_local(topic, batch.payload, partial(self._answered, batch, attempt))

    def _give_up_on_answers(self, now: float) -> None:
        late = [batch for batch in self._sent if now - batch.sent_at > 2 * CALL_SECONDS]
        for batch in reversed(late):
            self._again(batch)

    def _answered(self, batch: _Batch, attempt: int, failure: Failure | None) -> None:
        with self._lock:
            if batch not in self._sent or batch.attempt != attempt:
                return
            if failure is None:
                del self._sent[batch]
                self._settle(batch, dropped=False)
                self._pause.succeeded()
                self.problem = None
                return
            if self._failures.add():
                logger.warning("publishing readings fails: %s", failure.text)
            self.problem = failure.text
            if failure.kind is FailureKind.INVALID:
                del self._sent[batch]
                self.counts.waiting -= batch.readings
                self.counts.refused += batch.readings
                return
            if failure.kind is not FailureKind.LOST:
                self._pause.failed()
            self._again(batch, resent=failure.kind is FailureKind.LOST)

    def take_over(self, batches: list[tuple[bytes, int]]) -> None:
        """Take what the process before this one had kept; it goes first."""
        with self._lock:
            for payload, number in reversed(batches):
                self.counts.carried_over += number
                self.counts.waiting += number
                self._waiting.appendleft(_Batch(payload, number))
                self._bytes += len(payload)
            self._make_room()

    def keep_all(self, keep: Callable[[list[bytes]], bool]) -> None:
        """The process ends: what nobody took is kept for the next one, or else lost; both are counted.

        Args:
            keep: Keeps payloads; whether it could.
        """
        with self._lock:
            # In the order in which they were made; what is on its way may have been taken, and is sent again.
            batches = [*self._sent, *self._waiting]
            kept = bool(batches) and keep([batch.payload for batch in batches])
            for batch in batches:
                if kept:
                    self.counts.waiting -= batch.readings
                    self.counts.kept += batch.readings
                else:
                    self._settle(batch, dropped=True)
            self._sent.clear()
            self._waiting.clear()
            self._bytes = 0

    def lost(self) -> None:
        """The connection is gone; what was on its way is sent again over the next one."""
        with self._lock:
            for batch in list(reversed(self._sent)):
                self._again(batch)

    def _again(self, batch: _Batch, *, resent: bool = True) -> None:
        del self._sent[batch]
        if resent:
            self.counts.resent += batch.readings
        self._waiting.appendleft(batch)
        self._bytes += len(batch.payload)
