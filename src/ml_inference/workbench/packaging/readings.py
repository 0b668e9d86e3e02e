"""Readings that tell a model's features apart, made up from its own trees where there is no data.

A booster without feature names is guarded against two swapped features by its golden readings alone, so these must be
such that every swap changes a score. It never decides what is golden; that is the writer's. The same booster always
gets the same readings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml_inference.model.forest import Floats, Tree, split_points, used_features
from ml_inference.model.manifest import Feature, Manifest, scores_agree
from ml_inference.model.scorer import FloatArray, Scorer

MAX_READINGS = 128
"""As many as the writer looks at one by one."""

_POOL = 1_024
_SPLITS_PER_FEATURE = 8
_MAX_PATHS = 4_096
_MAX_PAIRS = 4_000
_VISIBLE = 1e-4
"""Ten times the tolerance of the golden check, relative to scores beyond 1."""


def golden_candidates(
    forest: Sequence[Tree], scorer: Scorer, features: Sequence[Feature], rows: FloatArray | None = None
) -> FloatArray:
    """Readings from which golden ones are chosen.

    Args:
        forest: The booster's trees.
        scorer: The booster.
        features: f features in column order; made-up values stay within their limits.
        rows: Shape (n, f), readings from real data, which are preferred; None where there are none.

    Returns:
        Shape (m, f), m at most `MAX_READINGS`.
    """
    invented = _synthesise(forest, features)
    real = np.empty((0, len(features)), dtype=np.float32) if rows is None else rows[_evenly(len(rows), _POOL)]
    pool = np.concatenate((real, invented)).astype(np.float32)
    scores = _scores(scorer, pool)
    # Half of the places for the range of scores, the other half for what tells features apart.
    ranked = np.argsort(scores[: len(real) or None, 0], kind="stable")
    chosen = ranked[_evenly(len(ranked), MAX_READINGS // 2)].tolist()
    for left, right in _pairs(forest, len(features)):
        if len(chosen) == MAX_READINGS:
            break
        if _change(scorer, pool[chosen], scores[chosen], left, right).max() > _VISIBLE:
            continue
        # Real readings first: somebody may want to recognise them.
        for part in (range(len(real)), range(len(pool))):
            change = _change(scorer, pool[part], scores[part], left, right) if len(part) else np.zeros(1)
            if change.max() > _VISIBLE:
                chosen.append(int(change.argmax()))
                break
    candidates: FloatArray = pool[chosen]
    return candidates


def confusable(manifest: Manifest, scorer: Scorer, forest: Sequence[Tree]) -> list[tuple[str, str]]:
    """Features that could be exchanged in the manifest without any golden reading noticing.

    Args:
        manifest: With its golden readings.
        scorer: Its booster.
        forest: The booster's trees.

    Returns:
        Names, in pairs; pairs of which the booster uses neither are left out, since exchanging them changes nothing.
    """
    rows = np.array([manifest.row(golden.reading) for golden in manifest.golden], dtype=np.float32)
    found = []
    for left, right in _pairs(forest, len(manifest.features)):
        scores = scorer.score(_swapped(rows, left, right))
        if all(scores_agree(golden.score, score) for golden, score in zip(manifest.golden, scores, strict=True)):
            found.append((manifest.feature_names[left], manifest.feature_names[right]))
    return found


def _pairs(forest: Sequence[Tree], features: int) -> list[tuple[int, int]]:
    """Pairs of columns of which the booster uses at least one.

    Neighbours first: with very many features not every pair can be tried, and neighbours are swapped more often.
    """
    used = used_features(forest)
    pairs = (
        (left, left + distance)
        for distance in range(1, features)
        for left in range(features - distance)
        if left in used or left + distance in used
    )
    return list(itertools.islice(pairs, _MAX_PAIRS))


def _synthesise(forest: Sequence[Tree], features: Sequence[Feature]) -> FloatArray:
    """Made-up readings: random combinations of values from around the thresholds, and pairs for single splits.

    For the largest splits of each feature there are two readings that reach it and go different ways.
    """
    choices = [
        _choices(points, feature) for points, feature in zip(split_points(forest, len(features)), features, strict=True)
    ]
    # Not for secrets: the same booster gets the same readings.
    random = np.random.default_rng(len(forest))
    pool = np.column_stack([values[random.integers(len(values), size=_POOL)] for values in choices])
    paths: list[Floats] = []
    for tree, node in _largest_splits(forest):
        base = pool[len(paths) % _POOL].copy()
        allowed = _way_to(tree, node, choices)
        for column, mask in allowed.items():
            if mask.any():
                base[column] = choices[column][mask][mask.sum() // 2]
        column = int(tree.feature[node])
        here = allowed.get(column, np.ones(len(choices[column]), dtype=bool))
        left = _goes_left(tree, node, choices[column])
        # The nearest values on both sides of the threshold: this split alone tells the two readings apart.
        for side, nearest in ((here & left, -1), (here & ~left, 0)):
            if side.any():
                row = base.copy()
                row[column] = choices[column][side][nearest]
                paths.append(row)
    invented = np.concatenate((pool, np.array(paths, dtype=np.float64).reshape(-1, len(features))))
    return invented.astype(np.float32)


def _largest_splits(forest: Sequence[Tree]) -> list[tuple[Tree, int]]:
    """The splits of each feature that improved the training most, round robin over the features."""
    by_feature: dict[int, list[tuple[float, int, int]]] = {}
    for number, tree in enumerate(forest):
        for node in tree.splits.tolist():
            by_feature.setdefault(int(tree.feature[node]), []).append((-float(tree.gain[node]), number, node))
    largest = [sorted(splits)[:_SPLITS_PER_FEATURE] for _, splits in sorted(by_feature.items())]
    rounds = itertools.zip_longest(*largest)
    found = [split for turn in rounds for split in turn if split is not None][:_MAX_PATHS]
    return [(forest[number], node) for _, number, node in found]


def _way_to(tree: Tree, node: int, choices: Sequence[Floats]) -> dict[int, npt.NDArray[np.bool_]]:
    """For each column that is asked on the way from the root to a node: which of its values lead there."""
    allowed: dict[int, npt.NDArray[np.bool_]] = {}
    while (above := int(tree.parent[node])) >= 0:
        column = int(tree.feature[above])
        left = _goes_left(tree, above, choices[column])
        way = left if tree.left[above] == node else ~left
        allowed[column] = allowed.get(column, np.ones(len(way), dtype=bool)) & way
        node = above
    return allowed


def _goes_left(tree: Tree, node: int, values: Floats) -> npt.NDArray[np.bool_]:
    if node in tree.categories:
        return ~np.isin(values, tree.categories[node])
    side: npt.NDArray[np.bool_] = values < tree.threshold[node]
    return side


def _choices(points: Floats, feature: Feature) -> Floats:
    """Values from below, between and above a feature's thresholds, within its limits."""
    if len(points) == 0:
        values = np.array([0.0, 1.0])
    else:
        step = float(np.diff(points).mean()) if len(points) > 1 else max(1.0, abs(float(points[0])) * 0.1)
        # The points themselves, too: they are the codes of a categorical feature.
        middles = (points[1:] + points[:-1]) / 2
        values = np.unique(np.concatenate(([points[0] - step], points, middles, [points[-1] + step])))
    lowest = -np.inf if feature.minimum is None else feature.minimum
    highest = np.inf if feature.maximum is None else feature.maximum
    return np.unique(np.clip(values, lowest, highest))


def _change(scorer: Scorer, rows: FloatArray, scores: Floats, left: int, right: int) -> Floats:
    """By how much exchanging two columns changes each row's score, relative to scores beyond 1."""
    change = np.abs(_scores(scorer, _swapped(rows, left, right)) - scores) / np.maximum(1.0, np.abs(scores))
    largest: Floats = change.max(axis=1)
    return largest


def _swapped(rows: FloatArray, left: int, right: int) -> FloatArray:
    swapped: FloatArray = rows.copy()
    swapped[:, [left, right]] = rows[:, [right, left]]
    return swapped


def _scores(scorer: Scorer, rows: FloatArray) -> Floats:
    """Shape (n, outputs)."""
    return np.array(scorer.score(rows), dtype=np.float64).reshape(len(rows), -1)


def _evenly(length: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` positions, evenly over a length."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))
