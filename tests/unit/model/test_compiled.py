"""A small booster as a Python function: XGBoost's scores, or no function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_inference.model import compiled
from ml_inference.model.compiled import TOLERANCE, compile_booster
from ml_inference.model.forest import read_forest, split_points
from ml_inference.model.scorer import Scorer

COLUMNS = 4


def grow(objective: str = "binary:logistic", rounds: int = 12, seed: int = 0, **parameters: Any) -> xgboost.Booster:
    """A booster of random trees that has seen missing values and values of a register, with hundredths."""
    random = np.random.default_rng(seed)
    rows = random.uniform(-100.0, 100.0, (300, COLUMNS)).round(2)
    rows[random.random(rows.shape) < 0.2] = np.nan
    label: Any = np.nan_to_num(rows).sum(axis=1) / 100.0
    if objective in ("binary:logistic", "reg:logistic", "binary:logitraw"):
        label = label > 0.3
    held = {"objective": objective, "max_depth": 4, "seed": seed, "nthread": 1} | parameters
    booster = xgboost.train(held, xgboost.DMatrix(rows, label), rounds)
    booster.set_param({"nthread": 1})
    return booster


LOGISTIC = grow()
FUNCTION = compile_booster(LOGISTIC, "binary:logistic")


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:logistic", "binary:logitraw", "reg:squarederror"])
def test_a_function_gives_the_scores_of_xgboost(objective: str) -> None:
    booster = grow(objective)
    function = compile_booster(booster, objective)
    assert function is not None
    rows = np.random.default_rng(1).uniform(-120.0, 120.0, (500, COLUMNS)).round(2)
    rows[::3, 1] = np.nan
    rows[0] = np.nan
    expected = booster.inplace_predict(rows.astype(np.float32)).tolist()
    assert [function(row) for row in rows.tolist()] == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)


@settings(max_examples=200)
@given(st.lists(st.one_of(st.floats(-150.0, 150.0), st.just(math.nan)), min_size=COLUMNS, max_size=COLUMNS))
def test_any_reading_scores_as_with_xgboost(row: list[float]) -> None:
    """Also one between a float32 threshold and the float64 beside it."""
    assert FUNCTION is not None
    expected = float(LOGISTIC.inplace_predict(np.array([row], dtype=np.float32))[0])
    assert abs(FUNCTION(row) - expected) <= TOLERANCE


def test_a_value_that_rounds_to_the_threshold_goes_where_xgboost_sends_it() -> None:
    rows = np.array([[0.0]] * 50 + [[0.2]] * 50, dtype=np.float32)
    booster = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(rows, rows[:, 0]), 1)
    function = compile_booster(booster, "reg:squarederror")
    assert function is not None
    threshold = np.float32(split_points(read_forest(booster), 1)[0][0])
    for value in (float(threshold), math.nextafter(float(threshold), -1.0), float(np.nextafter(threshold, -1.0))):
        expected = float(booster.inplace_predict(np.array([[value]], dtype=np.float32))[0])
        assert function([value]) == pytest.approx(expected, abs=TOLERANCE)


def test_a_score_far_from_even_odds_is_a_number() -> None:
    booster = grow(base_score=0.5, eta=1.0, reg_lambda=0.0)
    function = compile_booster(booster, "binary:logistic")
    assert function is not None
    assert all(0.0 <= function([value] * COLUMNS) <= 1.0 for value in (-1e30, 1e30, math.nan))


@pytest.mark.parametrize(
    ("objective", "parameters"),
    [
        ("multi:softprob", {"num_class": 3}),
        ("count:poisson", {}),
        ("binary:logistic", {"booster": "dart", "rate_drop": 0.5}),
    ],
)
def test_what_is_more_than_a_sum_of_trees_stays_with_xgboost(objective: str, parameters: dict[str, Any]) -> None:
    random = np.random.default_rng(2)
    rows = random.uniform(0.0, 1.0, (200, COLUMNS))
    label = (rows[:, 0] * 3).astype(int) if objective == "multi:softprob" else rows[:, 0] > 0.5
    booster = xgboost.train({"objective": objective, "seed": 1} | parameters, xgboost.DMatrix(rows, label), 8)
    assert compile_booster(booster, objective) is None


def test_categories_stay_with_xgboost() -> None:
    codes = np.random.default_rng(3).integers(0, 4, (200, 1)).astype(np.float32)
    data = xgboost.DMatrix(codes, codes[:, 0] == 2, feature_types=["c"], enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, data, 3)
    assert compile_booster(booster, "binary:logistic") is None


def test_large_and_deep_boosters_stay_with_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    booster = grow(max_depth=6)
    monkeypatch.setattr(compiled, "MAX_DEPTH", 2)
    assert compile_booster(booster, "binary:logistic") is None
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "MAX_SPLITS", 10)
    assert compile_booster(booster, "binary:logistic") is None


def test_a_function_that_does_not_agree_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_base_score", lambda _: 0.123)
    assert compile_booster(grow(), "binary:logistic") is None
    monkeypatch.setattr(compiled, "_base_score", lambda _: None)
    assert compile_booster(grow(), "binary:logistic") is None


def test_a_thousand_trees_score_as_with_xgboost_to_the_last_digit() -> None:
    booster = grow(rounds=1_000, max_depth=2, eta=0.01)
    function = compile_booster(booster, "binary:logistic")
    assert function is not None
    rows = np.random.default_rng(4).uniform(-120.0, 120.0, (20, COLUMNS)).astype(np.float32)
    expected = booster.inplace_predict(rows).tolist()
    assert sum(function(row) == score for row, score in zip(rows.tolist(), expected, strict=True)) >= 19


def test_a_single_reading_is_scored_without_xgboost_and_a_batch_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    booster = grow()
    scorer = Scorer(booster, COLUMNS, "binary:logistic")
    rows = [[10.0, 20.0, -30.0, 5.0], [50.0, math.nan, 1.0, 2.0]]
    together = scorer.score(rows)
    monkeypatch.setattr(xgboost.Booster, "inplace_predict", None)
    assert [scorer.score([row])[0] for row in rows] == pytest.approx(together, abs=TOLERANCE)
    with pytest.raises(TypeError):
        scorer.score(rows * 5)
