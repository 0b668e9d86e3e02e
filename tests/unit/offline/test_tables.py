from pathlib import Path

import pytest

from ml_inference.offline.tables import (
    Part,
    TableError,
    has_decimal_comma,
    is_json_lines,
    read_csv,
    read_json_lines,
    split_table,
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table"


def rows(table: Path, content: str | bytes) -> list[tuple[int, object]]:
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_csv(table))


def test_rows_become_documents_with_the_number_of_their_line(table: Path) -> None:
    assert rows(table, "a,b c [K],equipment_id\n1,2.5,7\n-3e2,0,8\n") == [
        (2, {"a": 1.0, "b c [K]": 2.5, "equipment_id": "7"}),
        (3, {"a": -300.0, "b c [K]": 0.0, "equipment_id": "8"}),
    ]


def test_what_is_no_number_stays_text_and_an_empty_cell_is_missing(table: Path) -> None:
    assert rows(table, "a,b,c,d\n,1_000,true,n/a\n12,\n") == [
        (2, {"b": "1_000", "c": "true", "d": "n/a"}),
        (3, {"a": 12.0}),
    ]


@pytest.mark.parametrize(("cell", "comma"), [("0,1257", True), ("-3,5 ", True), ("1,2,3", False), ("a,b", False)])
def test_a_decimal_comma_is_known(cell: str, comma: bool) -> None:
    assert has_decimal_comma(cell) is comma


def test_a_row_with_too_many_cells_is_no_document(table: Path) -> None:
    assert rows(table, "a,b\n69,71,5\n1,2\n") == [(2, ["69", "71", "5"]), (3, {"a": 1.0, "b": 2.0})]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_tells_the_separator(table: Path, separator: str) -> None:
    assert rows(table, f"a{separator}b\n1{separator}2\n") == [(2, {"a": 1.0, "b": 2.0})]


def test_blank_lines_quotes_a_byte_order_mark_and_windows_line_ends_are_understood(table: Path) -> None:
    content = '\ufeff"a, b",c\r\n1,2\r\n\r\n3,"two\r\nlines"\r\n4,5'
    assert rows(table, content) == [
        (2, {"a, b": 1.0, "c": 2.0}),
        (5, {"a, b": 3.0, "c": "two\r\nlines"}),
        (6, {"a, b": 4.0, "c": 5.0}),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no header"),
        (b"\n1,2\n", "has no header"),
        (b"a,b,a\n", "names the column 'a' twice"),
        (b"a,b\n\xff\xfe,1\n", "is not CSV in UTF-8"),
        (b'a,b\n"1,2\n', "is not CSV in UTF-8"),
    ],
)
def test_what_is_no_table_is_told_so(table: Path, content: bytes, reason: str) -> None:
    with pytest.raises(TableError, match=f"table: {reason}"):
        rows(table, content)


def test_a_file_that_is_not_there_is_told_so(table: Path) -> None:
    for read in (is_json_lines, lambda path: list(read_csv(path)), lambda path: split_table(path, 2)):
        with pytest.raises(TableError, match="table: No such file"):
            read(table)


def test_json_lines_are_known_by_their_first_character(table: Path) -> None:
    for content, expected in (('  \n{"a":1}', True), ("\ufeff[1]", True), ("a,b\n", False), ("", False)):
        table.write_text(content, encoding="utf-8")
        assert is_json_lines(table) is expected


def test_json_lines_keep_their_bytes_and_blank_ones_only_count(table: Path) -> None:
    table.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  not json \n[2]')
    assert list(read_json_lines(table)) == [(1, b'{"a": 1}'), (3, b"not json"), (4, b"[2]")]


def test_a_line_without_end_is_not_read_into_memory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_inference.offline.tables.MAX_LINE_BYTES", 100)
    table.write_bytes(b"{" * 101)
    with pytest.raises(TableError, match="holds a line of more than 100 bytes"):
        list(read_json_lines(table))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("content", ["a,b\n" + "".join(f"{i},{i * 1.5}\n" for i in range(20)), "a\n1\n", "a\n1", "a\n"])
def test_the_parts_of_a_table_are_the_whole_in_order(table: Path, content: str, count: int) -> None:
    whole = rows(table, content)
    parts = split_table(table, count)
    assert 1 <= len(parts) <= count
    assert [row for part in parts for row in read_csv(table, part)] == whole


def test_the_parts_of_json_lines_are_the_whole_in_order(table: Path) -> None:
    table.write_text("".join(f'{{"a": {i}}}\n' + "\n" * (i % 3) for i in range(50)))
    parts = split_table(table, 4)
    assert len(parts) == 4
    assert [line for part in parts for line in read_json_lines(table, part)] == list(read_json_lines(table))


def test_csv_with_quotes_stays_whole_since_a_cell_can_hold_the_end_of_a_line(table: Path) -> None:
    table.write_text('a,b\n1,"x\ny"\n' * 10)
    assert split_table(table, 4) == [Part()]
    table.write_text("")
    assert split_table(table, 4) == [Part()]
