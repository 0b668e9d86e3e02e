"""Opens the files of tables: folders, gzip, encodings, lines of text and of bytes, runs of whole lines.

It knows nothing of columns. What is no table (a workbook, an archive) is refused by its first bytes.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ml_inference.offline.chunks import Dialect, Part, TableError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not read into memory whole: the file is something else than a table."""

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
"""Names of files that are taken from a folder, with .gz behind them, too."""

_HEAD_BYTES = 65_536
_STRETCH_BYTES = 4_000_000

_JSON_BYTES = 4_096

PARQUET = b"PAR1"

_JSON = re.compile(r'\s*(?:\{\s*(?:["}]|$)|\[\s*(?:[\[{"\]0-9-]|$))')

_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook: save the sheet as CSV",
    b"BZh": "compressed by bzip2: unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or use gzip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\x89HDF": "an HDF5 file: save the table as CSV or Parquet",
}


def table_files(paths: Sequence[Path]) -> list[Path]:
    """The files of a table: those that are named, and those in folders that are named, by name (2.csv before 10.csv).

    Raises:
        TableError: There is none.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        held = [
            file
            for file in path.rglob("*")
            if file.is_file()
            and file.name.lower().removesuffix(".gz").endswith(SUFFIXES)
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not held:
            raise TableError(f"{path}: holds no table (files that end in {', '.join(SUFFIXES)}, or these with .gz)")
        files += sorted(held, key=lambda file: _natural(str(file.relative_to(path))))
    return files


def is_json_lines(path: Path, dialect: Dialect | None = None) -> bool:
    """Whether a table holds JSON lines rather than CSV or Parquet: by its first characters.

    Raises:
        TableError: It cannot be read.
    """
    head = head_of(path)
    if head.startswith(PARQUET):
        return False
    encoding = encoding_of(path, head, dialect or Dialect())
    return _JSON.match(head[:_JSON_BYTES].decode(encoding, "ignore")) is not None


class reading:  # noqa: N801 - a context manager
    """Turns the errors of reading a file into `TableError`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise TableError(f"{self._file}: {error.strerror or error}") from error
        if isinstance(error, (EOFError, zlib.error)):
            raise TableError(f"{self._file}: its gzip data is damaged or cut short ({error})") from error


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    with reading(path):
        if path.is_dir():
            raise TableError(f"{path}: is a folder")
        with open_plain(path) as file:
            head = file.read(_HEAD_BYTES)
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise TableError(f"{path}: is {what}")
    return head


def open_plain(path: Path) -> BinaryIO:
    """Open a file, unpacking gzip."""
    file = path.open("rb")
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path)  # type: ignore[return-value]
    file.seek(0)
    return file


class _Window(io.RawIOBase):
    """A file from one position to another."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._left = None if part.end is None else part.end - part.start
        if part.start:
            file.seek(part.start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        data = self._file.read(size)
        buffer[: len(data)] = data
        if self._left is not None:
            self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def encoding_of(path: Path, head: bytes, dialect: Dialect) -> str:
    """Python's name of a file's encoding, by what is asked for or its first bytes."""
    if dialect.encoding is not None:
        return "utf-8-sig" if codecs.lookup(dialect.encoding).name == "utf-8" else dialect.encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head[:512]:
        raise TableError(
            f"{path}: is no text in UTF-8 (it holds null bytes): name its encoding, such as --encoding utf-16-le"
        )
    return "utf-8-sig"


def text_lines(path: Path, dialect: Dialect, part: Part, encoding: str) -> Iterator[str]:
    """Lines of text with their ends, LF, CR or CRLF."""
    window = io.BufferedReader(_Window(open_plain(path), part), _HEAD_BYTES)
    number = part.lines
    with io.TextIOWrapper(
        window, encoding="utf-8" if part.start and encoding == "utf-8-sig" else encoding, newline=""
    ) as text:
        try:
            while line := text.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) >= MAX_LINE_BYTES:
                    raise TableError(f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes; is this a table?")
                yield line
        except UnicodeError as error:
            name = dialect.encoding or "UTF-8"
            hint = (
                "give another --encoding"
                if dialect.encoding
                else "name its encoding, such as --encoding cp949 or latin-1"
            )
            where = _undecodable(path, part, encoding) or number + 1
            raise TableError(f"{path}: line {where}: is not {name}; {hint}") from error


def _undecodable(path: Path, part: Part, encoding: str) -> int | None:
    """The line that cannot be decoded: text is decoded in blocks, so the error itself does not know."""
    if "16" in encoding or "32" in encoding:
        return None
    with open_plain(path) as file:
        file.seek(part.start)
        for number, line in enumerate(file, start=part.lines + 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return None


def byte_lines(path: Path, part: Part) -> Iterator[bytes]:
    """Lines of bytes with their ends."""
    with io.BufferedReader(_Window(open_plain(path), part), _HEAD_BYTES) as file:
        for number in itertools.count(part.lines + 1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise TableError(f"{path}: holds a line of more than {MAX_LINE_BYTES} bytes")
            yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name by their value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of whole lines of a file with its bytes.

    Attributes:
        part: Which.
        content: Its bytes.
    """

    part: Part
    content: bytes

    @property
    def cuts_rows(self) -> bool:
        """Whether its ends are ends of rows, whatever stands there: no cell is quoted, and none can hold an end of a line."""
        return b'"' not in self.content


def stretches(path: Path, part: Part, skipped: int) -> Iterator[Stretch]:
    """A file in UTF-8 in runs of whole lines.

    Args:
        path: The file.
        part: What to read of it.
        skipped: Lines to leave out at the beginning.
    """
    start, lines = part.start, part.lines
    with io.BufferedReader(_Window(open_plain(path), part), _HEAD_BYTES) as file:
        for _ in range(skipped):
            start += len(file.readline())
            lines += 1
        left = b""
        while True:
            block = file.read(_STRETCH_BYTES)
            content = left + block
            cut = len(content) if len(block) < _STRETCH_BYTES else content.rfind(b"\n") + 1
            if not content:
                return
            if cut:
                yield Stretch(Part(start, start + cut, lines), content[:cut])
                start += cut
                lines += content.count(b"\n", 0, cut)
            left = content[cut:]
            if not block or len(left) > MAX_LINE_BYTES:
                if left:
                    yield Stretch(Part(start, part.end, lines), left)
                return
