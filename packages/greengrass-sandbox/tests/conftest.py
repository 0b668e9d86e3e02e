"""A nucleus for each test, and the real SDK connected to it. The sandbox is never replaced by anything: what is tested here is its socket."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc
import pytest
from awsiot.eventstreamrpc import LifecycleHandler
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from greengrass_sandbox import BackgroundNucleus

EVERYTHING = {
    service: {"all": {"operations": ["*"], "resources": ["*"]}}
    for service in ("aws.greengrass.ipc.pubsub", "aws.greengrass.ipc.mqttproxy")
}
DEADLINE = 120.0


class Lifecycle(LifecycleHandler):
    """Tells when the connection is gone."""

    def __init__(self) -> None:
        self.lost: Future[Exception | None] = Future()

    def on_disconnect(self, reason: Exception | None) -> None:
        self.lost.set_result(reason)


class Subscription:
    """What a subscription received."""

    def __init__(self) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.ended: Future[None] = Future()
        self.operation: Any = None

    def handlers(self) -> dict[str, Any]:
        return {
            "on_stream_event": self.events.put,
            "on_stream_error": lambda _: False,
            "on_stream_closed": lambda: None if self.ended.done() else self.ended.set_result(None),
        }

    def get(self, timeout: float = DEADLINE) -> Any:
        return self.events.get(timeout=timeout)

    def payload(self, timeout: float = DEADLINE) -> Any:
        """The next message's content, whatever kind it is."""
        event = self.get(timeout)
        if getattr(event, "message", None) is not None:
            return event.message.payload
        return event.json_message.message if event.json_message else event.binary_message.message


class Client:
    """The real SDK, with a deadline at each call."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.lifecycle = Lifecycle()
        connection = awsiot.greengrasscoreipc.connect(
            ipc_socket=environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
            authtoken=environment["SVCUID"],
            lifecycle_handler=self.lifecycle,
            timeout=DEADLINE,
        )
        self._executor = ThreadPoolExecutor(1)
        self.sdk = GreengrassCoreIPCClientV2(client=connection, executor=self._executor)

    def call(self, operation: str, **arguments: Any) -> Any:
        return self.start(operation, **arguments).result(DEADLINE)

    def start(self, operation: str, **arguments: Any) -> Future[Any]:
        future: Future[Any] = getattr(self.sdk, f"{operation}_async")(**arguments)
        return future

    def publish(self, topic: str, payload: Any) -> None:
        self.start_publish(topic, payload).result(DEADLINE)

    def start_publish(self, topic: str, payload: Any) -> Future[Any]:
        if isinstance(payload, bytes):
            message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        else:
            message = model.PublishMessage(json_message=model.JsonMessage(message=payload))
        return self.start("publish_to_topic", topic=topic, publish_message=message)

    def subscribe(self, topic: str, mode: str | None = None) -> Subscription:
        return self.stream("subscribe_to_topic", topic=topic, receive_mode=mode)

    def stream(self, operation: str, **arguments: Any) -> Subscription:
        subscription = Subscription()
        response, subscription.operation = getattr(self.sdk, f"{operation}_async")(
            **arguments, **subscription.handlers()
        )
        response.result(DEADLINE)
        return subscription

    def close(self) -> None:
        # The SDK hands each stream's end to the executor while it closes: that one goes last.
        self.sdk.client.close().exception(DEADLINE)
        self._executor.shutdown(wait=True)


@pytest.fixture(params=["lite", "classic"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def nucleus(profile: str, make_nucleus: Callable[[str], BackgroundNucleus]) -> BackgroundNucleus:
    return make_nucleus(profile)


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Connects the SDK as a component that may do everything, or what is said."""
    with contextlib.ExitStack() as stack:

        def connect(
            nucleus: BackgroundNucleus, name: str = "com.example.Test", access: Any = None, **more: Any
        ) -> Client:
            client = Client(nucleus.credentials(name, EVERYTHING if access is None else access, **more))
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture
def component_files(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe for the given scripts and returns its path."""

    def write(
        name: str = "com.example.Worker", version: str = "1.0.0", configuration: str = "{}", **lifecycle: str
    ) -> Path:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}-{version}.yaml"
        steps = "\n".join(f"      {step}: {script}" for step, script in lifecycle.items())
        path.write_text(
            f'RecipeFormatVersion: "2020-01-25"\nComponentName: {name}\nComponentVersion: "{version}"\n'
            f"ComponentConfiguration: {{DefaultConfiguration: {configuration}}}\n"
            f'Manifests:\n  - Platform: {{os: linux, runtime: "*"}}\n    Lifecycle:\n{steps}\n'
        )
        return path

    return write
