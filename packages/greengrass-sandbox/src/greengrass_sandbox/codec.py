"""The frames of AWS's event-stream protocol: bytes to messages and back.

A frame is, big-endian: u32 total length, u32 length of the headers, u32 CRC-32 of those eight bytes, headers, payload, u32 CRC-32 of
everything before it. This module knows nothing of what a message means, and it must never hand out a frame whose checksums
it has not verified.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

HeaderValue = bool | int | str | bytes | UUID

OVERHEAD: Final = 16
"""Bytes of a frame without headers and payload."""

_PRELUDE: Final = struct.Struct(">II")
_U32: Final = struct.Struct(">I")
_U16: Final = struct.Struct(">H")
_INTEGERS: Final = {
    2: struct.Struct(">b"),
    3: struct.Struct(">h"),
    4: struct.Struct(">i"),
    5: struct.Struct(">q"),
    8: struct.Struct(">q"),
}
_TRUE, _FALSE, _INT32, _INT64, _BYTES, _STRING, _UUID = 0, 1, 4, 5, 6, 7, 9


class CodecError(Exception):
    """Bytes that are no frame: a wrong checksum, lengths that contradict each other, an unknown header type."""


class FrameTooLargeError(CodecError):
    """A frame that announces more bytes than the decoder accepts."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        headers: By name, in wire order. An integer is written as 32 bits where it fits, else as 64; a timestamp is read
            as milliseconds since 1970.
        payload: The bytes after the headers.
    """

    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    payload: bytes = b""

    def integer(self, name: str) -> int:
        """Returns the integer header of this name, 0 where there is none."""
        value = self.headers.get(name, 0)
        return value if isinstance(value, int) else 0

    def text(self, name: str) -> str:
        """Returns the string header of this name, "" where there is none."""
        value = self.headers.get(name, "")
        return value if isinstance(value, str) else ""


def encode(frame: Frame) -> bytes:
    """Returns the frame's bytes.

    Raises:
        CodecError: A header's name is longer than 255 bytes or its value than 65,535, or an integer needs more than 64 bits.
    """
    try:
        headers = b"".join(_encode_header(name, value) for name, value in frame.headers.items())
    except struct.error as error:
        raise CodecError(f"a header does not fit its field: {error}") from error
    prelude = _PRELUDE.pack(OVERHEAD + len(headers) + len(frame.payload), len(headers))
    body = b"".join((prelude, _U32.pack(zlib.crc32(prelude)), headers, frame.payload))
    return body + _U32.pack(zlib.crc32(body))


def _encode_header(name: str, value: HeaderValue) -> bytes:
    key = name.encode()
    start = struct.pack(">B", len(key)) + key
    if isinstance(value, bool):
        return start + bytes([_TRUE if value else _FALSE])
    if isinstance(value, int):
        kind = _INT32 if -(2**31) <= value < 2**31 else _INT64
        return start + bytes([kind]) + _INTEGERS[kind].pack(value)
    if isinstance(value, UUID):
        return start + bytes([_UUID]) + value.bytes
    kind, raw = (_STRING, value.encode()) if isinstance(value, str) else (_BYTES, value)
    return start + bytes([kind]) + _U16.pack(len(raw)) + raw


def _decode_headers(data: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(data):
            end = at + 1 + data[at]
            name, kind = data[at + 1 : end].decode(), data[end]
            headers[name], at = _decode_value(data, kind, end + 1)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CodecError(f"broken headers: {error}") from error
    return headers


def _decode_value(data: bytes, kind: int, at: int) -> tuple[HeaderValue, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in _INTEGERS:
        return _INTEGERS[kind].unpack_from(data, at)[0], at + _INTEGERS[kind].size
    if kind in (_BYTES, _STRING):
        end = at + 2 + _U16.unpack_from(data, at)[0]
        if end > len(data):
            raise ValueError("a value ends after the headers")
        return (data[at + 2 : end].decode() if kind == _STRING else data[at + 2 : end]), end
    if kind == _UUID:
        return UUID(bytes=data[at : at + 16]), at + 16
    raise ValueError(f"unknown header type {kind}")


class Decoder:
    """Cuts a stream of bytes into frames, however the bytes arrive.

    Args:
        limit: The longest frame accepted, in bytes, all included.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Takes bytes and yields each frame that is complete.

        A frame is refused as soon as its first twelve bytes are wrong, before the rest is waited for.

        Raises:
            CodecError: The stream is damaged; nothing after this can be trusted.
            FrameTooLargeError: A frame is longer than the limit.
        """
        self._buffer += data
        while len(self._buffer) >= _PRELUDE.size + 4:
            total, headers = _PRELUDE.unpack_from(self._buffer)
            if zlib.crc32(self._buffer[:8]) != _U32.unpack_from(self._buffer, 8)[0]:
                raise CodecError("the checksum of the prelude is wrong")
            if total > self._limit:
                raise FrameTooLargeError(f"a frame of {total} bytes, at most {self._limit} are accepted")
            if total < OVERHEAD + headers:
                raise CodecError(f"a frame of {total} bytes cannot hold {headers} bytes of headers")
            if len(self._buffer) < total:
                return
            raw = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(raw[:-4]) != _U32.unpack_from(raw, total - 4)[0]:
                raise CodecError("the checksum of the frame is wrong")
            yield Frame(_decode_headers(raw[12 : 12 + headers]), raw[12 + headers : -4])
