"""An MQTT connection's bytes: messages are read here, every other packet is left to the client library.

A client library makes an object, two locks and several calls of each message; here it is some slices of a buffer, at a third of the
cost. A message is acknowledged when it has been taken. It must never take a message that is not whole, nor hold more of one than may
be read of it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

from inference_bridge.extract import MAX_PAYLOAD_BYTES

PIECE_BYTES = 65_536
MAX_HELD_BYTES = MAX_PAYLOAD_BYTES + 2 * PIECE_BYTES
"""Of one packet: the longest payload that is read, topic and properties. What a packet has beyond is passed over."""

_PUBLISH = 0x30
_RETAIN, _QOS = 0x01, 0x06
_MORE = 0x80
_LENGTH_BYTES = 4
"""At most, of a packet's length (MQTT 3.1.1 and 5, 2.2.3 and 2.1.4)."""


class MalformedError(Exception):
    """What came is no MQTT."""


class Stream:
    """A connected socket that does not wait, as the client library sees it.

    Args:
        sock: With or without TLS.
        properties: Whether messages have properties (MQTT 5).
    """

    def __init__(self, sock: Any, *, properties: bool) -> None:
        self._sock = sock
        self._properties = properties
        self._buffer = b""
        self._at = 0
        self._granted = 0
        self._skip = 0
        self._unsent = bytearray()
        self.ended = False

    # What the loop calls.

    def fill(self) -> bool:
        """Read a piece, if one has come; whether one had."""
        try:
            piece = self._sock.recv(PIECE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not piece:
            self.ended = True
            return False
        if self._skip:
            skipped = min(self._skip, len(piece))
            self._skip -= skipped
            piece = piece[skipped:]
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        return True

    def messages(self) -> Iterator[tuple[str, bytes, bool]]:
        """The messages that are whole, up to the next packet of another kind: topic, payload, and whether the broker had kept it.

        Raises:
            MalformedError: What came is no MQTT.
        """
        buffer, end = self._buffer, len(self._buffer)
        while self._at < end and buffer[self._at] & 0xF0 == _PUBLISH and buffer[self._at] & _QOS < 4:  # noqa: PLR2004 - QoS 2
            length, start = self._length()
            held = min(length, MAX_HELD_BYTES)
            if start == 0 or start + held > end:
                return
            flags = buffer[self._at]
            after = start + held
            position = start + 2 + (buffer[start] << 8 | buffer[start + 1]) if held > 1 else after + 1
            topic = buffer[start + 2 : position]
            acknowledgement = b""
            if flags & _QOS:
                acknowledgement = b"\x40\x02" + buffer[position : position + 2]
                position += 2
            if self._properties:
                size, position = self._varint(position)
                position += size
            if position > after:
                raise MalformedError("a message is shorter than its topic")
            payload = buffer[position:after]
            self._at = after
            if length > held:
                self._pass_over(length - held)
                buffer, end = self._buffer, len(self._buffer)
            yield topic.decode("utf-8", "replace"), payload, bool(flags & _RETAIN)
            self._unsent += acknowledgement

    def grant(self) -> bool:
        """Let the client library read the next packet, which is no message; whether it is there as a whole.

        Raises:
            MalformedError: What came is no MQTT.
        """
        if self._at >= len(self._buffer):
            return False
        length, start = self._length()
        if length > MAX_HELD_BYTES:
            raise MalformedError(f"a packet has {length} bytes")
        if start == 0 or start + length > len(self._buffer):
            return False
        self._granted = start + length - self._at
        return True

    @property
    def unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    @property
    def pending(self) -> bool:
        """Whether TLS holds something that the system no longer shows."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def flush(self) -> None:
        """Hand to the system what it takes.

        Raises:
            OSError: The connection is lost.
        """
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return

    def finish(self, seconds: float) -> None:
        """Write what waits, and let the other side read it: a socket that is closed with something unread takes back what it sent.

        Args:
            seconds: To wait at most.
        """
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while self._unsent and (left := until - time.monotonic()) > 0:
                select.select([], [self._sock], [], left)
                self.flush()
            # Of the connection below TLS, which would wait for an answer in kind.
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0 and select.select([self._sock], [], [], left)[0]:
                if not socket.socket.recv(self._sock, PIECE_BYTES):
                    return

    def _length(self) -> tuple[int, int]:
        """What the next packet's length is, and where it begins; the beginning is 0 if that has not come yet."""
        length, start = self._varint(self._at + 1)
        return (length, start) if start <= len(self._buffer) else (0, 0)

    def _varint(self, position: int) -> tuple[int, int]:
        """A number, and the position after it: beyond the buffer, if it has not come yet."""
        buffer, number = self._buffer, 0
        for count in range(_LENGTH_BYTES):
            if position + count >= len(buffer):
                return 0, len(buffer) + 1
            byte = buffer[position + count]
            number |= (byte & 0x7F) << 7 * count
            if not byte & _MORE:
                return number, position + count + 1
        raise MalformedError("a length has more than four bytes")

    def _pass_over(self, count: int) -> None:
        here = min(count, len(self._buffer) - self._at)
        self._at += here
        self._skip = count - here

    # What the client library calls.

    def recv(self, size: int) -> bytes:
        """Bytes of a granted packet.

        Raises:
            BlockingIOError: None is granted.
        """
        if not self._granted:
            raise BlockingIOError
        part = self._buffer[self._at : self._at + min(size, self._granted)]
        self._at += len(part)
        self._granted -= len(part)
        return part

    def send(self, data: bytes) -> int:
        """Take bytes to be written with the others; their number."""
        self._unsent += data
        return len(data)

    def close(self) -> None:
        """Write what can be written, and close."""
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
