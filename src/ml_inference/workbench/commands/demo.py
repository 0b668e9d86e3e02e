"""`ml-inference demo`: the whole line on this machine, with a live view.

It builds the components as for a deployment, has a nucleus stand-in (`greengrass-sandbox`, a process of its own) install
and run them from their recipes, watches every topic, and at the end reconciles the counts: what was sent must have been scored
or rejected, and what was scored must have reached the cloud. It simulates nothing itself.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from ml_inference.workbench.demo_view import MachineView, Picture, lines

SETTLE_SECONDS = 30.0
"""Longest wait for what is on its way: after an outage the component pauses for some seconds before it tries again."""
START_SECONDS = 900.0
PAGE_PORT = 8990
"""Of the dashboard; another one is taken if it is in use."""
EVENTS = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, help="end by itself after so many seconds of telemetry")
    parser.add_argument("--profile", choices=("lite", "classic"), default="lite", help="runtime (default: lite)")
    parser.add_argument("--machines", type=int, default=4, help="number of cylinders (default: 4)")
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="DIR",
        help="made for a lock file that covers every component; default: each component makes its own, as on a device",
    )
    parser.add_argument("--offline-after", type=float, metavar="S", help="take the cloud away after S seconds, for 5 s")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if nothing was lost."""
    root = _checkout()
    if root is None:
        print("ml-inference demo: run it in a checkout of the repository", file=sys.stderr)
        return 1
    if importlib.util.find_spec("greengrass_sandbox") is None:
        print(
            "ml-inference demo: needs the nucleus stand-in: pip install ./packages/greengrass-sandbox", file=sys.stderr
        )
        return 1
    if arguments.seconds is not None and arguments.seconds <= 0:
        arguments.seconds = None
    console = Console()
    folder = root / ".sandbox"
    # Where `scripts/demo.py` gives the environment, it has seen to that already.
    alone = contextlib.nullcontext() if arguments.environment else only_one(folder, folder / "demo.lock")
    try:
        with (
            _terminated_like_interrupted(),
            alone,
            Sandbox(root, arguments.profile, arguments.machines, arguments.environment) as sandbox,
        ):
            books = Books(simulator=sandbox.simulator, dashboard=sandbox.dashboard)
            with contextlib.suppress(KeyboardInterrupt):
                view = _live(console, books) if console.is_terminal else _plain(console, books)
                with view as show:
                    _play(sandbox, books, arguments, show)
            try:
                if books.sent:
                    _settle(sandbox, books)
            except KeyboardInterrupt:
                console.print("interrupted while settling; the figures below are not final")
    except DemoError as error:
        print(f"ml-inference demo: {error}", file=sys.stderr)
        return 1
    console.print(books.summary(), highlight=False, soft_wrap=True)
    return 0 if books.lost == 0 and books.sent else 1


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass
class Books:
    """What went through the topics.

    Attributes:
        simulator: Name of the component whose readings count as sent.
        dashboard: Name of the component whose log says where the page is.
        page: Address of the page; "" until it is known.
    """

    simulator: str
    dashboard: str = ""
    page: str = ""
    sent: int = 0
    scored: int = 0
    rejected: int = 0
    repeats: int = 0
    offline: bool = False
    machines: dict[str, MachineView] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    last_error: str = ""
    note: str = ""
    _in_cloud: set[str] = field(default_factory=set)

    @property
    def cloud(self) -> int:
        """Results in the cloud; one that was delivered again, with the same `id`, counts once."""
        return len(self._in_cloud)

    @property
    def open(self) -> int:
        """Sent, and neither scored nor rejected (yet)."""
        return self.sent - self.scored - self.rejected

    @property
    def lost(self) -> int:
        """Sent and not accounted for, or scored and not in the cloud; once everything has settled."""
        return abs(self.open) + abs(self.scored - self.cloud)

    def take(self, event: dict[str, Any]) -> list[str]:
        """Enter one event of the sandbox; returns lines worth telling."""
        kind = event["event"]
        if kind == "error":
            raise DemoError(str(event.get("message")))
        if kind == "log":
            return self._log(event)
        if kind == "cloud":
            self._cloud(str(event.get("topic", "")), event.get("payload"))
        return self._local(event) if kind == "local" else []

    def _log(self, event: dict[str, Any]) -> list[str]:
        found = re.search(r"the page is at (\S+)", str(event.get("line")))
        if event.get("component") != self.dashboard or found is None:
            return []
        self.page = found[1]
        return [f"the line in a browser: {self.page}"]

    def _cloud(self, topic: str, payload: Any) -> None:
        if isinstance(payload, dict) and not topic.endswith(("/alarm", "/probe")):
            self.repeats += payload["id"] in self._in_cloud
            self._in_cloud.add(payload["id"])

    def _local(self, event: dict[str, Any]) -> list[str]:
        topic, payload = event.get("topic", ""), event.get("payload")
        if topic == "ml/inference/request":
            self.sent += event.get("component") == self.simulator
            self._reading(payload)
        elif not isinstance(payload, dict):
            return []
        elif topic == "ml/inference/result":
            return self._result(payload)
        elif topic == "ml/inference/error":
            return self._rejection(payload)
        elif topic == "ml/inference/alarm":
            return self._alarm(payload)
        elif topic == "ml/inference/health" and "counters" in payload:
            self.health = payload
        return []

    def _rejection(self, payload: dict[str, Any]) -> list[str]:
        self.rejected += 1
        first = payload["errors"][0]
        where = ".".join(str(part) for part in first["loc"])
        self.last_error = f"{payload['equipment_id'] or '?'} {where}: {first['msg']}".replace(" :", ":")
        return [f"rejected  {self.last_error}"]

    def _reading(self, payload: Any) -> None:
        machine = self.machines.get(str(payload.get("equipment_id"))) if isinstance(payload, dict) else None
        if machine is not None:
            machine.sensors |= {
                key: value
                for key, value in payload.items()
                if isinstance(value, float) and key != "wCylinderStatus" and abs(value) < 1e6  # noqa: PLR2004 - a bad one
            }

    def _alarm(self, alarm: dict[str, Any]) -> list[str]:
        what = (
            f"{alarm['equipment_id']}: {alarm['kind']} {alarm.get('sensor') or ''} {alarm.get('reason') or ''}".rstrip()
        )
        if alarm["event"] == "closed":
            self.alarms.pop(alarm["id"], None)
            return [f"alarm closed  {what}"]
        new = alarm["id"] not in self.alarms
        self.alarms[alarm["id"]] = what
        return [f"alarm opened  {what}"] if new else []

    def _result(self, result: dict[str, Any]) -> list[str]:
        self.scored += 1
        name = result["equipment_id"] or "?"
        machine = self.machines.setdefault(name, MachineView())
        before = machine.state
        score = result.get("smoothed_score", result["score"])
        machine.state, machine.score = str(result["state"]), score
        machine.faults = result.get("sensors", {})
        machine.scores.append(score)
        reasons = result.get("explanation", [])
        machine.reason = ", ".join(
            f"{part['feature']} {part['value']:g} {part['unit']}"
            for part in reasons[:2]
            if part["contribution"] > 0 and part["value"] is not None
        )
        if before == machine.state or (before == "…" and machine.state == "normal"):
            return []
        because = f" because of {machine.reason}" if machine.reason else ""
        return [f"{name} is {machine.state} (score {score:.3f}){because}"]

    def picture(self, events: Sequence[str]) -> Picture:
        """What the view shows."""
        model, latency, cloud = (self.health.get(key) or {} for key in ("model", "latency_ms", "cloud"))
        waiting = cloud.get("waiting", 0)
        facts = [
            f"page   {self.page}" if self.page else "",
            f"sent {self.sent}  scored {self.scored}  rejected {self.rejected}  in the cloud {self.cloud}",
            f"alarms {len(self.alarms)} open: {'; '.join(self.alarms.values())}" if self.alarms else "alarms none open",
            f"model  {model.get('name', '…')} {model.get('version', '')}  latency {latency.get('p50', '…')} ms",
            self.note,
            "Ctrl-C ends",
        ]
        offline = self.offline or bool(cloud.get("offline"))
        warning = f" cloud out of reach: {waiting} results wait on the device " if offline else ""
        return Picture(self.machines, [fact for fact in facts if fact], warning, events)

    def counts(self) -> str:
        """The counts in one line."""
        cloud = f"{self.cloud} to the cloud" + (" (OFFLINE)" if self.offline else "")
        return f"sent {self.sent}, scored {self.scored}, rejected {self.rejected}, {cloud}"

    def summary(self) -> str:
        """The end of the story."""
        rows = [
            ("sent", self.sent, "readings published by the simulator"),
            ("scored", self.scored, "results on ml/inference/result"),
            ("rejected", self.rejected, "told on ml/inference/error (the simulator sends some bad ones on purpose)"),
            ("published", self.cloud, "results in the cloud, on greengrass/ml/inference/sandbox-core"),
            ("lost", self.lost, "sent - scored - rejected, and scored - published"),
        ]
        if self.repeats:
            text = "delivered to the cloud again, with the same id: they may not have left before the outage"
            rows.insert(4, ("repeated", self.repeats, text))
        return "\n".join(f"  {name:<10}{count:>6}  {text}" for name, count, text in rows)


