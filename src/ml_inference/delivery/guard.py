"""Finds the message that breaks each connection on which it is sent.

The payload itself may be what breaks it (as a frame over 10,000 bytes does on nucleus lite); sent again and again, it would
keep everything behind it from going.
"""

from __future__ import annotations

from collections.abc import Hashable

MAX_LOST_CONNECTIONS = 5
"""Lost connections in a row on which the same message was the oldest without an answer, after which it is dropped."""


class ConnectionGuard:
    """Counts the lost connections on which one message was the oldest without an answer."""

    def __init__(self) -> None:
        self._suspect: Hashable = None
        self._losses = 0

    def lost(self, oldest: Hashable) -> bool:
        """A connection was lost.

        Args:
            oldest: What tells the oldest message without an answer from others.

        Returns:
            Whether that message is to be dropped.
        """
        self._losses = self._losses + 1 if oldest == self._suspect else 1
        self._suspect = oldest
        return self._losses >= MAX_LOST_CONNECTIONS
