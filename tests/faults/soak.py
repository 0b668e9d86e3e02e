"""`make soak`: 200 messages a second for SOAK_SECONDS on both runtimes: flat memory, latency, books that balance.

With the component's own time limits, and nothing broken. It fails if memory grows by 2 MiB or more after the warm-up, or if
anything is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from faults.rig import Rig
from faults.schedule import Schedule
from greengrass_sandbox.profiles import ProfileName

RATE = 200
MACHINES = 8
GROWTH_LIMIT = 2 * 1024 * 1024
WARM_UP = 0.2
"""Share of the time after which memory counts, at least `SHORTEST_WARM_UP` seconds."""
SHORTEST_WARM_UP = 20.0
DRAIN_SECONDS = 60.0
MEBIBYTE = 1024 * 1024


def main() -> int:
    """Run it; 0 if it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=get_args(ProfileName))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS", "60")))
    options = parser.parse_args()
    if options.profile is not None:
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            return asyncio.run(soak(Path(directory), cast("ProfileName", options.profile), options.seconds))
    children = [
        subprocess.Popen([sys.executable, "-m", "faults.soak", "--profile", name, *sys.argv[1:]])
        for name in get_args(ProfileName)
    ]
    return max(child.wait() for child in children)


async def soak(directory: Path, profile: ProfileName, seconds: float) -> int:
    """Soak one runtime; 0 if it held."""
    schedule = Schedule(seed=1, seconds=seconds, rate=RATE, machines=MACHINES, queue=10_000, steps=())
    latencies: list[float] = []
    memory: list[tuple[float, int]] = []
    async with Rig(directory, profile, timing={}) as rig:
        assert rig.process is not None
        process = psutil.Process(rig.process.pid)
        sent_at: dict[int, float] = {}
        tap = rig.nucleus.watch("ml/inference/result/#")
        began = time.monotonic()

        async def load() -> None:
            for number in range(int(seconds * RATE)):
                await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
                before = len(rig.books.sent)
                sent_at.update(dict.fromkeys(range(before, before + 8), time.time()))
                await rig.send_one(schedule)

        loading = asyncio.create_task(load())
        while not loading.done():
            await rig.look(schedule)
            while tap._items:
                message = tap._items.popleft()
                items = message.json().get("results", [message.json()])
                latencies += [message.time - sent_at[item["correlation_id"]] for item in items]
            memory.append((time.monotonic() - began, process.memory_info().rss))
        await loading
        took = time.monotonic() - began
        deadline = time.monotonic() + DRAIN_SECONDS
        problems = rig.open_items(schedule)
        while problems and time.monotonic() < deadline:
            await rig.look(schedule)
            problems = rig.open_items(schedule)
        drained = time.monotonic() - began - took
        health = rig.books.lives[0].health or {}
        problems += rig.books.settle(schedule)
        problems += await rig.end()
    warm = [rss for moment, rss in memory if moment >= max(SHORTEST_WARM_UP, WARM_UP * seconds)] or [memory[-1][1]]
    tenth = max(1, len(warm) // 10)
    growth = statistics.median(warm[-tenth:]) - statistics.median(warm[:tenth])
    if growth >= GROWTH_LIMIT:
        problems.append(f"memory grew by {growth / MEBIBYTE:.2f} MiB")
    rows = [
        f"{profile}: {int(seconds * RATE) / took:.0f} messages/s for {took:.0f} s, {len(latencies)} results",
        f"  latency, nucleus to nucleus: {quantiles(latencies)}",
        f"  memory: {warm[0] / MEBIBYTE:.1f} MiB after the warm-up, {growth / MEBIBYTE:+.2f} MiB from then to the end",
        f"  books: {health.get('counters')}",
        f"  cloud: {health.get('cloud')}, {drained:.1f} s after the load",
        *(f"  FAILED: {problem}" for problem in problems),
    ]
    print("\n".join(rows), flush=True)  # noqa: T201 - a program
    return int(bool(problems))


def quantiles(seconds: Sequence[float]) -> str:
    """Quantiles in milliseconds."""
    ordered = sorted(seconds)
    named = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    parts = [f"{name} {1000 * ordered[int(share * len(ordered))]:.1f}" for name, share in named.items()]
    return ", ".join([*parts, f"max {1000 * ordered[-1]:.1f} ms"])


if __name__ == "__main__":
    sys.exit(main())
