"""The IPC server: a Unix socket, the handshake, streams, and requests handed on to whoever carries them out.

It speaks the event-stream RPC protocol as the runtimes' servers do, down to how each refuses a token. It knows no operation: a request that is no operation's
business (a broken frame, a gap in the stream ids) ends here, with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from greengrass_sandbox.codec import CodecError, Decoder, Frame, HeaderValue, encode
from greengrass_sandbox.faults import Rule, Rules
from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.pubsub import object_memory

logger = logging.getLogger(__name__)

APPLICATION_MESSAGE, APPLICATION_ERROR, PING, PING_RESPONSE, CONNECT, CONNECT_ACK = range(6)
CONNECTION_ACCEPTED, TERMINATE_STREAM = 1, 2
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
NAMESPACE: Final = "aws.greengrass#"


class OperationError(Exception):
    """An error that a component gets in answer to a request.

    Args:
        code: The error's name, as `UnauthorizedError`.
        message: What the component reads.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Attributes:
        body: The response's JSON.
        subscription: Whether events follow.
    """

    body: Mapping[str, Any]
    subscription: bool = False


class Operations(Protocol):
    """Carries out requests."""

    async def execute(self, stream: Stream, operation: str, body: Mapping[str, Any]) -> Reply:
        """Carries out one request; raises OperationError."""


class Stream:
    """One request and what is answered to it.

    Attributes:
        component: Who asks.
        resource: What it subscribes to: a topic filter, or a key path joined by slashes.
        open: Whether the component still listens.
    """

    __slots__ = ("_connection", "_ends", "_first_event", "component", "id", "open", "operation", "resource")

    def __init__(self, connection: Connection, number: int, operation: str) -> None:
        self._connection = connection
        self._ends: list[Callable[[], None]] = []
        self._first_event = asyncio.Event()
        self.id = number
        self.operation = operation
        self.component = connection.component
        self.resource = ""
        self.open = True

    def on_end(self, end: Callable[[], None]) -> None:
        """Has something called when the stream is over: what ends the subscription behind it."""
        if self.open:
            self._ends.append(end)
        else:
            end()  # the component left while the request was carried out

    @property
    def is_subscription(self) -> bool:
        """Whether something would send events here."""
        return bool(self._ends)

    async def event(self, shape: str, body: Mapping[str, Any]) -> None:
        """Sends an event, if anyone still listens.

        Args:
            shape: Name of its type, without the namespace.
            body: Its JSON.
        """
        if self.open:
            self._first_event.set()
            await self._connection.send_shape(self, shape, body)

    async def raw_event(self, shape: str, payload: bytes) -> bool:
        """Sends bytes as an event, whatever they are; False if they are too long for this runtime."""
        return await self._connection.send_raw(self, shape, payload)

    async def wait_for_event(self, timeout: float) -> None:
        """Waits until an event was sent, at most so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._first_event.wait(), timeout)

    def end(self) -> None:
        """Forgets the stream and ends what stands behind it, without a word to the component."""
        self.open = False
        ends, self._ends = self._ends, []
        for end in ends:
            end()


