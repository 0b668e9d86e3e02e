"""The nucleus stand-in for synchronous tests: the same verbs, blocking, with the loop in a thread of its own.

Everything here only carries calls over to that thread; it adds no behaviour. A call that fails there raises here.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from greengrass_sandbox.component import Component, State
from greengrass_sandbox.faults import Faults
from greengrass_sandbox.nucleus import (
    UPDATE_TIMEOUT,
    VALIDATION_TIMEOUT,
    DeploymentError,
    LogLine,
    Nucleus,
    OpenSubscription,
    StateChange,
)
from greengrass_sandbox.profiles import ProfileName
from greengrass_sandbox.services import ClientDevices, Metric
from greengrass_sandbox.shadows import Shadows
from greengrass_sandbox.topics import Message, Tap

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_Call = Callable[[Callable[[], Awaitable[Any]]], Any]


class BackgroundTap(Generic[_Item]):
    """A tap that is read with blocking calls. Made by `watch` and `events`.

    Args:
        tap: The tap in the nucleus's thread.
        call: Carries a call over.
    """

    def __init__(self, tap: Tap[_Item], call: _Call) -> None:
        self._tap = tap
        self._call = call

    @property
    def dropped(self) -> int:
        """How many items were lost because nobody read them in time."""
        return self._tap.dropped

    def get(self, timeout: float = 10.0) -> _Item:
        """Returns the next item.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: None came in time.
        """
        __tracebackhide__ = True
        item: _Item = self._call(lambda: self._tap.get(timeout))
        return item

    def take(self, count: int, timeout: float = 10.0) -> list[_Item]:
        """Returns so many items, waiting for each at most `timeout` seconds.

        Raises:
            TimeoutError: One did not come in time.
        """
        __tracebackhide__ = True
        return [self.get(timeout) for _ in range(count)]

    def drain(self) -> list[_Item]:
        """Takes and returns everything that has come and was not read yet, without waiting."""

        async def drain() -> list[_Item]:
            return self._tap.drain()

        items: list[_Item] = self._call(drain)
        return items

    def close(self) -> None:
        """Ends the tap."""

        async def close() -> None:
            self._tap.close()

        self._call(close)


class BackgroundComponent:
    """A component, with blocking calls.

    Args:
        component: The component in the nucleus's thread.
        call: Carries a call over.
    """

    def __init__(self, component: Component, call: _Call) -> None:
        self._component = component
        self._call = call

    @property
    def name(self) -> str:
        """The component's name."""
        return self._component.name

    @property
    def state(self) -> State:
        """The state as the runtime would report it."""
        return self._component.state

    @property
    def version(self) -> str | None:
        """The version that is deployed."""
        return self._component.version

    @property
    def pid(self) -> int | None:
        """Process id (and group id) of the running script."""
        return self._component.pid

    @property
    def log_path(self) -> Path:
        """Where the output of its scripts goes."""
        return self._component.log_path

    @property
    def work_path(self) -> Path:
        """Its work folder."""
        return self._component.work_path

    @property
    def exit_code(self) -> int | None:
        """How its last run ended; see :meth:`Component.exit_code`."""
        return self._component.exit_code

    def log_tail(self, lines: int = 30) -> str:
        """Returns the last lines that its scripts wrote."""
        return self._component.log_tail(lines)

    def describe(self, lines: int = 30) -> str:
        """Returns its state and the end of its log."""
        return self._component.describe(lines)

    def wait_for(self, state: State, timeout: float = 30.0) -> None:
        """Waits until the component is in a state; see :meth:`Component.wait_for`."""
        __tracebackhide__ = True
        self._call(lambda: self._component.wait_for(state, timeout))

    def start(self) -> None:
        """Starts the component."""
        self._call(self._component.start)

    def stop(self, grace: float | None = None) -> None:
        """Stops the component; see :meth:`Component.stop`."""
        self._call(lambda: self._component.stop(grace))

    def restart(self, *, counted: bool = False) -> None:
        """Stops the component and starts it again; see :meth:`Component.start`."""
        self._call(lambda: self._component.restart(counted=counted))

    def kill(self) -> None:
        """Kills the component with SIGKILL, without another start."""
        self._call(self._component.kill)


