"""Rows of JSON lines, piece by piece: an object a line, or a batch of them as a message has it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic_core import from_json

from ml_inference.offline.chunks import Broken, Chunk, Dialect, Document, Part, TableError
from ml_inference.offline.files import byte_lines, encoding_of, head_of, text_lines


def json_lines(path: Path, dialect: Dialect, part: Part) -> Iterator[tuple[int, bytes]]:
    """The lines of a table in JSON lines, each after its number from 1, blank ones left out."""
    encoding = encoding_of(path, head_of(path), dialect)
    lines: Iterator[bytes]
    if encoding == "utf-8-sig":
        lines = byte_lines(path, part)
    else:
        lines = (line.encode() for line in text_lines(path, dialect, part, encoding))
    for number, line in enumerate(lines, start=part.lines + 1):
        if stripped := line.strip():
            if number == 1 and stripped in (b"{", b"["):
                raise TableError(
                    f"{path}: is one JSON document over many lines; JSON lines are wanted: an object on each line"
                )
            yield number, stripped


def json_chunks(path: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    """Read a file of JSON lines."""
    found: list[Document] = []
    numbers: list[int] = []
    broken: list[Broken] = []
    for number, line in json_lines(path, dialect, part):
        try:
            document = from_json(line, cache_strings="keys")
        except ValueError as error:
            broken.append(Broken(number, f"is not JSON: {error}", line))
            continue
        # As a message: one reading, or a batch of them.
        inner = document.get("readings") if isinstance(document, dict) else document
        for one in inner if isinstance(inner, list) else [document]:
            if isinstance(one, dict):
                found.append(one)
                numbers.append(number)
            else:
                broken.append(Broken(number, "is no JSON object", one))
        if len(found) >= rows:
            yield _json_chunk(path, found, numbers, broken)
            found, numbers, broken = [], [], []
    if found or broken:
        yield _json_chunk(path, found, numbers, broken)


def _json_chunk(path: Path, rows: Sequence[Document], numbers: list[int], broken: Sequence[Broken]) -> Chunk:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return Chunk(path, {name: [row.get(name) for row in rows] for name in names}, numbers, text=False, broken=broken)
