"""What watching machines over time costs: the pipeline, bytes to bytes, with it and without it, in one process.

    python benchmarks/monitoring.py [--model DIR] [--machines 32] [--readings 1500]

Each machine sends a reading a second, simulated before the clock starts; the first ten minutes, in which machines become
known, are not measured. Both pipelines get the same messages in turn, so that what else the computer does hits both. Shown
is the CPU time of a reading, the median over messages, for messages of one reading and for batches of all machines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ml_inference.config import Configuration
from ml_inference.delivery.routing import Router
from ml_inference.model.bundle import Model, load_model
from ml_inference.model.location import artifact_model_directory
from ml_inference.scoring.pipeline import Pipeline
from sensor_simulator import SENSORS, START, Fleet
from sensor_simulator.many import read
from sensor_simulator.truth import iso

WARM_UP = 660
"""Readings of a machine before it is measured: it counts as known after ten minutes."""
LATER = datetime(2027, 1, 1, tzinfo=timezone.utc)


def main() -> None:
    """Measure and show both forms."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="model directory (default: the one that is shipped)")
    parser.add_argument("--machines", type=int, default=32)
    parser.add_argument("--readings", type=int, default=1_500, help="of each machine")
    arguments = parser.parse_args()
    model = load_model(arguments.model or artifact_model_directory())
    rounds = simulated(arguments.machines, arguments.readings)
    print(f"{'CPU time of a reading, us':28} {'without':>8} {'with':>8}   throughput with / without")
    for name, messages in (
        (f"batches of {arguments.machines}", [[json.dumps(row).encode()] for row in rounds]),
        ("one reading a message", [[json.dumps(reading).encode() for reading in row] for row in rounds]),
    ):
        without, watched = measured(model, messages, arguments.machines)
        print(f"{name:28} {without:8.1f} {watched:8.1f} {without / watched:12.2f}")


def simulated(machines: int, readings: int) -> list[list[dict[str, object]]]:
    """Readings of all machines, a second after a second."""
    fleet = Fleet(machines=machines, seed=5, fault_rate=0.0).machines
    values = [read(machine, count=readings, step=1.0).values.tolist() for machine in fleet]
    return [
        [
            {"equipment_id": machine.equipment_id, "timestamp": iso(START + timedelta(seconds=second))}
            | dict(zip(SENSORS, own[second], strict=True))
            for machine, own in zip(fleet, values, strict=True)
        ]
        for second in range(readings)
    ]


def measured(model: Model, rounds: Sequence[Sequence[bytes]], readings: int) -> tuple[float, float]:
    """CPU microseconds of a reading without and with watching; medians over seconds of the line."""
    router = Router(Configuration(), "core", time.monotonic, str)
    pipelines = [Pipeline(model, clock=lambda: LATER, watching=watching) for watching in (False, True)]
    spent: tuple[list[float], list[float]] = ([], [])
    for number, messages in enumerate(rounds):
        for pipeline, times in zip(pipelines, spent, strict=True):
            began = time.thread_time()
            for message in messages:
                for sent in router.results(pipeline.process(message)):
                    sent.payload  # noqa: B018 - made when it is asked for
            if number >= WARM_UP:
                times.append(time.thread_time() - began)
    without, watched = (1e6 * statistics.median(times) / readings for times in spent)
    return without, watched


if __name__ == "__main__":
    main()
