"""Part (a): what a reading costs from bytes to bytes, beside bare XGBoost and beside what is usual on a server."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = (1, 32)


@dataclass(slots=True)
class Way:
    """A process that handles messages.

    Attributes:
        name: In the table.
        way: Of `speed.handlers`.
        python: Runs it.
        model: Model directory.
        figures: Medians of each turn by size of the messages, in microseconds: by the clock, and of processor time.
    """

    name: str
    way: str
    python: Path
    model: Path
    figures: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[str]:
        """Start it; it says when it is ready."""
        folders = [ROOT / "src", ROOT / "benchmarks", ROOT / "components/simulator"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
        environment.pop("OMP_NUM_THREADS", None)
        command = [str(self.python), "-m", "speed.handlers", self.way, str(self.model)]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )


def measure(python: Path, model: Path, plain: Path, rounds: int) -> list[str]:
    """Give all of them their turns.

    Args:
        python: Of a device's environment.
        model: The shipped model's directory.
        plain: A model without history.
        rounds: Turns of each.

    Returns:
        A table in Markdown.
    """
    ways = [
        Way("bare `inplace_predict`, shipped model", "bare", python, model),
        Way("ours", "ours", python, model),
        Way("bare `inplace_predict`, plain model", "bare", python, plain),
        Way("ours", "ours", python, plain),
        Way("json, pandas, `XGBClassifier`", "usual", Path(sys.executable), plain),
    ]
    processes = [way.start() for way in ways]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a process does not start")
        for _ in range(rounds):
            for size in SIZES:
                for way, process in zip(ways, processes, strict=True):
                    assert process.stdin is not None
                    assert process.stdout is not None
                    process.stdin.write(f"{size}\n")
                    process.stdin.flush()
                    way.figures.setdefault(size, []).append(json.loads(process.stdout.readline()))
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    return _table(ways)


def _table(ways: Sequence[Way]) -> list[str]:
    rows = [
        "| from bytes to bytes | one reading | x bare | in messages of 32, each | x bare |",
        "| --- | --- | --- | --- | --- |",
    ]
    reference = ways[0]
    for way in ways:
        if way.way == "bare":
            reference = way
        cells = [way.name]
        for size in SIZES:
            # Processor time: by the clock, whatever else the machine does would count, too.
            own = [figures["cpu"] / size for figures in way.figures[size]]
            ratios = [
                one["cpu"] / other["cpu"] for one, other in zip(way.figures[size], reference.figures[size], strict=True)
            ]
            cells += [
                f"{statistics.median(own):.0f} us" if size == 1 else f"{statistics.median(own):.1f} us",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows
