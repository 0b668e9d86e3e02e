from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ml_inference.delivery.outbox import file as outbox_file
from ml_inference.delivery.outbox import outbox as outbox_module
from ml_inference.delivery.outbox.outbox import MINIMUM_BYTES, Outbox, OutboxMessage, Tally
from support.outbox_victim import MAX_BYTES, STEPS, work

VICTIM = Path(__file__).parents[2] / "support" / "outbox_victim.py"
PAGE = outbox_file.PAGE_BYTES
# What is tested here does not depend on the disk, and waiting for a real one to sync would be most of the time.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / "outbox.db"


def make(name: object, *, size: int = 400, alarm: bool = False, weight: int = 1) -> OutboxMessage:
    payload = random.Random(str(name)).randbytes(size)
    return OutboxMessage(str(name), "greengrass/ml/inference/gateway", payload, 1, alarm, weight)


def many(count: int, *, first: int = 0, size: int = 400, alarm: bool = False) -> list[OutboxMessage]:
    return [make(number, size=size, alarm=alarm) for number in range(first, first + count)]


def content(outbox: Outbox) -> list[OutboxMessage]:
    return [stored.message for stored in outbox.peek(1_000_000)]


def ids(messages: Iterable[OutboxMessage]) -> list[str]:
    return [message.id for message in messages]


def tally(messages: Iterable[OutboxMessage]) -> Tally:
    return sum((Tally(1, int(m.alarm), m.weight, len(m.payload)) for m in messages), Tally())


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


def filled(path: Path, messages: Sequence[OutboxMessage], *, max_bytes: int = MAX_BYTES) -> None:
    outbox = Outbox(path, max_bytes=max_bytes)
    outbox.put(messages)
    outbox.close()


def run_victim(task: str, *arguments: Any, prefix: Sequence[str] = ()) -> Any:
    command = [*prefix, sys.executable, str(VICTIM), task, json.dumps(arguments, default=str)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)


# Order, identity, removal


