"""`ml-inference train`: a table in, a verified model directory and a report out.

It prints what it took, what it left out, and what is wrong with the data, before anybody trusts a figure.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from datetime import timezone
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ml_inference.cli.options import OptionError, add_table_options, dialect, names
from ml_inference.model.manifest import ModelError
from ml_inference.model.over_time import LONGEST_SECONDS
from ml_inference.model.trust import SIGNATURE_FILE
from ml_inference.workbench.training import TrainingError, summary
from ml_inference.workbench.training.features import read_features_file
from ml_inference.workbench.training.inputs import parse_history
from ml_inference.workbench.training.report import write_report
from ml_inference.workbench.training.request import FALSE_ALARMS, Request
from ml_inference.workbench.training.run import Progress, Training, train, write
from ml_inference.workbench.training.running import parse_running
from ml_inference.workbench.training.split import AUTO, SPLITS
from ml_inference.workbench.training.target import Task
from ml_inference.workbench.training.threshold import parse_rule
from ml_inference.workbench.writer import UNSIGNED, require_target

_DURATION = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|min|m|h|d)?$")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    data = parser.add_argument_group("the data")
    data.add_argument(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="CSV, JSON lines or Parquet, a reading a row; several files, and folders of them, are one table",
    )
    data.add_argument(
        "--label", required=True, metavar="COLUMN", help="what to predict: two classes, more, or a number"
    )
    data.add_argument("--features", metavar="A,B,...", help="columns to learn from (default: all columns of numbers)")
    data.add_argument(
        "--categorical",
        metavar="A,B,...",
        help="columns of text to learn from, such as a type of machine; in messages as text",
    )
    data.add_argument(
        "--allow-missing",
        metavar="A,B,...",
        help="features that a reading may lack, or all: the model learns to do without, and rows with gaps are used",
    )
    data.add_argument("--exclude", metavar="A,B,...", help="columns not to learn from")
    data.add_argument(
        "--features-file",
        type=Path,
        metavar="FILE",
        help="features with units and limits: JSON, or an old manifest.json",
    )
    data.add_argument("--unit", action="append", default=[], metavar="NAME=UNIT", help="unit of a feature; repeatable")
    data.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=MIN:MAX",
        help="physical limits of a feature, beyond which the component rejects a reading; repeatable",
    )
    data.add_argument("--label-default", metavar="VALUE", help="label of the rows of files that have no such column")
    add_table_options(parser.add_argument_group("how the files are written"))
    split = parser.add_argument_group("the split (a fifth is held out)")
    split.add_argument(
        "--split",
        choices=SPLITS,
        default=AUTO,
        help="without --group and --time: rows at random, blocks of consecutive rows, or blocks where neighbouring rows are "
        "alike and by file where there are several (%(default)s)",
    )
    split.add_argument("--group", metavar="COLUMN", help="hold out whole groups, such as machines")
    split.add_argument(
        "--time",
        metavar="COLUMN",
        help="hold out the latest rows; with --group, which then decides the split, only to count false alarms a day",
    )
    over_time = parser.add_argument_group("over time (with --time, and --group or a column equipment_id)")
    over_time.add_argument(
        "--horizon",
        type=_duration,
        metavar="TIME",
        help="predict what is or becomes abnormal within this time, such as 8h (default: what is abnormal now)",
    )
    over_time.add_argument(
        "--false-alarms",
        type=_allowance,
        default=FALSE_ALARMS,
        metavar="N",
        help="allowed a machine-week; the alarm's smoothing and levels follow (default: 0.15; none: no alarm levels)",
    )
    over_time.add_argument(
        "--episodes",
        type=Path,
        metavar="FILE",
        help="true episodes with onset and repair, JSON lines or CSV (default: stretches of abnormal label)",
    )
    over_time.add_argument(
        "--sensor-fault-label",
        metavar="COLUMN[=VALUE,...]",
        help="column that says where a sensor, not the machine, is at fault (default values: all but 0, false and nothing)",
    )
    over_time.add_argument(
        "--running",
        metavar="CONDITION",
        help='when a machine is in operation, such as "wRMSCurrent > 20" (default: always)',
    )
    over_time.add_argument(
        "--every",
        type=_duration,
        default=0.0,
        metavar="TIME",
        help="train on a reading of each machine in every so much time, such as 60s (default: on all)",
    )
    over_time.add_argument(
        "--history",
        default="none",
        metavar="WINDOWS",
        help="features from each machine's own past: windows such as 1h,6h,24h; auto: where validation says that it pays "
        "(default: none)",
    )
    over_time.add_argument(
        "--withholdable",
        metavar="A,B,...|all",
        help="features whose sensors may fail: the model learns to do without one of them (default: none)",
    )
    model = parser.add_argument_group("the model")
    model.add_argument("--objective", choices=[task.value for task in Task], help="(default: by the label's classes)")
    model.add_argument(
        "--normal-class", metavar="VALUE", help="label of normal operation (default: 0, or the most frequent)"
    )
    model.add_argument(
        "--threshold",
        metavar="RULE",
        help="f1 (default), recall=0.9, precision=0.9, cost=FN:FP or a number; chosen on validation rows",
    )
    model.add_argument(
        "--max-trees", type=_positive, default=500, metavar="N", help="most boosting rounds (default: 500)"
    )
    model.add_argument(
        "--max-depth", type=_positive, default=9, metavar="N", help="deepest trees that are tried (default: 9)"
    )
    model.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same model (default: 0)"
    )
    model.add_argument("--jobs", type=_positive, metavar="N", help="boosters trained at once (default: one a core)")
    out = parser.add_argument_group("what is written")
    out.add_argument("--out", type=Path, required=True, metavar="DIR", help="model directory")
    out.add_argument("--name", metavar="NAME", help="of the model (default: the directory's name)")
    out.add_argument("--version", default="1.0.0", metavar="VERSION", help="of the model (default: 1.0.0)")
    out.add_argument("--report", type=Path, metavar="FILE", help="(default: report.html in the model directory)")


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when the model directory and the report are written, else 1 with the reason."""
    name = arguments.name or _name(arguments.out)
    try:
        request = _request(arguments)
        require_target(arguments.out, name, arguments.version)
        signed = (arguments.out / SIGNATURE_FILE).is_file()
        with _progress() as progress:
            training = train(request, progress)
            progress.stage("writing model directory and report", 2)
            manifest = write(
                training,
                arguments.out,
                name=name,
                version=arguments.version,
                metrics=summary.metrics(training),
            )
            progress.step()
            report = arguments.report or arguments.out / "report.html"
            write_report(report, training, manifest, _command(arguments))
            progress.step()
    except (TrainingError, ModelError, OptionError) as error:
        print(f"ml-inference train: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ml-inference train: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    _tell(training)
    if signed:
        print(f"warning: {UNSIGNED}", file=sys.stderr, flush=True)
    print(f"model:  {arguments.out} ({manifest.name} {manifest.version}, {training.fit.trees} rounds of trees)")
    print(f"report: {report}")
    return 0


def _tell(training: Training) -> None:
    print()
    for sentence in summary.verdict(training):
        print(sentence)
    print(f"\non {len(training.split.held_out)} held-out rows, with intervals of 95 %:")
    for name, value in training.figures.values.items():
        low, high = training.figures.intervals[name]
        print(f"  {name:14} {value:8.4f}   {low:.4f} to {high:.4f}")
    if training.rule is not None:
        print(f"  {'threshold':14} {training.threshold:8.4g}   {training.rule}")
    if training.judging is not None:
        levels = training.judging.levels
        print(
            f"\nan alarm opens at a smoothed score of {levels.open_score:.3g} and closes below {levels.close_score:.3g} "
            f"(time constant {summary.duration(levels.smoothing_seconds)}); on held-out machines:"
        )
        for title, figure, interval in summary.alarm_figures(training.judging):
            print(f"  {title:30} {figure:>9}   {interval}")
    print(flush=True)
    for warning in summary.warnings(training):
        print(f"warning: {warning}", file=sys.stderr, flush=True)


class _Lines(Progress):
    """Plain lines, where nobody watches a terminal."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, text: str, steps: int = 1) -> None:
        print(text if steps == 1 else f"{text} ({steps} steps)", flush=True)

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)


class _Terminal(Progress):
    """A bar a stage."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, console=console)
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, text: str, steps: int = 1) -> None:
        self._task = self._bar.add_task(text, total=steps)

    def step(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def say(self, text: str) -> None:
        # Names of features hold brackets, which would be markup.
        self._bar.console.print(f"  {text}", markup=False, highlight=False)


def _progress() -> _Lines | _Terminal:
    console = Console()
    return _Terminal(console) if console.is_terminal else _Lines()


def _command(arguments: argparse.Namespace) -> str:
    """The command line that gives the same again."""
    parts = ["ml-inference", "train"]
    for key, value in vars(arguments).items():
        if key in {"command", "run", "jobs", "report"} or value is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            parts += [f"--{key.replace('_', '-')}", str(one)]
    return shlex.join(parts)


def _request(arguments: argparse.Namespace) -> Request:
    fault_column, _, fault_values = (arguments.sensor_fault_label or "").partition("=")
    return Request(
        data=arguments.data,
        label=arguments.label,
        features=None if arguments.features is None else names(arguments.features),
        described=read_features_file(arguments.features_file) if arguments.features_file else (),
        exclude=names(arguments.exclude or ""),
        units=dict(_pair("--unit", "NAME=UNIT", text) for text in arguments.unit),
        limits=dict(_limit(text) for text in arguments.limit),
        group=arguments.group,
        time=arguments.time,
        objective=arguments.objective,
        normal_class=arguments.normal_class,
        horizon=arguments.horizon,
        episodes=arguments.episodes,
        sensor_fault_label=fault_column or None,
        sensor_fault_values=names(fault_values),
        false_alarms=arguments.false_alarms,
        running=parse_running(arguments.running) if arguments.running else (),
        every=arguments.every,
        history=parse_history(arguments.history),
        withholdable=names(arguments.withholdable or ""),
        rule=parse_rule(arguments.threshold) if arguments.threshold else None,
        seed=arguments.seed,
        threads=arguments.jobs or 0,
        max_trees=arguments.max_trees,
        dialect=dialect(arguments),
        zone=arguments.timezone or timezone.utc,
        split=arguments.split,
        categorical=names(arguments.categorical or ""),
        allow_missing=names(arguments.allow_missing or ""),
        label_default=arguments.label_default,
        max_depth=arguments.max_depth,
    )


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    # From the right: a name may hold "=", a unit does not.
    name, separator, value = text.rpartition("=")
    if not separator or not name:
        raise TrainingError(f"{option} {text!r} is not {form}")
    return name, value


def _limit(text: str) -> tuple[str, tuple[float, float]]:
    name, value = _pair("--limit", "NAME=MIN:MAX", text)
    low, _, high = value.partition(":")
    try:
        return name, (float(low), float(high))
    except ValueError as error:
        raise TrainingError(f"--limit {text!r} is not NAME=MIN:MAX") from error


def _name(directory: Path) -> str:
    """What a model is called that nobody named."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", directory.resolve().name).lstrip("._+-")[:128]
    return name or "model"


def _duration(text: str) -> float:
    """Seconds of `90`, `90s`, `5min`, `8h` or `7d`."""
    match = _DURATION.match(text.strip())
    seconds = float(match["number"]) * _SECONDS[match["unit"] or "s"] if match else 0.0
    if not 0.0 < seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 5min, 8h or 7d, got {text!r}")
    return seconds


def _allowance(text: str) -> float | None:
    if text == "none":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number <= 1e6:  # noqa: PLR2004 - more than one a second
        raise argparse.ArgumentTypeError(f"expected a number above 0 or none, got {text!r}")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number
