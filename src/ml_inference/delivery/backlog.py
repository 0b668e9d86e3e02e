"""New results that wait in memory for their turn to the cloud, in order.

Not locked: `CloudPublisher` calls it under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ml_inference.delivery.routing import Message

MEMORY_MESSAGES = 1_000
"""New results that may wait in memory before they go to disk."""
MEMORY_BYTES = 10_000_000
"""Payloads of new results that may be in memory where the disk does not keep up."""


class Backlog:
    """A queue to which a message can return in its place.

    Attributes:
        payload_bytes: Of the messages that wait, and of those that were taken and may return.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[int, Message]] = deque()
        self._next = 0
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Message) -> None:
        """Queue a new message."""
        self._messages.append((self._next, message))
        self._next += 1
        self.payload_bytes += len(message.payload)

    def first(self) -> Message:
        """The message whose turn it is."""
        return self._messages[0][1]

    def take(self) -> tuple[int, Message]:
        """Take it, with its place in the order."""
        return self._messages.popleft()

    def put_back(self, order: int, message: Message) -> None:
        """Let a message that was taken wait again in its place."""
        # Only what was sent before and came back, a window at most, can be older.
        older = 0
        while older < len(self._messages) and self._messages[older][0] < order:
            older += 1
        self._messages.insert(older, (order, message))

    def forget(self, message: Message) -> None:
        """A message that was taken will not return."""
        self.payload_bytes -= len(message.payload)

    def remember(self, message: Message) -> None:
        """A message that was forgotten returns after all."""
        self.payload_bytes += len(message.payload)

    def take_all(self) -> list[tuple[int, Message]]:
        """Take everything, in order."""
        taken = list(self._messages)
        self._messages.clear()
        return taken

    def return_all(self, taken: Sequence[tuple[int, Message]]) -> None:
        """Put back what `take_all` took, before anything that came meanwhile."""
        self._messages.extendleft(reversed(taken))

    @property
    def has_alarm(self) -> bool:
        """Whether an alarm waits."""
        return any(message.alarm for _, message in self._messages)

    @property
    def overfull(self) -> bool:
        """Whether there is more than memory should hold."""
        return self.payload_bytes > MEMORY_BYTES

    def shed(self) -> list[Message]:
        """Drop the oldest normal results, then the oldest alarms, down to three quarters of the bound.

        Returns:
            What was dropped.
        """
        excess = self.payload_bytes - MEMORY_BYTES * 3 // 4
        shed: list[Message] = []
        for alarms in (False, True):
            kept: deque[tuple[int, Message]] = deque()
            for order, message in self._messages:
                if excess > 0 and message.alarm == alarms:
                    excess -= len(message.payload)
                    shed.append(message)
                else:
                    kept.append((order, message))
            self._messages = kept
        for message in shed:
            self.forget(message)
        return shed
