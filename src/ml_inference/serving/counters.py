"""The accounting of readings, which holds at every moment.

    received = scored + rejected + dropped + queued

A message counts as one reading until it is taken apart, a batch as its readings from then on. It never estimates: each
change keeps both sides equal under one lock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from threading import RLock


@dataclass(frozen=True, slots=True)
class Counts:
    """Readings since the component started.

    Attributes:
        received: Taken from the input topic.
        scored: Scored and handed on.
        rejected: Refused with an error.
        dropped: Given up unscored because the queue was full or the component had to stop.
        queued: Waiting or being scored.
    """

    received: int = 0
    scored: int = 0
    rejected: int = 0
    dropped: int = 0
    queued: int = 0

    def as_message(self) -> dict[str, int]:
        """As they stand in the health message."""
        return asdict(self)


class Counters:
    """Counts that several threads change.

    Attributes:
        lock: Hold it to change or read these counts and others that must agree with them at one moment.
        over: Whether the process ends and nothing is counted any more; see `end`.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self._received = self._scored = self._rejected = self._dropped = self._queued = 0
        self.over = False

    def arrived(self) -> None:
        """A message was queued."""
        with self.lock:
            self._received += 1
            self._queued += 1

    def dropped(self, messages: int = 1) -> None:
        """Queued messages were dropped unscored."""
        with self.lock:
            self._queued -= messages
            self._dropped += messages

    def end(self) -> int:
        """The time to stop is over: what is still being scored is dropped, and nothing that becomes of it counts.

        Returns:
            How many messages that are.
        """
        with self.lock:
            self.over = True
            queued = self._queued
            self.dropped(queued)
            return queued

    def finished(self, *, scored: int, rejected: int) -> None:
        """A queued message was processed.

        Args:
            scored: Its readings that were scored.
            rejected: Its readings, or 1 for a message that could not be taken apart, that were not.
        """
        with self.lock:
            self._received += scored + rejected - 1
            self._queued -= 1
            self._scored += scored
            self._rejected += rejected

    def snapshot(self) -> Counts:
        """The counts at one moment."""
        with self.lock:
            return Counts(self._received, self._scored, self._rejected, self._dropped, self._queued)
