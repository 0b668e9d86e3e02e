"""One line: simulates its readings, scores them as `ml-inference score --alarms` does, and gives the alarms beside the truth.

It must never touch a score: alarms come out of the device's own pipeline.
"""

import hashlib
import io
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from evaluation.alarms import Alarm, read
from evaluation.cases import Job, Spoiled
from evaluation.judge import Episode, read_truth
from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import ModelError
from ml_inference.offline.chunks import TableError
from ml_inference.offline.replay import Source, score_table
from ml_inference.scoring.judgement import Judgement
from sensor_simulator import SENSORS, START, Fleet
from sensor_simulator.files import write_csv, write_truth

_REGISTER_END = 655.35
_SENSOR_COLUMNS = slice(2, 2 + len(SENSORS))


@dataclass(frozen=True, slots=True)
class Line:
    """What became of a job."""

    job: Job
    alarms: tuple[Alarm, ...]
    episodes: tuple[Episode, ...]
    spans: dict[str, tuple[float, float]]
    """First and last time of each machine's readings, in seconds since 1970."""


class ScoringError(RuntimeError):
    """Scoring has failed; the message says why."""


def kept_at(job: Job, model: Path, kept: Path) -> Path:
    """Where what came of a job is kept; arguments as for `run`."""
    manifest = (model / "manifest.json").read_bytes()
    return kept / f"{hashlib.sha256(manifest + repr(job).encode()).hexdigest()[:16]}.json"


def run(job: Job, model: Path, kept: Path) -> Line:
    """Simulate and score a line, unless that has been done.

    Args:
        job: What to simulate.
        model: The model directory, verified.
        kept: Where alarms and truth are kept, so that an evaluation that was interrupted goes on.

    Raises:
        ScoringError: Scoring has failed.
    """
    done = kept_at(job, model, kept)
    if not done.exists():
        with tempfile.TemporaryDirectory(prefix="evaluation-") as directory:
            readings, alarms = Path(directory) / "readings.csv", Path(directory) / "alarms.jsonl"
            truth = _simulate(job, readings)
            if job.spoiled:
                _spoil(readings, job.spoiled)
            _score(model, readings, alarms)
            held = {"alarms": alarms.read_text(encoding="utf-8").splitlines(), "truth": truth}
        part = done.with_suffix(".part")
        part.write_text(json.dumps(held), encoding="utf-8")
        part.replace(done)
    held = json.loads(done.read_text(encoding="utf-8"))
    begin = START.timestamp()
    span = (begin, begin + job.seconds - job.step)
    spans = {f"cylinder-{number + 1}": span for number in job.machines}
    return Line(job, tuple(read(held["alarms"])), tuple(read_truth(held["truth"])), spans)


def _simulate(job: Job, readings: Path) -> list[str]:
    fleet = Fleet(**job.story)
    fleet.machines = tuple(fleet.machines[number] for number in job.machines)
    truth = io.StringIO()
    write_truth(fleet, truth, seconds=job.seconds, step=job.step)
    with readings.open("w", encoding="utf-8") as file:
        write_csv(fleet, file, seconds=job.seconds, step=job.step)
    return truth.getvalue().splitlines()


def _spoil(readings: Path, spoiled: Spoiled) -> None:
    lines = readings.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines[1:]]
    values = np.array([row[_SENSOR_COLUMNS] for row in rows], dtype=np.float64)
    since = (START + timedelta(seconds=spoiled.at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    changed = np.array([row[1] >= since and spoiled.machine in (None, row[0]) for row in rows])
    deviations = values[~changed].std(axis=0)
    for sensor in spoiled.sensors:
        column = SENSORS.index(sensor)
        moved = values[changed, column] * spoiled.factor + spoiled.deviations * deviations[column]
        values[changed, column] = np.round(np.minimum(moved, _REGISTER_END), 2)
    with readings.open("w", encoding="utf-8") as file:
        file.write(lines[0] + "\n")
        for row, cells in zip(rows, values.tolist(), strict=True):
            row[_SENSOR_COLUMNS] = map(str, cells)
            file.write(",".join(row) + "\n")


def _score(model: Path, readings: Path, alarms: Path) -> None:
    try:
        # Whoever evaluates has verified the model; each line would do it again.
        with alarms.open("wb") as told, Path(os.devnull).open("wb") as results:
            score_table(load_model(model), Judgement(), Source([readings]), results, alarms=told)
    except (ModelError, TableError) as error:
        raise ScoringError(str(error)) from error
