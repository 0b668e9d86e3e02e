import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xgboost

from ml_inference.model import bundle
from ml_inference.model.bundle import booster_version, load_model, parse_booster
from ml_inference.model.manifest import Feature, ModelError, read_manifest
from ml_inference.workbench.writer import write_model
from support.damage import copy_of, edit_manifest, replace_booster
from support.models import SIX, train_small


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    return copy_of(model_directory, tmp_path / "model")


@pytest.fixture
def no_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(_: bytes) -> xgboost.Booster:
        pytest.fail("the booster reached XGBoost")

    monkeypatch.setattr(bundle, "parse_booster", reached)


def nameless(directory: Path) -> Path:
    """A model whose booster holds no feature names, so that only the golden scores know the order."""
    random = np.random.default_rng(2)
    rows = random.normal(50.0, 10.0, (500, 6))
    label = (rows @ [3.0, -2.0, 1.0, 0.5, -1.0, 2.0]) > 175.0
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(rows, label=label), 20)
    features = [Feature(name=feature.name) for feature in SIX]
    write_model(directory, booster=bytes(booster.save_raw("ubj")), name="n", version="1", features=features, rows=rows)
    return directory


def with_version(booster: bytes, major: int, minor: int, patch: int) -> bytes:
    start = booster.rindex(b"version")
    return (
        booster[:start]
        + b"version[#L"
        + (3).to_bytes(8, "big")
        + bytes(byte for part in (major, minor, patch) for byte in (ord("i"), part))
        + b"}"
    )


