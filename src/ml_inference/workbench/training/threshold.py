"""The threshold by a stated rule, chosen on validation rows only.

The booster's probability stays as it is; a rule about missed failures and false alarms is a decision, and belongs to the
threshold. It must never see held-out rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.table import FloatArray

RESAMPLES = 100

_COST = re.compile(r"^(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)$")


@dataclass(frozen=True, slots=True)
class Rule:
    """How a threshold is chosen.

    Attributes:
        kind: `f1`, `recall`, `precision`, `cost` or `fixed`.
        value: The recall or precision to reach, the fixed threshold, or the cost of a missed abnormal reading.
        false_alarm: Cost of a false alarm, for `cost`.
    """

    kind: Literal["f1", "recall", "precision", "cost", "fixed"]
    value: float = 0.0
    false_alarm: float = 1.0

    def __str__(self) -> str:
        """In words."""
        return {
            "f1": "largest F1 score, mean of 100 resamples",
            "recall": f"recall of at least {self.value:g}",
            "precision": f"precision of at least {self.value:g}",
            "cost": f"least cost, a missed one at {self.value:g} and a false alarm at {self.false_alarm:g}, mean of 100 resamples",
            "fixed": f"set to {self.value:g} by hand",
        }[self.kind]


def parse_rule(text: str) -> Rule:
    """Read `f1`, `recall=0.9`, `precision=0.9`, `cost=FN:FP` or a number.

    Raises:
        TrainingError: It is none of these.
    """
    kind, _, value = text.strip().partition("=")
    if text.strip() == "f1":
        return Rule("f1")
    if kind == "cost" and (match := _COST.match(value)):
        missed, false_alarm = (float(part) for part in match.groups())
        if missed > 0 and false_alarm > 0:
            return Rule("cost", missed, false_alarm)
    try:
        number = float(value or kind)
    except ValueError:
        number = np.nan
    if kind in {"recall", "precision"} and value and 0.0 < number <= 1.0:
        return Rule("recall" if kind == "recall" else "precision", number)
    if not value and np.isfinite(number):
        return Rule("fixed", number)
    raise TrainingError(
        f"--threshold {text!r}: f1, recall=0.9, precision=0.9, cost=FN:FP (such as cost=20:1) or a number"
    )


def choose_threshold(rule: Rule, abnormal: FloatArray, scores: FloatArray, seed: int = 0) -> float:
    """The threshold that a rule asks for.

    A reading at or above it is abnormal. A recall or precision is kept on the validation rows themselves. The best F1 or cost
    of a sample is a peak among many of nearly the same height, so the mean of the best thresholds of a hundred resamples is
    taken: on fresh rows of three tables its F1 was 0.002 to 0.004 better than that of the sample's own peak.

    Args:
        rule: The rule.
        abnormal: Shape (n,), 1 for abnormal; validation rows.
        scores: Shape (n,), of boosters that were not trained on these rows.
        seed: Of the resamples.

    Raises:
        TrainingError: No threshold reaches the precision.
    """
    if rule.kind == "fixed":
        return rule.value
    order = np.argsort(-scores, kind="stable")
    ranked, truth = scores[order].astype(np.float64), abnormal[order]
    # Only between different scores can a threshold stand.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    below = np.append(ranked[last[:-1] + 1], max(0.0, ranked[-1] - 1e-3))
    if rule.kind in {"f1", "cost"}:
        random = np.random.default_rng(seed)
        best = []
        for _ in range(RESAMPLES):
            weights = np.bincount(random.integers(0, len(ranked), len(ranked)), minlength=len(ranked))
            position = _peak(rule, np.cumsum(weights * truth)[last], np.cumsum(weights)[last])
            best.append((ranked[last[position]] + below[position]) / 2)
        return float(f"{np.mean(best):.4g}")
    hits, raised = np.cumsum(truth)[last], last + 1.0
    if rule.kind == "recall":
        position = int(np.argmax(hits >= rule.value * hits[-1]))
    else:
        enough = np.flatnonzero(hits / raised >= rule.value)
        if len(enough) == 0:
            raise TrainingError(
                f"no threshold reaches a precision of {rule.value:g} on validation data; "
                f"the best is {float((hits / raised).max()):.3f}"
            )
        position = int(enough[-1])
    return _short(float(below[position]), float(ranked[last[position]]))


def _peak(rule: Rule, hits: FloatArray, raised: FloatArray) -> int:
    """Where F1 is largest or the cost least.

    Args:
        rule: Of kind `f1` or `cost`.
        hits: Abnormal rows at or above each threshold, from the highest threshold to the lowest.
        raised: All rows likewise.
    """
    total = hits[-1]
    if rule.kind == "f1":
        return int(np.argmax(2 * hits / (raised + total)))
    return int(np.argmin(rule.value * (total - hits) + rule.false_alarm * (raised - hits)))


def _short(below: float, at: float) -> float:
    """The shortest number well inside (below, at), so that no rounding of a score or of the threshold crosses it."""
    middle, margin = (below + at) / 2, (at - below) / 4
    for digits in range(2, 10):
        if abs((candidate := round(middle, digits)) - middle) <= margin:
            return candidate
    return middle
