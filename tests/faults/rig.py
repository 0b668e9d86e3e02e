"""A nucleus stand-in with the component on it, readings that come all the time, and the faults of a schedule.

All of it in one asyncio loop, with the component in a process of its own. It plays the part of the runtime, too: a process
that asks for a restart gets one, with a new token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from faults.books import GARBAGE, Books, Sent
from faults.schedule import Schedule
from greengrass_sandbox import DeploymentError, Message, Nucleus, ProfileName, Tap
from ml_inference.model.bundle import load_model
from support.line import CONTROL, NAME, QUICK, REQUEST, STOP_SECONDS, own_recipe
from support.models import ABNORMAL, NORMAL, train_small

TIMING = QUICK | {
    "connect": 0.5,
    "call": 0.5,
    "stall": 0.6,
    "silence": 0.4,
    "patience": 0.4,
    "cloud": 0.6,
    "configuration_poll": 0.5,
    "reconnect_limit": 15.0,
}
"""What takes a minute in production takes a second here."""
BASE = {
    "Threshold": None,
    "DebounceReadings": 1,
    "ExplainTopK": 3,
    "CloudPublish": "all",
    "CloudQos": 1,
    "MaxQueue": 10_000,
    "HealthIntervalSeconds": 1,
}
RECOVERY_SECONDS = 15.0
"""After the last fault has ended; the component's own limits above add up to some 3 s, and the pace of the cloud to as much."""
LEFT_OPEN = 3
"""File descriptors and threads that may be more than at the first quiet moment: the SDK closes some a little later."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds: resident memory in bytes, file descriptors, threads."""

    memory: int
    descriptors: int
    threads: int


