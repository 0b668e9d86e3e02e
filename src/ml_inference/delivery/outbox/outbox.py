"""Keeps what could not be delivered to the cloud, across kill -9, a full disk and a damaged file.

Storage only: it knows nothing of IPC or of what a message says. It must never raise because of its file or its disk,
never take more of the disk than it was given, and never drop a message without counting it.

**Order.** Messages come out in the order they came in, alarms in their place. A consumer in the cloud learns the
present from live results, which do not wait behind the outbox; what comes out of here is history, and a history in
which the alarm precedes the readings that led to it would be wrong. Alarms are preferred where it matters: when space
is short every normal result goes before the first alarm.

**Repeats.** A message that was delivered but whose removal did not reach the disk (a crash, a full disk followed by a
restart) comes out again with the same id, so that a consumer can drop it.

**Flash.** The settings are for eMMC and were chosen with `benchmarks/outbox.py`, which compares them in one run. Bytes
written for each byte of payload, put and removal together, for payloads of 400 bytes in batches of 1, 10 and 100, and
messages put per second in batches of 1 (on an SSD; take the ratios):

| setting | 1 | 10 | 100 | put/s |
| --- | --- | --- | --- | --- |
| SQLite's default (rollback journal, synchronous FULL, pages of 4096) | 164 | 31 | 5.8 | 2,400 |
| write-ahead log, synchronous FULL, pages of 4096 | 77 | 18 | 6.0 | 8,800 |
| write-ahead log, synchronous NORMAL, pages of 4096 | 56 | 16 | 5.8 | 48,000 |
| the outbox: the same with pages of 2048, and able to shrink in place | 38 | 12 | 5.5 | 26,000 |
| the outbox with random ids | 41 | 25 | 22 | |

So put and remove in batches, and with ids that ascend (a start time and a counter). Pages of 1024 would write yet less,
but a payload of 600 bytes would fill one alone and take half as much space again. A write-ahead log at synchronous
NORMAL calls fsync only at a checkpoint, here once a megabyte. Killing the process loses nothing; a power cut can lose
the normal results and bring back the removed ones of the last half minute or so (what the kernel has not written yet),
never the file. A put that holds an alarm is synced before it returns (5,300/s in batches of 1).

**Space.** `max_bytes` bounds the database and its write-ahead log together, at every moment. Up to 2.1 MB of it are the
log's (a quarter, but at least 66 kB, where `max_bytes` is small), 33 kB stay free for the splitting of pages, and a
message of 400 bytes takes 560 of 64 MB (770 of 1 MB). Beside it there can be one damaged file, no larger than the
bound, kept for whoever wants to look; while it is being replaced it is still in place, and the copy grows beside it. A
database that grew gives its space back when it is empty. Memory stays under 4 MB, however full it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ml_inference.delivery.outbox.file import (
    COLUMNS,
    PAGE_BYTES,
    DamagedError,
    beside,
    checksum,
    finish_replacement,
    is_sound,
    open_database,
    open_in_memory,
    remove_database,
    replace_database,
)

MINIMUM_BYTES = 128 * 1024
"""The smallest useful `max_bytes`: below it nothing is kept."""

_FRAME_BYTES = PAGE_BYTES + 24  # a page in the write-ahead log, https://www.sqlite.org/fileformat2.html#walformat
_MIN_LOG_PAGES = 32
_MAX_LOG_PAGES = 1024
# One insert can split a page on every level of two trees (at most four deep), and splitting a root takes one more.
_SPLIT_PAGES = 16
_EMPTY_PAGES = 4  # schema, pointer map, messages, index of ids
# A row's page and its entry's page in the index of ids: what a row costs a transaction at most, but for the rare split.
_PAGES_PER_ROW = 2
_ROW_OVERHEAD_BYTES = 48  # sequence number, header and numbers of a row, at most
_LARGE_WHEN_EMPTY_PAGES = 256
_RETRY_SECONDS = 60.0
_KEPT_PROBLEMS = 20
MEMORY_BYTES = 16_000_000
"""The most that is kept in memory in place of a disk, whatever `max_bytes` says: a gateway has less memory than disk."""
EVENT_SECONDS = 3_600.0
"""For which an event, such as a damaged file that was replaced, counts as a problem."""
_TALLY_COLUMNS = "1, alarm, weight, length(payload)"

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message to the cloud.

    Attributes:
        id: Its identity; put again while it waits, it is kept once.
        topic: Where to publish it.
        payload: What to publish.
        qos: 0 or 1.
        alarm: Whether it outlives normal results when space is short.
        weight: Number of readings it stands for.
    """

    id: str
    topic: str
    payload: bytes
    qos: int
    alarm: bool
    weight: int = 1


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message that waits.

    Attributes:
        sequence: Its place in the order of arrival; what `remove` takes. Not used again while the process lives.
        message: What was put.
    """

    sequence: int
    message: OutboxMessage


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of messages.

    Attributes:
        messages: How many, alarms included.
        alarms: How many of them are alarms.
        weight: Number of readings they stand for.
        payload_bytes: Size of their payloads, in bytes.
    """

    messages: int = 0
    alarms: int = 0
    weight: int = 0
    payload_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.messages + other.messages,
            self.alarms + other.alarms,
            self.weight + other.weight,
            self.payload_bytes + other.payload_bytes,
        )

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.messages - other.messages,
            self.alarms - other.alarms,
            self.weight - other.weight,
            self.payload_bytes - other.payload_bytes,
        )


