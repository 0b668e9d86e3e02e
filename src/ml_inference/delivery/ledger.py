"""The accounting of the cloud path, in scored readings.

It holds one invariant at every moment (`balanced`):

    offered + carried over = delivered + waiting + expired + unwanted

Not locked: `CloudPublisher` calls it under its own lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ml_inference.delivery.outbox.outbox import Outbox


@dataclass(frozen=True, slots=True)
class CloudCounts:
    """Scored readings on their way to the cloud.

    Attributes:
        delivered: Taken by the nucleus: sent on lite, spooled on classic. What it took last is taken back, and is re-sent,
            if the cloud then turns out to be out of reach. An outage so short that nothing was sent meanwhile goes unseen.
        waiting: In memory, in flight or in the outbox.
        expired: Dropped: for want of space or a disk that is too slow, the oldest normal results first; lost with a damaged
            file; refused as invalid; or the cause of lost connections.
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


class Ledger:
    """Where every scored reading for the cloud is.

    Args:
        hold: Told how many readings are in memory or in flight, whenever that changes.

    Attributes:
        recovery: What is wrong with the outbox's file, or happened to it within the last hour, a sentence each.
    """

    def __init__(self, hold: Callable[[int], None] = lambda _: None) -> None:
        self._offered = self._delivered = self._unwanted = self._carried_over = 0
        self._dropped = 0
        self._expired_in_outbox = 0
        self._on_disk = 0
        self._in_memory = 0
        self._hold = hold
        self.recovery: Sequence[str] = ()

    @property
    def in_memory(self) -> int:
        """Readings of messages in memory or in flight."""
        return self._in_memory

    @in_memory.setter
    def in_memory(self, readings: int) -> None:
        self._in_memory = readings
        self._hold(readings)

    def offered(self, wanted: int, unwanted: int) -> None:
        """Readings came: some for the cloud, which now wait in memory, and some that it does not want."""
        self._offered += wanted + unwanted
        self.in_memory += wanted
        self._unwanted += unwanted

    def delivered(self, readings: int) -> None:
        """The nucleus took a message from memory."""
        self.in_memory -= readings
        self._delivered += readings

    def dropped(self, readings: int) -> None:
        """A message from memory was dropped."""
        self.in_memory -= readings
        self._dropped += readings

    def taken_back(self, readings: int) -> None:
        """A message that counted as delivered waits in memory again."""
        self._delivered -= readings
        self.in_memory += readings

    def settle(self, outbox: Outbox, *, stored: int = 0, delivered: int = 0, dropped: int = 0) -> None:
        """Take over the outbox's own counts.

        Args:
            outbox: After the change.
            stored: Readings that went there from memory.
            delivered: Readings that left it because the nucleus took them.
            dropped: Readings that left it because they can never be delivered.
        """
        explained = self._on_disk + self._expired_in_outbox + stored - delivered - dropped
        self.in_memory -= stored
        self._delivered += delivered
        self._dropped += dropped
        self._on_disk = outbox.waiting.weight
        self._expired_in_outbox = outbox.expired.weight + outbox.lost.weight
        # The rest was found in the file: at the start, or when a file that could not be used can be used again.
        self._carried_over += self._on_disk + self._expired_in_outbox - explained
        self.recovery = outbox.troubles

    def counts(self) -> CloudCounts:
        """The counts at this moment."""
        return CloudCounts(
            delivered=self._delivered,
            waiting=self.in_memory + self._on_disk,
            expired=self._expired_in_outbox + self._dropped,
            unwanted=self._unwanted,
            carried_over=self._carried_over,
        )

    @property
    def balanced(self) -> bool:
        """Whether the invariant holds."""
        now = self.counts()
        return self._offered + now.carried_over == now.delivered + now.waiting + now.expired + now.unwanted
