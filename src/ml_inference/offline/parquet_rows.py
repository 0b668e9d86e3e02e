"""Rows of Parquet, piece by piece, in the columns that Arrow holds them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ml_inference.offline.arrow import TextColumn, arrow, column_of
from ml_inference.offline.chunks import Chunk, TableError
from ml_inference.offline.layout import require_distinct


def parquet_chunks(path: Path, rows: int) -> Iterator[Chunk]:
    """Read a file of Parquet.

    Raises:
        TableError: It is damaged, or pyarrow is not installed.
    """
    try:
        pa = arrow()
    except ImportError as error:
        raise TableError(f"{path}: is Parquet, which needs pyarrow: pip install 'ml-inference[parquet]'") from error
    line = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                names = [name.strip() for name in batch.schema.names]
                require_distinct(path, names)
                columns = {name: _cells(column, pa) for name, column in zip(names, batch.columns, strict=True)}
                numbers = range(line + 1, line + 1 + batch.num_rows)
                line += batch.num_rows
                yield Chunk(path, columns, numbers, text=False)
    except pa.lib.ArrowException as error:
        raise TableError(f"{path}: is not sound Parquet: {str(error).splitlines()[0][:200]}") from error


def _cells(column: Any, pa: Any) -> Any:
    """Cells as JSON would hold them; not-a-number is missing."""
    if pa.types.is_timestamp(column.type):
        return _moments(column, pa)
    return column_of(column) or [_plain_value(cell) for cell in column.to_pylist()]


def _moments(column: Any, pa: Any) -> TextColumn:
    """Times as ISO 8601, in UTC where they have a zone, to the microsecond where that is needed."""
    zoned = column.type.tz is not None
    bare = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.timestamp("us"))
    with suppress(pa.ArrowInvalid):
        bare = bare.cast(pa.timestamp("s"))
    text = pa.compute.replace_substring(bare.cast(pa.string()), " ", "T", max_replacements=1)
    return TextColumn(text, suffix="+00:00" if zoned else "")


def _plain_value(cell: Any) -> Any:
    if isinstance(cell, float):
        return None if cell != cell else cell  # noqa: PLR0124 - NaN
    if isinstance(cell, (datetime, date)):
        return cell.isoformat()
    return float(cell) if isinstance(cell, Decimal) else cell
