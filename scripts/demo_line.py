# ruff: noqa: INP001, T201 - a command of its own, it prints
"""The whole way from a PLC to an alarm on this machine: `make demo-line`.

A PLC (an OPC UA server that the simulator plays), the bridge, a nucleus stand-in, the inference component and the
dashboard. At the end it reconciles the counts: each value that the PLC wrote must have gone into a reading, and each reading must have
been scored; else it ends with 1. What cannot begin is one line that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from greengrass_sandbox import BackgroundNucleus
from inference_bridge.mapping import MappingError, load_mapping
from ml_inference.workbench.commands.demo import DemoError, only_one

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".sandbox" / "line"
START_SECONDS = 120.0
SETTLE_SECONDS = 30.0
REPORT_SECONDS = 5.0
OWN_SMOOTHING_SECONDS = 60
VALUES = 24
"""Of the PLC: four machines with six sensors."""


class Books:
    """What the local topics say."""

    def __init__(self) -> None:
        self.results = self.errors = 0
        self.health: dict[str, Any] = {}
        self.inference: dict[str, Any] = {}
        self.alarms: set[str] = set()
        self._told: dict[str, str | None] = {}

    def take(self, topic: str, payload: bytes) -> None:
        """Enter a message."""
        with contextlib.suppress(ValueError, KeyError):
            message = json.loads(payload)
            if topic == "ml/inference/bridge/health":
                self.health = message
                self._say_problems()
            elif topic == "ml/inference/health" and "counters" in message:
                self.inference = message
            elif topic == "ml/inference/alarm":
                self._alarm(message)

    def _alarm(self, alarm: Mapping[str, Any]) -> None:
        what = f"{alarm['equipment_id']}: {alarm['kind']} {alarm.get('sensor') or ''}".rstrip()
        if alarm["event"] == "opened" and alarm["id"] not in self.alarms:
            self.alarms.add(alarm["id"])
            print(f"  alarm opened   {what}", flush=True)
        elif alarm["event"] == "closed":
            print(f"  alarm closed   {what}", flush=True)

    @property
    def values(self) -> int:
        """Values that the bridge received."""
        return int(self.health.get("values", {}).get("received", 0))

    @property
    def readings(self) -> int:
        """Readings that left the bridge."""
        return int(self.health.get("readings", {}).get("published", 0))

    @property
    def scored(self) -> int:
        """Readings that the inference component scored or rejected."""
        counters = self.inference.get("counters", {})
        return int(counters.get("scored", 0)) + int(counters.get("rejected", 0))

    def settled(self, changed: int | None, before: int) -> bool:
        """Whether all that the PLC changed has been scored, and nothing is on its way."""
        everything = changed is None or self.values - before == changed
        waiting = self.health["readings"]["waiting"] or self.health["values"]["waiting"]
        return everything and not waiting and self.scored == self.readings

    def _say_problems(self) -> None:
        """Print what keeps the bridge from a source, when that is new."""
        told = {name: source.get("problem") for name, source in self.health.get("sources", {}).items()}
        for name, problem in told.items():
            if problem and self._told.get(name) != problem:
                print(f"  waiting for {name}: {problem}", flush=True)
        self._told = told

    def line(self) -> str:
        """The counts in one line."""
        return f"  values {self.values}, readings {self.readings}, scored {self.scored}, alarms {len(self.alarms)}"


def main() -> int:
    """Run the demo; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="end by itself after so many seconds")
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", help="your own mapping and sources, in place of the simulated PLC"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_one(FOLDER, FOLDER.parent / "line.lock"))
            mapping = _checked(arguments.mapping) if arguments.mapping else None
            shutil.rmtree(FOLDER, ignore_errors=True)
            FOLDER.mkdir(parents=True)
            nucleus = stack.enter_context(BackgroundNucleus(FOLDER / "nucleus"))
            return _play(stack, nucleus, arguments.seconds, mapping)
    except (DemoError, OSError) as error:
        print(f"make demo-line: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("make demo-line: ended before it had an account to give", file=sys.stderr)
    return 1


def _checked(path: Path) -> str:
    """The text of a mapping that can be used."""
    try:
        load_mapping(str(path))
    except MappingError as error:
        raise DemoError(f"{path}: {error}") from None
    return path.read_text(encoding="utf-8")


def _play(stack: contextlib.ExitStack, nucleus: BackgroundNucleus, seconds: float | None, own: str | None) -> int:
    books, tap = Books(), nucleus.watch("ml/inference/#")

    processes: dict[str, subprocess.Popen[str]] = {}

    def look() -> None:
        for message in tap.drain():
            books.take(message.topic, message.payload)
        for name, process in processes.items():
            if process.poll() is not None:
                raise DemoError(f"{name} ended with {process.returncode}: {_last_line(name)}")

    plc = None if own else _start_plc(stack)
    if own:
        (FOLDER / "mapping.json").write_text(own, encoding="utf-8")
    print(f"the mapping: {FOLDER / 'mapping.json'}", flush=True)
    page = _free_port()
    parts: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        (".", ["-m", "ml_inference", "run"], _judging(own)),
        ("components/dashboard", ["-m", "inference_dashboard", "--work", "."], {"Port": page}),
        (
            "components/bridge",
            ["-m", "inference_bridge", "run"],
            {"HealthIntervalSeconds": 1, "MappingFile": str(FOLDER / "mapping.json")},
        ),
    )
    for project, command, settings in parts:
        processes.update([_component(stack, nucleus, project, command, settings)])
        if project == ".":
            _until(lambda: books.inference.get("state") == "running", look, "the inference component does not start")
    _until(lambda: books.health.get("state") == "running", look, "the bridge does not connect")
    print(f"the line in a browser: http://127.0.0.1:{page}/", flush=True)
    before = 0
    if plc is not None:
        _until(lambda: books.values >= VALUES, look, "the bridge hears nothing")
        # What the nodes held before the line began; readings of it are no part of the story.
        before = books.values
        _tell(plc)
    ends = time.monotonic() + (seconds or float("inf"))
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < ends:
            time.sleep(min(REPORT_SECONDS, max(0.1, ends - time.monotonic())))
            look()
            print(books.line(), flush=True)
    changed = _end_of_story(plc) if plc is not None else None
    with contextlib.suppress(DemoError):
        _until(lambda: books.settled(changed, before), look, "", SETTLE_SECONDS)
    return _reconcile(books, changed, before)


