"""A deployed component: its lifecycle from installation to the end, driven by how its scripts end.

The rules are the runtimes': an install that fails is tried again, a run that fails is started again, and three failures within an hour make the
component BROKEN until the next deployment. A component never survives its nucleus.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from greengrass_sandbox.process import Level, Process, start
from greengrass_sandbox.profiles import Profile

logger = logging.getLogger(__name__)

State = Literal["NEW", "INSTALLED", "STARTING", "RUNNING", "ERRORED", "BROKEN", "STOPPING", "FINISHED"]

FAILURE_WINDOW: Final = 3600.0
"""Seconds within which starts that ended in failures add up to BROKEN, on both runtimes."""

SHUTDOWN_TIMEOUT: Final = 15.0
"""Seconds that the classic runtime gives a shutdown script by default."""


TAIL_BYTES: Final = 16_384
"""Bytes at the end of a log that its last lines are looked for in."""


RECOVER_TIMEOUT: Final = 60.0
"""Seconds that the classic runtime gives a recover script by default."""


class InstallError(Exception):
    """An install script that failed at each attempt."""


@dataclass(frozen=True, slots=True)
class Command:
    """A script, ready to be started.

    Attributes:
        arguments: Program and arguments.
        environment: The whole environment.
        timeout: The step's time limit, in seconds.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a component, as deployed.

    Attributes:
        version: Its version.
        command: Makes the command of a lifecycle step with the configuration of the moment; None where there is no such step.
    """

    version: str
    command: Callable[[str], Command | None]


class Component:
    """A component on this nucleus.

    Args:
        name: The component's name.
        profile: The runtime.
        work_path: Its work folder, which survives deployments.
        log_path: Where the output of its scripts goes.
        on_state: Called after each change of state.
        on_line: Called with each line of output.

    Attributes:
        name: The component's name.
        log_path: Where the output of its scripts goes.
        work_path: Its work folder.
    """

    def __init__(
        self,
        name: str,
        profile: Profile,
        *,
        work_path: Path,
        log_path: Path,
        on_state: Callable[[Component], None],
        on_line: Callable[[str, str, Level], None],
    ) -> None:
        self.name = name
        self.work_path = work_path
        self.log_path = log_path
        self._profile = profile
        self._on_state = on_state
        self._on_line = on_line
        self._plan: Plan | None = None
        self._state: State = "NEW"
        self._waiters: list[tuple[State, asyncio.Future[bool]]] = []
        self._process: Process | None = None
        self._processes: set[Process] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._reported_error = False
        self._exit_code: int | None = None
        self._starts: deque[float] = deque()
        self._unlinked = False

    @property
    def state(self) -> State:
        """The state as the runtime would report it."""
        return self._state

    @property
    def version(self) -> str | None:
        """The version that is deployed; None for a component without a process."""
        return None if self._plan is None else self._plan.version

    @property
    def plan(self) -> Plan | None:
        """What is deployed."""
        return self._plan

    @property
    def pid(self) -> int | None:
        """Process id (and group id) of the running script."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How its last run ended: an exit code, or the negative number of a signal; None if none has ended."""
        return self._exit_code

    def log_tail(self, lines: int = 30) -> str:
        """Returns the last lines that its scripts wrote."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def describe(self, lines: int = 30) -> str:
        """Returns its state and the end of its log, for a person who asks why nothing happens."""
        code = "" if self._exit_code is None else f", its last run ended with exit code {self._exit_code}"
        tail = self.log_tail(lines)
        said = f"; the end of {self.log_path}:\n{tail}" if tail else "; it wrote nothing"
        return f"{self.name} {self.version} is {self._state}{code}{said}"

    async def wait_for(self, state: State, timeout: float = 30.0) -> None:
        """Waits until the component is in a state, or passes through it.

        Args:
            state: The state.
            timeout: In seconds.

        Raises:
            TimeoutError: It did not come to that in time, or became BROKEN meanwhile; the message says where it is and holds the end of
                its log.
        """
        if self._state == state:
            return
        waiter = (state, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            if await asyncio.wait_for(waiter[1], timeout):
                return
            text = f"{self.name} is {self._state}, not {state}"
        except asyncio.TimeoutError:
            text = f"{self.name} is {self._state}, not {state}, after {timeout} s"
        finally:
            self._waiters.remove(waiter)
        raise TimeoutError(f"{text}\n{self.describe()}")

    async def install(self, plan: Plan) -> None:
        """Runs a version's bootstrap and install scripts, each as often as the runtime tries.

        Raises:
            InstallError: One of them failed at every attempt.
        """
        for step in ("bootstrap", "install"):
            for attempt in range(1, self._profile.install_attempts + 1):
                if await self._attempt(plan, step):
                    break
                if attempt == self._profile.install_attempts:
                    raise InstallError(
                        f"{self.name} {plan.version}: {step} failed {attempt} times, see {self.log_path}"
                    )
                await asyncio.sleep(self._profile.restart_delay)

    async def start(self, plan: Plan | None = None, *, counted: bool = False) -> None:
        """Starts the component: a new version, or the one it has. Where the runtime does so, one that is BROKEN is installed again.

        Args:
            plan: The new version.
            counted: Whether this start adds to those that the runtime allows within an hour, as a restart over IPC does on lite; else they are
                counted from zero, as after a deployment.

        Raises:
            RuntimeError: It has no version to start.
        """
        broken = self._state == "BROKEN"
        if plan is not None:
            self._plan, self._unlinked = plan, False
        if self._plan is None:
            raise RuntimeError(f"{self.name} has no process of its own")
        await self.stop()
        if self._unlinked:
            self._on_line(self.name, "the failed deployment left no unit of this component to start", "WARN")
            self._change("BROKEN")
            return
        if plan is None and broken and self._profile.reinstalls:
            try:
                await self.install(self._plan)
            except InstallError:
                self._change("BROKEN")
                return
        if not counted:
            self._starts.clear()
        elif self._is_started_too_often():
            self._change("BROKEN")
            return
        self._stopping.clear()
        self._change("INSTALLED")
        has_step = [step for step in ("startup", "run") if self._plan.command(step) is not None]
        if not has_step:
            self._change("FINISHED")
            return
        begun = asyncio.Event()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(self._plan, has_step[0], begun))
        await begun.wait()

    async def stop(self, grace: float | None = None) -> None:
        """Stops the component: SIGTERM to its process group, SIGKILL after the runtime's time limit.

        Args:
            grace: Seconds from SIGTERM to SIGKILL; None for what the runtime gives.
        """
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None or supervisor.done():
            return
        self._stopping.set()
        process = self._process
        if self._state in ("STARTING", "RUNNING"):
            self._change("STOPPING")
            await self._run_shutdown_script()
        if process is not None and not await process.stop(self._grace() if grace is None else grace):
            logger.warning("%s did not stop in time and was killed", self.name)
        await supervisor
        self._change("FINISHED")

    async def end(self, grace: float) -> None:
        """Stops the component for good, with whatever of it is still running: an install script, too."""
        await self.stop(grace)
        for process in list(self._processes):
            process.kill()
            await process.wait()

    async def restart(self, *, counted: bool = False) -> None:
        """Stops the component and starts it again; see `start`."""
        await self.stop()
        await self.start(counted=counted)

    async def kill(self) -> None:
        """Kills the component with SIGKILL, without a word and without another start."""
        supervisor, self._supervisor = self._supervisor, None
        self._stopping.set()
        for process in list(self._processes):
            process.kill()
            await process.wait()
        if supervisor is not None:
            await supervisor
        self._change("FINISHED")

    def give_up(self, plan: Plan | None = None) -> None:
        """Leaves the component BROKEN, with a new version if there is one: its installation failed and nothing is rolled back."""
        self._plan = plan or self._plan
        self._change("BROKEN")

    def pause(self) -> None:
        """Freezes its processes.

        Raises:
            RuntimeError: It is not running.
        """
        if self._state != "RUNNING" or self._process is None:
            raise RuntimeError(f"{self.name} is not running, and cannot be paused")
        self._process.freeze()

    def resume(self) -> None:
        """Lets frozen processes go on.

        Raises:
            RuntimeError: It is not running.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running, and cannot be resumed")
        self._process.thaw()

    async def stays_up(self, seconds: float) -> bool:
        """Waits until it is BROKEN (False), or FINISHED, or has been up for so many seconds (True)."""
        while True:
            pid, state = self.pid, self._state
            if state in ("BROKEN", "FINISHED"):
                return state == "FINISHED"
            await asyncio.sleep(seconds)
            if self._state == "RUNNING" and self.pid == pid:
                return True

    def lose_unit(self) -> None:
        """Takes away what would start it again: a failed deployment on lite does. What runs goes on."""
        self._unlinked = True

    def report(self, state: State) -> None:
        """Takes the state that the component reports of itself: what the classic runtime does with UpdateState."""
        if state == "ERRORED" and self._process is not None:
            self._reported_error = True
            self._process.kill()
        elif state == "RUNNING" and self._process is not None:
            self._change(state)

    def _grace(self) -> float:
        if self._profile.stop_timeout is not None:
            return self._profile.stop_timeout
        command = None if self._plan is None else self._plan.command("run")
        return 0.0 if command is None else command.timeout

    async def _attempt(self, plan: Plan, step: str) -> bool:
        command = plan.command(step)
        if command is None:
            return True
        code = await self._run_for(command, command.timeout)
        if code is None:
            self._on_line(
                self.name, f"{step} took longer than its Timeout of {command.timeout:g} s and was killed", "WARN"
            )
        return code == 0

    async def _run_shutdown_script(self) -> None:
        command = (
            None if self._plan is None or self._profile.exact_keys else self._plan.command("shutdown")
        )  # lite ignores it
        if command is not None and await self._run_for(command, min(command.timeout, SHUTDOWN_TIMEOUT)) is None:
            logger.warning("the shutdown script of %s was killed", self.name)

    async def _recover(self, plan: Plan) -> None:
        """Runs what classic runs after each failure; lite ignores it."""
        command = None if self._profile.exact_keys else plan.command("recover")
        if command is not None and await self._run_for(command, min(command.timeout, RECOVER_TIMEOUT)) is None:
            logger.warning("the recover script of %s was killed", self.name)

    async def _run_for(self, command: Command, limit: float) -> int | None:
        """Runs a script to its end and returns its exit code; None if it had to be killed."""
        process = await self._spawn(command)
        try:
            return await asyncio.wait_for(self._ended(process), limit)
        except asyncio.TimeoutError:
            return None
        finally:
            process.kill()

    async def _supervise(self, plan: Plan, step: str, begun: asyncio.Event) -> None:
        try:
            while True:
                self._starts.append(time.monotonic())
                failed = await self._run_once(plan, step, begun)
                if self._stopping.is_set():
                    return
                if not failed:
                    self._change("FINISHED")
                    return
                self._change("ERRORED")
                await self._recover(plan)
                if self._unlinked or self._is_started_too_often():
                    self._change("BROKEN")
                    return
                if await self._stopped_within(self._profile.restart_delay):
                    return
        finally:
            begun.set()

    def _is_started_too_often(self) -> bool:
        """Whether the runtime starts it no more: it was started three times within an hour."""
        while self._starts and self._starts[0] < time.monotonic() - FAILURE_WINDOW:
            self._starts.popleft()
        return len(self._starts) >= self._profile.failures

    async def _stopped_within(self, delay: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), delay)
        except asyncio.TimeoutError:
            return False
        return True

    async def _run_once(self, plan: Plan, step: str, begun: asyncio.Event) -> bool:
        """Starts the script, waits for its end, and returns whether it failed."""
        self._change("STARTING")
        command = plan.command(step)
        if command is None:
            return False
        self._reported_error = False
        try:
            process = self._process = await self._spawn(command)
        except OSError as error:
            self._on_line(self.name, f"cannot start: {error}", "WARN")
            return True
        try:
            if self._stopping.is_set():
                process.kill()
            elif step == "run":
                self._change("RUNNING")
            begun.set()
            code = self._exit_code = await self._ended(process)
        finally:
            self._process = None
        if step == "startup" and code == 0 and not self._stopping.is_set():
            return await self._stay_up()
        clean = code == 0 or -code in self._profile.clean_signals
        return self._reported_error or not clean

    async def _stay_up(self) -> bool:
        """After a startup script: the component runs until it is stopped, without a process of its own. Lite cannot do it."""
        if self._profile.exact_keys:
            logger.warning("%s: startup always breaks on nucleus lite with systemd below 253, use run", self.name)
            return True
        self._change("RUNNING")
        await self._stopping.wait()
        return False

    async def _spawn(self, command: Command) -> Process:
        process = await start(
            command.arguments,
            directory=self.work_path,
            environment=command.environment,
            log_path=self.log_path,
            on_line=lambda line, level: self._on_line(self.name, line, level),
            separate=self._profile.separates_output,
        )
        self._processes.add(process)
        return process

    async def _ended(self, process: Process) -> int:
        """Waits for a process, however often the waiting itself is given up."""
        code = await process.wait()
        self._processes.discard(process)
        return code

    def _change(self, state: State) -> None:
        if state == self._state:
            return
        self._state = state
        for wanted, future in self._waiters:
            if state in (wanted, "BROKEN") and not future.done():
                future.set_result(wanted == state)
        self._on_state(self)
