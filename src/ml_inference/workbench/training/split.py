"""Which rows are held out, and which validate: by group, by time, or stratified.

Held-out rows decide nothing: not the settings, not the number of trees, not the threshold. Readings of one machine, or of
neighbouring moments, are alike, so a split by rows alone would measure memory where the user wants to know about new
machines or about tomorrow.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.table import FloatArray
from ml_inference.workbench.training.target import Target, Task

Rows: TypeAlias = npt.NDArray[np.intp]

HELD_OUT = 0.2
VALIDATION = 0.25
"""Of what is not held out, where time leaves only one way to validate."""

AUTO, BY_ROWS, BY_BLOCKS = "auto", "rows", "blocks"
SPLITS = (AUTO, BY_ROWS, BY_BLOCKS)

_BLOCKS = 50
_MIN_BLOCK = 10
_MIN_FILES = 5
_MIN_ORDERED = 30
_ALIKE = 0.3
_STANDARD_ERRORS = 4.0
_FOLDS = 5
_MIN_GROUPS = 3
_MANY_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Fold:
    """One way to train on some of the rows and validate on others; positions in the whole table."""

    training: Rows
    validation: Rows


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a table.

    Attributes:
        how: In words.
        development: Rows that train and validate, ascending.
        held_out: Rows that only the final figures see, ascending.
        folds: Ways to validate within `development`; every fold's validation is of other rows.
        clusters: Shape (held-out rows,): rows of one cluster are alike (a machine, a stretch of time) and are drawn together
            for intervals.
        clustered_by: In words, what a cluster is.
        training: Rows of `development` that the final booster learns from, ascending.
        whole: Development rows before any were left out, ascending: whole series.
    """

    how: str
    development: Rows
    held_out: Rows
    folds: tuple[Fold, ...]
    clusters: npt.NDArray[np.intp]
    clustered_by: str
    training: Rows
    whole: Rows

    def only(self, usable: npt.NDArray[np.bool_], teaching: npt.NDArray[np.bool_]) -> Split:
        """The same split of fewer rows.

        Args:
            usable: Shape (n,): rows to keep.
            teaching: Shape (n,): of these, the rows that train; all of them validate and are held out.
        """
        kept = usable[self.held_out]
        taught = usable & teaching
        return Split(
            how=self.how,
            development=self.development[usable[self.development]],
            held_out=self.held_out[kept],
            folds=tuple(
                Fold(fold.training[taught[fold.training]], fold.validation[usable[fold.validation]])
                for fold in self.folds
            ),
            clusters=self.clusters[kept],
            clustered_by=self.clustered_by,
            training=self.training[taught[self.training]],
            whole=self.whole,
        )

    @property
    def validated(self) -> Rows:
        """Development rows that some fold validates, ascending."""
        return np.sort(np.concatenate([fold.validation for fold in self.folds]))


def split_rows(
    target: Target,
    *,
    groups: npt.NDArray[Any] | None = None,
    group_name: str = "group",
    seconds: FloatArray | None = None,
    order: Order | None = None,
    seed: int = 0,
) -> Split:
    """Split by group where there are groups, else by time where there are times, else as the order of the rows allows.

    Rows that resemble their neighbours are held out in blocks (or by file, where there are several): drawn one by one, each
    held-out row would have a near copy of itself among those that train. Others are drawn at random, stratified.

    A fifth is held out. The rest is validated in five folds (three beyond 50,000 rows); by time there is one fold, the later
    quarter, since the past must not be judged by a model of its future.

    Args:
        target: n values.
        groups: n names; no group is in two parts.
        group_name: What a group is, for messages.
        seconds: n moments; rows of one moment stay together.
        order: What the order of the rows says; None for rows at random.
        seed: Of the shuffling.

    Raises:
        TrainingError: The parts would lack a class, or there are too few groups.
    """
    if groups is not None:
        return _by_group(target, np.unique(groups, return_inverse=True)[1], group_name, seed)
    if seconds is not None:
        return _by_time(target, seconds)
    if order is None or order.how == BY_ROWS:
        return _by_row(target, seed)
    return _by_order(target, order, seed)


