import io
import json
from pathlib import Path
from typing import Any

import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import Model, load_model
from ml_inference.offline.replay import Source, compare, score_table
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.pipeline import Pipeline
from support.models import ABNORMAL, NORMAL, train_small


def lines(path: Path, *documents: Any) -> Path:
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in documents))
    return path


def stamped(number: int, values: dict[str, float], machine: str = "m1") -> dict[str, Any]:
    return {"equipment_id": machine, "timestamp": f"2026-11-22T03:00:{number % 60:02d}Z", **values}


def scored(model: Model, table: Path, judgement: Judgement | None = None) -> list[dict[str, Any]]:
    out = io.BytesIO()
    score_table(model, judgement or Judgement(), Source([table]), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return train_small(tmp_path / "other", version="2.0.0", seed=5)


def test_a_table_gets_the_messages_that_the_component_would_send(model: Model, tmp_path: Path) -> None:
    documents = [stamped(number, ABNORMAL if number % 3 else NORMAL, f"m{number % 2}") for number in range(1_200)]
    pipeline = Pipeline(model, Judgement(debounce_readings=2))
    expected = [
        json.loads(json.dumps(result.as_message()))
        for document in documents
        for result in pipeline.process(json.dumps(document).encode()).results
    ]
    assert len(expected) == 1_200
    assert {message["state"] for message in expected} == {"normal", "abnormal"}
    assert scored(model, lines(tmp_path / "t.jsonl", *documents), Judgement(debounce_readings=2)) == expected


def test_csv_gives_the_same_as_json_lines(model: Model, tmp_path: Path) -> None:
    documents = [stamped(number, ABNORMAL if number % 5 == 0 else NORMAL) for number in range(50)]
    table = tmp_path / "t.csv"
    names = list(documents[0])
    table.write_text("\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in documents)]))
    assert scored(model, table) == scored(model, lines(tmp_path / "t.jsonl", *documents))


def test_rejected_rows_stand_in_their_place_with_their_line_and_reason(model: Model, tmp_path: Path) -> None:
    table = lines(
        tmp_path / "t.jsonl",
        NORMAL,
        NORMAL | {"wRMSCurrent": "high", "correlation_id": 7},
        "no json",
        "",
        {"readings": [NORMAL, {}], "correlation_id": "b"},
        NORMAL | {"rVibration_Temp": 151.0},
    )
    messages = scored(model, table)
    assert ["score" in message for message in messages] == [True, False, False, True, False, False]
    rejected = [(message["line"], message["errors"][0]["type"]) for message in messages if "errors" in message]
    assert rejected == [(2, "float_type"), (3, "json_invalid"), (5, "missing"), (6, "less_than_equal")]
    assert messages[1]["correlation_id"] == 7


def test_totals_are_counted(model: Model, tmp_path: Path) -> None:
    table = lines(tmp_path / "t.jsonl", NORMAL, ABNORMAL, ABNORMAL, {})
    totals = score_table(model, Judgement(), Source([table]), io.BytesIO())
    assert (totals.scored, totals.abnormal, totals.rejected) == (3, 2, 1)


def test_a_model_agrees_with_itself(model: Model, tmp_path: Path) -> None:
    report = compare(model, model, Judgement(), Source([lines(tmp_path / "t", NORMAL, ABNORMAL, {})])).as_json()
    assert (report["readings"], report["rejected"]) == (2, 1)
    assert (report["agreement"], report["mean_shift"], report["mean_absolute_shift"]) == (1.0, 0.0, 0.0)
    assert set(report["shift_quantiles"].values()) == {0.0}


def test_changed_verdicts_are_counted_by_machine_and_direction(model: Model, tmp_path: Path) -> None:
    # The second model is the first with a lower threshold: what lies between the two becomes abnormal.
    directory = train_small(tmp_path / "eager", version="2.0.0", threshold=0.0)
    table = lines(
        tmp_path / "t",
        *(stamped(0, NORMAL, machine) for machine in "aab"),
        stamped(0, ABNORMAL, "b"),
        stamped(0, {}, "c"),
    )
    report = compare(model, load_model(directory), Judgement(), Source([table])).as_json()
    assert (report["changed"], report["became_abnormal"], report["became_normal"]) == (3, 3, 0)
    assert report["agreement"] == 0.25
    assert list(report["machines"]) == ["a", "b"]
    assert report["machines"]["a"]["agreement"] == 0.0
    assert report["machines"]["b"] == {
        "readings": 2,
        "agreement": 0.5,
        "changed": 1,
        "became_abnormal": 1,
        "became_normal": 0,
        "abnormal": 1,
        "mean_shift": 0.0,
    }
    reverse = compare(load_model(directory), model, Judgement(), Source([table])).as_json()
    assert (reverse["became_abnormal"], reverse["became_normal"]) == (0, 3)


def test_score_shifts_are_the_second_minus_the_first(model: Model, other: Path, tmp_path: Path) -> None:
    table = lines(tmp_path / "t", NORMAL, ABNORMAL)
    second = load_model(other)
    scores = [[message["score"] for message in scored(each, table)] for each in (model, second)]
    expected = [later - earlier for earlier, later in zip(*scores, strict=True)]
    report = compare(model, second, Judgement(), Source([table])).as_json()
    assert report["mean_shift"] == pytest.approx(sum(expected) / 2)
    assert report["shift_quantiles"]["0.5"] == pytest.approx(sum(expected) / 2)
    assert report["mean_absolute_shift"] == pytest.approx(sum(map(abs, expected)) / 2)


def test_a_reading_that_only_one_model_accepts_is_counted_apart(model: Model, tmp_path: Path) -> None:
    narrow = load_model(train_small(tmp_path / "narrow"))
    features = [
        feature.model_copy(update={"maximum": 100.0}) if feature.name == "rVibration_Temp" else feature
        for feature in narrow.manifest.features
    ]
    limited = Model(narrow.manifest.model_copy(update={"features": features}), narrow.scorer, narrow.directory)
    report = compare(model, limited, Judgement(), Source([lines(tmp_path / "t", NORMAL, ABNORMAL)])).as_json()
    assert (report["readings"], report["only_first"], report["only_second"]) == (1, 1, 0)


def test_multi_class_models_are_compared_by_their_most_likely_class(tmp_path: Path) -> None:
    model = load_model(train_small(tmp_path / "m", objective="multi:softprob", classes=3, threshold=None))
    unnamed = model.manifest.model_copy(update={"normal_class": None})
    plain = Model(unnamed, model.scorer, model.directory)
    report = compare(plain, plain, Judgement(), Source([lines(tmp_path / "t", NORMAL, ABNORMAL)])).as_json()
    assert (report["agreement"], report["mean_shift"]) == (1.0, 0.0)


def test_the_command_writes_results_and_counts(
    model_directory: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    table = lines(tmp_path / "t.jsonl", NORMAL, ABNORMAL, {})
    assert main(["score", "--model", str(model_directory), "--data", str(table)]) == 0
    said = capsysbinary.readouterr()
    messages = [json.loads(line) for line in said.out.splitlines()]
    assert [message.get("abnormal") for message in messages] == [False, True, None]
    assert len(messages[1]["explanation"]) == 3
    assert said.err.startswith(b"3 readings: 2 scored, 1 of them abnormal, 1 rejected; ")


def test_a_table_of_which_nothing_can_be_scored_says_so_and_fails(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "german.csv"
    table.write_text(
        ";".join(NORMAL) + "\n" + ";".join(f"{value + 0.5}".replace(".", ",") for value in NORMAL.values())
    )
    command = ["score", "--model", str(model_directory), "--data", str(table)]
    for more in ([], ["--compare", str(model_directory)]):
        assert main([*command, *more]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"ml-inference score: {table}: line 2: column 'rVibration_Temp' holds ")
        assert last.endswith("a number with a decimal comma: read it with --decimal ,")
    assert main([*command, "--decimal", ","]) == 0
    nothing = [*command[:-1], str(lines(tmp_path / "t", {}))]
    assert main(nothing) == 1
    assert capsys.readouterr().err.endswith("the reason in its line of the results\n")
    assert main([*nothing, "--compare", str(model_directory)]) == 1
    assert "no reading was scored by both models" in capsys.readouterr().err


def test_several_processes_give_the_same_as_one(model_directory: Path, tmp_path: Path) -> None:
    documents = [stamped(number, ABNORMAL if number % 7 == 0 else NORMAL) for number in range(600)]
    table = lines(tmp_path / "t.jsonl", *documents, {}, *documents)
    command = ["score", "--model", str(model_directory), "--data", str(table), "--threshold", "0.4", "--explain", "1"]
    for jobs in ("1", "3"):
        assert main([*command, "--jobs", jobs, "--out", str(tmp_path / jobs)]) == 0
    one, several = (tmp_path / "1").read_bytes(), (tmp_path / "3").read_bytes()
    assert one == several
    assert one.count(b"\n") == 1_201
    assert b'"line":601' in one


def test_a_table_that_breaks_off_in_a_later_part_fails_the_command(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    row = ",".join(map(str, NORMAL.values()))
    table.write_bytes((",".join(NORMAL) + "\n" + f"{row}\n" * 50).encode() + b"\xff\xfe\n")
    arguments = ["score", "--model", str(model_directory), "--data", str(table), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--jobs", "2"]) == 1
    assert "line 52: is not UTF-8" in capsys.readouterr().err


def test_the_command_compares_two_models(
    model_directory: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = lines(
        tmp_path / "t", *(stamped(number, NORMAL, f"m{number % 3}") for number in range(9)), stamped(9, ABNORMAL)
    )
    command = ["score", "--model", str(model_directory), "--data", str(table), "--compare", str(other)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "small 1.0.0 -> small 2.0.0, 10 readings scored by both" in printed
    assert "same verdict" in printed
    assert "m2" in printed
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["second"] == {"name": "small", "version": "2.0.0"}
    assert report["readings"] == 10


@pytest.mark.parametrize(
    ("model", "data", "reason"), [("nowhere", "t", "manifest: cannot read"), ("", "nowhere", "No such file")]
)
def test_what_cannot_be_scored_is_one_line_and_exit_code_1(
    *, model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, data: str, reason: str
) -> None:
    lines(tmp_path / "t", NORMAL)
    directory = tmp_path / model if model else model_directory
    assert main(["score", "--model", str(directory), "--data", str(tmp_path / data)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ml-inference score: ")
    assert reason in said
    assert said.count("\n") == 1
