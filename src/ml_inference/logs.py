"""Logging as a nucleus files it, without floods, and without what a stranger's text could do to a log.

A failure that repeats is logged at 1, 2, 4, 8, ... occurrences; a name is logged only as `escaped` gives it.
"""

from __future__ import annotations

import logging
import sys

MAX_NAME_CHARACTERS = 64
"""Of a name in a log line: enough to know which machine."""


def log_to_nucleus(level: int = logging.INFO) -> None:
    """Log warnings and errors to standard error, the rest to standard output: the classic nucleus tells them apart by that.

    Args:
        level: Of the root logger.
    """
    normal, serious = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    normal.addFilter(lambda record: record.levelno < logging.WARNING)
    serious.setLevel(logging.WARNING)
    # The nucleus's log has its own time stamps.
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level, handlers=[normal, serious])
    # Whoever asked the SDK to connect is told how that ended, and says what it means.
    logging.getLogger("awsiot.eventstreamrpc").addFilter(lambda record: "connect failed" not in str(record.msg))


class Occurrences:
    """Counts a repeating failure and says when it is worth a line.

    Attributes:
        count: How many there were.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int = 1) -> bool:
        """Count, and say whether to log: when the count reaches or passes a power of two."""
        before, self.count = self.count, self.count + number
        return before.bit_length() != self.count.bit_length()


def escaped(text: object, limit: int = MAX_NAME_CHARACTERS) -> str:
    """A name from a message or a file as it may stand in a log line or an error.

    Args:
        text: The name. Line ends, control characters, and whatever else cannot be printed are written as escapes.
        limit: Most characters; what is longer ends in an ellipsis.
    """
    shown = str(text)[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
