"""Every objective that xgboost 3.2 writes into a booster, and what follows from it for a score.

The only place that knows what an output means: whether it is a probability, a class or a number, whether a threshold makes
sense, and which contributions are the reasons of a verdict. It calls no booster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.model.manifest import Manifest, ModelError

Score: TypeAlias = float | list[float]

_CLASS = "the most likely class, as its index"
_CLASSES = "the probability of each class"


@dataclass(frozen=True, slots=True)
class Objective:
    """What the scores of an objective are.

    Attributes:
        score: In words.
        margin: In words, what contributions add up to.
        threshold: Whether a threshold makes sense.
        even_odds: The score at which both verdicts are as likely; None where no score means that.
        classes: Whether the model tells classes apart.
        alarm: Whether the score is a probability, which can be smoothed over time and opens an alarm.
    """

    score: str
    margin: str
    threshold: bool = True
    even_odds: float | None = None
    classes: bool = False
    alarm: bool = False


def _value(score: str = "the predicted value", margin: str = "the value") -> Objective:
    return Objective(score, margin)


def _rank() -> Objective:
    return Objective("a rank, which compares only with those of the same query", "the rank")


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "binary:logistic": Objective("the probability of abnormal", "log-odds", even_odds=0.5, alarm=True),
        "reg:logistic": Objective("a share between 0 and 1", "log-odds"),
        "binary:logitraw": Objective("the log-odds of abnormal", "log-odds", even_odds=0.0),
        "binary:hinge": Objective("0 or 1, the verdict itself", "the margin", threshold=False, even_odds=0.5),
        "multi:softmax": Objective(_CLASS, "log-odds of the class", threshold=False, classes=True),
        "multi:softprob": Objective(_CLASSES, "log-odds of the class", even_odds=0.5, classes=True),
        "reg:squarederror": _value(),
        "reg:linear": _value(),
        "reg:squaredlogerror": _value(),
        "reg:pseudohubererror": _value(),
        "reg:absoluteerror": _value(),
        "reg:quantileerror": _value("the predicted quantile"),
        "reg:gamma": _value(margin="the value's logarithm"),
        "reg:tweedie": _value(margin="the value's logarithm"),
        "count:poisson": _value("the expected count", "the count's logarithm"),
        "survival:cox": _value("the hazard, relative to the average", "the hazard's logarithm"),
        "survival:aft": _value("the expected time to the event", "the time's logarithm"),
        "rank:pairwise": _rank(),
        "rank:ndcg": _rank(),
        "rank:map": _rank(),
    }
)


def objective_of(name: str) -> Objective:
    """What an objective's scores are.

    Raises:
        ModelError: xgboost 3.2 writes no such objective.
    """
    try:
        return OBJECTIVES[name]
    except KeyError:
        raise ModelError(
            f"objective: {name!r} is none that xgboost 3.2 writes, so what its scores mean is not known"
        ) from None


def is_abnormal(score: Score, threshold: float | None, manifest: Manifest) -> bool | None:
    """The verdict that a score means.

    Args:
        score: The booster's output.
        threshold: A score at or above it is abnormal; of class probabilities that of not being the normal class. Not looked at
            where the score is a verdict or a class itself.
        manifest: Of the model.

    Returns:
        None where the model defines no threshold.
    """
    normal = manifest.normal_class
    if isinstance(score, list):
        return None if normal is None or threshold is None else 1.0 - score[normal] >= threshold
    objective = OBJECTIVES.get(manifest.objective)
    if objective is not None and objective.classes:
        return None if normal is None else int(score) != normal
    if objective is not None and not objective.threshold:
        return score >= (objective.even_odds or 0.0)
    return None if threshold is None else score >= threshold


def reasons(contributions: npt.NDArray[np.float32], score: Score, manifest: Manifest) -> npt.NDArray[np.float32] | None:
    """What each column contributed to a verdict.

    Of several classes: to the most likely one that is not normal, against the normal one, so that a reason never argues for
    normal operation; without a normal class, to the most likely one.

    Args:
        contributions: Of one reading, shape (f,), or (outputs, f).
        score: The reading's.
        manifest: Of the model.

    Returns:
        Shape (f,); None for several outputs that are no classes, which have no common reason.
    """
    if contributions.ndim == 1:
        return contributions
    objective = OBJECTIVES.get(manifest.objective)
    if objective is None or not objective.classes:
        return None
    normal = manifest.normal_class
    chances = np.eye(len(contributions))[int(score)] if not isinstance(score, list) else np.array(score)
    if normal is None:
        likeliest: npt.NDArray[np.float32] = contributions[int(chances.argmax())]
        return likeliest
    chances[normal] = -1.0
    against_normal: npt.NDArray[np.float32] = contributions[int(chances.argmax())] - contributions[normal]
    return against_normal


def abnormality(score: Score, manifest: Manifest) -> float:
    """A score as one number that grows with what is not normal.

    Of classes the probability of not being normal, or 1 and 0; of several other outputs the first.
    """
    normal = manifest.normal_class
    if isinstance(score, list):
        objective = OBJECTIVES.get(manifest.objective)
        if objective is None or not objective.classes:
            return score[0]
        return 0.0 if normal is None else 1.0 - score[normal]
    if manifest.objective == "multi:softmax":
        return 0.0 if normal is None else float(int(score) != normal)
    return score
