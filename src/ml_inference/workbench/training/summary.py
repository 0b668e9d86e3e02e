"""What a training comes to, in words and figures: the warnings, and the figures that the manifest carries.

Terminal, manifest and report say the same because they all ask here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ml_inference.workbench.training.data import MACHINE_COLUMN
from ml_inference.workbench.training.judging import FEW_FALSE_ALARMS, Judging, expected_false_alarms
from ml_inference.workbench.training.levels import Outcome
from ml_inference.workbench.training.metrics import FEW_CLUSTERS, Confusion, abnormal_score
from ml_inference.workbench.training.run import Training
from ml_inference.workbench.training.split import Rows
from ml_inference.workbench.training.target import Task

TOO_GOOD = 0.9995
"""ROC AUC or R2 that real measurements hardly reach."""
FEW_ABNORMAL = 30
FEW_EPISODES = 20
FEW_FAILING_GROUPS = 4
FEW_EPISODES = 20

ALARM_FIGURES: Mapping[str, str] = {
    "false_alarms_per_week": "false alarms a machine-week",
    "noticed": "episodes noticed",
    "before_label": "noticed before the label",
    "lead_to_label": "median lead to the label",
    "lead_to_full": "median lead to the full fault",
    "alarms_per_episode": "median alarms an episode",
}
"""In the words of report and terminal."""


def warnings(training: Training) -> list[str]:
    """What the user should know before trusting the figures, the gravest first."""
    data, leaks, values = training.data, training.leaks, training.figures.values
    said = [f"{leak.feature!r} repeats the label: {leak.reason}." for leak in leaks]
    if leaks:
        names = ",".join(_quoted(name) for name in (*training.request.exclude, *(leak.feature for leak in leaks)))
        said.append(
            "A column that is only known after a failure makes figures that no device will see. Unless it is measured "
            f"before: --exclude {_shell(names)}"
        )
    best = values.get("roc_auc", values.get("macro_roc_auc", values.get("r2", 0.0)))
    if best >= TOO_GOOD and not leaks:
        said.append(
            f"The held-out figures are almost perfect ({best:.4f}): do several columns together repeat the label?"
        )
    if training.request.group is None and training.request.time is None and data.machines is not None:
        said.append(
            f"The table has a column {MACHINE_COLUMN!r}, but its rows were not split by it. Readings of one machine are "
            f"alike, so the figures may be too good for a new one: --group {MACHINE_COLUMN}"
        )
    if training.figures.clusters < FEW_CLUSTERS:
        said.append(
            f"Only {training.figures.clusters} values of {training.split.clustered_by} are held out: the intervals are wide."
        )
    failing = _failing_groups(training)
    if failing is not None and failing < FEW_FAILING_GROUPS:
        said.append(
            f"Abnormal rows of only {failing} of {training.split.clustered_by!r} train and validate: where these validate, hardly "
            "any are left to learn from, so the threshold is little more than a guess."
        )
    if training.judging is not None:
        said += _doubts(training.judging)
    if training.confusion is not None:
        abnormal = training.confusion.caught + training.confusion.missed
        if abnormal < FEW_ABNORMAL:
            said.append(f"Only {abnormal} abnormal rows are held out: the intervals are wide.")
        if (counted := _episodes(training)) is not None and counted[0] < FEW_EPISODES:
            episodes, noticed = counted
            low, high = wilson(noticed, episodes)
            said.append(
                f"Only {episodes} episodes of abnormal rows are held out, of which {noticed} are noticed: of the next ones "
                f"anything from {low:.0%} to {high:.0%} may be."
            )
    return said


def _doubts(judging: Judging) -> list[str]:
    said = []
    expected, weeks = expected_false_alarms(judging), judging.validated.weeks
    if expected < FEW_FALSE_ALARMS:
        said.append(
            f"{weeks:.3g} machine-weeks validate: {judging.allowed:g} false alarms a machine-week would be {expected:.1f} in them, "
            "so the alarm's levels are little more than a guess."
        )
    episodes = len(judging.validated.noticed)
    if episodes < FEW_EPISODES:
        said.append(f"The alarm's levels rest on {episodes} episodes: the intervals are wide.")
    return said


def _episodes(training: Training) -> tuple[int, int] | None:
    """Runs of abnormal rows among consecutive held-out ones, and how many of them are noticed; None for rows at random."""
    if training.split.clustered_by == "row" or training.judging is not None or training.threshold is None:
        return None
    target, rows = training.held_out, training.split.held_out
    abnormal = target.abnormal > 0
    verdict = abnormal_score(target, training.scores) >= training.threshold
    apart = np.append(True, (np.diff(rows) > 1) | (np.diff(training.split.clusters) != 0))
    begins = abnormal & (apart | ~np.append(False, abnormal[:-1]))
    number = np.cumsum(begins)
    return int(number[-1]) if len(number) else 0, len(np.unique(number[abnormal & verdict]))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), which holds for few trials, too.

    Args:
        successes: How many.
        trials: Of how many.
    """
    if not trials:
        return 0.0, 1.0
    z, share = 1.96, successes / trials
    middle = share + z * z / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return float(max(0.0, (middle - half) / scale)), float(min(1.0, (middle + half) / scale))


