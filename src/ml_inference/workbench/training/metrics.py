"""Figures on held-out rows, each with an interval.

An interval is of 95 % by the percentile bootstrap (Efron, 1979) over clusters: rows of one machine or one stretch of time are drawn
together, since alike rows are no independent evidence. It never chooses anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.workbench.training.table import FloatArray
from ml_inference.workbench.training.target import Target, Task

DRAWS = 500
FEW_CLUSTERS = 10
"""Below it an interval over clusters is little more than a guess, and the report says so."""

_MANY_ROWS = 50_000
SMALLEST_CHANCE = 1e-7
"""Float32 probabilities of 0 and 1 are held this far from them in the log loss."""

Figure: TypeAlias = Callable[[FloatArray], float]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model does on held-out rows.

    Attributes:
        values: Figure by name; `roc_auc`, `pr_auc`, `brier`, ... or `mae`, `rmse`, `r2`.
        intervals: Low and high end of the 95 % interval of each.
        clusters: How many clusters the intervals were drawn over.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    clusters: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """Verdicts against labels on held-out rows: counts."""

    true_normal: int
    false_alarms: int
    missed: int
    caught: int


def abnormal_score(target: Target, scores: npt.NDArray[np.float32]) -> FloatArray:
    """What the threshold looks at, shape (n,): the probability of abnormal, or of not being normal; a regression's value.

    Args:
        target: Of the rows; only its task and its normal class are used.
        scores: The booster's output, shape (n,) or (n, classes).
    """
    if target.task is Task.MULTI_CLASS:
        # As the device computes it: one minus a float32 probability, in double precision.
        return 1.0 - scores[:, target.normal].astype(np.float64)
    return scores.astype(np.float64)


def confusion(abnormal: FloatArray, score: FloatArray, threshold: float) -> Confusion:
    """Count verdicts; a score at or above the threshold is abnormal."""
    verdict = score >= threshold
    truth = abnormal > 0
    return Confusion(
        true_normal=int((~verdict & ~truth).sum()),
        false_alarms=int((verdict & ~truth).sum()),
        missed=int((~verdict & truth).sum()),
        caught=int((verdict & truth).sum()),
    )


def figures(
    target: Target,
    scores: npt.NDArray[np.float32],
    threshold: float | None,
    clusters: npt.NDArray[np.intp],
    seed: int = 0,
) -> Figures:
    """All figures of a model on held-out rows.

    Args:
        target: n held-out labels.
        scores: The booster's output for them.
        threshold: The verdict's; None for a regression without one.
        clusters: Shape (n,), from 0.
        seed: Of the bootstrap.
    """
    if target.task is Task.REGRESSION:
        named = _regression(target.values, scores.astype(np.float64))
    elif target.task is Task.MULTI_CLASS:
        named = {
            **_multi_class(target, scores),
            **_verdicts(target.abnormal, abnormal_score(target, scores), threshold),
        }
    else:
        score = abnormal_score(target, scores)
        named = {**_binary(target.values, score), **_verdicts(target.values, score, threshold)}
    everything = np.ones(len(target.values))
    count = int(clusters.max()) + 1
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(DRAWS if len(everything) <= _MANY_ROWS else DRAWS // 5):
        weights = np.bincount(random.integers(0, count, count), minlength=count)[clusters].astype(np.float64)
        for name, figure in named.items():
            drawn[name].append(figure(weights))
    intervals = {}
    for name, values in drawn.items():
        # A draw without one of the classes has no such figure.
        known = np.array(values)[np.isfinite(values)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return Figures({name: figure(everything) for name, figure in named.items()}, intervals, count)


def ranking(truth: FloatArray, score: FloatArray) -> tuple[Figure, Figure]:
    """ROC AUC and average precision as functions of weights; the same as scikit-learn's, which would sort at every draw.

    Args:
        truth: Shape (n,), 0 or 1.
        score: Shape (n,).

    Returns:
        Two functions of weights of shape (n,), not negative.
    """
    order = np.argsort(-score, kind="stable")
    # Rows of equal score count at once.
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    positive = truth[order]

    def counts(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        ranked = weights[order]
        return np.cumsum(ranked * positive)[ends], np.cumsum(ranked * (1.0 - positive))[ends]

    def roc_auc(weights: FloatArray) -> float:
        hits, false = counts(weights)
        if hits[-1] == 0.0 or false[-1] == 0.0:
            return np.nan
        area = np.trapezoid(np.append(0.0, hits), np.append(0.0, false))
        return float(area / (hits[-1] * false[-1]))

    def pr_auc(weights: FloatArray) -> float:
        hits, false = counts(weights)
        if hits[-1] == 0.0:
            return np.nan
        precision = np.divide(hits, hits + false, out=np.ones_like(hits), where=hits + false > 0)
        return float(np.sum(np.diff(np.append(0.0, hits)) * precision) / hits[-1])

    return roc_auc, pr_auc


def _binary(truth: FloatArray, score: FloatArray) -> dict[str, Figure]:
    roc_auc, pr_auc = ranking(truth, score)
    return {
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "brier": _mean((score - truth) ** 2),
        "log_loss": _mean(-np.log(_inside(np.where(truth > 0, score, 1.0 - score)))),
    }


def _multi_class(target: Target, scores: npt.NDArray[np.float32]) -> dict[str, Figure]:
    """Macro figures: each class that is there counts the same, however rare."""
    chances = scores.astype(np.float64)
    labels = target.values.astype(int)
    present = [index for index in range(len(target.classes)) if (labels == index).any()]
    rankings = [ranking((labels == index).astype(np.float64), chances[:, index]) for index in present]
    predicted = chances.argmax(axis=1)
    one_hot = np.eye(len(target.classes))[labels]

    def f1(weights: FloatArray) -> float:
        each = []
        for index in present:
            truth, said = labels == index, predicted == index
            total = weights[truth].sum() + weights[said].sum()
            each.append(2 * weights[truth & said].sum() / total if total else np.nan)
        return _mean_of_known(each)

    return {
        "macro_roc_auc": lambda weights: _mean_of_known([roc(weights) for roc, _ in rankings]),
        "macro_pr_auc": lambda weights: _mean_of_known([pr(weights) for _, pr in rankings]),
        "macro_f1": f1,
        "accuracy": _mean((predicted == labels).astype(np.float64)),
        "brier": _mean(((chances - one_hot) ** 2).sum(axis=1)),
        "log_loss": _mean(-np.log(_inside(chances[np.arange(len(labels)), labels]))),
    }


def _verdicts(truth: FloatArray, score: FloatArray, threshold: float | None) -> dict[str, Figure]:
    if threshold is None:
        return {}
    said = (score >= threshold).astype(np.float64)

    def precision(weights: FloatArray) -> float:
        raised = (weights * said).sum()
        return float((weights * said * truth).sum() / raised) if raised else np.nan

    def recall(weights: FloatArray) -> float:
        total = (weights * truth).sum()
        return float((weights * said * truth).sum() / total) if total else np.nan

    def f1(weights: FloatArray) -> float:
        total = (weights * said).sum() + (weights * truth).sum()
        return float(2 * (weights * said * truth).sum() / total) if total else np.nan

    return {"precision": precision, "recall": recall, "f1": f1}


def _regression(truth: FloatArray, predicted: FloatArray) -> dict[str, Figure]:
    squares = (predicted - truth) ** 2

    def r2(weights: FloatArray) -> float:
        center = np.average(truth, weights=weights)
        spread = (weights * (truth - center) ** 2).sum()
        return float(1.0 - (weights * squares).sum() / spread) if spread else np.nan

    def rmse(weights: FloatArray) -> float:
        return float(np.sqrt(np.average(squares, weights=weights)))

    return {"mae": _mean(np.abs(predicted - truth)), "rmse": rmse, "r2": r2}


def _mean(values: FloatArray) -> Figure:
    return lambda weights: float(np.average(values, weights=weights))


def _mean_of_known(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def _inside(chance: FloatArray) -> FloatArray:
    return np.clip(chance, SMALLEST_CHANCE, 1.0)
