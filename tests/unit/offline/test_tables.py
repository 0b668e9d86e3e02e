import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.offline.cells import has_decimal_comma, numbers_of
from ml_inference.offline.chunks import Broken, Dialect, Part, TableError
from ml_inference.offline.files import is_json_lines, table_files
from ml_inference.offline.tables import read_chunks, read_documents, split_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table"


def write(table: Path, content: str | bytes) -> Path:
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table


def rows(table: Path, content: str | bytes, **dialect: Any) -> list[tuple[int, Any]]:
    return documents(write(table, content), Dialect(**dialect))


def documents(table: Path, dialect: Dialect | None = None, part: Part | None = None) -> list[tuple[int, Any]]:
    return [(line, item) for _, line, item in read_documents([table], dialect, part=part)]


def test_rows_become_documents_with_the_number_of_their_line(table: Path) -> None:
    assert rows(table, "a,b c [K],equipment_id\n1,2.5,7\n-3e2,0,8\n") == [
        (2, {"a": 1.0, "b c [K]": 2.5, "equipment_id": "7"}),
        (3, {"a": -300.0, "b c [K]": 0.0, "equipment_id": "8"}),
    ]


def test_names_and_cells_are_without_the_blanks_around_them(table: Path) -> None:
    assert rows(table, 'temp, vib , "the label"\n 84.23 ,9.41, 1\n') == [
        (2, {"temp": 84.23, "vib": 9.41, "the label": 1.0})
    ]


def test_a_number_is_a_plain_decimal_and_all_else_is_text(table: Path) -> None:
    cells = ["1", "+1.", "-.5", "1E3", "2026_01", "inf", "1e999", "0x10", "١٢", "1d5", "45%", "NaN", "n/a", "true"]
    found = rows(table, "a,b\n" + "".join(f"0,{cell}\n" for cell in cells))
    assert [document.get("b") for _, document in found] == [
        *(1.0, 1.0, -0.5, 1000.0),
        *("2026_01", "inf", "1e999", "0x10", "١٢", "1d5", "45%"),
        *(None, None, "true"),
    ]


def test_an_empty_cell_is_missing_and_so_is_what_a_short_row_lacks(table: Path) -> None:
    assert rows(table, "a,b,c\n,1,\n2\n") == [(2, {"b": 1.0}), (3, {"a": 2.0})]


def test_delimiters_at_the_end_of_lines_make_no_columns(table: Path) -> None:
    expected = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    for content in ("a,b,\n1,2\n3,4\n", "a,b,\n1,2,\n3,4,\n", "a,b\n1,2,\n3,4,,\n", "a;b;;\n1;2;;\n3;4\n"):
        assert [document for _, document in rows(table, content)] == expected


def test_a_row_of_too_many_cells_is_broken_and_its_neighbours_are_not(table: Path) -> None:
    found = rows(table, "a,b\n69,71,5\n1,2\n")
    assert found[1] == (3, {"a": 1.0, "b": 2.0})
    assert found[0] == (2, Broken(2, "a row has 3 cells, the header 2", ["69", "71", "5"]))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("a,b\n1,2\n", ["a", "b"]),
        ("a;b\n1;2\n", ["a", "b"]),
        ("a\tb\n1\t2\n", ["a", "b"]),
        ("a|b\n1|2\n", ["a", "b"]),
        ("a  b\n1  2  \n", ["a", "b"]),
        ("temp, in K;b\n1;2\n", ["temp, in K", "b"]),
        ('"a;b",c\n1,2\n', ["a;b", "c"]),
        ("sep=;\na;b\n1;2\n", ["a", "b"]),
        ("air temperature\n1\n", ["air temperature"]),
    ],
)
def test_the_rows_tell_the_delimiter(table: Path, content: str, names: list[str]) -> None:
    ((_, document),) = rows(table, content)
    assert list(document) == names


