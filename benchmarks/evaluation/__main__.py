"""``python -m evaluation``: simulates, scores, judges and writes docs/evaluation.md; `make evaluate` starts it.

What has been scored is kept, so that an evaluation that was interrupted goes on where it stopped. It must never change what it evaluates.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from evaluation.cases import SEED, Job, jobs
from evaluation.line import Line, ScoringError, kept_at, run
from evaluation.report import Model, page
from ml_inference.model.bundle import load_verified
from ml_inference.model.manifest import ModelError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Without the program's name; None for the process's own.

    Returns:
        The process's exit code: 0 when the page was written, 1 when scoring has failed.
    """
    parser = argparse.ArgumentParser(prog="evaluation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("artifacts/model"), help="model directory (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation.md"), help="the page (%(default)s)")
    parser.add_argument("--kept", type=Path, default=Path(".evaluation"), help="what has been scored (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="minutes in place of an hour")
    parser.add_argument(
        "--only", action="append", metavar="CASE", help="only cases whose name begins so; may be given again"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the first story (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no further line after these; what is done is kept"
    )
    arguments = parser.parse_args(argv)
    chosen = [
        job
        for job in jobs(quick=arguments.quick, seed=arguments.seed)
        if not arguments.only or job.case.startswith(tuple(arguments.only))
    ]
    # OpenMP's idle threads spin, and there is a process for each core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments.kept.mkdir(parents=True, exist_ok=True)
    try:
        load_verified(arguments.model)
        lines = _lines(chosen, arguments)
    except (ModelError, ScoringError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    manifest = json.loads((arguments.model / "manifest.json").read_text(encoding="utf-8"))
    sources = {derived["name"]: derived["source"] for derived in manifest.get("derived", [])}
    model = Model(manifest["name"], manifest["version"], sources)
    arguments.out.write_text(page(lines, model, quick=arguments.quick, seed=arguments.seed), encoding="utf-8")
    print(arguments.out)
    return 0


def _lines(chosen: Sequence[Job], arguments: argparse.Namespace) -> list[Line]:
    began, done = time.monotonic(), 0
    lines: list[Line | None] = [None] * len(chosen)
    total = sum(job.readings for job in chosen)
    # A forked child of a process that has used OpenMP (to verify the model) can wait for its threads for ever.
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        order: Sequence[int] = range(len(chosen))
        if arguments.minutes == math.inf:
            # The longest ones first, so that no process is left alone with one in the end.
            order = sorted(order, key=lambda index: -chosen[index].readings)
        futures = {pool.submit(run, chosen[index], arguments.model, arguments.kept): index for index in order}
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                index = futures[future]
                lines[index] = future.result()
                done += chosen[index].readings
                spent = time.monotonic() - began
                print(f"{spent:6.0f} s  {done / total:4.0%}  {chosen[index].case}", file=sys.stderr)
                if spent > 60.0 * arguments.minutes:
                    for waiting, place in futures.items():
                        if not kept_at(chosen[place], arguments.model, arguments.kept).exists():
                            waiting.cancel()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [line for line in lines if line is not None]


if __name__ == "__main__":
    sys.exit(main())