class Rig:
    """An asynchronous context manager; it runs between entering and leaving.

    Args:
        directory: For everything that is written; made if missing.
        profile: The runtime.
        timing: The component's.
        trees: Of its models, a multiple of 12; more make it slower.

    Attributes:
        nucleus: The nucleus stand-in.
        books: What was seen.
        process: The component.
    """

    def __init__(
        self, directory: Path, profile: ProfileName, timing: Mapping[str, float] = TIMING, *, trees: int = 12
    ) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._timing = dict(timing)
        # A component whose validation was lost with its connection holds a deployment up for so long.
        self.nucleus = Nucleus(directory / "nucleus", profile, validation_timeout=0.5)
        self._models = {
            version: train_small(
                directory / "models" / version,
                version=version,
                seed=seed,
                parameters={"num_parallel_tree": trees // 12, "max_depth": 3 if trees == 12 else 6},
            )
            for seed, version in enumerate(("1.0.0", "2.0.0"))
        }
        self._link = directory / "model"
        self._turn("1.0.0")
        self.books = Books(self._scores())
        self.process: asyncio.subprocess.Process | None = None
        self._used: Footprint | None = None
        self._random = Random()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self._sending = False
        self._said = 0

    @property
    def log(self) -> Path:
        """What the component wrote."""
        return self._directory / "component.log"

    async def __aenter__(self) -> Rig:
        await self.nucleus.__aenter__()
        self._taps: list[tuple[Tap[Message], Callable[[Any], None]]] = [
            (self.nucleus.watch("ml/inference/health"), self.books.take_health),
            (self.nucleus.watch("ml/inference/result/#"), self.books.take_result),
            (self.nucleus.watch("ml/inference/error"), self.books.take_error),
            (self.nucleus.iot_core.watch(), self.books.take_cloud),
        ]
        (self._directory / "work").mkdir()
        self._recipe = own_recipe(self._directory)
        self.nucleus.credentials(NAME, self._recipe)
        await self.configure(BASE)
        await self._start()
        deadline = time.monotonic() + RECOVERY_SECONDS
        while self.books.lives[0].health is None:
            if time.monotonic() > deadline or self.process is None or self.process.returncode is not None:
                raise RuntimeError(f"the component does not start:\n{self.log.read_text()}")
            await asyncio.sleep(0.02)
            self._enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self.nucleus.__aexit__(None, None, None)

    # A schedule.

    async def play(self, schedule: Schedule) -> list[str]:
        """Let a schedule happen and everything come to rest; returns what was wrong."""
        self._random = Random(schedule.seed)
        await self.configure(BASE | {"MaxQueue": schedule.queue})
        self._sending = True
        self._tasks = [asyncio.create_task(self._send(schedule))]
        self._tasks += [
            asyncio.create_task(self._step(step.at, step.verb, dict(step.arguments))) for step in schedule.steps
        ]
        began = time.monotonic()
        try:
            while time.monotonic() - began < schedule.seconds:
                await self.look(schedule)
            self.nucleus.faults.clear()
            await asyncio.wait(self._tasks[1:], timeout=RECOVERY_SECONDS)
            self.nucleus.faults.clear()
            problems = await self._recover(schedule)
        finally:
            for task in self._tasks:
                task.cancel()
            failed = await asyncio.gather(*self._tasks, return_exceptions=True)
        problems += [f"the rig failed: {error!r}" for error in failed if isinstance(error, Exception)]
        return problems + self.books.settle(schedule)

    async def _recover(self, schedule: Schedule) -> list[str]:
        """Wait until service is back and the books agree; returns what still does not."""
        await self.configure(BASE)
        deadline = time.monotonic() + RECOVERY_SECONDS
        first = len(self.books.sent)
        while not any(number >= first for number in self.books.lives[self.books.life].results):
            if time.monotonic() > deadline:
                return ["service does not come back"]
            await self.look(schedule)
        self._sending = False
        await self._tasks[0]
        while problems := self.open_items(schedule):
            if time.monotonic() > deadline:
                return problems
            await self.look(schedule)
        return []

    def open_items(self, schedule: Schedule) -> list[str]:
        """What does not agree yet while nothing is sent and nothing is broken."""
        connections = self.nucleus.connections.count(NAME)
        topics = [
            each.resource
            for each in self.nucleus.subscriptions
            if each.component == NAME and each.operation == "SubscribeToTopic" and each.resource != CONTROL
        ]
        items = self.books.open_items(schedule)
        if connections != 1 or topics != [REQUEST]:
            items.append(f"{connections} connections, subscriptions to {topics}")
        if self.nucleus.iot_core.spooled:
            items.append("the nucleus's spool is not empty")
        if not items:
            now = self.footprint()
            self._used = used = self._used or now
            if now.descriptors - used.descriptors > LEFT_OPEN or now.threads - used.threads > LEFT_OPEN:
                items.append(f"{now}, after {used}")
        return items

    async def look(self, schedule: Schedule) -> None:
        """Enter what has come, and do what the runtime does about a process that has ended."""
        await asyncio.sleep(0.02)
        self._enter()
        if self.process is not None and self.process.returncode is not None and not self._ending:
            code = self.process.returncode
            if code != 75 or not any(step.verb in ("refuse", "restart_nucleus") for step in schedule.steps):
                self.books.wrong.append(f"the component ended with {code}")
            await self._bury()
            await self._start()

    def _enter(self) -> None:
        for tap, take in self._taps:
            for message in tap.drain():
                if message.component == NAME:
                    take(message.json())

    async def lose_and_find(self, times: int) -> None:
        """Break the connection, and wait until the component is there again; so many times."""
        for _ in range(times):
            life = self.books.lives[self.books.life]
            life.health = None
            self.nucleus.faults.drop_connections(NAME)
            deadline = time.monotonic() + RECOVERY_SECONDS
            while life.health is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the component does not come back:\n{self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.005)
                self._enter()

    def stop_watching(self) -> None:
        """Enter nothing more in the books."""
        self._taps = []

    def footprint(self) -> Footprint:
        """What the component holds at the moment."""
        assert self.process is not None
        process = psutil.Process(self.process.pid)
        return Footprint(process.memory_info().rss, process.num_fds(), process.num_threads())

    async def end(self) -> list[str]:
        """Stop the component; returns what was wrong with that, or with anything since the last schedule."""
        await self.do_terminate(again=False)
        text = self.log.read_text()
        self.books.wrong += [f"the log holds {sign!r}" for sign in ("Traceback", "internal error") if sign in text]
        return self.books.wrong

    # Readings.

    async def _send(self, schedule: Schedule) -> None:
        while self._sending:
            await self.send_one(schedule)
            await asyncio.sleep(1 / schedule.rate)

    async def send_one(self, schedule: Schedule) -> None:
        """Send one message, good or bad."""
        chance = self._random.random()
        if chance < 0.02:
            number = self._number("", "")
            await self.nucleus.publish(REQUEST, f"{GARBAGE}{number}".encode())
        elif chance < 0.06:
            reading = self._reading(schedule)
            del reading["wRMSCurrent"]
            await self._publish(reading)
        elif chance < 0.1:
            await self._publish([self._reading(schedule) for _ in range(self._random.randint(2, 8))])
        elif chance < 0.15:
            await self.nucleus.publish(REQUEST, self._reading(schedule))  # as a JSON message
        else:
            await self._publish(self._reading(schedule))

    async def _publish(self, document: Any) -> None:
        await self.nucleus.publish(REQUEST, json.dumps(document, separators=(",", ":")).encode())

    def _reading(self, schedule: Schedule) -> dict[str, Any]:
        machine = f"machine-{self._random.randrange(schedule.machines)}"
        kind = self._random.choice(("normal", "normal", "abnormal"))
        number = self._number(machine, kind)
        return (NORMAL if kind == "normal" else ABNORMAL) | {"equipment_id": machine, "correlation_id": number}

    def _number(self, machine: str, kind: str) -> int:
        number = len(self.books.sent)
        self.books.sent[number] = Sent(machine, self.books.life, kind)
        return number

    # The process.

    async def _start(self) -> None:
        environment = os.environ | self.nucleus.credentials(NAME) | {"PYTHONUNBUFFERED": "1"}
        self._said = self.log.stat().st_size if self.log.exists() else 0
        script = Path(__file__).parents[1] / "support" / "quick_component.py"
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(script),
                json.dumps(self._timing),
                "--set",
                f"ModelDirectory={self._link}",
                cwd=self._directory / "work",
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._used = None

    async def _bury(self, *, killed: bool = False) -> None:
        """Enter all that came of a process that has ended."""
        self.nucleus.faults.resume_reading()
        while NAME in self.nucleus.connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        self._enter()
        self.books.end_life(None if killed else self._last_figures())

    def _last_figures(self) -> Any:
        rows = self.log.read_bytes()[self._said :].decode().splitlines()
        last = next((row for row in reversed(rows) if " stopped: {" in row), None)
        return None if last is None else json.loads(last[last.index("{") :])

    # Faults. Each is named by a schedule's step.

    async def _step(self, at: float, verb: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(at)
        act: Callable[..., Coroutine[Any, Any, None]] = getattr(self, f"do_{verb}")
        await act(**arguments)

    async def do_drop(self, times: int) -> None:
        """Connections break, some in a row."""
        for _ in range(times):
            self.nucleus.faults.drop_connections(NAME)
            await asyncio.sleep(0.05)

    async def do_refuse(self, times: int) -> None:
        """The nucleus refuses the token, once by mistake or for good."""
        self.nucleus.faults.refuse_tokens(NAME, times)
        self.nucleus.faults.drop_connections(NAME)

    async def do_restart_nucleus(self) -> None:
        """Connections break, and tokens are worthless."""
        self.nucleus.faults.rotate_token(NAME)
        self.nucleus.faults.drop_connections(NAME)

    async def do_stall(self, seconds: float) -> None:
        """The nucleus does not read."""
        self.nucleus.faults.stop_reading(NAME)
        await asyncio.sleep(seconds)
        self.nucleus.faults.resume_reading()

    async def do_never(self, operation: str | None, times: int, *, carried_out: bool) -> None:
        """Requests or their answers are lost."""
        self.nucleus.faults.answer_never(operation, NAME, times, carried_out=carried_out)

    async def do_late(self, operation: str | None, times: int, seconds: float) -> None:
        """Requests are carried out late."""
        self.nucleus.faults.answer_late(seconds, operation, NAME, times)

    async def do_event_first(self) -> None:
        """Another connection, on which an event comes before the answer to its subscription."""
        self.nucleus.faults.event_before_response(NAME, within=0.3)
        self.nucleus.faults.drop_connections(NAME)

    async def do_forget(self, operation: str) -> None:
        """A subscription dies in silence."""
        self.nucleus.faults.forget_streams(NAME, operation)

    async def do_cloud_offline(self, seconds: float) -> None:
        """The network goes and comes back."""
        self.nucleus.faults.cloud_offline()
        await asyncio.sleep(seconds)
        self.nucleus.faults.cloud_online()

    async def do_spool_full(self, seconds: float) -> None:
        """The spool takes nothing."""
        self.nucleus.faults.spool_full()
        await asyncio.sleep(seconds)
        self.nucleus.faults.spool_full(full=False)

    async def do_small_window(self, size: int, seconds: float) -> None:
        """Fewer QoS 1 messages may be unacknowledged."""
        self.nucleus.faults.qos1_window(size)
        await asyncio.sleep(seconds)
        self.nucleus.faults.qos1_window(10)

    async def do_withhold_acknowledgements(self, seconds: float) -> None:
        """The cloud acknowledges nothing."""
        self.nucleus.faults.withhold_acknowledgements()
        await asyncio.sleep(seconds)
        self.nucleus.faults.withhold_acknowledgements(withhold=False)

    async def do_slow_consumer(self, seconds: float) -> None:
        """Another component reads slowly."""
        self.nucleus.faults.slow_consumer("ml/inference/result", after=0, seconds=seconds)

    async def do_deadly_message(self) -> None:
        """A JSON message that kills every subscription it is meant for."""
        await self.nucleus.publish(REQUEST, {f"key{number}": number for number in range(30)})

    async def do_burst(self, messages: int) -> None:
        """Many readings at once."""
        schedule = Schedule(0, 0, 0, machines=3, queue=0, steps=())
        for _ in range(messages):
            await self.send_one(schedule)

    async def do_configure(self, **settings: Any) -> None:
        """Another configuration, right or wrong."""
        with contextlib.suppress(DeploymentError):  # refused, or not answered because of another fault
            await self.configure(settings)

    async def do_swap_model(self) -> None:
        """Another model in the place of this one."""
        self._turn("2.0.0" if self._link.resolve().name == "1.0.0" else "1.0.0")

    async def do_terminate(self, *, again: bool = True) -> None:
        """SIGTERM, and another process."""
        await self._end(signal.SIGTERM, again=again)

    async def do_kill(self) -> None:
        """SIGKILL, and another process."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals, *, again: bool = True) -> None:
        process = self.process
        if process is None or process.returncode is not None or self._ending:
            return  # it has ended already, and `look` sees to it
        self._ending = True
        try:
            while not _catches_sigterm(process.pid):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
            began = time.monotonic()
            process.send_signal(number)
            code = await process.wait()
            seconds = time.monotonic() - began
            if code != (0 if number == signal.SIGTERM else -signal.SIGKILL) or seconds > STOP_SECONDS:
                self.books.wrong.append(f"{number.name}: ended with {code} after {seconds:.1f} s")
            await self._bury(killed=number == signal.SIGKILL)
            if again:
                await self._start()
        finally:
            self._ending = False

    async def configure(self, settings: dict[str, Any]) -> None:
        """Change the configuration as a deployment does, again if nobody could validate it."""
        while True:
            try:
                await self.nucleus.update_configuration(NAME, settings)
            except DeploymentError as error:
                if "did not validate" not in str(error):
                    raise
            else:
                return

    def _turn(self, version: str) -> None:
        new = self._link.with_name("model.new")
        new.symlink_to(self._models[version])
        new.replace(self._link)

    def _scores(self) -> dict[tuple[str, str], float]:
        scores = {}
        for version, directory in self._models.items():
            scorer = load_model(directory).scorer
            for kind, reading in (("normal", NORMAL), ("abnormal", ABNORMAL)):
                (score,) = scorer.score([tuple(reading.values())])
                assert isinstance(score, float)
                scores[version, kind] = score
        return scores


def _catches_sigterm(pid: int) -> bool:
    """Whether the process is so far that it can be asked to stop; before that it is Python's own start."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(row for row in rows if row.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
