"""Another model while readings are scored: each result was scored by the model that it names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from ml_inference.model.bundle import load_model
from support.clocks import until
from support.line import Line
from support.models import ABNORMAL, NORMAL, train_small

MakeLine = Callable[..., Line]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models by version that score the same reading differently."""
    directory = tmp_path_factory.mktemp("models")
    return {
        version: train_small(directory / version, version=version, seed=seed)
        for seed, version in enumerate(("1.0.0", "2.0.0", "3.0.0"))
    }


@pytest.fixture(scope="module")
def scores(models: dict[str, Path]) -> dict[str, float]:
    """What each scores a normal reading with."""
    scores = {}
    for version, directory in models.items():
        model = load_model(directory)
        (score,) = model.scorer.score([tuple(NORMAL.values())])
        assert isinstance(score, float)
        scores[version] = float(f"{score:.9g}")
    assert len(set(scores.values())) == 3
    return scores


def turn(link: Path, target: Path) -> None:
    """Put another directory behind a link, in one step, as the model component does."""
    new = link.with_name(link.name + ".new")
    new.symlink_to(target)
    new.replace(link)


def in_use(line: Line, version: str) -> dict[str, Any]:
    return line.health.until(lambda health: health["model"]["version"] == version)


def refused(line: Line) -> str:
    health = line.health.until(lambda health: "model" in health["problems"])
    problem: str = health["problems"]["model"]
    return problem


@pytest.mark.parametrize("profile", ["lite"])
def test_a_hundred_swaps_under_load_lose_nothing_and_each_result_names_the_model_that_scored_it(
    make_line: MakeLine, models: dict[str, Path], scores: dict[str, float], tmp_path: Path
) -> None:
    link = tmp_path / "model"
    turn(link, models["1.0.0"])
    line = make_line(model=link, timing={"tick": 0.01, "model_poll": 0.01}, CloudPublish="none")
    enough = Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not enough.wait(0.003):
            line.send_json(NORMAL | {"correlation_id": sent})
            sent += 1

    sender = Thread(target=send)
    sender.start()
    try:
        for number in range(1, 101):
            version = f"{number % 3 + 1}.0.0"
            turn(link, models[version])
            in_use(line, version)
    finally:
        enough.set()
        sender.join()
    counts = line.finish()["counters"]
    results = line.results.here()
    assert [result["correlation_id"] for result in results] == list(range(sent))
    assert counts["scored"] == sent > 100
    named = [result["model"]["version"] for result in results]
    assert [result["score"] for result in results] == [scores[version] for version in named]
    changes = sum(before != after for before, after in pairwise(named))
    assert 50 < changes <= 100  # two swaps may come between two readings


@pytest.mark.parametrize("profile", ["classic"])
def test_a_new_model_is_checked_in_a_child_process_and_a_bad_one_leaves_the_old_one_in_force(
    make_line: MakeLine, models: dict[str, Path], scores: dict[str, float], tmp_path: Path
) -> None:
    link, damaged = tmp_path / "model", tmp_path / "damaged"
    turn(link, models["1.0.0"])
    line = make_line(model=link, child=True)
    damaged.mkdir()
    for file in models["2.0.0"].iterdir():
        (damaged / file.name).write_bytes(file.read_bytes().replace(b'"2.0.0"', b'"2.0.1"'))
    booster = damaged / "booster.ubj"
    booster.write_bytes(booster.read_bytes()[:-1] + b"!")
    turn(link, damaged)
    assert "checksum" in refused(line)
    line.send_json(NORMAL)
    assert line.results.next()["score"] == scores["1.0.0"]
    turn(link, models["2.0.0"])
    assert in_use(line, "2.0.0")["problems"] == {}
    line.send_json(NORMAL)
    assert line.results.next()["score"] == scores["2.0.0"]
    turn(link, models["3.0.0"])
    until(lambda: child_processes(line), "no child process checks the model")
    assert line.terminate() == 0  # in the middle of that


def child_processes(line: Line) -> list[psutil.Process]:
    assert line.process is not None
    return psutil.Process(line.process.pid).children()


def test_the_configuration_names_another_model_directory(
    make_line: MakeLine, models: dict[str, Path], scores: dict[str, float], tmp_path: Path
) -> None:
    line = make_line(start=False)
    line.configure(ModelDirectory=str(models["1.0.0"]))
    line.start(choose_model=False)
    line.configure(ModelDirectory=str(models["2.0.0"]))
    in_use(line, "2.0.0")
    line.configure(ModelDirectory=str(tmp_path / "nothing"))
    assert "cannot read" in refused(line)
    line.send_json(NORMAL)
    assert line.results.next()["score"] == scores["2.0.0"]
    line.configure(ModelDirectory=str(models["3.0.0"]))
    assert in_use(line, "3.0.0")["problems"] == {}


@pytest.mark.parametrize("profile", ["lite"])
def test_a_directory_that_is_replaced_file_by_file_is_taken_when_it_is_whole(
    make_line: MakeLine, models: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    for file in models["1.0.0"].iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    line = make_line(model=directory, HealthIntervalSeconds=1)
    (directory / "manifest.json").unlink()
    line.health.here()
    assert "model" not in line.health.take(2)[1]["problems"]  # it has looked several times
    (directory / "booster.ubj").write_bytes((models["2.0.0"] / "booster.ubj").read_bytes())
    line.send_json(NORMAL)
    assert line.results.next()["model"]["version"] == "1.0.0"
    (directory / "manifest.json").write_bytes((models["2.0.0"] / "manifest.json").read_bytes()[:-20])
    assert "manifest" in refused(line)
    (directory / "manifest.json").write_bytes((models["2.0.0"] / "manifest.json").read_bytes())
    assert in_use(line, "2.0.0")["problems"] == {}


@pytest.mark.parametrize("profile", ["lite"])
def test_a_challenger_scores_the_same_readings_in_silence_until_it_is_dismissed(
    make_line: MakeLine, models: dict[str, Path], scores: dict[str, float], tmp_path: Path
) -> None:
    line = make_line(model=models["1.0.0"], HealthIntervalSeconds=1)
    line.configure(Challenger=str(models["2.0.0"]))
    line.health.until(lambda health: health.get("challenger"))
    for reading in (NORMAL, ABNORMAL, NORMAL, {}):
        line.send_json(reading)
    line.send_json([NORMAL, {}, NORMAL])
    assert [result.get("score") for result in line.results.take(4)][::2] == [scores["1.0.0"]] * 2
    challenger = line.health.until(lambda health: health["counters"]["queued"] == 0 < health["counters"]["scored"])[
        "challenger"
    ]
    assert challenger["model"] == {"name": "small", "version": "2.0.0"}
    assert (challenger["compared"], challenger["agreement"], challenger["refused"]) == (5, 1.0, 0)
    assert challenger["mean_score_difference"] > 0
    line.configure(Challenger=str(tmp_path))
    problem = line.health.until(lambda health: "challenger" in health["problems"])
    assert "manifest" in problem["problems"]["challenger"]
    line.configure(Challenger="")
    line.health.until(lambda health: "challenger" not in health["problems"] and "challenger" not in health)
