import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import Feature, ModelError
from ml_inference.workbench.writer import histogram, with_histograms, write_model

NAMES = ("Air temperature [K]", "Torque [Nm]", "Tool wear [min]")
FEATURES = [Feature(name=name) for name in NAMES]


def readings(rows: int = 400) -> np.ndarray:
    return np.random.default_rng(7).normal([300.0, 40.0, 100.0], [2.0, 10.0, 60.0], (rows, 3))


def booster(*, objective: str = "binary:logistic", classes: int | None = None, suffix: str = "ubj") -> bytes:
    """Trained on a plain array, so that it holds no feature names."""
    matrix = readings()
    signal = (matrix[:, 1] - 40.0) / 10.0 + 0.3 * (matrix[:, 0] - 300.0)
    label = np.digitize(signal, [0.0, 1.0]) if classes else (signal > 1.0) if "logistic" in objective else signal
    parameters = {"objective": objective, "max_depth": 3, "seed": 1} | ({"num_class": classes} if classes else {})
    trained = xgboost.train(parameters, xgboost.DMatrix(matrix, label=label), num_boost_round=20)
    return bytes(trained.save_raw(suffix))


def write(directory: Path, content: bytes | None = None, **fields: Any) -> None:
    arguments: dict[str, Any] = {
        "booster": content or booster(),
        "name": "wear",
        "version": "1.2.3",
        "features": FEATURES,
        "rows": readings(),
        "threshold": 0.5,
    }
    write_model(directory, **(arguments | fields))


def test_what_was_written_is_ready_on_a_device_and_scores_as_in_training(tmp_path: Path) -> None:
    write(tmp_path / "model", features=with_histograms(FEATURES, readings()), metrics={"roc_auc": 0.9})
    model = load_model(tmp_path / "model")
    assert model.manifest.feature_names == NAMES
    assert model.manifest.objective == "binary:logistic"
    assert model.manifest.metrics == {"roc_auc": 0.9}
    trained = xgboost.Booster()
    trained.load_model(bytearray(booster()))
    expected = trained.predict(xgboost.DMatrix(readings()))
    assert model.scorer.score(readings()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_golden_readings_cover_low_and_high_scores(tmp_path: Path) -> None:
    write(tmp_path / "model")
    scores = [golden.score for golden in load_model(tmp_path / "model").manifest.golden]
    assert 15 <= len(scores) <= 40
    assert np.min(scores) < 0.1
    assert np.max(scores) > 0.9


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 2)])
def test_two_features_swapped_in_the_manifest_are_caught_though_the_booster_holds_no_names(
    tmp_path: Path, pair: tuple[int, int]
) -> None:
    write(tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    document = json.loads(path.read_text())
    left, right = pair
    names = document["features"]
    names[left], names[right] = names[right], names[left]
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="golden"):
        load_model(tmp_path / "model")


def test_a_multi_class_model_has_golden_readings_for_each_class(tmp_path: Path) -> None:
    content = booster(objective="multi:softprob", classes=3)
    write(tmp_path / "model", content, classes=["good", "worn", "broken"], normal_class=0)
    manifest = load_model(tmp_path / "model").manifest
    assert {int(np.argmax(golden.score)) for golden in manifest.golden} == {0, 1, 2}


def test_a_regression_in_json_is_written_too(tmp_path: Path) -> None:
    content = booster(objective="reg:squarederror", suffix="json")
    write(tmp_path / "model", content, booster_file="booster.json", threshold=None)
    manifest = load_model(tmp_path / "model").manifest
    assert manifest.objective == "reg:squarederror"
    assert manifest.threshold is None


def test_golden_readings_are_the_numbers_that_people_see_in_their_table(tmp_path: Path) -> None:
    write(tmp_path / "model", rows=np.array([[300.1, 42.8, 0.0]], dtype=np.float32))
    (golden,) = load_model(tmp_path / "model").manifest.golden
    assert list(golden.reading.values()) == [300.1, 42.8, 0.0]


def test_readings_with_nan_are_never_golden(tmp_path: Path) -> None:
    rows = readings(10)
    rows[0, 0] = np.nan
    write(tmp_path / "model", rows=rows)
    assert len(load_model(tmp_path / "model").manifest.golden) == 9
    with pytest.raises(ModelError, match="no reading to score"):
        write(tmp_path / "other", rows=np.full((2, 3), np.nan))
    assert not (tmp_path / "other").exists()


def test_a_model_replaces_the_model_that_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "model", version="1.0.0")
    write(tmp_path / "model", version="2.0.0")
    assert load_model(tmp_path / "model").manifest.version == "2.0.0"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_refused_model_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "model", version="1.0.0")
    with pytest.raises(ModelError, match="version"):
        write(tmp_path / "model", version="not a version")
    assert load_model(tmp_path / "model").manifest.version == "1.0.0"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_number_of_features_that_is_not_the_boosters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the booster has 3, 2 are named"):
        write(tmp_path / "model", features=FEATURES[:2], rows=readings()[:, :2])


def test_bins_hold_about_equally_many_readings() -> None:
    drawn = histogram(np.random.default_rng(1).lognormal(size=10_000))
    assert len(drawn.counts) == 20
    assert sum(drawn.counts) == 10_000
    assert max(drawn.counts) - min(drawn.counts) <= 2


def test_a_switch_gets_a_bin_for_each_position() -> None:
    drawn = histogram(np.array([0.0, 0.0, 0.0, 1.0]))
    assert drawn.edges == [-0.5, 0.5, 1.5]
    assert drawn.counts == [3, 1]


def test_a_constant_sits_inside_its_only_bin() -> None:
    drawn = histogram(np.full(5, 107.94))
    assert drawn.counts == [5]
    assert drawn.edges[0] < 107.94 < drawn.edges[1]


def test_one_dominant_value_leaves_bins_for_the_others() -> None:
    values = np.concatenate((np.zeros(9_900), np.linspace(1.0, 2.0, 100)))
    drawn = histogram(values)
    assert len(drawn.counts) > 10
    assert sum(drawn.counts) == 10_000
