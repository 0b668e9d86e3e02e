"""The outbox's database file: opens it, verifies it, and replaces it when it is damaged, saving what can be saved.

Killed at any instruction it leaves a file that the next start can use. It must never hand out a message that is not
what was stored, nor replace a damaged file before the new one is complete.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

PAGE_BYTES = 2048
COLUMNS = "sequence, id, topic, payload, qos, alarm, weight, checksum"

_APPLICATION_ID = 0x4D4C4F42
_SCHEMA_VERSION = 1
_TABLE = (
    "CREATE TABLE message (sequence INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, topic BLOB NOT NULL,"
    " payload BLOB NOT NULL, qos INTEGER NOT NULL, alarm INTEGER NOT NULL, weight INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL)"
)
_INCREMENTAL = 2
_LAST_SEQUENCE = 2**63 - 1
_LOCK_SECONDS = 2.0  # another process has the file open: it may be about to end
_COPIED_AT_ONCE = 100  # messages, of up to 128 KiB each


class DamagedError(sqlite3.DatabaseError):
    """The file is a readable database, but not a sound outbox of this version."""


class _OtherDatabaseError(Exception):
    """A sound database without an outbox's table."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What came of replacing a damaged file.

    Attributes:
        connection: The new database.
        known: Number of messages there had been, or None if that is not known.
    """

    connection: sqlite3.Connection
    known: int | None


def beside(path: Path, suffix: str) -> Path:
    """The path of a file whose name is that of the database and a suffix."""
    return path.with_name(path.name + suffix)


def checksum(sequence: int, key: bytes, topic: bytes, payload: bytes, numbers: tuple[int, ...]) -> int:
    """CRC-32 of a row, which SQLite does not check by itself; `numbers` are qos, alarm and weight."""
    head = repr((sequence, len(key), len(topic), numbers)).encode()
    return zlib.crc32(payload, zlib.crc32(topic, zlib.crc32(key, zlib.crc32(head))))


def is_sound(row: tuple[Any, ...]) -> bool:
    """Whether a row (of `COLUMNS`) is what was stored."""
    sequence, key, topic, payload, *numbers, stored = row
    blobs = all(isinstance(value, bytes) for value in (key, topic, payload))
    return blobs and stored == checksum(sequence, key, topic, payload, tuple(numbers))


def open_database(path: Path) -> sqlite3.Connection:
    """Open a database, making it if there is none, and look at every page and every message.

    Raises:
        sqlite3.OperationalError: It cannot be read or written, or is locked. (Some damages lead to this, too.)
        sqlite3.DatabaseError: It is damaged, or not an outbox of this version.
        OSError: It cannot be made.
    """
    created = False
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # SQLite gives its log the same mode
        created = True
    if not path.is_file():
        raise DamagedError("not a file")
    path.chmod(0o600)
    connection = None
    try:
        connection = _connect(path, new=not path.stat().st_size)
        _verify(connection)
    except sqlite3.Error:
        if connection:
            connection.close()
        if created:  # an empty file would look like one that lost its content
            path.unlink()
        raise
    return connection


def open_in_memory() -> sqlite3.Connection:
    """Open an empty database that lives as long as its connection."""
    connection = _connect(":memory:", new=True)
    _verify(connection)
    return connection


def finish_replacement(path: Path) -> None:
    """If a process was killed in `replace_database`, do what was left to do.

    Raises:
        OSError: It cannot be done.
    """
    if path.exists():
        return
    beside(path, "-wal").unlink(missing_ok=True)  # SQLite would apply it to whatever database comes to stand beside it
    new = beside(path, ".new")
    if new.exists():
        new.replace(path)


def replace_database(path: Path) -> Replacement:
    """Put a new file in the place of a damaged one, with every message that can be saved, and set that one aside.

    The new file is complete before the old one is moved: a process killed at any moment leaves one or the other.

    Raises:
        OSError, sqlite3.Error: Nothing can be written; the damaged file stays, its first page perhaps repaired.
    """
    new = beside(path, ".new")
    _remove(new)
    connection = open_database(new)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        known = _salvage(path, new, connection)
    except (OSError, sqlite3.Error):
        connection.close()
        _remove(new)
        raise
    connection.close()
    path.replace(beside(path, ".broken"))  # the log was copied into it when it was last closed, or cannot be used
    finish_replacement(path)
    return Replacement(open_database(path), known)


def remove_database(path: Path) -> None:
    """Remove a closed database.

    Raises:
        OSError: It cannot be removed.
    """
    _remove(path)
    _remove(beside(path, ".new"))


def _remove(path: Path) -> None:
    for suffix in ("", "-wal"):
        beside(path, suffix).unlink(missing_ok=True)


def _connect(path: Path | str, *, new: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(str(path), timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes  # a damaged text is no reason for an exception of another kind
    try:
        for pragma in (
            # Incremental vacuum writes 3 to 10 % more, and lets the file shrink in place. Both have to be said before
            # anything is written, and never again.
            *((f"page_size={PAGE_BYTES}", f"auto_vacuum={_INCREMENTAL}") if new else ()),
            "locking_mode=EXCLUSIVE",  # no shared memory file beside the log, and no second process
            "journal_mode=WAL",
            "temp_store=MEMORY",
            "secure_delete=OFF",  # Debian's default overwrites what is removed
            "cell_size_check=ON",  # finds damaged pages early
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _verify(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        for statement in (
            "BEGIN IMMEDIATE",
            _TABLE,
            f"PRAGMA application_id={_APPLICATION_ID}",
            f"PRAGMA user_version={_SCHEMA_VERSION}",
            "COMMIT",
        ):
            connection.execute(statement)
    names = ("application_id", "user_version", "page_size", "auto_vacuum")
    identity = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    if identity != [_APPLICATION_ID, _SCHEMA_VERSION, PAGE_BYTES, _INCREMENTAL]:
        raise DamagedError(f"not an outbox of version {_SCHEMA_VERSION}: {names} are {identity}")
    if {row[0] for row in connection.execute("SELECT sql FROM sqlite_master")} != {_TABLE.encode(), None}:
        raise DamagedError("not the table of an outbox")
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != b"ok":
        raise DamagedError(result.decode("utf-8", "replace"))
    for row in connection.execute(f"SELECT {COLUMNS} FROM message"):  # noqa: S608 - a constant
        if not is_sound(row):
            raise DamagedError(f"message {row[0]} is not what was stored")


def _salvage(damaged: Path, fresh: Path, target: sqlite3.Connection) -> int | None:
    """Copy every message that can be read and is what was stored.

    The first page of a database says what all the rest is. In an outbox it never differs but for counters, so that,
    where not everything can be read, that of a fresh outbox is put in its place for another attempt.

    Returns:
        The number of messages there were, or None if that is not known.

    Raises:
        OSError, sqlite3.Error: The copy cannot be written.
    """
    if not damaged.is_file():
        return None
    try:
        known, saved = _copy_messages(damaged, target)
    except _OtherDatabaseError:
        return None
    if known is None or saved < known:
        page = bytearray(fresh.read_bytes()[:PAGE_BYTES])
        page[28:32] = bytes(4)  # "as many pages as the file has", https://www.sqlite.org/fileformat2.html
        with damaged.open("r+b") as file:
            file.write(page)
        listed, _ = _copy_messages(damaged, target)
        known = known or listed or None
    return known


def _copy_messages(damaged: Path, target: sqlite3.Connection) -> tuple[int | None, int]:
    """Copy what can be read.

    Returns:
        How many messages the index of ids lists (None if it cannot be read), and how many were copied.

    Raises:
        _OtherDatabaseError: This is a sound database of another kind.
    """
    source = sqlite3.connect(str(damaged), timeout=_LOCK_SECONDS, isolation_level=None)
    source.text_factory = bytes
    known = None
    saved = 0
    try:
        try:
            source.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            source.execute(f"SELECT {COLUMNS} FROM message LIMIT 0").fetchall()  # noqa: S608 - a constant
            known = source.execute("SELECT count(*) FROM message").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if "no such" in str(error):
                raise _OtherDatabaseError from error
        rows = filter(is_sound, _readable_rows(source))
        while some := list(islice(rows, _COPIED_AT_ONCE)):
            target.execute("BEGIN IMMEDIATE")
            saved += target.executemany(
                f"INSERT OR IGNORE INTO message ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                some,
            ).rowcount
            target.execute("COMMIT")
    finally:
        source.close()
    return known, saved


def _readable_rows(source: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Read from the beginning, and then once more from the end, past the places that cannot be read.

    Before a damaged page the steps get shorter, down to the last message before it; past it they get longer until
    something can be read again. What they leave out there is found on the way back. Rows come once or twice.
    """
    last = 0
    for comparison, direction, sign in ((">=", "ASC", 1), ("<=", "DESC", -1)):
        place = f"WHERE sequence {comparison} ? ORDER BY sequence {direction} LIMIT ?"
        select = f"SELECT {COLUMNS} FROM message {place}"  # noqa: S608 - constants
        position, skip, count = (0 if sign > 0 else _LAST_SEQUENCE), 1, _COPIED_AT_ONCE
        while 0 <= position <= _LAST_SEQUENCE and skip < _LAST_SEQUENCE:
            try:
                rows = source.execute(select, (position, count)).fetchall()
                numbers = [position - sign, *(row[0] for row in rows)]
                if any((after - before) * sign <= 0 for before, after in pairwise(numbers)):
                    raise DamagedError("out of order")  # a damaged tree can lead back, and round and round
            except sqlite3.DatabaseError:
                if count > 1:
                    count //= 2
                else:
                    position = min(position + sign * skip, _LAST_SEQUENCE if sign > 0 else last)
                    skip *= 2
                continue
            if not rows:
                break
            yield from rows
            position, skip, count = numbers[-1] + sign, 1, min(2 * count, _COPIED_AT_ONCE)
            last = max(last, numbers[-1])