@dataclass(frozen=True, slots=True)
class Part:
    """A component of the demo.

    Attributes:
        project: Its folder in the checkout.
        settings: What the deployment merges into its configuration.
    """

    project: str
    settings: dict[str, Any]


LISTENERS = (Part(".", {"HealthIntervalSeconds": 2, "DebounceReadings": 3}),)
"""What is deployed first; the simulator follows when these listen. requirements-demo.lock covers them all."""


class Sandbox:
    """The nucleus stand-in, driven over its standard input and output.

    Args:
        root: The checkout.
        profile: `lite` or `classic`.
        machines: Number of cylinders.
        environment: Python environment that all components share; None: each makes its own.

    Attributes:
        simulator: The simulator's name.
        simulator_build: What was built of it.
        dashboard: The dashboard's name.

    Raises:
        DemoError: A component cannot be built.
    """

    def __init__(self, root: Path, profile: str, machines: int, environment: Path | None = None) -> None:
        # One reading a second for each machine; a fault that takes hours on the line takes seconds here.
        story = {"Machines": machines, "Seed": 202, "FaultRate": 1.6, "Accelerate": 1800, "BadEvery": 25}
        simulator = Part("components/simulator", story)
        dashboard = Part("components/dashboard", {"Port": _free_port()})
        nucleus = root / ".sandbox" / profile
        self._command = [sys.executable, "-m", "greengrass_sandbox", "--json", "--profile", profile]
        self._command += ["--root", str(nucleus)]
        names = {}
        for part in (*LISTENERS, dashboard, simulator):
            project = root / part.project
            names[part.project] = name = _build(root, project)
            if environment is not None:
                _share(environment.resolve(), root, project / "greengrass-build", nucleus / "work" / name)
            self._command += ["--merge", f"{name}={json.dumps(part.settings)}"]
            if part is not simulator:
                self._command += ["--deploy", str(project / "greengrass-build")]
        self.simulator, self.dashboard = names[simulator.project], names[dashboard.project]
        self.simulator_build = root / simulator.project / "greengrass-build"
        self._command += ["--watch", "ml/inference/#", "--watch-cloud", "greengrass/ml/inference/#"]
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def __enter__(self) -> Sandbox:
        # A session of its own, so that Ctrl-C reaches the demo alone, which then ends the others in their order.
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(DemoError):
            self.say("quit")
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(15)
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(OSError):  # what was not read any more; since Python 3.13 it would be told at the end
            self._process.stdin.close()

    def say(self, verb: str) -> None:
        """Give the sandbox a verb.

        Raises:
            DemoError: It has ended.
        """
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(verb + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise DemoError("the nucleus stand-in has ended") from error

    def events(self, until: float) -> Iterator[dict[str, Any] | None]:
        """Events until a moment of the monotonic clock; None every half second without one."""
        while (left := until - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=min(left, 0.5))
            except queue.Empty:
                yield None
                continue
            if event is None:
                raise DemoError("the nucleus stand-in has ended")
            yield event

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._events.put(json.loads(line))
        self._events.put(None)


def _build(root: Path, project: Path) -> str:
    """Build a component; returns its name, which `gdk-config.json` alone decides."""
    build = [sys.executable, str(root / "scripts" / "build_component.py"), str(project)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    if done.returncode:
        raise DemoError(done.stderr.strip() or done.stdout.strip())
    (name,) = json.loads((project / "gdk-config.json").read_text(encoding="utf-8"))["component"]
    return str(name)


def _share(environment: Path, root: Path, build: Path, work: Path) -> None:
    """Put an environment where the launcher of a component looks for its own.

    Args:
        environment: Has at least what the component's lock file names.
        root: The checkout.
        build: What was built of the component.
        work: Its work directory.
    """
    sys.path.insert(0, str(root / "device"))
    from launcher import environment_name  # noqa: PLC0415 - it lies in no package

    (archive,) = build.glob("artifacts/*/*/*.zip")
    with zipfile.ZipFile(archive) as opened:
        lock = opened.read("requirements.lock")
    link = work / "runtime" / environment_name(lock, f"{sys.version_info.major}.{sys.version_info.minor}")
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(environment)


@contextlib.contextmanager
def only_one(folder: Path, lock: Path) -> Iterator[None]:
    """Keep a second demo out of a folder.

    Args:
        folder: What both would use.
        lock: A file that is locked for as long as the demo runs.

    Raises:
        DemoError: There is one, or the lock cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise DemoError(f"cannot use {lock.parent}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f"a demo already runs in this checkout ({folder}): end it first") from None
        yield


def _free_port() -> int:
    """The dashboard's usual port, or a free one if something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PAGE_PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Show:
    """Where the play is shown: `refresh` after each event, `tell` for a line that stays."""

    def refresh(self) -> None:
        """Something may have changed."""

    def tell(self, text: str) -> None:
        """A line that stays."""


def _play(sandbox: Sandbox, books: Books, arguments: argparse.Namespace, show: _Show) -> None:
    first = "" if arguments.environment else " (the first time this fetches some 80 MB of packages)"
    show.tell(f"installing the components from their recipes{first} ...")
    _until_listening(sandbox, books, show)
    sandbox.say(f"deploy {sandbox.simulator_build}")
    began: float | None = None
    outage = arguments.offline_after
    for event in sandbox.events(time.monotonic() + 10 * 365 * 86_400):
        if event is not None:
            for text in books.take(event):
                show.tell(text)
            if books.sent and began is None:
                began = time.monotonic()
                books.note = ""
        show.refresh()
        played = time.monotonic() - began if began is not None else 0.0
        if outage is not None and played >= outage:
            books.offline = not books.offline
            sandbox.say(f"cloud {'offline' if books.offline else 'online'}")
            show.tell(f"the cloud is {'out of reach' if books.offline else 'back'}")
            outage = played + 5 if books.offline else None
        if arguments.seconds is not None and played >= arguments.seconds:
            return


def _until_listening(sandbox: Sandbox, books: Books, show: _Show) -> None:
    for event in sandbox.events(time.monotonic() + START_SECONDS):
        if event is not None:
            if event["event"] == "error" and books.note:
                raise DemoError(f"{event['message']}: {books.note}")
            for text in books.take(event):
                show.tell(text)
            if event["event"] == "log" and event.get("component") != books.dashboard:
                books.note = event["line"][:110]
                show.refresh()
            elif event["event"] == "state" and event["state"] in ("BROKEN", "ERRORED"):
                raise DemoError(f"{event['component']} is {event['state']}: {books.note}")
        if books.health.get("state") == "running":
            return
    raise DemoError("the component did not start in time")


def _settle(sandbox: Sandbox, books: Books) -> None:
    """Stop the simulator and let what is on its way arrive."""
    if books.offline:
        sandbox.say("cloud online")
        books.offline = False
    sandbox.say(f"stop {sandbox.simulator}")
    stopped = False
    for event in sandbox.events(time.monotonic() + SETTLE_SECONDS):
        if event is not None:
            books.take(event)
            if event["event"] == "state" and event["component"] == sandbox.simulator:
                stopped = event["state"] not in ("RUNNING", "STOPPING")
        elif stopped and books.lost == 0:
            return


class _Screen(_Show):
    """The whole terminal, drawn anew some times a second; events stand in it and do not scroll."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._events: deque[str] = deque(maxlen=EVENTS)

    def tell(self, text: str) -> None:
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        width, height = console.size
        yield from lines(self._books.picture(self._events), width, height)


@contextlib.contextmanager
def _live(console: Console, books: Books) -> Iterator[_Show]:
    screen = _Screen(books)
    with Live(screen, console=console, refresh_per_second=4, screen=True):
        yield screen
    if books.page:
        console.print(f"the page was at {books.page}", highlight=False)


@contextlib.contextmanager
def _plain(console: Console, books: Books) -> Iterator[_Show]:
    class Lines(_Show):
        told = 0.0

        def refresh(self) -> None:
            if books.sent and time.monotonic() - self.told >= 5:  # noqa: PLR2004 - seconds between lines
                self.told = time.monotonic()
                self.tell(books.counts())

        def tell(self, text: str) -> None:
            console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True)

    yield Lines()


def _checkout() -> Path | None:
    candidates = (Path.cwd(), Path(__file__).resolve().parents[4])
    return next((path for path in candidates if (path / "scripts" / "build_component.py").is_file()), None)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that no process is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