class BackgroundIotCore:
    """The cloud, with blocking calls.

    Args:
        nucleus: The nucleus.
        call: Carries a call over.
    """

    def __init__(self, nucleus: Nucleus, call: _Call) -> None:
        self._cloud = nucleus.iot_core
        self._call = call

    @property
    def online(self) -> bool:
        """Whether the device reaches the cloud."""
        return self._cloud.online

    @online.setter
    def online(self, value: bool) -> None:
        async def switch() -> None:
            self._cloud.online = value

        self._call(switch)

    @property
    def messages(self) -> list[Message]:
        """What reached the cloud, in order (the last 100,000); what is on its way is waited for."""

        async def copy() -> list[Message]:
            await self._cloud.settle()
            return list(self._cloud.messages)

        messages: list[Message] = self._call(copy)
        return messages

    @property
    def round_trip(self) -> float:
        """Seconds until a QoS 1 message is acknowledged."""
        return self._cloud.round_trip

    @round_trip.setter
    def round_trip(self, value: float) -> None:
        self._cloud.round_trip = value

    def watch(self, topic_filter: str = "#") -> BackgroundTap[Message]:
        """Returns a tap of what reaches the cloud on matching topics from now on."""

        async def watch() -> Tap[Message]:
            return self._cloud.watch(topic_filter)

        return BackgroundTap(self._call(watch), self._call)

    def publish(self, topic: str, payload: bytes) -> int:
        """Publishes from the cloud to the device; returns how many subscriptions it went to."""
        count: int = self._call(lambda: self._cloud.publish(topic, payload))
        return count


