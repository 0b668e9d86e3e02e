from __future__ import annotations

import json
import logging
import shutil
import stat
from pathlib import Path

import pytest

from ml_inference.model.bundle import load_model
from ml_inference.serving.last_good import LastGood
from support.models import train_small


@pytest.fixture
def kept(tmp_path: Path) -> LastGood:
    return LastGood(tmp_path / "work" / "last-good")


def test_before_anything_was_kept_there_is_nothing(kept: LastGood) -> None:
    assert kept.configuration() is None
    assert not kept.model_directory.exists()


def test_a_configuration_comes_back_as_it_was_and_a_newer_one_takes_its_place(kept: LastGood, tmp_path: Path) -> None:
    kept.keep_configuration({"Threshold": "0.7", "accessControl": {"a": []}})
    kept.keep_configuration({"Threshold": "0.8"})
    assert LastGood(tmp_path / "work" / "last-good").configuration() == {"Threshold": "0.8"}
    assert stat.S_IMODE((tmp_path / "work" / "last-good").stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_damaged_configuration_is_none(kept: LastGood, content: str) -> None:
    kept.keep_configuration({"Threshold": 0.5})
    kept._configuration.write_text(content)
    assert kept.configuration() is None


def test_a_model_is_kept_whole_with_its_signature_and_replaced_by_the_next(kept: LastGood, tmp_path: Path) -> None:
    first = train_small(tmp_path / "first")
    (first / "manifest.sig").write_text("signature")
    (first / "report.html").write_text("for people")
    kept.keep_model(load_model(first))
    assert load_model(kept.model_directory).manifest == load_model(first).manifest
    assert {path.name for path in kept.model_directory.iterdir()} == {"manifest.json", "manifest.sig", "booster.ubj"}
    second = train_small(tmp_path / "second", version="2.0.0")
    kept.keep_model(load_model(second))
    shutil.rmtree(second)
    assert load_model(kept.model_directory).manifest.version == "2.0.0"
    assert not (kept.model_directory / "manifest.sig").exists()


def test_the_same_model_is_not_written_again(kept: LastGood, model_directory: Path) -> None:
    kept.keep_model(load_model(model_directory))
    before = (kept.model_directory / "booster.ubj").stat().st_ino
    kept.keep_model(load_model(model_directory))
    assert (kept.model_directory / "booster.ubj").stat().st_ino == before


def test_what_cannot_be_written_is_said_and_harms_nothing(
    tmp_path: Path, model_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = LastGood(tmp_path / "file" / "last-good")
    with caplog.at_level(logging.WARNING):
        kept.keep_configuration({})
        kept.keep_model(load_model(model_directory))
    assert caplog.text.count("cannot be kept") == 2
    assert kept.configuration() is None


def test_a_tree_with_any_json_in_it_comes_back(kept: LastGood) -> None:
    tree = {"a": [1, 2.5, None, True, "ü\ud800"], "b": {"c": {}}}
    kept.keep_configuration(tree)
    assert kept.configuration() == tree == json.loads(json.dumps(tree))


def test_what_an_interrupted_copy_left_is_not_taken_for_part_of_the_model(
    kept: LastGood, tmp_path: Path, model_directory: Path
) -> None:
    leftover = kept.model_directory.with_name("model.new")
    leftover.mkdir(parents=True)
    (leftover / "manifest.sig").write_text("of another model")
    kept.keep_model(load_model(model_directory))
    assert {path.name for path in kept.model_directory.iterdir()} == {"manifest.json", "booster.ubj"}
    assert not leftover.exists()


def test_a_copy_is_refreshed_when_anything_of_the_model_differs(kept: LastGood, tmp_path: Path) -> None:
    model = train_small(tmp_path / "model")
    (model / "manifest.sig").write_text("by the old key")
    loaded = load_model(model)
    kept.keep_model(loaded)
    (model / "manifest.sig").write_text("by a new key")
    assert not kept.begin_trial(loaded)  # the same model, so nothing has to prove itself
    assert (kept.model_directory / "manifest.sig").read_text() == "by a new key"
    booster = kept.model_directory / "booster.ubj"
    booster.write_bytes(booster.read_bytes()[:-10])
    kept.begin_trial(loaded)
    assert booster.read_bytes() == (model / "booster.ubj").read_bytes()


def test_a_model_is_on_trial_until_it_has_served_and_the_one_before_is_kept_meanwhile(
    kept: LastGood, tmp_path: Path
) -> None:
    first, second = (load_model(train_small(tmp_path / version, version=version)) for version in ("1.0.0", "2.0.0"))
    assert not kept.begin_trial(first)
    assert kept.begin_trial(second)
    assert load_model(kept.model_directory).manifest.version == "1.0.0"
    kept.keep_model(second)
    assert load_model(kept.model_directory).manifest.version == "2.0.0"
    assert kept.deaths(second) == 0


def test_deaths_count_by_model_and_an_end_that_was_meant_is_none(kept: LastGood, tmp_path: Path) -> None:
    first, second, third = (
        load_model(train_small(tmp_path / version, version=version)) for version in ("1.0.0", "2.0.0", "3.0.0")
    )
    kept.keep_model(first)
    for deaths in range(3):
        assert LastGood(tmp_path / "work" / "last-good").deaths(second) == deaths
        kept.begin_trial(second)
    assert kept.deaths(second) == 3
    LastGood(tmp_path / "work" / "last-good").end()  # of a process that had nothing on trial
    assert kept.deaths(second) == 3
    kept.end()
    assert kept.deaths(second) == 0
    kept.begin_trial(second)
    kept.begin_trial(third)
    assert (kept.deaths(second), kept.deaths(third)) == (0, 1)
    kept._trial.write_text("{")
    assert kept.deaths(third) == 0


def test_a_copy_that_was_interrupted_between_its_two_renames_is_there_again(kept: LastGood, tmp_path: Path) -> None:
    kept.keep_model(load_model(train_small(tmp_path / "model")))
    kept.model_directory.rename(kept.model_directory.with_name("model.old"))
    assert load_model(LastGood(tmp_path / "work" / "last-good").model_directory).manifest.version == "1.0.0"