def test_decimal_commas_are_read_when_asked_for_and_refused_with_that_hint_otherwise(table: Path) -> None:
    content = "temp;vib;label\n84,23;9;1\n59,32;-2,75e1;0\n"
    assert [document for _, document in rows(table, content, decimal=",")] == [
        {"temp": 84.23, "vib": 9.0, "label": 1.0},
        {"temp": 59.32, "vib": -27.5, "label": 0.0},
    ]
    with pytest.raises(TableError, match=r"table: line 2: column 'temp' holds 84,23, .* --decimal ,"):
        list(read_documents([table], numbers=frozenset({"temp", "vib"})))


def test_a_point_in_a_table_of_decimal_commas_is_no_number_since_it_could_separate_thousands(table: Path) -> None:
    ((_, document),) = rows(table, "a;b\n1.234,5;2,5\n", decimal=",")
    assert document == {"a": "1.234,5", "b": 2.5}


@pytest.mark.parametrize(("cell", "comma"), [("0,1257", True), ("-3,5 ", True), ("1,2,3", False), ("a,b", False)])
def test_a_decimal_comma_is_known(cell: str, comma: bool) -> None:
    assert has_decimal_comma(cell) is comma


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_quotes_blank_lines_and_a_byte_order_mark_are_understood(table: Path, end: str) -> None:
    content = end.join(['\ufeff"a, b",c', "1,2", "", '3,"two', 'lines"', ",,", "4,5"])
    assert rows(table, content) == [
        (2, {"a, b": 1.0, "c": 2.0}),
        (4, {"a, b": 3.0, "c": f"two{end}lines"}),
        (7, {"a, b": 4.0, "c": 5.0}),
    ]


def test_comments_are_left_out_but_a_cell_that_begins_like_one_is_not(table: Path) -> None:
    content = "# exported on Monday\n\na,b,c\n1,2,3\n# shift change\n#N/A,5,6\n"
    assert rows(table, content) == [(4, {"a": 1.0, "b": 2.0, "c": 3.0}), (6, {"b": 5.0, "c": 6.0})]


def test_names_in_a_comment_above_the_first_row_are_taken(table: Path) -> None:
    assert rows(table, "# made by numpy\n# temp,vib\n84.5,9\n59.5,2\n")[0] == (3, {"temp": 84.5, "vib": 9.0})


@pytest.mark.parametrize("units", ["degC,mm/s,", "[K],[rpm],-", "°C,%,label"])
def test_a_row_of_units_below_the_header_is_no_reading(table: Path, units: str) -> None:
    write(table, f"temp,vib,label\n{units}\n84.5,9,1\n59.5,2,0\n")
    (chunk,) = read_chunks([table])
    assert list(chunk.lines) == [3, 4]
    assert [chunk.units[name] for name in ("temp", "vib")] == [unit.strip("[]") for unit in units.split(",")[:2]]


@pytest.mark.parametrize("row", ["Bad,Bad,normal", "I/O Timeout,,worn", "1,,normal", "#N/A,NaN,normal"])
def test_a_row_of_states_below_the_header_is_a_reading(table: Path, row: str) -> None:
    write(table, f"temp,vib,label\n{row}\n84.5,9,normal\n59.5,2,worn\n")
    (chunk,) = read_chunks([table])
    assert list(chunk.lines) == [2, 3, 4]
    assert not chunk.units


@pytest.mark.parametrize(
    "content",
    [
        "84.23,9.41,1\n59.32,2.75,0\n",
        "84.23,9.41,normal\n59.32,2.75,worn\n88,9,worn\n",
        "2026-03-28 12:00,84.23,9.41\n2026-03-28 12:01,59.32,2.75\n",
        "1 1 -0.0007 100.0  \n1 2 0.0019 100.0  \n",
    ],
)
def test_a_file_without_a_header_is_refused_with_the_option_that_names_its_columns(table: Path, content: str) -> None:
    with pytest.raises(TableError, match=r"table: line 1 holds values .*--columns A,B,"):
        rows(table, content)


def test_a_file_without_a_header_is_read_with_its_columns_named(table: Path) -> None:
    assert rows(table, "1 1 -0.5 100.0  \n1 2 0.25 100.0  \n", columns=("unit", "cycle", "s", "t")) == [
        (1, {"unit": 1.0, "cycle": 1.0, "s": -0.5, "t": 100.0}),
        (2, {"unit": 1.0, "cycle": 2.0, "s": 0.25, "t": 100.0}),
    ]
    for columns, reason in ((("a", "b"), "names 2 columns, line 1 has 4 cells"), (("a", "a", "b", "c"), "'a' twice")):
        with pytest.raises(TableError, match=reason):
            documents(table, Dialect(columns=columns))
    with pytest.raises(TableError, match=r"line 1 names the columns .*leave --columns out"):
        rows(table, "a,b\n1,2\n", columns=("c", "d"))