def _judging(own: str | None) -> dict[str, Any]:
    """Configuration of the inference component."""
    settings: dict[str, Any] = {"HealthIntervalSeconds": 1, "DebounceReadings": 3}
    if own is not None:
        # The model's own half an hour is right for a line, and too long to look on.
        settings["AlarmSmoothingSeconds"] = OWN_SMOOTHING_SECONDS
        print("alarms: after ten minutes of a machine's readings, where scores stay high for a minute", flush=True)
    return settings


def _reconcile(books: Books, changed: int | None, before: int) -> int:
    """Print what became of each value and reading; 0 if nothing was lost."""
    values = books.health.get("values", {})
    lost = abs(books.readings - books.scored) + books.health["readings"]["dropped"] + values.get("dropped", 0)
    if changed is not None:
        lost += abs(changed + before - books.values)
        print(f"  changed in the PLC {changed}, and {before} before it began")
    kept = {name: number for name, number in values.items() if number and name != "received"}
    print(f"  received {books.values}: {json.dumps(kept)}")
    sent = books.health.get("outputs", {}).get("sent", 0)
    print(f"  readings published {books.readings}, scored or rejected {books.scored}; written back {sent}")
    print(f"  lost {lost}")
    return 1 if lost or not books.readings else 0


def _start_plc(stack: contextlib.ExitStack) -> subprocess.Popen[str]:
    """Start the PLC, and write the mapping for it."""
    port = _free_port()
    plc = _start(stack, "plc", [str(ROOT / "examples" / "line" / "plc.py"), "--port", str(port), "--wait"], piped=True)
    print(f"the PLC: {_line_of(plc).removeprefix('serving ')}", flush=True)
    mapping = json.loads((ROOT / "examples" / "line" / "mapping.json").read_text())
    mapping["sources"][0]["endpoint"] = f"opc.tcp://127.0.0.1:{port}"
    (FOLDER / "mapping.json").write_text(json.dumps(mapping, indent=2))
    return plc


def _end_of_story(plc: subprocess.Popen[str]) -> int:
    """Let the PLC change nothing any more; how many values it had."""
    plc.send_signal(signal.SIGINT)
    return int(json.loads(_line_of(plc))["changed"])


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101 - for the type checker
    line = process.stdout.readline().strip()
    if not line:
        raise DemoError(f"the PLC ended: {_last_line('plc')}")
    return line


def _last_line(name: str) -> str:
    """Of a process's log."""
    path = FOLDER / name / "log"
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"see {path}")


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None  # noqa: S101 - for the type checker
    process.stdin.write("\n")
    process.stdin.flush()


def _component(
    stack: contextlib.ExitStack, nucleus: BackgroundNucleus, project: str, command: list[str], settings: dict[str, Any]
) -> tuple[str, subprocess.Popen[str]]:
    """Start a component as a process with its recipe's permissions; its name and the process."""
    ((name, component),) = json.loads((ROOT / project / "gdk-config.json").read_text())["component"].items()
    recipe = yaml.safe_load((ROOT / project / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"ComponentName": name, "ComponentVersion": component["version"]}
    environment = nucleus.credentials(name, recipe, configuration=settings)
    return name, _start(stack, name, command, environment)


def _start(
    stack: contextlib.ExitStack,
    name: str,
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    piped: bool = False,
) -> subprocess.Popen[str]:
    work = FOLDER / name
    work.mkdir()
    log = stack.enter_context((work / "log").open("w"))
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *command],
        cwd=work,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else log,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the demo alone
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(
    condition: Callable[[], bool], look: Callable[[], None], problem: str, seconds: float = START_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"{problem}; the logs are in {FOLDER}")
        time.sleep(0.1)
        look()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
