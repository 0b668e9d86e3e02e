"""Models with derived features on a device: what training computed, whatever is late, doubled, restarted or swapped."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.model.bundle import Model, load_model
from ml_inference.model.history import Plan
from ml_inference.offline.replay import Source, score_table
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.workbench.training.history import history_table
from support.models import ABNORMAL, NORMAL, RUNNING, SIX, machines_with_a_past, train_with_history


@pytest.fixture(scope="module")
def with_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_with_history(tmp_path_factory.mktemp("models") / "past")


@pytest.fixture
def model(with_history: Path) -> Model:
    return load_model(with_history)


def clock() -> datetime:
    return datetime(2026, 11, 22, 3, 15, 0, 120_000, tzinfo=timezone.utc)


def documents(values: Any, number: Any, seconds: Any) -> list[dict[str, Any]]:
    """Readings as messages; times at milliseconds, as messages carry them."""
    return [
        {
            "equipment_id": f"cylinder-{machine}",
            "timestamp": datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds"),
            **dict(zip((feature.name for feature in SIX), row, strict=True)),
        }
        for machine, moment, row in zip(number.tolist(), seconds.tolist(), values.tolist(), strict=True)
    ]


def scores(pipeline: Pipeline, items: Sequence[dict[str, Any]], batch: int) -> list[float]:
    found: list[float] = []
    for at in range(0, len(items), batch):
        part = items[at : at + batch]
        outcome = pipeline.process(json.dumps(part[0] if batch == 1 else {"readings": part}).encode())
        assert all(isinstance(item, Result) for item in outcome.items)
        found += [float(result.score) for result in outcome.results if isinstance(result.score, float)]
    return found


def test_device_score_and_training_say_the_same(model: Model, tmp_path: Path) -> None:
    values, number, seconds, _ = machines_with_a_past(machines=5, readings=170, seed=3)
    seconds = np.round(seconds + 3e5 * (np.arange(len(seconds)) > 500), 3)
    repeated = np.arange(5, len(seconds), 7)
    seconds[repeated] = seconds[repeated - 5]
    number[repeated] = number[repeated - 5]
    plan = Plan.of(model.manifest.derived, model.manifest.feature_names)
    past = history_table(values, number, seconds, plan, running=values[:, 3] > RUNNING.value)
    expected = model.scorer.score(np.hstack([values, past]).astype(np.float32))

    items = documents(values, number, seconds)
    assert scores(Pipeline(model, clock=clock), items, 32) == pytest.approx(expected, abs=1e-6)
    restarted = Pipeline(model, clock=clock)
    single = scores(restarted, items[:450], 1)
    before, restarted = restarted, Pipeline(model, clock=clock)
    assert before.history is not None
    assert restarted.history is not None
    restarted.history.restore(before.history.state())
    assert single + scores(restarted, items[450:], 1) == pytest.approx(expected, abs=1e-6)

    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(item) + "\n" for item in items))
    out = io.BytesIO()
    score_table(model, Judgement(), Source([table]), out)
    replayed = [json.loads(line)["score"] for line in out.getvalue().splitlines()]
    assert replayed == pytest.approx(expected, abs=1e-6)


def test_a_time_far_ahead_is_scored_and_is_not_the_past_of_what_follows(model: Model) -> None:
    values, number, seconds, _ = machines_with_a_past(machines=1, readings=150, seed=4)
    items = documents(values, number, seconds)
    expected = scores(Pipeline(model, clock=clock), items, 32)
    ahead = {**items[100], "timestamp": "2027-01-01T00:00:00Z", **ABNORMAL}
    actual = scores(Pipeline(model, clock=clock), [*items[:100], ahead, *items[100:]], 32)
    del actual[100]
    assert actual == expected


def test_an_explanation_names_sensors_and_counts_their_past_as_theirs(model: Model) -> None:
    values, number, seconds, label = machines_with_a_past(machines=2, readings=600, seed=0)
    pipeline = Pipeline(model, Judgement(explain_top_k=6), clock=clock)
    outcome = pipeline.process(json.dumps({"readings": documents(values, number, seconds)}).encode())
    abnormal = [result for result in outcome.results if result.abnormal]
    assert len(abnormal) > 50
    assert label.sum() > 50
    for result in abnormal:
        assert {one.feature for one in result.explanation} == set(NORMAL)
    first = [result.explanation[0].feature for result in abnormal]
    assert first.count("rVibration_Z_RMS_Velocity") > 0.9 * len(first)


def test_a_swap_keeps_the_past_where_the_derived_features_are_the_same(model: Model) -> None:
    values, number, seconds, _ = machines_with_a_past(machines=2, readings=300, seed=5)
    items = documents(values, number, seconds)
    kept, undisturbed = Pipeline(model, clock=clock), Pipeline(model, clock=clock)
    scores(kept, items[:400], 32)
    kept.swap(model)
    scores(undisturbed, items[:400], 32)
    assert scores(kept, items[400:], 32) == scores(undisturbed, items[400:], 32)
    fewer = model.manifest.model_copy(update={"derived": [*model.manifest.derived[:-1]]})
    longer = [one.model_copy(update={"window_seconds": 2 * one.window_seconds}) for one in fewer.derived]
    kept.swap(replace(model, manifest=fewer.model_copy(update={"derived": longer})))
    assert kept.history is not None
    assert len(kept.history) == 0