def test_columns_that_are_called_by_numbers_are_a_header(table: Path) -> None:
    assert rows(table, "0,1,label\n84.5,9,normal\n")[0] == (2, {"0": 84.5, "1": 9.0, "label": "normal"})
    assert rows(table, ",temp,2024 total\n0,84.5,9\n")[0] == (2, {"": 0.0, "temp": 84.5, "2024 total": 9.0})


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("utf-16", None), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("cp949", "cp949"), ("utf-8-sig", "utf-8")],
)
def test_other_encodings_are_read(table: Path, content: str, encoding: str | None) -> None:
    assert rows(table, "온도,진동\n1,2\n".encode(content), encoding=encoding) == [(2, {"온도": 1.0, "진동": 2.0})]
    assert rows(table, '{"온도": 1}\n'.encode(content), encoding=encoding) == [(1, '{"온도": 1}'.encode())]


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_packed_table_is_read_as_the_plain_one(table: Path, pack: Any) -> None:
    assert rows(table, pack(b"a,b\n1,2\n")) == [(2, {"a": 1.0, "b": 2.0})]
    assert rows(table, pack(b'{"a": 1}\n')) == [(1, b'{"a": 1}')]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no header"),
        (b"# only\n# comments\n", "has no header: its first 2 lines are blank or comments"),
        (b"a,b,a\n", "names the column 'a' twice"),
        (b"a,b\n1,2\n3,\xff\n", "line 3: is not UTF-8; name its encoding"),
        ("a,b\n1,2\n".encode("utf-16-le"), "name its encoding, such as --encoding utf-16-le"),
        (b'a,b\n1,2\n"1,2\n3,4\n', "line 3: is not CSV: a quote opens here and does not close"),
        (b'a,b\n"x"y,2\n', "line 2: is not CSV: ',' expected after '\"'"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 1000, mtime=0)[:-12], "gzip data is damaged or cut short"),
        (b"PK\x03\x04....", "is a ZIP archive or an Excel workbook"),
        (b"PAR1....", "is not sound Parquet"),
        (b'{\n "a": 1\n}\n', "one JSON document over many lines"),
        (b'[\n{"a": 1}\n]\n', "one JSON document over many lines"),
    ],
)
def test_what_is_no_table_is_told_so_with_file_and_line(table: Path, content: bytes, reason: str) -> None:
    with pytest.raises(TableError, match=f"table: .*{reason}|table: {reason}"):
        rows(table, content)


def test_a_file_that_is_not_there_is_told_so(table: Path) -> None:
    for read in (is_json_lines, documents, lambda path: split_table(path, 2)):
        with pytest.raises(TableError, match="table: No such file"):
            read(table)


def test_a_line_without_end_is_not_read_into_memory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_inference.offline.files.MAX_LINE_BYTES", 100)
    for content in (b'{"a":' + b"1" * 101, b"a,b\n" + b"1" * 101):
        with pytest.raises(TableError, match="100 bytes"):
            rows(table, content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('  \n{"a":1}', True),
        ("\ufeff[1]", True),
        ('[{"a":1}]', True),
        ("a,b\n", False),
        ("", False),
        ("[K],a\n", False),
    ],
)
def test_json_lines_are_known_by_their_first_characters(table: Path, content: str, expected: bool) -> None:
    assert is_json_lines(write(table, content)) is expected


def test_json_lines_keep_their_bytes_and_blank_ones_only_count(table: Path) -> None:
    assert rows(table, b'\xef\xbb\xbf{"a": 1}\r\n\n  not json \n[2]') == [
        (1, b'{"a": 1}'),
        (3, b"not json"),
        (4, b"[2]"),
    ]


