"""One process at a time in a work directory.

When the Java process of the classic nucleus is killed, its loader starts another, which starts the component again, while the
process before lives on until it notices that its token is worth nothing. Two of them would write down the same results. So
the second waits for the first; it must never wait for ever, since a process may hang.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

LOCK_FILE = "lock"
WAIT_SECONDS = 20.0
"""The process before looks for the nucleus every 5 s at least, and then has 3.5 s to end."""
LOOK_SECONDS = 0.05

logger = logging.getLogger(__name__)


def be_alone(
    directory: Path,
    *,
    wait: float = WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until no other process is at work in a directory, and keep others out for as long as this one lives.

    Args:
        directory: Where the lock is.
        wait: Longest wait in seconds; then it goes on all the same. So it does where there can be no lock.
        sleep: Waits for so many seconds.
        monotonic: Seconds of a clock that never goes back.
    """
    until = monotonic() + wait
    waiting = False
    try:
        # Left open: the lock ends with the process, however that ends. Children do not inherit it.
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock(descriptor):
            if monotonic() >= until:
                logger.warning("another process is still at work in %s; going on beside it", directory)
                return
            if not waiting:
                logger.info("waiting for the process before to end")
            waiting = True
            sleep(LOOK_SECONDS)
    except OSError as error:  # such as a file system without locks
        logger.warning("cannot find out whether another process is at work here: %s", error)


def _lock(descriptor: int) -> bool:
    """Take the lock; whether nobody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
