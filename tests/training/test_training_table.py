import json
from pathlib import Path

import numpy as np
import pytest

from ml_inference.offline import tables
from ml_inference.workbench.training import TrainingError, table
from ml_inference.workbench.training.table import Table, read_table


def column(read: Table, name: str) -> list[str]:
    return read.texts[name].at(np.arange(read.rows)).tolist()  # type: ignore[no-any-return]


def in_pieces(path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(table, "read_chunks", lambda files, dialect: tables.read_chunks(files, dialect, rows=rows))
    return read_table(path, {"y"})


def file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_whatever_separates_its_values(tmp_path: Path, delimiter: str) -> None:
    lines = [["Torque [Nm]", "state"], ["42.8", "ok"], ["46.3", "worn"]]
    read = read_table(file(tmp_path, "\n".join(delimiter.join(line) for line in lines)), {"state"})
    assert read.names == ("Torque [Nm]", "state")
    assert read.numbers["Torque [Nm]"].tolist() == pytest.approx([42.8, 46.3])
    assert column(read, "state") == ["ok", "worn"]


def test_a_byte_order_mark_a_quoted_comma_and_an_empty_line_do_no_harm(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, b'\xef\xbb\xbf"a, b",y\r\n1,0\r\n\r\n2,1\r\n'))
    assert read.names == ("a, b", "y")
    assert read.rows == 2


def test_what_is_missing_or_infinite_is_nan(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n1,\n2,NaN\n3,n/a\n4,inf\n5,null\n6,7\n"))
    assert np.isnan(read.numbers["b"]).tolist() == [True, True, True, True, True, False]


def test_a_column_of_text_is_no_number_and_says_what_it_holds_and_where(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n1,2\n2,L47181\n"))
    assert "b" not in read.numbers
    assert str(read.not_numbers["b"].first) == "'L47181' in line 3 of data"


@pytest.mark.parametrize("word", ["#N/A!", "Bad", "I/O Timeout", "No Data", "2026_01", "inf", "Err:502"])
def test_a_few_words_in_a_column_of_numbers_cost_their_rows_and_not_the_column(tmp_path: Path, word: str) -> None:
    read = read_table(file(tmp_path, f"a,b\n1,2\n2,{word}\n3,\n4,5\n5,{word}\n6,7\n"))
    assert np.isnan(read.numbers["b"]).tolist() == [False, True, True, False, True, False]
    assert (read.odd["b"].count, str(read.odd["b"].first)) == (2, f"{word!r} in line 3 of data")


def test_a_column_of_codes_is_no_column_of_numbers_though_most_look_like_one(tmp_path: Path) -> None:
    lots = [f"{row}{'A' if row % 4 == 0 else ''}" for row in range(1000, 1200)]
    read = read_table(file(tmp_path, "a,lot\n" + "".join(f"1,{lot}\n" for lot in lots)))
    assert set(read.numbers) == {"a"}
    assert str(read.not_numbers["lot"].first) == "'1000A' in line 2 of data"


def test_in_a_column_of_text_only_an_empty_cell_is_missing(tmp_path: Path) -> None:
    words = ["none", "N/A", "", "null", " ", "NaN"]
    read = read_table(file(tmp_path, "a,y\n" + "".join(f"1,{word}\n" for word in words)), {"y"})
    assert column(read, "y") == ["none", "N/A", "", "null", "", "NaN"]
    assert read.texts["y"].missing.tolist() == [False, False, True, False, True, False]


def test_whole_numbers_beyond_float32_stay_exact(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n16777217,1.5\n16777219,2\n"))
    assert read.numbers["a"].tolist() == [16777217.0, 16777219.0]
    assert read.numbers["b"].dtype == np.float32


def test_a_broken_row_among_many_costs_itself(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "a,b\n" + "1,2\n" * 40 + "1,2,3\n" + "3,4\n" * 40))
    assert (read.rows, read.broken_count) == (80, 1)
    assert str(read.broken[0]) == "a row has 3 cells, the header 2 in line 42 of data"


def test_several_files_are_one_table_and_what_one_lacks_is_known(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text("t;a;y\n2026-01-01;1;ok\n")
    (tmp_path / "d" / "2.csv").write_text("t,b,a\n2026-01-02,5,2\n")
    read = read_table([tmp_path / "d"], {"y"}, {"t"})
    assert read.names == ("t", "a", "y", "b")
    assert read.numbers["a"].tolist() == [1.0, 2.0]
    assert column(read, "y") == ["ok", ""]
    assert np.diff(read.times["t"].values).tolist() == [86_400.0]
    assert {name: [file.name for file in files] for name, files in read.lacking.items()} == {
        "y": ["2.csv"],
        "b": ["1.csv"],
    }
    assert [Path(file).name for file in read.files.values] == ["1.csv", "2.csv"]


def test_json_lines_are_read_with_columns_that_come_late(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"a": 1, "y": True}, {"a": None, "y": False, "late": 2.5}, {"y": 3, "late": 1}]
    read = read_table(file(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n"), {"y"})
    assert np.isnan(read.numbers["a"]).tolist() == [False, True, True]
    assert np.isnan(read.numbers["late"]).tolist() == [True, False, False]
    assert column(read, "y") == ["true", "false", "3"]


def test_a_string_or_bool_in_json_is_no_number_as_in_a_message(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, '{"a": "12.5", "b": true, "c": [1], "d": 1}\n'))
    assert set(read.not_numbers) == {"a", "b", "c"}
    assert set(read.numbers) == {"d"}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    rows = [{"a": i, "b": "x" if i > 40 else str(i), "y": str(i % 3)} for i in range(100)]
    if form == "csv":
        content = "a,b,y\n" + "\n".join(",".join(str(value) for value in row.values()) for row in rows)
    else:
        content = "\n".join(json.dumps({**row, "b": row["a"] if row["b"] != "x" else "x"}) for row in rows)
    path = file(tmp_path, content)
    whole = read_table(path, {"y"})
    pieces = in_pieces(path, 7, monkeypatch)
    assert pieces.rows == whole.rows == 100
    assert pieces.numbers["a"].tolist() == list(range(100))
    assert column(pieces, "y") == column(whole, "y") == [row["y"] for row in rows]
    assert set(pieces.not_numbers) == set(whole.not_numbers) >= {"b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3: a row has 3 cells, the header 2"),
        ("a,a\n1,2\n", "'a' twice"),
        ("a,b\n", "holds no rows"),
        ("", "has no header"),
        ('[\n{"a": 1}\n]', "JSON lines are wanted"),
        ('{"a": 1}\n{"a": \n', "line 2: is not JSON"),
        ('{"a": 1}\n3\n', "line 2: is no JSON object"),
        (b"a,b\n1,\xe4\n", "not UTF-8"),
    ],
)
def test_a_broken_file_says_where_it_is_broken(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        read_table(file(tmp_path, content))


def test_a_file_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        read_table(tmp_path / "nothing.csv")
