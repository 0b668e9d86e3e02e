"""The truth of a story agrees with its readings, and a seed's story stays what it was."""

import csv
import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest

from sensor_simulator import LABEL, SENSORS, Fleet, Truth
from sensor_simulator.cli import main
from sensor_simulator.fleet import Row

DAY_S = 86_400.0


def stamp(row: Row) -> datetime:
    return datetime.fromisoformat(str(row["timestamp"]).replace("Z", "+00:00"))


def told(step: float, accelerate: float = 1.0) -> tuple[list[Row], list[Truth]]:
    fleet = Fleet(machines=4, seed=11, fault_rate=1.5, accelerate=accelerate)
    seconds = 12 * DAY_S / accelerate
    return list(fleet.rows(seconds=seconds, step=step / accelerate)), fleet.truth(
        seconds=seconds, step=step / accelerate
    )


@pytest.mark.parametrize(
    ("story", "digest"),
    [
        (["--machines", "3", "--seconds", "600"], "6f673de12bcab03497dce7ae06fe29a9d84430f9aaa960ecc3df42d9694079f5"),
        (
            ["--machines", "6", "--seed", "11", "--fault-rate", "1.5", "--seconds", "1728000", "--rate", "0.00055555"],
            "be46ac4d97c114fc0671f2df6058ef524bf38e0e628d10093110a2aec220f79e",
        ),
        (
            ["--seed", "5", "--fault-rate", "2", "--fault", "stuck_sensor", "--seconds", "345600", "--rate", "0.001"],
            "7aa10a7c703a56120d623cba097631d58ff485b4fa97c841e96dd3574a77f4b6",
        ),
    ],
)
def test_the_default_story_of_a_seed_is_the_same_byte_for_byte(story: list[str], digest: str, tmp_path: Path) -> None:
    out = tmp_path / "story.csv"
    assert main([*story, "--out", str(out)]) == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("accelerate", [1.0, 1800.0])
def test_the_truth_says_of_every_reading_what_its_row_says(accelerate: float) -> None:
    rows, truths = told(600.0, accelerate)
    assert len({truth.episode for truth in truths}) == len(truths) > 12
    assert {truth.fault for truth in truths} == {row["fault"] for row in rows} - {""}
    for truth in truths:
        assert truth.label is not None
        own = [row for row in rows if row["equipment_id"] == truth.equipment_id]
        within = [row for row in own if truth.onset <= stamp(row) < truth.repair]
        assert within == [row for row in own if row["episode"] == truth.episode]
        assert {row["fault"] for row in within} == {truth.fault}
        assert [row[LABEL] for row in within] == [float(stamp(row) >= truth.label) for row in within]
        standing = [row for row in own if truth.repair <= stamp(row) < truth.back]
        assert {row["wEncoderVelocity"] for row in standing} <= {0.0}


def test_a_stuck_sensors_truth_names_the_sensor_that_sticks() -> None:
    fleet = Fleet(machines=6, seed=3, fault_rate=1.0, fault="stuck_sensor")
    rows = list(fleet.rows(seconds=8 * DAY_S, step=300.0))
    truths = fleet.truth(seconds=8 * DAY_S, step=300.0)
    assert len(truths) > 8
    for truth in truths:
        assert truth.kind == "sensor"
        stuck = [row for row in rows if row["episode"] == truth.episode and stamp(row) >= truth.full]
        if len(stuck) < 5:
            continue
        frozen = {sensor for sensor in SENSORS if len({row[sensor] for row in stuck}) == 1}
        assert set(truth.sensors) <= frozen


def test_an_episode_between_two_readings_is_not_in_the_truth() -> None:
    fleet = Fleet(machines=6, seed=3, fault_rate=3.0)
    rows, truths = list(fleet.rows(seconds=60 * DAY_S, step=DAY_S)), fleet.truth(seconds=60 * DAY_S, step=DAY_S)
    assert {truth.episode for truth in truths} == {row["episode"] for row in rows} - {""}


def test_an_accelerated_storys_timestamps_follow_the_story() -> None:
    (slow, _), (fast, _) = told(600.0), told(600.0, accelerate=1800.0)
    assert [row["timestamp"] for row in fast] == [row["timestamp"] for row in slow]


def test_the_command_writes_the_truth_beside_the_readings(tmp_path: Path) -> None:
    options = ["--machines", "3", "--seconds", str(5 * DAY_S), "--rate", "0.001", "--fault-rate", "1"]
    out, episodes = tmp_path / "data.csv", tmp_path / "episodes.jsonl"
    assert main([*options, "--out", str(out), "--episodes", str(episodes)]) == 0
    lines = [json.loads(line) for line in episodes.read_text(encoding="utf-8").splitlines()]
    with out.open(encoding="utf-8", newline="") as file:
        assert {line["episode"] for line in lines} == {row["episode"] for row in csv.DictReader(file)} - {""}
    assert set(lines[0]) == {
        *("equipment_id", "episode", "kind", "fault", "sensors", "onset", "label", "labelled", "full", "repair", "back")
    }
    for line in lines:
        assert line["onset"] < line["label"] < line["full"] < line["repair"] < line["back"]


def test_the_truth_is_for_files(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--ipc", "--episodes", "x.jsonl"]) == 2
    assert "--episodes" in caplog.text
