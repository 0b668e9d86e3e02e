"""What components ask of other components of the nucleus: management, local deployments, metrics, secrets, shadows, client devices.

Each is there when it would be there on a device: operations of an AWS component answer once a deployed component depends on it (or a test asked for it).
On lite only what 2.6.0 has exists: CreateLocalDeployment, RestartComponent and ValidateAuthorizationToken.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from greengrass_sandbox.access import CLI, is_allowed
from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.server import NAMESPACE, OperationError, Reply, Stream
from greengrass_sandbox.shadows import ShadowConflictError, ShadowError, Shadows

LIFECYCLE: Final = "aws.greengrass.ipc.lifecycle"
SECRET_MANAGER: Final = "aws.greengrass.SecretManager"  # noqa: S105  a component's name
SHADOW_MANAGER: Final = "aws.greengrass.ShadowManager"
CLIENT_DEVICES: Final = "aws.greengrass.clientdevices.Auth"
STREAM_MANAGER: Final = "aws.greengrass.StreamManager"

UNITS: Final = frozenset({"Bytes", "Bytes/Second", "Count", "Count/Second", "Megabytes", "Seconds"})
PASSWORD_LIFETIME: Final = 8 * 3600
"""Seconds for which a password of the local debug console is good."""
LARGEST_PAGE: Final = 25
"""Names of shadows in one answer, by default."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that a component handed to the nucleus.

    Attributes:
        component: Whose it is.
        name: Its name.
        unit: `Bytes`, `Bytes/Second`, `Count`, `Count/Second`, `Megabytes` or `Seconds`.
        value: Its value.
        time: When it came, in seconds since 1970.
    """

    component: str
    name: str
    unit: str
    value: float
    time: float


@dataclass(slots=True)
class ClientDevices:
    """Client devices of the core device, for the client-device operations.

    Attributes:
        certificates: The certificate of each device, in PEM, by its client id.
        permissions: For each client id the pairs of operation and resource that it may use, such as `("mqtt:publish", "mqtt:topic:a")`; a `*` at the end
            of a resource stands for the rest.
    """

    certificates: dict[str, str] = field(default_factory=dict)
    permissions: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    def open_session(self, client_id: str, certificate: str) -> str | None:
        """Returns a token for a device that is known by this certificate; None for another."""
        if client_id not in self.certificates or self.certificates[client_id].strip() != certificate.strip():
            return None
        token = secrets.token_urlsafe(12)
        self._tokens[token] = client_id
        return token

    def knows(self, certificate: str) -> bool:
        """Whether a device has this certificate."""
        return any(known.strip() == certificate.strip() for known in self.certificates.values())

    def allows(self, token: str, operation: str, resource: str) -> bool | None:
        """Whether a session's device may do something; None if there is no such session."""
        if token not in self._tokens:
            return None
        return any(
            allowed == operation
            and (covered == resource or (covered.endswith("*") and resource.startswith(covered[:-1])))
            for allowed, covered in self.permissions.get(self._tokens[token], [])
        )


