"""An MQTT broker as a source, and as a way out for results and alarms: paho-mqtt, with a loop of our own.

The loop reads all that has come before it looks at the socket again, from a buffer, and acknowledges it in one piece: paho's own asks
the system several times for each packet, at three times the cost. The
session stays with the broker while the bridge is away, so with QoS 1 what is published meanwhile is delivered later. It must never
publish to a topic that nobody configured.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections import deque
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from inference_bridge.mapping import Mqtt
from inference_bridge.sources.base import MAX_OUTGOING, Events, Source, SourceError, read_password

CONNECT_SECONDS = 10.0
PIECE_BYTES = 65_536
MAX_CLIENT_ID = 128
LOOK_SECONDS = 0.1
"""Between looks at what waits to be written."""
READS = 500
"""Packets in a row before the keep-alive and what waits to be written get their turn."""


class MqttClient(Source):
    """The client of one broker."""

    def __init__(self, configuration: Mqtt, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._client: paho.Client | None = None
        self._refusal: str | None = None
        self._heard = 0
        self._outgoing: deque[tuple[str, bytes, int]] = deque()
        self.sent = 0

    def _new_client(self) -> paho.Client:
        configuration = self._configuration
        five = configuration.version == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=configuration.client_id or self._own_id(),
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            clean_session=None if five else configuration.session_seconds == 0,
        )
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(100)
        client.max_queued_messages_set(MAX_OUTGOING)
        password = read_password(configuration.password_file, configuration.password_secret, self.events.secret)
        if configuration.username:
            client.username_pw_set(configuration.username, password)
        if configuration.tls is not None:
            client.tls_set_context(self._tls())
        client.on_socket_register_write = lambda *_: None  # so that paho leaves writing to our loop
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _own_id(self) -> str:
        device = os.environ.get("AWS_IOT_THING_NAME") or socket.gethostname()
        return f"bridge-{device}-{self.name}"[:MAX_CLIENT_ID]

    def _tls(self) -> ssl.SSLContext:
        tls = self._configuration.tls
        assert tls is not None  # noqa: S101 - for the type checker
        try:
            context = ssl.create_default_context(cafile=tls.ca or None)
            if tls.certificate:
                context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise SourceError(f"cannot use the files of tls: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def work(self) -> None:
        """Connect, subscribe, and read until the connection ends."""
        configuration = self._configuration
        # One client for the process's life: it remembers what was not acknowledged.
        if self._client is None:
            self._client = self._new_client()
        client = self._client
        self._refusal = None
        port = configuration.port or (8883 if configuration.tls else 1883)
        more: dict[str, Any] = {}
        if configuration.version == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = configuration.session_seconds
            more = {"clean_start": configuration.session_seconds == 0, "properties": properties}
        client.connect(configuration.host, port, configuration.keepalive_seconds, **more)
        began, before = time.monotonic(), self.connections
        try:
            while not self.stopping.is_set():
                try:
                    self._turn(client)
                except SourceError:
                    # A broker that refuses also closes the connection.
                    if not self._refusal:
                        raise
                if self._refusal:
                    raise SourceError(self._refusal)
                if self.connections == before and time.monotonic() - began > CONNECT_SECONDS:
                    raise SourceError("the broker does not answer")
            # What was answered is on its way; the session stays with the broker.
            client.disconnect()
            client.loop_write()
            if isinstance(sock := client.socket(), _Buffered):
                sock.flush()
        finally:
            _close(client)

    def _turn(self, client: paho.Client) -> None:
        sock = client.socket()
        if not isinstance(sock, _Buffered):
            raise SourceError("the broker closed the connection")
        writing = [sock] if sock.unsent else []
        readable, _, _ = select.select([sock], writing, [], 0 if sock.unread else LOOK_SECONDS)
        if readable or sock.unread:
            for _ in range(READS):
                heard = self._heard
                _check(client.loop_read())
                if self._heard == heard and not sock.unread:
                    break  # nothing more has come
        # Written by this thread alone: two could tear each other's packets apart.
        while self._outgoing and self.state == "connected":
            topic, payload, qos = self._outgoing[0]
            if client.publish(topic, payload, qos).rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            self._outgoing.popleft()
        _check(client.loop_misc())
        if client.want_write():
            _check(client.loop_write())
        sock.flush()

    def publish(self, topic: str, payload: bytes, qos: int) -> bool:
        """Publish a result or an alarm; whether there was room for it. May be called from any thread."""
        if len(self._outgoing) >= MAX_OUTGOING:
            return False
        self._outgoing.append((topic, payload, qos))
        return True

    @property
    def outgoing(self) -> int:
        """Messages that are not sent yet."""
        return len(self._outgoing)

    # Called by paho within the loop.

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refuses the connection: {reason}"
            return
        # The broker may have lost its sessions, so it is told each time.
        qos: int = self._configuration.qos
        client.subscribe([(topic, qos) for topic in self._configuration.filters])

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        refused = [
            topic for topic, reason in zip(self._configuration.filters, reasons, strict=False) if reason.is_failure
        ]
        if refused:
            self._refusal = f"the broker refuses to subscribe to {', '.join(refused)}"
        elif self.state != "connected":
            self.is_connected()

    def _on_publish(self, _client: paho.Client, _data: Any, _mid: int, _reason: Any, _properties: Any) -> None:
        self.sent += 1

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._heard += 1
        if message.retain and not self._configuration.report_by_exception:
            self.events.retained(self.name)
            return
        self.events.message(self.name, message.topic, bytes(message.payload))


class _Buffered:
    """A socket that reads and writes in large pieces."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._read = b""
        self._at = 0
        self._unsent = bytearray()

    def recv(self, size: int) -> bytes:
        if self._at >= len(self._read):
            self._read, self._at = self._sock.recv(PIECE_BYTES), 0
        part = self._read[self._at : self._at + size]
        self._at += len(part)
        return part

    @property
    def unread(self) -> bool:
        """Whether something has been read from the system that nobody asked for yet."""
        return self._at < len(self._read) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, data: bytes) -> int:
        self._unsent += data
        if len(self._unsent) > PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Hand to the system what it takes."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Client(paho.Client):
    """paho's client over such a socket."""

    def _create_socket(self) -> Any:
        return _Buffered(super()._create_socket())


def _check(code: MQTTErrorCode) -> None:
    if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
        raise SourceError(f"the connection to the broker is lost: {paho.error_string(code)}")


def _close(client: paho.Client) -> None:
    sock: Any = client.socket()
    if sock is not None:
        sock.close()
