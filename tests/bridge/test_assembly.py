"""Values become readings; every value ends in exactly one fate."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference_bridge import unsent
from inference_bridge.accounts import Examples, ReadingCounts, ValueCounts
from inference_bridge.assembly import Assembler
from inference_bridge.extract import Sample
from inference_bridge.mapping import parse_mapping
from inference_bridge.outbox import WINDOW, Outbox, pack
from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.limits import MAX_PAYLOAD_BYTES

T = 1_795_662_900.0
TAGS = ("a", "b", "c")


class Rig:
    """An assembler and a clock."""

    def __init__(self, machines: int = 100, features: dict[str, Any] | None = None, **assemble: Any) -> None:
        self.counts, self.examples = ValueCounts(), Examples()
        mapping = parse_mapping({"features": features or {tag: {} for tag in TAGS}, "assemble": assemble})
        self.assembler = Assembler(mapping, self.counts, self.examples, max_machines=machines)
        self.now = 0.0
        self.jump = 0.0

    @property
    def wall(self) -> float:
        return T + self.now + self.jump

    def put(self, machine: str = "m", *, source: int = 0, at: float | None = None, **values: Any) -> None:
        """Values of a machine, measured at a number of seconds after the start (None: when they arrive)."""
        for tag, value in values.items():
            time = None if at is None else T + at
            problem = "" if value is not None else "bad"
            sample = Sample(machine, TAGS.index(tag), value, time, problem)
            self.assembler.put(source, sample, self.now, self.wall)
            assert self.counts.balanced, self.counts

    def after(self, seconds: float) -> list[dict[str, Any]]:
        """The readings that are due after some time."""
        self.now += seconds
        readings = self.assembler.due(self.now, self.wall)
        assert self.counts.balanced, self.counts
        return readings


def test_on_the_clock_a_machine_is_read_once_a_period_with_its_newest_values_and_the_sources_time() -> None:
    rig = Rig()
    assert not rig.after(0.0)
    rig.put(at=0.1, a=1.0, b=2.0, c=3.0)
    rig.put(at=0.2, a=1.5)
    assert not rig.after(0.9)
    assert rig.after(0.2) == [
        {"equipment_id": "m", "timestamp": "2026-11-26T03:15:00.200Z", "a": 1.5, "b": 2.0, "c": 3.0}
    ]
    assert not rig.after(1.0)
    assert (rig.counts.assembled, rig.counts.superseded, rig.counts.waiting) == (3, 1, 0)


def test_a_value_that_is_only_repeated_is_named_as_held_and_left_out_when_it_is_too_old() -> None:
    rig = Rig(features={"a": {}, "b": {"max_age_seconds": 5}, "c": {}}, max_age_seconds=2)
    rig.after(0.0)
    rig.put(at=0, a=1.0, b=2.0, c=3.0)
    rig.after(1.0)
    rig.put(at=1, a=1.1)
    (second,) = rig.after(1.0)
    assert second["held"] == ["b", "c"]
    assert (second["b"], second["c"]) == (2.0, 3.0)
    rig.now += 1.0
    rig.put(at=3, a=1.2)
    (third,) = rig.after(1.0)
    assert "c" not in third
    assert third["held"] == ["b"]
    assert [(each.machine, each.feature) for each in rig.assembler.stale(rig.now)] == [("m", "c")]


def test_a_bad_value_is_missing_and_the_good_one_before_it_is_not_repeated() -> None:
    rig = Rig()
    rig.after(0.0)
    rig.put(at=0, a=1.0, b=2.0, c=3.0)
    rig.after(1.0)
    rig.put(at=1, a=None, b=2.1)
    (reading,) = rig.after(1.0)
    assert "a" not in reading
    assert rig.counts.missing == 1
    rig.put(at=2, a=1.0, b=5.0)
    rig.put(at=2.5, b=None)
    (reading,) = rig.after(1.0)
    assert (reading["a"], "b" in reading, rig.counts.superseded) == (1.0, False, 1)


def test_on_change_a_machine_is_read_when_a_value_differs_and_else_at_its_heartbeat() -> None:
    rig = Rig(when="change", settle_seconds=0.1, heartbeat_seconds=10)
    rig.put(at=0, a=1.0, b=2.0, c=3.0)
    assert not rig.after(0.05)
    assert len(rig.after(0.1)) == 1
    for second in range(1, 9):
        rig.put(at=second, a=1.0)
        assert not rig.after(1.0)
    rig.put(at=9, a=1.5)
    assert [reading["a"] for reading in rig.after(1.0)] == [1.5]
    rig.put(at=10, a=1.5)
    assert not rig.after(5.0)
    assert len(rig.after(6.0)) == 1


def test_when_all_are_new_a_machine_is_read_at_once_and_a_dead_tag_holds_it_up_only_once() -> None:
    rig = Rig(when="all_new", patience_seconds=3)
    rig.put(at=0, a=1.0, b=2.0)
    assert not rig.after(0.05)
    rig.put(at=0.1, c=3.0)
    assert [reading["c"] for reading in rig.after(0.0)] == [3.0]
    rig.now = 1.0
    rig.put(at=1, a=1.1, b=2.1)
    assert not rig.after(2.9)
    (reading,) = rig.after(0.3)
    assert reading["held"] == ["c"]
    rig.put(at=4.5, a=1.2, b=2.2)
    assert len(rig.after(0.05)) == 1
    rig.put(at=5, c=3.3)
    rig.put(at=5, a=1.2)
    assert not rig.after(0.05)
    rig.put(at=5, b=2.3)
    assert [reading.get("held") for reading in rig.after(0.05)] == [None]


def test_late_and_repeated_values_are_counted_and_change_nothing_and_time_never_goes_back() -> None:
    rig = Rig()
    rig.after(0.0)
    rig.put(at=0.5, a=1.0)
    rig.put(at=0.5, a=1.0)
    rig.put(at=0.2, a=9.0)
    rig.put(at=0.4, b=2.0)
    (first,) = rig.after(1.0)
    assert (first["a"], first["timestamp"]) == (1.0, "2026-11-26T03:15:00.500Z")
    rig.put(at=0.45, b=3.0)
    (second,) = rig.after(1.0)
    assert (second["b"], second["timestamp"]) == (3.0, "2026-11-26T03:15:00.500Z")
    assert (rig.counts.late, rig.counts.duplicate) == (1, 1)


def test_a_time_ahead_of_the_clock_is_rejected_with_a_hint() -> None:
    rig = Rig()
    rig.put(at=9 * 3600, a=1.0)
    assert rig.counts.rejected == 1
    assert "a time zone" in rig.examples.as_json()["rejected"]["m/a"]


@pytest.mark.parametrize("jump", [-86_400.0, -30.0, 86_400.0])
def test_a_clock_that_jumps_stops_no_machine_for_longer_than_a_values_age(jump: float) -> None:
    """Both the gateway's clock, for values without a time, and the source's."""
    for timed in (False, True):
        rig = Rig()
        rig.after(0.0)
        read = []
        for second in range(40):
            if second == 10:
                rig.jump = jump
            rig.put(at=rig.now + rig.jump if timed else None, a=float(second))
            read.append(len(rig.after(1.0)))
        assert sum(read[:10]) >= 9
        assert read[-15:] == [1] * 15


def test_what_a_source_says_only_when_it_changes_holds_as_long_as_its_connection() -> None:
    rig = Rig(max_age_seconds=2)
    rig.after(0.0)
    rig.assembler.connected(0, rig.now, connected=True)
    rig.put(at=0, a=1.0, b=2.0, c=3.0)
    rig.after(1.0)
    for _ in range(5):
        assert [reading["held"] for reading in rig.after(1.0)] == [["a", "b", "c"]]
    rig.assembler.connected(0, rig.now, connected=False)
    assert not rig.after(1.0)
    rig.now += 3.0
    assert [(each.machine, each.feature) for each in rig.assembler.stale(rig.now)] == [("m", "")]
    rig.assembler.connected(0, rig.now, connected=True)
    assert len(rig.after(1.0)) == 1


def test_a_steady_machine_that_reports_by_exception_is_read_at_its_heartbeat() -> None:
    rig = Rig(when="change", heartbeat_seconds=10)
    rig.assembler.connected(0, rig.now, connected=True)
    rig.put(at=0, a=1.0, b=2.0, c=3.0)
    read = [len(rig.after(1.0)) for _ in range(40)]
    assert read[0] == 1
    assert sum(read[1:]) == 3


def test_a_dead_machine_repeats_nothing() -> None:
    rig = Rig()
    rig.after(0.0)
    rig.assembler.connected(0, rig.now, connected=True)
    rig.put(at=0, a=1.0, b=2.0)
    rig.after(1.0)
    rig.assembler.death("m", rig.now)
    rig.assembler.death("nobody", rig.now)
    assert not rig.after(1.0)
    rig.put(at=2, a=1.0)
    assert [list(reading) for reading in rig.after(1.0)] == [["equipment_id", "timestamp", "a"]]


def test_made_up_machines_take_no_more_than_their_room_and_a_forgotten_one_makes_some() -> None:
    rig = Rig(machines=10)
    rig.after(0.0)
    rig.put("real", at=0, a=1.0)
    for number in range(100_000):
        rig.assembler.put(0, Sample(f"made-up-{number}", 0, 1.0, T), rig.now, rig.wall)
    assert len(rig.assembler) == 10
    assert rig.counts.dropped == 100_000 - 9
    assert len(rig.examples.as_json()["dropped"]) == 20
    assert len(rig.after(1.0)) == 10
    for _ in range(7):
        rig.now += 100
        rig.put("real", at=rig.now, a=1.0)
    rig.put("new", at=rig.now, a=1.0)
    assert {reading["equipment_id"] for reading in rig.after(1.0)} == {"real", "new"}


@pytest.mark.parametrize("when", ["clock", "change", "all_new"])
def test_whatever_comes_the_accounts_balance(when: str) -> None:
    chance = random.Random(when)
    rig = Rig(machines=5, when=when, max_age_seconds=2)
    read = 0
    for _ in range(3000):
        at = chance.choice([None, rig.now, rig.now - 3 * chance.random(), rig.now + chance.choice([0.5, 1e6])])
        tag = chance.choice(TAGS)
        value = chance.choice([None, 1.0, chance.random()])
        rig.put(f"m{chance.randrange(7)}", source=chance.randrange(2), at=at, **{tag: value})
        if chance.random() < 0.01:
            rig.jump = chance.choice([0.0, 3600.0, -3600.0])
            rig.assembler.connected(0, rig.now, connected=chance.random() < 0.5)
        for reading in rig.after(chance.random() / 10):
            read += 1
            assert set(reading) <= {"equipment_id", "timestamp", "held", *TAGS}
            assert all(tag in reading for tag in reading.get("held", []))
    rig.assembler.flush(rig.now, rig.wall)
    assert rig.counts.waiting == 0
    assert rig.counts.balanced
    assert read > 100


# On their way to the nucleus.


class Nucleus:
    """Takes what is published, and answers when it is told."""

    def __init__(self) -> None:
        self.open: list[tuple[bytes, Any]] = []

    def publish_local(self, _topic: str, payload: bytes, answered: Any) -> None:
        self.open.append((payload, answered))

    def answer(self, failure: Failure | None = None) -> int:
        payload, answered = self.open.pop(0)
        answered(failure)
        return len(json.loads(payload))


def readings(number: int) -> list[dict[str, Any]]:
    return [{"equipment_id": f"m{index}", "a": 1.0} for index in range(number)]


def test_batches_are_full_but_never_too_large() -> None:
    batches = pack(readings(1000))
    assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload, _ in batches)
    assert all(len(payload) > MAX_PAYLOAD_BYTES - 100 for payload, _ in batches[:-1])
    assert [reading for payload, _ in batches for reading in json.loads(payload)] == readings(1000)


def test_readings_that_wait_are_bounded_and_those_that_made_room_are_counted() -> None:
    outbox = Outbox(ReadingCounts(), max_bytes=20_000)
    for _ in range(10):
        outbox.put(readings(200))
    counts = outbox.counts
    assert counts.balanced
    assert counts.dropped > 1000
    assert counts.waiting > 400


def test_what_was_on_its_way_when_the_connection_was_lost_is_sent_again_and_an_old_answer_counts_for_nothing() -> None:
    clock = [0.0]
    outbox, nucleus = Outbox(ReadingCounts(), max_bytes=10**7, monotonic=lambda: clock[0]), Nucleus()
    outbox.put(readings(5000))
    outbox.send(nucleus, "t")
    assert len(nucleus.open) == min(WINDOW, len(pack(readings(5000))))
    first = nucleus.answer()
    assert outbox.counts.published == first
    outbox.lost()
    late = list(nucleus.open)
    nucleus.open.clear()
    assert outbox.counts.resent == 5000 - first
    for _, answered in late:
        answered(None)
    assert outbox.counts.published == first
    while not outbox.empty:
        clock[0] += 1.0
        outbox.send(nucleus, "t")
        while nucleus.open:
            nucleus.answer()
    assert outbox.counts.balanced
    assert outbox.counts.published == 5000


def test_a_refusal_for_now_is_tried_again_after_a_pause_and_one_for_good_is_counted() -> None:
    clock = [0.0]
    outbox, nucleus = Outbox(ReadingCounts(), max_bytes=10**7, monotonic=lambda: clock[0]), Nucleus()
    outbox.put(readings(1))
    outbox.put([{"equipment_id": "x" * 8000}])
    assert outbox.counts.refused == 1
    outbox.send(nucleus, "t")
    nucleus.answer(Failure(FailureKind.UNAUTHORIZED, "no"))
    outbox.send(nucleus, "t")
    assert not nucleus.open
    assert outbox.problem == "no"
    clock[0] += 1.0
    outbox.send(nucleus, "t")
    nucleus.answer(Failure(FailureKind.INVALID, "never"))
    assert (outbox.counts.refused, outbox.counts.waiting, outbox.counts.balanced) == (2, 0, True)


def test_what_nobody_took_by_the_end_goes_first_in_the_next_process(tmp_path: Path) -> None:
    first, nucleus = Outbox(ReadingCounts(), max_bytes=10**7), Nucleus()
    first.put([{"equipment_id": "a\n\u2028", "n": number} for number in range(500)])
    first.send(nucleus, "t")
    taken = nucleus.answer()
    first.keep_all(partial(unsent.keep, tmp_path))
    assert (first.counts.kept, first.counts.dropped, first.counts.balanced) == (500 - taken, 0, True)
    second = Outbox(ReadingCounts(), max_bytes=10**7)
    second.put([{"equipment_id": "b", "n": 500}])
    second.take_over(unsent.take(tmp_path))
    assert second.counts.carried_over == 500 - taken
    nucleus.open.clear()
    second.send(nucleus, "t")
    numbers = [reading["n"] for payload, _ in nucleus.open for reading in json.loads(payload)]
    assert numbers == list(range(taken, 501))
    while nucleus.open:
        nucleus.answer()
    assert second.counts.balanced
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_kept_is_counted_as_dropped_and_a_damaged_file_stops_nothing(tmp_path: Path) -> None:
    outbox = Outbox(ReadingCounts(), max_bytes=10**7)
    outbox.put(readings(3))
    outbox.keep_all(partial(unsent.keep, tmp_path / "nowhere"))
    assert (outbox.counts.dropped, outbox.counts.kept, outbox.counts.balanced) == (3, 0, True)
    (tmp_path / unsent.NAME).write_bytes(b'[{"a": 1}]\n[{"a"\n{}\n\xff')
    assert unsent.take(tmp_path) == [(b'[{"a": 1}]', 1)]
    assert unsent.take(tmp_path) == []