class BackgroundNucleus:
    """A nucleus in a thread of its own. A context manager; it runs between entering and leaving.

    Args:
        root: The nucleus's root folder.
        profile: Which runtime to be.
        thing_name: Name of the core device.
        region: What components read in `AWS_REGION`.
        environment: What components inherit; by default the environment of this process.
        python: What `python3` is in recipes; see :class:`Nucleus`.
        validation_timeout: Seconds that a deployment waits for a component's word on its configuration; see :class:`Nucleus`.
        secrets: Secrets by id, or a JSON file of them; see :class:`Nucleus`.
        services: AWS components that are taken for deployed; see :class:`Nucleus`.
    """

    def __init__(
        self,
        root: Path,
        profile: ProfileName = "lite",
        *,
        thing_name: str = "sandbox-core",
        region: str = "eu-central-1",
        environment: Mapping[str, str] | None = None,
        python: Path | str | None = sys.executable,
        validation_timeout: float = VALIDATION_TIMEOUT,
        secrets: Path | Mapping[str, Any] | None = None,
        services: Iterable[str] = (),
    ) -> None:
        self._make = functools.partial(
            Nucleus,
            root,
            profile,
            thing_name=thing_name,
            region=region,
            environment=environment,
            python=python,
            validation_timeout=validation_timeout,
            secrets=secrets,
            services=services,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="greengrass-sandbox", daemon=True)
        self._nucleus: Nucleus | None = None

    def __enter__(self) -> BackgroundNucleus:
        self._thread.start()

        async def enter() -> Nucleus:
            return await self._make().__aenter__()

        try:
            self._nucleus = self._call(enter)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._call(lambda: self.nucleus.__aexit__(kind, error, traceback))
        finally:
            self._end()

    @property
    def nucleus(self) -> Nucleus:
        """The nucleus itself, which belongs to its thread: reach it with :meth:`call`.

        Raises:
            RuntimeError: It is not running.
        """
        if self._nucleus is None:
            raise RuntimeError("the nucleus runs only inside its with block")
        return self._nucleus

    @property
    def iot_core(self) -> BackgroundIotCore:
        """The cloud."""
        return BackgroundIotCore(self.nucleus, self._call)

    @property
    def faults(self) -> Faults:
        """What can go wrong, to order."""
        return self.nucleus.faults

    @property
    def shadows(self) -> Shadows:
        """The shadows on the device."""
        return self.nucleus.shadows

    @property
    def metrics(self) -> list[Metric]:
        """What PutComponentMetric brought."""
        return self.nucleus.metrics

    @property
    def client_devices(self) -> ClientDevices:
        """Devices that client-device operations know."""
        return self.nucleus.client_devices

    @property
    def socket_path(self) -> Path:
        """The IPC socket."""
        return self.nucleus.socket_path

    def call(self, action: Callable[[Nucleus], Awaitable[_Result]]) -> _Result:
        """Runs any coroutine on the nucleus, in its thread, and returns its result."""
        __tracebackhide__ = True
        result: _Result = self._call(lambda: action(self.nucleus))
        return result

    def deploy(
        self,
        recipe: Path,
        artifacts: Path | None = None,
        *,
        configuration: Mapping[str, Any] | None = None,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        local: bool = False,
        on_failure: Literal["ROLLBACK", "DO_NOTHING"] | None = None,
        update_timeout: float = UPDATE_TIMEOUT,
        until_stable: bool = False,
    ) -> BackgroundComponent:
        """Deploys a component; see :meth:`Nucleus.deploy`. Returns the component."""
        __tracebackhide__ = True
        deployment = self.call(
            lambda nucleus: nucleus.deploy(
                recipe,
                artifacts,
                configuration=configuration,
                others=others,
                local=local,
                on_failure=on_failure,
                update_timeout=update_timeout,
                until_stable=until_stable,
            )
        )
        return BackgroundComponent(deployment.component, self._call)

    def update_configuration(
        self,
        name: str,
        merge: Mapping[str, Any] | None = None,
        *,
        reset: Sequence[str] = (),
        restart: bool | None = None,
    ) -> None:
        """Changes a component's configuration; see :meth:`Nucleus.update_configuration`."""
        __tracebackhide__ = True
        self.call(lambda nucleus: nucleus.update_configuration(name, merge, reset=reset, restart=restart))

    def configure(self, changes: Mapping[str, Mapping[str, Any]], *, restart: bool | None = None) -> None:
        """Changes the configuration of several components in one deployment; see :meth:`Nucleus.configure`."""
        __tracebackhide__ = True
        self.call(lambda nucleus: nucleus.configure(changes, restart=restart))

    def remove(self, name: str) -> None:
        """Removes a component; see :meth:`Nucleus.remove`."""
        self.call(lambda nucleus: nucleus.remove(name))

    def create_local_deployment(self, request: Mapping[str, Any]) -> str:
        """Begins a local deployment and returns its id; see :meth:`Nucleus.create_local_deployment`."""

        async def create(nucleus: Nucleus) -> str:
            return nucleus.create_local_deployment(request)

        return self.call(create)

    def deployment_status(self, identity: str | None = None) -> list[dict[str, Any]]:
        """Returns the status of one local deployment or of all."""

        async def status(nucleus: Nucleus) -> list[dict[str, Any]]:
            return nucleus.deployment_status(identity)

        return self.call(status)

    def rotate_certificates(self) -> None:
        """Sends every subscriber of server certificates a new one."""
        self.call(lambda nucleus: nucleus.rotate_certificates())

    def kill(self) -> None:
        """Ends the nucleus as a crash does; see :meth:`Nucleus.kill`."""
        self.call(lambda nucleus: nucleus.kill())

    def start(self) -> None:
        """Starts the nucleus after :meth:`kill`."""
        self.call(lambda nucleus: nucleus.start())

    def restart(self) -> None:
        """Restarts the nucleus and its components; see :meth:`Nucleus.restart`."""
        self.call(lambda nucleus: nucleus.restart())

    def credentials(
        self,
        name: str,
        source: Path | Mapping[str, Any] | None = None,
        *,
        configuration: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Registers a component without a process; see :meth:`Nucleus.credentials`."""

        async def credentials(nucleus: Nucleus) -> dict[str, str]:
            return nucleus.credentials(name, source, configuration=configuration)

        return self.call(credentials)

    def component(self, name: str) -> BackgroundComponent:
        """Returns a deployed component; KeyError if there is none."""
        return BackgroundComponent(self.nucleus.component(name), self._call)

    @property
    def components(self) -> list[BackgroundComponent]:
        """Every deployed component."""
        return [BackgroundComponent(each, self._call) for each in self.nucleus.components]

    @property
    def connections(self) -> list[str]:
        """For each open connection, the name of the component whose it is."""

        async def connections(nucleus: Nucleus) -> list[str]:
            return nucleus.connections

        return self.call(connections)

    @property
    def subscriptions(self) -> list[OpenSubscription]:
        """The open subscriptions of all components."""

        async def subscriptions(nucleus: Nucleus) -> list[OpenSubscription]:
            return nucleus.subscriptions

        return self.call(subscriptions)

    def configuration(self, name: str, path: Sequence[str] = ()) -> Any:
        """Returns a component's configuration as it is now, or the value at a path in it; KeyError if there is none."""

        async def read(nucleus: Nucleus) -> Any:
            return nucleus.configuration(name).read(path)

        return self.call(read)

    def watch(self, topic_filter: str = "#") -> BackgroundTap[Message]:
        """Returns a tap of the local messages on matching topics; see :meth:`Nucleus.watch`."""

        async def watch(nucleus: Nucleus) -> Tap[Message]:
            return nucleus.watch(topic_filter)

        return BackgroundTap(self.call(watch), self._call)

    def wait_for_subscriber(self, topic: str, component: str | None = None, timeout: float = 30.0) -> None:
        """Waits until a local message on a topic would reach somebody; see :meth:`Nucleus.wait_for_subscriber`."""
        __tracebackhide__ = True
        self.call(lambda nucleus: nucleus.wait_for_subscriber(topic, component, timeout))

    def events(self) -> BackgroundTap[StateChange | LogLine]:
        """Returns a tap of components' states and log lines."""

        async def events(nucleus: Nucleus) -> Tap[StateChange | LogLine]:
            return nucleus.events()

        return BackgroundTap(self.call(events), self._call)

    def publish(self, topic: str, payload: Any) -> None:
        """Publishes a local message that no component sent; see :meth:`Nucleus.publish`."""
        self.call(lambda nucleus: nucleus.publish(topic, payload))

    def _call(self, action: Callable[[], Awaitable[Any]]) -> Any:
        __tracebackhide__ = True

        async def run() -> Any:
            return await action()

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        except (DeploymentError, TimeoutError) as error:
            # They say what the component did; where in this package that was noticed would only hide it in a test's report.
            raise error.with_traceback(None) from None

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._nucleus = None
