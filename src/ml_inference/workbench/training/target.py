"""What is to be predicted: turns the label column into numbers, and says which class is normal operation.

It never guesses silently: what it took for normal is part of the result and goes to the terminal and the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.table import FloatArray

Codes: TypeAlias = npt.NDArray[np.integer[Any]]

MIN_PER_CLASS = 5
"""Held-out data, validation and training need one each; below five, figures and threshold would be of single rows."""
MIN_ROWS = 30

_MAX_CLASSES = 50
_BOOLEANS = {"true": "1", "false": "0"}


class Task(Enum):
    """The kind of prediction; the value is XGBoost's objective."""

    BINARY = "binary:logistic"
    MULTI_CLASS = "multi:softprob"
    REGRESSION = "reg:squarederror"


@dataclass(frozen=True, slots=True)
class Target:
    """The label as numbers.

    Attributes:
        task: What kind.
        values: Shape (n,): 0 normal and 1 abnormal; or the index into `classes`; or the number itself.
        classes: Names of the classes: normal, abnormal for a binary label; empty for a regression.
        normal: Index of the class that stands for normal operation; None for a regression.
    """

    task: Task
    values: FloatArray
    classes: tuple[str, ...] = ()
    normal: int | None = None

    @property
    def abnormal(self) -> FloatArray:
        """Shape (n,): 1 where a row is not of the normal class."""
        return np.where(self.values == self.normal, 0.0, 1.0)

    def at(self, rows: np.typing.NDArray[np.intp]) -> Target:
        """The target of some rows."""
        return Target(self.task, self.values[rows], self.classes, self.normal)


def read_target(texts: Sequence[str], *, objective: str | None = None, normal_class: str | None = None) -> Target:
    """The same as `target_of` for a column of n texts, without missing values."""
    known = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    codes = np.array([known[text] for text in texts], dtype=np.intp)
    return target_of(list(known), codes, objective=objective, normal_class=normal_class)


def target_of(
    texts: Sequence[str], codes: Codes, *, objective: str | None = None, normal_class: str | None = None
) -> Target:
    """Turn a label column without missing values into a target.

    Two classes give a binary task, more a multi-class one. 0 (or false) of 0 and 1 is normal; otherwise the most frequent
    class is, unless `normal_class` says which.

    Args:
        texts: The different texts of the column; some may stand nowhere.
        codes: Shape (n,): the index of each row's text.
        objective: A value of `Task`; None to judge by the column.
        normal_class: The class that stands for normal operation, as the column writes it.

    Raises:
        TrainingError: The column does not fit: one class only, too few rows, text where a number is wanted, ...
    """
    if len(codes) < MIN_ROWS:
        raise TrainingError(f"{len(codes)} usable rows are too few; at least {MIN_ROWS} are needed")
    if objective == Task.REGRESSION.value:
        return _regression(texts, codes, normal_class)
    named = [canonical(text) for text in texts]
    counts = _counts(named, codes)
    if len(counts) == 1:
        raise TrainingError(
            f"the label is {next(iter(counts))!r} in all {len(codes)} usable rows; there is nothing to tell apart"
        )
    if len(counts) > _MAX_CLASSES:
        raise TrainingError(
            f"the label has {len(counts)} different values; for a number use --objective {Task.REGRESSION.value}"
        )
    task = Task(objective) if objective else Task.BINARY if len(counts) == 2 else Task.MULTI_CLASS  # noqa: PLR2004
    if task is Task.BINARY and len(counts) > 2:  # noqa: PLR2004 - two classes make it binary
        raise TrainingError(f"--objective {task.value} needs two classes; the label has {len(counts)}")
    rare = min(counts, key=lambda name: (counts[name], name))
    if counts[rare] < MIN_PER_CLASS:
        raise TrainingError(
            f"class {rare!r} has {counts[rare]} usable rows; each class needs {MIN_PER_CLASS}: "
            "leave its rows out, or join it with another class"
        )
    normal = _normal(counts, normal_class)
    if task is Task.BINARY:
        classes = (normal, *(name for name in counts if name != normal))
    else:
        classes = tuple(sorted(counts, key=natural))
    index = {name: float(position) for position, name in enumerate(classes)}
    values = np.array([index.get(name, np.nan) for name in named])
    return Target(task, values[codes], classes, classes.index(normal))


def canonical(text: str) -> str:
    """One name for what is one class: `1`, `1.0` and `true` are the same."""
    text = _BOOLEANS.get(text.lower(), text)
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else repr(number)


def _counts(names: Sequence[str], codes: Codes) -> Counter[str]:
    """How often each name stands in a column."""
    counts: Counter[str] = Counter()
    for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
        if count:
            counts[name] += count
    return counts


def _regression(texts: Sequence[str], codes: Codes, normal_class: str | None) -> Target:
    if normal_class is not None:
        raise TrainingError("--normal-class belongs to classes; a regression has none")
    try:
        values = np.array([texts[code] for code in np.unique(codes).tolist()], dtype=np.float64)
    except ValueError as error:
        raise TrainingError(f"a regression needs numbers in the label column: {error}") from error
    if not np.isfinite(values).all():
        raise TrainingError("the label column holds infinity")
    if np.all(values == values[0]):
        raise TrainingError(f"the label is {values[0]:g} in all rows; there is nothing to learn")
    return Target(Task.REGRESSION, values[np.unique(codes, return_inverse=True)[1]])


def _normal(counts: Counter[str], normal_class: str | None) -> str:
    if normal_class is not None:
        name = canonical(normal_class)
        if name not in counts:
            raise TrainingError(
                f"--normal-class {normal_class!r} is not among the label's values {sorted(counts)[:10]}"
            )
        return name
    if set(counts) == {"0", "1"}:
        return "0"
    return max(counts, key=lambda name: (counts[name], name))


def natural(name: str) -> tuple[int, float, str]:
    """Numbers by their value, before words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
