"""The order of a training, and what each part of the data may decide.

    read -> split -> look for leaks -> fit and validate -> threshold, alarm levels -> held-out figures, once -> write

Development rows decide everything, held-out rows nothing: they are scored after the last decision was taken, by the booster
as it will be written, one thread and one code path with the device.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_inference.model.bundle import parse_booster
from ml_inference.model.manifest import Feature, Manifest
from ml_inference.model.over_time import Consistency
from ml_inference.model.scorer import Scorer
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.alarms import Alarms, replay
from ml_inference.workbench.training.consistency import consistency_of
from ml_inference.workbench.training.contribution import Contribution, contributed
from ml_inference.workbench.training.data import Data, load_data
from ml_inference.workbench.training.episodes import EQUIPMENT, SENSOR, within
from ml_inference.workbench.training.fit import MANY_ROWS, Fit, fit, fit_steps
from ml_inference.workbench.training.history import choose_sequences
from ml_inference.workbench.training.inputs import AUTO, NO_HISTORY, Inputs, prepare
from ml_inference.workbench.training.judging import Judging, judge
from ml_inference.workbench.training.leakage import Leak, find_leaks
from ml_inference.workbench.training.metrics import Confusion, Figures, abnormal_score, confusion, figures
from ml_inference.workbench.training.operation import Operation, operate
from ml_inference.workbench.training.request import Request
from ml_inference.workbench.training.split import Order, Rows, Split, split_rows
from ml_inference.workbench.training.target import Target, Task
from ml_inference.workbench.training.threshold import Rule, choose_threshold
from ml_inference.workbench.training.usual import usual_values
from ml_inference.workbench.writer import MachineReadings, with_histograms, write_model


class Progress:
    """What a training tells whoever watches; this one says nothing."""

    def stage(self, text: str, steps: int = 1) -> None:
        """A stage of so many steps begins."""

    def step(self) -> None:
        """A step is done."""

    def say(self, text: str) -> None:
        """Something the user should know now."""


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training: everything that the manifest and the report say.

    Attributes:
        request: What was asked for.
        data: The complete rows.
        operation: What time says of them; its target is the one that was learnt.
        inputs: The booster's columns.
        contribution: What history is worth; None without history, or where it was not to be found out.
        split: Their parts.
        leaks: Columns that repeat the label.
        fit: The booster and how it was found.
        rule: How the threshold was chosen; None for a regression without one.
        threshold: The threshold; None likewise.
        scores: The held-out rows' scores, shape (m,) or (m, classes).
        figures: On held-out rows.
        confusion: On held-out rows; None for a regression.
        alarms: What the threshold means by machine and day, where times are known and there are no alarm levels.
        judging: The alarm's smoothing and levels with what they come to; None without machines and times, or not asked for.
    """

    request: Request
    data: Data
    operation: Operation
    inputs: Inputs
    split: Split
    leaks: Sequence[Leak]
    fit: Fit
    rule: Rule | None
    threshold: float | None
    scores: npt.NDArray[np.float32]
    figures: Figures
    confusion: Confusion | None
    alarms: Sequence[Alarms]
    judging: Judging | None = None
    contribution: Contribution | None = None

    @property
    def target(self) -> Target:
        """All labels, as they were learnt."""
        return self.operation.target

    @property
    def held_out(self) -> Target:
        """The held-out labels."""
        return self.target.at(self.split.held_out)


