"""What Arrow reads and what is scored by columns is what the row by row way makes of the same file, byte by byte."""

import io
import random
import re
from pathlib import Path

import numpy as np
import pytest

from ml_inference.model.bundle import Model
from ml_inference.offline import by_column, csv_rows, files
from ml_inference.offline.cells import coded_texts, numbers_of
from ml_inference.offline.chunks import Broken, Dialect, TableError
from ml_inference.offline.replay import Source, Totals, score_table
from ml_inference.offline.tables import read_chunks
from ml_inference.scoring.judgement import Judgement
from support.models import ABNORMAL, NORMAL

ODD = ["", " ", "nan", "-", "inf", "1e400", "12,5", "Bad", "-1e30", "1_0", " 3.5 ", "+4", "0x1", "5e-320"]
TIMES = ["", "2026-11-22T03:00:00Z", "2026-02-30T03:00:00.000Z", "1790000000", "yesterday", "0000-01-01T00:00:00.000Z"]


def table(path: Path, seed: int, *, clean: bool = False, rows: int = 300) -> Path:
    """A file of CSV with every kind of row."""
    draw = random.Random(seed)
    names = ["equipment_id", "timestamp", *NORMAL, "note"]
    end = draw.choice(["\n", "\r\n"])
    lines = [",".join(names)]
    for number in range(rows):
        cells = [str(round(value + draw.gauss(0, 0.2), 2)) for value in draw.choice([NORMAL, ABNORMAL]).values()]
        machine, time, note = f" m{number % 7} ", f"2026-11-22T03:{number // 60 % 60:02d}:{number % 60:02d}.125Z", "ok"
        line = [machine, time, *cells, note]
        kind = draw.random()
        if not clean and kind < 0.03:
            line[draw.randrange(2, len(line))] = draw.choice(ODD)
        elif not clean and kind < 0.05:
            line[draw.choice([0, 1])] = draw.choice(["", "007", *TIMES])
        elif not clean and kind < 0.06:
            line = draw.choice(
                [["# a comment"], [""], line[:3], [*line, "more"], [" "] * len(line), ['"a ""note"""', *line[1:]]]
            )
        lines.append(",".join(line))
    path.write_bytes(end.join(lines).encode() + draw.choice([b"", end.encode()]))
    return path


def scored(model: Model, path: Path, explain: int) -> tuple[bytes, Totals]:
    out = io.BytesIO()
    totals = score_table(model, Judgement(explain_top_k=explain), Source([path]), out)
    # A row without a time has that of its arrival.
    return re.sub(rb'"timestamp":"(?!2026-11-22|2026-09)[^"]*"', b'"timestamp":"now"', out.getvalue()), totals


def scored_or_refused(model: Model, path: Path, explain: int) -> tuple[bytes, Totals] | str:
    try:
        return scored(model, path, explain)
    except TableError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(12))
def test_a_table_with_every_kind_of_row_scores_the_same_by_columns_as_by_rows(
    model: Model, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "t.csv", seed, clean=seed % 3 == 0)
    monkeypatch.setattr(by_column.ColumnScorer, "can", lambda _: False)
    by_rows = scored_or_refused(model, path, seed % 2)
    monkeypatch.undo()
    monkeypatch.setattr(csv_rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(files, "_STRETCH_BYTES", 3_000)
    assert scored_or_refused(model, path, seed % 2) == by_rows


def test_most_rows_of_a_clean_table_are_never_taken_apart(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "t.csv", 0, clean=True)
    monkeypatch.setattr("ml_inference.offline.replay._decode", lambda *_: pytest.fail("a row was taken apart"))
    assert scored(model, path, 0)[1].scored == 300


def cells(path: Path) -> list[tuple[object, ...]]:
    """Everything that a reader learns of a file, row by row."""
    found: list[tuple[object, ...]] = []
    for chunk in read_chunks([path], rows=70):
        columns = []
        for name in chunk.columns:
            numbers, (texts, codes) = numbers_of(chunk, name, Dialect()), coded_texts(chunk, name)
            odd = dict(numbers.texts)
            columns.append(
                [
                    (repr(value), odd.get(place), texts[code])
                    for place, (value, code) in enumerate(zip(numbers.values.tolist(), codes.tolist(), strict=True))
                ]
            )
        found += [(line, *row) for line, row in zip(chunk.lines, zip(*columns, strict=True), strict=True)]
        found += [(row.line, row.reason) for row in chunk.broken if isinstance(row, Broken)]
    return sorted(found, key=lambda row: (row[0], len(row)))


@pytest.mark.parametrize("seed", range(20, 40))
def test_arrow_reads_what_the_standard_library_reads(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "t.csv", seed, clean=seed % 4 == 0)
    expected = cells(path)
    monkeypatch.setattr(csv_rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(files, "_STRETCH_BYTES", seed * 100)
    assert cells(path) == expected


def test_a_quoted_cell_that_spans_stretches_is_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,x\n" * 50 + '2,"' + "line\n" * 60 + '"\n3,y\n')
    expected = cells(path)
    assert len(expected) == 52
    monkeypatch.setattr(csv_rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(files, "_STRETCH_BYTES", 100)
    assert cells(path) == expected


def test_parquet_and_csv_of_one_table_score_the_same(model: Model, tmp_path: Path) -> None:
    csv = pytest.importorskip("pyarrow.csv")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = table(tmp_path / "t.csv", 0, clean=True)
    read = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    machines = read.column(0).to_pylist()
    read = read.set_column(0, "equipment_id", [[machine.strip() for machine in machines]])
    parquet.write_table(read, tmp_path / "t.parquet")
    assert scored(model, tmp_path / "t.parquet", 1) == scored(model, path, 1)


def test_numbers_of_parquet_keep_what_is_no_number_of_a_device(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table(
            {"a": [1.5, float("inf"), None], "b": [1, 2, 2**62], "c": [True, None, False], "d": ["1", "", None]}
        ),
        tmp_path / "t.parquet",
    )
    (chunk,) = read_chunks([tmp_path / "t.parquet"])
    a, b, c, d = (numbers_of(chunk, name, Dialect()) for name in "abcd")
    assert (a.values[0], dict(a.texts)) == (1.5, {1: "Infinity"})
    assert np.isnan(a.values[1:]).all()
    assert b.values.tolist() == [1.0, 2.0, 2.0**62]
    assert dict(c.texts) == {0: "true", 2: "false"}
    assert dict(d.texts) == {0: '"1"'}
