"""The nucleus stand-in: one device, with its IPC server, its components and its cloud, inside one asyncio loop.

It behaves like the runtime that its profile names, limits and traps included; where the runtimes' sources are silent it does the stricter thing. It must
never leave a process behind, and never reach the network.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, cast

from greengrass_sandbox.certificates import make_certificate
from greengrass_sandbox.cloud import IotCore
from greengrass_sandbox.component import Command, Component, InstallError, Plan, State
from greengrass_sandbox.configuration import Configuration, ConfigurationError, KeyPath
from greengrass_sandbox.deployments import DeploymentRequest, LocalDeployment, find_recipes, in_order, read_request
from greengrass_sandbox.faults import Faults, Rules
from greengrass_sandbox.operations import EVENT_SHAPES, NucleusOperations
from greengrass_sandbox.process import Level
from greengrass_sandbox.profiles import Profile, ProfileName, profile_named
from greengrass_sandbox.pubsub import LocalBroker
from greengrass_sandbox.recipe import Artifact, Interpolator, Recipe, RecipeError, load_recipe, locate
from greengrass_sandbox.server import NAMESPACE, IpcServer, Stream
from greengrass_sandbox.services import SECRET_MANAGER, ClientDevices, Metric
from greengrass_sandbox.shadows import Shadows
from greengrass_sandbox.topics import Message, Tap
from greengrass_sandbox.versions import satisfies

logger = logging.getLogger(__name__)

LONGEST_SOCKET_PATH: Final = 107
"""Bytes in the path of a Unix socket on Linux."""

VALIDATION_TIMEOUT: Final = 20.0
UPDATE_TIMEOUT: Final = 60.0
"""Seconds that a classic deployment waits for the answers of components, by default."""

STABLE_AFTER: Final = 1.5
"""Seconds for which a component must stay up to count as started; longer than the runtimes' pause before another start."""

EXIT_GRACE: Final = 5.0
"""Seconds that components get to stop when the nucleus ends, at most."""


class DeploymentError(Exception):
    """A deployment that failed. What ran before runs on."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment that succeeded.

    Attributes:
        id: Its id.
        component: What was deployed.
        version: Its version.
    """

    id: str
    component: Component
    version: str


