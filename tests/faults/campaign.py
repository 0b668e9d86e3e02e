"""`make faults`: many random schedules of faults on both runtimes, each checked to the last reading.

FAULTS_SCHEDULES is how many (300), FAULTS_SEED the first (1); a failing one is printed with what replays it. Several
follow each other on the same process, as faults do on a device, until one of them ends it. FAULTS_CYCLES is how many times
(1000) a connection is lost and found again after that, with nothing left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import cast, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

from faults.rig import Rig
from faults.schedule import Schedule, draw
from greengrass_sandbox import ProfileName

LEFT_BEHIND_MIB = 2.0
"""Growth of memory over the lost connections that still passes."""
TOGETHER = 10
"""Schedules on one nucleus."""


def main() -> int:
    """Run the campaign; 0 if every schedule passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=get_args(ProfileName))
    parser.add_argument("--schedules", type=int, default=int(os.environ.get("FAULTS_SCHEDULES", "300")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FAULTS_SEED", "1")))
    parser.add_argument("--cycles", type=int, default=int(os.environ.get("FAULTS_CYCLES", "1000")))
    parser.add_argument("--verbose", action="store_true", help="print each schedule")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.schedules)
    if options.profile is not None:
        profile = cast("ProfileName", options.profile)
        failed = asyncio.run(campaign(profile, seeds, verbose=options.verbose))
        return asyncio.run(lose_often(profile, options.cycles)) or failed
    children = [
        subprocess.Popen([sys.executable, "-m", "faults.campaign", "--profile", name, *sys.argv[1:]])
        for name in get_args(ProfileName)
    ]
    return max(child.wait() for child in children)


async def campaign(profile: ProfileName, seeds: range, *, verbose: bool) -> int:
    """Play schedules, some of them on each nucleus; 0 if every one passed."""
    began, failed, left, totals = time.monotonic(), 0, seeds, Counter[str]()
    while left:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            played, passed = await play(Path(directory), profile, left[:TOGETHER], totals, verbose=verbose)
        failed += not passed
        left = left[played:]
        done = len(seeds) - len(left)
        say(f"{profile}: {done} of {len(seeds)} schedules, {failed} failed, {time.monotonic() - began:.0f} s")
    if totals:
        say(f"{profile}: " + ", ".join(f"{count:,} {what}" for what, count in totals.items()))
    return int(failed > 0)


async def play(
    directory: Path, profile: ProfileName, seeds: range, totals: Counter[str], *, verbose: bool = False
) -> tuple[int, bool]:
    """Play schedules on one nucleus, until one fails.

    Args:
        directory: For everything that is written.
        profile: The runtime.
        seeds: The schedules'.
        totals: Gets what crossed the nucleus added.
        verbose: Whether to print each schedule.

    Returns:
        How many were played, and whether all of them passed.
    """
    async with Rig(directory, profile) as rig:
        for number, seed in enumerate(seeds, start=1):
            schedule = draw(seed, profile)
            began = time.monotonic()
            problems = await rig.play(schedule)
            if verbose:
                steps = "; ".join(map(str, schedule.steps))
                say(f"{profile} {seed}: {time.monotonic() - began:.1f} s; {schedule.rate}/s; {steps}")
            if not problems and number == len(seeds):
                problems = await rig.end()
            if problems or number == len(seeds):
                totals.update(rig.books.totals())
            if problems:
                say(report(profile, seeds[:number], schedule, problems, rig.log))
                return number, False
    return len(seeds), True


async def lose_often(profile: ProfileName, cycles: int) -> int:
    """Lose the connection very often; 0 if nothing of that is left behind."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        async with Rig(Path(directory), profile) as rig:
            await rig.lose_and_find(cycles // 10)
            before = rig.footprint()
            await rig.lose_and_find(cycles - cycles // 10)
            after = rig.footprint()
            problems = await rig.end()
    growth = (after.memory - before.memory) / 2**20
    say(
        f"{profile}: {cycles} lost connections in {time.monotonic() - began:.0f} s: memory {growth:+.2f} MiB, file descriptors "
        f"{before.descriptors} then {after.descriptors}, threads {before.threads} then {after.threads}"
    )
    if growth >= LEFT_BEHIND_MIB or (before.descriptors, before.threads) != (after.descriptors, after.threads):
        problems.append("something is left behind")
    for problem in problems:
        say(f"FAILED on {profile}: {problem}")
    return int(bool(problems))


def report(profile: ProfileName, seeds: range, schedule: Schedule, problems: list[str], log: Path) -> str:
    """What failed, and how to see it again."""
    rows = [f"FAILED on {profile}, seed {schedule.seed}: {schedule}"]
    rows += [f"  {problem}" for problem in problems]
    rows.append(f"  alone:     FAULTS_SEED={schedule.seed} FAULTS_SCHEDULES=1 make faults")
    rows.append(f"  as it was: FAULTS_SEED={seeds.start} FAULTS_SCHEDULES={len(seeds)} make faults")
    rows.append("  the end of the component's log:")
    rows += [f"    {row}" for row in log.read_text().splitlines()[-40:]]
    return "\n".join(rows)


def say(text: str) -> None:
    """Print at once: two of these run side by side."""
    print(text, flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    sys.exit(main())
