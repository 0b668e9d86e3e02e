"""Which stretches of a table are episodes, and what a forecast's label is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.episodes import (
    Episode,
    Series,
    forecast_label,
    label_episodes,
    read_episodes,
    series,
    within,
    without_sensor_faults,
)


def drawn(text: str, mark: str = "x") -> npt.NDArray[np.bool_]:
    return np.array([letter == mark for letter in text])


def one_machine(length: int, step: float = 60.0) -> Series:
    return series(np.full(length, "m"), np.arange(float(length)) * step)


def found(text: str, **options: float) -> list[tuple[float, float | None, float]]:
    episodes = label_episodes(one_machine(len(text)), drawn(text), **options)  # type: ignore[arg-type]  # horizon alone
    return [(episode.onset, episode.label, episode.repair) for episode in episodes]


def test_rows_are_sorted_by_machine_and_time_whatever_their_order_in_the_table() -> None:
    machines = np.array(["b", "a", "b", "a", "b"])
    table = series(machines, np.array([3.0, 2.0, 1.0, 1.0, 2.0]))
    assert table.machines == ("a", "b")
    assert table.rows.tolist() == [3, 1, 2, 4, 0]
    assert table.step == 1.0
    assert [(name, part.start, part.stop) for name, part in table.parts()] == [("a", 0, 2), ("b", 2, 5)]


def test_an_episode_is_a_stretch_of_abnormal_label_and_may_be_forecast_one_horizon_before() -> None:
    assert found("..xxx....x..") == [(120.0, 120.0, 240.0), (540.0, 540.0, 540.0)]
    assert found("..xxx....x..", horizon=90.0)[0] == (30.0, 120.0, 240.0)


def test_a_flicker_of_the_label_does_not_end_an_episode() -> None:
    assert found("..xxx..xxx..") == [(120.0, 120.0, 540.0)]
    assert len(found("..xxx...xxx..")) == 2


def test_a_long_pause_ends_an_episode_and_no_episode_reaches_into_another_machine() -> None:
    table = series(np.array(["a"] * 4 + ["b"] * 2), np.array([0.0, 60.0, 7200.0, 7260.0, 0.0, 60.0]))
    episodes = label_episodes(table, np.ones(6, dtype=bool))
    assert [(e.machine, e.onset, e.repair) for e in episodes] == [
        ("a", 0.0, 60.0),
        ("a", 7200.0, 7260.0),
        ("b", 0.0, 60.0),
    ]
    assert table.observed(slice(0, 4)) == 120.0


def test_a_broken_sensors_episodes_stand_beside_the_equipments() -> None:
    episodes = label_episodes(one_machine(10), drawn("..xx......"), horizon=60.0, sensor_fault=drawn(".......xx."))
    assert [(e.kind, e.onset, e.repair) for e in episodes] == [("equipment", 60.0, 180.0), ("sensor", 420.0, 480.0)]


def test_a_label_within_a_sensors_fault_is_the_sensors_and_one_that_reaches_beyond_it_is_the_machines() -> None:
    label = drawn("..xxx.....xxxxx..")
    broken = drawn(".xxxxx.....xxx...")
    assert without_sensor_faults(one_machine(17), label, broken).tolist() == drawn("..........xxxxx..").tolist()


def test_a_forecast_is_abnormal_within_the_horizon_and_unknown_where_the_future_is() -> None:
    table = one_machine(12)
    label, known = forecast_label(table, drawn("......xx...."), 180.0)
    assert label.tolist() == drawn("...xxxxx....").tolist()
    assert known.tolist() == drawn("xxxxxxxxx...").tolist()
    # What is abnormal already needs no future.
    label, known = forecast_label(table, drawn("..........x."), 180.0)
    assert label.tolist() == drawn(".......xxxx.").tolist()
    assert known.tolist() == drawn("xxxxxxxxxxx.").tolist()


def test_a_forecast_knows_nothing_beyond_a_long_pause() -> None:
    table = series(np.full(4, "m"), np.array([0.0, 60.0, 7200.0, 7260.0]))
    label, known = forecast_label(table, np.array([False, False, True, True]), 7200.0)
    assert label.tolist() == [False, False, True, True]
    assert known.tolist() == [False, False, True, True]


def test_readings_in_an_episode_of_a_kind_are_found() -> None:
    table = series(np.array(["a", "a", "b", "b"]), np.array([0.0, 60.0, 0.0, 60.0]))
    episodes = [Episode("b", 30.0, None, None, 90.0, "sensor"), Episode("a", 0.0, 0.0, None, 10.0)]
    assert within(table, episodes, "sensor").tolist() == [False, False, False, True]
    assert within(table, episodes, "equipment").tolist() == [True, False, False, False]


def test_true_episodes_are_read_as_json_lines_and_as_csv(tmp_path: Path) -> None:
    row = {"equipment_id": "c-1", "episode": "c-1/1", "kind": "sensor", "fault": "stuck_sensor", "sensors": ["a", "b"]}
    moments = {
        "onset": "1970-01-01T00:01:00Z",
        "label": None,
        "full": "1970-01-01T00:03:00Z",
        "repair": "1970-01-01T00:04:00Z",
    }
    lines = tmp_path / "episodes.jsonl"
    lines.write_text(json.dumps(row | moments) + "\n\n" + json.dumps(row | moments | {"equipment_id": "other"}) + "\n")
    expected = [Episode("c-1", 60.0, None, 180.0, 240.0, "sensor", "stuck_sensor")]
    assert read_episodes(lines, ["c-1", "c-2"]) == expected
    table = tmp_path / "episodes.csv"
    table.write_text("equipment_id,fault,onset,label,repair\nc-1,wear,60,,240\n")
    assert read_episodes(table, ["c-1"]) == [Episode("c-1", 60.0, None, None, 240.0, "equipment", "wear")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"equipment_id": "a", "repair": 5}', "line 1: 'onset' is missing"),
        ('{"equipment_id": "a", "onset": 5, "repair": 4}', "line 1: 'repair' is before 'onset'"),
        ('{"equipment_id": "a", "onset": "soon", "repair": 4}', "line 1: 'onset': the time 'soon'"),
        ('{"equipment_id": 7, "onset": 1, "repair": 4}', "line 1: 'equipment_id' is missing"),
        ('{"equipment_id": "a", "onset": 1, "repair": 4, "kind": "x"}', "line 1: 'kind' is 'x'"),
        ('{"equipment_id": "b", "onset": 1, "repair": 4}', "none of its machines ('b', ...) is in the table"),
        ('{"equipment_id": "a"', "line 1 is not JSON"),
        ("equipment_id,onset\na,1\n", "line 2: 'repair' is missing"),
    ],
)
def test_a_wrong_episode_is_named_with_its_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "episodes"
    path.write_text(content)
    with pytest.raises(TrainingError) as error:
        read_episodes(path, ["a"])
    assert reason in str(error.value)
