"""The model in the artifact, judged by a fleet that it never saw."""

from pathlib import Path

import numpy as np
import pytest

from ml_inference.model.bundle import Model, load_model
from ml_inference.workbench.training.metrics import ranking
from sensor_simulator import LABEL, SENSORS, Fleet

SHIPPED = Path(__file__).parents[2] / "artifacts" / "model"
REAL_READING = {
    "rVibration_Temp": 69.71,
    "rVibration_Z_RMS_Velocity": 89.42,
    "rVibration_X_RMS_Velocity": 50.58,
    "wRMSCurrent": 106.94,
    "wCurrentLoad": 107.94,
    "wEncoderVelocity": 25.88,
}


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load_model(SHIPPED)


def test_it_expects_the_six_sensors_with_units_limits_and_distributions(shipped: Model) -> None:
    manifest = shipped.manifest
    assert (manifest.name, manifest.version, manifest.objective) == ("cylinder-anomaly", "1.0.0", "binary:logistic")
    assert manifest.feature_names == SENSORS
    assert [feature.unit for feature in manifest.features] == ["degC", "mm/s", "mm/s", "A", "%", "RPM"]
    for feature in manifest.features:
        assert feature.histogram is not None
        assert feature.minimum is not None
        assert feature.maximum is not None
        assert feature.minimum <= feature.histogram.edges[0]
        assert feature.maximum >= feature.histogram.edges[-1]


def test_it_is_small_and_its_golden_readings_are_of_both_kinds(shipped: Model) -> None:
    assert (SHIPPED / shipped.manifest.booster.file).stat().st_size < 500_000
    assert {path.name for path in SHIPPED.iterdir()} == {"manifest.json", "booster.ubj"}
    threshold = shipped.manifest.threshold
    assert threshold is not None
    scores = np.array([golden.score for golden in shipped.manifest.golden])
    assert (scores >= threshold).sum() >= 3
    assert (scores < threshold).sum() >= 3


def test_the_published_reading_of_a_real_line_is_well_inside_the_limits_and_normal(shipped: Model) -> None:
    for feature in shipped.manifest.features:
        assert feature.minimum is not None
        assert feature.maximum is not None
        room = 0.1 * (feature.maximum - feature.minimum)
        value = REAL_READING[feature.name]
        assert value - feature.minimum > min(room, 20.0)
        assert feature.maximum - value > room
    (score,) = shipped.scorer.score([shipped.manifest.row(REAL_READING)])
    assert isinstance(score, float)
    assert score < (shipped.manifest.threshold or 0.0)


def test_its_figures_hold_on_a_fleet_that_did_not_exist_when_it_was_trained(shipped: Model) -> None:
    # Three weeks of 60 machines, a reading every 20 minutes.
    rows = list(Fleet(machines=60, seed=424_242).rows(seconds=21 * 86_400, step=1_200.0))
    matrix = np.array([[row[name] for name in SENSORS] for row in rows], dtype=np.float32)
    truth = np.array([row[LABEL] for row in rows], dtype=np.float64)
    scores = np.array(shipped.scorer.score(matrix), dtype=np.float64)
    held_out = shipped.manifest.metrics["held_out"]
    roc_auc, pr_auc = (figure(np.ones(len(rows))) for figure in ranking(truth, scores))
    assert roc_auc == pytest.approx(held_out["roc_auc"], abs=0.015)
    assert pr_auc == pytest.approx(held_out["pr_auc"], abs=0.06)
    assert 0.93 < roc_auc < 0.985
    assert shipped.manifest.threshold is not None
    verdict = scores >= shipped.manifest.threshold
    assert (truth * verdict).sum() / truth.sum() == pytest.approx(held_out["recall"], abs=0.08)
    assert (truth * verdict).sum() / verdict.sum() == pytest.approx(held_out["precision"], abs=0.08)
    # Nothing that the simulator sends is beyond what the sensors can measure.
    for column, feature in enumerate(shipped.manifest.features):
        assert matrix[:, column].min() >= (feature.minimum or 0.0)
        assert matrix[:, column].max() <= (feature.maximum or 0.0)
