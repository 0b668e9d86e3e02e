import json
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.workbench.training import charts
from support.tables import AI4I_LABEL, AI4I_MODES, AI4I_SENSORS, ai4i, machines, write_csv

Run = Callable[..., int]


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "ai4i.csv", ai4i(1_200, seed=3))


def run(data: Path, out: Path, *options: str, label: str = AI4I_LABEL) -> int:
    return main(["train", "--data", str(data), "--label", label, "--out", str(out), "--max-trees", "30", *options])


@pytest.fixture(scope="session")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "press 4"
    options = ("--exclude", ",".join(AI4I_MODES), "--limit", "Torque [Nm]=0:200", "--threshold", "recall=0.8")
    assert run(table, out, *options, "--version", "2.1.0") == 0
    return out


def test_the_model_directory_is_ready_and_keeps_the_users_names_units_and_limits(trained: Path) -> None:
    manifest = load_model(trained).manifest
    assert manifest.feature_names == AI4I_SENSORS
    assert [feature.unit for feature in manifest.features] == ["K", "K", "rpm", "Nm", "min"]
    assert (manifest.features[3].minimum, manifest.features[3].maximum) == (0.0, 200.0)
    assert (manifest.features[0].minimum, manifest.features[0].maximum) == (None, None)
    assert (manifest.name, manifest.version, manifest.objective) == ("press-4", "2.1.0", "binary:logistic")
    assert all(feature.histogram and sum(feature.histogram.counts) == 960 for feature in manifest.features)


def test_the_manifest_says_figures_sizes_intervals_and_the_threshold_rule(trained: Path) -> None:
    manifest = load_model(trained).manifest
    metrics = manifest.metrics
    assert metrics["held_out"]["rows"] == 240
    assert metrics["development"]["rows"] == 960
    for name in ("roc_auc", "pr_auc", "brier", "log_loss", "precision", "recall", "f1"):
        low, high = metrics["interval_95"][name]
        assert low <= metrics["held_out"][name] <= high
    assert sum(metrics["confusion"].values()) == 240
    assert metrics["threshold_rule"] == "recall of at least 0.8"
    assert manifest.threshold is not None
    assert metrics["leakage"] == []


def test_golden_readings_stand_on_both_sides_of_the_threshold(trained: Path) -> None:
    manifest = load_model(trained).manifest
    assert manifest.threshold is not None
    verdicts = {golden.score >= manifest.threshold for golden in manifest.golden if isinstance(golden.score, float)}
    assert verdicts == {True, False}


