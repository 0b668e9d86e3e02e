"""One IPC connection to the nucleus, from connect to loss.

The SDK never reconnects: when the connection is lost, every subscription on it is dead and nobody is told. So a
connection is a `Session` that ends, and the component opens the next one. No call here waits without a time limit, and
callbacks run on the SDK's only network thread: they must enqueue and return.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from typing import Any, TypeAlias

from awscrt.exceptions import AwsCrtError
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
from awsiot.eventstreamrpc import (
    AccessDeniedError,
    Connection,
    DeserializeError,
    LifecycleHandler,
    MessageAmendment,
    StreamResponseHandler,
)
from awsiot.greengrasscoreipc import model as ipc
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

from ml_inference.greengrass.errors import (
    CallFailedError,
    Failure,
    NucleusUnavailableError,
    TokenRefusedError,
    classify,
    describe,
)
from ml_inference.limits import CALL_SECONDS

SOCKET_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
TOKEN_VARIABLE = "SVCUID"  # noqa: S105 - the name of the variable, not its value
NAME_VARIABLE = "COMPONENT_NAME"
"""The component's name as it was built; set by the artifact's launcher, not by a nucleus."""

Answered: TypeAlias = Callable[[Failure | None], None]
"""What is called when a call has its answer: None for success."""

logger = logging.getLogger(__name__)


class Connector:
    """Opens sessions; owns the SDK's network thread, so that a thousand reconnects use one.

    Args:
        environment: Holds the socket's path and the token, as the nucleus gives them to a component.
        call_timeout: Seconds that a call may take.

    Raises:
        NucleusUnavailableError: The variables are missing: this process was not started by a nucleus.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, *, call_timeout: float = CALL_SECONDS) -> None:
        try:
            self._socket, token = environment[SOCKET_VARIABLE], environment[TOKEN_VARIABLE]
        except KeyError as error:
            raise NucleusUnavailableError(
                f"{error.args[0]} is not set: this command is started by a Greengrass nucleus"
            ) from None
        group = EventLoopGroup(num_threads=1)
        self._bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
        self._options = SocketOptions()
        self._options.domain = SocketDomain.Local
        self._amend = MessageAmendment.create_static_authtoken_amender(token)
        self._name = environment.get(NAME_VARIABLE, "")
        self._call_timeout = call_timeout
        self.given_up = False

    def give_up(self) -> None:
        """Let no call of this connector or its sessions wait any longer. May be called from a signal handler."""
        self.given_up = True

    def open(self, on_lost: Callable[[Session], None], timeout: float = 10.0) -> Session:
        """Connect, with the token; where it is refused, under the component's name.

        Nucleus lite knows a component by its process, too: its own runner gets the token in exchange for the name
        (`componentName` in CONNECT, `ggipcd/src/ipc_server.c`, where ggipcd compares it with the process's systemd unit). So
        a restart of ggipcd, which forgets all tokens, costs none of the three starts an hour that lite allows. The classic
        nucleus refuses it like a wrong token.

        Args:
            on_lost: Called once, on the SDK's thread, when the connection has ended for whatever reason.
            timeout: Seconds to wait for the nucleus.

        Raises:
            TokenRefusedError: The nucleus refuses the token.
            NucleusUnavailableError: Nobody answers.
        """
        try:
            return self._open(self._amend, on_lost, timeout)
        except TokenRefusedError:
            if not self._name:
                raise
            payload = json.dumps({"componentName": self._name}).encode()
            session = self._open(lambda: MessageAmendment(payload=payload), on_lost, timeout)
            logger.info("the nucleus has forgotten the token; connected as %s", self._name)
            return session

    def _open(
        self, amend: Callable[[], MessageAmendment], on_lost: Callable[[Session], None], timeout: float
    ) -> Session:
        handler = _Lifecycle()
        connection = Connection(
            host_name=self._socket,
            port=0,
            bootstrap=self._bootstrap,
            socket_options=self._options,
            connect_message_amender=amend,
        )
        try:
            self._wait(connection.connect(handler), timeout)
        except AccessDeniedError as error:
            raise TokenRefusedError("the nucleus refuses the token") from error
        except AwsCrtError as error:
            # Nucleus lite refuses a token by closing the socket.
            if error.name == "AWS_IO_SOCKET_CLOSED":
                raise TokenRefusedError("the nucleus closed the connection at the handshake") from error
            raise NucleusUnavailableError(error.name) from error
        except Exception as error:
            connection.close()
            raise NucleusUnavailableError(str(error) or f"no answer within {timeout:g} s") from error
        session = Session(GreengrassCoreIPCClient(connection), lambda call: self._wait(call, self._call_timeout))
        handler.watch(lambda: on_lost(session), session.lost)
        return session

    def _wait(self, future: Future[Any], timeout: float) -> Any:
        """The result of a call, unless it takes too long or the component has to stop."""
        deadline = time.monotonic() + timeout
        while not future.done() and not self.given_up and time.monotonic() < deadline:
            wait([future], timeout=0.1)
        return future.result(timeout=0)