@dataclass(frozen=True, slots=True)
class Order:
    """What the order of a table's rows says.

    Attributes:
        how: One of `SPLITS`.
        values: Shape (n, f): the features.
        files: Shape (n,): the file of each row.
    """

    how: str
    values: npt.NDArray[np.float32]
    files: npt.NDArray[np.int32]


def neighbours_alike(values: npt.NDArray[np.float32]) -> bool:
    """Whether rows resemble their neighbours far more than chance, in any feature.

    By von Neumann's ratio (1941): the mean squared difference of neighbours, over twice the variance, is 1 for rows in any
    random order, with a standard error of about one over the root of their number.

    Args:
        values: Shape (n, f); NaN is left out.
    """
    for column in values.T:
        known = column[np.isfinite(column)].astype(np.float64)
        variance = float(known.var()) if len(known) > _MIN_ORDERED else 0.0
        if variance and float(np.mean(np.diff(known) ** 2)) / (2 * variance) < 1.0 - max(
            _ALIKE, _STANDARD_ERRORS / np.sqrt(len(known))
        ):
            return True
    return False


def _by_order(target: Target, order: Order, seed: int) -> Split:
    files = np.unique(order.files, return_inverse=True)[1]
    by_file = int(files.max()) + 1 >= _MIN_FILES
    alike = neighbours_alike(order.values)
    if order.how == AUTO and not alike and not by_file:
        return _by_row(target, seed)
    try:
        if by_file and order.how == AUTO:
            return _by_group(target, files, "file", seed)
        split = _by_group(target, _blocks(files), "block of rows", seed)
    except TrainingError as error:
        if order.how != AUTO:
            raise
        return replace(_by_row(target, seed), how=f"by rows at random, though neighbouring rows are alike: {error}")
    reason = "" if order.how != AUTO else ", since neighbouring rows are alike; --split rows draws them one by one"
    return replace(split, how=split.how + reason)


