from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_inference.delivery.encoding import dump
from ml_inference.model.bundle import Model, load_model
from ml_inference.model.manifest import ModelError
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Outcome, Rejection, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Decoded, Reading
from support.models import ABNORMAL, NORMAL, train_small


def clock() -> datetime:
    return datetime(2026, 11, 22, 3, 15, 0, 120_000, tzinfo=timezone.utc)


def run(pipeline: Pipeline, document: Any) -> Outcome:
    return pipeline.process(json.dumps(document).encode())


def single(pipeline: Pipeline, document: Any) -> Result:
    (item,) = run(pipeline, document).items
    assert isinstance(item, Result), item
    return item


def own_booster(model: Model) -> xgboost.Booster:
    return xgboost.Booster(model_file=model.directory / "booster.ubj")


def matrix(*readings: dict[str, float]) -> np.ndarray:
    return np.array([list(reading.values()) for reading in readings], dtype=np.float32)


def test_a_result_holds_what_the_booster_says(model: Model) -> None:
    document = ABNORMAL | {"equipment_id": "cylinder-7", "correlation_id": "a1"}
    message = single(Pipeline(model, clock=clock), document).as_message()
    expected = own_booster(model).inplace_predict(matrix(ABNORMAL))[0]
    explanation = message.pop("explanation")
    assert message.pop("score") == pytest.approx(expected, abs=1e-6)
    assert message == {
        "correlation_id": "a1",
        "equipment_id": "cylinder-7",
        "timestamp": "2026-11-22T03:15:00.120Z",
        "threshold": 0.5,
        "abnormal": True,
        "state": "abnormal",
        "model": {"name": "small", "version": "1.0.0"},
    }
    names = xgboost.DMatrix(matrix(ABNORMAL), feature_names=list(ABNORMAL))
    shap = own_booster(model).predict(names, pred_contribs=True)[0][:-1]
    order = np.argsort(-shap)[:3]
    assert [part["feature"] for part in explanation] == [list(ABNORMAL)[column] for column in order]
    assert [part["contribution"] for part in explanation] == pytest.approx(sorted(-shap)[:3] * np.array(-1), abs=1e-4)
    assert {part["feature"]: part["value"] for part in explanation}.items() <= ABNORMAL.items()


def test_a_batch_scores_like_its_readings_one_by_one(model: Model) -> None:
    pipeline = Pipeline(model, clock=clock)
    outcome = run(pipeline, [NORMAL, ABNORMAL | {"wRMSCurrent": None}, ABNORMAL])
    assert [type(item).__name__ for item in outcome.items] == ["Result", "Rejection", "Result"]
    assert [item.index for item in outcome.items] == [0, 1, 2]
    for item, document in zip(outcome.results, (NORMAL, ABNORMAL), strict=True):
        alone = single(Pipeline(model, clock=clock), document)
        assert (item.score, item.explanation) == (alone.score, alone.explanation)


def test_a_normal_reading_is_not_explained_and_zero_features_explain_none(model: Model) -> None:
    assert single(Pipeline(model), NORMAL).explanation == ()
    assert single(Pipeline(model, Judgement(explain_top_k=0)), ABNORMAL).explanation == ()
    assert len(single(Pipeline(model, Judgement(explain_top_k=20)), ABNORMAL).explanation) == 6


def test_the_configured_threshold_wins_and_a_score_that_reaches_it_is_abnormal(model: Model) -> None:
    score = single(Pipeline(model), NORMAL).score
    assert isinstance(score, float)
    result = single(Pipeline(model, Judgement(threshold=score)), NORMAL)
    assert (result.threshold, result.abnormal) == (score, True)
    assert single(Pipeline(model, Judgement(threshold=score + 1e-6)), NORMAL).abnormal is False


def test_the_state_of_a_machine_changes_after_as_many_readings_as_configured(model: Model) -> None:
    pipeline = Pipeline(model, Judgement(debounce_readings=2))
    documents = [ABNORMAL, NORMAL, ABNORMAL, ABNORMAL, NORMAL, NORMAL]
    results = [single(pipeline, document | {"equipment_id": "a"}) for document in documents]
    assert [result.state for result in results] == ["normal"] * 3 + ["abnormal"] * 2 + ["normal"]
    assert [result.state_changed for result in results] == [True, False, False, True, False, True]
    assert single(pipeline, ABNORMAL | {"equipment_id": "b"}).state == "normal"


