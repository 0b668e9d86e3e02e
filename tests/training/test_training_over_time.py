"""Training where machines and times are known: a horizon, off-time, broken sensors, episodes, and alarm levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.request import Request
from ml_inference.workbench.training.run import Progress, Training, train
from ml_inference.workbench.training.running import parse_running
from support.tables import wearing, write_csv

HOUR = 3_600.0


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return wearing()


@pytest.fixture(scope="module")
def table(columns: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "wearing.csv", columns)


class Told(Progress):
    """What a training said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def quick(data: Path, progress: Progress | None = None, **options: Any) -> Training:
    fixed: dict[str, Any] = {
        "features": ("vibration", "current"),
        "group": "equipment_id",
        "time": "timestamp",
        "max_trees": 20,
        "max_depth": 3,
        "sensor_fault_label": "sensor",
    }
    request = Request(data, "faulty", **fixed | options)
    return train(request, progress or Progress())


@pytest.fixture(scope="module")
def forecast(table: Path) -> tuple[Training, list[str]]:
    told = Told()
    return quick(table, told, horizon=6 * HOUR, running=parse_running("current > 20"), every=1_200.0), told.said


def test_the_label_of_a_forecast_begins_one_horizon_before_the_labels_own(
    forecast: tuple[Training, list[str]], columns: dict[str, np.ndarray]
) -> None:
    training, _ = forecast
    for machine in ("m1", "m7"):
        rows = columns["equipment_id"] == machine
        moments = columns["timestamp"][rows]
        own = moments[columns["faulty"][rows] > 0]
        ahead = moments[training.target.abnormal[rows] > 0]
        assert ahead[0] == own[0] - 6 * HOUR
        assert ahead[-1] == own[-1]


def test_rows_of_an_unknown_future_and_of_a_machine_at_rest_teach_nothing(
    forecast: tuple[Training, list[str]], columns: dict[str, np.ndarray]
) -> None:
    training, said = forecast
    used = np.concatenate([training.split.development, training.split.held_out])
    latest = columns["timestamp"].max()
    assert columns["timestamp"][used].max() == latest - 6 * HOUR
    assert (columns["current"][used] > 20.0).all()
    assert f"{15 * 6} of {len(columns['faulty'])} rows are of a machine that stands still: they teach nothing" in said
    assert f"{15 * 36} rows whose next 6 h are unknown teach nothing" in said


def test_a_broken_sensor_is_no_fault_of_the_machine(
    forecast: tuple[Training, list[str]], columns: dict[str, np.ndarray]
) -> None:
    training, said = forecast
    assert not training.target.abnormal[columns["equipment_id"] == "m0"].any()
    assert any(text.startswith("a sensor is broken in 36 rows; 36 abnormal labels are its alone") for text in said)
    kinds = [episode.kind for episode in training.operation.episodes]
    assert (kinds.count("equipment"), kinds.count("sensor")) == (14, 1)