@dataclass(frozen=True, slots=True)
class StateChange:
    """A component's new state.

    Attributes:
        component: The component's name.
        state: Its state.
        time: When, in seconds since 1970.
    """

    component: str
    state: State
    time: float


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a component wrote.

    Attributes:
        component: The component's name.
        line: Without its end.
        time: When it was read, in seconds since 1970.
        level: How the classic nucleus logs it: stdout as INFO and stderr as WARN, whatever the line says. Lite's journal keeps both as INFO.
    """

    component: str
    line: str
    time: float
    level: Level = "INFO"


@dataclass(frozen=True, slots=True)
class OpenSubscription:
    """A subscription over IPC, as the nucleus sees it.

    Attributes:
        component: Whose it is.
        operation: What opened it, such as `SubscribeToTopic`.
        resource: The topic filter; of a configuration subscription the key path, joined by slashes.
    """

    component: str
    operation: str
    resource: str


class BrokenComponentError(TimeoutError):
    """Nothing can come any more: every component is BROKEN. The message holds the end of their logs."""


class Nucleus:
    """A stand-in for the Greengrass nucleus. An asynchronous context manager; it runs between entering and leaving.

    Args:
        root: The nucleus's root folder; made if missing. Work folders in it survive.
        profile: Which runtime to be.
        thing_name: Name of the core device.
        region: What components read in `AWS_REGION`.
        environment: What components inherit; by default the environment of this process.
        python: What `python3`, `python` and `pip` are in the scripts of recipes: by default the interpreter that runs this process; None for what the
            inherited PATH says.
        validation_timeout: Seconds that a deployment waits for a component's word on its new configuration (classic).
        secrets: Secrets by id, or a JSON file of them: a text, or a map with `secretString`, `versionId` and `versionStage` (classic).
        services: AWS components that are taken for deployed although no component depends on them, such as `aws.greengrass.ShadowManager`.

    Attributes:
        profile: The runtime's limits and habits.
        local: The local broker.
        iot_core: The cloud.
        faults: What can go wrong, to order.
        shadows: The shadows on the device.
        metrics: What PutComponentMetric brought.
        client_devices: Devices that client-device operations know.
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
        self.profile: Profile = profile_named(profile)
        self.shadows = Shadows()
        self.secrets: Mapping[str, Any] = (
            json.loads(secrets.read_text()) if isinstance(secrets, Path) else secrets or {}
        )
        self.metrics: list[Metric] = []
        self.client_devices = ClientDevices()
        self._services = {*services, *([SECRET_MANAGER] if secrets is not None else [])}
        self._local_deployments: dict[str, LocalDeployment] = {}
        self._sources: dict[tuple[str, str], tuple[Path, Path | None]] = {}
        self._certificate_watchers: list[Stream] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.root = root.absolute()
        self.thing_name = thing_name
        self.region = region
        self.local = LocalBroker(self.profile)
        self._tap_options = {"hopeless": self._hopeless, "situation": self._situation}
        self.iot_core = IotCore(self.profile, self.stamp, self._tap_options)
        self._python = python
        self._validation_timeout = validation_timeout
        self._environment = dict(os.environ if environment is None else environment)
        self._orders = itertools.count(1)
        self._tokens: dict[str, str] = {}  # component by token
        self._components: dict[str, Component] = {}
        self._recipes: dict[str, Recipe] = {}
        self._configurations: dict[str, Configuration] = {}
        self._configuration_watchers: list[tuple[str, KeyPath, Stream]] = []
        self._update_watchers: list[tuple[str, Stream]] = []
        self._answers: dict[tuple[str, str, str], asyncio.Future[Any]] = {}
        self._taps: list[Tap[StateChange | LogLine]] = []
        self._stale_policies: dict[str, Any] = {}  # accessControl that is in force still, although it was changed
        self._running = False
        self._deploying = asyncio.Lock()
        self._cleanup = contextlib.ExitStack()
        rules = Rules()
        identify = self._is_process_of if self.profile.connects_by_name else None
        self._server = IpcServer(self.profile, self._tokens.get, NucleusOperations(self), rules, identify)
        self.faults = Faults(self, rules)
        self.socket_path = self.root / self.profile.socket_name

    async def __aenter__(self) -> Nucleus:
        for folder in (
            "logs",
            "work",
            "packages/artifacts",
            "packages/artifacts-unarchived",
            "packages/recipes",
            "scripts",
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        if self._python is not None:
            _write_python(self.root / "bin", self._python)
        if len(os.fsencode(self.socket_path)) > LONGEST_SOCKET_PATH:
            short = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="greengrass-"))
            self.socket_path = Path(short) / self.profile.socket_name
        self.faults.attach()
        await self._listen()
        self._cleanup.callback(self.socket_path.unlink, missing_ok=True)
        return self

    async def _listen(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        await self._server.listen(self.socket_path)
        self._running = True

    async def kill(self) -> None:
        """Ends the nucleus as a crash does: connections break, tokens and what was only in memory are gone, and the socket with them.

        On classic the components die with it, since they are in its control group. On lite they are units of their own and run on. Neither
        comes back before `start`.
        """
        await self._go_down()
        if not self.profile.updates_in_place:
            await asyncio.gather(*(component.kill() for component in self._components.values()))

    async def start(self) -> None:
        """Starts the nucleus after `kill`. Classic installs and starts every component again; on lite they have run on.

        Raises:
            RuntimeError: It is running.
        """
        if self._running:
            raise RuntimeError("the nucleus is running")
        await self._listen()
        if not self.profile.updates_in_place:
            await self._start_components()

    async def restart(self) -> None:
        """Stops the nucleus with its components, and starts it again; connections, tokens and the spool in memory are gone.

        Classic runs every component's `install` again. Lite starts the units that are there: one that a failed deployment has unlinked stays dead.
        """
        if self._running:
            await asyncio.gather(*(component.stop() for component in self._components.values()))
            await self._go_down()
        await self._listen()
        await self._start_components()

    async def _go_down(self) -> None:
        self._running = False
        await self._server.close()
        self.socket_path.unlink(missing_ok=True)
        self._tokens.clear()
        self._stale_policies.clear()
        self.iot_core.restart()

    async def _start_components(self) -> None:
        """Starts what is deployed, each after what it depends on."""
        for name in self._in_order_of_dependency():
            component = self._components[name]
            if component.plan is None:
                continue
            if self.profile.reinstalls:
                try:
                    await component.install(component.plan)
                except InstallError as error:
                    logger.warning("%s", error)
                    component.give_up()
                    continue
            await component.start()

    def _in_order_of_dependency(self) -> list[str]:
        ordered: dict[str, None] = {}

        def add(name: str, above: tuple[str, ...] = ()) -> None:
            if name in ordered or name in above:
                return
            for other in self._recipes[name].dependencies if name in self._recipes else ():
                if other in self._components:
                    add(other, (*above, name))
            ordered[name] = None

        for name in self._components:
            add(name)
        return list(ordered)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(component.end(EXIT_GRACE) for component in self._components.values()))
        finally:
            await self._server.close()
            self.iot_core.close()
            self.local.close()
            for tap in list(self._taps):
                tap.close()
            self._cleanup.close()

    async def deploy(
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
    ) -> Deployment:
        """Deploys a component: copies and unpacks its artifacts, installs it and starts it.

        Args:
            recipe: A recipe, or a folder as `gdk component build` leaves it (`recipes/` and `artifacts/`).
            artifacts: The folder that holds the files named in the recipe's URIs, directly or below `NAME/VERSION/`.
            configuration: `{"merge": {...}, "reset": ["/pointer", ...]}`, as in a deployment document.
            others: The same for other components, by name: they belong to the same deployment, so lite restarts them.
            local: A local deployment (`ggl-cli deploy`, `greengrass-cli`): on lite archives stay packed, and configuration from a YAML recipe
                arrives as strings.
            on_failure: What a classic nucleus does about a failed installation; None for what it does by itself: `ROLLBACK` to what ran before, and
                `DO_NOTHING` in a local deployment, which leaves the new version BROKEN.
            update_timeout: Seconds to wait for components that want to be asked before an update (classic).
            until_stable: Whether to wait until the component has stayed up for a moment, or has finished, as a deployment's status does; otherwise this
                returns when it has been started.

        Raises:
            DeploymentError: It failed; a version that ran before runs on, but for `DO_NOTHING`. With `until_stable`: its script ended too often.
        """
        if on_failure is None:
            on_failure = "DO_NOTHING" if local else "ROLLBACK"
        try:
            path, folder = locate(recipe)
            artifacts = folder if artifacts is None else artifacts
            loaded = load_recipe(path, self.profile, local=local)
            async with self._deploying:
                deployment = await self._deploy(
                    loaded,
                    artifacts,
                    {**(others or {}), loaded.name: configuration or {}},
                    local=local,
                    rolls_back=self.profile.rolls_back and on_failure == "ROLLBACK",
                    update_timeout=update_timeout,
                )
        except (RecipeError, ConfigurationError, InstallError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise DeploymentError(str(error)) from error
        if until_stable and not await deployment.component.stays_up(STABLE_AFTER):
            raise DeploymentError(
                f"{loaded.name} {loaded.version} is BROKEN: its script ended {self.profile.failures} times"
            )
        return deployment

    async def update_configuration(
        self,
        name: str,
        merge: Mapping[str, Any] | None = None,
        *,
        reset: Sequence[str] = (),
        restart: bool | None = None,
    ) -> None:
        """Changes a component's configuration as a deployment does: validated (classic), stored, events sent.

        Args:
            name: The component.
            merge: What to merge in.
            reset: JSON pointers that go back to the recipe's default first.
            restart: Whether the component restarts; None for what the runtime does (lite: always; classic: if a script's text changed;
                both: if it was BROKEN).

        Raises:
            DeploymentError: A component rejected the change, or the runtime cannot store it. Nothing changed.
        """
        await self.configure({name: {"merge": merge or {}, "reset": list(reset)}}, restart=restart)

    async def configure(self, changes: Mapping[str, Mapping[str, Any]], *, restart: bool | None = None) -> None:
        """Changes the configuration of several components in one deployment; see `update_configuration`.

        On classic, if one of them validates its configuration, the nucleus waits for the word of all of them: one that does not validate makes the deployment
        fail.

        Args:
            changes: `{"merge": {...}, "reset": ["/pointer", ...]}` by component.
            restart: Whether the components restart.

        Raises:
            DeploymentError: A component rejected the change or did not answer, or the runtime cannot store it. Nothing changed.
        """
        for name in changes:
            self.configuration(name)
        async with self._deploying:
            before = {name: self._scripts(self._components.get(name)) for name in changes}
            try:
                await self._configure(changes, set(changes), str(uuid.uuid4()))
            except (ConfigurationError, ValueError) as error:
                raise DeploymentError(str(error)) from error
            for name, scripts in before.items():
                await self._restart_for_configuration(name, scripts, restart)

    async def _restart_for_configuration(self, name: str, before: list[object], restart: bool | None) -> None:
        component = self._components.get(name)
        broken = component is not None and component.state == "BROKEN"
        if restart is None:
            restart = broken or self.profile.restarts_on_configuration or before != self._scripts(component)
        if not restart or component is None or not (broken or component.pid is not None):
            return
        if self.profile.unlinks:
            # A deployment writes the unit anew, should a failed one have unlinked it.
            await component.start(component.plan)
        else:
            await component.restart()

    def credentials(
        self,
        name: str,
        source: Path | Mapping[str, Any] | None = None,
        *,
        configuration: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Registers a component that has no process of its own, for a test that connects as it.

        Args:
            name: The component's name.
            source: Its recipe, or only the value of its `accessControl`; None allows nothing.
            configuration: Merged into its configuration.

        Returns:
            The environment with which the SDK connects as this component.

        Raises:
            RecipeError: The recipe cannot be read.
        """
        stored = self._configurations.setdefault(name, Configuration(self.profile))
        if isinstance(source, Path) or (source is not None and "ComponentName" in source):
            recipe = load_recipe(source, self.profile)
            self._recipes[name] = recipe
            stored.apply_defaults(recipe.defaults)
        elif source is not None:
            stored.merge(("accessControl",), source, time.time())
        stored.merge((), configuration or {}, time.time())
        return self._component_environment(name)

    def component(self, name: str) -> Component:
        """Returns a deployed component.

        Raises:
            KeyError: Nothing of that name was deployed.
        """
        return self._components[name]

    @property
    def components(self) -> list[Component]:
        """Every deployed component."""
        return list(self._components.values())

    def watch(self, topic_filter: str = "#") -> Tap[Message]:
        """Returns a tap of the local messages on matching topics from now on, whoever may read them.

        It holds 10,000 messages; when nobody reads them in time the oldest go and are counted in `dropped`.
        """
        return self.local.watch(topic_filter, **self._tap_options)

    @property
    def connections(self) -> list[str]:
        """For each open connection, the name of the component whose it is."""
        return [connection.component for connection in self._server.connections if connection.component]

    @property
    def subscriptions(self) -> list[OpenSubscription]:
        """The open subscriptions of all components, in the order of their connections."""
        return [
            OpenSubscription(stream.component, stream.operation.removeprefix(NAMESPACE), stream.resource)
            for stream in self._streams(None, None)
        ]

    async def wait_for_subscriber(self, topic: str, component: str | None = None, timeout: float = 30.0) -> None:
        """Waits until a local message on a topic would reach somebody: what is published before that is lost, as on a device.

        Args:
            topic: The topic, without wildcards.
            component: Whose subscription; None for anybody's.
            timeout: In seconds.

        Raises:
            TimeoutError: Nobody subscribed in time, or nobody can since every component is BROKEN.
        """

        async def wait() -> None:
            while not self.local.has_subscriber(topic, component):
                if (reason := self._hopeless()) is not None:
                    raise reason
                await self.local.changed()

        try:
            await asyncio.wait_for(wait(), timeout)
        except asyncio.TimeoutError as error:
            if isinstance(error, BrokenComponentError):
                raise
            who = "nobody" if component is None else f"{component} has not"
            text = f"{who} subscribed to {topic} within {timeout} s"
            raise TimeoutError("\n".join(filter(None, (text, self._situation())))) from None

    def events(self) -> Tap[StateChange | LogLine]:
        """Returns a tap of components' states and log lines from now on; bounded like :meth:`watch`."""
        tap: Tap[StateChange | LogLine] = Tap(self._taps.remove)
        self._taps.append(tap)
        return tap

    async def publish(self, topic: str, payload: Any) -> None:
        """Publishes a local message that no component sent.

        Args:
            topic: The topic.
            payload: Bytes for a binary message; anything else is sent as a JSON message.
        """
        order, now = self.stamp()
        if isinstance(payload, bytes):
            message = Message(topic, payload, "binary", None, order, now)
            value: Any = base64.b64encode(payload).decode()
        else:
            message = Message(
                topic, json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(), "json", None, order, now
            )
            value = payload
        await self._server.exclusively(self.local.publish(message, value))

    # What operations need (greengrass_sandbox.operations.Host).

    def stamp(self) -> tuple[int, float]:
        """Returns the next message's order, and the time."""
        return next(self._orders), time.time()

    def access_control(self, component: str) -> Any:
        """Returns the policies of a component that are in force; None if it has none."""
        if component in self._stale_policies:
            return self._stale_policies[component]
        return _policies(self._configurations.get(component))

    def configuration(self, component: str) -> Configuration:
        """Returns a component's configuration.

        Raises:
            KeyError: There is no such component.
        """
        return self._configurations[component]

    async def configuration_changed(self, component: str, paths: list[KeyPath]) -> None:
        """Tells subscribers of changed leaves: one event for each leaf, with its whole path."""
        for path in paths:
            for name, prefix, stream in list(self._configuration_watchers):
                if name == component and path[: len(prefix)] == prefix:
                    event = {"componentName": component, "keyPath": list(path)}
                    await stream.event("ConfigurationUpdateEvents", {"configurationUpdateEvent": event})

    def watch_configuration(self, component: str, path: KeyPath, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of changes; returns what removes it."""
        entry = (component, path, stream)
        self._configuration_watchers.append(entry)
        return lambda: self._configuration_watchers.remove(entry)

    def watch_updates(self, kind: str, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of component updates (`update`) or validations (`validate`); returns what removes it."""
        entry = (kind, stream)
        self._update_watchers.append(entry)
        return lambda: self._update_watchers.remove(entry)

    def answer_update(self, kind: str, component: str, deployment: str, answer: Any) -> bool:
        """Takes a component's answer to a deployment; False if nobody waits for it."""
        future = self._answers.get((kind, component, deployment))
        if future is None or future.done():
            return False
        future.set_result(answer)
        return True

    def report_state(self, component: str, state: str) -> None:
        """Takes the state that a component reports of itself. Lite changes nothing for it."""
        if self.profile.component_updates and component in self._components:
            self._components[component].report(cast("State", state))

    def has_room_for_subscription(self) -> bool:
        """Whether the runtime takes one more subscription."""
        return self.profile.subscriptions is None or self._server.subscriptions < self.profile.subscriptions

    def has_service(self, name: str) -> bool:
        """Whether an AWS component is on this device: asked for, or needed by what is deployed."""
        return name in self._services or any(name in recipe.dependencies for recipe in self._recipes.values())

    def token_owner(self, token: str) -> str | None:
        """Returns the component that a token belongs to; None for a wrong one."""
        return self._tokens.get(token)

    def component_details(self, name: str | None = None) -> list[dict[str, Any]]:
        """Returns name, version, state and configuration of one component or of all, as GetComponentDetails has them.

        Raises:
            KeyError: There is no such component.
        """
        chosen = self._components.values() if name is None else [self._components[name]]
        return [
            {
                "componentName": component.name,
                "version": component.version or "",
                "state": component.state,
                "configuration": self._configurations[component.name].read(),
            }
            for component in chosen
        ]

    async def manage(self, name: str, action: str) -> None:
        """Does `restart`, `stop`, `pause` or `resume` to a component; the first two go on after this returns, as on a device.

        Raises:
            KeyError: There is no such component.
            RuntimeError: It is not in a state for that.
        """
        component = self._components[name]
        if action == "pause":
            component.pause()
        elif action == "resume":
            component.resume()
        elif action == "stop":
            self._spawn(component.stop())
        elif component.plan is None:
            raise RuntimeError(f"{name} has no process of its own")
        else:
            self._spawn(component.restart(counted=self.profile.unlinks))

    def create_local_deployment(self, request: Mapping[str, Any]) -> str:
        """Begins a local deployment and returns its id; `deployment_status` says what becomes of it.

        Args:
            request: The body of CreateLocalDeployment.

        Raises:
            ValueError: It cannot be read.
        """
        wanted, deployment = read_request(request), LocalDeployment()
        self._local_deployments[deployment.id] = deployment
        self._spawn(self._deploy_locally(deployment, wanted))
        return deployment.id

    def cancel_local_deployment(self, identity: str) -> None:
        """Cancels a local deployment that has not begun.

        Raises:
            KeyError: There is no such deployment.
            RuntimeError: It has begun.
        """
        deployment = self._local_deployments[identity]
        if deployment.status != "QUEUED":
            raise RuntimeError(f"Deployment {identity} is {deployment.status}")
        deployment.status = "CANCELED"

    def deployment_status(self, identity: str | None = None) -> list[dict[str, Any]]:
        """Returns the status of one local deployment or of all, as GetLocalDeploymentStatus has it.

        Raises:
            KeyError: There is no such deployment.
        """
        known = self._local_deployments
        return [each.as_answer() for each in (known.values() if identity is None else [known[identity]])]

    async def _deploy_locally(self, deployment: LocalDeployment, wanted: DeploymentRequest) -> None:
        await asyncio.sleep(0)  # it is queued at first
        if deployment.status == "CANCELED":
            return
        deployment.status = "IN_PROGRESS"
        try:
            await self._carry_out(wanted)
        except (DeploymentError, RecipeError, OSError, KeyError, ValueError) as error:
            deployment.status, deployment.error = "FAILED", str(error)
            logger.warning("local deployment %s failed: %s", deployment.id, error)
        else:
            deployment.status = "SUCCEEDED"

    async def _carry_out(self, wanted: DeploymentRequest) -> None:
        stored = {key: (path, load_recipe(path, self.profile)) for key, (path, _) in self._sources.items()}
        recipes = stored | find_recipes(wanted.recipes, self.profile)
        for name in wanted.remove:
            await self.remove(name)
        configured = dict(wanted.configurations)
        deployed = {name: recipe.version for name, recipe in self._recipes.items()}
        for path in list(in_order(wanted.add, recipes, deployed)):
            recipe = load_recipe(path, self.profile, local=True)
            _, artifacts = self._sources.get((recipe.name, recipe.version), (None, None))
            change = configured.pop(recipe.name, {})
            await self.deploy(
                path,
                wanted.artifacts or artifacts,
                configuration=change,
                local=True,
                on_failure=wanted.on_failure,
                until_stable=True,
            )
        if configured:
            await self.configure(configured)

    async def remove(self, name: str) -> None:
        """Removes a component as a deployment without it does; its work folder stays.

        Raises:
            KeyError: There is no such component.
        """
        async with self._deploying:
            component = self._components[name]
            await component.stop()
            for known in (self._components, self._recipes, self._configurations):
                known.pop(name, None)

    def watch_certificates(self, stream: Stream) -> Callable[[], None]:
        """Adds a subscriber of server certificates, who gets the first one soon; returns what removes it."""
        self._certificate_watchers.append(stream)
        self._spawn(self._send_certificate([stream]))
        return lambda: self._certificate_watchers.remove(stream)

    async def rotate_certificates(self) -> None:
        """Sends every subscriber of server certificates a new one.

        Raises:
            CertificateError: There is no `openssl` on this machine.
        """
        await self._send_certificate(list(self._certificate_watchers))

    async def _send_certificate(self, streams: list[Stream]) -> None:
        update = await make_certificate(self.thing_name)
        for stream in streams:
            await stream.event("CertificateUpdateEvent", {"certificateUpdate": update})

    def _spawn(self, action: Coroutine[Any, Any, None]) -> None:
        """Does something beside everything else, until the nucleus ends; what goes wrong with it is logged."""

        async def run() -> None:
            try:
                await action
            except Exception:
                logger.exception("a task of the nucleus failed")

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What fault verbs need (greengrass_sandbox.faults.Target).

    def drop_connections(self, component: str | None) -> int:
        """Drops connections at once; returns how many."""
        chosen = [each for each in self._server.connections if component in (None, each.component)]
        for connection in chosen:
            connection.abort()
        return len(chosen)

    def forget_streams(self, component: str | None, operation: str | None) -> int:
        """Ends subscriptions without a word; returns how many."""
        chosen = self._streams(component, operation)
        for stream in chosen:
            stream.end()
        return len(chosen)

    def inject_event(self, payload: bytes, operation: str, component: str | None) -> int:
        """Sends bytes as an event to subscriptions; returns to how many.

        Raises:
            ValueError: No such operation subscribes.
        """
        if operation not in EVENT_SHAPES:
            raise ValueError(f"{operation} does not subscribe to anything: {', '.join(EVENT_SHAPES)} do")
        chosen = self._streams(component, operation)
        for stream in chosen:
            self._server.spawn(stream.raw_event(EVENT_SHAPES[operation], payload))
        return len(chosen)

    def _streams(self, component: str | None, operation: str | None) -> list[Stream]:
        """Returns the streams of subscriptions, of one component or one operation or of all."""
        return [
            stream
            for connection in self._server.connections
            for stream in connection.streams.values()
            if component in (None, stream.component)
            and stream.is_subscription
            and operation in (None, stream.operation.removeprefix(NAMESPACE))
        ]

    def _is_process_of(self, name: str, process: int) -> bool:
        """Whether a process belongs to a component: what lite reads from the process's systemd unit."""
        component = self._components.get(name)
        with contextlib.suppress(ProcessLookupError):
            return component is not None and component.pid == os.getpgid(process)
        return False

    def rotate_token(self, component: str | None) -> None:
        """Makes the tokens of so far worthless."""
        for token, owner in list(self._tokens.items()):
            if component in (None, owner):
                del self._tokens[token]

    # Deployments.

    async def _deploy(
        self,
        recipe: Recipe,
        artifacts: Path | None,
        changes: Mapping[str, Mapping[str, Any]],
        *,
        local: bool,
        rolls_back: bool,
        update_timeout: float,
    ) -> Deployment:
        self._check_dependencies(recipe)
        for name in changes:
            if name != recipe.name:
                self.configuration(name)
        deployment = str(uuid.uuid4())
        self._configurations.setdefault(recipe.name, Configuration(self.profile))
        before = {name: self._configurations[name].copy() for name in changes}
        scripts = {name: self._scripts(self._components.get(name)) for name in changes if name != recipe.name}
        old_recipe = self._recipes.get(recipe.name)
        same = old_recipe is not None and old_recipe.version == recipe.version
        validated = {name for name in changes if name != recipe.name or same}
        await self._configure(changes, validated, deployment, recipe)
        self._unpack(recipe, artifacts, unarchive=not (local and self.profile.exact_keys))
        component = self._components.get(recipe.name) or self._new_component(recipe.name)
        plan = self._plan(recipe)
        if self.profile.component_updates:
            await self._ask_before_update(deployment, update_timeout)
        old = component.plan
        if not self.profile.updates_in_place:
            await component.stop()
        try:
            await component.install(plan)
        except InstallError:
            if rolls_back:
                self._configurations.update(before)
                await self._roll_back(component, old)
            else:
                self._leave_failed(component, recipe, plan)
            raise
        self._recipes[recipe.name] = recipe
        self._sources[recipe.name, recipe.version] = (self._stored_recipe(recipe), artifacts)
        await component.start(plan)
        for name, old_scripts in scripts.items():
            await self._restart_for_configuration(name, old_scripts, None)
        if self.profile.component_updates:
            for _, stream in self._watching("update"):
                await stream.event("ComponentUpdatePolicyEvents", {"postUpdateEvent": {"deploymentId": deployment}})
        return Deployment(deployment, component, recipe.version)

    def _leave_failed(self, component: Component, recipe: Recipe, plan: Plan) -> None:
        """Leaves things as a failed deployment without a rollback does; the new configuration stays on both runtimes."""
        if self.profile.unlinks and component.plan is not None:
            component.lose_unit()  # of the old version, which runs on
        else:
            self._recipes[recipe.name] = recipe
            component.give_up(plan)

    def _check_dependencies(self, recipe: Recipe) -> None:
        """Raises DeploymentError for a dependency that is not deployed, or not in a version that will do."""
        for name, requirement in recipe.dependencies.items():
            if name.startswith("aws.greengrass."):
                continue  # AWS's own components are taken for granted
            if name not in self._recipes:
                raise DeploymentError(f"{recipe.name} depends on {name}, which is not deployed")
            version = self._recipes[name].version
            if not satisfies(version, requirement):
                raise DeploymentError(f"{recipe.name} needs {name} {requirement}, and {version} is deployed")

    async def _roll_back(self, component: Component, old: Plan | None) -> None:
        """Goes back to what ran before. A component whose recipe has a `Timeout` that is an integer reads as changed, so it starts anew, too."""
        if old is not None:
            with contextlib.suppress(InstallError):
                await component.install(old)
            await component.start(old)
        for name in self._in_order_of_dependency():
            other = self._components[name]
            if other is component or other.plan is None or other.pid is None:
                continue
            if any(step.timeout_is_integer for step in self._recipes[name].steps.values()):
                with contextlib.suppress(InstallError):
                    await other.install(other.plan)
                await other.restart()

    async def _configure(
        self,
        changes: Mapping[str, Mapping[str, Any]],
        validated: set[str],
        deployment: str,
        recipe: Recipe | None = None,
    ) -> None:
        """Resets, fills in defaults, merges; asks validating components first; then stores and tells.

        Args:
            changes: What to merge and reset, by component.
            validated: The components whose version stays; only they are asked whether their configuration is valid.
            deployment: The deployment's id.
            recipe: The recipe that is deployed, whose defaults replace those of its component's last recipe.
        """
        proposed, changed = {}, {}
        for name, change in changes.items():
            known = recipe if recipe is not None and recipe.name == name else self._recipes.get(name)
            proposed[name], changed[name] = self._propose(name, known.defaults if known else {}, change)
        changed = {name: paths for name, paths in changed.items() if paths}
        await self._ask_for_validation({name: proposed[name] for name in changed if name in validated}, deployment)
        for name in changed:
            self._delay_policies(name, proposed[name])
            self._configurations[name] = proposed[name]
        for name, paths in changed.items():
            await self.configuration_changed(name, paths)

    def _propose(
        self, name: str, defaults: Mapping[str, Any], change: Mapping[str, Any]
    ) -> tuple[Configuration, list[KeyPath]]:
        proposed = self._configurations[name].copy()
        changed: dict[KeyPath, None] = {}
        for pointer in change.get("reset", ()):
            changed.update(dict.fromkeys(proposed.reset(pointer)))
        changed.update(dict.fromkeys(proposed.apply_defaults(defaults)))
        changed.update(dict.fromkeys(proposed.merge((), change.get("merge", {}), time.time())))
        return proposed, list(changed)

    def _delay_policies(self, name: str, proposed: Configuration) -> None:
        """Keeps the old policies of a connected component in force for a moment: classic tells of a change before they are replaced."""
        old, new = (_policies(configuration) for configuration in (self._configurations[name], proposed))
        if self.profile.policy_delay and old != new and name in self.connections:
            self._stale_policies.setdefault(name, old)
            asyncio.get_running_loop().call_later(self.profile.policy_delay, self._stale_policies.pop, name, None)

    async def _ask_for_validation(self, proposed: Mapping[str, Configuration], deployment: str) -> None:
        """Asks the components that validate. If any does, all that are to be changed must answer: classic waits for those, too, that never will."""
        streams = {name: stream for name, stream in self._watching("validate") if name in proposed}
        if not streams:
            return
        answers = await asyncio.gather(
            *(self._ask_whether_valid(stream, proposed[name], deployment) for name, stream in streams.items())
        )
        for name, answer in zip(streams, answers, strict=True):
            if answer is not None and answer.get("status") != "ACCEPTED":
                reason = answer.get("message") or "no reason given"
                raise DeploymentError(f"{name} rejected its configuration: {reason}")
        silent = [name for name, answer in zip(streams, answers, strict=True) if answer is None]
        deaf = sorted(set(proposed) - set(streams))
        if deaf and not silent:
            await asyncio.sleep(self._validation_timeout)
        if silent or deaf:
            raise DeploymentError(
                f"{', '.join(silent + deaf)} did not validate its configuration within {self._validation_timeout:g} s"
            )

    async def _ask_whether_valid(self, stream: Stream, proposed: Configuration, deployment: str) -> Any:
        request = {"configuration": proposed.read(), "deploymentId": deployment}
        event = {"validateConfigurationUpdateEvent": request}
        question = ("ValidateConfigurationUpdateEvents", event)
        return await self._ask("validate", stream, deployment, question, self._validation_timeout)

    async def _ask_before_update(self, deployment: str, limit: float) -> None:
        """Asks every component that wants to be asked; waits while they defer, and for silent ones until the limit."""
        deadline = time.monotonic() + limit

        async def ask(stream: Stream) -> None:
            event = {"preUpdateEvent": {"deploymentId": deployment, "isGgcRestarting": False}}
            while stream.open and (left := deadline - time.monotonic()) > 0:
                wait = await self._ask("update", stream, deployment, ("ComponentUpdatePolicyEvents", event), left)
                if not wait:
                    return
                await asyncio.sleep(wait / 1000)

        await asyncio.gather(*(ask(stream) for _, stream in self._watching("update")))

    async def _ask(
        self,
        kind: Literal["update", "validate"],
        stream: Stream,
        deployment: str,
        question: tuple[str, Mapping[str, Any]],
        limit: float,
    ) -> Any:
        """Sends a question as an event and returns the component's answer; None if none came."""
        key = (kind, stream.component, deployment)
        self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            await stream.event(*question)
            return await asyncio.wait_for(self._answers[key], limit)
        except asyncio.TimeoutError:
            return None
        finally:
            del self._answers[key]

    def _watching(self, kind: str) -> list[tuple[str, Stream]]:
        return [(stream.component, stream) for wanted, stream in self._update_watchers if wanted == kind]

    def _unpack(self, recipe: Recipe, artifacts: Path | None, *, unarchive: bool) -> None:
        packed = self.root / "packages/artifacts" / recipe.name / recipe.version
        unpacked = self.root / "packages/artifacts-unarchived" / recipe.name / recipe.version
        found = []
        for artifact in recipe.artifacts:
            if artifact.is_image:
                logger.warning("%s: %s is not pulled; Docker on this machine stands in", recipe.name, artifact.uri)
            else:
                found.append((artifact, _find_artifact(recipe, artifact, artifacts)))
        for folder in (packed, unpacked):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        # Whatever lies in the version's own folder of artifacts comes with a local deployment, named in the recipe or not.
        own = None if artifacts is None else artifacts / recipe.name / recipe.version
        if own is not None and own.is_dir():
            shutil.copytree(own, packed, dirs_exist_ok=True)
        for artifact, source in found:
            shutil.copyfile(source, packed / artifact.file_name)
            if artifact.unarchive and unarchive:
                with zipfile.ZipFile(source) as archive:  # modes are ignored, as on a device
                    archive.extractall(unpacked / Path(artifact.file_name).stem)
        self._stored_recipe(recipe).write_text(recipe.text)

    def _stored_recipe(self, recipe: Recipe) -> Path:
        suffix = "json" if recipe.text.lstrip().startswith("{") else "yaml"
        return self.root / "packages/recipes" / f"{recipe.name}-{recipe.version}.{suffix}"

    def _new_component(self, name: str) -> Component:
        work_path = self.root / "work" / name
        work_path.mkdir(parents=True, exist_ok=True)
        component = self._components[name] = Component(
            name,
            self.profile,
            work_path=work_path,
            log_path=self.root / "logs" / f"{name}.log",
            on_state=self._state_changed,
            on_line=lambda who, line, level: self._tell(LogLine(who, line, time.time(), level)),
        )
        return component

    def _state_changed(self, component: Component) -> None:
        self._tell(StateChange(component.name, component.state, time.time()))
        if component.state == "BROKEN":
            for tap in self.local.taps + self.iot_core.taps:
                tap.check()
            self.local.wake()

    def _hopeless(self) -> Exception | None:
        """Why no message can come any more: every deployed component is BROKEN, and nobody else is connected who could publish."""
        if not self._components or self.connections:
            return None
        if any(component.state != "BROKEN" for component in self._components.values()):
            return None
        return BrokenComponentError(f"nothing can come any more\n{self._situation()}")

    def _situation(self) -> str:
        return "\n".join(component.describe() for component in self._components.values())

    def _tell(self, event: StateChange | LogLine) -> None:
        for tap in self._taps:
            tap.put(event)

    def _plan(self, recipe: Recipe) -> Plan:
        versions = {name: other.version for name, other in self._recipes.items()} | {recipe.name: recipe.version}
        interpolator = Interpolator(
            self.profile,
            self.root,
            self.thing_name,
            recipe.name,
            versions,
            lambda component, path: self._configurations[component].read(path),
        )

        def command(step: str) -> Command | None:
            if step not in recipe.steps or interpolator.is_skipped(recipe, step):
                return None
            script, setenv = interpolator.script(recipe, step)
            environment = self._component_environment(recipe.name)
            if self._python is not None:
                environment["PATH"] = os.pathsep.join(filter(None, [str(self.root / "bin"), environment.get("PATH")]))
            environment |= setenv
            return Command(self._shell(recipe.name, step, script), environment, recipe.steps[step].timeout)

        return Plan(recipe.version, command)

    def _shell(self, name: str, step: str, script: str) -> tuple[str, ...]:
        if not self.profile.cuts_unknown:
            return ("/bin/sh", "-c", script)
        path = self.root / "scripts" / f"{name}.{step}.sh"  # lite runs a file, too; here it can be looked at
        path.write_text(f"#!/bin/sh\n{script}")
        return ("/bin/sh", str(path))

    def _scripts(self, component: Component | None) -> list[object]:
        """Returns what a restart would start, to see whether a configuration change matters to it."""
        if component is None or component.plan is None:
            return []
        commands = [component.plan.command(step) for step in ("install", "startup", "run", "shutdown")]
        return [(command.arguments, command.environment) if command else None for command in commands]

    def _component_environment(self, name: str) -> dict[str, str]:
        token = next((token for token, owner in self._tokens.items() if owner == name), None)
        if token is None:
            token = base64.b64encode(secrets.token_bytes(12)).decode()  # 16 characters, as lite's
            self._tokens[token] = name
        return self._environment | {
            "SVCUID": token,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.socket_path),
            "AWS_IOT_THING_NAME": self.thing_name,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "GGC_VERSION": self.profile.version,
            "GG_ROOT_CA_PATH": str(self.root / "AmazonRootCA1.pem"),
        }


def _policies(configuration: Configuration | None) -> Any:
    try:
        return None if configuration is None else configuration.read(("accessControl",))
    except (KeyError, ConfigurationError):
        return None


def _write_python(folder: Path, interpreter: Path | str) -> None:
    """Writes `python3` and its like. Scripts, since a link would make the interpreter forget its virtual environment."""
    folder.mkdir(exist_ok=True)
    quoted = shlex.quote(str(interpreter))
    for name, command in (
        ("python3", quoted),
        ("python", quoted),
        ("pip3", f"{quoted} -m pip"),
        ("pip", f"{quoted} -m pip"),
    ):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)


def _find_artifact(recipe: Recipe, artifact: Artifact, folder: Path | None) -> Path:
    places = (
        []
        if folder is None
        else [folder / recipe.name / recipe.version / artifact.file_name, folder / artifact.file_name]
    )
    for place in places:
        if place.is_file():
            return place
    looked = " nor ".join(map(str, places)) or "no folder of artifacts was given"
    raise DeploymentError(
        f"{recipe.name} {recipe.version} needs the artifact {artifact.uri}; nothing is fetched, a file stands in for it: neither {looked}"
        if places
        else f"{recipe.name} {recipe.version} needs the artifact {artifact.uri}, and {looked}"
    )
