"""`make soak`: 200 messages a second for SOAK_SECONDS on both runtimes: flat memory, latency, books that balance.

With the component's own time limits, and nothing broken. It fails if memory grows by 2 MiB or more after the warm-up, or if
anything is missing. With OVERLOAD_SECONDS it is given, for so long, many times what it can score: memory must stay as flat,
what is given up must be counted, and results must be quick again soon after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from faults.rig import Rig
from faults.schedule import Schedule
from greengrass_sandbox import ProfileName
from support.line import REQUEST, accounted
from support.models import ABNORMAL

RATE = 200
MACHINES = 8
GROWTH_LIMIT = 2 * 1024 * 1024
WARM_UP = 0.2
"""Share of the time after which memory counts, at least `SHORTEST_WARM_UP` seconds."""
SHORTEST_WARM_UP = 20.0
DRAIN_SECONDS = 60.0
BATCH = 30
"""Readings in a message of the overload; nucleus lite carries no more."""
HEAVY_TREES = 1200
QUICK_SECONDS = 0.05
QUICK_IN_A_ROW = 10
MEBIBYTE = 1024 * 1024


def main() -> int:
    """Run it; 0 if it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=get_args(ProfileName))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS", "60")))
    parser.add_argument("--overload", type=float, default=float(os.environ.get("OVERLOAD_SECONDS", "0")))
    options = parser.parse_args()
    if options.profile is not None:
        profile = cast("ProfileName", options.profile)
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            failed = asyncio.run(soak(Path(directory) / "soak", profile, options.seconds)) if options.seconds else 0
            if options.overload:
                failed |= asyncio.run(overload(Path(directory) / "overload", profile, options.overload))
            return failed
    children = [
        subprocess.Popen([sys.executable, "-m", "faults.soak", "--profile", name, *sys.argv[1:]])
        for name in get_args(ProfileName)
    ]
    return max(child.wait() for child in children)


async def soak(directory: Path, profile: ProfileName, seconds: float) -> int:
    """Soak one runtime; 0 if it held."""
    schedule = Schedule(seed=1, seconds=seconds, rate=RATE, machines=MACHINES, queue=10_000, steps=(), profile=profile)
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
            for message in tap.drain():
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
    text, flat = growth(memory, seconds)
    if not flat:
        problems.append("memory grew")
    rows = [
        f"{profile}: {int(seconds * RATE) / took:.0f} messages/s for {took:.0f} s, {len(latencies)} results",
        f"  latency, nucleus to nucleus: {quantiles(latencies)}",
        f"  memory: {text}",
        f"  books: {health.get('counters')}",
        f"  cloud: {health.get('cloud')}, {drained:.1f} s after the load",
        *(f"  FAILED: {problem}" for problem in problems[:10]),
    ]
    print("\n".join(rows), flush=True)  # noqa: T201 - a program
    return int(bool(problems))


async def overload(directory: Path, profile: ProfileName, seconds: float) -> int:
    """Give one runtime's component far more than it can score; 0 if it held."""
    reading = ABNORMAL | {"correlation_id": "load"}
    batch = json.dumps([reading] * BATCH, separators=(",", ":")).encode()
    memory: list[tuple[float, int]] = []
    results, problems = 0, []
    async with Rig(directory, profile, timing={}, trees=HEAVY_TREES) as rig:
        await rig.configure({"MaxQueue": 200, "ExplainTopK": 6, "CloudPublish": "none"})
        rig.stop_watching()
        result_tap, health_tap = rig.nucleus.watch("ml/inference/result/#"), rig.nucleus.watch("ml/inference/health")
        health: dict[str, Any] = {}

        def look() -> int:
            nonlocal health
            for message in health_tap.drain():
                health = message.json()
                if not accounted(health):
                    problems.append(f"the books do not balance: {health}")
            seen = [message.json() for message in result_tap.drain()]
            return sum(len(message.get("results", [message])) for message in seen)

        began = time.monotonic()
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            await rig.nucleus.publish(REQUEST, batch)
            results += look()
            if number % 20 == 0:
                memory.append((time.monotonic() - began, rig.footprint().memory))
        took, quick, waited = time.monotonic() - began, 0, time.monotonic()
        while quick < QUICK_IN_A_ROW and time.monotonic() - waited < DRAIN_SECONDS:
            sent = time.monotonic()
            await rig.nucleus.publish(REQUEST, json.dumps(reading).encode())
            before = results
            while (results := results + look()) == before and time.monotonic() - waited < DRAIN_SECONDS:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            quick = quick + 1 if time.monotonic() - sent < QUICK_SECONDS else 0
        recovered = time.monotonic() - waited
        while (not health or health["counters"]["scored"] != results) and time.monotonic() - waited < DRAIN_SECONDS:
            results += look()
            await asyncio.sleep(0.05)
        problems += await rig.end()
    counts = health["counters"]
    text, flat = growth(memory, seconds)
    failures = {
        "memory grew": not flat,
        f"{counts['scored']} scored, {results} results": counts["scored"] != results,
        "nothing was dropped": not counts["dropped"],
        f"not quick again within {recovered:.0f} s": quick < QUICK_IN_A_ROW,
    }
    problems += [failure for failure, holds in failures.items() if holds]
    offered = int(seconds * RATE) * BATCH
    rows = [
        f"{profile}: {offered / took:.0f} readings/s for {took:.0f} s, {offered / counts['scored']:.1f} times what was scored",
        f"  memory: {text}",
        f"  books: {counts}",
        f"  {QUICK_IN_A_ROW} results in a row within {QUICK_SECONDS * 1000:.0f} ms {recovered:.1f} s after the load",
        *(f"  FAILED: {problem}" for problem in problems[:10]),
    ]
    print("\n".join(rows), flush=True)  # noqa: T201 - a program
    return int(bool(problems))


def growth(memory: Sequence[tuple[float, int]], seconds: float) -> tuple[str, bool]:
    """How much memory grew after the warm-up, in words, and whether that passes.

    Args:
        memory: Seconds since the start, and bytes.
        seconds: How long it was to last.
    """
    warm = [rss for moment, rss in memory if moment >= max(SHORTEST_WARM_UP, WARM_UP * seconds)] or [memory[-1][1]]
    tenth = max(1, len(warm) // 10)
    grown = statistics.median(warm[-tenth:]) - statistics.median(warm[:tenth])
    text = f"{warm[0] / MEBIBYTE:.1f} MiB after the warm-up, {grown / MEBIBYTE:+.2f} MiB from then to the end"
    return text, grown < GROWTH_LIMIT


def quantiles(seconds: Sequence[float]) -> str:
    """Quantiles in milliseconds."""
    ordered = sorted(seconds)
    named = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    parts = [f"{name} {1000 * ordered[int(share * len(ordered))]:.1f}" for name, share in named.items()]
    return ", ".join([*parts, f"max {1000 * ordered[-1]:.1f} ms"])


if __name__ == "__main__":
    sys.exit(main())
