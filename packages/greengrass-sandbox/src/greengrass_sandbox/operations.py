"""What each IPC operation does: arguments checked, authorization asked, the answer made, as the runtime words it.

It holds no state of its own: brokers, configurations and components belong to the nucleus. An operation that a runtime lacks answers here
as that runtime answers.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from greengrass_sandbox.access import MQTT_PROXY, PUBSUB, is_allowed
from greengrass_sandbox.cloud import CloudError, IotCore
from greengrass_sandbox.configuration import Configuration, ConfigurationError, KeyPath
from greengrass_sandbox.pubsub import LocalBroker, Subscription, as_doubles
from greengrass_sandbox.server import NAMESPACE, OperationError, Reply, Stream
from greengrass_sandbox.services import ServiceHost, Services
from greengrass_sandbox.topics import Message, has_wildcard

MAX_TOPIC_BYTES: Final = 256
MAX_TOPIC_SLASHES: Final = 7
MAX_CLOUD_PAYLOAD: Final = 128 * 1024
"""Limits of AWS IoT Core; the classic runtime checks them before it spools."""

STATES: Final = ("NEW", "INSTALLED", "STARTING", "RUNNING", "ERRORED", "BROKEN", "STOPPING", "FINISHED")


EVENT_SHAPES: Final = {
    "SubscribeToTopic": "SubscriptionResponseMessage",
    "SubscribeToIoTCore": "IoTCoreMessage",
    "SubscribeToConfigurationUpdate": "ConfigurationUpdateEvents",
    "SubscribeToComponentUpdates": "ComponentUpdatePolicyEvents",
    "SubscribeToValidateConfigurationUpdates": "ValidateConfigurationUpdateEvents",
    "SubscribeToCertificateUpdates": "CertificateUpdateEvent",
}
"""The type of each subscription's events."""