def train(request: Request, progress: Progress) -> Training:
    """Train and evaluate.

    Raises:
        TrainingError: The data or the options do not allow it.
    """
    progress.stage(f"reading {request.title}")
    data = load_data(request, progress.say)
    operation = operate(request, data, progress.say)
    target, seed = operation.target, request.seed
    whole = split_rows(
        target,
        groups=data.groups,
        group_name=request.group or "",
        seconds=data.seconds,
        order=Order(request.split, data.values, data.files),
        seed=seed,
    )
    split = whole.only(operation.usable, _teaching(operation, request.every, len(data.values)))
    progress.step()
    _tell(target, split, progress)

    progress.stage("looking for columns that repeat the label")
    development = split.training
    leaks = find_leaks(data.choice.names, data.values[development].astype(np.float64), target.at(development), seed)
    progress.step()

    progress.stage("computing each machine's past" if request.history != NO_HISTORY else "preparing")
    inputs = prepare(request, data, operation, progress.say)
    progress.step()

    both = request.history == AUTO and bool(inputs.derived)
    progress.stage("training", fit_steps(split, request.max_depth) * (2 if both else 1))

    def fitted_on(columns: Inputs) -> Fit:
        threads = request.threads or _cores()
        return fit(
            columns,
            target,
            split,
            threads=threads,
            seed=seed,
            max_trees=request.max_trees,
            max_depth=request.max_depth,
            step=progress.step,
        )

    fitted, contribution = fitted_on(inputs), None
    if both:
        plain = replace(inputs, names=data.choice.names, values=data.values, derived=(), plan=None)
        without = fitted_on(plain)
        contribution = contributed(target, data, without, fitted)
        progress.say(str(contribution))
        if not contribution.pays:
            inputs, fitted = plain, without
    rule = request.rule or (None if target.task is Task.REGRESSION else Rule("f1"))
    threshold = _threshold(rule, target, fitted, seed)
    judging = None
    if request.false_alarms is not None and (request.group is not None or request.time is not None):
        judging = judge(operation, data, fitted, allowed=request.false_alarms, say=progress.say)

    progress.stage("scoring held-out rows")
    held_out = target.at(split.held_out)
    scorer = Scorer(parse_booster(fitted.booster), len(inputs.names))
    scores = _scores(scorer, inputs.values, split.held_out)
    measured = figures(held_out, scores, threshold, split.clusters, seed)
    counted: Confusion | None = None
    alarms: Sequence[Alarms] = ()
    if threshold is not None and target.task is not Task.REGRESSION:
        score = abnormal_score(held_out, scores)
        counted = confusion(held_out.abnormal, score, threshold)
        if judging is None:
            alarms = _alarms(data, split, held_out, score >= threshold)
    if judging is not None:
        judging = judging.held_out(operation, data, split.held_out, scores)
    progress.step()
    return Training(
        request=request,
        data=data,
        operation=operation,
        inputs=inputs,
        contribution=contribution,
        split=split,
        leaks=leaks,
        fit=fitted,
        rule=rule,
        threshold=threshold,
        scores=scores,
        figures=measured,
        confusion=counted,
        alarms=alarms,
        judging=judging,
    )


def write(training: Training, directory: Path, *, name: str, version: str, metrics: dict[str, object]) -> Manifest:
    """Write the model directory of a training.

    Args:
        training: What was trained.
        directory: Where to; see `write_model`.
        name: Of the model.
        version: Of the model.
        metrics: For the manifest; see `summary.metrics`.

    Raises:
        ModelError: It cannot be written.
    """
    data, target = training.data, training.target
    multi_class = target.task is Task.MULTI_CLASS
    return write_model(
        directory,
        booster=training.fit.booster,
        name=name,
        version=version,
        features=_described(training),
        rows=data.values[training.split.held_out],
        threshold=training.threshold,
        classes=target.classes if multi_class else None,
        normal_class=target.normal if multi_class else None,
        metrics=metrics,
        alarm=None if training.judging is None else training.judging.alarm(),
        horizon_seconds=training.request.horizon,
        running=training.request.running,
        derived=training.inputs.derived,
        consistency=_consistency(training),
        sequences=_sequences(training),
        source=f"trained on {training.request.title}"[:1024],
    )


def _described(training: Training) -> list[Feature]:
    """The features with their distribution, and whether the model can do without them."""
    data = training.data
    features = with_histograms(data.choice.features, data.values[training.split.development])
    able = set(training.inputs.withholdable)
    features = [feature.model_copy(update={"withholdable": feature.name in able}) for feature in features]
    table, rows = training.operation.table, training.split.whole
    if table is None or data.machines is None or data.seconds is None or training.judging is None:
        return features
    # Whole series, those of broken sensors and of machines at fault apart.
    fault = within(table, training.operation.episodes, SENSOR) | within(table, training.operation.episodes, EQUIPMENT)
    healthy = np.empty(len(data.values), dtype=bool)
    healthy[table.rows] = ~fault
    running = training.operation.running
    described = usual_values(
        features,
        _as_written(data.values[rows]),
        data.machines[rows],
        data.seconds[rows],
        healthy=healthy[rows],
        off=None if running is None else ~running[rows],
    )
    # A category is no measurement that could be stuck or drift.
    return [one if one.categories else new for one, new in zip(features, described, strict=True)]


