"""The whole component beside an echo, over the nucleus stand-in: processor time, latency, throughput, memory.

All contestants run at once and are given work in turn, so that whatever else the machine does falls on all of them. It must never
compare what did not happen in the same run.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greengrass_sandbox import Message, Nucleus, ProfileName, Tap
from speed.readings import KNOWN_SECONDS, MACHINES, Line

SOURCES = Path(__file__).parents[2] / "src"
ACCESS = {
    f"aws.greengrass.ipc.{service}": {
        "bench": {"operations": [f"aws.greengrass#{operation}" for operation in operations], "resources": ["*"]}
    }
    for service, operations in {
        "pubsub": ("PublishToTopic", "SubscribeToTopic"),
        "mqttproxy": ("PublishToIoTCore",),
    }.items()
}
BURST = 2_000
BATCH = 20
"""Readings in a message of the warm-up; nucleus lite carries few more."""
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One contestant's turn.

    Attributes:
        rate: Messages a second; None for all at once.
        seconds: Processor time of a message.
        delays: From the nucleus to the component and back, ascending, in seconds.
    """

    rate: float
    seconds: float
    delays: list[float] = field(repr=False)

    def delay(self, percent: int) -> float:
        """A percentile of the delays."""
        return self.delays[min(len(self.delays) - 1, len(self.delays) * percent // 100)]


class Contestant:
    """A process that answers messages.

    Args:
        name: Of its topics, too.
        nucleus: Where it runs.
        command: Starts it.
        environment: Beside what the nucleus gives it.
        ready: What it writes when it is ready.
        abnormal: Whether its readings are abnormal.
        share: Of a load's messages that it gets.
        fastest: Messages a second above which it has no turn, but for all at once.
    """

    def __init__(
        self,
        name: str,
        nucleus: Nucleus,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        ready: str,
        abnormal: bool = False,
        share: float = 1.0,
        fastest: float = math.inf,
    ) -> None:
        self.name = name
        self.share = share
        self.fastest = fastest
        self._nucleus = nucleus
        self._command = command
        self._environment = environment
        self._ready = ready
        self._line = Line(abnormal=abnormal)
        self._tap: Tap[Message] = nucleus.watch(f"{name}/out")
        self._cloud: Tap[Message] = nucleus.iot_core.watch(f"{name}/cloud")
        self._process: asyncio.subprocess.Process | None = None
        self.started = 0.0

    async def start(self, directory: Path) -> None:
        """Start it, and wait until it is ready."""
        environment = self._nucleus.credentials(f"bench.{self.name}", ACCESS) | self._environment
        work = directory / self.name
        work.mkdir(exist_ok=True)
        began = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=environment, cwd=work, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert self._process.stdout is not None
        said = b""
        while self._ready not in said.decode():
            line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_SECONDS)
            if not line:
                raise RuntimeError(f"{self.name} does not start: {said.decode()}")
            said += line
        self.started = time.monotonic() - began
        self._drain = asyncio.create_task(self._process.stdout.read())

    async def grow(self, messages: int, parts: int) -> list[float]:
        """Give it many messages; its memory before and after each part of them, in MiB."""
        found = [self.memory]
        for _ in range(parts):
            await self.phase(None, messages // parts)
            found.append(self.memory)
        return found

    async def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), WAIT_SECONDS)

    async def make_known(self) -> None:
        """Send what makes its machines known."""
        waiting = MACHINES * KNOWN_SECONDS
        for batch in self._line.batches(waiting // BATCH, BATCH):
            await self._nucleus.publish(f"{self.name}/in", batch)
        while waiting > 0:  # what a message has no room for comes in another one
            waiting -= len((await self._tap.get(WAIT_SECONDS)).json()["results"])

    async def phase(self, rate: float | None, count: int) -> Phase:
        """Give it messages at a rate, or all at once, and wait for the answers."""
        messages = self._line.messages(count)
        await self._settle()
        used = self._processor_time()
        sent, answers = await self._answers(messages, rate)
        took = answers[-1].time - sent[0]
        await asyncio.sleep(0.05)  # the last answers of the cloud are work, too
        seconds = (self._processor_time() - used) / count
        delays = sorted(answer.time - moment for moment, answer in zip(sent, answers, strict=True))
        return Phase(count / took, seconds, delays)

    async def _settle(self) -> None:
        """Wait until what a burst left over is delivered: IoT Core takes it much slower, and it would count as work of what follows."""
        self._cloud.drain()
        with suppress(TimeoutError, asyncio.TimeoutError):
            while True:
                await self._cloud.get(0.3)

    async def _answers(self, messages: Sequence[bytes], rate: float | None) -> tuple[list[float], list[Message]]:
        """Send messages and take as many answers; when each was sent, and the answers."""
        self._tap.drain()
        sent: list[float] = []
        began = time.monotonic()
        for number, message in enumerate(messages):
            if rate is not None:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            sent.append(time.time())
            await self._nucleus.publish(f"{self.name}/in", message)
        return sent, [await self._tap.get(WAIT_SECONDS) for _ in messages]

    def _processor_time(self) -> float:
        """Of all its threads so far, in seconds; /proc/PID/stat counts in hundredths only."""
        total = 0
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    @property
    def memory(self) -> float:
        """Resident, in MiB."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def ours(name: str, nucleus: Nucleus, python: Path, model: Path, *, cloud: bool, abnormal: bool = False) -> Contestant:
    """The component, as it is shipped."""
    settings = {
        "InputTopic": f"{name}/in",
        "ResultTopic": f"{name}/out",
        "ErrorTopic": f"{name}/error",
        "HealthTopic": f"{name}/health",
        "AlarmTopic": f"{name}/alarm",
        "ControlTopic": f"{name}/control",
        "CloudTopic": f"{name}/cloud",
        "CloudAlarmTopic": f"{name}/cloud-alarm",
        "CloudPublish": "all" if cloud else "none",
        "ModelDirectory": str(model.resolve()),
    }
    command = [str(python), "-u", "-m", "ml_inference", "run"]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    environment = {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return Contestant(name, nucleus, command, environment=environment, ready="listening on", abnormal=abnormal)


def echo(name: str, nucleus: Nucleus, python: Path, *, cloud: bool) -> Contestant:
    """A component that only gives back what it gets."""
    command = [str(python), "-u", str(Path(__file__).with_name("echo.py"))]
    command += [f"{name}/in", f"{name}/out", f"{name}/cloud" if cloud else ""]
    return Contestant(name, nucleus, command, environment={}, ready="ready")


def naive(name: str, nucleus: Nucleus, booster: Path) -> Contestant:
    """The component that a first attempt looks like, in the developer's environment, for it needs more than a device has."""
    command = [
        sys.executable,
        "-u",
        str(Path(__file__).with_name("naive.py")),
        f"{name}/in",
        f"{name}/out",
        str(booster),
    ]
    return Contestant(name, nucleus, command, environment={}, ready="ready", share=0.1, fastest=100.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured: a name, the rate (None: all at once), and messages in one turn."""

    name: str
    rate: float | None
    count: int


async def compare(
    directory: Path,
    python: Path,
    model: Path,
    booster: Path,
    loads: Sequence[Load],
    *,
    rounds: int,
    profile: ProfileName = "lite",
) -> dict[str, Any]:
    """Let all of them have their turns.

    Args:
        directory: For everything that is written.
        python: Of a device's environment.
        model: Model directory.
        booster: Of a model without history, for the naive one.
        loads: What to measure.
        rounds: Turns of each.
        profile: The runtime.

    Returns:
        Phases by load and contestant, and each one's memory in the end, and its start in seconds.
    """
    async with Nucleus(directory / "nucleus", profile) as nucleus:
        contestants = [
            echo("echo", nucleus, python, cloud=False),
            ours("ours", nucleus, python, model, cloud=False),
            echo("echo-cloud", nucleus, python, cloud=True),
            ours("ours-cloud", nucleus, python, model, cloud=True),
            ours("ours-abnormal", nucleus, python, model, cloud=False, abnormal=True),
            naive("naive", nucleus, booster),
        ]
        phases: dict[str, dict[str, list[Phase]]] = {load.name: {} for load in loads}
        try:
            for contestant in contestants:
                await contestant.start(directory)
            for contestant in contestants:
                if contestant.name.startswith("ours"):
                    await contestant.make_known()
                await contestant.phase(None, int(200 * contestant.share))
            for _ in range(rounds):
                for load in loads:
                    for contestant in contestants:
                        if load.rate is None or load.rate <= contestant.fastest:
                            phase = await contestant.phase(load.rate, max(5, int(load.count * contestant.share)))
                            phases[load.name].setdefault(contestant.name, []).append(phase)
            memory = {contestant.name: contestant.memory for contestant in contestants}
            started = {contestant.name: contestant.started for contestant in contestants}
        finally:
            for contestant in contestants:
                await contestant.stop()
    return {"phases": phases, "memory": memory, "started": started}


async def starts(
    directory: Path, python: Path, model: Path, rounds: int, *, profile: ProfileName = "lite"
) -> list[str]:
    """Part (d): from the start of the process to listening, and from the order to stop to its end; a table in Markdown.

    Args:
        directory: For everything that is written.
        python: Of a device's environment.
        model: The shipped model's directory.
        rounds: Starts of each.
        profile: The runtime.
    """
    other = directory / "other-model"
    shutil.copytree(model, other)
    async with Nucleus(directory / "nucleus", profile) as nucleus:
        contestants = {
            "echo": echo("echo", nucleus, python, cloud=False),
            "ours, the artifact's own model": ours("ours", nucleus, python, model, cloud=True),
            "ours, a model from elsewhere, checked in a child first": ours("other", nucleus, python, other, cloud=True),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                await contestant.start(directory)
                began = time.monotonic()
                await contestant.stop()
                found[name].append((contestant.started, time.monotonic() - began))
    rows = ["| component | start to listening | stop |", "| --- | --- | --- |"]
    for name, times in found.items():
        started, stopped = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(f"| {name} | {started:.2f} s | {stopped:.2f} s |")
    return rows


async def memory(
    directory: Path, python: Path, model: Path, messages: int, *, profile: ProfileName = "lite"
) -> list[str]:
    """Part (e): resident memory over many messages; a table in Markdown.

    Args:
        directory: For everything that is written.
        python: Of a device's environment.
        model: The shipped model's directory.
        messages: How many, of one reading each.
        profile: The runtime.
    """
    parts = 5
    async with Nucleus(directory / "nucleus", profile) as nucleus:
        contestant = ours("ours", nucleus, python, model, cloud=True)
        await contestant.start(directory)
        try:
            await contestant.make_known()
            found = await contestant.grow(messages, parts)
        finally:
            await contestant.stop()
    heads = [f"after {messages // parts * part:,}" for part in range(parts + 1)]
    return [
        f"| messages | {' | '.join(heads)} |",
        f"| --- |{' --- |' * (parts + 1)}",
        f"| resident | {' | '.join(f'{size:.1f} MiB' for size in found)} |",
    ]


def show(found: dict[str, Any]) -> list[str]:
    """Rows of a table in Markdown: medians over the turns, and their spread."""
    rows = [
        "| load | component | messages/s | CPU a message | x echo | p50 | p99 | over echo's p50 / p99 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for load, contestants in found["phases"].items():
        for name, turns in contestants.items():
            reference = contestants["echo-cloud" if name.endswith("cloud") else "echo"]
            ratios = [one.seconds / other.seconds for one, other in zip(turns, reference, strict=True)]
            rates = [one.rate / other.rate for one, other in zip(turns, reference, strict=True)]
            p50 = [one.delay(50) for one in turns]
            p99 = [one.delay(99) for one in turns]
            over50 = statistics.median(
                one.delay(50) - other.delay(50) for one, other in zip(turns, reference, strict=True)
            )
            over99 = statistics.median(
                one.delay(99) - other.delay(99) for one, other in zip(turns, reference, strict=True)
            )
            rows.append(
                f"| {load} | {name} | {statistics.median(one.rate for one in turns):,.0f} ({statistics.median(rates):.2f}) "
                f"| {1e3 * statistics.median(one.seconds for one in turns):.2f} ms "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
                f"| {1e3 * statistics.median(p50):.2f} ms | {1e3 * statistics.median(p99):.2f} ms "
                f"| {1e3 * over50:+.2f} / {1e3 * over99:+.2f} ms |"
            )
    rows += ["", "| component | start to ready | memory in the end |", "| --- | --- | --- |"]
    rows += [
        f"| {name} | {found['started'][name]:.2f} s | {memory:.0f} MiB |" for name, memory in found["memory"].items()
    ]
    return rows