class _Lifecycle(LifecycleHandler):
    """Knows when the connection ends; the SDK calls it on its network thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ended = False
        self._watcher: tuple[Callable[[], None], Event] | None = None

    def watch(self, on_lost: Callable[[], None], lost: Event) -> None:
        """Tell the session; at once if the connection ended between the handshake and this call."""
        with self._lock:
            self._watcher = (on_lost, lost)
            ended = self._ended
        if ended:
            self._tell()

    def on_connect(self) -> None:
        # The SDK calls from a native thread, for which Python makes a state before each call and drops it after it: five
        # times a message, each with an mmap and an munmap, a third of the processor time of that thread. One call without
        # its counterpart (PyGILState_Release) keeps the state for as long as the thread lives.
        ctypes.pythonapi.PyGILState_Ensure()

    def on_disconnect(self, reason: Exception | None) -> None:
        logger.debug("IPC connection ended: %r", reason)
        with self._lock:
            self._ended = True
        self._tell()

    def on_error(self, error: Exception) -> bool:
        logger.warning("IPC protocol error: %s", error)
        return True

    def _tell(self) -> None:
        with self._lock:
            watcher, self._watcher = self._watcher, None
        if watcher:
            on_lost, lost = watcher
            lost.set()
            on_lost()


class Subscription:
    """A local subscription; `close` ends it."""

    def __init__(self, topic: str, operation: Any) -> None:
        self.topic = topic
        self._operation = operation

    def close(self) -> None:
        """Stop receiving. Does not wait for the nucleus."""
        self._operation.close()


class Session:
    """A live connection. Its methods may be called from any thread but the SDK's.

    Attributes:
        lost: Set when the connection has ended.
        spools: Whether the nucleus is a classic one, which takes messages for the cloud also while it is offline. Known once
            `watch_component_updates` was tried, which only that one offers.
    """

    def __init__(self, client: GreengrassCoreIPCClient, wait_for: Callable[[Future[Any]], Any]) -> None:
        # Not the SDK's second client: it hides the operation that has to be closed, and logs a traceback for each request on
        # its way when a connection is lost.
        self._client = client
        self._wait_for = wait_for
        self.lost = Event()
        self.spools = False

    def publish_local(self, topic: str, payload: bytes, answered: Answered) -> None:
        """Publish a binary message to a local topic.

        Binary, because a JSON message with more than 23 keys or 42 list items silently kills its subscribers on lite.

        Args:
            topic: Without wildcards.
            payload: At most `ml_inference.limits.MAX_PAYLOAD_BYTES`.
            answered: Called once: with None when the nucleus has taken it, else with the failure. On the SDK's thread, or
                on the caller's if that is known at once.
        """
        message = ipc.PublishMessage(binary_message=ipc.BinaryMessage(message=payload))
        request = ipc.PublishToTopicRequest(topic=topic, publish_message=message)
        _tell(_ask(self._client.new_publish_to_topic, request), answered)

    def publish_cloud(self, topic: str, payload: bytes, qos: int, answered: Answered) -> None:
        """Publish to AWS IoT Core.

        Args:
            topic: Without wildcards.
            payload: At most 128 KiB.
            qos: MQTT quality of service, 0 or 1.
            answered: As in `publish_local`; taken means sent on lite and spooled on classic.
        """
        request = ipc.PublishToIoTCoreRequest(topic_name=topic, qos=str(qos), payload=payload)
        _tell(_ask(self._client.new_publish_to_iot_core, request), answered)

    def subscribe(
        self, topic: str, on_payload: Callable[[bytes], None], on_begin: Callable[[], None] = lambda: None
    ) -> Subscription:
        """Subscribe to a local topic.

        Args:
            topic: MQTT filter.
            on_payload: Called on the network thread with each message as JSON bytes; must only enqueue.
            on_begin: Called on the network thread before the first message can come.

        Raises:
            CallFailedError: The nucleus refuses (the topic is not in the recipe's accessControl), or does not answer.
        """

        def event(message: ipc.SubscriptionResponseMessage) -> None:
            if message.binary_message is not None:
                on_payload(message.binary_message.message or b"")
            elif message.json_message is not None:
                on_payload(_json_bytes(message.json_message.message))

        # Classic does not give a wildcard subscriber its own messages unless asked, and the heartbeat is one.
        request = ipc.SubscribeToTopicRequest(topic=topic, receive_mode=ipc.ReceiveMode.RECEIVE_ALL_MESSAGES)
        events = _Events(f"subscribe to {topic!r}", event, on_unreadable=lambda: on_payload(_UNREADABLE))
        return Subscription(topic, self._stream(self._client.new_subscribe_to_topic, events, request, on_begin))

    def configuration(self) -> dict[str, Any]:
        """The component's whole configuration tree.

        Raises:
            CallFailedError: The nucleus does not answer.
        """
        try:
            response = self._wait_for(
                _ask(self._client.new_get_configuration, ipc.GetConfigurationRequest(key_path=[]))
            )
        except Exception as error:
            raise CallFailedError("read the configuration", classify(error)) from error
        return dict(response.value or {})

    def secret(self, name: str) -> str:
        """The text of a secret that the secret manager component holds on this device.

        Args:
            name: The secret's name or ARN.

        Raises:
            CallFailedError: There is none, the recipe's accessControl does not allow it, or the nucleus does not answer.
        """
        request = ipc.GetSecretValueRequest(secret_id=name)
        try:
            response = self._wait_for(_ask(self._client.new_get_secret_value, request))
        except Exception as error:
            raise CallFailedError(f"read the secret {name!r}", classify(error)) from error
        value = response.secret_value
        return (value.secret_string if value else None) or ""

    def watch_configuration(self, on_change: Callable[[], None]) -> None:
        """Be told of every change of the configuration; events may come twice.

        Raises:
            CallFailedError: The nucleus refuses.
        """
        self._stream(
            self._client.new_subscribe_to_configuration_update,
            _Events("watch the configuration", lambda _: on_change()),
            ipc.SubscribeToConfigurationUpdateRequest(key_path=[]),
        )

    def watch_configuration_checks(self, on_check: Callable[[str, dict[str, Any]], None]) -> Callable[[], object]:
        """Be asked whether a deployment's configuration is valid. Classic only.

        Args:
            on_check: Called on the network thread with the deployment's id and the proposed configuration; the answer is
                `answer_configuration_check`.

        Returns:
            What ends it; does not wait for the nucleus.

        Raises:
            CallFailedError: The nucleus refuses; nucleus lite always does.
        """

        def event(message: ipc.ValidateConfigurationUpdateEvents) -> None:
            proposed = message.validate_configuration_update_event
            if proposed is not None:
                on_check(proposed.deployment_id or "", dict(proposed.configuration or {}))

        operation = self._stream(
            self._client.new_subscribe_to_validate_configuration_updates,
            _Events("be asked about configuration changes", event),
            ipc.SubscribeToValidateConfigurationUpdatesRequest(),
        )
        close: Callable[[], object] = operation.close
        return close

    def answer_configuration_check(self, deployment_id: str, problem: str | None) -> None:
        """Accept a proposed configuration, or refuse it with the problem, which fails its deployment."""
        status = ipc.ConfigurationValidityStatus.REJECTED if problem else ipc.ConfigurationValidityStatus.ACCEPTED
        report = ipc.ConfigurationValidityReport(status=status, deployment_id=deployment_id, message=problem)
        _ask(
            self._client.new_send_configuration_validity_report,
            ipc.SendConfigurationValidityReportRequest(configuration_validity_report=report),
        )

    def watch_component_updates(self, on_update: Callable[[str], None]) -> None:
        """Be asked before a deployment stops this component. Classic only.

        Args:
            on_update: Called on the network thread with the deployment's id; the answer is `answer_component_update`.

        Raises:
            CallFailedError: The nucleus refuses; nucleus lite always does.
        """

        def event(message: ipc.ComponentUpdatePolicyEvents) -> None:
            if message.pre_update_event is not None:
                on_update(message.pre_update_event.deployment_id or "")

        self._stream(
            self._client.new_subscribe_to_component_updates,
            _Events("be asked before updates", event),
            ipc.SubscribeToComponentUpdatesRequest(),
        )
        self.spools = True

    def answer_component_update(self, deployment_id: str, *, recheck_after: float) -> None:
        """Let an update go on at once (0), or have it ask again.

        Args:
            deployment_id: The deployment that asked.
            recheck_after: Seconds.
        """
        request = ipc.DeferComponentUpdateRequest(
            deployment_id=deployment_id,
            recheck_after_ms=int(recheck_after * 1000),
            message="draining the queue" if recheck_after else None,
        )
        _ask(self._client.new_defer_component_update, request)

    def close(self, timeout: float = 1.0) -> None:
        """End the connection.

        Args:
            timeout: Seconds to wait for the socket to close.
        """
        try:
            self._client.close().result(timeout)
        except Exception as error:  # noqa: BLE001 - the reason why it was lost already; nothing is left to do
            logger.debug("IPC connection closed: %r", error)

    def _stream(
        self,
        new_operation: Callable[[Any], Any],
        events: _Events,
        request: Any,
        on_begin: Callable[[], None] = lambda: None,
    ) -> Any:
        operation = None
        try:
            operation = new_operation(events)
            answer = operation.get_response()
            answer.add_done_callback(lambda done: None if done.exception() else on_begin())
            operation.activate(request).add_done_callback(partial(_fail_with, answer))
            self._wait_for(answer)
        except Exception as failure:
            if operation is not None:
                operation.close()  # a nucleus that is only late would go on to send events
            raise CallFailedError(events.what, classify(failure)) from failure
        return operation


class _Events(StreamResponseHandler):
    """Hands the events of a subscription on; the SDK calls it on its network thread.

    Its `on_stream_closed` is left alone: the loss of a connection is learnt from the connection.
    """

    def __init__(
        self, what: str, on_event: Callable[[Any], None], on_unreadable: Callable[[], None] | None = None
    ) -> None:
        self.what = what
        self._on_event = on_event
        self._on_unreadable = on_unreadable

    def on_stream_event(self, event: Any) -> None:
        self._on_event(event)

    def on_stream_error(self, error: Exception) -> bool:
        if self._on_unreadable and isinstance(error, DeserializeError):
            self._on_unreadable()
        else:
            logger.warning("cannot %s any more: %s", self.what, describe(error))
        return False  # True or None would close the stream


def _ask(new_operation: Callable[[], Any], request: Any) -> Future[Any]:
    """Send a request that has one answer, and close its stream behind it.

    Classic closes it with its answer. Nucleus lite leaves it open, and each open stream costs the SDK some 5 kB for as long
    as the connection lives: 2 MiB a second at 200 readings a second.

    Returns:
        The answer; what fails at once arrives through it like any later failure.
    """
    try:
        operation = new_operation()
        written = operation.activate(request)
    except Exception as error:  # noqa: BLE001 - the SDK raises errors of many types when the connection is gone
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed
    answer: Future[Any] = operation.get_response()
    # A future remembers its callbacks, and the operation its future: the list is emptied so that no cycle stays.
    answer.add_done_callback(partial(_close, [operation]))
    written.add_done_callback(partial(_fail_with, answer))
    return answer


def _tell(answer: Future[Any], answered: Answered) -> None:
    def done(future: Future[Any]) -> None:
        error = future.exception()
        answered(None if error is None else classify(error))

    answer.add_done_callback(done)


def _close(operations: list[Any], _: Future[Any]) -> None:
    operations.pop().close()


def _fail_with(answer: Future[Any], written: Future[Any]) -> None:
    """A request that could not be written has no answer to wait for."""
    error = written.exception()
    if error is not None:
        with suppress(InvalidStateError):  # the connection has ended it already
            answer.set_exception(error)


_UNREADABLE = b"a message that the AWS IoT Device SDK cannot read, such as one nested too deeply"
"""Stands in for such a message, so that it is counted, and refused like any other text that is no JSON."""


def _json_bytes(message: Any) -> bytes:
    try:
        return json.dumps(message).encode()
    except (ValueError, RecursionError):
        return _UNREADABLE