class Host(ServiceHost, Protocol):
    """What operations need of the nucleus."""

    local: LocalBroker
    iot_core: IotCore

    def stamp(self) -> tuple[int, float]:
        """Returns the next message's order, and the time."""

    def configuration(self, component: str) -> Configuration:
        """Returns a component's configuration; KeyError for a stranger."""

    async def configuration_changed(self, component: str, paths: list[KeyPath]) -> None:
        """Tells subscribers of changed leaves."""

    def watch_configuration(self, component: str, path: KeyPath, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of changes; returns what removes it."""

    def watch_updates(self, kind: str, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of component updates (`update`) or validations (`validate`); returns what removes it."""

    def answer_update(self, kind: str, component: str, deployment: str, answer: Any) -> bool:
        """Takes a component's answer to a deployment; False if nobody waits for it."""

    def report_state(self, component: str, state: str) -> None:
        """Takes the state that a component reports of itself."""

    def has_room_for_subscription(self) -> bool:
        """Whether the runtime takes one more subscription."""


_Handler = Callable[[Stream, Mapping[str, Any]], Awaitable[Reply]]


class NucleusOperations:
    """The operations of one nucleus.

    Args:
        host: The nucleus.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._handlers: dict[str, _Handler] = {
            "PublishToTopic": self._publish_to_topic,
            "SubscribeToTopic": self._subscribe_to_topic,
            "PublishToIoTCore": self._publish_to_iot_core,
            "SubscribeToIoTCore": self._subscribe_to_iot_core,
            "GetConfiguration": self._get_configuration,
            "UpdateConfiguration": self._update_configuration,
            "SubscribeToConfigurationUpdate": self._subscribe_to_configuration_update,
            "UpdateState": self._update_state,
        }
        self._handlers |= Services(host).handlers
        if host.profile.component_updates:
            self._handlers |= {
                "SubscribeToComponentUpdates": self._subscribe_to_component_updates,
                "DeferComponentUpdate": self._defer_component_update,
                "SubscribeToValidateConfigurationUpdates": self._subscribe_to_validation,
                "SendConfigurationValidityReport": self._send_validity_report,
            }

    async def execute(self, stream: Stream, operation: str, body: Mapping[str, Any]) -> Reply:
        """Carries out a request.

        Raises:
            OperationError: What the component gets instead of a response.
        """
        name = operation.removeprefix(NAMESPACE)
        handler = self._handlers.get(name)
        if handler is None:
            raise OperationError(
                "ServiceError", f"{name} is not supported" if self._host.profile.component_updates else ""
            )
        return await handler(stream, body)

    async def _publish_to_topic(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        topic = _text(body, "topic")
        envelope = body.get("publishMessage")
        given = (
            [(kind, envelope.get(kind)) for kind in ("jsonMessage", "binaryMessage")]
            if isinstance(envelope, Mapping)
            else []
        )
        sent = [(kind, part) for kind, part in given if part is not None]
        if len(sent) != 1 or not isinstance(sent[0][1], Mapping) or "message" not in sent[0][1]:
            raise OperationError("ServiceError", "Received invalid parameters.")
        value = sent[0][1]["message"]
        self._authorize(stream, PUBSUB, topic)
        if self._host.profile.checks_publish_topic and has_wildcard(topic):
            raise OperationError("InvalidArgumentsError", "Publish topic must not contain a wildcard.")
        if len(topic.encode()) > MAX_TOPIC_BYTES:
            raise OperationError("ServiceError", "Failed to publish the message.")
        order, time = self._host.stamp()
        if sent[0][0] == "jsonMessage":
            value = self._number_format(value)
            payload = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
            message = Message(topic, payload, "json", stream.component, order, time)
        else:
            message = Message(topic, _decode_base64(value), "binary", stream.component, order, time)
        await self._host.local.publish(message, value)
        return Reply({})

    async def _subscribe_to_topic(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        topic_filter = _text(body, "topic")
        self._authorize(stream, PUBSUB, topic_filter)
        self._check_room()
        if not 0 < len(topic_filter.encode()) <= MAX_TOPIC_BYTES:
            raise OperationError("ServiceError", "Failed to bind subscription.")

        async def deliver(message: Message, value: Any) -> None:
            kind = "jsonMessage" if message.kind == "json" else "binaryMessage"
            body = {kind: {"message": value, "context": {"topic": message.topic}}}
            await stream.event("SubscriptionResponseMessage", body)

        stream.resource = topic_filter
        own = self._hears_own(topic_filter, body.get("receiveMode"))
        subscription = Subscription(topic_filter, stream.component, own, deliver, stream.end)
        stream.on_end(self._host.local.subscribe(subscription))
        return Reply({}, subscription=True)

    def _hears_own(self, topic_filter: str, mode: Any) -> bool:
        if not self._host.profile.receive_modes:
            return True
        if mode in ("RECEIVE_ALL_MESSAGES", "RECEIVE_MESSAGES_FROM_OTHERS"):
            return bool(mode == "RECEIVE_ALL_MESSAGES")
        return not has_wildcard(topic_filter)

    async def _publish_to_iot_core(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        topic, qos = _text(body, "topicName"), self._qos(body)
        payload = _decode_base64(body.get("payload") or "")
        self._authorize(stream, MQTT_PROXY, topic)
        if self._host.profile.checks_publish_topic:
            _check_cloud_publish(topic, payload)
        try:
            await self._host.iot_core.take(stream.component, topic, payload, qos)
        except CloudError as error:
            raise OperationError("ServiceError", str(error)) from None
        return Reply({})

    async def _subscribe_to_iot_core(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        topic_filter = _text(body, "topicName")
        self._qos(body)
        self._authorize(stream, MQTT_PROXY, topic_filter)
        self._check_room()

        async def deliver(message: Message) -> None:
            content = {"topicName": message.topic, "payload": base64.b64encode(message.payload).decode()}
            await stream.event("IoTCoreMessage", {"message": content})

        try:
            end = self._host.iot_core.subscribe(topic_filter, deliver)
        except CloudError as error:
            raise OperationError("ServiceError", str(error)) from None
        stream.resource = topic_filter
        stream.on_end(end)
        return Reply({}, subscription=True)

    def _qos(self, body: Mapping[str, Any]) -> int:
        qos = str(body.get("qos") or "0")
        if self._host.profile.checks_publish_topic and qos not in ("0", "1"):
            raise OperationError("InvalidArgumentsError", "Invalid QoS")
        if qos not in ("0", "1", "2"):
            raise OperationError("ServiceError", "'qos' not a valid value.")
        return int(qos)

    async def _get_configuration(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        component, path = _component(body, stream), _key_path(body)
        try:
            value = self._host.configuration(component).read(path)
        except KeyError:
            raise OperationError("ResourceNotFoundError", "Key not found") from None
        except ConfigurationError as error:
            raise OperationError("ServiceError", str(error)) from None
        if not isinstance(value, Mapping):
            value = {path[-1]: value}
        return Reply({"componentName": component, "value": value})

    async def _update_configuration(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        path, value, time = _key_path(body), self._number_format(body.get("valueToMerge")), body.get("timestamp")
        if "valueToMerge" not in body or not isinstance(time, (int, float)):
            raise OperationError("InvalidArgumentsError", "Received invalid parameters.")
        if path[:1] == ("accessControl",) or (not path and isinstance(value, Mapping) and "accessControl" in value):
            raise OperationError(
                "InvalidArgumentsError", "Config update is not allowed for following field [accessControl]"
            )
        configuration = self._host.configuration(stream.component)
        written = configuration.time_of(path)
        if self._host.profile.component_updates and written is not None and written > time:
            raise OperationError(
                "FailedUpdateConditionCheckError",
                "Proposed timestamp is older than the config's latest modified timestamp",
            )
        try:
            changed = configuration.merge(path, value, time)
        except ConfigurationError:
            raise OperationError("ServiceError", "Failed to update the configuration.") from None
        await self._host.configuration_changed(stream.component, changed)
        return Reply({})

    async def _subscribe_to_configuration_update(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        component, path = _component(body, stream), _key_path(body)
        try:
            known = self._host.configuration(component).has(path)
        except KeyError:
            known = False
        if not known:
            raise OperationError("ResourceNotFoundError", "Key not found")
        self._check_room()
        stream.resource = "/".join(path)
        stream.on_end(self._host.watch_configuration(component, path, stream))
        return Reply({}, subscription=True)

    async def _update_state(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        state = body.get("state")
        if state not in STATES:
            raise OperationError(
                "InvalidArgumentsError" if self._host.profile.component_updates else "ServiceError", "Invalid state"
            )
        self._host.report_state(stream.component, state)
        return Reply({})

    async def _subscribe_to_component_updates(self, stream: Stream, _: Mapping[str, Any]) -> Reply:
        stream.on_end(self._host.watch_updates("update", stream))
        return Reply({}, subscription=True)

    async def _subscribe_to_validation(self, stream: Stream, _: Mapping[str, Any]) -> Reply:
        stream.on_end(self._host.watch_updates("validate", stream))
        return Reply({}, subscription=True)

    async def _defer_component_update(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        deployment, wait = body.get("deploymentId"), body.get("recheckAfterMs") or 0
        if not isinstance(deployment, str) or not isinstance(wait, int):
            raise OperationError("InvalidArgumentsError", "Cannot defer the update: no deployment id")
        if not self._host.answer_update("update", stream.component, deployment, wait):
            raise OperationError("ServiceError", "Time limit to respond to PreComponentUpdateEvent exceeded")
        return Reply({})

    async def _send_validity_report(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        report = body.get("configurationValidityReport")
        if not isinstance(report, Mapping) or report.get("status") not in ("ACCEPTED", "REJECTED"):
            raise OperationError("InvalidArgumentsError", "Configuration validity status is required")
        if not self._host.answer_update("validate", stream.component, str(report.get("deploymentId")), report):
            raise OperationError("InvalidArgumentsError", "Validation request either timed out or was never made")
        return Reply({})

    def _authorize(self, stream: Stream, service: str, resource: str) -> None:
        host = self._host
        thing_name = host.thing_name if host.profile.policy_variables else None
        policies = host.access_control(stream.component)
        if not is_allowed(policies, service, stream.operation, resource, thing_name=thing_name):
            text = "IPC Operation not authorized."
            if self._host.profile.component_updates:
                text = f"Principal {stream.component} is not authorized to perform {service}:{stream.operation} on resource {resource}"
            raise OperationError("UnauthorizedError", text)

    def _number_format(self, value: Any) -> Any:
        try:
            return as_doubles(value) if self._host.profile.doubles else value
        except OverflowError:
            raise OperationError("ServiceError", "A number is too large.") from None

    def _check_room(self) -> None:
        if not self._host.has_room_for_subscription():
            raise OperationError("ServiceError", "Failed to bind subscription.")


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise OperationError("ServiceError", "Received invalid parameters.")
    return value


def _component(body: Mapping[str, Any], stream: Stream) -> str:
    name = body.get("componentName")
    if name is not None and not isinstance(name, str):
        raise OperationError("ServiceError", "Received invalid parameters.")
    return name or stream.component


def _key_path(body: Mapping[str, Any]) -> KeyPath:
    path = body.get("keyPath") or []
    if not isinstance(path, list) or not all(isinstance(key, str) for key in path):
        raise OperationError("ServiceError", "Received invalid parameters.")
    return tuple(path)


def _decode_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise OperationError("ServiceError", "The payload is not valid base64.") from None


def _check_cloud_publish(topic: str, payload: bytes) -> None:
    slashes = MAX_TOPIC_SLASHES + (3 if topic.startswith("$aws/rules/") else 0)
    if has_wildcard(topic):
        raise OperationError("ServiceError", "Publish topic must not contain a wildcard")
    if not topic:
        raise OperationError("InvalidArgumentsError", "The topic must not be empty")
    if len(topic.encode()) > MAX_TOPIC_BYTES or topic.count("/") > slashes:
        raise OperationError("InvalidArgumentsError", "The topic is too long or has too many slashes")
    if len(payload) > MAX_CLOUD_PAYLOAD:
        raise OperationError("InvalidArgumentsError", "The payload is over 128 KiB")
