"""What is kept over restarts: one id for one alarm, none forgotten, at whatever moment the process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from ml_inference.model.bundle import Model, load_model
from ml_inference.monitoring.alarms import iso
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.intake import Regulars
from ml_inference.serving.memory import Memory
from support.models import ABNORMAL, NORMAL, over_time, train_small

START = 1_767_225_600.0


def feed(pipeline: Pipeline, memory: Memory, begin: int, end: int, told: list[dict[str, Any]]) -> None:
    """Readings of one machine each ten seconds: abnormal for a third of each hour; alarms are kept, then told."""
    for number in range(begin, end):
        values = ABNORMAL if number % 360 >= 240 else NORMAL
        reading = values | {"equipment_id": "m", "timestamp": iso(START + 10.0 * number)}
        # No two readings alike, or their sensors would be stuck.
        reading["rVibration_Temp"] = float(reading["rVibration_Temp"]) + number % 97 / 100
        for key in tuple(values)[1:]:
            reading[key] = float(values[key]) + (number * 7 % 89) / 100
        outcome = pipeline.process(json.dumps(reading).encode())
        if outcome.alarms:
            memory.record(outcome.alarms, pipeline)
            told += [event.message for event in outcome.alarms]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return over_time(train_small(tmp_path_factory.mktemp("model") / "small"))


def test_alarms_go_on_from_the_journal_alone_and_what_may_not_have_been_heard_is_told_again(
    directory: Path, tmp_path: Path
) -> None:
    model = load_model(directory)
    pipeline, memory = Pipeline(model), Memory(tmp_path, time.monotonic)
    told: list[dict[str, Any]] = []
    feed(pipeline, memory, 0, 280, told)
    assert told[0]["event"] == "opened"

    # No checkpoint was ever written: the process is gone.
    again, kept = Pipeline(model), Memory(tmp_path, time.monotonic)
    repeated = [event.message for event in kept.restore(again)]
    assert repeated == told
    after: list[dict[str, Any]] = []
    feed(again, kept, 280, 480, after)
    assert {message["id"] for message in after} == {told[0]["id"]}
    assert after[-1]["event"] == "closed"
    assert [message["sequence"] for message in told + after] == list(range(1, len(told + after) + 1))


def test_a_checkpoint_holds_what_is_needed_and_replaces_the_journal(directory: Path, tmp_path: Path) -> None:
    model = load_model(directory)
    pipeline, memory = Pipeline(model), Memory(tmp_path, time.monotonic)
    told: list[dict[str, Any]] = []
    feed(pipeline, memory, 0, 280, told)
    memory.save(pipeline)
    memory.close(10.0)
    assert [path.name for path in tmp_path.glob("alarms-*")] == []
    again, kept = Pipeline(model), Memory(tmp_path, time.monotonic)
    assert kept.restore(again) == []
    after: list[dict[str, Any]] = []
    feed(again, kept, 280, 480, after)
    assert {message["id"] for message in after} == {told[0]["id"]}


def test_a_machine_that_was_known_before_a_restart_is_no_stranger_after_it(model: Model, tmp_path: Path) -> None:
    now = 0.0
    before = Regulars(lambda: now)
    for _ in range(21):
        before.heard("cylinder-1")
        now += 30.0
    # Of a model without alarms or a past, too.
    memory = Memory(tmp_path, time.monotonic, before)
    before.heard("made-up")
    memory.save(Pipeline(model))
    memory.close(10.0)
    after = Regulars(time.monotonic)
    Memory(tmp_path, time.monotonic, after).restore(Pipeline(model))
    assert b"cylinder-1" in after
    assert b"made-up" not in after


@pytest.mark.parametrize("known", [None, {"a": 1}, [1, None, "cylinder-1"]])
def test_what_a_foreign_checkpoint_says_of_known_machines_stops_nothing(
    known: Any, model: Model, tmp_path: Path
) -> None:
    head = {"format": 1, "generation": 1, "known": known}
    (tmp_path / "checkpoint.bin").write_bytes(zlib.compress(json.dumps(head).encode()))
    regulars = Regulars(time.monotonic)
    memory = Memory(tmp_path, time.monotonic, regulars)
    assert memory.restore(Pipeline(model)) == []
    assert regulars.names() == (["cylinder-1"] if isinstance(known, list) else [])


@pytest.mark.parametrize("damage", [b"", b"x" * 100, b"\x00"])
def test_a_damaged_checkpoint_is_set_aside_and_named(directory: Path, tmp_path: Path, damage: bytes) -> None:
    model = load_model(directory)
    (tmp_path / "checkpoint.bin").write_bytes(damage)
    memory = Memory(tmp_path, time.monotonic)
    assert memory.restore(Pipeline(model)) == []
    assert memory.problem is not None
    assert "set aside" in memory.problem
    assert (tmp_path / "checkpoint.damaged").exists()


def victim(model_directory: str, work: str, begin: str) -> None:
    """The process that is killed: it tells alarms on its standard output, and how far it came in a file."""
    pipeline, memory = Pipeline(load_model(Path(model_directory))), Memory(Path(work), time.monotonic)
    for event in memory.restore(pipeline):
        sys.stdout.write(json.dumps(event.message) + "\n")
    sys.stdout.flush()
    progress, fresh = Path(work) / "progress", Path(work) / "progress.new"
    for number in range(int(begin), 100_000):
        told: list[dict[str, Any]] = []
        feed(pipeline, memory, number, number + 1, told)
        # Whole at every moment: half a number would send the machine's clock back.
        fresh.write_text(str(number + 1))
        fresh.replace(progress)
        for message in told:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()
        if number % 50 == 0:
            memory.save(pipeline)


def test_a_process_that_is_killed_at_many_moments_gives_one_id_to_one_alarm_and_forgets_none(
    directory: Path, tmp_path: Path
) -> None:
    told: dict[str, dict[int, dict[str, Any]]] = {}
    begin = 0
    for lines in (5, 3, 6, 4, 7):
        command = [sys.executable, __file__, str(directory), str(tmp_path), str(begin)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(lines):
                message = json.loads(process.stdout.readline())
                told.setdefault(message["id"], {})[message["sequence"]] = message
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                if line.endswith("\n"):
                    message = json.loads(line)
                    told.setdefault(message["id"], {})[message["sequence"]] = message
        begin = int((tmp_path / "progress").read_text() or begin)
    *closed, last = sorted(told.values(), key=lambda events: events[1]["opened"])
    assert len(closed) >= 2
    for events in closed:
        assert sorted(events) == list(range(1, len(events) + 1))
        assert events[max(events)]["event"] == "closed"
    assert 1 in last
    # One alarm for each abnormal stretch of the story.
    hours = [int(events[1]["opened"][11:13]) for events in told.values()]
    assert len(set(hours)) == len(hours)


if __name__ == "__main__":
    victim(*sys.argv[1:])
