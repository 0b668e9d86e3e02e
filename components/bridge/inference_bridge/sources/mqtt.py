"""An MQTT broker as a source, and as a way out for results and alarms: paho-mqtt, with a loop of our own.

The loop takes all messages that have come before it looks at the socket again, and acknowledges them in one piece; when the connection
ends, too, what has come is read first. The session stays with the broker while the bridge is away, so with QoS 1 what is published
meanwhile is delivered later; a broker that has forgotten the session is counted. It must never publish to a topic that nobody configured.
"""

from __future__ import annotations

import contextlib
import logging
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

from inference_bridge.mapping import Mqtt, Tls
from inference_bridge.sources.base import MAX_OUTGOING, Events, Source, SourceError, read_password
from inference_bridge.sources.stream import MalformedError, Stream

CONNECT_SECONDS = 10.0
DISCONNECT = b"\xe0\x00"
FINISH_SECONDS = 0.5
"""For the broker to take the last acknowledgements; else it delivers to the next process what this one has counted."""
MAX_CLIENT_ID = 128
LOOK_SECONDS = 0.1
"""Between looks at what waits to be written."""
PIECES = 4
"""Read in a row, some hundred messages each, before the keep-alive and what waits to be written get their turn."""

logger = logging.getLogger(__name__)


class MqttClient(Source):
    """The client of one broker."""

    def __init__(self, configuration: Mqtt, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._client: paho.Client | None = None
        self._tls: ssl.SSLContext | None = None
        self._refusal: str | None = None
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
        if configuration.tls is not None:
            self._tls = _tls_context(configuration.tls)
            client.tls_set_context(self._tls)
        client.on_socket_register_write = lambda *_: None  # so that paho leaves writing to our loop
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _own_id(self) -> str:
        device = os.environ.get("AWS_IOT_THING_NAME") or socket.gethostname()
        return f"bridge-{device}-{self.name}"[:MAX_CLIENT_ID]

    def _prepare(self, client: paho.Client) -> None:
        """Read password and certificate, which may have been renewed."""
        configuration = self._configuration
        password = read_password(configuration.password_file, configuration.password_secret, self.events.secret)
        if configuration.username:
            client.username_pw_set(configuration.username, password)
        if self._tls is not None and configuration.tls is not None and configuration.tls.certificate:
            try:
                self._tls.load_cert_chain(configuration.tls.certificate, configuration.tls.key)
            except (OSError, ssl.SSLError) as error:
                raise SourceError(f"cannot use {configuration.tls.certificate} with its key: {error}") from None

    def work(self) -> None:
        """Connect, subscribe, and read until the connection ends."""
        configuration = self._configuration
        # One client for the process's life: it remembers what was not acknowledged.
        if self._client is None:
            self._client = self._new_client()
        client = self._client
        self._prepare(client)
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
            # The session stays with the broker. Not by paho's `disconnect`, which closes the socket at once.
            client.loop_write()
            stream = client.socket()
            if isinstance(stream, Stream):
                stream.send(DISCONNECT)
                stream.finish(FINISH_SECONDS)
        finally:
            _close(client)

    def _turn(self, client: paho.Client) -> None:
        stream = client.socket()
        if not isinstance(stream, Stream):
            raise SourceError("the broker closed the connection")
        readable, _, _ = select.select(
            [stream], [stream] if stream.unsent else [], [], 0 if stream.pending else LOOK_SECONDS
        )
        try:
            if readable or stream.pending:
                for _ in range(PIECES):
                    more = stream.fill()
                    self._take(client, stream)
                    if not more:
                        break
            self._write(client)
            stream.flush()
        except OSError as error:
            self._take_the_rest(client, stream)
            raise SourceError(f"the connection to the broker is lost: {error.strerror or error}") from None
        if stream.ended:
            raise SourceError("the broker closed the connection")

    def _take(self, client: paho.Client, stream: Stream) -> None:
        """Take what has come as a whole."""
        while True:
            try:
                for topic, payload, retained in stream.messages():
                    if retained and not self._configuration.report_by_exception:
                        self.events.retained(self.name)
                    else:
                        self.events.message(self.name, topic, payload)
                if not stream.grant():
                    return
            except MalformedError as error:
                raise SourceError(f"the broker does not speak MQTT: {error}") from None
            _check(client.loop_read())

    def _take_the_rest(self, client: paho.Client, stream: Stream) -> None:
        """Take what had come before the connection was lost: with QoS 0, nobody sends it again."""
        with contextlib.suppress(OSError, SourceError):
            self._take(client, stream)
            while stream.fill():
                self._take(client, stream)

    def _write(self, client: paho.Client) -> None:
        # Written by this thread alone: two could tear each other's packets apart.
        while self._outgoing and self.state == "connected":
            topic, payload, qos = self._outgoing[0]
            if client.publish(topic, payload, qos).rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            self._outgoing.popleft()
        _check(client.loop_misc())
        if client.want_write():
            _check(client.loop_write())

    def publish(self, topic: str, payload: bytes, qos: int) -> bool:
        """Publish a result or an alarm; whether there was room for it. May be called from any thread."""
        if len(self._outgoing) >= MAX_OUTGOING:
            return False
        self._outgoing.append((topic, payload, qos))
        return True

    # Called by paho within the loop.

    def _on_connect(self, client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refuses the connection: {reason}"
            return
        if self.connections and self._configuration.session_seconds and not flags.session_present:
            self.sessions_lost += 1
            logger.warning("%s: the broker has forgotten the session, and what it kept for it", self.name)
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


class _Client(paho.Client):
    """paho's client over such a socket."""

    def _create_socket(self) -> Any:
        return Stream(super()._create_socket(), properties=self._protocol == paho.MQTTv5)


def _tls_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SourceError(f"cannot use the authorities in {tls.ca}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check(code: MQTTErrorCode) -> None:
    if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
        raise SourceError(f"the connection to the broker is lost: {paho.error_string(code)}")


def _close(client: paho.Client) -> None:
    sock: Any = client.socket()
    if sock is not None:
        sock.close()