@dataclass(frozen=True, slots=True)
class PutReport:
    """What became of a put.

    Waiting before + put = waiting after + repeated + expired (+ lost, if the file proved damaged).

    Attributes:
        repeated: Messages of this put whose id was waiting already.
        expired: What is gone because of this put: older messages that made room, and messages of this put for which
            there was no room or which the disk refused.
        refusal: Why the disk refused, or "".
        refused: Messages at the end of this put that the disk refused and the caller keeps, where it asked for that.
    """

    repeated: Tally
    expired: Tally
    refusal: str
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Limits:
    """How `max_bytes` is shared out, in pages.

    Attributes:
        database: Pages of the database; 0 if nothing is to be kept.
        checkpoint: Pages in the write-ahead log at which they are copied into the database.
        transaction: Pages that one transaction may add to the log.
    """

    database: int
    checkpoint: int
    transaction: int

    @classmethod
    def of(cls, max_bytes: int) -> _Limits:
        if max_bytes < MINIMUM_BYTES:
            return cls(0, 0, 0)
        log = min(_MAX_LOG_PAGES, max(_MIN_LOG_PAGES, max_bytes // _FRAME_BYTES // 4))
        header = 32
        return cls((max_bytes - header - log * _FRAME_BYTES) // PAGE_BYTES, log // 2, log - log // 2)

    @property
    def log_bytes(self) -> int:
        return 32 + (self.checkpoint + self.transaction) * _FRAME_BYTES


class _Reports:
    """What goes wrong.

    Attributes:
        refusal: Why the disk refuses now; "" if it does not.
        in_place: Why memory is used in place of the disk now; "" if it is not.
        sentences: What went wrong since the start, the last `_KEPT_PROBLEMS`.
    """

    def __init__(self) -> None:
        self._events: tuple[tuple[float, str], ...] = ()
        self.refusal = ""
        self.in_place = ""
        self.sentences: tuple[str, ...] = ()

    def add(self, sentence: str, *, lasts: bool = False) -> None:
        """Something happened; if it lasts, it is a problem until it is over, else for `EVENT_SECONDS`."""
        self.sentences = (*self.sentences, sentence)[-_KEPT_PROBLEMS:]
        if not lasts:
            self._events = (*self._events, (time.monotonic(), sentence))[-_KEPT_PROBLEMS:]
        _logger.warning("%s", sentence)

    def now(self) -> tuple[str, ...]:
        """What is wrong now, and what happened not long ago."""
        since = time.monotonic() - EVENT_SECONDS
        lasting = (self.in_place, f"The disk refuses ({self.refusal})." if self.refusal else "")
        return (*filter(None, lasting), *(sentence for moment, sentence in self._events if moment >= since))


@dataclass(slots=True)
class _Change:
    """What a transaction does to the counters, once it is committed."""

    next_sequence: int
    oldest_normal: int
    pages: int = 0
    done: int = 0
    added: Tally = Tally()
    evicted: Tally = Tally()
    turned_away: Tally = Tally()
    repeated: Tally = Tally()


class _RefusedError(Exception):
    """The disk did not take a transaction; nothing changed."""


class Outbox:
    """The durable queue to the cloud.

    Not locked: one thread uses it (the cloud publisher's). `waiting`, `expired`, `lost` and `problems` may be read from
    any thread. After `close` only they are of use: what is put expires.

    Attributes:
        path: The database; `-wal`, `.new` and `.broken` are appended to its name for the files beside it.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Open the outbox, or make one. Never raises because of what it finds.

        Reads and verifies the whole file (half a second for 64 MB on a laptop). A damaged file, or one of another
        schema version, is replaced by a new one with every message that can still be read and is what was stored; the
        file itself is set aside as `.broken`, in place of an earlier one. Where nothing can be written, or another
        process has the file open, the outbox lives in memory, within the same bound and `MEMORY_BYTES`, until nothing waits
        there and the file can be used (`put` tries once a minute). `problems` tells all this.

        Args:
            path: The database. Its directory is made with mode 0700, its files with 0600.
            max_bytes: The most it may take on disk, in bytes. Below `MINIMUM_BYTES` there is no outbox: what is put
                expires at once, and so does what an existing file holds.
        """
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._on_disk = False
        self._reports = _Reports()
        self._waiting = self._expired = self._lost = Tally()
        self._next_sequence = 1
        self._oldest_normal = 0  # no normal message has a lower sequence number
        self._unwritten_removals: set[int] = set()
        self._max_bytes = 0
        self._limits = _Limits(0, 0, 0)
        self._within_limits = False
        self._retry_at = 0.0
        self._hurried = False
        self.resize(max_bytes)

    @property
    def waiting(self) -> Tally:
        """What waits to be delivered."""
        return self._waiting

    @property
    def expired(self) -> Tally:
        """What was given up for want of space since the start."""
        return self._expired

    @property
    def lost(self) -> Tally:
        """What a damaged or unreachable file, or the end of an outbox in memory, cost since the start.

        If the file was damaged before the start this is the least it can have been, each message counted as one
        reading; `problems` says when it is not known at all.
        """
        return self._lost

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong since the start, a sentence each, the last 20."""
        return self._reports.sentences

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong now, a sentence each, and what happened within the last hour."""
        return self._reports.now()

    def put(self, messages: Sequence[OutboxMessage], *, expire_refused: bool = True) -> PutReport:
        """Keep messages, in this order, after those that wait.

        One transaction if it fits into the log's share (some 120 messages of usual size with as many evictions, if
        `max_bytes` is at least 8.5 MB; fewer with less), else several. When space is short the oldest normal messages
        expire, then, only for the sake of an alarm, the oldest alarms; a normal message that finds nothing but alarms
        expires itself, and so does a message too large for a transaction (1 MB; 18 kB at the smallest `max_bytes`).

        Args:
            messages: In order.
            expire_refused: Whether what the disk refuses expires; else the caller keeps it, and it is not counted here.
        """
        expired_before = self._expired
        repeated = Tally()
        refusal = ""
        done = 0
        self._return_to_disk()
        try:
            self._write_removals()
            self._guarded(self._apply_limits)
            alarms = any(message.alarm for message in messages)
            while self._connection and done < len(messages):
                change = self._write(partial(self._put_some, messages, done), sync=alarms)
                done += change.done
                repeated += change.repeated
        except _RefusedError as error:
            refusal = str(error)
        kept = len(messages) - done if refusal and not expire_refused else 0
        self._expired += sum(map(_tally, messages[done : len(messages) - kept]), Tally())
        return PutReport(repeated, self._expired - expired_before, refusal, kept)

    def peek(self, limit: int) -> list[StoredMessage]:
        """The oldest messages, in order of arrival; at most `limit`. Empty, too, if the disk cannot be read."""
        if not self._connection or not self._waiting.messages:  # no need to ask the disk
            return []
        try:
            return self._guarded(partial(self._read, limit))
        except _RefusedError:
            return []

    def remove(self, sequences: Collection[int]) -> Tally:
        """Forget messages that were delivered.

        They do not come out again from this object even if the disk refuses; then the removal is written with a later
        one.

        Args:
            sequences: From `StoredMessage.sequence`. Messages that meanwhile expired or are unknown are passed over.

        Returns:
            What was removed: what the caller may count as delivered. A message that expired between `peek` and `remove`
            is not part of it, because it was counted as expired.
        """
        if not self._connection:
            return Tally()
        try:
            found = self._guarded(lambda: _find(self._database(), set(sequences) - self._unwritten_removals))
        except _RefusedError:  # not even readable: they stay, and may be delivered twice
            return Tally()
        removed = sum(found.values(), Tally())
        self._unwritten_removals.update(found)
        self._waiting -= removed
        with suppress(_RefusedError):
            self._write_removals()
            self._guarded(self._give_back_space)
        return removed

    def resize(self, max_bytes: int) -> Tally:
        """Change the bound; what no longer fits expires, oldest normal messages first.

        Making it smaller moves messages within the file: about a second for 30 MB.

        Args:
            max_bytes: As in the constructor.

        Returns:
            What expired.
        """
        expired_before = self._expired
        self._max_bytes = max_bytes
        self._bound(on_disk=self._on_disk or not self._connection)
        if self._limits.database:
            if not self._connection:
                self._open()
            with suppress(_RefusedError):  # the next put tries again
                self._write_removals()
                self._guarded(self._apply_limits)
        else:
            if max_bytes > 0:
                self._report(f"An outbox of {max_bytes} bytes is too small to hold anything.")
            self._discard()
        return self._expired - expired_before

    def hurry(self) -> None:
        """The process is about to end: from now on nothing waits for the flash.

        What is put survives the end of the process, since the kernel has it, and as ever a power cut may take the last half
        minute. A sync could take seconds, and the nucleus kills.
        """
        self._hurried = True
        with suppress(sqlite3.Error):
            if self._connection:
                self._connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()

    def close(self) -> None:
        """Bring everything into the database file and close it. Never raises; closing again does nothing."""
        self._hurried = False
        with suppress(_RefusedError):
            self._write_removals()
        if self._connection and not self._on_disk and self._waiting.messages:
            self._lost += self._waiting
            self._report(f"{self._waiting.messages} messages waited in memory and are lost.")
            self._waiting = Tally()
        self._disconnect()

    # Transactions

    def _write(self, work: Callable[[_Change], None], *, sync: bool = False) -> _Change:
        """Do `work` in one transaction and count what it did.

        Raises:
            _RefusedError: The disk did not take it.
        """
        return self._guarded(partial(self._transaction, work, sync))

    def _transaction(self, work: Callable[[_Change], None], sync: bool) -> _Change:
        connection = self._database()
        change = _Change(self._next_sequence, self._oldest_normal)
        try:
            self._bound_log()
            level = "OFF" if self._hurried else "FULL" if sync else "NORMAL"
            connection.execute(f"PRAGMA synchronous={level}")
            connection.execute("BEGIN IMMEDIATE")
            work(change)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite has rolled back by itself after some errors
                connection.execute("ROLLBACK")
            raise
        self._next_sequence = change.next_sequence
        self._oldest_normal = change.oldest_normal
        self._waiting += change.added - change.evicted
        self._expired += change.evicted + change.turned_away
        if self._reports.refusal:
            self._reports.refusal = ""
            _logger.info("The disk takes messages again.")
        return change

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Do something with the database; if it proves damaged, replace it and try again, in the end in memory.

        Raises:
            _RefusedError: The disk is full, read-only or broken.
        """
        for attempt in range(3):
            try:
                return action()
            except sqlite3.ProgrammingError:
                raise  # a mistake in this module
            except sqlite3.OperationalError as error:
                if not self._reports.refusal:
                    _logger.warning("The disk refuses (%s).", error)
                self._reports.refusal = str(error)
                raise _RefusedError(str(error)) from error
            except sqlite3.DatabaseError as error:
                self._recover(error, in_memory=attempt > 0)
        raise _RefusedError("the database in memory is damaged")

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("no database is open")
        return self._connection

    def _bound_log(self) -> None:
        """Refuse to go on if the log could not be copied into the database, because it would grow without bound."""
        if self._log_bytes() > self._limits.log_bytes:
            self._database().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self._log_bytes() > self._limits.log_bytes:
                raise sqlite3.OperationalError("the write-ahead log cannot be emptied")

    def _log_bytes(self) -> int:
        try:
            return beside(self.path, "-wal").stat().st_size if self._on_disk else 0
        except OSError:
            return 0

    # What transactions do

    def _put_some(self, messages: Sequence[OutboxMessage], start: int, change: _Change) -> None:
        for message in islice(messages, start, None):
            if not self._put_one(message, change):
                return
            change.done += 1

    def _put_one(self, message: OutboxMessage, change: _Change) -> bool:
        """Store a message or count why not; False if the transaction is full and has to be committed first."""
        connection = self._database()
        key, topic = _encode(message.id), _encode(message.topic)
        if connection.execute("SELECT 1 FROM message WHERE id = ?", (key,)).fetchone():
            change.repeated += _tally(message)
            return True
        size = 2 * len(key) + len(topic) + len(message.payload) + _ROW_OVERHEAD_BYTES
        pages = _PAGES_PER_ROW + size // (PAGE_BYTES - 4)  # a page that continues a row begins with four bytes
        if pages > min(self._limits.transaction, self._limits.database - _EMPTY_PAGES - _SPLIT_PAGES):
            change.turned_away += _tally(message)
            return True
        while self._free_pages() < pages + _SPLIT_PAGES:
            if change.pages >= self._limits.transaction:
                return False
            if not self._evict(change, alarms=message.alarm):
                change.turned_away += _tally(message)
                return True
        if change.pages and change.pages + pages > self._limits.transaction:
            return False
        sequence = change.next_sequence
        numbers = (message.qos, int(message.alarm), message.weight)
        stored = checksum(sequence, key, topic, message.payload, numbers)
        connection.execute(
            f"INSERT INTO message ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (sequence, key, topic, message.payload, *numbers, stored),
        )
        change.next_sequence += 1
        change.pages += pages
        change.added += _tally(message)
        return True

    def _evict(self, change: _Change, *, alarms: bool) -> bool:
        """Expire the oldest normal message, or else the oldest alarm if that is allowed; False if there is none."""
        connection = self._database()
        select = f"SELECT sequence, {_TALLY_COLUMNS} FROM message"  # noqa: S608 - a constant
        row = connection.execute(
            f"{select} WHERE sequence >= ? AND alarm = 0 ORDER BY sequence LIMIT 1", (change.oldest_normal,)
        ).fetchone()
        change.oldest_normal = row[0] if row else change.next_sequence
        if row is None and alarms:
            row = connection.execute(f"{select} ORDER BY sequence LIMIT 1").fetchone()
        if row is None:
            return False
        connection.execute("DELETE FROM message WHERE sequence = ?", row[:1])
        change.pages += _PAGES_PER_ROW
        change.evicted += Tally(*row[1:])
        return True

    def _free_pages(self) -> int:
        free: int = self._database().execute("PRAGMA freelist_count").fetchone()[0]
        return self._limits.database - self._pages() + free

    def _pages(self) -> int:
        pages: int = self._database().execute("PRAGMA page_count").fetchone()[0]
        return pages

    def _read(self, limit: int) -> list[StoredMessage]:
        rows = self._database().execute(f"SELECT {COLUMNS} FROM message ORDER BY sequence")  # noqa: S608 - a constant
        wanted = list(islice((row for row in rows if row[0] not in self._unwritten_removals), limit))
        rows.close()  # a reader would keep the log from being emptied
        if not all(map(is_sound, wanted)):
            raise DamagedError("a message is not what was stored")
        return [_stored(row) for row in wanted]

    def _write_removals(self) -> None:
        at_once = self._limits.transaction // _PAGES_PER_ROW
        while self._unwritten_removals and self._connection:
            some = list(islice(self._unwritten_removals, at_once))
            self._write(partial(self._delete, some))
            self._unwritten_removals.difference_update(some)

    def _delete(self, sequences: list[int], _: _Change) -> None:
        self._database().executemany("DELETE FROM message WHERE sequence = ?", ((number,) for number in sequences))

    def _apply_limits(self) -> None:
        """Bring a database that is larger than the bound down to it, and keep it there."""
        if self._within_limits or not self._connection:
            return
        for pragma in (
            f"wal_autocheckpoint={self._limits.checkpoint}",
            f"cache_size={2 * self._limits.transaction}",  # pages: no transaction spills into the log before its end
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        while self._free_pages() < 0 and self._waiting.messages:
            self._write(self._evict_some)
        excess = 0  # until there is none, or none more can go
        while excess != (excess := max(0, self._pages() - self._limits.database)):
            self._write(self._vacuum_some)
        for pragma in (f"max_page_count={self._limits.database}", "wal_checkpoint(TRUNCATE)"):  # now the file shrinks
            self._database().execute(f"PRAGMA {pragma}").fetchall()
        self._within_limits = True

    def _evict_some(self, change: _Change) -> None:
        while self._free_pages() < 0 and change.pages < self._limits.transaction and self._evict(change, alarms=True):
            pass

    def _vacuum_some(self, _: _Change) -> None:
        # A page that moves takes along the page that points to it and a pointer map. One page a call: the sqlite3
        # module stops after the first step of a statement without columns.
        for _page in range(min(self._limits.transaction // 4, self._pages() - self._limits.database)):
            self._database().execute("PRAGMA incremental_vacuum(1)")

    def _give_back_space(self) -> None:
        if self._waiting.messages or self._pages() < _LARGE_WHEN_EMPTY_PAGES:
            return
        with suppress(sqlite3.OperationalError):  # a matter of tidiness; the bound holds without it
            self._database().execute("VACUUM")  # of nothing: writes four pages
            self._database().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Opening, and what to do with a damaged file

    def _open(self) -> None:
        try:
            self._open_on_disk()
        except (OSError, sqlite3.Error) as error:
            self._fall_back_to_memory(error)

    def _open_on_disk(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        finish_replacement(self.path)
        if self.path.is_file() and not self.path.stat().st_size:
            self._report(f"{self.path} is empty: if it held messages, they are lost.")
        try:
            self._use(open_database(self.path), on_disk=True)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):  # Python 3.10 does not tell SQLite's error codes
                raise
            lost = self._replace(error, known=None)
            self._lost += Tally(messages=lost, weight=lost)

    def _return_to_disk(self) -> None:
        """While in memory, and when nothing waits there, try now and then whether the disk can be used again."""
        if not self._connection or self._on_disk or self._waiting.messages or time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        with suppress(OSError, sqlite3.Error):
            self._open_on_disk()
            self._reports.in_place = ""
            _logger.info("Messages wait on disk again.")

    def _recover(self, error: sqlite3.Error, *, in_memory: bool) -> None:
        """Go on with another database in place of the open one, which proved damaged."""
        before = self._waiting
        self._disconnect()
        try:
            if in_memory:
                raise error
            self._replace(error, known=before.messages)
        except (OSError, sqlite3.Error) as second:
            self._fall_back_to_memory(second)
        self._lost += before - self._waiting

    def _replace(self, error: sqlite3.Error, *, known: int | None) -> int:
        """Replace the file; tells how many messages are known to be lost by that.

        Args:
            error: What is wrong with it.
            known: How many messages waited in it, if that is known.
        """
        replacement = replace_database(self.path)
        self._use(replacement.connection, on_disk=True)
        saved = self._waiting.messages
        known = replacement.known if known is None else known
        self._report(
            f"{self.path} was damaged ({error}) and is set aside as {beside(self.path, '.broken').name}: "
            f"{saved} of {'an unknown number of' if known is None else max(known, saved)} messages were saved."
        )
        return max(0, (known or 0) - saved)

    def _fall_back_to_memory(self, error: Exception) -> None:
        sentence = (
            f"{self.path} cannot be used ({error}): for the time being messages wait in memory only. "
            "What the file holds waits there."
        )
        self._reports.in_place = sentence
        self._reports.add(sentence, lasts=True)
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        self._unwritten_removals.clear()
        self._use(open_in_memory(), on_disk=False)

    def _use(self, connection: sqlite3.Connection, *, on_disk: bool) -> None:
        *sums, last = connection.execute(
            "SELECT count(*), total(alarm), total(weight), total(length(payload)), max(sequence) FROM message"
        ).fetchone()
        self._waiting = Tally(*map(int, sums)) - sum(_find(connection, self._unwritten_removals).values(), Tally())
        self._next_sequence = max(self._next_sequence, (last or 0) + 1)
        self._oldest_normal = 0
        self._bound(on_disk=on_disk)
        self._on_disk = on_disk
        self._connection = connection

    def _bound(self, *, on_disk: bool) -> None:
        self._limits = _Limits.of(self._max_bytes if on_disk else min(self._max_bytes, MEMORY_BYTES))
        self._within_limits = False

    def _discard(self) -> None:
        """Turn the outbox off: what waits expires, and the file goes."""
        try:
            if not self._connection and self.path.exists():
                self._open()
            self._disconnect()
            remove_database(self.path)
        except OSError as error:
            self._report(f"{self.path} cannot be removed ({error}).")
        self._expired += self._waiting
        self._waiting = Tally()
        self._unwritten_removals.clear()

    def _disconnect(self) -> None:
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _report(self, sentence: str) -> None:
        self._reports.add(sentence)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can hold half a surrogate pair


def _tally(message: OutboxMessage) -> Tally:
    return Tally(1, int(message.alarm), message.weight, len(message.payload))


def _find(connection: sqlite3.Connection, sequences: Collection[int]) -> dict[int, Tally]:
    select = f"SELECT {_TALLY_COLUMNS} FROM message WHERE sequence = ?"  # noqa: S608 - a constant
    rows = ((number, connection.execute(select, (number,)).fetchone()) for number in sequences)
    return {number: Tally(*row) for number, row in rows if row}


def _stored(row: tuple[Any, ...]) -> StoredMessage:
    sequence, key, topic, payload, qos, alarm, weight, _ = row
    identity, where = (value.decode("utf-8", "surrogatepass") for value in (key, topic))
    return StoredMessage(sequence, OutboxMessage(identity, where, payload, qos, bool(alarm), weight))