class ServiceHost(Protocol):
    """What these operations need of the nucleus."""

    profile: Profile
    thing_name: str
    shadows: Shadows
    secrets: Mapping[str, Any]
    metrics: list[Metric]
    client_devices: ClientDevices

    def access_control(self, component: str) -> Any:
        """Returns the policies of a component that are in force."""

    def has_service(self, name: str) -> bool:
        """Whether an AWS component is on this device."""

    def token_owner(self, token: str) -> str | None:
        """Returns the component that a token belongs to."""

    def component_details(self, name: str | None) -> list[dict[str, Any]]:
        """Returns name, version, state and configuration of one component or of all; KeyError for a stranger."""

    async def manage(self, name: str, action: str) -> None:
        """Does `restart`, `stop`, `pause` or `resume` to a component; KeyError for a stranger, RuntimeError if it cannot be done."""

    def create_local_deployment(self, request: Mapping[str, Any]) -> str:
        """Begins a local deployment and returns its id; ValueError for a request that cannot be read."""

    def cancel_local_deployment(self, identity: str) -> None:
        """Cancels a deployment that has not begun; KeyError for a stranger, RuntimeError if it is too late."""

    def deployment_status(self, identity: str | None) -> list[dict[str, Any]]:
        """Returns the status of one local deployment or of all; KeyError for a stranger."""

    def watch_certificates(self, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of server certificates; returns what removes it."""


Handler = Callable[[Stream, Mapping[str, Any]], Awaitable[Reply]]


class Services:
    """The operations of other components of one nucleus.

    Args:
        host: The nucleus.
    """

    def __init__(self, host: ServiceHost) -> None:
        self._host = host
        self.handlers: dict[str, Handler] = {
            "CreateLocalDeployment": self._create_local_deployment,
            "RestartComponent": self._restart_component,
            "ValidateAuthorizationToken": self._validate_authorization_token,
        }
        if host.profile.component_updates:
            self.handlers |= {
                "ListComponents": self._list_components,
                "GetComponentDetails": self._get_component_details,
                "StopComponent": self._stop_component,
                "PauseComponent": self._pause_component,
                "ResumeComponent": self._resume_component,
                "ListLocalDeployments": self._list_local_deployments,
                "GetLocalDeploymentStatus": self._get_local_deployment_status,
                "CancelLocalDeployment": self._cancel_local_deployment,
                "CreateDebugPassword": self._create_debug_password,
                "PutComponentMetric": self._put_component_metric,
                "GetSecretValue": self._get_secret_value,
                "GetThingShadow": self._get_thing_shadow,
                "UpdateThingShadow": self._update_thing_shadow,
                "DeleteThingShadow": self._delete_thing_shadow,
                "ListNamedShadowsForThing": self._list_named_shadows,
                "SubscribeToCertificateUpdates": self._subscribe_to_certificate_updates,
                "VerifyClientDeviceIdentity": self._verify_client_device,
                "GetClientDeviceAuthToken": self._get_client_device_token,
                "AuthorizeClientDeviceAction": self._authorize_client_device,
            }

    # Components and deployments.

    async def _list_components(self, stream: Stream, _: Mapping[str, Any]) -> Reply:
        self._authorize(stream, CLI, "*")
        return Reply({"components": self._host.component_details(None)})

    async def _get_component_details(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        name = self._component(stream, body, CLI)
        try:
            (details,) = self._host.component_details(name)
        except KeyError:
            raise _not_found(name) from None
        return Reply({"componentDetails": details})

    async def _restart_component(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        name = self._component(stream, body, CLI)
        if self._host.profile.component_updates:
            return Reply(await self._manage(name, "restart", "restartStatus"))
        try:
            await self._host.manage(name, "restart")
        except KeyError:
            raise OperationError("ResourceNotFoundError", "Component not found.") from None
        except RuntimeError:
            return Reply({"restartStatus": "FAILED"})
        return Reply({"restartStatus": "SUCCEEDED"})

    async def _stop_component(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        return Reply(await self._manage(self._component(stream, body, CLI), "stop", "stopStatus"))

    async def _manage(self, name: str, action: str, status: str) -> dict[str, Any]:
        try:
            await self._host.manage(name, action)
        except KeyError:
            raise _not_found(name) from None
        except RuntimeError as error:
            return {status: "FAILED", "message": str(error)}
        return {status: "SUCCEEDED"}

    async def _pause_component(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        return await self._pause(stream, body, "pause")

    async def _resume_component(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        return await self._pause(stream, body, "resume")

    async def _pause(self, stream: Stream, body: Mapping[str, Any], action: str) -> Reply:
        name = self._component(stream, body, LIFECYCLE)
        try:
            await self._host.manage(name, action)
        except KeyError:
            raise OperationError("ResourceNotFoundError", f"Component {name} is not present") from None
        except RuntimeError as error:
            raise OperationError("InvalidArgumentsError", str(error)) from None
        return Reply({})

    async def _create_local_deployment(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        if self._host.profile.component_updates:
            self._authorize(stream, CLI, "*")
        elif not self._is_allowed(stream, CLI, ""):
            raise OperationError("ServiceError", "IPC Operation not authorized.")
        try:
            return Reply({"deploymentId": self._host.create_local_deployment(body)})
        except ValueError as error:
            code = "InvalidArgumentsError" if self._host.profile.component_updates else "ServiceError"
            raise OperationError(code, str(error)) from None

    async def _list_local_deployments(self, stream: Stream, _: Mapping[str, Any]) -> Reply:
        self._authorize(stream, CLI, "*")
        return Reply({"localDeployments": self._host.deployment_status(None)})

    async def _get_local_deployment_status(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        identity = _text(body, "deploymentId")
        self._authorize(stream, CLI, identity)
        try:
            (status,) = self._host.deployment_status(identity)
        except KeyError:
            raise OperationError("ResourceNotFoundError", "Cannot find deployment") from None
        return Reply({"deployment": status})

    async def _cancel_local_deployment(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        identity = _text(body, "deploymentId")
        self._authorize(stream, CLI, identity)
        try:
            self._host.cancel_local_deployment(identity)
        except KeyError:
            raise OperationError("ResourceNotFoundError", "Cannot find deployment") from None
        except RuntimeError as error:
            raise OperationError("InvalidArgumentsError", str(error)) from None
        return Reply({"message": f"Deployment {identity} is canceled"})

    async def _create_debug_password(self, stream: Stream, _: Mapping[str, Any]) -> Reply:
        self._authorize(stream, CLI, "*")
        password = {"username": "debug", "password": secrets.token_urlsafe(32)}
        return Reply(password | {"passwordExpiration": time.time() + PASSWORD_LIFETIME})

    async def _validate_authorization_token(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        if stream.component != STREAM_MANAGER:
            text = "Component does not have access to token verification IPC command."
            raise OperationError("UnauthorizedError", text)
        if self._host.token_owner(_text(body, "token")) is None:
            text = "Invalid token used by stream manager when trying to authorize."
            raise OperationError("InvalidTokenError", text)
        return Reply({"isValid": True})

    async def _put_component_metric(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        if not stream.component.startswith("aws."):
            text = f"{stream.component} is not authorized to perform aws.greengrass#PutComponentMetric"
            raise OperationError("UnauthorizedError", text)
        metrics, now = body.get("metrics"), time.time()
        if not isinstance(metrics, list) or not metrics:
            raise OperationError("InvalidArgumentsError", "Null or empty list of metrics")
        taken = []
        for metric in metrics:
            value = metric.get("value") if isinstance(metric, Mapping) else None
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
                raise OperationError("InvalidArgumentsError", "A metric needs a value that is no negative number")
            if not isinstance(metric.get("name"), str) or not metric["name"] or metric.get("unit") not in UNITS:
                raise OperationError("InvalidArgumentsError", "A metric needs a name and a known unit")
            taken.append(Metric(stream.component, metric["name"], metric["unit"], float(value), now))
        self._host.metrics.extend(taken)
        return Reply({})

    # Secrets and shadows.

    async def _get_secret_value(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(SECRET_MANAGER)
        identity = _text(body, "secretId")
        self._authorize(stream, SECRET_MANAGER, identity)
        stored = self._host.secrets.get(identity)
        if stored is None:
            raise OperationError("ResourceNotFoundError", f"Secret not found {identity}")
        entry = stored if isinstance(stored, Mapping) else {"secretString": stored}
        text, binary = entry.get("secretString"), entry.get("secretBinary")
        value = (
            {"secretBinary": base64.b64encode(binary).decode()} if isinstance(binary, bytes) else {"secretString": text}
        )
        version = {
            "versionId": str(entry.get("versionId", "1")),
            "versionStage": entry.get("versionStage", ["AWSCURRENT"]),
        }
        wanted = (body.get("versionId"), body.get("versionStage"))
        if wanted[0] not in (None, version["versionId"]) or (wanted[1] and wanted[1] not in version["versionStage"]):
            raise OperationError("ResourceNotFoundError", f"Secret not found {identity} in this version")
        return Reply({"secretId": identity, "secretValue": value} | version)

    async def _get_thing_shadow(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        thing, shadow = self._shadow(stream, body)
        try:
            return _document(self._host.shadows.get(thing, shadow))
        except KeyError:
            raise OperationError("ResourceNotFoundError", "No shadow found") from None

    async def _update_thing_shadow(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        thing, shadow = self._shadow(stream, body)
        try:
            payload = base64.b64decode(_text(body, "payload"), validate=True)
            return _document(self._host.shadows.update(thing, shadow, payload))
        except ShadowConflictError as error:
            raise OperationError("ConflictError", str(error)) from None
        except (ShadowError, ValueError) as error:
            raise OperationError("InvalidArgumentsError", str(error)) from None

    async def _delete_thing_shadow(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        thing, shadow = self._shadow(stream, body)
        try:
            return _document(self._host.shadows.delete(thing, shadow))
        except KeyError:
            raise OperationError("ResourceNotFoundError", "No shadow found") from None

    async def _list_named_shadows(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(SHADOW_MANAGER)
        thing, size, token = _text(body, "thingName"), body.get("pageSize"), body.get("nextToken")
        self._authorize(stream, SHADOW_MANAGER, thing)
        if size is None:
            size = LARGEST_PAGE
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 100:  # noqa: PLR2004  the service's own limits
            raise OperationError("InvalidArgumentsError", "pageSize must be between 1 and 100")
        if token is not None and not isinstance(token, str):
            raise OperationError("InvalidArgumentsError", "Invalid nextToken")
        names = [name for name in self._host.shadows.names(thing) if not token or name > token]
        more = {"nextToken": names[size - 1]} if len(names) > size else {}
        return Reply({"results": names[:size], "timestamp": time.time()} | more)

    def _shadow(self, stream: Stream, body: Mapping[str, Any]) -> tuple[str, str]:
        self._need(SHADOW_MANAGER)
        thing, shadow = _text(body, "thingName"), body.get("shadowName") or ""
        if not thing or not isinstance(shadow, str):
            raise OperationError(
                "InvalidArgumentsError", "ThingName and ShadowName are strings, and the first is not empty"
            )
        name = f"/name/{shadow}" if shadow else ""
        self._authorize(stream, SHADOW_MANAGER, f"$aws/things/{thing}/shadow{name}")
        return thing, shadow

    # Client devices.

    async def _subscribe_to_certificate_updates(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(CLIENT_DEVICES)
        self._authorize(stream, CLIENT_DEVICES, "*")
        options = body.get("certificateOptions")
        if not isinstance(options, Mapping) or options.get("certificateType") != "SERVER":
            raise OperationError("InvalidArgumentsError", "certificateType must be SERVER")
        stream.on_end(self._host.watch_certificates(stream))
        return Reply({}, subscription=True)

    async def _verify_client_device(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(CLIENT_DEVICES)
        self._authorize(stream, CLIENT_DEVICES, "*")
        credential = body.get("credential")
        pem = credential.get("clientDeviceCertificate") if isinstance(credential, Mapping) else None
        if not isinstance(pem, str):
            raise OperationError("InvalidArgumentsError", "Invalid client device credentials")
        return Reply({"isValidClientDevice": self._host.client_devices.knows(pem)})

    async def _get_client_device_token(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(CLIENT_DEVICES)
        self._authorize(stream, CLIENT_DEVICES, "*")
        credential = body.get("credential")
        mqtt = credential.get("mqttCredential") if isinstance(credential, Mapping) else None
        client, pem = (mqtt.get("clientId"), mqtt.get("certificatePem")) if isinstance(mqtt, Mapping) else (None, None)
        if not isinstance(client, str) or not isinstance(pem, str):
            raise OperationError("InvalidArgumentsError", "Invalid client device credentials")
        token = self._host.client_devices.open_session(client, pem)
        if token is None:
            raise OperationError("InvalidCredentialError", "Failed to authenticate the client device")
        return Reply({"clientDeviceAuthToken": token})

    async def _authorize_client_device(self, stream: Stream, body: Mapping[str, Any]) -> Reply:
        self._need(CLIENT_DEVICES)
        self._authorize(stream, CLIENT_DEVICES, "*")
        token, operation, resource = (_text(body, key) for key in ("clientDeviceAuthToken", "operation", "resource"))
        allowed = self._host.client_devices.allows(token, operation, resource)
        if allowed is None:
            raise OperationError("InvalidClientDeviceAuthTokenError", "Invalid client device auth token")
        return Reply({"isAuthorized": allowed})

    # What all need.

    def _component(self, stream: Stream, body: Mapping[str, Any], service: str) -> str:
        name = body.get("componentName")
        if not isinstance(name, str) or not name:
            raise OperationError("InvalidArgumentsError", "Invalid arguments provided.")
        self._authorize(stream, service, name)
        return name

    def _need(self, service: str) -> None:
        """Refuses an operation of a component that is not on this device, as the nucleus does."""
        if not self._host.has_service(service):
            raise OperationError("ServiceError", f"{service} is not deployed: no component depends on it")

    def _is_allowed(self, stream: Stream, service: str, resource: str) -> bool:
        thing_name = self._host.thing_name if self._host.profile.policy_variables else None
        policies = self._host.access_control(stream.component)
        return is_allowed(policies, service, stream.operation, resource, thing_name=thing_name)

    def _authorize(self, stream: Stream, service: str, resource: str) -> None:
        if not self._is_allowed(stream, service, resource):
            operation = stream.operation.removeprefix(NAMESPACE)
            text = f"Principal {stream.component} is not authorized to perform {service}:{NAMESPACE}{operation} on resource {resource}"
            raise OperationError("UnauthorizedError", text)


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise OperationError("InvalidArgumentsError", f"{key} is required")
    return value


def _not_found(name: str) -> OperationError:
    return OperationError("ResourceNotFoundError", f"Component with name {name} not found in Greengrass")


def _document(document: Mapping[str, Any]) -> Reply:
    return Reply({"payload": base64.b64encode(json.dumps(document).encode()).decode()})
