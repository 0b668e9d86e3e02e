"""What the outbox's settings cost in messages per second and in bytes written to flash, compared in one run.

    python benchmarks/outbox.py [--directory DIR] [--rounds 3]

Each candidate stores messages with payloads of 400 bytes in batches of 1, 10 and 100 and then removes them in the same
batches; what is in the write-ahead log at the end of either part is copied into the database and counted. Bytes are
those the kernel sends to the disk for this process (`write_bytes` in /proc/self/io), divided by the bytes of payload;
the file system's own journal, which every fsync makes it write, is not in them. The best rate of the rounds is shown.
Use a directory on the disk in question, not one in memory: there nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml_inference.delivery.outbox.outbox import Outbox, OutboxMessage

PAYLOAD = os.urandom(400)
TOPIC = "greengrass/ml/inference/gateway-7"
MESSAGES = {1: 1_000, 10: 4_000, 100: 16_000}  # for each size of a batch
OUTBOX_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings of SQLite.

    Attributes:
        journal: `journal_mode`.
        synchronous: `synchronous`.
        page: Bytes of a page.
        vacuum: Whether pointer maps are kept, which let the file shrink in place.
        index: Whether ids are unique.
        random_ids: Whether ids are random rather than ascending.
    """

    journal: str
    synchronous: str
    page: int
    vacuum: bool = False
    index: bool = True
    random_ids: bool = False

    def __str__(self) -> str:
        extra = (", vacuum" if self.vacuum else "") + ("" if self.index else ", ids not unique")
        return f"{self.journal} {self.synchronous} {self.page}{extra}" + (", random ids" if self.random_ids else "")


CANDIDATES = (
    Candidate("DELETE", "FULL", 4096),  # SQLite's default
    Candidate("TRUNCATE", "NORMAL", 4096),
    Candidate("WAL", "FULL", 4096),
    Candidate("WAL", "NORMAL", 8192),
    Candidate("WAL", "NORMAL", 4096),
    Candidate("WAL", "NORMAL", 2048),
    Candidate("WAL", "NORMAL", 1024),
    Candidate("WAL", "NORMAL", 2048, vacuum=True),
    Candidate("WAL", "NORMAL", 2048, vacuum=True, index=False),
    Candidate("WAL", "NORMAL", 2048, vacuum=True, random_ids=True),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of storing or removing: messages per second, and bytes written for each byte of payload."""

    rate: float
    written: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path(), help="on the disk to measure (default: here)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    runs: dict[str, Callable[[Path, int], tuple[Cost, Cost]]] = {
        str(candidate): partial(run_candidate, candidate) for candidate in CANDIDATES
    }
    runs["the outbox"] = partial(run_outbox, alarm=False)
    runs["the outbox, alarms only"] = partial(run_outbox, alarm=True)
    print(f"SQLite {sqlite3.sqlite_version}, payloads of {len(PAYLOAD)} bytes")
    print(f"{'':42} batch   put/s   removed/s   written per byte: put  removed  together")
    for batch in MESSAGES:
        costs: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
                    costs[name].append(run(Path(directory) / "outbox.db", batch))
        for name, rounds in costs.items():
            put, removed = (max(part, key=lambda cost: cost.rate) for part in zip(*rounds, strict=True))
            print(
                f"{name:42} {batch:5} {put.rate:7.0f} {removed.rate:11.0f} "
                f"{put.written:23.1f} {removed.written:8.1f} {put.written + removed.written:9.1f}"
            )


def run_candidate(candidate: Candidate, path: Path, batch: int) -> tuple[Cost, Cost]:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (
        f"page_size={candidate.page}",
        f"auto_vacuum={'INCREMENTAL' if candidate.vacuum else 'NONE'}",
        "locking_mode=EXCLUSIVE",
        f"journal_mode={candidate.journal}",
        f"synchronous={candidate.synchronous}",
        "secure_delete=OFF",
        f"wal_autocheckpoint={1024 * 1024 // candidate.page}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    unique = "UNIQUE" if candidate.index else ""
    connection.execute(
        f"CREATE TABLE message (sequence INTEGER PRIMARY KEY, id BLOB NOT NULL {unique}, topic BLOB NOT NULL,"
        " payload BLOB NOT NULL, qos INTEGER, alarm INTEGER, weight INTEGER, checksum INTEGER)"
    )

    def put(first: int) -> None:
        rows = (
            (number, make_id(number, random=candidate.random_ids).encode(), TOPIC.encode(), PAYLOAD, 1, 0, 1, 2**32 - 1)
            for number in range(first, first + batch)
        )
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    def remove(first: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM message WHERE sequence = ?", ((n,) for n in range(first, first + batch)))
        connection.execute("COMMIT")

    def settle() -> None:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    settle()
    try:
        return measure(put, settle, batch), measure(remove, settle, batch)
    finally:
        connection.close()


def run_outbox(path: Path, batch: int, *, alarm: bool) -> tuple[Cost, Cost]:
    filled = Outbox(path, max_bytes=OUTBOX_BYTES)

    def put(first: int) -> None:
        numbers = range(first, first + batch)
        filled.put([OutboxMessage(make_id(number, random=False), TOPIC, PAYLOAD, 1, alarm) for number in numbers])

    stored = measure(put, filled.close, batch)
    drained = Outbox(path, max_bytes=OUTBOX_BYTES)

    def remove(_: int) -> None:
        drained.remove([message.sequence for message in drained.peek(batch)])

    return stored, measure(remove, drained.close, batch)


def make_id(number: int, *, random: bool) -> str:
    return uuid.uuid4().hex if random else f"{1_790_000_000_000:x}-{number:08x}"


def measure(work: Callable[[int], None], settle: Callable[[], None], batch: int) -> Cost:
    count = MESSAGES[batch]
    before, start = bytes_written(), time.perf_counter()
    for first in range(0, count, batch):
        work(first)
    seconds = time.perf_counter() - start
    settle()
    return Cost(count / seconds, (bytes_written() - before) / (count * len(PAYLOAD)))


def bytes_written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["write_bytes"])


if __name__ == "__main__":
    main()
