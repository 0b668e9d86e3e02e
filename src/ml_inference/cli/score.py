"""`ml-inference score`: a table of readings through the component's own code, without Greengrass.

For replaying what a line recorded, and for comparing a model in use with the one that may follow it. A large table is
scored by as many processes as there are cores, each with a part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timezone
from pathlib import Path
from typing import BinaryIO

from ml_inference.cli.options import OptionError, add_table_options, dialect, table_options
from ml_inference.model.bundle import Model, load_model, load_verified
from ml_inference.model.manifest import ModelError
from ml_inference.model.objectives import objective_of
from ml_inference.offline.chunks import Part, TableError
from ml_inference.offline.files import table_files
from ml_inference.offline.replay import Source, Totals, compare, score_table
from ml_inference.offline.tables import split_table
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import JsonObject

_BYTES_PER_PROCESS = 8_000_000
"""A part smaller than this is scored before another process is ready: starting one takes about a second."""
_MACHINES_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model directory")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="readings: CSV, JSON lines or Parquet; several files, and folders of them, are one table",
    )
    add_table_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go (default: standard output)")
    parser.add_argument("--threshold", type=float, help="a score from here on is abnormal (default: the model's)")
    parser.add_argument(
        "--debounce",
        type=int,
        default=1,
        metavar="N",
        help="readings in a row that change a machine's state (%(default)s)",
    )
    parser.add_argument(
        "--explain", type=int, default=3, metavar="K", help="features named with an abnormal result (%(default)s)"
    )
    parser.add_argument(
        "--alarms", type=Path, metavar="FILE", help="where the alarm messages of a device would go, as JSON lines"
    )
    parser.add_argument("--compare", type=Path, metavar="DIR", help="score with a second model, too, and compare them")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each core, for large files)")
    parser.add_argument("--part", type=_part, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Score; 0 when the table was read to its end and not all of it was rejected, else 1 with the reason."""
    try:
        if arguments.compare is not None:
            _compare(arguments)
        elif arguments.part is not None:
            _score_part(arguments)
        else:
            _score(arguments)
    except (ModelError, TableError, OptionError) as error:
        print(f"ml-inference score: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"ml-inference score: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _score(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    model = load_verified(arguments.model)
    _require_threshold(arguments, model)
    table = _source(arguments)
    parts = [Part()]
    # A machine's alarms and past depend on all readings before.
    if len(table.files) == 1 and arguments.alarms is None and not model.manifest.needs_format_2:
        parts = split_table(table.files[0], _processes(arguments, table.files[0]), table.dialect)
    with ExitStack() as stack:
        out = stack.enter_context(arguments.out.open("wb")) if arguments.out else sys.stdout.buffer
        alarms = stack.enter_context(arguments.alarms.open("wb")) if arguments.alarms else None
        workshop = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ml-inference-")))
        helpers = [stack.enter_context(_Helper(arguments, part, workshop)) for part in parts[1:]]
        totals = score_table(model, _judgement(arguments), table, out, parts[0], alarms=alarms)
        for helper in helpers:
            done = helper.finish(out)
            totals.scored += done.scored
            totals.abnormal += done.abnormal
            totals.rejected += done.rejected
        out.flush()
    seconds = time.perf_counter() - started
    print(
        f"{totals.scored + totals.rejected} readings: {totals.scored} scored, {totals.abnormal} of them abnormal, "
        f"{totals.rejected} rejected; {seconds:.1f} s",
        file=sys.stderr,
    )
    if totals.rejected and not totals.scored:
        raise TableError(
            f"{_shown(arguments.data)}: every reading was rejected, for the reason in its line of the results"
        )


def _score_part(arguments: argparse.Namespace) -> None:
    # Its parent has verified the model.
    model = load_model(arguments.model)
    with arguments.out.open("wb") as out:
        totals = score_table(model, _judgement(arguments), _source(arguments), out, arguments.part)
    print(json.dumps(asdict(totals)))


class _Helper:
    """Another process of this command, for one part of the table.

    Args:
        arguments: This command's.
        part: What to score.
        workshop: Where its results wait for their turn.
    """

    def __init__(self, arguments: argparse.Namespace, part: Part, workshop: Path) -> None:
        self._results = workshop / f"{part.start}.jsonl"
        judgement = ["--debounce", str(arguments.debounce), "--explain", str(arguments.explain)]
        if arguments.threshold is not None:
            judgement += ["--threshold", str(arguments.threshold)]
        bounds = ",".join(str(bound) for bound in (part.start, part.end, part.lines) if bound is not None)
        data = [str(path) for path in arguments.data]
        files = ["--model", str(arguments.model), "--data", *data, "--out", str(self._results)]
        written = table_options(arguments)
        command = [sys.executable, "-m", "ml_inference", "score", *files, *written, *judgement, "--part", bounds]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603 - ourselves

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def finish(self, out: BinaryIO) -> Totals:
        """Wait for it and pass its results on.

        Raises:
            TableError: It failed.
        """
        said, problem = self._process.communicate()
        if self._process.returncode:
            raise TableError(problem.decode("utf-8", "replace").strip() or "a process that scored a part was killed")
        with self._results.open("rb") as results:
            shutil.copyfileobj(results, out, 1024 * 1024)
        self._results.unlink()
        return Totals(**json.loads(said))


def _source(arguments: argparse.Namespace) -> Source:
    return Source(table_files(arguments.data), dialect(arguments), arguments.timezone or timezone.utc)


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")  # noqa: PLR2004


def _processes(arguments: argparse.Namespace, file: Path) -> int:
    if arguments.debounce > 1:
        return 1  # A machine's state depends on all readings before.
    if arguments.jobs is not None:
        return max(1, int(arguments.jobs))
    try:
        size: int = file.stat().st_size
    except OSError:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), size // _BYTES_PER_PROCESS))


def _require_threshold(arguments: argparse.Namespace, model: Model) -> None:
    objective = objective_of(model.manifest.objective)
    if arguments.threshold is not None and not objective.threshold:
        raise OptionError(
            f"--threshold: a score of {model.manifest.objective} is {objective.score}, which no threshold is compared with"
        )


def _judgement(arguments: argparse.Namespace) -> Judgement:
    return Judgement(
        threshold=arguments.threshold, debounce_readings=arguments.debounce, explain_top_k=arguments.explain
    )


def _part(text: str) -> Part:
    start, *end, lines = (int(bound) for bound in text.split(","))
    return Part(start, end[0] if end else None, lines)


def _compare(arguments: argparse.Namespace) -> None:
    first, second = load_verified(arguments.model), load_verified(arguments.compare)
    comparison = compare(first, second, _judgement(arguments), _source(arguments))
    report = comparison.as_json()
    print(json.dumps(report, indent=1) if arguments.json else _table(report))
    if comparison.rejected and not comparison.overall.readings:
        raise TableError(f"{_shown(arguments.data)}: no reading was scored by both models")


def _table(report: JsonObject) -> str:
    first, second = (f"{report[which]['name']} {report[which]['version']}" for which in ("first", "second"))
    lines = [f"{first} -> {second}, {report['readings']} readings scored by both"]
    if skipped := [
        f"{report[key]} {text}"
        for key, text in (
            ("rejected", "by neither"),
            ("only_first", f"only by {first}"),
            ("only_second", f"only by {second}"),
        )
        if report[key]
    ]:
        lines[0] += f" ({', '.join(skipped)})"
    if not report["readings"]:
        return lines[0]
    quantiles = report["shift_quantiles"]
    lines += [
        "",
        f"  same verdict      {report['agreement']:10.4%}  ({report['changed']} changed)",
        f"  became abnormal   {report['became_abnormal']:10}",
        f"  became normal     {report['became_normal']:10}",
        "",
        f"  score shift, mean {report['mean_shift']:+10.4g}  (mean size {report['mean_absolute_shift']:.4g})",
        "  quantiles " + "".join(f"{float(share):>11.0%}" for share in quantiles),
        "            " + "".join(f"{value:+11.4g}" for value in quantiles.values()),
    ]
    machines = report["machines"]
    if set(machines) != {""}:
        names = list(machines)[:_MACHINES_SHOWN]
        width = max(len("equipment"), *(len(name) for name in names))
        heads = f"{'readings':>10}{'same':>10}{'abnormal':>10}{'became':>10}{'mean shift':>12}"
        lines += ["", f"  {'equipment':{width}}{heads}"]
        for name in names:
            held = machines[name]
            became = f"+{held['became_abnormal']}/-{held['became_normal']}"
            lines.append(
                f"  {name:{width}}{held['readings']:10}{held['agreement']:10.2%}{held['abnormal']:10}{became:>10}"
                f"{held['mean_shift']:+12.4g}"
            )
        if len(machines) > len(names):
            lines.append(f"  and {len(machines) - len(names)} more; --json lists them all")
    return "\n".join(lines)