class Page(HTMLParser):
    """What a page would fetch, and whether it is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "svg"
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith(("#", "data:image/png")):
                self.fetched.append(f"{tag} {value}")
        if tag in {"script", "link", "iframe"}:
            self.fetched.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_that_fetches_nothing(trained: Path) -> None:
    html = (trained / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert "url(" not in re.sub(r"url\(#\w+\)", "", html)
    # ROC, precision and recall, calibration, thresholds; importance, SHAP; a distribution for each feature.
    assert page.pictures == 4 + 2 + 5
    assert 50_000 < len(html) < 2_000_000


def test_the_report_opens_with_the_verdict_and_says_the_same_as_the_manifest(trained: Path) -> None:
    page = Page()
    page.feed((trained / "report.html").read_text(encoding="utf-8"))
    metrics = load_model(trained).manifest.metrics
    counted = metrics["confusion"]
    verdict = page.text.index(
        f"({counted['caught']} of {counted['caught'] + counted['missed']}) of the abnormal readings"
    )
    for later in (
        "On what data",
        "What the threshold means",
        "Calibration",
        "SHAP",
        "Torque [Nm]",
        "--threshold recall=0.8",
    ):
        assert page.text.index(later) > verdict, later
    assert f"{metrics['held_out']['roc_auc']:.4f}" in page.text


def test_the_report_reads_on_light_and_dark(trained: Path) -> None:
    html = (trained / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    assert "currentColor" in html
    # Nothing of matplotlib's own black on white is left in the pictures.
    for picture in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert not re.search(r"(fill|stroke): #(000000|ffffff)(?![^\"]*opacity: 0)", picture)


def test_the_report_names_its_pictures_and_its_tables_heads_for_a_screen_reader(trained: Path) -> None:
    html = (trained / "report.html").read_text(encoding="utf-8")
    names = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', html)
    assert len(names) == html.count("<svg ")
    assert {"ROC", "Calibration", "Importance", "Distribution of Torque [Nm]"} <= set(names)
    assert all('scope="' in head for head in re.findall(r"<th[ >][^>]*", html))


def test_names_in_hangul_are_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = charts.importance(["진동 온도", "current"], np.array([0.4, 0.6]), np.array([0.5, 0.5]))
    assert "진동 온도" in svg


def test_names_from_the_table_cannot_break_out_of_the_report(tmp_path: Path) -> None:
    columns = ai4i(600, seed=1)
    nasty = "<script>alert(1)</script> & [K]"
    data = write_csv(
        tmp_path / "a.csv", {nasty: columns["Torque [Nm]"], "b": columns["Tool wear [min]"], "y": columns[AI4I_LABEL]}
    )
    assert run(data, tmp_path / "model", label="y") == 0
    page = Page()
    page.feed((tmp_path / "model" / "report.html").read_text(encoding="utf-8"))
    assert page.fetched == []
    assert nasty in page.text


def test_columns_that_repeat_the_label_are_named_on_the_terminal_in_the_manifest_and_in_the_report(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, tmp_path / "model") == 0
    errors = capsys.readouterr().err
    manifest = load_model(tmp_path / "model").manifest
    html = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    flags = {leak["feature"] for leak in manifest.metrics["leakage"]}
    assert flags >= {"HDF", "PWF", "OSF"}
    for flag in flags:
        assert f"warning: {flag!r} repeats the label" in errors
        assert f"&#39;{flag}&#39; repeats the label" in html
    assert f"--exclude '{','.join(name for name in AI4I_MODES if name in flags)}'" in errors
    assert "on a device it may do much worse" in html


def test_what_was_taken_and_what_was_left_out_is_said(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, tmp_path / "model", "--exclude", ",".join(AI4I_MODES)) == 0
    said = capsys.readouterr().out
    assert f"1200 rows, 5 features: {', '.join(AI4I_SENSORS)}" in said
    assert "not a feature: 'UDI' (whole numbers that never repeat, as row numbers do)" in said
    assert "not a feature: 'TWF' (excluded)" in said
    assert "held out: 240 rows" in said
    assert "roc_auc" in said


def test_machines_and_times_give_alarm_levels_and_what_they_come_to(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "machines.csv", machines())
    options = ("--group", "machine", "--time", "time", "--unit", "current=A")
    assert run(data, tmp_path / "model", *options, label="faulty") == 0
    manifest = load_model(tmp_path / "model").manifest
    assert {feature.name: feature.unit for feature in manifest.features} == {"vibration [mm/s]": "mm/s", "current": "A"}
    held = manifest.metrics["held_out"]
    assert held["rows"] == held["groups"] * 80
    assert manifest.alarm is not None
    assert manifest.alarm.measured.episodes == 2 * held["groups"]
    assert manifest.alarm.measured.interval_seconds == 60.0
    assert (manifest.alarm.measured.noticed or 0.0) > 0.0
    html = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    assert "What the alarm does" in html
    assert "false alarms a machine-week" in html


def test_without_alarm_levels_the_debouncing_is_replayed(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "machines.csv", machines())
    options = ("--group", "machine", "--time", "time", "--false-alarms", "none")
    assert run(data, tmp_path / "model", *options, label="faulty") == 0
    manifest = load_model(tmp_path / "model").manifest
    assert (manifest.alarm, manifest.format) == (None, 1)
    assert [alarm["debounce"] for alarm in manifest.metrics["alarms"]] == [1, 2, 3, 5]
    first = manifest.metrics["alarms"][0]
    assert first["episodes"] == 2 * manifest.metrics["held_out"]["groups"]
    assert first["noticed"] > 0
    assert "DebounceReadings" in (tmp_path / "model" / "report.html").read_text(encoding="utf-8")


def test_machines_that_are_split_by_rows_are_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = machines()
    columns["equipment_id"] = columns.pop("machine")
    assert run(write_csv(tmp_path / "a.csv", columns), tmp_path / "model", label="faulty") == 0
    assert "--group equipment_id" in capsys.readouterr().err


def test_too_few_machines_that_fail_are_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = machines(count=6)
    columns["faulty"] = np.where(np.isin(columns["machine"], ["m1", "m4"]), columns["faulty"], 0)
    assert run(write_csv(tmp_path / "a.csv", columns), tmp_path / "model", "--group", "machine", label="faulty") == 0
    errors = capsys.readouterr().err
    assert "Abnormal rows of only 1 of 'machine' train and validate" in errors
    assert "values of machine are held out: the intervals are wide" in errors


def test_json_lines_with_three_classes_give_a_multi_class_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = []
    for _ in range(600):
        wear = random.normal()
        state = "ok" if wear < 0.5 else "worn" if wear < 1.3 else "broken"
        lines.append(
            json.dumps({"wear [mm]": round(wear + random.normal(0, 0.2), 3), "heat": random.random(), "state": state})
        )
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    assert run(data, tmp_path / "model", label="state") == 0
    manifest = load_model(tmp_path / "model").manifest
    assert manifest.objective == "multi:softprob"
    assert manifest.classes == ["broken", "ok", "worn"]
    assert manifest.normal_class == 1
    assert 0.0 < (manifest.threshold or 0.0) < 1.0
    assert manifest.metrics["held_out"]["macro_roc_auc"] > 0.8
    assert "Class by class" in (tmp_path / "model" / "report.html").read_text(encoding="utf-8")


def test_a_number_gives_a_regression_without_a_threshold_unless_one_is_set(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    wear = random.uniform(0, 10, 400)
    columns = {"wear": wear + random.normal(0, 1, 400), "heat": random.random(400), "hours left": 100 - 9 * wear}
    data = write_csv(tmp_path / "data.csv", columns)
    options = ("--objective", "reg:squarederror")
    assert run(data, tmp_path / "model", *options, label="hours left") == 0
    manifest = load_model(tmp_path / "model").manifest
    assert (manifest.objective, manifest.threshold) == ("reg:squarederror", None)
    assert manifest.metrics["held_out"]["r2"] > 0.7
    assert run(data, tmp_path / "model", *options, "--threshold", "80", label="hours left") == 0
    assert load_model(tmp_path / "model").manifest.threshold == 80.0
    assert run(data, tmp_path / "model", *options, "--threshold", "f1", label="hours left") == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--features", "Torque,UDI"), "there is no column 'Torque'"),
        (("--features", f"UDI,{AI4I_LABEL}"), "is the label and cannot be a feature"),
        (("--group", "machine"), "there is no column 'machine' for the group"),
        (("--group", "Type", "--time", "Type"), "cannot be the group and the time"),
        (("--threshold", "best"), "f1, recall=0.9"),
        (("--limit", "UDI=5"), "is not NAME=MIN:MAX"),
        (("--unit", "UDI"), "is not NAME=UNIT"),
        (("--features-file", "/nothing.json"), "cannot read /nothing.json"),
        (("--time", "Type"), "should be ISO 8601"),
        (("--name", "no good name!"), "name: 'no good name!' is not 1 to 128 of A-Z, a-z, 0-9, "),
    ],
)
def test_a_users_error_is_one_clear_line_and_nothing_is_written(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    assert run(table, tmp_path / "model", *options) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("ml-inference train: ")
    assert reason in errors[0]
    assert not (tmp_path / "model").exists()


def test_a_table_with_one_class_says_which_column_took_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {name: values.tolist() for name, values in ai4i(600, seed=1).items()}
    columns["repair [h]"] = [3.5 if failed else "" for failed in columns[AI4I_LABEL]]
    data = write_csv(tmp_path / "a.csv", columns)
    options = ("--features", "Torque [Nm],repair [h]")
    assert run(data, tmp_path / "model", *options) == 1
    assert "'repair [h]' is missing in" in capsys.readouterr().err


def test_a_directory_of_something_else_is_not_overwritten(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert run(table, tmp_path) == 1
    said = capsys.readouterr()
    assert "precious.txt" in said.err
    assert said.out == ""  # it did not begin to train
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_signed_model_that_is_replaced_has_to_be_signed_again(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, tmp_path / "model", "--max-trees", "2") == 0
    assert "sign" not in capsys.readouterr().err
    assert main(["sign", "keygen", "--out", str(tmp_path / "keys")]) == 0
    assert main(["sign", str(tmp_path / "model"), "--key", str(tmp_path / "keys" / "model-signing.pem")]) == 0
    capsys.readouterr()
    assert run(table, tmp_path / "model", "--max-trees", "2") == 0
    assert "warning: the model that was replaced was signed, this one is not" in capsys.readouterr().err


def test_decimal_commas_are_refused_with_the_option_that_reads_them(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "german.csv"
    data.write_text(table.read_text().replace(",", ";").replace(".", ","))
    assert run(data, tmp_path / "model", "--features", "Torque [Nm]") == 1
    assert "a number with a decimal comma: read it with --decimal ," in capsys.readouterr().err
    assert run(data, tmp_path / "model", "--decimal", ",", "--max-trees", "2") == 0


def test_on_a_terminal_there_is_a_progress_bar_and_brackets_are_not_eaten(table: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ml_inference", "train", "--data", str(table), "--label", AI4I_LABEL]
    options = ["--out", str(tmp_path / "model"), "--max-trees", "5"]
    process = subprocess.Popen([*command, *options], stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"})
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:
        pass  # Linux ends a terminal whose other side is closed so.
    os.close(ours)
    assert process.wait(timeout=300) == 0
    text = shown.decode()
    assert "training" in text
    assert "46/46" in text
    assert "Air temperature [K]" in text