def test_a_regression_gives_its_value_and_no_verdict_without_a_threshold(tmp_path: Path) -> None:
    model = load_model(train_small(tmp_path / "r", objective="reg:squarederror", threshold=None))
    result = single(Pipeline(model), NORMAL)
    assert result.score == pytest.approx(own_booster(model).inplace_predict(matrix(NORMAL))[0])
    assert (result.threshold, result.abnormal, result.state, result.explanation) == (None, None, None, ())
    judged = single(Pipeline(model, Judgement(threshold=0.1)), NORMAL)
    assert (judged.abnormal, judged.state) == (True, "abnormal")


def test_a_multi_class_model_gives_a_probability_for_each_class_and_explains_the_likeliest(tmp_path: Path) -> None:
    model = load_model(train_small(tmp_path / "c", objective="multi:softprob", classes=3))
    result = single(Pipeline(model), ABNORMAL)
    expected = own_booster(model).inplace_predict(matrix(ABNORMAL))[0]
    assert result.score == pytest.approx(expected.tolist(), abs=1e-6)
    assert result.abnormal is True
    names = xgboost.DMatrix(matrix(ABNORMAL), feature_names=list(ABNORMAL))
    shap = own_booster(model).predict(names, pred_contribs=True)[0][int(np.argmax(expected))][:-1]
    assert result.explanation[0].feature == list(ABNORMAL)[int(np.argmax(shap))]
    assert single(Pipeline(model), NORMAL).abnormal is False


def test_a_swapped_model_scores_the_next_message_and_machines_keep_their_states(model: Model, tmp_path: Path) -> None:
    pipeline = Pipeline(model, Judgement(debounce_readings=2))
    single(pipeline, ABNORMAL)
    pipeline.swap(load_model(train_small(tmp_path / "next", version="2.0.0", seed=1)))
    result = single(pipeline, ABNORMAL)
    assert (result.model_version, result.state) == ("2.0.0", "abnormal")


def test_a_score_that_is_not_finite_rejects_that_reading_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # exp() of a large margin overflows float32.
    model = load_model(train_small(tmp_path / "p", objective="count:poisson", threshold=None))
    broken = model.scorer._booster
    pipeline = Pipeline(model)
    original = broken.inplace_predict
    monkeypatch.setattr(broken, "inplace_predict", lambda rows: np.where(rows[:, 0] > 100, np.inf, original(rows)))
    outcome = run(pipeline, [NORMAL, ABNORMAL, NORMAL])
    assert [type(item).__name__ for item in outcome.items] == ["Result", "Rejection", "Result"]
    assert outcome.rejections[0].errors[0].type == "model_error"


def test_a_number_beyond_float32_is_rejected_and_its_neighbours_are_scored_and_explained(model: Model) -> None:
    assert model.manifest.features[5].maximum is None
    outcome = run(Pipeline(model), [ABNORMAL, ABNORMAL | {"wEncoderVelocity": 1e300}, ABNORMAL])
    assert [type(item).__name__ for item in outcome.items] == ["Result", "Rejection", "Result"]
    assert outcome.rejections[0].errors[0].loc == ("wEncoderVelocity",)
    assert all(result.explanation for result in outcome.results)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_results_stand_without_explanations_where_the_booster_cannot_explain(model: Model) -> None:
    # Rows that XGBoost scores, but makes no matrix of.
    endless = Reading("", None, None, (*list(ABNORMAL.values())[:5], 1e300))
    with pytest.raises(ModelError, match="cannot explain"):
        model.scorer.contributions([endless.values])
    (result,) = Pipeline(model).score(Decoded((endless,))).results
    assert (result.abnormal, result.explanation) == (True, ())


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
near_readings = st.fixed_dictionaries(
    {name: st.one_of(st.floats(-1e3, 1e3), st.floats(), any_json) for name in NORMAL},
    optional={"equipment_id": st.text(), "timestamp": any_json, "correlation_id": any_json, "sDateTime": any_json},
)
documents = st.one_of(any_json, near_readings, st.lists(near_readings, max_size=4))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.one_of(st.binary(max_size=400), documents.map(lambda document: json.dumps(document).encode())))
def test_nothing_that_a_message_holds_makes_the_pipeline_raise(model: Model, payload: bytes) -> None:
    outcome = Pipeline(model).process(payload)
    assert outcome.items
    for item in outcome.items:
        json.loads(dump(item.as_message()))
        assert isinstance(item, Result) or (isinstance(item, Rejection) and item.errors)
