from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from greengrass_sandbox.codec import CodecError, Decoder, Frame, FrameTooLargeError, encode

LIMIT = 1 << 20

names = st.text(min_size=1, max_size=60).filter(lambda name: len(name.encode()) <= 255)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=100),
    st.binary(max_size=100),
    st.uuids(),
)
frames = st.builds(Frame, st.dictionaries(names, values, max_size=8), st.binary(max_size=2000))


def read_by_botocore(raw: bytes) -> Any:
    untyped: Any = EventStreamBuffer  # botocore has no annotations
    buffer = untyped()
    buffer.add_data(raw)
    return next(buffer)


def as_botocore_gives_it(value: Any) -> Any:
    return value.bytes if isinstance(value, UUID) else value


def raw_frame(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


@given(frames)
def test_botocore_reads_every_frame_as_it_was_meant(frame: Frame) -> None:
    message = read_by_botocore(encode(frame))
    assert message.headers == {name: as_botocore_gives_it(value) for name, value in frame.headers.items()}
    assert message.payload == frame.payload


@given(st.lists(frames, max_size=5), st.data())
def test_frames_come_out_whole_however_the_bytes_arrive(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = Decoder(LIMIT)
    got = [frame for start, end in pairwise([0, *cuts, len(stream)]) for frame in decoder.feed(stream[start:end])]
    assert got == sent


@given(frames, st.data())
def test_a_single_flipped_bit_is_noticed(frame: Frame, data: st.DataObject) -> None:
    raw = bytearray(encode(frame))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CodecError):
        list(Decoder(LIMIT).feed(bytes(raw)))


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (2, b"\xff", -1),
        (3, b"\x01\x00", 256),
        (4, b"\xff\xff\xff\xfe", -2),
        (5, b"\x00" * 7 + b"\x09", 9),
        (8, b"\x00" * 7 + b"\x05", 5),
    ],
)
def test_integers_of_every_size_are_read_as_botocore_reads_them(kind: int, raw: bytes, value: int) -> None:
    frame = raw_frame(b"\x01n" + bytes([kind]) + raw)
    (mine,) = Decoder(LIMIT).feed(frame)
    assert read_by_botocore(frame).headers == mine.headers == {"n": value}


@pytest.mark.parametrize(
    "headers",
    [b"\x05ab", b"\x01n\x0a", b"\x01n\x07\x00\x09abc", b"\x01n\x04\x00", b"\x01n\x07\x00\x01\xff", b"\x01n\x09short"],
    ids=["name cut", "unknown type", "string cut", "integer cut", "no UTF-8", "uuid cut"],
)
def test_broken_headers_are_refused(headers: bytes) -> None:
    with pytest.raises(CodecError):
        list(Decoder(LIMIT).feed(raw_frame(headers)))


def test_headers_longer_than_their_frame_are_refused() -> None:
    prelude = struct.pack(">II", 20, 100)
    with pytest.raises(CodecError, match="cannot hold"):
        list(Decoder(LIMIT).feed(prelude + struct.pack(">I", zlib.crc32(prelude))))


def test_a_frame_that_is_too_large_is_refused_at_its_first_twelve_bytes() -> None:
    raw = encode(Frame(payload=b"x" * 100))
    assert len(list(Decoder(len(raw)).feed(raw))) == 1
    with pytest.raises(FrameTooLargeError):
        list(Decoder(len(raw) - 1).feed(raw[:12]))


@pytest.mark.parametrize("headers", [{"n" * 256: 1}, {"n": "x" * 65536}, {"n": 2**63}])
def test_a_header_that_does_not_fit_its_field_is_not_written(headers: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        encode(Frame(headers))
