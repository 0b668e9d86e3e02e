"""A small booster as one Python function, which scores a single reading in a tenth of the time of a call of XGBoost.

A sensor's reading finds the processor's caches full of other things, and XGBoost's way from Python to its trees and back is
long. The function holds the same trees as nested conditions. It never replaces XGBoost: batches, explanations and whatever it
does not agree with XGBoost about to a millionth stay with XGBoost. Nothing of a model's text gets into the code: only numbers do.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xgboost

from ml_inference.model.forest import Tree, read_forest

Function: TypeAlias = Callable[[Sequence[float]], float]
"""From a row of all columns, NaN where missing, to a score."""

MAX_SPLITS = 8_000
"""Compiling takes some 15 microseconds and 2 kB a split, and a larger model's trees are no longer in the caches, either."""
MAX_DEPTH = 16
"""Nested conditions; Python's compiler gives up at some hundred."""
MAX_BYTES = 4 * 1024 * 1024
"""Largest booster file that is looked at."""
TOLERANCE = 1e-6
"""For what another machine's exponential function does to the last digit; the sums are the same."""
PROBES = 200

_LOGISTIC = frozenset({"binary:logistic", "reg:logistic"})
_IDENTITY = frozenset(
    {
        "binary:logitraw",
        "reg:squarederror",
        "reg:linear",
        "reg:pseudohubererror",
        "reg:absoluteerror",
        "reg:squaredlogerror",
        "rank:pairwise",
        "rank:ndcg",
        "rank:map",
    }
)
_LARGEST_ODDS = 88.7
"""XGBoost's own limit, beyond which the exponential has no float32."""


def compile_booster(booster: xgboost.Booster, objective: str) -> Function | None:
    """Make a function of a booster that is known to be sound.

    Args:
        booster: Its parameters are set, and it may predict.
        objective: Of the manifest, and of the booster.

    Returns:
        None where XGBoost itself is the better choice: many or deep trees, categories, several outputs, another kind of booster,
        or scores that differ.
    """
    if objective not in _LOGISTIC | _IDENTITY:
        return None
    forest = read_forest(booster)
    splits = sum(len(tree.splits) for tree in forest)
    if splits > MAX_SPLITS or any(tree.categories for tree in forest):
        return None
    base_score = _base_score(booster)
    if base_score is None or (objective in _LOGISTIC and not 0.0 < base_score < 1.0):
        return None
    try:
        trees = ",\n".join(_expression(tree, 0, 0) for tree in forest)
    except RecursionError:
        return None
    logistic = objective in _LOGISTIC
    # In float32 step by step, as XGBoost does.
    base = -_float32(math.log(_float32(_float32(1.0 / base_score) - 1.0))) if logistic else base_score
    columns = booster.num_features()
    names = "".join(f"x{column}," for column in range(columns))
    text = f"def leaves(row):\n ({names}) = row\n return [{base!r},\n{trees}]"
    held: dict[str, Any] = {}
    exec(compile(text, "<booster>", "exec"), held)  # noqa: S102 - names and conditions are ours, the rest are numbers
    function = _function(held["leaves"], logistic=logistic)
    return function if _agrees(function, booster, _probes(forest, columns)) else None


def _base_score(booster: xgboost.Booster) -> float | None:
    """What the scores begin with; None for one of several outputs, or in a form that is not known."""
    held = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    try:
        parts = json.loads(held)
    except ValueError:
        return None
    if isinstance(parts, list) and len(parts) == 1:
        (parts,) = parts
    return _float32(parts) if isinstance(parts, (int, float)) else None


def _expression(tree: Tree, node: int, depth: int) -> str:
    """A node as an expression: NaN is never smaller and never larger, so the comparison decides where it goes."""
    value = repr(float(np.float32(tree.threshold[node])))
    if tree.left[node] < 0:
        return value
    if depth == MAX_DEPTH:
        raise RecursionError
    below = _expression(tree, int(tree.left[node]), depth + 1)
    above = _expression(tree, int(tree.right[node]), depth + 1)
    column = f"x{tree.feature[node]}"
    if tree.default_left[node]:
        return f"({above} if {column} >= {value} else {below})"
    return f"({below} if {column} < {value} else {above})"


def _function(leaves: Callable[[Sequence[float]], Sequence[float]], *, logistic: bool) -> Function:
    """The function of a score. It rounds where XGBoost does, so that a reading scores alike alone and in a batch."""
    accumulate = np.add.accumulate

    def margin(row: Sequence[float]) -> float:
        # One tree after the other: `sum` of numpy adds in pairs.
        return accumulate(array("f", leaves(array("f", row))))[-1].item()  # type: ignore[no-any-return]

    def probability(row: Sequence[float]) -> float:
        raised = _float32(math.exp(min(-margin(row), _LARGEST_ODDS)))
        return _float32(1.0 / _float32(1.0 + raised))

    return probability if logistic else margin


def _float32(value: float) -> float:
    return array("f", (value,))[0]


def _agrees(function: Function, booster: xgboost.Booster, probes: npt.NDArray[np.float32]) -> bool:
    """Whether it gives XGBoost's scores."""
    scores = booster.inplace_predict(probes)
    if scores.shape != (len(probes),):
        return False
    pairs = zip(map(function, probes.tolist()), scores.tolist(), strict=True)
    return all(abs(score - expected) <= TOLERANCE * max(1.0, abs(expected)) for score, expected in pairs)


def _probes(forest: Sequence[Tree], columns: int) -> npt.NDArray[np.float32]:
    """Rows around the thresholds: on them, right beside them, and without a value."""
    random = Random(0)  # noqa: S311 - no secret; numpy's own would cost 2 MiB for these few
    found: list[list[np.float32]] = [[] for _ in range(columns)]
    for tree in forest:
        for node in tree.splits:
            found[int(tree.feature[node])].append(np.float32(tree.threshold[node]))
    probes = np.full((PROBES, columns), np.nan, dtype=np.float32)
    for column, thresholds in enumerate(found):
        for row in range(PROBES if thresholds else 0):
            threshold = random.choice(thresholds)
            beside = random.random() < 0.5  # noqa: PLR2004 - half of them
            if random.random() < 0.9:  # noqa: PLR2004 - a tenth is missing
                probes[row, column] = np.nextafter(threshold, np.float32(-np.inf)) if beside else threshold
    return probes
