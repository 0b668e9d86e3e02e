"""Numbers the results on their way to the cloud, over restarts, so that a consumer sees by a gap what was lost.

A number is never given twice. Each is written to a small file before its message goes anywhere, without a sync: the kernel
keeps what a killed process wrote, and puts the page on the flash some twice a minute. Only a power cut can take the last
half minute back; the numbers then jump ahead by `JUMP`. Beside the number stands how many readings are in memory only, so
that the start after a kill says what it cost at most. It must never stop the scoring: without its file it counts on from
the time.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from threading import Lock

JUMP = 100_000
"""Numbers skipped after a power cut: more than a device can have given since the kernel last wrote."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_MAGIC = b"MLSEQ\x00\x00\x01"
_RECORD = struct.Struct("<8sQQ36sB")  # magic, number, readings in memory, boot, whether it was closed
_CHECKSUM = struct.Struct("<I")

logger = logging.getLogger(__name__)


class Sequence:
    """The number of the latest result for the cloud. Thread-safe.

    Args:
        path: The file; its directory exists.

    Attributes:
        lost: Readings that the process before had in memory only when it was killed, at most; 0 if it was not.
    """

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._boot = _boot_id()
        self._in_memory = 0
        self._file: int | None = None
        self.lost = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._number = self._read(self._file)
        except OSError as error:
            self._number = _from_time()
            logger.warning("the sequence of messages to the cloud cannot be kept: %s", error)
        self._write(closed=False)

    def next(self) -> int:
        """The number of the next message."""
        with self._lock:
            self._number += 1
            self._write(closed=False)
            return self._number

    def hold(self, readings: int) -> None:
        """So many readings for the cloud are in memory only."""
        with self._lock:
            if readings != self._in_memory:
                self._in_memory = max(0, readings)
                self._write(closed=False)

    def close(self) -> None:
        """Nothing comes any more. Does not wait for the flash: a sync can take longer than there is to stop."""
        with self._lock:
            self._write(closed=True)
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _read(self, file: int) -> int:
        data = os.pread(file, _RECORD.size + _CHECKSUM.size, 0)
        if not data:
            return 0
        record = data[: _RECORD.size]
        if len(data) != _RECORD.size + _CHECKSUM.size or _CHECKSUM.unpack(data[_RECORD.size :])[0] != zlib.crc32(
            record
        ):
            logger.warning("the file of the sequence of messages to the cloud is damaged: it goes on from the time")
            return _from_time()
        magic, number, in_memory, boot, closed = _RECORD.unpack(record)
        if magic != _MAGIC:
            return _from_time()
        if not closed and boot != self._boot:
            logger.warning("the device went down without notice: the sequence of messages to the cloud jumps ahead")
            return int(number) + JUMP
        self.lost = in_memory
        if in_memory:
            logger.warning(
                "the process before was killed: at most %d results for the cloud were lost; the sequence shows which",
                in_memory,
            )
        return int(number)

    def _write(self, *, closed: bool) -> None:
        if self._file is None:
            return
        record = _RECORD.pack(_MAGIC, self._number, self._in_memory, self._boot, closed)
        try:
            os.pwrite(self._file, record + _CHECKSUM.pack(zlib.crc32(record)), 0)
        except OSError as error:
            logger.warning("the sequence of messages to the cloud cannot be kept: %s", error)
            with suppress(OSError):
                os.close(self._file)
            self._file = None


def _boot_id() -> bytes:
    try:
        return BOOT_ID.read_bytes().strip()[:36].ljust(36)
    except OSError:
        return bytes(36)


def _from_time() -> int:
    """Beyond what was ever counted: a thousand a second since 1970."""
    return time.time_ns() // 1_000_000