def _blocks(files: Rows) -> Rows:
    """Consecutive rows of one file in blocks of about equal size."""
    size = max(_MIN_BLOCK, len(files) // _BLOCKS)
    starts = np.append(0, np.flatnonzero(np.diff(files)) + 1)
    within = np.arange(len(files)) - np.repeat(starts, np.diff(np.append(starts, len(files))))
    changed = np.append(True, (np.diff(files) != 0) | (within[1:] % size == 0))
    return np.cumsum(changed) - 1


def _by_row(target: Target, seed: int) -> Split:
    everything = np.arange(len(target.values))
    development, held_out = _first_fold(target, everything, _fold_count(target, len(everything), at_most=_FOLDS), seed)
    inner = target.at(development)
    folds = _folds(inner, development, None, _fold_count(inner, len(development)), seed)
    how = "by rows at random" + ("" if target.task is Task.REGRESSION else ", each class in proportion")
    return Split(how, development, held_out, folds, np.arange(len(held_out)), "row", development, development)


def _by_group(target: Target, groups: Rows, name: str, seed: int) -> Split:
    count = int(groups.max()) + 1
    if count < _MIN_GROUPS:
        raise TrainingError(f"{count} groups in {name!r}; at least {_MIN_GROUPS} are needed to hold one out")
    everything = np.arange(len(groups))
    parts = _folds(target, everything, groups, min(_FOLDS, count), seed)
    # Groups differ in size and in how often they fail: of the five ways take the one most like the whole.
    best = min(parts, key=lambda part: _unlike(target, part.validation))
    development, held_out = best.training, best.validation
    _require_classes(target, held_out, f"the held-out groups of {name!r}")
    _require_classes(target, development, f"the groups of {name!r} that are not held out")
    inner_groups = np.unique(groups[development], return_inverse=True)[1]
    inner = target.at(development)
    folds = _folds(
        inner, development, inner_groups, min(_fold_count(inner, len(development)), int(inner_groups.max()) + 1), seed
    )
    held = np.unique(groups[held_out], return_inverse=True)[1]
    how = f"by {name}: {int(held.max()) + 1} of {count} held out whole"
    return Split(how, development, held_out, folds, held, name, development, development)


def _by_time(target: Target, seconds: FloatArray) -> Split:
    order = np.argsort(seconds, kind="stable")
    cut = _cut(seconds[order], 1.0 - HELD_OUT)
    early, late = order[:cut], order[cut:]
    _require_classes(target, late, "the latest fifth of the rows, which is held out,")
    inner = _cut(seconds[early], 1.0 - VALIDATION)
    fold = Fold(np.sort(early[:inner]), np.sort(early[inner:]))
    _require_classes(target, fold.training, "the earliest rows, which train,")
    _require_classes(target, fold.validation, "the rows before the held-out ones, which validate,")
    # Neighbouring moments are alike: fifty stretches, drawn whole.
    clusters = np.argsort(np.argsort(seconds[np.sort(late)], kind="stable"), kind="stable") * 50 // len(late)
    early = np.sort(early)
    how = "by time: the latest fifth held out"
    return Split(how, early, np.sort(late), (fold,), clusters, "stretch of time", early, early)


def _cut(ascending: FloatArray, share: float) -> int:
    """Where to cut so that rows of one moment stay together."""
    cut = int(np.searchsorted(ascending, ascending[int(len(ascending) * share)], side="left"))
    if cut == 0:
        cut = int(np.searchsorted(ascending, ascending[0], side="right"))
    if cut == len(ascending):
        raise TrainingError("all rows are of one moment; the time column cannot split them")
    return cut


def _fold_count(target: Target, rows: int, at_most: int | None = None) -> int:
    """No more folds than the rarest class has rows."""
    if at_most is None:
        at_most = _FOLDS if rows <= _MANY_ROWS else 3
    if target.task is Task.REGRESSION:
        return at_most
    return max(2, min(at_most, int(np.unique(target.values, return_counts=True)[1].min())))


def _first_fold(target: Target, rows: Rows, folds: int, seed: int) -> tuple[Rows, Rows]:
    fold = _folds(target, rows, None, folds, seed)[0]
    return fold.training, fold.validation


def _folds(target: Target, rows: Rows, groups: Rows | None, count: int, seed: int) -> tuple[Fold, ...]:
    """Folds of `rows`, which `target` and `groups` describe position by position."""
    regression = target.task is Task.REGRESSION
    splitter: Any
    if groups is None:
        splitter = (KFold if regression else StratifiedKFold)(count, shuffle=True, random_state=seed)
    else:
        splitter = (GroupKFold if regression else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # That a rare class has fewer groups than there are folds: `_require_classes` judges what matters.
        warnings.simplefilter("ignore", UserWarning)
        return tuple(
            Fold(rows[training], rows[validation])
            for training, validation in splitter.split(np.zeros(len(rows)), target.values, groups)
        )


def _unlike(target: Target, part: Rows) -> float:
    """How far a part is from a fifth of the rows with the same share of each class; infinite without a class."""
    size = abs(len(part) / len(target.values) - HELD_OUT) / HELD_OUT
    if target.task is Task.REGRESSION:
        return size
    whole = np.bincount(target.values.astype(int), minlength=len(target.classes)) / len(target.values)
    counts = np.bincount(target.values[part].astype(int), minlength=len(target.classes))
    missing = (counts == 0).sum()
    share = counts / max(len(part), 1)
    return float(size + np.abs(share / whole - 1.0).max() + 1e6 * missing)


def _require_classes(target: Target, part: Rows, what: str) -> None:
    if target.task is Task.REGRESSION:
        return
    held = set(np.unique(target.values[part]).astype(int).tolist())
    lacking = [name for index, name in enumerate(target.classes) if index not in held]
    # A rare class of many may be away from one part; normal operation, or all that is not normal, may not.
    normal_only = held == {target.normal}
    if lacking and (target.task is Task.BINARY or target.normal not in held or normal_only):
        raise TrainingError(f"{what} hold no row of class {lacking[0]!r}; more data, or another split, is needed")
