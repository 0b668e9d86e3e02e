"""The history on disk: minutes of every machine, alarms, and what the page has to know after a restart.

One SQLite file in the work directory, used from one thread. It is bounded: the oldest minutes go first. It spares flash memory: the
minutes of many machines share a row, so a minute is some twenty pages and not one for each machine. A file that is damaged is put
aside and a new one begun; a disk that is full costs the history and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import struct
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_dashboard.messages import Alarm, Feature, alarm_of, feature_of

SHARDS = 16
"""Rows that a minute is spread over: the history of one machine then reads a sixteenth of it."""
MAX_ALARMS = 20_000
FORGET_SECONDS = 30 * 86_400.0
"""A machine that was not heard for so long is forgotten at the next start."""
ALARM_ROOM_BYTES = 16 * 1024 * 1024
"""What alarms and machines may take beside the minutes: 20,000 alarms of some 700 bytes."""

_RECORD = struct.Struct("<IH")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS minutes (shard INTEGER, minute INTEGER, records BLOB NOT NULL, PRIMARY KEY (shard, minute));
CREATE TABLE IF NOT EXISTS machines (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, heard REAL NOT NULL, saved TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alarms (
    id TEXT PRIMARY KEY, machine TEXT NOT NULL, kind TEXT NOT NULL, opened REAL NOT NULL, closed REAL, alarm TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS alarms_opened ON alarms (opened);
CREATE INDEX IF NOT EXISTS alarms_machine ON alarms (machine, opened);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """What is to be written at once.

    Attributes:
        minute: Minutes since 1970 that `records` belong to.
        records: Lows, means and highs by machine number, as `Summary.take` gives them.
        machines: Number, name, last heard and `Line.saved` of each machine.
        facts: JSON by name.
    """

    minute: int = 0
    records: dict[int, array[float]] = field(default_factory=dict)
    machines: list[tuple[int, str, float, Mapping[str, Any]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """What an earlier process left."""

    machines: list[tuple[int, str, Mapping[str, Any]]]
    columns: list[str]
    features: list[Feature]
    model: str
    open_alarms: list[Alarm]


class History:
    """The file. Every method may raise `sqlite3.Error`, but for the constructor.

    Args:
        path: Made if it is not there.
        limit_bytes: For the minutes; alarms and machines have `ALARM_ROOM_BYTES` beside it.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _open(path)
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".damaged")
            logger.error("the history cannot be read and is put aside as %s: %s", aside.name, error)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            if path.exists():
                path.replace(aside)
            self._file = _open(path)
        self._page = int(self._file.execute("PRAGMA page_size").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def restore(self, now: float) -> Restored:
        """Read what the page needs after a restart.

        Args:
            now: Seconds since 1970.
        """
        with self._file:
            self._file.execute("DELETE FROM machines WHERE heard < ?", (now - FORGET_SECONDS,))
        machines = [
            (number, name, json.loads(saved))
            for number, name, saved in self._file.execute("SELECT number, name, saved FROM machines ORDER BY number")
        ]
        facts = {name: json.loads(value) for name, value in self._file.execute("SELECT name, value FROM facts")}
        alarms = [
            alarm
            for (text,) in self._file.execute("SELECT alarm FROM alarms WHERE closed IS NULL ORDER BY opened")
            if (alarm := alarm_of(json.loads(text))) is not None
        ]
        return Restored(
            machines=machines,
            columns=[str(name) for name in facts.get("columns", [])],
            features=[feature for item in facts.get("features", []) if (feature := feature_of(item)) is not None],
            model=str(facts.get("model", "")),
            open_alarms=alarms,
        )

    def write(self, batch: Batch) -> None:
        """Write a batch, all or nothing, and keep within the bound."""
        shards: dict[int, bytearray] = {}
        for number, values in batch.records.items():
            shards.setdefault(number % SHARDS, bytearray()).extend(
                _RECORD.pack(number, len(values) // 3) + values.tobytes()
            )
        with self._file as file:
            for shard, records in shards.items():
                # A process that was started again within the minute adds to it.
                file.execute(
                    "INSERT INTO minutes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET records = CAST(records || excluded.records AS BLOB)",
                    (shard, batch.minute, bytes(records)),
                )
            file.executemany(
                "INSERT OR REPLACE INTO machines VALUES (?, ?, ?, ?)",
                [(number, name, heard, json.dumps(saved)) for number, name, heard, saved in batch.machines],
            )
            file.executemany(
                "INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (alarm.id, alarm.machine, alarm.kind, alarm.opened, alarm.closed, json.dumps(alarm.as_json()))
                    for alarm in batch.alarms
                ],
            )
            file.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in batch.facts.items()],
            )
        self._bound(closed_alarms=bool(batch.alarms))

    def minutes(
        self, number: int, begin: float, end: float, columns: Sequence[int], points: int
    ) -> tuple[list[float], list[list[tuple[float, float, float] | None]]]:
        """The history of a machine.

        Args:
            number: The machine's.
            begin: Seconds since 1970.
            end: Seconds since 1970.
            columns: The columns that are asked for.
            points: About how many points may come back; minutes are put together for longer spans.

        Returns:
            Times (middles, seconds since 1970), and for each column low, mean and high at each time, None where nothing came.
        """
        first, last = int(begin // 60), int(end // 60)
        width = max(1, math.ceil((last - first + 1) / points))
        buckets: dict[int, list[list[float]]] = {}
        rows = self._file.execute(
            "SELECT minute, records FROM minutes WHERE shard = ? AND minute BETWEEN ? AND ? ORDER BY minute",
            (number % SHARDS, first, last),
        )
        for minute, records in rows:
            for values in _records_of(records, number):
                bucket = buckets.setdefault(minute // width, [[] for _ in columns])
                for place, column in enumerate(columns):
                    triple = values[3 * column : 3 * column + 3]
                    if len(triple) == 3 and triple[1] == triple[1]:  # noqa: PLR2004 - not NaN
                        bucket[place].extend(triple)
        times = sorted(buckets)
        return (
            [(bucket + 0.5) * width * 60 for bucket in times],
            [[_together(buckets[bucket][place]) for bucket in times] for place in range(len(columns))],
        )

    def alarms(
        self,
        *,
        machine: str | None = None,
        kind: str | None = None,
        state: str | None = None,
        begin: float = 0.0,
        end: float = math.inf,
        limit: int = 200,
    ) -> list[dict[str, Any]]:
        """Alarms, the newest first.

        Args:
            machine: Only of this one.
            kind: Only of this kind.
            state: "open" or "closed"; None for both.
            begin: Only those that were open at or after this moment, in seconds since 1970.
            end: Only those that were opened before it.
            limit: Most of them.
        """
        conditions, values = ["(closed IS NULL OR closed >= ?)", "opened <= ?"], [begin, min(end, 1e12)]
        parameters: list[Any] = list(values)
        for condition, value in (("machine = ?", machine), ("kind = ?", kind)):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if state in ("open", "closed"):
            conditions.append("closed IS NULL" if state == "open" else "closed IS NOT NULL")
        where = " AND ".join(conditions)
        rows = self._file.execute(
            f"SELECT alarm FROM alarms WHERE {where} ORDER BY opened DESC LIMIT ?",  # noqa: S608 - of our own conditions
            (*parameters, limit),
        )
        return [json.loads(text) for (text,) in rows]

    @property
    def size_bytes(self) -> int:
        """What of the file is in use."""
        pages, free = (self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return (int(pages) - int(free)) * self._page

    def _bound(self, *, closed_alarms: bool) -> None:
        with self._file as file:
            if closed_alarms:
                file.execute(
                    "DELETE FROM alarms WHERE id IN (SELECT id FROM alarms ORDER BY opened DESC LIMIT -1 OFFSET ?)",
                    (MAX_ALARMS,),
                )
            if self.size_bytes > self.limit_bytes + ALARM_ROOM_BYTES / 2:
                oldest, newest = file.execute("SELECT min(minute), max(minute) FROM minutes").fetchone()
                if oldest is not None:
                    # A twentieth at a time, so that it is not done every minute.
                    until = oldest + max(1, (newest - oldest) // 20)
                    file.execute("DELETE FROM minutes WHERE minute < ?", (until,))


def _open(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("PRAGMA journal_size_limit = 4194304")
        file.execute("PRAGMA cache_size = -2048")
        file.executescript(_SCHEMA)
        file.execute("SELECT count(*) FROM machines").fetchone()
    except sqlite3.Error:
        file.close()
        raise
    return file


def _records_of(records: bytes, number: int) -> Iterable[array[float]]:
    place = 0
    while place + _RECORD.size <= len(records):
        found, width = _RECORD.unpack_from(records, place)
        begin = place + _RECORD.size
        place = begin + 12 * width
        if found == number:
            values = array("f")
            values.frombytes(records[begin:place])
            yield values


def _together(triples: list[float]) -> tuple[float, float, float] | None:
    if not triples:
        return None
    means = triples[1::3]
    return min(triples[0::3]), math.fsum(means) / len(means), max(triples[2::3])


def open_history(path: Path, limit_bytes: int, now: float | None = None) -> tuple[History, Restored]:
    """Open the history and read what it holds; a file whose contents are not as they should be is put aside, too."""
    history = History(path, limit_bytes)
    try:
        return history, history.restore(time.time() if now is None else now)
    except (sqlite3.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        logger.error("the history holds something else than expected and is put aside: %r", error)
        history.close()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.replace(path.with_suffix(".damaged"))
        history = History(path, limit_bytes)
        return history, history.restore(time.time() if now is None else now)
