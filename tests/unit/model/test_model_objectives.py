from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
import xgboost

from ml_inference.model.manifest import BoosterFile, Feature, Golden, Manifest, ModelError
from ml_inference.model.objectives import OBJECTIVES, abnormality, is_abnormal, objective_of, reasons


def manifest(objective: str, **fields: Any) -> Manifest:
    return Manifest(
        name="m",
        version="1",
        created=datetime.now(timezone.utc).isoformat(),
        objective=objective,
        booster=BoosterFile(file="booster.ubj", sha256="0" * 64),
        xgboost_version="3.2.0",
        features=[Feature(name="a"), Feature(name="b")],
        golden=[Golden(reading={"a": 0.0, "b": 0.0}, score=0.0)],
        **fields,
    )


CLASSES: dict[str, Any] = {"classes": ["hot", "normal", "loud"], "normal_class": 1}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_xgboost_knows_each_objective_of_the_table(name: str) -> None:
    rows = np.zeros((4, 1), dtype=np.float32)
    matrix = xgboost.DMatrix(
        rows, label=[0.5, 0.5, 0.5, 0.5] if name.startswith(("reg", "count", "surv")) else [0, 1, 0, 1]
    )
    if name.startswith("rank"):
        matrix.set_group([4])
    if name == "survival:aft":
        matrix.set_float_info("label_lower_bound", np.ones(4))
        matrix.set_float_info("label_upper_bound", np.ones(4))
    settings = {"num_class": 2} if name.startswith("multi") else {"quantile_alpha": 0.5} if "quantile" in name else {}
    booster = xgboost.train({"objective": name, "max_depth": 1, "nthread": 1, **settings}, matrix, 1)
    several = booster.predict(matrix).ndim == 2
    assert several == (name == "multi:softprob")


def test_what_xgboost_does_not_write_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="'custom:loss' is none that xgboost"):
        objective_of("custom:loss")


@pytest.mark.parametrize(
    ("objective", "fields", "score", "threshold", "verdict"),
    [
        ("binary:logistic", {}, 0.5, 0.5, True),
        ("binary:logistic", {}, 0.49, None, None),
        ("binary:logitraw", {}, -0.1, 0.0, False),
        ("binary:hinge", {}, 1.0, None, True),
        ("binary:hinge", {}, 0.0, -5.0, False),
        ("reg:squarederror", {}, 7.0, 5.0, True),
        ("reg:quantileerror", {}, [1.0, 7.0], 5.0, None),
        ("multi:softmax", CLASSES, 1.0, None, False),
        ("multi:softmax", CLASSES, 0.0, None, True),
        ("multi:softmax", CLASSES, 2.0, 9.0, True),
        ("multi:softmax", {}, 2.0, 0.5, None),
        ("multi:softprob", CLASSES, [0.2, 0.5, 0.3], 0.5, True),
        ("multi:softprob", CLASSES, [0.2, 0.6, 0.2], 0.5, False),
        ("multi:softprob", {"classes": CLASSES["classes"]}, [0.2, 0.6, 0.2], 0.5, None),
    ],
)
def test_a_verdict_follows_from_the_objective(
    objective: str, fields: dict[str, Any], score: Any, threshold: float | None, verdict: bool | None
) -> None:
    assert is_abnormal(score, threshold, manifest(objective, **fields)) is verdict


CONTRIBUTIONS = np.array([[3.0, -1.0], [-2.0, 4.0], [0.5, 1.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("objective", "score", "expected"),
    [
        ("multi:softmax", 0.0, [5.0, -5.0]),
        ("multi:softmax", 2.0, [2.5, -3.0]),
        ("multi:softprob", [0.3, 0.5, 0.2], [5.0, -5.0]),
        ("multi:softprob", [0.1, 0.5, 0.4], [2.5, -3.0]),
    ],
)
def test_the_reasons_of_a_class_argue_against_the_normal_one(objective: str, score: Any, expected: list[float]) -> None:
    found = reasons(CONTRIBUTIONS, score, manifest(objective, **CLASSES))
    assert found is not None
    assert found.tolist() == expected


def test_reasons_without_a_normal_class_are_of_the_most_likely_one_and_other_outputs_have_none() -> None:
    unnamed = {"classes": CLASSES["classes"]}
    for objective, score in (("multi:softmax", 1.0), ("multi:softprob", [0.2, 0.7, 0.1])):
        found = reasons(CONTRIBUTIONS, score, manifest(objective, **unnamed))
        assert found is not None
        assert found.tolist() == [-2.0, 4.0]
    assert reasons(CONTRIBUTIONS, [1.0, 2.0, 3.0], manifest("reg:quantileerror")) is None


def test_abnormality_grows_with_what_is_not_normal() -> None:
    assert abnormality(0.7, manifest("binary:logistic")) == 0.7
    assert abnormality([0.1, 0.7, 0.2], manifest("multi:softprob", **CLASSES)) == pytest.approx(0.3)
    assert [abnormality(score, manifest("multi:softmax", **CLASSES)) for score in (0.0, 1.0, 2.0)] == [1.0, 0.0, 1.0]
    assert abnormality([2.0, 3.0], manifest("reg:quantileerror")) == 2.0
