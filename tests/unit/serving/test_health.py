"""The model's features in health messages are split to fit into what nucleus lite carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_inference.delivery.encoding import dump
from ml_inference.model.bundle import Model
from ml_inference.model.manifest import Feature, Histogram
from ml_inference.serving.health import MAX_FEATURES, feature_parts


def test_features_are_split_to_fit_and_none_is_lost(model: Model) -> None:
    histogram = Histogram(edges=[0.0, 1.0, 2.0], counts=[1, 1])
    features = [Feature(name=f"sensor {number} " + "한" * 60, unit="A", histogram=histogram) for number in range(100)]
    many = replace(model, manifest=model.manifest.model_copy(update={"features": features}))
    parts = feature_parts(many, 2_000)
    assert len(parts) > 3
    assert all(sum(len(dump(entry)) + 1 for entry in part) <= 2_000 for part in parts)
    listed = [entry for part in parts for entry in part]
    assert [entry["name"] for entry in listed] == [feature.name for feature in features[:MAX_FEATURES]]
    assert (listed[0]["unit"], listed[0]["minimum"]) == ("A", None)
    assert (listed[0]["low"], listed[0]["high"]) == pytest.approx((0.1, 1.9))
