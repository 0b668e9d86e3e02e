"""The command line, as a user and as another command uses it."""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensor_simulator import COLUMNS, Fleet
from sensor_simulator.cli import add_arguments, main, run


def test_csv_holds_every_row_under_its_header(tmp_path: Path) -> None:
    out = tmp_path / "data.csv"
    assert main(["--machines", "3", "--seconds", "20", "--rate", "0.5", "--seed", "5", "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = list(Fleet(machines=3, seed=5).rows(seconds=20, step=2.0))
    assert rows == [{key: str(value) for key, value in row.items()} for row in expected]
    assert tuple(rows[0]) == COLUMNS


def test_json_lines_go_to_standard_output_and_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--machines", "2", "--seconds", "3", "--format", "jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == list(Fleet(machines=2).rows(seconds=3))


def test_an_hour_of_eight_machines_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 8 * 3600


def test_every_nth_json_line_is_malformed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--machines", "1", "--seconds", "30", "--format", "jsonl"]
    main(options)
    good = capsys.readouterr().out.splitlines()
    main([*options, "--bad-every", "10"])
    mixed = capsys.readouterr().out.splitlines()
    assert [number for number, pair in enumerate(zip(good, mixed, strict=True), 1) if pair[0] != pair[1]] == [
        10,
        20,
        30,
    ]


def test_the_story_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--machines", "3", "--seconds", "600", "--accelerate", "600", "--fault-rate", "5", "--fault", "bearing_wear"])
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {row["fault"] for row in rows} == {"", "bearing_wear"}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--machines", "none"], "argument --machines: Machines: expected an integer from 1 to 1000, got 'none'"),
        (["--fault", "gremlins"], "one of bearing_wear"),
        (["--seconds", "-1"], "expected a number above 0"),
        (["--seconds", "inf"], "expected a number above 0"),
        (["--format", "xml"], "--format"),
    ],
)
def test_a_wrong_value_ends_with_a_line_that_names_it(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--bad-every", "5"],
        ["--topic", "a/b"],
        ["--ipc", "--out", "x.csv"],
        ["--ipc", "--format", "csv"],
    ],
)
def test_options_that_contradict_each_other_are_refused(argv: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(argv) == 2
    assert "--" in caplog.text


def test_another_command_can_offer_the_same(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_subparsers().add_parser("simulate"))
    out = tmp_path / "data.csv"
    assert run(parser.parse_args(["simulate", "--seconds", "2", "--out", str(out)])) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 17


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "sensor_simulator", "--seconds", "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"equipment_id,")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=300) == 0


def test_outside_a_nucleus_publishing_cannot_start() -> None:
    gone = ("SVCUID", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    command = [sys.executable, "-m", "sensor_simulator", "--ipc"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "not started by a nucleus: SVCUID" in done.stderr


def test_only_publishing_needs_the_sdk() -> None:
    code = (
        "import sys; sys.modules['awsiot'] = sys.modules['awscrt'] = sys.modules['numpy'] = None\n"
        "from sensor_simulator.cli import main; sys.exit(main(['--seconds', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 9