def test_rows_are_thinned_for_training_alone(
    forecast: tuple[Training, list[str]], columns: dict[str, np.ndarray]
) -> None:
    training, _ = forecast
    rows = training.split.training
    slots = list(zip(columns["equipment_id"][rows], columns["timestamp"][rows] // 1_200, strict=True))
    assert len(set(slots)) == len(slots)
    assert len(rows) == pytest.approx(len(training.split.development) / 2, rel=0.02)
    judging = training.judging
    assert judging is not None
    assert judging.measured is not None
    assert (judging.validated.step, judging.measured.step) == (600.0, 600.0)


def test_levels_are_chosen_by_boosters_that_did_not_see_the_machine_and_counted_on_others(
    forecast: tuple[Training, list[str]],
) -> None:
    training, _ = forecast
    judging = training.judging
    assert judging is not None
    assert judging.measured is not None
    assert not set(judging.validated.machines) & set(judging.measured.machines)
    assert len(judging.validated.machines) == 12
    assert judging.validated.figures()["false_alarms_per_week"] <= 0.15
    assert judging.measured.figures()["noticed"] == 1.0
    assert judging.measured.figures()["alarms_per_episode"] == 1.0


def test_true_onsets_from_a_file_go_before_the_labels(
    table: Path, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    lines = []
    for machine in sorted(set(columns["equipment_id"])):
        moments = columns["timestamp"][(columns["equipment_id"] == machine) & (columns["faulty"] > 0)]
        label, repair = float(moments[0]), float(moments[-1])
        truth = {"equipment_id": machine, "fault": "wear", "kind": "sensor" if machine == "m0" else "equipment"}
        moments_of = {"onset": label - 12 * HOUR, "label": label, "full": repair, "repair": repair}
        lines.append(json.dumps(truth | moments_of))
    path = tmp_path / "episodes.jsonl"
    path.write_text("\n".join(lines))
    training = quick(table, episodes=path, sensor_fault_label=None)
    judging = training.judging
    assert judging is not None
    assert judging.measured is not None
    assert judging.onsets_known
    assert not training.target.abnormal[columns["equipment_id"] == "m0"].any()
    assert {one.episode.onset for one in judging.measured.noticed} <= {
        json.loads(line)["onset"] for line in lines if json.loads(line)["kind"] == "equipment"
    }
    assert np.isfinite(judging.measured.figures()["lead_to_full"])


def test_off_time_is_proposed_where_nobody_said_it(table: Path) -> None:
    told = Told()
    quick(table, told, max_trees=2)
    (proposal,) = (text for text in told.said if "--running" in text)
    condition = proposal.split('"')[1]
    assert condition.startswith(("current > ", "vibration > "))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"horizon": HOUR, "time": None, "sensor_fault_label": None}, "--horizon needs machines and times in seconds"),
        ({"running": parse_running("speed > 3")}, "'speed' is not among the features"),
        ({"sensor_fault_values": ("gone",)}, "'sensor' is nowhere 'gone'"),
        ({"every": 60.0, "time": None, "sensor_fault_label": None}, "--every needs machines and times in seconds"),
        ({"horizon": HOUR, "objective": "reg:squarederror"}, "the label is a number"),
    ],
)
def test_an_option_that_the_table_cannot_serve_is_refused(table: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        quick(table, **options)


def test_the_command_writes_alarm_horizon_and_off_time_into_the_manifest(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--group", "equipment_id", "--time", "timestamp", "--features", "vibration,current", "--max-trees", "20"]
    over_time = [
        "--horizon",
        "6h",
        "--sensor-fault-label",
        "sensor=stuck",
        "--running",
        "current > 20",
        "--every",
        "20min",
        "--history",
        "1h,12h",
        "--withholdable",
        "all",
        "--max-depth",
        "3",
    ]
    arguments = ["train", "--data", str(table), "--label", "faulty", *options, *over_time]
    assert main([*arguments, "--out", str(tmp_path / "model")]) == 0
    manifest = load_model(tmp_path / "model").manifest
    assert (manifest.format, manifest.horizon_seconds) == (2, 21_600.0)
    assert [(one.feature, one.operator, one.value) for one in manifest.running or ()] == [("current", ">", 20.0)]
    assert {(one.source, one.window_seconds) for one in manifest.derived} == {
        (source, window) for source in ("vibration", "current") for window in (3_600.0, 43_200.0)
    }
    assert manifest.golden_sequences
    assert all(feature.withholdable and feature.usual for feature in manifest.features)
    usual = manifest.features[0].usual
    assert usual is not None
    assert (usual.resolution, usual.lowest) == (0.001, round(usual.lowest, 3))
    alarm = manifest.alarm
    assert alarm is not None
    assert 0.0 < alarm.close_score < alarm.open_score < 1.0
    measured = alarm.measured
    assert (measured.interval_seconds, measured.machines) == (600.0, 3)
    assert measured.noticed_interval is not None
    assert measured.noticed_interval[0] <= (measured.noticed or 0.0) <= measured.noticed_interval[1]
    metrics = manifest.metrics["alarm"]
    assert metrics["allowed_false_alarms_per_machine_week"] == 0.15
    assert [other["allowed_false_alarms_per_machine_week"] for other in metrics["other_levels"]] == [
        0.05,
        0.15,
        0.5,
        1.5,
        5.0,
    ]
    said = capsys.readouterr().out
    assert "an alarm opens at a smoothed score of" in said
    html = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    for words in ("What the alarm does", "Lead time against false alarms", "Held-out episodes", "--horizon 21600.0"):
        assert words in html, words


@pytest.mark.parametrize("text", ["0h", "soon", "-1h", "1e9d"])
def test_a_time_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--data", "x.csv", "--label", "y", "--out", "z", f"--horizon={text}"])
    assert "expected a time such as 90s, 5min, 8h or 7d" in capsys.readouterr().err


def test_history_is_kept_only_where_validation_says_that_it_pays(
    columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    told = Told()
    few: dict[str, Any] = {"features": ("vibration",), "sensor_fault_label": None, "history": (1_800.0, 43_200.0)}
    data = write_csv(tmp_path / "wearing.csv", columns)
    kept = quick(data, told, **{**few, "history": "auto"}, horizon=6 * HOUR)
    assert kept.contribution is not None
    assert kept.contribution.pays
    assert kept.contribution.with_history < kept.contribution.without
    assert any(text.startswith("history kept") for text in told.said)
    # A label that single readings say all about.
    plain = {**columns, "faulty": (columns["vibration"].astype(float) > 22.0).astype(int)}
    dropped = quick(write_csv(tmp_path / "plain.csv", plain), **{**few, "history": "auto"})
    assert dropped.contribution is not None
    assert not dropped.contribution.pays
    assert dropped.inputs.derived == ()