def test_json_lines_are_read_as_columns_batches_and_all(table: Path) -> None:
    write(table, '{"a": 1, "b": "x"}\nnot json\n[{"a": 2}, 3]\n{"readings": [{"a": NaN, "b": true}]}\n')
    (chunk,) = read_chunks([table])
    assert list(chunk.lines) == [1, 3, 4]
    found = numbers_of(chunk, "a", Dialect())
    assert found.values[:2].tolist() == [1.0, 2.0]
    assert (np.isnan(found.values[2]), dict(found.texts)) == (True, {2: "NaN"})
    assert dict(numbers_of(chunk, "b", Dialect()).texts) == {0: '"x"', 2: "true"}
    assert [(row.line, row.received) for row in chunk.broken] == [(2, b"not json"), (3, 3)]


def test_a_number_that_stands_for_a_missing_value_is_missing(table: Path) -> None:
    missing = {"": frozenset({-999.0}), "b": frozenset({0.0})}
    expected = [{"a": 0.0}, {"b": 2.0}]
    assert [row for _, row in rows(table, "a,b\n0,0\n-999,2\n", missing=missing)] == expected
    assert [row for _, row in rows(table, '{"a": 0, "b": 0}\n{"a": -999, "b": 2}\n', missing=missing)] == expected


def test_parquet_is_read_as_the_same_table(table: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    moments = arrow.array([1774699200000000123] * 3, arrow.timestamp("ns", tz="Asia/Seoul"))
    columns = {
        " temp": [84.5, float("nan"), None],
        "Type": arrow.array(["L", "M", None]).dictionary_encode(),
        "timestamp": moments,
        "count": [1, 2, 3],
    }
    parquet.write_table(arrow.table(columns), table)
    found = documents(table)
    assert [line for line, _ in found] == [1, 2, 3]
    assert [row.get("temp") for _, row in found] == [84.5, None, None]
    assert [row.get("Type") for _, row in found] == ["L", "M", None]
    assert found[0][1]["timestamp"] == "2026-03-28T12:00:00+00:00"  # 21:00 in Seoul


def test_files_of_folders_are_one_table_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10.csv", "2.csv", "sub/1.CSV.gz", ".hidden.csv", "notes.md"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"a\n1\n", mtime=0) if name.endswith("gz") else b"a\n2\n")
    files = table_files([tmp_path / "data"])
    assert [file.name for file in files] == ["2.csv", "10.csv", "1.CSV.gz"]
    found = list(read_documents(files, Dialect(file_column="experiment")))
    assert next((file.name, line, row) for file, line, row in found) == (
        "2.csv",
        2,
        {"a": 2.0, "experiment": str(files[0])},
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="empty: holds no table"):
        table_files([tmp_path / "empty"])
    with pytest.raises(TableError, match="has a column 'a' already"):
        list(read_chunks(files, Dialect(file_column="a")))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
@pytest.mark.parametrize(
    "content",
    [
        "a,b\n" + "".join(f"{i},{i * 1.5}\n" for i in range(20)),
        "# x\na\nK\n1\n2\n3\n",
        "a\r\n1\r\n2",
        "a\r1\r2\r",
        "a\n",
    ],
)
def test_the_parts_of_a_table_are_the_whole_in_order(table: Path, content: str, count: int) -> None:
    whole = rows(table, content)
    parts = split_table(table, count)
    assert 1 <= len(parts) <= count
    assert [row for part in parts for row in documents(table, part=part)] == whole


def test_the_parts_of_json_lines_are_the_whole_in_order(table: Path) -> None:
    table.write_text("".join(json.dumps({"a": i}) + "\n" + "\n" * (i % 3) for i in range(50)))
    parts = split_table(table, 4)
    assert len(parts) >= 2
    assert [line for part in parts for line in documents(table, part=part)] == documents(table)


@pytest.mark.parametrize(
    "content", [b'a,b\n1,"x\ny"\n' * 10, b"", gzip.compress(b"a\n1\n" * 9, mtime=0), "a\n1\n".encode("utf-16")]
)
def test_what_cannot_be_cut_at_the_end_of_any_line_stays_whole(table: Path, content: bytes) -> None:
    assert split_table(write(table, content), 4) == [Part()]
