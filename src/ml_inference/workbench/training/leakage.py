"""Finds columns that repeat the label: what is only known once the failure is, and will not be there when the model is used.

It warns and never removes: only the user knows whether a column is a cause or a consequence. Two kinds are looked for: a
column that separates the classes almost alone, and one that is rarely set but then almost always means the same class (the
failure-mode flags beside a "machine failed" label).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ml_inference.workbench.training.table import FloatArray
from ml_inference.workbench.training.target import Target, Task

ALONE_AUC = 0.995
EXACT_AUC = 0.9999
"""The same for a continuous column, of which a good sensor comes close to `ALONE_AUC`."""
ALONE_R2 = 0.99
PURE = 0.98
"""Share of one class among the rows where a flag is set."""
MIN_RECALL = 0.01
"""Share of the class that a flag covers; below it, removing the flag changes nothing."""

_MIN_PURE_ROWS = 5
_MIN_KNOWN = 30
_BY_CHANCE = 1e-6
_FEW_VALUES = 20
_FEW_CODES = 3
_MIN_EXACT_ROWS = 30
_DOMINANT = 0.5
_LEAVES = 8
_REGRESSION_LEAVES = 128
_SAMPLE = 50_000


@dataclass(frozen=True, slots=True)
class Leak:
    """A column that repeats the label.

    Attributes:
        feature: The column.
        reason: In words, with the figure.
    """

    feature: str
    reason: str


def find_leaks(names: Sequence[str], values: FloatArray, target: Target, seed: int = 0) -> list[Leak]:
    """Look at each feature alone.

    Args:
        names: f features.
        values: Shape (n, f), NaN where a value is missing; development rows.
        target: Of the same rows.
        seed: Of the sample beyond 50,000 rows, and of the folds.

    Returns:
        At most one finding a feature, in the features' order.
    """
    if len(values) > _SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(len(values), _SAMPLE, replace=False))
        values, target = values[rows], target.at(rows)
    leaks = []
    for column, name in enumerate(names):
        known = np.flatnonzero(np.isfinite(values[:, column]))
        whole, labels = (
            (values[:, column], target) if len(known) == len(values) else (values[known, column], target.at(known))
        )
        if len(known) < _MIN_KNOWN or len(np.unique(labels.values)) < 2:  # noqa: PLR2004 - nothing to tell apart
            continue
        reason = _alone(whole, labels, seed) or next(_flags(whole, labels), None)
        if reason:
            leaks.append(Leak(name, reason))
    return leaks


def _alone(values: FloatArray, target: Target, seed: int) -> str | None:
    """Whether a small tree on this feature alone predicts rows that it has not seen.

    A tree and not the plain rank, because a code (0 good, 1 and 3 failed, 2 good) or a band in the middle separates as well.
    """
    one = values.reshape(-1, 1)
    if target.task is Task.REGRESSION:
        steps = DecisionTreeRegressor(max_leaf_nodes=_REGRESSION_LEAVES, random_state=seed)
        predicted = cross_val_predict(steps, one, target.values, cv=KFold(3, shuffle=True, random_state=seed))
        explained = max(float(r2_score(target.values, predicted)), _linear(values, target.values))
        return f"alone explains {explained:.1%} of the label's variance" if explained >= ALONE_R2 else None
    counts = np.unique(target.values, return_counts=True)[1]
    folds = StratifiedKFold(max(2, min(3, int(counts.min()))), shuffle=True, random_state=seed)
    tree = DecisionTreeClassifier(max_leaf_nodes=max(_LEAVES, 2 * len(target.classes)), random_state=seed)
    with warnings.catch_warnings():
        # That a class of one row cannot be in two folds: it is then judged by a tree that does not know it.
        warnings.simplefilter("ignore")
        chances = cross_val_predict(tree, one, target.values, cv=folds, method="predict_proba")
    least = ALONE_AUC
    if _is_continuous(values):
        # A good sensor may come close; a copy of the label is exact, and many rows say so.
        if counts.min() < _MIN_EXACT_ROWS:
            return None
        least = EXACT_AUC
    if target.task is Task.BINARY:
        auc = float(roc_auc_score(target.values, chances[:, 1]))
    else:
        present = np.unique(target.values)
        auc = float(np.mean([roc_auc_score(target.values == c, chances[:, i]) for i, c in enumerate(present)]))
    return f"alone separates the classes (ROC AUC {auc:.4f})" if auc >= least else None


def _is_continuous(values: FloatArray) -> bool:
    """Whether a column is a measurement rather than a code, a flag, or a number that is mostly one."""
    distinct, counts = np.unique(values, return_counts=True)
    fractions = bool(np.any(distinct != np.floor(distinct))) and len(distinct) > _FEW_CODES
    return (len(distinct) > _FEW_VALUES or fractions) and counts.max() < _DOMINANT * len(values)


def _linear(values: FloatArray, label: FloatArray) -> float:
    """The squared correlation: a copy in another unit, which a tree of steps explains less well."""
    if values.std() == 0.0:
        return 0.0
    return float(np.corrcoef(values, label)[0, 1] ** 2)


def _flags(values: FloatArray, target: Target) -> Iterator[str]:
    """Values of a column that almost always mean one class, and not the most frequent one."""
    if target.task is Task.REGRESSION:
        return
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW_VALUES and not _is_continuous(values):
        for value in distinct:
            yield from _pure(values == value, f"is {value:g}", target)
    # A duration or a code that is only written after a failure: one value nearly always, any other means a failure.
    usual = distinct[counts.argmax()]
    if counts.max() >= _DOMINANT * len(values):
        yield from _pure(values != usual, f"is not {usual:g}", target)


def _pure(chosen: npt.NDArray[np.bool_], what: str, target: Target) -> Iterator[str]:
    rows = int(chosen.sum())
    if rows < _MIN_PURE_ROWS:
        return
    whole = np.bincount(target.values.astype(int), minlength=len(target.classes))
    inside = np.bincount(target.values[chosen].astype(int), minlength=len(target.classes))
    index = int(inside.argmax())
    share = whole[index] / len(target.values)
    pure, recall = inside[index] / rows, inside[index] / whole[index]
    if index == int(whole.argmax()) or pure < PURE or recall < MIN_RECALL or share**rows > _BY_CHANCE:
        return
    kind = "abnormal" if target.task is Task.BINARY and index == 1 else f"of class {target.classes[index]!r}"
    yield f"of the {rows} rows where it {what}, {pure:.1%} are {kind}; they are {recall:.1%} of all that are"