def poisson(count: int, exposure: float) -> tuple[float, float]:
    """The 95 % interval of a rate (Byar's approximation to the exact one; Breslow and Day, 1987).

    Args:
        count: Events.
        exposure: What they are counted in, such as machine-days; positive.
    """
    z, above = 1.96, count + 1
    low = count * (1 - 1 / (9 * count) - z / (3 * count**0.5)) ** 3 if count else 0.0
    return low / exposure, above * (1 - 1 / (9 * above) + z / (3 * above**0.5)) ** 3 / exposure


def noticed_by_fault(judging: Judging) -> list[tuple[str, int, int]]:
    """Held-out episodes by the fault that the file of episodes names: fault, noticed, all; nothing where it names none."""
    counted: dict[str, tuple[int, int]] = {}
    for one in judging.measured.noticed if judging.measured is not None else ():
        noticed, episodes = counted.get(one.episode.fault or "", (0, 0))
        counted[one.episode.fault or ""] = (noticed + (one.at is not None), episodes + 1)
    if set(counted) <= {""}:
        return []
    return sorted((fault or "not named", *counts) for fault, counts in counted.items())


def _failing_groups(training: Training) -> int | None:
    """How many groups with abnormal rows train and validate; None without groups or classes."""
    groups, rows = training.data.groups, training.split.development
    if groups is None or training.target.task is Task.REGRESSION:
        return None
    return len(np.unique(groups[rows][training.target.at(rows).abnormal > 0]))


def metrics(training: Training) -> dict[str, Any]:
    """What the manifest says about the figures: enough to judge them without the report."""
    split, fitted = training.split, training.fit
    result: dict[str, Any] = {
        "held_out": {**sizes(training, split.held_out), **_rounded(training.figures.values)},
        "interval_95": {name: _round_all(interval) for name, interval in training.figures.intervals.items()},
        "interval_over": f"{training.figures.clusters} of {split.clustered_by!r}",
        "development": {
            **sizes(training, split.development),
            "folds": len(split.folds),
            fitted.metric: round(fitted.loss, 6),
        },
        "split": split.how,
        "trees": fitted.trees,
        "settings": dict(fitted.settings),
        "seed": training.request.seed,
        "leakage": [asdict(leak) for leak in training.leaks],
    }
    if training.rule is not None:
        result["threshold_rule"] = str(training.rule)
    if training.confusion is not None:
        result["confusion"] = asdict(training.confusion)
    if training.judging is not None:
        result["alarm"] = _alarm_metrics(training.judging)
    if training.alarms:
        result["alarms"] = [
            {
                **asdict(alarm),
                "days": round(alarm.days, 3),
                "false_alarms_per_day": round(alarm.false_alarms_per_day, 4),
            }
            for alarm in training.alarms
        ]
    return result


def _alarm_metrics(judging: Judging) -> dict[str, Any]:
    """What the manifest's `alarm` section does not say: how the levels were chosen, and what others would give."""
    return {
        "allowed_false_alarms_per_machine_week": judging.allowed,
        "onsets": "known" if judging.onsets_known else "one horizon before the label",
        "validation": _outcome_metrics(judging.validated),
        "other_levels": [
            {"allowed_false_alarms_per_machine_week": allowed, **_outcome_metrics(other)}
            for allowed, other in judging.others
        ],
    }


