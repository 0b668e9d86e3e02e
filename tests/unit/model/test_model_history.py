"""Models with derived features: what their golden sequences guard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import ModelError, read_manifest
from support.damage import copy_of, edit_manifest
from support.models import train_with_history


@pytest.fixture(scope="module")
def with_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_with_history(tmp_path_factory.mktemp("models") / "past")


@pytest.fixture
def copied(with_history: Path, tmp_path: Path) -> Path:
    return copy_of(with_history, tmp_path / "model")


def test_a_model_with_a_past_is_of_format_2_and_names_its_columns(with_history: Path) -> None:
    manifest = load_model(with_history).manifest
    assert manifest.format == 2
    assert len(manifest.column_names) == len(manifest.features) + len(manifest.derived) == 30
    assert "rVibration_Z_RMS_Velocity shift 24h" in manifest.column_names


def test_golden_sequences_reach_both_verdicts_and_are_short(with_history: Path) -> None:
    manifest = read_manifest(with_history)
    scores = np.hstack([sequence.scores for sequence in manifest.golden_sequences])
    assert scores.max() > 0.5
    assert scores.min() < 0.2
    assert (with_history / "manifest.json").stat().st_size < 200_000


def other_statistics(manifest: Any) -> dict[str, Any]:
    other = {"std": "shift", "shift": "std"}
    return {"derived": [{**one, "statistic": other[one["statistic"]]} for one in manifest["derived"]]}


def other_windows(manifest: Any) -> dict[str, Any]:
    return {"derived": [{**one, "window_seconds": 3 * one["window_seconds"]} for one in manifest["derived"]]}


def another_past(manifest: Any) -> dict[str, Any]:
    for sequence in manifest["golden_sequences"]:
        for reading in sequence["readings"][:-1]:
            reading["values"]["rVibration_Z_RMS_Velocity"] = 300.0
    return {"golden_sequences": manifest["golden_sequences"]}


@pytest.mark.parametrize("change", [other_statistics, other_windows, another_past])
def test_a_past_that_is_computed_otherwise_is_noticed(copied: Path, change: Callable[[Any], dict[str, Any]]) -> None:
    edit_manifest(copied, **change(json.loads((copied / "manifest.json").read_text())))
    with pytest.raises(ModelError, match=r"^golden_sequences: reading \d+ of sequence 0 scores "):
        load_model(copied)


def test_a_statistic_that_is_unknown_is_refused(copied: Path) -> None:
    derived = json.loads((copied / "manifest.json").read_text())["derived"]
    edit_manifest(copied, derived=[{**derived[0], "statistic": "median"}, *derived[1:]])
    with pytest.raises(ModelError, match=r"^manifest: derived\.0\.statistic: Input should be 'mean', 'std'"):
        load_model(copied)
