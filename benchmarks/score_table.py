"""What batches and processes save when a table is scored, compared in one run.

    python benchmarks/score_table.py [--model DIR] [--readings 300000] [--rounds 2]

The same readings (the model's golden ones, over and over) are scored in batches by one process, and by the command with
one and with all cores, which includes starting Python, checking the model in a child process, and writing files; and a
twentieth of them one message at a time, as the component does when nothing waits. The best of the rounds is shown. Take
the ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from ml_inference.delivery.encoding import dump
from ml_inference.model.bundle import Model, load_model
from ml_inference.offline.replay import Source, score_table
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.pipeline import Pipeline


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("artifacts/model"))
    parser.add_argument("--readings", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        lines, table = write_tables(model, arguments.readings, Path(directory))
        few = max(1, arguments.readings // 20)
        candidates: dict[str, tuple[int, Callable[[], None]]] = {
            "one message at a time": (few, lambda: one_at_a_time(model, lines, few)),
            "batches, JSON lines": (arguments.readings, lambda: batches(model, lines)),
            "batches, CSV": (arguments.readings, lambda: batches(model, table)),
            "command, CSV, 1 process": (arguments.readings, lambda: command(arguments.model, table, 1)),
            f"command, CSV, {cores} processes": (arguments.readings, lambda: command(arguments.model, table, cores)),
        }
        best = {
            name: min(seconds(run) for _ in range(arguments.rounds)) / readings
            for name, (readings, run) in candidates.items()
        }
    slowest = best["one message at a time"]
    print(
        f"{arguments.readings} readings of {len(model.manifest.features)} features, {cores} cores, without explanations\n"
    )
    print(f"{'':28}{'us/reading':>12}{'times faster':>14}")
    for name, taken in best.items():
        print(f"{name:28}{taken * 1e6:12.1f}{slowest / taken:14.1f}")


def write_tables(model: Model, readings: int, directory: Path) -> tuple[Path, Path]:
    names = model.manifest.feature_names
    rows = list(islice(cycle(model.manifest.golden), readings))
    lines, table = directory / "t.jsonl", directory / "t.csv"
    lines.write_text("".join(json.dumps(row.reading) + "\n" for row in rows))
    table.write_text(
        ",".join(names) + "\n" + "".join(",".join(map(str, model.manifest.row(row.reading))) + "\n" for row in rows)
    )
    return lines, table


def one_at_a_time(model: Model, lines: Path, readings: int) -> None:
    pipeline = Pipeline(model, Judgement(explain_top_k=0))
    out = io.BytesIO()
    with lines.open("rb") as file:
        for line in islice(file, readings):
            for result in pipeline.process(line).results:
                out.write(dump(result.as_message()) + b"\n")


def batches(model: Model, table: Path) -> None:
    score_table(model, Judgement(explain_top_k=0), Source([table]), io.BytesIO())


def command(model: Path, table: Path, jobs: int) -> None:
    options = [
        "--model",
        str(model),
        "--data",
        str(table),
        "--out",
        f"{table}.out",
        "--explain",
        "0",
        "--jobs",
        str(jobs),
    ]
    done = subprocess.run([sys.executable, "-m", "ml_inference", "score", *options], capture_output=True, check=True)
    assert b" 0 rejected" in done.stderr


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