def _outcome_metrics(outcome: Outcome) -> dict[str, Any]:
    return {
        **asdict(outcome.levels),
        "machines": len(outcome.machines),
        "machine_weeks": round(outcome.weeks, 3),
        "episodes": len(outcome.noticed),
        **_rounded(outcome.figures()),
    }


def alarm_figures(judging: Judging) -> list[tuple[str, str, str]]:
    """Held-out figures of the alarm for people: what, how much, and the interval."""
    measured = judging.measured or judging.validated
    values, intervals = measured.figures(), measured.intervals()

    def text(name: str, value: float) -> str:
        if not np.isfinite(value):
            return "unknown"
        if name in {"noticed", "before_label"}:
            return f"{value:.0%}"
        if name.startswith("lead"):
            return ("-" if value < 0 else "") + duration(abs(value))
        return f"{value:.2g}"

    return [
        (title, text(name, values[name]), " to ".join(text(name, end) for end in intervals[name]))
        for name, title in ALARM_FIGURES.items()
        if np.isfinite(values[name])
    ]


def sizes(training: Training, rows: Rows) -> dict[str, int]:
    """How many rows, abnormal ones and groups a part has."""
    part = {"rows": len(rows)}
    if training.target.task is not Task.REGRESSION:
        part["abnormal"] = int(training.target.at(rows).abnormal.sum())
    if training.data.groups is not None:
        part["groups"] = len(np.unique(training.data.groups[rows]))
    return part


def verdict(training: Training) -> list[str]:
    """What the model does, in sentences for someone who does not know what an AUC is; the first is the shortest."""
    said = _regression_verdict(training) if training.confusion is None else _class_verdict(training, training.confusion)
    if training.leaks:
        columns = "a column that repeats" if len(training.leaks) == 1 else f"{len(training.leaks)} columns that repeat"
        said.append(f"It leans on {columns} the label, so on a device it may do much worse.")
    return said


def _class_verdict(training: Training, counted: Confusion) -> list[str]:
    found = _share(counted.caught, counted.caught + counted.missed)
    right = _share(counted.caught, counted.caught + counted.false_alarms)
    said = [f"Finds {found} of the abnormal readings; of the readings it calls abnormal, {right} are."]
    if training.judging is not None:
        said.append(_alarm_verdict(training.judging))
    if training.alarms:
        first = training.alarms[0]
        said.append(
            f"Of {first.episodes} episodes of faults it notices {first.noticed}"
            + (f", half of them within {duration(first.delay)}" if first.delay is not None else "")
            + f", and it raises {first.false_alarms_per_day:.2g} false alarms per machine per day "
            f"(over {first.days:.0f} machine-days of normal operation, a reading every {duration(first.step)})."
        )
    return said


def _alarm_verdict(judging: Judging) -> str:
    measured = judging.measured or judging.validated
    values, count = measured.figures(), len(measured.noticed)
    noticed = sum(one.at is not None for one in measured.noticed)
    said = f"Its alarm opens in {_share(noticed, count)} episodes of faults"
    if noticed:
        said += f", in {values['before_label']:.0%} of them before their label"
        if np.isfinite(values["lead_to_full"]):
            said += f", half of the time at least {duration(max(0.0, values['lead_to_full']))} before the fault is full"
    return (
        f"{said}; {values['false_alarms_per_week']:.2g} alarms a machine-week are false (over {measured.weeks:.3g} "
        f"machine-weeks, a reading every {duration(measured.step)})."
    )


def _regression_verdict(training: Training) -> list[str]:
    values, spread = training.figures.values, float(np.std(training.held_out.values))
    off = f"Is off by {values['mae']:.3g} on average, where the label itself scatters by {spread:.3g}"
    return [f"{off}; it explains {values['r2']:.1%} of the label's variance."]


def duration(seconds: float) -> str:
    """Such as `10 min`."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%} ({part} of {whole})" if whole else "none (of none)"


def _quoted(name: str) -> str:
    """A name in a comma-separated list."""
    return '"' + name.replace('"', '""') + '"' if set(name) & {",", '"'} else name


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    return dict(zip(values, _round_all(list(values.values())), strict=True))


def _round_all(values: Sequence[float]) -> list[float | None]:
    # JSON has no NaN.
    return [round(value, 6) if np.isfinite(value) else None for value in values]
