"""The bytes of an MQTT connection: whole messages, however they are cut, and nothing else."""

from __future__ import annotations

import pytest

from inference_bridge.extract import MAX_PAYLOAD_BYTES
from inference_bridge.sources.stream import MAX_HELD_BYTES, MalformedError, Stream

PING = b"\xd0\x00"


class Sock:
    """A socket that has some pieces, and then nothing more."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.pop(0)
        assert len(piece) <= size
        return piece

    def send(self, data: bytes) -> int:
        self.sent += data[:3]
        return len(data[:3])


def length(number: int) -> bytes:
    digits = []
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (128 if number else 0))
        if not number:
            return bytes(digits)


def message(topic: str, payload: bytes, *, mid: int = 0, flags: int = 0, properties: bytes = b"") -> bytes:
    body = len(topic.encode()).to_bytes(2, "big") + topic.encode()
    body += mid.to_bytes(2, "big") if mid else b""
    body += properties + payload
    return bytes([0x30 | (2 if mid else 0) | flags]) + length(len(body)) + body


def heard(stream: Stream) -> list[tuple[str, bytes, bool]]:
    found = []
    while True:
        more = stream.fill()
        found += list(stream.messages())
        if not more:
            return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_messages_are_whole_however_they_are_cut_and_acknowledged_in_their_order(size: int) -> None:
    text = b"x" * 300
    whole = (
        message("a/b", b"1", mid=7) + message("설", text, mid=0x1234, flags=9) + message("c", b"") + message("d", b"2")
    )
    sock = Sock(*(whole[start : start + size] for start in range(0, len(whole), size)))
    stream = Stream(sock, properties=False)
    assert heard(stream) == [("a/b", b"1", False), ("설", text, True), ("c", b"", False), ("d", b"2", False)]
    stream.flush()
    assert sock.sent == b"\x40\x02\x00\x07\x40\x02\x12\x34"


def test_the_properties_of_mqtt_5_are_passed_over() -> None:
    stream = Stream(Sock(message("a", b"1", mid=1, properties=length(200) + b"p" * 200)), properties=True)
    assert heard(stream) == [("a", b"1", False)]


def test_what_is_no_message_is_the_client_librarys_and_only_as_a_whole() -> None:
    stream = Stream(Sock(message("a", b"1") + PING[:1], PING[1:] + message("b", b"2")), properties=False)
    assert stream.fill()
    assert list(stream.messages()) == [("a", b"1", False)]
    assert not stream.grant()
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    assert stream.fill()
    assert not list(stream.messages())
    assert stream.grant()
    assert stream.recv(1) + stream.recv(100) == PING
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    assert list(stream.messages()) == [("b", b"2", False)]


def test_of_a_huge_message_no_more_is_held_than_may_be_read_and_the_next_one_is_whole() -> None:
    whole = message("a", b"x" * (5 * MAX_PAYLOAD_BYTES), mid=1) + message("b", b"2", mid=2)
    stream = Stream(Sock(*(whole[start : start + 60_000] for start in range(0, len(whole), 60_000))), properties=False)
    (huge, after) = heard(stream)
    assert MAX_PAYLOAD_BYTES < len(huge[1]) <= MAX_HELD_BYTES
    assert after == ("b", b"2", False)


@pytest.mark.parametrize(
    ("wrong", "properties"),
    [
        (b"\x30\xff\xff\xff\xff\x01", False),
        (b"\x30\x03\x00\x09a", False),
        (b"\x32\x03\x00\x01a", False),
        (b"\x30\x00", False),
        (b"\x30\x05\x00\x01a\x7fp", True),
        (b"\xd0\xff\xff\xff\x7f", False),
    ],
)
def test_what_is_no_mqtt_is_said_to_be_none(wrong: bytes, properties: bool) -> None:
    stream = Stream(Sock(wrong + b"y" * 10), properties=properties)
    stream.fill()

    def read() -> None:
        assert not list(stream.messages())
        stream.grant()

    with pytest.raises(MalformedError):
        read()