def test_messages_come_out_in_the_order_they_came_in_with_alarms_in_their_place(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    messages = [make(n, alarm=n % 3 == 0, weight=n) for n in range(30)]
    outbox.put(messages[:10])
    outbox.put(messages[10:])
    assert content(outbox) == messages
    assert [stored.message for stored in outbox.peek(7)] == messages[:7]
    assert outbox.waiting == tally(messages)


def test_reopening_keeps_order_ids_and_every_field(path: Path) -> None:
    odd = OutboxMessage("ä\ud800\0'", "a/\u2603", b"", 0, True, 0)
    messages = [*many(20), odd, make("large", size=128 * 1024, weight=900)]
    filled(path, messages, max_bytes=4_000_000)
    outbox = Outbox(path, max_bytes=4_000_000)
    assert content(outbox) == messages
    assert outbox.waiting == tally(messages)
    assert outbox.problems == ()
    outbox.put([make("later")])
    assert ids(content(outbox)) == [*ids(messages), "later"]


def test_an_id_put_twice_is_kept_once(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    first, again, other = make("a"), make("a", weight=5), make("b")
    assert outbox.put([first, again, other]).repeated == tally([again])
    assert outbox.put([again]).repeated == tally([again])
    outbox.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert outbox.put([again]).repeated == tally([again])
    assert content(outbox) == [first, other]


def test_an_id_can_come_again_after_its_removal(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put([make("a")])
    outbox.remove([outbox.peek(1)[0].sequence])
    assert outbox.put([make("a")]).repeated == Tally()
    assert ids(content(outbox)) == ["a"]


def test_what_is_removed_is_told_and_does_not_come_again(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    messages = [make(n, alarm=n == 1, weight=n) for n in range(6)]
    outbox.put(messages)
    stored = outbox.peek(6)
    chosen = [stored[1].sequence, stored[4].sequence]
    assert outbox.remove(chosen) == tally([messages[1], messages[4]])
    assert outbox.remove([*chosen, 999]) == Tally()
    outbox.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert ids(content(outbox)) == ["0", "2", "3", "5"]
    assert outbox.waiting == tally(messages) - tally([messages[1], messages[4]])


def test_a_sequence_number_is_not_used_again_after_the_last_message_is_removed(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put([make("a")])
    old = outbox.peek(1)[0].sequence
    outbox.remove([old])
    outbox.put([make("b")])
    assert outbox.remove([old]) == Tally()
    assert ids(content(outbox)) == ["b"]


def test_an_empty_outbox_is_not_read(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    statements: list[str] = []
    assert outbox._connection is not None
    outbox._connection.set_trace_callback(statements.append)
    assert outbox.peek(10) == []
    assert statements == []
    outbox.put([make("a")])
    assert statements


def test_a_put_with_an_alarm_is_synced_and_one_without_is_not(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    statements: list[str] = []
    assert outbox._connection is not None
    outbox._connection.set_trace_callback(statements.append)
    outbox.put([make("a"), make("b", alarm=True)])
    outbox.put([make("c")])
    levels = [statement for statement in statements if "synchronous" in statement or "COMMIT" in statement]
    assert levels == ["PRAGMA synchronous=FULL", "COMMIT", "PRAGMA synchronous=NORMAL", "COMMIT"]


# Space


def test_when_space_is_short_the_oldest_normal_messages_expire_and_alarms_stay(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    messages = [make(n, alarm=n % 10 == 0, weight=3) for n in range(3_000)]
    expired = Tally()
    for start in range(0, len(messages), 50):
        report = outbox.put(messages[start : start + 50])
        expired += report.expired
    gone = expired.messages
    normals = [message for message in messages if not message.alarm]
    assert 1_000 < gone < 2_500
    assert expired == outbox.expired == tally(normals[:gone])
    assert content(outbox) == [m for m in messages if m.alarm or m in normals[gone:]]


def test_alarms_expire_last_and_only_for_alarms(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put(many(50))
    alarms = many(3_000, first=100, alarm=True)
    report = outbox.put(alarms)
    gone = report.expired.alarms
    assert gone > 500
    assert report.expired.messages == gone + 50  # every normal one went
    assert content(outbox) == alarms[gone:]
    normal = make("normal", size=8_000)
    assert outbox.put([normal]).expired == tally([normal])
    assert content(outbox) == alarms[gone:]
    outbox.remove([stored.sequence for stored in outbox.peek(100)])
    assert outbox.put([normal]).expired == Tally()


def test_a_message_too_large_for_the_outbox_expires_alone(path: Path) -> None:
    outbox = Outbox(path, max_bytes=300_000)
    messages = [make("a"), make("huge", size=200_000, weight=7), make("b")]
    report = outbox.put(messages)
    assert report.expired == tally(messages[1:2])
    assert ids(content(outbox)) == ["a", "b"]


def test_a_message_that_expires_between_peek_and_removal_is_counted_once(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MINIMUM_BYTES)
    outbox.put([make("first")])
    in_flight = outbox.peek(1)
    outbox.put(many(200))
    assert outbox.remove([in_flight[0].sequence]) == Tally()
    assert outbox.expired.messages + outbox.waiting.messages == 201


@pytest.mark.parametrize("max_bytes", [MINIMUM_BYTES, 300_000, 1_000_000, 3_000_000])
def test_the_bound_holds_on_disk_at_every_moment(path: Path, max_bytes: int) -> None:
    rng = random.Random(max_bytes)
    outbox = Outbox(path, max_bytes=max_bytes)
    put = Tally()
    largest = 0
    while put.payload_bytes < 4 * max_bytes:
        small = rng.random() < 0.8
        messages = [
            make(rng.randbytes(16).hex(), size=rng.randrange(600 if small else 20_000), alarm=rng.random() < 0.2)
            for _ in range(rng.randrange(1, 100 if small else 10))
        ]
        assert outbox.put(messages).refusal == ""
        put += tally(messages)
        largest = max(largest, on_disk(path))
        if rng.random() < 0.1:
            outbox.remove([stored.sequence for stored in outbox.peek(20) if rng.random() < 0.5])
            largest = max(largest, on_disk(path))
    assert largest <= max_bytes
    assert outbox.expired.messages
    outbox.close()
    assert on_disk(path) <= max_bytes


def test_the_bound_holds_after_one_large_put(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    report = outbox.put(many(4_000))
    assert on_disk(path) <= MAX_BYTES
    assert ids(content(outbox)) == [str(n) for n in range(report.expired.messages, 4_000)]


def test_the_bound_holds_when_one_large_message_drives_out_many_small_ones(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    transaction = outbox._transaction
    sizes = []

    def measured(*arguments: Any) -> Any:
        change = transaction(*arguments)
        sizes.append(on_disk(path))
        return change

    monkeypatch.setattr(outbox, "_transaction", measured)
    rng = random.Random(6)
    outbox.put([make(rng.randbytes(16).hex(), size=10) for _ in range(7_000)])
    assert outbox.expired.messages
    for number in range(5):
        before = outbox.expired.messages
        outbox.put([make(number, size=100_000, alarm=True)])
        assert outbox.expired.messages > before + 100
    assert max(sizes) <= MAX_BYTES
    assert outbox.waiting.alarms == 5


@pytest.mark.parametrize(("max_bytes", "share"), [(MINIMUM_BYTES, 0.1), (1_000_000, 0.5), (8_000_000, 0.54)])
def test_a_good_part_of_the_space_is_payload(path: Path, max_bytes: int, share: float) -> None:
    outbox = Outbox(path, max_bytes=max_bytes)
    for first in range(0, max_bytes // 400, 100):
        outbox.put(many(100, first=first))
    assert outbox.expired.messages
    assert outbox.waiting.payload_bytes > share * max_bytes


def test_space_is_given_back_when_the_outbox_is_empty_again(path: Path) -> None:
    outbox = Outbox(path, max_bytes=4_000_000)
    outbox.put(many(4_000))
    assert on_disk(path) > 1_500_000
    outbox.remove([stored.sequence for stored in outbox.peek(10_000)])
    assert on_disk(path) < 20_000
    outbox.put(many(1))
    assert ids(content(outbox)) == ["0"]


def test_a_smaller_bound_holds_at_once_and_a_larger_one_gives_room(path: Path) -> None:
    outbox = Outbox(path, max_bytes=2_000_000)
    messages = [make(n, alarm=n % 10 == 0) for n in range(2_500)]
    assert outbox.put(messages).expired == Tally()
    expired = outbox.resize(500_000)
    assert on_disk(path) <= 500_000
    assert expired == outbox.expired
    assert expired.alarms == 0
    normals = [message for message in messages if not message.alarm]
    assert content(outbox) == [m for m in messages if m.alarm or m in normals[expired.messages :]]
    waiting = outbox.waiting
    assert outbox.resize(3_000_000) == Tally()
    assert outbox.put(many(3_000, first=10_000)).expired == Tally()
    assert outbox.waiting.messages == waiting.messages + 3_000
    assert on_disk(path) <= 3_000_000


def test_a_smaller_bound_holds_for_what_is_found_at_the_start(path: Path) -> None:
    filled(path, many(2_000), max_bytes=2_000_000)
    outbox = Outbox(path, max_bytes=400_000)
    assert on_disk(path) <= 400_000
    assert outbox.expired.messages + outbox.waiting.messages == 2_000
    assert ids(content(outbox)) == [str(n) for n in range(outbox.expired.messages, 2_000)]


def test_without_an_outbox_everything_expires_at_once_and_nothing_is_written(path: Path) -> None:
    outbox = Outbox(path, max_bytes=0)
    messages = [make(n, alarm=n == 0, weight=2) for n in range(3)]
    report = outbox.put(messages)
    assert report.expired == outbox.expired == tally(messages)
    assert report.refusal == ""
    assert outbox.peek(10) == []
    assert outbox.remove([1]) == Tally()
    assert not path.exists()
    assert outbox.problems == ()
    outbox.close()


def test_a_bound_too_small_for_anything_is_told(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MINIMUM_BYTES - 1)
    assert outbox.put([make("a")]).expired.messages == 1
    assert "too small" in outbox.problems[0]


def test_turning_the_outbox_off_expires_what_waits_and_removes_the_file(path: Path) -> None:
    filled(path, many(5))
    outbox = Outbox(path, max_bytes=0)
    assert outbox.expired.messages == 5
    assert list(path.parent.iterdir()) == []
    outbox.resize(MAX_BYTES)
    outbox.put(many(3))
    assert outbox.resize(0).messages == 3
    assert outbox.waiting == Tally()
    assert list(path.parent.iterdir()) == []


def test_the_directory_and_its_files_are_private(path: Path) -> None:
    filled(path, many(1))
    path.chmod(0o644)
    umask = os.umask(0)
    try:
        outbox = Outbox(path, max_bytes=MAX_BYTES)
        outbox.put(many(1, first=1))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"outbox.db": 0o600, "outbox.db-wal": 0o600}


def test_problems_are_kept_within_bounds(path: Path) -> None:
    outbox = Outbox(path, max_bytes=0)
    for size in range(1, 50):
        outbox.resize(size)
    assert len(outbox.problems) == 20
    assert "49 bytes" in outbox.problems[-1]


def test_closing_twice_and_using_it_afterwards_raise_nothing(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put([make("a")])
    outbox.close()
    outbox.close()
    assert outbox.put([make("b")]).expired.messages == 1
    assert outbox.peek(1) == []
    assert outbox.remove([1]) == Tally()


# Damage


def break_with_garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(50_000))


def break_with_text(path: Path) -> None:
    path.write_text("not a database\n" * 400)


def break_with_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def break_with_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def break_with_other_database(path: Path) -> None:
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE something (x)")
    other.commit()
    other.close()


def break_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "destroy",
    [
        break_with_garbage,
        break_with_text,
        break_with_directory,
        break_with_pipe,
        break_with_other_database,
        break_with_zeros,
    ],
)
def test_a_destroyed_file_is_set_aside_and_the_outbox_starts_afresh(
    path: Path, destroy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path, many(20))
    destroy(path)
    with caplog.at_level(logging.WARNING):
        outbox = Outbox(path, max_bytes=MAX_BYTES)
    (problem,) = outbox.problems
    assert "outbox.db.broken" in problem
    assert "0 of an unknown number of messages" in problem
    assert problem in caplog.text
    assert path.with_name("outbox.db.broken").exists()
    outbox.put([make("new")])
    outbox.close()
    assert ids(content(Outbox(path, max_bytes=MAX_BYTES))) == ["new"]


def test_a_database_of_another_kind_is_set_aside_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    break_with_other_database(path)
    data = path.read_bytes()
    Outbox(path, max_bytes=MAX_BYTES).close()
    assert path.with_name("outbox.db.broken").read_bytes()[100:] == data[100:]


def test_only_the_last_broken_file_is_kept(path: Path) -> None:
    for count in (1_000, 30_000):
        filled(path, many(1))
        path.write_bytes(b"x" * count)
        Outbox(path, max_bytes=MAX_BYTES).close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["outbox.db", "outbox.db.broken"]
    assert path.with_name("outbox.db.broken").stat().st_size == 30_000


def test_a_file_of_another_schema_version_is_set_aside_with_its_readable_messages_saved(path: Path) -> None:
    messages = many(20)
    filled(path, messages)
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert content(outbox) == messages
    assert "not an outbox of version 1" in outbox.problems[0]
    assert "20 of 20 messages" in outbox.problems[0]
    assert outbox.lost == Tally()


def test_a_file_with_a_trigger_is_not_trusted(path: Path) -> None:
    filled(path, many(3))
    other = sqlite3.connect(path)
    other.execute("CREATE TRIGGER t AFTER INSERT ON message BEGIN DELETE FROM message; END")
    other.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put([make("new")])
    assert ids(content(outbox)) == ["0", "1", "2", "new"]
    assert len(outbox.problems) == 1


@pytest.mark.parametrize("size", [16, 100, PAGE])
def test_all_messages_survive_the_loss_of_the_first_bytes(path: Path, size: int) -> None:
    messages = many(300)
    filled(path, messages)
    with path.open("r+b") as file:
        file.write(random.Random(size).randbytes(size))
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert content(outbox) == messages
    assert "300 of 300" in outbox.problems[0]


def pages_of(data: bytes) -> list[bytes]:
    return [data[start : start + PAGE] for start in range(0, len(data), PAGE)]


def overwrite_page(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek(number * PAGE)
        file.write(b"\xff" * PAGE)


def test_a_destroyed_page_costs_the_messages_on_it_and_no_others(path: Path) -> None:
    messages = many(300)
    filled(path, messages)
    for wanted in (messages[0], messages[150], messages[299]):
        pages = pages_of(path.read_bytes())
        number = next(n for n, page in enumerate(pages) if wanted.payload in page)
        overwrite_page(path, number)
        outbox = Outbox(path, max_bytes=MAX_BYTES)
        messages = [message for message in messages if message.payload not in pages[number]]
        assert content(outbox) == messages
        outbox.close()
    assert len(messages) >= 300 - 3 * 4


def test_a_destroyed_page_of_the_index_is_noticed_at_the_start_and_costs_nothing(path: Path) -> None:
    messages = many(300)
    filled(path, messages)
    index_leaf = 10  # https://www.sqlite.org/fileformat2.html#b_tree_pages
    overwrite_page(path, next(n for n, page in enumerate(pages_of(path.read_bytes())) if page[0] == index_leaf))
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert len(outbox.problems) == 1
    assert content(outbox) == messages


def test_a_damaged_file_waits_for_a_start_with_room_for_its_replacement(path: Path) -> None:
    messages = many(300)
    filled(path, messages)
    number = next(n for n, page in enumerate(pages_of(path.read_bytes())) if messages[150].payload in page)
    overwrite_page(path, number)
    facts = run_victim("replace_without_room", path)
    (problem,) = facts.pop("problems")
    assert "in memory" in problem
    assert facts == {"waiting": 0, "lost": 0, "files": ["outbox.db"]}
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert len(content(outbox)) >= 296
    assert len(outbox.problems) == 1


def test_an_emptied_file_is_told(path: Path) -> None:
    filled(path, many(3))
    path.write_bytes(b"")
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert "is empty" in outbox.problems[0]
    outbox.put([make("new")])
    assert ids(content(outbox)) == ["new"]


def damaged_copies(path: Path, data: bytes, places: Iterable[int]) -> Iterable[int]:
    """At each place a bit of the file is flipped in turn; the directory holds nothing else."""
    for place in places:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        yield place


def test_a_flipped_bit_costs_few_messages_and_never_delivers_a_wrong_one(path: Path) -> None:
    messages = [make(n, size=n % 7 * 400) for n in range(150)]
    filled(path, messages)
    data = path.read_bytes()
    rng = random.Random(3)
    places = [*range(0, 100, 5), *range(PAGE, len(data), 8 * PAGE), *(rng.randrange(len(data)) for _ in range(60))]
    damages = 0
    for place in damaged_copies(path, data, places):
        outbox = Outbox(path, max_bytes=MAX_BYTES)
        saved = content(outbox)
        assert saved == [message for message in messages if message in saved], place
        assert len(saved) >= 140, place
        assert outbox.waiting == tally(saved), place
        assert outbox.lost.messages == 150 - len(saved) or "unknown" in outbox.problems[0], place
        assert bool(outbox.problems) or len(saved) == 150, place
        damages += bool(outbox.problems)
        assert outbox.put([make("new")]).expired == Tally(), place
        outbox.close()
        assert ids(content(Outbox(path, max_bytes=MAX_BYTES))) == [*ids(saved), "new"], place
    assert damages > 60


def test_a_truncated_file_keeps_what_is_left_of_it(path: Path) -> None:
    messages = many(300)
    filled(path, messages)
    data = path.read_bytes()
    rng = random.Random(4)
    for length in [1, 99, 101, PAGE - 1, PAGE, PAGE + 1, *(rng.randrange(len(data)) for _ in range(25)), len(data) - 1]:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        path.write_bytes(data[:length])
        outbox = Outbox(path, max_bytes=MAX_BYTES)
        saved = content(outbox)
        assert outbox.problems, length
        assert saved == [message for message in messages if message in saved], length
        assert len(saved) >= (length - 20 * PAGE) // 550, length
        outbox.put([make("new")])
        assert ids(content(outbox)) == [*ids(saved), "new"], length


def test_a_damaged_log_costs_at_most_what_it_holds(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    older, newer = many(40), many(15, first=40)
    outbox.put(older)
    outbox.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    for message in newer:
        outbox.put([message])
    data, log = path.read_bytes(), path.with_name("outbox.db-wal").read_bytes()
    assert len(log) > 15 * PAGE
    rng = random.Random(5)
    for place in [*range(0, 32, 3), *(rng.randrange(len(log)) for _ in range(30))]:
        copy = path.parent.parent / "copy" / "outbox.db"
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        copy.write_bytes(data)
        flipped = bytearray(log)
        flipped[place] ^= 16
        copy.with_name("outbox.db-wal").write_bytes(flipped)
        saved = content(Outbox(copy, max_bytes=MAX_BYTES))
        assert saved == (older + newer)[: len(saved)], place
        assert len(saved) >= 40, place


def test_damage_found_while_running_costs_what_is_damaged_and_is_counted_exactly(path: Path) -> None:
    messages = [make(n, alarm=n % 5 == 0, weight=n) for n in range(1_200)]
    filled(path, messages)
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    newest = outbox.peek(2_000)[-1].sequence
    outbox.remove([newest])
    outbox.remove([stored.sequence for stored in outbox.peek(2)])
    del messages[-1]
    with path.open("r+b") as file:
        for page in range(40, path.stat().st_size // PAGE - 2, 60):
            file.seek(page * PAGE)
            file.write(b"\xff" * 64)
    saved = content(outbox)
    assert 1_100 < len(saved) < 1_197
    assert saved == [message for message in messages[2:] if message in saved]
    assert outbox.waiting == tally(saved)
    assert outbox.lost == tally(messages[2:]) - tally(saved)
    assert "of 1197 messages were saved" in outbox.problems[0]
    removed = outbox.remove([stored.sequence for stored in outbox.peek(10)])
    assert removed == tally(saved[:10])
    outbox.put([make("new")])
    assert ids(content(outbox)) == [*ids(saved[10:]), "new"]
    assert outbox.peek(2_000)[-1].sequence > newest


def test_a_message_changed_on_disk_is_not_delivered(path: Path) -> None:
    filled(path, [make("a"), OutboxMessage("b", "t", b"temperature 20", 1, False), make("c")])
    data = path.read_bytes()
    assert data.count(b"temperature 20") == 1
    path.write_bytes(data.replace(b"temperature 20", b"temperature 99"))
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert ids(content(outbox)) == ["a", "c"]
    assert outbox.lost.messages == 1
    assert "2 of 3 messages" in outbox.problems[0]


def test_a_log_without_its_database_is_not_applied_to_another(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put(many(5))
    log = path.with_name("outbox.db-wal").read_bytes()
    outbox.close()
    path.unlink()
    path.with_name("outbox.db-wal").write_bytes(log)
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert content(outbox) == []
    outbox.put([make("new")])
    assert ids(content(outbox)) == ["new"]


def test_a_log_left_behind_is_not_applied_to_the_replacement_of_its_database(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    outbox.put(many(5))
    log = path.with_name("outbox.db-wal").read_bytes()
    outbox.close()
    path.unlink()
    filled(path, many(3, first=100))
    path.rename(path.with_name("outbox.db.new"))
    path.with_name("outbox.db-wal").write_bytes(log)
    assert ids(content(Outbox(path, max_bytes=MAX_BYTES))) == ["100", "101", "102"]


def test_a_mistake_of_the_caller_changes_nothing(path: Path) -> None:
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    with pytest.raises(OverflowError):
        outbox.put([make("a"), make("b", weight=2**70)])
    assert content(outbox) == []
    outbox.put([make("a")])
    assert ids(content(outbox)) == ["a"]
    assert outbox.waiting.messages == 1


# The disk


def test_where_no_directory_can_be_made_messages_wait_in_memory_within_the_bound(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outbox = Outbox(tmp_path / "file" / "outbox.db", max_bytes=MAX_BYTES)
    assert "in memory" in outbox.problems[0]
    outbox.put(many(2_000))
    assert 0 < outbox.expired.messages < 1_500
    assert ids(content(outbox)) == [str(n) for n in range(outbox.expired.messages, 2_000)]
    waiting = outbox.waiting
    outbox.close()
    assert outbox.lost == waiting
    assert "lost" in outbox.problems[-1]


def test_a_directory_that_cannot_be_written_leaves_its_file_alone_and_messages_wait_in_memory() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name) / "outbox.db"
        filled(path, many(3))
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            facts = run_victim("use_without_permission", path)
        finally:
            path.parent.chmod(0o700)
        assert facts["ids"] == ["a"]
        assert facts["refusal"] == ""
        assert "in memory" in facts["problems"][0]
        assert facts["lost"] == 1
        assert len(content(Outbox(path, max_bytes=MAX_BYTES))) == 3


def test_a_file_another_process_uses_is_left_alone_until_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_file, "_LOCK_SECONDS", 0.0)
    monkeypatch.setattr(outbox_module, "_RETRY_SECONDS", 0.0)
    first = Outbox(path, max_bytes=MAX_BYTES)
    first.put([make("a")])
    second = Outbox(path, max_bytes=MAX_BYTES)
    assert "locked" in second.problems[0]
    second.put(many(2_000))
    assert 0 < second.waiting.messages < 2_000
    second.remove([stored.sequence for stored in second.peek(2_000)])
    second.put([])  # still locked
    assert len(second.problems) == 1
    assert ids(content(first)) == ["a"]
    first.close()
    second.put([make("b")])
    assert ids(content(second)) == ["a", "b"]
    assert path.with_name("outbox.db-wal").exists()
    second.put(many(2_000))
    assert ids(content(second)) == [str(n) for n in range(2_000 - second.waiting.messages, 2_000)]


@pytest.mark.parametrize("limit", [0, 3_000, 20_000, 100_001, 300_000])
def test_a_disk_that_takes_no_more_refuses_and_recovers_and_the_rest_goes_on(path: Path, limit: int) -> None:
    check_lost_disk(run_victim("lose_the_disk", "limit", limit, path))


def test_a_full_file_system_refuses_and_recovers_and_the_rest_goes_on(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=500k tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted in a user namespace here")
    prefix = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    facts = run_victim("lose_the_disk", "full", 0, tmp_path / "work" / "outbox.db", prefix=prefix)
    assert "full" in facts["refusal"]
    check_lost_disk(facts)


def check_lost_disk(facts: dict[str, Any]) -> None:
    assert facts.pop("refusal")
    assert facts == {
        "expired": [10, 20],
        "kept": True,
        "removed": 3,
        "not again": True,
        "waiting": True,
        "refused again": True,
        "relieved": "",
        "reopened": True,
        "problems": [],
    }


def test_a_log_that_cannot_be_emptied_does_not_outgrow_the_bound(path: Path) -> None:
    facts = run_victim("fill_until_refused", 600_000, path)
    assert facts == {"refused": True, "largest": facts["largest"], "accounted": True}
    assert 600_000 < facts["largest"] <= MAX_BYTES


def test_removals_the_disk_refused_are_not_counted_again_when_the_bound_shrinks(path: Path) -> None:
    facts = run_victim("shrink_after_refused_removals", path)
    assert facts == {"removed": 3, "expired and waiting": 297, "waiting": True, "bounded": True, "order": True}


def test_an_outbox_that_starts_on_a_full_disk_works_in_memory_and_returns_to_the_disk(path: Path) -> None:
    facts = run_victim("start_without_disk", path)
    (problem,) = facts["problems"]
    assert "in memory" in problem
    assert facts["refusal"] == ""
    assert facts["removed"] == 1
    assert facts["reopened"] == ["a"]


# kill -9


@pytest.fixture(scope="module")
def undisturbed() -> list[list[OutboxMessage]]:
    """What waits after each step of the work, if no one is killed."""
    states: list[list[OutboxMessage]] = [[]]
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        work(Path(name) / "outbox.db", lambda outbox: states.append(content(outbox)))
    assert len(states) == STEPS + 1
    assert states[-1] == []
    return states


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("write", [1, 2_000, 4_097, 8_000, *range(12_345, 700_000, 41_111)]),
        ("instruction", [1, 50, 150, 300, *range(1_000, 24_000, 1_777)]),
        ("moment", [1, 2, *range(5, STEPS, 9)]),
    ],
)
def test_a_process_killed_anywhere_leaves_every_finished_step_and_no_half_of_one(
    tmp_path: Path, undisturbed: list[list[OutboxMessage]], kind: str, points: list[int]
) -> None:
    results = run_victim("kill_many", "work", kind, points, tmp_path)
    killed = 0
    for point, (done, signal) in zip(points, results, strict=True):
        outbox = Outbox(tmp_path / f"{kind}-{point}" / "outbox.db", max_bytes=MAX_BYTES)
        assert content(outbox) in undisturbed[done : done + 2], point
        assert not any("damaged" in problem for problem in outbox.problems), point
        assert outbox.put([make("new")]).refusal == ""
        outbox.close()
        killed += signal > 0
    assert killed >= 0.7 * len(points)


def test_a_process_killed_while_it_replaces_a_damaged_file_loses_nothing_more(tmp_path: Path) -> None:
    original = tmp_path / "original" / "outbox.db"
    filled(original, many(60))
    outbox = Outbox(original, max_bytes=MAX_BYTES)
    outbox.put(many(5, first=60))
    shutil.copytree(original.parent, tmp_path / "damaged")
    outbox.close()
    with (tmp_path / "damaged" / "outbox.db").open("r+b") as file:
        file.seek(5 * PAGE)
        file.write(b"\xff" * PAGE)
    shutil.copytree(tmp_path / "damaged", tmp_path / "line-0")
    outbox = Outbox(tmp_path / "line-0" / "outbox.db", max_bytes=MAX_BYTES)
    expected = content(outbox)
    assert 55 <= len(expected) < 65
    points = list(range(1, 300, 4))
    for point in points:
        shutil.copytree(tmp_path / "damaged", tmp_path / f"line-{point}")
    results = run_victim("kill_many", "open", "line", points, tmp_path)
    killed = sum(signal > 0 for _, signal in results)
    assert killed > 30
    assert {signal for _, signal in results[killed:]} == {0}
    for point in points[: killed + 1]:
        outbox = Outbox(tmp_path / f"line-{point}" / "outbox.db", max_bytes=MAX_BYTES)
        assert content(outbox) == expected, point
        outbox.close()
        names = {file.name for file in (tmp_path / f"line-{point}").iterdir()}
        assert names <= {"outbox.db", "outbox.db.broken"}, point


# Anything, in any order


class AnyUse(RuleBasedStateMachine):
    """An outbox beside a list in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY))
        self.max_bytes = MINIMUM_BYTES
        self.outbox = Outbox(self.directory / "outbox.db", max_bytes=self.max_bytes)
        self.model: list[OutboxMessage] = []
        self.count = 0

    def teardown(self) -> None:
        self.outbox.close()
        shutil.rmtree(self.directory)

    def new(self, size: int, alarm: bool) -> OutboxMessage:
        self.count += 1
        return make(self.count, size=size, alarm=alarm, weight=self.count % 5)

    @rule(size=st.integers(0, 6_000), alarm=st.booleans())
    def put_one(self, size: int, alarm: bool) -> None:
        message = self.new(size, alarm)
        report = self.outbox.put([message])
        after = content(self.outbox)
        gone = [m for m in [*self.model, message] if m not in after]
        assert report.expired == tally(gone)
        normals = [m for m in self.model if not m.alarm]
        alarms = [m for m in self.model if m.alarm]
        evicted = [m for m in gone if m is not message]
        evicted_alarms = [m for m in evicted if m.alarm]
        assert [m for m in evicted if not m.alarm] == normals[: len(evicted) - len(evicted_alarms)]
        assert evicted_alarms == alarms[: len(evicted_alarms)]
        if evicted_alarms or (message in gone and self.max_bytes):
            assert not any(not m.alarm for m in after)  # normal messages go first
        if evicted_alarms:
            assert alarm
        if message in gone and self.max_bytes:
            assert not alarm  # room can be made for any alarm of this size
        assert after == [m for m in [*self.model, message] if m in after]
        self.model = after

    @rule(sizes=st.lists(st.integers(0, 2_000), min_size=2, max_size=60), alarms=st.integers(0, 2**60))
    def put_many(self, sizes: list[int], alarms: int) -> None:
        messages = [self.new(size, bool(alarms >> n & 1)) for n, size in enumerate(sizes)]
        again = self.model[: len(messages) // 10] if self.max_bytes else []
        report = self.outbox.put([*messages, *again])
        after = content(self.outbox)
        assert tally(self.model) + tally(messages) + tally(again) == tally(after) + report.repeated + report.expired
        # What was put again was still waiting, or had made room for the others and got a new place at the end.
        once = [m for m in [*self.model, *messages] if m not in again]
        assert [m for m in after if m not in again] == [m for m in once if m in after]
        assert report.repeated.messages <= len([m for m in after if m in again])
        self.model = after

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        stored = self.outbox.peek(40)
        chosen = data.draw(st.lists(st.sampled_from(stored), unique_by=lambda one: one.sequence))
        assert self.outbox.remove([one.sequence for one in chosen]) == tally(one.message for one in chosen)
        self.model = [m for m in self.model if m not in [one.message for one in chosen]]

    @rule(max_bytes=st.sampled_from([0, MINIMUM_BYTES, 200_000, 200_000, 500_000, 500_000]))
    def resize(self, max_bytes: int) -> None:
        expired = self.outbox.resize(max_bytes)
        after = content(self.outbox)
        assert expired == tally(self.model) - tally(after)
        normals = [m for m in self.model if not m.alarm]
        alarms = [m for m in self.model if m.alarm]
        kept_normals = [m for m in after if not m.alarm]
        kept_alarms = [m for m in after if m.alarm]
        assert kept_normals == normals[len(normals) - len(kept_normals) :]
        assert kept_alarms == alarms[len(alarms) - len(kept_alarms) :]
        assert kept_alarms == alarms or not kept_normals
        if max_bytes >= self.max_bytes:
            assert after == self.model
        self.max_bytes = max_bytes
        self.model = after

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.directory / "outbox.db", max_bytes=self.max_bytes)
        assert self.outbox.problems == ()
        assert self.outbox.expired == Tally()

    @invariant()
    def agrees(self) -> None:
        assert content(self.outbox) == self.model
        assert self.outbox.waiting == tally(self.model)
        assert sum(file.stat().st_size for file in self.directory.iterdir()) <= self.max_bytes


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=40, stateful_step_count=25)


def test_memory_in_place_of_a_disk_has_a_bound_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_BYTES", 500_000)
    (tmp_path / "file").write_text("no directory")
    outbox = Outbox(tmp_path / "file" / "outbox.db", max_bytes=64_000_000)
    outbox.put([OutboxMessage(f"{number:06}", "t", bytes(1_000), 1, False) for number in range(2_000)])
    assert 100 < outbox.waiting.messages < 500
    assert "in memory only" in outbox.troubles[0]
    outbox.resize(32_000_000)
    assert outbox.waiting.messages < 500
    outbox.close()


def test_a_problem_ends_when_it_is_over_and_an_event_after_an_hour(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_SECONDS", 0.0)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.write_text("no directory")
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    assert len(outbox.troubles) == 1
    path.parent.unlink()
    outbox.put([make("a")])
    assert [*outbox.troubles] == []
    assert len(outbox.problems) == 1
    outbox._report("something happened")
    assert [*outbox.troubles] == ["something happened"]
    monkeypatch.setattr(outbox_module, "EVENT_SECONDS", -1.0)
    assert [*outbox.troubles] == []
    outbox.close()