def test_a_flip_of_any_bit_of_the_booster_is_caught_by_its_checksum(copied: Path, no_xgboost: None) -> None:
    path = copied / "booster.ubj"
    checksum = read_manifest(copied).booster.sha256
    content = bytearray(path.read_bytes())
    bits = len(content) * 8
    assert bits > 50_000
    for bit in range(bits):
        content[bit // 8] ^= 1 << bit % 8
        assert bundle.sha256(bytes(content)) != checksum
        # All of them through the checksum, and some from the file on disk.
        if bit % 997 == 0:
            path.write_bytes(content)
            with pytest.raises(ModelError, match=r"^checksum: "):
                load_model(copied)
        content[bit // 8] ^= 1 << bit % 8
    assert bundle.sha256(bytes(content)) == checksum


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_booster_is_caught_by_its_checksum(copied: Path, no_xgboost: None, kept: int) -> None:
    path = copied / "booster.ubj"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"^checksum: "):
        load_model(copied)


@pytest.mark.parametrize("pair", list(itertools.combinations(range(6), 2)))
def test_two_features_swapped_in_the_manifest_are_caught_by_the_names_in_the_booster(
    copied: Path, pair: tuple[int, int]
) -> None:
    swap(copied, *pair)
    with pytest.raises(ModelError, match=f"^features: column {pair[0]} is "):
        load_model(copied)


def test_two_features_swapped_in_the_manifest_are_caught_by_golden_scores_where_the_booster_holds_no_names(
    tmp_path: Path,
) -> None:
    model = nameless(tmp_path / "model")
    for left, right in itertools.combinations(range(6), 2):
        swap(model, left, right)
        with pytest.raises(ModelError, match=r"^golden: reading "):
            load_model(model)
        swap(model, left, right)
    load_model(model)


def swap(directory: Path, left: int, right: int) -> None:
    features = json.loads((directory / "manifest.json").read_text())["features"]
    features[left], features[right] = features[right], features[left]
    edit_manifest(directory, features=features)


def test_a_newer_version_in_the_manifest_is_refused(copied: Path, no_xgboost: None) -> None:
    edit_manifest(copied, xgboost_version="4.0.0")
    with pytest.raises(ModelError, match=r"^manifest: written by xgboost 4\.0\.0, this is xgboost 3\."):
        load_model(copied)


def test_a_newer_version_in_the_booster_is_refused_though_the_checksum_is_right(copied: Path, no_xgboost: None) -> None:
    replace_booster(copied, with_version((copied / "booster.ubj").read_bytes(), 3, 99, 0))
    with pytest.raises(ModelError, match=r"^booster: written by xgboost 3\.99\.0, this is xgboost 3\."):
        load_model(copied)


def test_a_booster_that_is_older_than_its_manifest_says_is_refused(copied: Path, no_xgboost: None) -> None:
    edit_manifest(copied, xgboost_version="1.6.2")
    with pytest.raises(ModelError, match=r"the manifest says 1\.6\.2: one of them was altered"):
        load_model(copied)


def test_a_booster_without_a_version_is_refused(copied: Path, no_xgboost: None) -> None:
    content = (copied / "booster.ubj").read_bytes()
    replace_booster(copied, content[: content.rindex(b"version") - 3])
    with pytest.raises(ModelError, match=r"^booster: does not say which xgboost wrote it"):
        load_model(copied)


@pytest.mark.parametrize("suffix", ["ubj", "json"])
def test_the_version_is_read_from_both_formats(model_directory: Path, suffix: str) -> None:
    booster = parse_booster((model_directory / "booster.ubj").read_bytes())
    assert booster_version(bytes(booster.save_raw(suffix))) == xgboost.__version__


def test_a_version_is_read_whatever_the_size_of_its_numbers() -> None:
    content = b'{"learner":{}, "version" : [ 12 , 300, 7 ]}'
    assert booster_version(content) == "12.300.7"
    assert booster_version(b"{L\x00\x07version[I\x01\x2cU\x02l\x00\x00\x00\x03]}") == "300.2.3"
    assert booster_version(b'{"learner":{"feature_names":["version"]}}') is None


def test_a_booster_that_xgboost_refuses_gives_one_line(copied: Path) -> None:
    replace_booster(copied, b'{"learner":1,"version":[3,2,0]}')
    edit_manifest(copied, xgboost_version="3.2.0")
    with pytest.raises(ModelError, match=r"^booster: xgboost 3\.\S+ cannot load it: [^\n]+$"):
        load_model(copied)


def test_another_number_of_features_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    for golden in manifest["golden"]:
        del golden["reading"]["wEncoderVelocity"]
    edit_manifest(copied, features=manifest["features"][:-1], golden=manifest["golden"])
    with pytest.raises(ModelError, match=r"^features: the booster has 6, the manifest 5"):
        load_model(copied)


def test_another_objective_is_refused(copied: Path) -> None:
    edit_manifest(copied, objective="reg:squarederror")
    with pytest.raises(ModelError, match=r"^objective: the booster's is 'binary:logistic'"):
        load_model(copied)


def test_a_golden_score_that_differs_is_refused(copied: Path) -> None:
    golden = json.loads((copied / "manifest.json").read_text())["golden"]
    golden[3]["score"] += 2e-5
    edit_manifest(copied, golden=golden)
    with pytest.raises(ModelError, match=r"^golden: reading 3 scores "):
        load_model(copied)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    directory = train_small(tmp_path / "model", objective="multi:softprob", classes=3)
    edit_manifest(directory, classes=["a", "b"])
    with pytest.raises(ModelError, match=r"^classes: the manifest names 2, the booster has 3"):
        load_model(directory)


def test_a_manifest_that_is_not_the_expected_one_is_refused(copied: Path, no_xgboost: None) -> None:
    expected = read_manifest(copied)
    edit_manifest(copied, version="6.6.6")
    with pytest.raises(ModelError, match="changed while the model was being checked"):
        load_model(copied, expected=expected)


@pytest.mark.parametrize("name", ["manifest.json", "booster.ubj"])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ModelError, match=f"cannot read .*{name}: No such file"):
        load_model(copied)


@pytest.mark.parametrize("name", ["manifest.json", "booster.ubj"])
def test_a_named_pipe_in_place_of_a_file_does_not_hang_the_loader(copied: Path, name: str) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(ModelError, match=f"{name} is not a file"):
        load_model(copied)
