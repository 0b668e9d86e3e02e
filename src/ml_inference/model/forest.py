"""The trees inside a booster, as plain arrays: whether they are sound, and where they split.

XGBoost believes what a booster file says of its own trees. A child that points outside its tree, or back to its parent,
crashes or hangs a prediction, but only one that comes by there: no set of test readings proves that none will. So the
trees are walked once, here, before a booster is given to anybody.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from ml_inference.model.manifest import ModelError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LEAF = -1


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree; all arrays have an entry for each of its n nodes, of which 0 is the root.

    Attributes:
        left: Where a reading below the threshold goes on; -1 in a leaf.
        right: Where the others go on.
        parent: Of each node; -1 for the root and for nodes that no reading reaches.
        feature: The column that a node splits by.
        threshold: A value below it goes left; in a leaf its output.
        default_left: Whether a missing value goes left.
        gain: How much the split improved the training loss.
        categories: Of the nodes that split by category: the codes that go right.
    """

    left: Ints
    right: Ints
    parent: Ints
    feature: Ints
    threshold: Floats
    default_left: Bools
    gain: Floats
    categories: Mapping[int, Ints]

    @property
    def splits(self) -> Ints:
        """The nodes that readings reach and that are no leaves."""
        reached = self.parent != _LEAF
        reached[0] = True
        return np.flatnonzero(reached & (self.left != _LEAF))


def read_forest(booster: xgboost.Booster) -> list[Tree]:
    """The booster's trees.

    Raises:
        ModelError: It has none (a linear booster), or one of them is not sound.
    """
    machine, model = _held(booster)
    if "trees" not in model:
        raise ModelError(f"booster: is a {machine.get('name')} booster; only boosters of trees are served")
    if any(int(tree["tree_param"].get("size_leaf_vector", "1")) > 1 for tree in model["trees"]):
        raise ModelError(
            "booster: its trees have vector leaves (multi_strategy=multi_output_tree), whose scores xgboost cannot explain: "
            "train it with multi_strategy=one_output_per_tree"
        )
    if not model["trees"]:
        raise ModelError("booster: holds no trees")
    features = booster.num_features()
    return [_read_tree(number, tree, features) for number, tree in enumerate(model["trees"])]


def stored_categories(booster: xgboost.Booster) -> list[list[str] | None]:
    """What a booster that was trained from a table with text knows of its categories, in the order of their codes.

    XGBoost 3 keeps them; for other boosters, for numbers, and for categories that are no text: None.
    """
    encodings = _held(booster)[1].get("cats", {}).get("enc", [])
    found: list[list[str] | None] = []
    for encoding in encodings:
        offsets, letters = (
            encoding.get("offsets"),
            bytes(encoding.get("values", [])) if encoding.get("offsets") else b"",
        )
        found.append([letters[a:b].decode() for a, b in itertools.pairwise(offsets)] if offsets else None)
    return found or [None] * booster.num_features()


def _held(booster: xgboost.Booster) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads(bytes(booster.save_raw("json")))
    machine = document["learner"]["gradient_booster"]
    # `dart` keeps its trees one level deeper.
    return machine, machine.get("gbtree", machine).get("model", {})


def _read_tree(number: int, held: Mapping[str, Any], features: int) -> Tree:
    left = np.array(held["left_children"], dtype=np.int64)
    right = np.array(held["right_children"], dtype=np.int64)
    feature = np.array(held["split_indices"], dtype=np.int64)
    threshold = np.array(held["split_conditions"], dtype=np.float64)
    default_left = np.array(held["default_left"], dtype=np.bool_)
    gain = np.array(held["loss_changes"], dtype=np.float64)
    claimed = np.array(held["parents"], dtype=np.int64)
    if not len(left) or any(
        len(column) != len(left) for column in (right, feature, threshold, default_left, gain, claimed)
    ):
        raise ModelError(f"booster: is damaged: the arrays of tree {number} differ in length")
    parent = _walk(number, left, right)
    inner = parent != _LEAF
    if (claimed[inner] != parent[inner]).any():
        raise ModelError(f"booster: is damaged: tree {number} is not a tree")
    tree = Tree(left, right, parent, feature, threshold, default_left, gain, _categories(held))
    splits = tree.splits
    if len(splits) and not ((feature[splits] >= 0) & (feature[splits] < features)).all():
        raise ModelError(f"booster: is damaged: tree {number} splits by a feature that does not exist")
    leaves = np.setdiff1d(np.flatnonzero(left == _LEAF), splits)
    if not np.isfinite(threshold[leaves]).all():
        raise ModelError(f"booster: is damaged: a leaf of tree {number} is not a finite number")
    return tree


def _walk(number: int, left: Ints, right: Ints) -> Ints:
    """Each node's parent, found from the root down; every node is met at most once, or it is no tree."""
    parent = np.full(len(left), _LEAF, dtype=np.int64)
    level = np.array([0], dtype=np.int64)
    while len(level):
        inner = level[(left[level] != _LEAF) | (right[level] != _LEAF)]
        children = np.concatenate((left[inner], right[inner]))
        if len(children) and (
            children.min() < 1
            or children.max() >= len(left)
            or len(np.unique(children)) < len(children)
            or (parent[children] != _LEAF).any()
        ):
            raise ModelError(f"booster: is damaged: tree {number} is not a tree")
        parent[children] = np.concatenate((inner, inner))
        level = children
    return parent


def _categories(held: Mapping[str, Any]) -> dict[int, Ints]:
    codes = np.array(held.get("categories", []), dtype=np.int64)
    return {
        node: codes[start : start + size]
        for node, start, size in zip(
            held.get("categories_nodes", []),
            held.get("categories_segments", []),
            held.get("categories_sizes", []),
            strict=True,
        )
    }


def used_features(forest: Sequence[Tree]) -> set[int]:
    """Columns that some tree splits by."""
    return {int(column) for tree in forest for column in np.unique(tree.feature[tree.splits])}


def split_points(forest: Sequence[Tree], features: int) -> list[Floats]:
    """For each column the thresholds (of a categorical one the codes), ascending, each once."""
    found: list[list[Floats]] = [[] for _ in range(features)]
    for tree in forest:
        splits = tree.splits
        for node, codes in tree.categories.items():
            found[int(tree.feature[node])].append(codes.astype(np.float64))
        numeric = np.setdiff1d(splits, np.fromiter(tree.categories, dtype=np.int64))
        for column in np.unique(tree.feature[numeric]):
            found[int(column)].append(tree.threshold[numeric[tree.feature[numeric] == column]])
    return [_distinct(np.concatenate(parts)) if parts else np.empty(0) for parts in found]


def _distinct(values: Floats) -> Floats:
    return np.unique(values[np.isfinite(values)])
