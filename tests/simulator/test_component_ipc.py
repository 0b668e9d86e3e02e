"""The component as a process of its own, over the real SDK and a real socket, on both runtimes' profiles."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from greengrass_sandbox import BackgroundNucleus, Message
from sensor_simulator import SENSORS, Fleet

NAME = "com.example.SensorSimulator"
TOPIC = "ml/inference/request"
RECIPE = Path(__file__).parents[2] / "components" / "simulator" / "recipe.yaml"
DEADLINE_S = 120.0


class Simulator:
    """The component's process and what it logs."""

    def __init__(self, environment: Mapping[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sensor_simulator", "--ipc", *options],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.log = ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def wait_for(self, text: str) -> None:
        """Wait until the log says something."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.log:
            self.log += self._lines.get(timeout=max(0.01, deadline - time.monotonic()))

    def end(self) -> int:
        """Wait for the process's end; its exit code."""
        code = self.process.wait(timeout=DEADLINE_S)
        self._reader.join(DEADLINE_S)
        while not self._lines.empty():
            self.log += self._lines.get()
        return code

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


Start = Callable[..., Simulator]


@pytest.fixture(params=["classic", "lite"])
def nucleus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackgroundNucleus]:
    with BackgroundNucleus(tmp_path, request.param) as running:
        yield running


@pytest.fixture
def simulators() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(nucleus: BackgroundNucleus, simulators: ExitStack) -> Start:
    def start(*options: str, configuration: Mapping[str, Any] | None = None) -> Simulator:
        recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        recipe |= {"ComponentName": NAME, "ComponentVersion": "1.0.0"}
        simulator = Simulator(nucleus.credentials(NAME, recipe, configuration=configuration), *options)
        simulators.callback(simulator.stop)
        return simulator

    return start


def test_it_publishes_the_story_of_its_configuration_as_binary_messages(
    nucleus: BackgroundNucleus, start: Start
) -> None:
    tap = nucleus.watch()
    start(configuration={"Machines": "2", "RateHz": "20", "Seed": 5, "FaultRate": 50})
    messages: list[Message] = tap.take(40)
    assert {(message.topic, message.kind, message.component) for message in messages} == {(TOPIC, "binary", NAME)}
    readings = [message.json() for message in messages]
    assert [reading["correlation_id"] for reading in readings] == list(range(1, 41))
    fleet = Fleet(machines=2, seed=5, fault_rate=50.0, accelerate=600.0)
    expected = list(fleet.rows(seconds=1.0, step=0.05))
    for reading, row in zip(readings, expected, strict=True):
        assert set(reading) == {"correlation_id", "equipment_id", "timestamp", "wCylinderStatus", *SENSORS}
        assert {key: row[key] for key in reading if key in row and key != "timestamp"} == {
            key: value for key, value in reading.items() if key not in ("timestamp", "correlation_id")
        }


def test_an_accelerated_storys_timestamps_begin_days_ago_and_follow_it_up_to_the_present(
    nucleus: BackgroundNucleus, start: Start
) -> None:
    tap = nucleus.watch()
    # A step of story is 0.072 s * 100,000 = 2 h: two days are over after 24 of them.
    start(configuration={"Machines": 1, "RateHz": 1 / 0.072, "Accelerate": 100_000, "StartDaysAgo": 2})
    began = datetime.now(timezone.utc)
    messages = tap.take(30)
    stamps = [datetime.fromisoformat(message.json()["timestamp"].replace("Z", "+00:00")) for message in messages]
    assert timedelta(days=-1.9) > stamps[0] - began > timedelta(days=-2.1)
    past, present = stamps[:24], stamps[25:]
    assert {second - first for first, second in pairwise(past)} == {timedelta(hours=2)}
    # From then on by the clock.
    assert all(abs(stamp - began) < timedelta(minutes=5) for stamp in present)
    assert stamps == sorted(stamps)


def test_every_machine_speaks_at_its_rate_by_the_clock(nucleus: BackgroundNucleus, start: Start) -> None:
    tap = nucleus.watch(TOPIC)
    start(configuration={"Machines": 4, "RateHz": 10})
    messages = tap.take(81)
    # 80 intervals at 4 * 10 a second; a slow machine may be late, never early.
    assert 1.9 < messages[-1].time - messages[0].time < 6.0
    machines = [message.json()["equipment_id"] for message in messages[:80]]
    assert machines == ["cylinder-1", "cylinder-2", "cylinder-3", "cylinder-4"] * 20


def test_every_nth_message_is_malformed(nucleus: BackgroundNucleus, start: Start) -> None:
    tap = nucleus.watch(TOPIC)
    simulator = start("--seconds", "1", configuration={"Machines": 1, "RateHz": 40, "BadEvery": "10"})
    messages = tap.take(40)
    assert simulator.end() == 0
    numbers = []
    for number, message in enumerate(messages, start=1):
        try:
            reading = json.loads(message.payload, parse_constant=lambda name: name)
            good = all(isinstance(reading[sensor], float) and abs(reading[sensor]) < 1e6 for sensor in SENSORS)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            numbers.append(number)
    assert numbers == [10, 20, 30, 40]
    assert "40 published (4 malformed), 0 failed, 0 unanswered, 0 dropped, 0 in flight" in simulator.log


def test_the_command_line_is_stronger_than_the_configuration(nucleus: BackgroundNucleus, start: Start) -> None:
    tap = nucleus.watch(TOPIC)
    simulator = start("--machines", "3", "--rate", "10", "--seconds", "1", configuration={"Machines": 1})
    assert simulator.end() == 0
    assert {message.json()["equipment_id"] for message in tap.take(30)} == {"cylinder-1", "cylinder-2", "cylinder-3"}


def test_a_request_to_stop_ends_it_at_once_with_zero(nucleus: BackgroundNucleus, start: Start) -> None:
    tap = nucleus.watch(TOPIC)
    simulator = start(configuration={"Machines": 1, "RateHz": 0.01})
    tap.get()  # the next one is due in 100 s
    asked = time.monotonic()
    simulator.process.send_signal(signal.SIGTERM)
    assert simulator.end() == 0
    assert time.monotonic() - asked < 2.0
    assert "Traceback" not in simulator.log


def test_a_lost_connection_ends_it_with_75(simulators: ExitStack, tmp_path: Path) -> None:
    with BackgroundNucleus(tmp_path) as passing:
        recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        recipe |= {"ComponentName": NAME, "ComponentVersion": "1.0.0"}
        tap = passing.watch(TOPIC)
        simulator = Simulator(passing.credentials(NAME, recipe, configuration={"RateHz": 100}))
        simulators.callback(simulator.stop)
        tap.take(10)
    assert simulator.end() == 75
    assert "connection lost" in simulator.log


def test_a_refused_connection_ends_it_with_75(nucleus: BackgroundNucleus, simulators: ExitStack) -> None:
    environment = nucleus.credentials(NAME) | {"SVCUID": "AAAAAAAAAAAAAAAA"}
    simulator = Simulator(environment)
    simulators.callback(simulator.stop)
    assert simulator.end() == 75


def test_a_wrong_value_ends_it_with_1_and_names_the_key(start: Start) -> None:
    simulator = start(configuration={"RateHz": "often"})
    assert simulator.end() == 1
    assert "RateHz: expected a number" in simulator.log


def test_a_topic_that_the_recipe_does_not_allow_is_reported_once_and_counted(start: Start) -> None:
    simulator = start("--seconds", "1", configuration={"Topic": "elsewhere", "Machines": 1, "RateHz": 20})
    assert simulator.end() == 0
    assert simulator.log.count("publishing fails") == 1
    assert "UnauthorizedError" in simulator.log
    assert "0 published (0 malformed), 20 failed" in simulator.log


def test_a_changed_configuration_is_taken_while_running_and_a_wrong_one_is_not(
    nucleus: BackgroundNucleus, start: Start
) -> None:
    tap = nucleus.watch(TOPIC)
    simulator = start(configuration={"Machines": 1, "RateHz": 20})
    last = tap.take(5)[-1].json()["correlation_id"]
    nucleus.update_configuration(NAME, {"Machines": 0})
    simulator.wait_for("changed configuration not taken: Machines: expected an integer from 1 to 1000")
    # Events for two leaves, one new story.
    nucleus.update_configuration(NAME, {"Machines": 2, "Seed": 3})
    deadline = time.monotonic() + DEADLINE_S
    while (reading := tap.get().json())["equipment_id"] != "cylinder-2":
        assert time.monotonic() < deadline
        last += 1
        assert reading["correlation_id"] == last  # nothing is lost, and the numbers go on
    simulator.process.send_signal(signal.SIGTERM)
    assert simulator.end() == 0
    assert simulator.log.count("publishing to") == 2
