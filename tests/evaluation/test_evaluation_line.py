"""A line of the evaluation from simulation to the page, through the real command."""

import json
from pathlib import Path

import pytest

from evaluation import __main__ as command
from evaluation.cases import Job, Spoiled
from evaluation.line import ScoringError, run
from evaluation.report import Model, page
from ml_inference.model.over_time import Condition
from sensor_simulator import SENSORS
from support.models import over_time, train_small

HOUR_S = 3600.0
STORY = {"machines": 3, "seed": 5, "fault_rate": 0.0}
STUCK = Job(
    "broken sensors",
    3 * HOUR_S,
    5.0,
    STORY | {"sensor_fault_rate": 24.0, "sensor_fault_hours": 0.4, "sensor_fault": "stuck"},
    range(1, 3),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    running = [Condition(feature="wRMSCurrent", operator=">", value=20.0)]
    return over_time(train_small(tmp_path_factory.mktemp("model") / "small"), running=running)


def test_alarms_of_a_simulated_line_come_out_beside_its_truth(model: Path, tmp_path: Path) -> None:
    line = run(STUCK, model, tmp_path)
    assert set(line.spans) == {episode.machine for episode in line.episodes} == {"cylinder-2", "cylinder-3"}
    sensors = [alarm for alarm in line.alarms if alarm.kind == "sensor"]
    named = [
        episode
        for episode in line.episodes
        if any(
            alarm.machine == episode.machine
            and alarm.sensor in episode.sensors
            and episode.onset <= alarm.opened <= episode.repair
            for alarm in sensors
        )
    ]
    assert len(named) >= 2
    # What was done is kept, and read again without scoring.
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(kept.read_text(encoding="utf-8").replace('"truth": [', '"truth": [], "was": ['), encoding="utf-8")
    assert run(STUCK, model, tmp_path).episodes == ()
    text = page([line], Model("small", "1.0.0", {}), quick=True, seed=5)
    assert f"| `stuck` | {len([one for one in line.episodes if one.kind == 'sensor'])} |" in text


def test_a_change_begins_when_it_is_to_and_changes_what_it_is_to(model: Path, tmp_path: Path) -> None:
    spoiled = Spoiled(HOUR_S, (SENSORS[2],), "cylinder-2", factor=1.5)
    job = Job("scaled", 1.1 * HOUR_S, 60.0, STORY, range(3), spoiled)
    seen: list[list[str]] = []

    def look(_model: Path, readings: Path, alarms: Path) -> None:
        seen.append(readings.read_text(encoding="utf-8").splitlines())
        alarms.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.line._score", look)
        run(job, model, tmp_path)
        run(Job("scaled", 1.1 * HOUR_S, 60.0, STORY, range(3)), model, tmp_path)
    changed = [
        (before.split(","), after.split(","))
        for after, before in zip(*seen, strict=True)
        if before.split(",")[:9] != after.split(",")[:9]
    ]
    assert [after[1] for _, after in changed] == [f"2026-01-05T01:0{minute}:00.000Z" for minute in range(6)]
    for before, after in changed:
        assert after[0] == "cylinder-2"
        assert float(after[4]) == pytest.approx(1.5 * float(before[4]), abs=0.01)
        assert before[:4] + before[5:9] == after[:4] + after[5:9]


def test_a_model_that_cannot_be_scored_with_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ScoringError, match="manifest"):
        run(STUCK, tmp_path, tmp_path)
    out = tmp_path / "page.md"
    arguments = ["--model", str(tmp_path), "--out", str(out), "--kept", str(tmp_path), "--quick", "--jobs", "1"]
    assert command.main([*arguments, "--only", "1 Hz, thinned"]) == 1
    assert "evaluation: " in capsys.readouterr().err
    assert not out.exists()


def test_the_command_writes_the_page_of_the_cases_that_are_asked_for(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    arguments = ["--model", str(model), "--out", str(out), "--kept", str(tmp_path), "--quick", "--jobs", "1"]
    assert command.main([*arguments, "--only", "1 Hz, thinned"]) == 0
    text = out.read_text(encoding="utf-8")
    name = json.loads((model / "manifest.json").read_text(encoding="utf-8"))["name"]
    assert f"Alarms of `{name}` 1.0.0 on simulated lines" in text
    assert "the same, a reading a minute" in text
    assert "Not run for this page: 1 Hz; all sensors" in text
