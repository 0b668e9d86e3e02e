"""What no SDK sends and a test double must survive: absurd requests, deep documents, connections that say nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import fuzz
import pytest
from awsiot.greengrasscoreipc import model

from greengrass_sandbox import BackgroundNucleus
from greengrass_sandbox.codec import Decoder, Frame, encode
from greengrass_sandbox.operations import NucleusOperations

Connect = Callable[..., Any]
MakeNucleus = Callable[..., BackgroundNucleus]
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing goes wrong in the event loop or the stand-in itself."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class Raw:
    """A connection without the SDK."""

    def __init__(self, nucleus: BackgroundNucleus, hello: bytes | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(nucleus.socket_path))
        self._decoder = Decoder(2**24)
        self._stream = 0
        token = nucleus.credentials("com.example.Test", fuzz.ACCESS)["SVCUID"]
        self._send({":message-type": 4, ":version": "0.1.0"}, hello or json.dumps({"authToken": token}).encode())

    def ask(self, operation: str, payload: bytes) -> str:
        """Returns the type of the answer, such as `ServiceError`."""
        self._stream += 1
        self._send({":stream-id": self._stream, "operation": f"aws.greengrass#{operation}"}, payload)
        return self.read().text("service-model-type").removeprefix("aws.greengrass#")

    def read(self) -> Frame:
        while data := self.socket.recv(65536):
            for frame in self._decoder.feed(data):
                return frame
        raise EOFError

    def _send(self, headers: dict[str, Any], payload: bytes) -> None:
        full = {":message-type": 0, ":message-flags": 0, ":stream-id": 0} | headers
        self.socket.sendall(encode(Frame(full, payload)))


@pytest.fixture
def raw(nucleus: BackgroundNucleus) -> Iterator[Raw]:
    connection = Raw(nucleus)
    assert connection.read().integer(":message-type") == 5
    yield connection
    connection.socket.close()


@pytest.mark.parametrize("profile", ["classic"])
@pytest.mark.parametrize("hello", [DEEP.encode(), b"7", b"\xff", b'{"authToken": []}', b'{"authToken": "\\ud800"}'])
def test_a_handshake_that_makes_no_sense_closes_the_connection(nucleus: BackgroundNucleus, hello: bytes) -> None:
    connection = Raw(nucleus, hello)
    with pytest.raises(EOFError), contextlib.suppress(ConnectionError):
        connection.read()
    connection.socket.close()
    Raw(nucleus).socket.close()


@pytest.mark.parametrize("profile", ["classic"])
@pytest.mark.parametrize("depth", [300, 2_000, 100_000])
def test_a_request_nested_too_deep_is_an_error(raw: Raw, depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    for operation in ("UpdateConfiguration", "GetConfiguration", "PublishToTopic"):
        payload = b'{"keyPath":[],"timestamp":1,"topic":"a","valueToMerge":' + deep + b"}"
        assert raw.ask(operation, payload) == "ServiceError"
    assert raw.ask("GetConfiguration", b"{}") == "GetConfigurationResponse"


def test_half_a_surrogate_pair_is_replaced_by_classic_and_no_json_for_lite(
    nucleus: BackgroundNucleus, raw: Raw, profile: str
) -> None:
    messages = nucleus.watch("a")
    payload = b'{"topic":"a","publishMessage":{"jsonMessage":{"message":{"text":"\\ud83d!"}}}}'
    answer = raw.ask("PublishToTopic", payload)
    whole = b'{"topic":"a","publishMessage":{"jsonMessage":{"message":{"text":"\\ud83d\\ude00!"}}}}'
    assert raw.ask("PublishToTopic", whole) == "PublishToTopicResponse"
    texts = [message.json()["text"] for message in messages.drain()]
    if profile == "lite":
        assert (answer, texts) == ("ServiceError", ["😀!"])
    else:
        assert (answer, texts) == ("PublishToTopicResponse", ["?!", "😀!"])


@pytest.mark.parametrize("name", [b"7", b"[]", b"{}", b"true", b'["a"]'])
def test_a_components_name_that_is_no_string_is_an_error(raw: Raw, name: bytes) -> None:
    for operation in ("GetConfiguration", "SubscribeToConfigurationUpdate"):
        assert raw.ask(operation, b'{"componentName":' + name + b',"keyPath":[]}') == "ServiceError"
    assert raw.ask("GetConfiguration", b"{}") == "GetConfigurationResponse"


def test_a_number_that_no_float_holds_is_an_error_on_classic(raw: Raw, profile: str) -> None:
    body = b'{"topic":"a","publishMessage":{"jsonMessage":{"message":' + b"9" * 400 + b"}}}"
    assert raw.ask("PublishToTopic", body) == ("PublishToTopicResponse" if profile == "lite" else "ServiceError")


def test_a_hundred_silent_connections_leave_no_room_on_lite_until_they_are_gone(
    lite: BackgroundNucleus, connect: Connect
) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for each in silent:
        with contextlib.suppress(OSError):  # those that come too late are hung up on
            each.connect(str(lite.socket_path))
    with pytest.raises(Exception, match=r"\w"):
        connect(lite)
    for each in silent:
        each.close()
    deadline = time.monotonic() + 20
    while True:
        try:
            client = connect(lite)
            break
        except Exception:  # noqa: BLE001  whatever the SDK makes of a socket that is closed
            assert time.monotonic() < deadline
    with pytest.raises(model.ResourceNotFoundError):
        client.call("get_configuration", key_path=["a"])


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_connections_by_chance_leave_no_unhandled_exception(make_nucleus: MakeNucleus, profile: str) -> None:
    nucleus = make_nucleus(profile, services=fuzz.SERVICES)
    assert fuzz.run(nucleus, iter(range(1, 16)), lambda: True) == []


def test_an_exception_in_the_stand_in_would_be_found(
    classic: BackgroundNucleus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(NucleusOperations, "execute", broken)
    found = fuzz.run(classic, itertools.count(1), lambda: True)
    assert "ZeroDivisionError" in "\n".join(found)
    caplog.clear()