def _consistency(training: Training) -> Consistency | None:
    """How the sensors of machines that are well change together."""
    data, table, rows = training.data, training.operation.table, training.split.whole
    if table is None or data.machines is None or data.seconds is None or training.judging is None:
        return None
    # A fault that nobody has noticed yet is to be none of a sensor's: it counts from its label on.
    episodes = [
        one if one.kind == SENSOR or one.label is None else replace(one, onset=one.label)
        for one in training.operation.episodes
    ]
    well = np.empty(len(data.values), dtype=bool)
    well[table.rows] = ~(within(table, episodes, SENSOR) | within(table, episodes, EQUIPMENT))
    running = training.operation.running
    return consistency_of(
        data.choice.features,
        _as_written(data.values[rows]),
        data.machines[rows],
        data.seconds[rows],
        well=well[rows],
        off=None if running is None else ~running[rows],
    )


def _as_written(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The numbers that a file and a message hold: 29.53, where float32 has 29.530001; seven digits are all that it carries."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore"):
        digits = np.where(exact == 0.0, 0.0, 6.0 - np.floor(np.log10(np.abs(exact))))
    scale = 10.0 ** np.clip(digits, -30.0, 30.0)
    rounded: npt.NDArray[np.float64] = np.rint(exact * scale) / scale
    return rounded


def _sequences(training: Training) -> list[MachineReadings]:
    data, rows = training.data, training.split.held_out
    if training.inputs.plan is None or data.machines is None or data.seconds is None:
        return []
    scores = training.scores
    if training.target.task is Task.MULTI_CLASS:
        scores = 1.0 - scores[:, training.target.normal or 0]
    return choose_sequences(
        data.values[rows],
        data.machines[rows],
        data.seconds[rows],
        scores,
        training.inputs.plan,
        names=data.machine_names,
    )


def _cores() -> int:
    """Cores that this process may use; where the system cannot say (macOS), those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _teaching(operation: Operation, every: float, rows: int) -> npt.NDArray[np.bool_]:
    """Which rows train: at most one of each machine in every so many seconds."""
    if not every:
        return np.ones(rows, dtype=bool)
    if operation.table is None:
        raise TrainingError("--every needs machines and times in seconds: --time COLUMN, and --group or 'equipment_id'")
    teaching = np.zeros(rows, dtype=bool)
    for _, part in operation.table.parts():
        slots = np.floor(operation.table.seconds[part] / every)
        first = np.append(True, np.diff(slots) > 0)
        teaching[operation.table.rows[part][first]] = True
    return teaching


def _scores(scorer: Scorer, values: npt.NDArray[np.float32], rows: Rows) -> npt.NDArray[np.float32]:
    """Scores of some rows, in parts: a copy of all of them would cost as much memory again."""
    parts = [rows[at : at + MANY_ROWS] for at in range(0, len(rows), MANY_ROWS)]
    return np.concatenate([np.array(scorer.score(values[part]), dtype=np.float32) for part in parts])


def _tell(target: Target, split: Split, progress: Progress) -> None:
    how = f"in {len(split.folds)} folds" if len(split.folds) > 1 else f"the later {len(split.validated)} validate"
    progress.say(
        f"held out: {len(split.held_out)} rows, {split.how}; training and validation: {len(split.development)} rows, {how}"
    )
    if target.task is Task.REGRESSION or target.normal is None:
        return
    abnormal = int(target.abnormal.sum())
    progress.say(
        f"{abnormal} of {len(target.values)} rows are abnormal ({abnormal / len(target.values):.1%}); "
        f"normal is {target.classes[target.normal]!r}"
    )


def _threshold(rule: Rule | None, target: Target, fitted: Fit, seed: int) -> float | None:
    if rule is None:
        return None
    if target.task is Task.REGRESSION:
        if rule.kind != "fixed":
            raise TrainingError("a regression has no classes to choose a threshold by; give a number, or none")
        return rule.value
    validated = target.at(fitted.validated)
    return choose_threshold(rule, validated.abnormal, abnormal_score(target, fitted.scores), seed)


def _alarms(data: Data, split: Split, held_out: Target, verdict: npt.NDArray[np.bool_]) -> Sequence[Alarms]:
    """Only where held-out rows are whole series, with times in seconds."""
    if data.seconds is None or not data.in_seconds:
        return ()
    rows = split.held_out
    machines = np.zeros(len(rows), dtype=np.int32) if data.machines is None else data.machines[rows]
    return replay(machines, data.seconds[rows], held_out.abnormal, verdict)
