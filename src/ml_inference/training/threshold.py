"""The threshold by a stated rule, chosen on validation rows only.

The booster's probability stays as it is; a rule about missed failures and false alarms is a decision, and belongs to the
threshold. It must never see held-out rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml_inference.training import TrainingError
from ml_inference.training.table import FloatArray

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
            "f1": "largest F1 score",
            "recall": f"recall of at least {self.value:g}",
            "precision": f"precision of at least {self.value:g}",
            "cost": f"least cost, a missed one at {self.value:g} and a false alarm at {self.false_alarm:g}",
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


def choose_threshold(rule: Rule, abnormal: FloatArray, scores: FloatArray) -> float:
    """The threshold that a rule asks for.

    A reading at or above it is abnormal. It lies between two scores that were seen, at the shortest number there.

    Args:
        rule: The rule.
        abnormal: Shape (n,), 1 for abnormal; validation rows.
        scores: Shape (n,), of a booster that was not trained on these rows.

    Raises:
        TrainingError: No threshold reaches the precision.
    """
    if rule.kind == "fixed":
        return rule.value
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    caught = np.cumsum(abnormal[order])
    alarms = np.arange(1, len(ranked) + 1)
    # Only between different scores can a threshold stand.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits, raised, total = caught[last], alarms[last], float(abnormal.sum())
    if rule.kind == "f1":
        best = int(np.argmax(2 * hits / (raised + total)))
    elif rule.kind == "recall":
        best = int(np.argmax(hits >= rule.value * total))
    elif rule.kind == "precision":
        enough = np.flatnonzero(hits / raised >= rule.value)
        if len(enough) == 0:
            raise TrainingError(
                f"no threshold reaches a precision of {rule.value:g} on validation data; "
                f"the best is {float((hits / raised).max()):.3f}"
            )
        best = int(enough[-1])
    else:
        best = int(np.argmin(rule.value * (total - hits) + rule.false_alarm * (raised - hits)))
    position = int(last[best])
    below = ranked[position + 1] if position + 1 < len(ranked) else max(0.0, ranked[position] - 1e-3)
    return _short(float(below), float(ranked[position]))


def _short(below: float, at: float) -> float:
    """The shortest number well inside (below, at), so that no rounding of a score or of the threshold crosses it."""
    middle, margin = (below + at) / 2, (at - below) / 4
    for digits in range(2, 10):
        if abs((candidate := round(middle, digits)) - middle) <= margin:
            return candidate
    return middle