class Connection:
    """A connected component.

    Attributes:
        component: Its name, known after the handshake.
        streams: The open streams by id.
    """

    def __init__(self, profile: Profile, writer: asyncio.StreamWriter) -> None:
        self._profile = profile
        self._writer = writer
        self._last_stream = 0
        self.component = ""
        self.streams: dict[int, Stream] = {}
        self._task = asyncio.current_task()
        self._sending = asyncio.Lock()
        # drain() shall wait until the kernel has everything: that is where lite blocks.
        writer.transport.set_write_buffer_limits(high=0)

    def peer(self) -> int:
        """Id of the process at the other end."""
        credentials = self._writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        process: int = struct.unpack("3i", credentials)[0]
        return process

    def accepts_stream(self, number: int) -> bool:
        """Takes the id of a new stream; False if it leaves a gap."""
        if number != self._last_stream + 1:
            return False
        self._last_stream = number
        return True

    def is_old_stream(self, number: int) -> bool:
        """Whether the id was used before."""
        return 0 < number <= self._last_stream

    async def send_shape(self, stream: Stream, shape: str, body: Mapping[str, Any], *, last: bool = False) -> None:
        """Sends a response or an event.

        Raises:
            OperationError: A response is longer than the runtime can send. An event that is too long is skipped.
        """
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        if not await self.send_raw(stream, shape, payload, last=last):
            if shape.endswith("Response"):
                raise OperationError("ServiceError")
            logger.warning("%s: an event is too long for this runtime and was skipped", self.component)

    async def send_raw(self, stream: Stream, shape: str, payload: bytes, *, last: bool = False) -> bool:
        """Sends a message of a stream; False if it is too long for this runtime."""
        headers = self._headers(APPLICATION_MESSAGE, stream.id, TERMINATE_STREAM if last else 0, NAMESPACE + shape)
        return await self._send(encode(Frame(headers, payload)))

    async def send_error(self, stream: Stream, error: OperationError) -> None:
        """Answers with an error, which ends the stream."""
        # Lite names the text `_message`, which the SDK does not read: there the error comes without text.
        text = "message" if self._profile.answers_pings else "_message"
        payload = json.dumps({text: error.message, "_errorCode": error.code}).encode()
        headers = self._headers(APPLICATION_ERROR, stream.id, TERMINATE_STREAM, NAMESPACE + error.code)
        await self._send(encode(Frame(headers, payload)))

    async def send_control(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """Sends a message of the protocol itself, on stream 0."""
        await self._send(encode(Frame({":message-type": kind, ":message-flags": flags, ":stream-id": 0}, payload)))

    def abort(self) -> None:
        """Drops the connection at once."""
        self._writer.transport.abort()
        if self._task is not None:
            self._task.cancel()

    def end_streams(self) -> None:
        """Ends everything behind the connection's streams."""
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.end()

    async def _send(self, data: bytes) -> bool:
        """Sends a frame; False if it is too long for this runtime."""
        if len(data) > self._profile.reply_limit:
            return False
        if self._writer.is_closing():
            return True
        if self._profile.send_timeout is not None:
            try:
                async with self._sending:
                    await asyncio.wait_for(self._writer.drain(), self._profile.send_timeout)
            except asyncio.TimeoutError:
                logger.warning(
                    "%s does not read: a message is lost after %s s", self.component, self._profile.send_timeout
                )
                return True
            except ConnectionError:
                return True
        self._writer.write(data)
        return True

    @staticmethod
    def _headers(kind: int, stream: int, flags: int, shape: str) -> dict[str, HeaderValue]:
        return {
            ":message-type": kind,
            ":message-flags": flags,
            ":stream-id": stream,
            ":content-type": "application/json",
            "service-model-type": shape,
        }


class IpcServer:
    """Listens on a Unix socket.

    Args:
        profile: The runtime.
        authenticate: Returns the component that a token belongs to; None refuses it.
        identify: Whether a process, by its id, is the component of that name; None where a name in place of a token is refused.
        operations: Carries out requests.
        rules: What goes wrong on purpose.
    """

    def __init__(
        self,
        profile: Profile,
        authenticate: Callable[[str], str | None],
        operations: Operations,
        rules: Rules,
        identify: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._profile = profile
        self._authenticate = authenticate
        self._identify = identify
        self._operations = operations
        self._rules = rules
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        # Lite handles one thing at a time for all components, so whoever blocks it blocks everybody.
        self._gate: contextlib.AbstractAsyncContextManager[Any] = (
            contextlib.nullcontext() if profile.send_timeout is None else asyncio.Lock()
        )
        self.connections: set[Connection] = set()

    @property
    def subscriptions(self) -> int:
        """How many subscriptions are open, of all components."""
        return sum(stream.is_subscription for connection in self.connections for stream in connection.streams.values())

    async def listen(self, path: Path) -> None:
        """Opens the socket.

        Raises:
            OSError: It cannot be opened.
        """
        self._server = await asyncio.start_unix_server(self._serve, str(path))

    async def close(self) -> None:
        """Closes the socket and every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, action: Coroutine[Any, Any, Any]) -> None:
        """Runs something beside the requests, until the server closes."""
        task = asyncio.get_running_loop().create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def exclusively(self, action: Awaitable[None]) -> None:
        """Awaits something as the runtime would do it among the requests of components."""
        async with self._gate:
            await action

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._tasks.add(task)
        connection = Connection(self._profile, writer)
        try:
            if self._profile.connections is not None and len(self.connections) >= self._profile.connections:
                logger.warning("connection refused: this runtime has %s at most", self._profile.connections)
                return
            self.connections.add(connection)
            await self._read(connection, reader)
        except (CodecError, ConnectionError) as error:
            logger.warning("connection of %s dropped: %s", connection.component or "a stranger", error)
        except asyncio.CancelledError:
            pass  # the server closes
        finally:
            self._tasks.discard(task)
            self.connections.discard(connection)
            connection.end_streams()
            writer.close()

    async def _read(self, connection: Connection, reader: asyncio.StreamReader) -> None:
        decoder = Decoder(self._profile.request_limit)
        while data := await reader.read(65536):
            for frame in decoder.feed(data):
                await self._rules.wait_while_stalled(connection.component)
                if not connection.component:
                    if not await self._shake_hands(connection, frame):
                        return
                else:
                    await self._handle(connection, frame)

    async def _shake_hands(self, connection: Connection, frame: Frame) -> bool:
        if frame.integer(":message-type") != CONNECT or frame.integer(":stream-id") != 0:
            raise CodecError("the first message is no CONNECT")
        try:
            payload = json.loads(frame.payload)
            token, name = payload.get("authToken"), payload.get("componentName")
        except (ValueError, AttributeError, RecursionError) as error:
            raise CodecError("CONNECT without a token") from error
        component = None
        if frame.text(":version") == "0.1.0" and isinstance(token, str):
            component = self._authenticate(token)
        elif frame.text(":version") == "0.1.0" and isinstance(name, str) and self._identify is not None:
            component = name if self._identify(name, connection.peer()) else None
        if component is None or self._rules.refuses(component):
            logger.warning("a connection was refused for its token")
            return False
        connection.component = component
        await connection.send_control(CONNECT_ACK, CONNECTION_ACCEPTED)
        return True

    async def _handle(self, connection: Connection, frame: Frame) -> None:
        number, kind = frame.integer(":stream-id"), frame.integer(":message-type")
        if number == 0:
            if kind == PING and self._profile.answers_pings:
                await connection.send_control(PING_RESPONSE, payload=frame.payload)
                return
            raise CodecError(f"message type {kind} on stream 0")
        if frame.integer(":message-flags") & TERMINATE_STREAM:
            connection.accepts_stream(number)  # a stream may be closed before anything was asked on it
            stream = connection.streams.pop(number, None)
            if stream is not None:
                stream.end()
            return
        if connection.is_old_stream(number):
            return  # no operation takes a second message
        if not connection.accepts_stream(number):
            raise CodecError(f"stream id {number} leaves a gap")
        await self._request(connection, number, frame)

    async def _request(self, connection: Connection, number: int, frame: Frame) -> None:
        operation = frame.text("operation")
        stream = connection.streams[number] = Stream(connection, number, operation)
        rule = self._rules.take(connection.component, operation.removeprefix(NAMESPACE))
        answering = self._answer(connection, stream, frame, rule)
        if rule is not None and rule.action != "never":
            self.spawn(answering)
        else:
            await answering

    async def _answer(self, connection: Connection, stream: Stream, frame: Frame, rule: Rule | None) -> None:
        if rule is not None and rule.action == "never" and not rule.carried_out:
            return
        if rule is not None and rule.action == "late":
            await asyncio.sleep(rule.delay)
        shape = stream.operation.removeprefix(NAMESPACE) + "Response"
        try:
            if rule is not None and rule.action == "event_first":
                async with self._gate:
                    reply = await self._execute(stream, frame.payload)
                await stream.wait_for_event(rule.delay)
                await connection.send_shape(stream, shape, reply.body)
                return
            async with self._gate:
                reply = await self._execute(stream, frame.payload)
                if rule is None or rule.action != "never":
                    last = self._profile.closes_answered_streams and not reply.subscription
                    await connection.send_shape(stream, shape, reply.body, last=last)
        except OperationError as error:
            connection.streams.pop(stream.id, None)
            stream.end()
            await connection.send_error(stream, error)
        else:
            if not reply.subscription:
                connection.streams.pop(stream.id, None)

    async def _execute(self, stream: Stream, payload: bytes) -> Reply:
        body = self._parse(payload or b"{}")
        if not isinstance(body, dict) or not self._is_readable(body):
            raise OperationError("ServiceError")
        try:
            return await self._operations.execute(stream, stream.operation, body)
        except OperationError:
            raise
        except Exception:
            logger.exception("%s of %s failed in the sandbox itself", stream.operation, stream.component)
            raise OperationError("ServiceError", "The sandbox failed, see its log") from None

    def _parse(self, payload: bytes) -> Any:
        """Returns a request's JSON. Half a surrogate pair, which UTF-8 cannot hold, is a `?` on classic and no JSON for lite."""
        errors = "strict" if self._profile.exact_keys else "replace"
        try:
            text = payload.decode(errors=errors)
            body = json.loads(text)
            if "\\u" in text and _LONE_SURROGATE.search(json.dumps(body, ensure_ascii=False)):
                body = json.loads(json.dumps(body, ensure_ascii=False).encode(errors=errors))
        except (ValueError, RecursionError):
            raise OperationError("ServiceError") from None
        return body

    def _is_readable(self, body: Any) -> bool:
        """Whether the runtime's memory suffices to parse a request."""
        depth, memory = self._profile.depth, self._profile.request_memory
        return (depth is None or _depth(body) <= depth) and (memory is None or object_memory(body) <= memory)


def _depth(value: Any) -> int:
    """Returns how deep maps and lists are nested; level by level, since a request may be deeper than this interpreter's stack."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
    return depth
