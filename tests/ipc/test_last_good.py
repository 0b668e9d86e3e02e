"""A start that meets a bad configuration or a bad model goes on with what was in force, and says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_inference.serving.exits import EXIT_CANNOT_START
from support.clocks import SECONDS, until
from support.line import Line
from support.models import NORMAL, train_small

MakeLine = Callable[..., Line]


def running(line: Line) -> dict[str, Any]:
    return line.health.until(lambda health: health["state"] == "running")


def ended(line: Line) -> int:
    assert line.process is not None
    return line.process.wait(SECONDS)


@pytest.mark.parametrize("bad", [{"MaxQueue": "lots"}, {"InputTopic": "forbidden/topic"}])
def test_a_configuration_that_is_wrong_at_a_restart_leaves_the_one_before_in_force(
    make_line: MakeLine, bad: dict[str, Any]
) -> None:
    line = make_line(start=False)
    line.configure(Threshold=0.25)
    line.start()
    line.finish()
    line.configure(**bad)
    line.start(wait=False)
    health = line.health.until(lambda health: health["state"] == "running" and health["problems"])
    assert next(iter(bad)) in "".join(health["problems"].values())
    line.send_json(NORMAL)
    assert line.results.next()["threshold"] == 0.25
    line.configure(MaxQueue=5, InputTopic="ml/inference/request")
    assert line.health.until(lambda health: not health["problems"])


@pytest.mark.parametrize("profile", ["lite"])
def test_at_the_first_start_a_wrong_configuration_ends_it(make_line: MakeLine) -> None:
    line = make_line(start=False)
    line.configure(MaxQueue="lots")
    line.start(wait=False)
    assert ended(line) == EXIT_CANNOT_START
    assert line.says("exit 1: configuration: MaxQueue")


@pytest.mark.parametrize("profile", ["lite"])
def test_a_model_that_is_damaged_at_a_restart_leaves_the_one_before_in_force(
    make_line: MakeLine, model_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_directory, model)
    line = make_line(model=model)
    line.finish()
    booster = (model / "booster.ubj").read_bytes()
    (model / "booster.ubj").write_bytes(booster[:-1] + b"!")
    line.start(wait=False)
    assert "checksum" in running(line)["problems"]["model"]
    line.send_json(NORMAL)
    assert line.results.next()["model"]["version"] == "1.0.0"
    (model / "booster.ubj").write_bytes(booster)
    assert line.health.until(lambda health: not health["problems"])["model"]["directory"] == str(model)


@pytest.mark.parametrize("profile", ["lite"])
def test_a_kept_model_must_be_signed_like_any_other(make_line: MakeLine) -> None:
    line = make_line()
    line.finish()
    line.start(wait=False, TrustedKeys=["A" * 43 + "="])
    assert ended(line) == EXIT_CANNOT_START
    assert line.says("not signed")


@pytest.mark.parametrize("profile", ["lite"])
def test_a_model_that_is_deployed_a_little_later_is_waited_for(make_line: MakeLine, tmp_path: Path) -> None:
    model = tmp_path / "current"
    line = make_line(start=False, model=model)
    line.start(wait=False)
    health = line.health.until(lambda health: health["problems"])
    assert health["state"] == "starting"
    assert "cannot read" in health["problems"]["model"]
    train_small(tmp_path / "new").rename(model)
    assert running(line)["problems"] == {}
    line.send_json(NORMAL)
    assert "score" in line.results.next()


@pytest.mark.parametrize("profile", ["lite"])
def test_but_not_for_ever(make_line: MakeLine, tmp_path: Path) -> None:
    line = make_line(start=False, model=tmp_path / "nothing")
    line.start(wait=False, timing={"model_wait": 0.2})
    assert ended(line) == EXIT_CANNOT_START
    assert line.says(f"exit 1: model {tmp_path / 'nothing'}: manifest: cannot read")


@pytest.mark.parametrize("profile", ["lite"])
def test_what_is_kept_is_nobody_elses(line: Line) -> None:
    line.finish()
    kept = line.work / "last-good"
    assert kept.stat().st_mode & 0o077 == 0
    assert {path.name for path in kept.iterdir()} == {"configuration.json", "model"}


@pytest.mark.parametrize("profile", ["lite"])
def test_a_model_with_which_the_process_dies_again_and_again_gives_way_to_the_one_before(
    make_line: MakeLine, tmp_path: Path
) -> None:
    versions = {version: train_small(tmp_path / version, version=version) for version in ("1.0.0", "2.0.0", "3.0.0")}
    current = tmp_path / "current"
    current.symlink_to(versions["1.0.0"])
    line = make_line(model=current)
    line.finish()

    def deploy(version: str) -> None:
        (tmp_path / "new").symlink_to(versions[version])
        (tmp_path / "new").replace(current)

    deploy("2.0.0")
    for readings in (300, 0, 300, 0, 0):  # a death after many readings is no fault of the model, and ends the row
        line.start(wait=False, timing={"model_poll": 0.02})
        line.health.until(lambda health: health["state"] == "running" and health["model"]["version"] == "2.0.0")
        line.send_all([NORMAL] * readings)
        trial = line.work / "last-good" / "trial.json"
        until(lambda: ('"running": true' in trial.read_text()) != bool(readings), "the trial is not what it should be")  # noqa: B023
        line.kill()
    line.start(wait=False)
    health = line.health.until(lambda health: health["state"] == "running" and health["problems"])
    assert health["model"]["version"] == "1.0.0"
    assert "the process died 2 times in a row with this model" in health["problems"]["model"]
    # It stays so over restarts, until there is another model, which is kept when it has served.
    line.finish()
    line.start(wait=False, timing={"served": 0.0})
    assert running(line)["model"]["version"] == "1.0.0"
    deploy("3.0.0")
    line.health.until(lambda health: health["model"]["version"] == "3.0.0")
    kept = line.work / "last-good" / "model" / "manifest.json"
    assert '"1.0.0"' in kept.read_text()
    line.send_all([NORMAL] * 100)
    until(lambda: kept.exists() and '"3.0.0"' in kept.read_text(), "it was not kept")
