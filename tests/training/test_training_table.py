import json
from pathlib import Path

import numpy as np
import pytest

from ml_inference.workbench.training import TrainingError, table
from ml_inference.workbench.training.table import read_table


def file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_whatever_separates_its_values(tmp_path: Path, delimiter: str) -> None:
    lines = [["Torque [Nm]", "state"], ["42.8", "ok"], ["46.3", "worn"]]
    read = read_table(file(tmp_path, "\n".join(delimiter.join(line) for line in lines)), {"state"})
    assert read.names == ("Torque [Nm]", "state")
    assert read.numbers["Torque [Nm]"].tolist() == [42.8, 46.3]
    assert read.texts["state"] == ["ok", "worn"]


def test_a_byte_order_mark_a_quoted_comma_and_an_empty_line_do_no_harm(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, b'\xef\xbb\xbf"a, b",y\r\n1,0\r\n\r\n2,1\r\n'))
    assert read.names == ("a, b", "y")
    assert read.rows == 2


def test_what_is_missing_or_infinite_is_nan(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n1,\n2,NaN\n3,n/a\n4,inf\n5,null\n6,7\n"))
    assert np.isnan(read.numbers["b"]).tolist() == [True, True, True, True, True, False]


def test_a_column_of_text_is_no_number_and_says_what_it_holds(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n1,2\n2,L47181\n"))
    assert "b" not in read.numbers
    assert read.not_numbers == {"b": "L47181"}


def test_json_lines_are_read_with_columns_that_come_late(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"a": 1, "y": True}, {"a": None, "y": False, "late": 2.5}, {"y": 3, "late": 1}]
    read = read_table(file(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n"), {"y"})
    assert np.isnan(read.numbers["a"]).tolist() == [False, True, True]
    assert np.isnan(read.numbers["late"]).tolist() == [True, False, False]
    assert read.texts["y"] == ["true", "false", "3"]


def test_a_string_or_bool_in_json_is_no_number_as_in_a_message(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, '{"a": "12.5", "b": true, "c": [1], "d": 1}\n'))
    assert set(read.not_numbers) == {"a", "b", "c"}
    assert set(read.numbers) == {"d"}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    rows = [{"a": i, "b": "x" if i == 90 else str(i), "y": str(i % 3)} for i in range(100)]
    if form == "csv":
        content = "a,b,y\n" + "\n".join(",".join(str(value) for value in row.values()) for row in rows)
    else:
        content = "\n".join(json.dumps({**row, "b": row["a"] if row["b"] != "x" else "x"}) for row in rows)
    path = file(tmp_path, content)
    whole = read_table(path, {"y"})
    monkeypatch.setattr(table, "_CHUNK", 7)
    pieces = read_table(path, {"y"})
    assert pieces.rows == whole.rows == 100
    assert pieces.numbers["a"].tolist() == list(range(100))
    assert pieces.texts == whole.texts
    assert set(pieces.not_numbers) == set(whole.not_numbers) == {"b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3: a row has 3 values, the header 2"),
        ("a,a\n1,2\n", "'a' twice"),
        ("a,b\n", "holds no rows"),
        ("", "holds no rows"),
        ('[{"a": 1}]', "JSON lines are wanted"),
        ('{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ('{"a": 1}\n3\n', "line 2 is no JSON object"),
        (b"a,b\n1,\xe4\n", "not UTF-8"),
    ],
)
def test_a_broken_file_says_where_it_is_broken(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        read_table(file(tmp_path, content))


def test_a_file_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        read_table(tmp_path / "nothing.csv")
