"""Tables of many kinds through the commands, from the file to the device's own score."""

import json
from pathlib import Path

import numpy as np
import pytest
import xgboost

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.scoring.pipeline import Pipeline


def test_device_score_and_training_agree_on_categories_and_gaps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    kind, torque = random.choice(["L", "M", "H"], 300), random.normal(40.0, 10.0, 300).round(1)
    failed = (torque > np.where(kind == "L", 40.0, 52.0)) & (random.random(300) < 0.9)
    cells = [
        ["" if random.random() < 0.1 else value for value in (one, f"{two}" if random.random() < 0.9 else "-999")]
        for one, two in zip(kind, torque, strict=True)
    ]
    table = tmp_path / "a.csv"
    labels = np.where(failed, "worn", "none")
    table.write_text(
        "Type,Torque [Nm],state\n" + "".join(f"{a},{b},{y}\n" for (a, b), y in zip(cells, labels, strict=True))
    )
    data = ["--data", str(table), "--missing-value", "-999"]
    out = tmp_path / "model"
    options = ["--label", "state", "--categorical", "Type", "--allow-missing", "all", "--max-trees", "10"]
    assert main(["train", *data, *options, "--out", str(out)]) == 0
    assert "normal is 'none'" in capsys.readouterr().out
    manifest = load_model(out).manifest
    assert [feature.categories for feature in manifest.features] == [["H", "L", "M"], None]
    assert manifest.features[1].missing_values == [-999.0]
    results = tmp_path / "results.jsonl"
    assert main(["score", "--model", str(out), *data, "--out", str(results)]) == 0
    scored = [json.loads(line) for line in results.read_text().splitlines()]
    rows = [
        [{"H": 0.0, "L": 1.0, "M": 2.0}.get(one, np.nan), float(two) if two not in ("", "-999") else np.nan]
        for one, two in cells
    ]
    booster = xgboost.Booster(model_file=str(out / manifest.booster.file))
    expected = booster.inplace_predict(np.array(rows, dtype=np.float32))
    assert [line["score"] for line in scored] == pytest.approx(expected, abs=1e-6)
    assert {tuple(line.get("missing", ())) for line in scored} > {(), ("Type",), ("Torque [Nm]",)}
    pipeline = Pipeline(load_model(out))
    for (one, two), score in list(zip(cells, expected, strict=True))[:40]:
        reading = {"Type": one or None, "Torque [Nm]": float(two) if two else None}
        (result,) = pipeline.process(json.dumps(reading).encode()).results
        assert result.score == pytest.approx(score, abs=1e-6)
    (rejection,) = pipeline.process(b'{"Type": "X", "Torque [Nm]": 40.0}').rejections
    assert rejection.errors[0].loc[0] == "Type"


def experiments(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        rows = "".join(f"2026-03-01 10:{row:02d}:00;{row % 7}.5;{float(row > 40)}\n" for row in range(60))
        (folder / f"{number}.csv").write_text(f"datetime;Current;anomaly\n{rows}")


def refused(capsys: pytest.CaptureFixture[str], out: Path, *options: str) -> str:
    assert main(["train", "--out", str(out), *options]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_file_of_a_folder_that_lacks_the_label_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments(tmp_path / "valve", 5)
    (tmp_path / "valve" / "free.csv").write_text("datetime;Current\n2026-03-01 10:00:00;1.5\n")
    said = refused(capsys, tmp_path / "m", "--data", str(tmp_path / "valve"), "--label", "anomaly")
    assert "free.csv has no column 'anomaly'" in said
    assert "--label-default" in said


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("1 1 0.5 0  \n1 2 0.25 1  \n", ["--label", "y"], "--columns A,B,..."),
        ("a;y\n1,5;0\n2,5;1\n", ["--label", "y"], "line 2: column 'a' holds 1,5, a number with a decimal comma"),
        ("a,y\n" + "1.5,ok\n2.5,\n3.5,\n" * 20, ["--label", "y"], "the label 'y' is empty in 40 of 60 rows"),
        ("a,y\n" + ",0\n1.5,1\n" * 20 + ",1\n", ["--label", "y", "--features", "a"], "--allow-missing"),
        ("t,a,y\n" + "1774699200,1.5,0\n1774699200000,2,1\n" * 20, ["--label", "y", "--time", "t"], "the column 't': "),
    ],
)
def test_what_a_file_lacks_is_said_with_the_option_that_helps(
    *, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], reason: str
) -> None:
    table = tmp_path / "a.csv"
    table.write_text(content)
    assert reason in refused(capsys, tmp_path / "m", "--data", str(table), *options)
