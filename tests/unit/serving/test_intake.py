from __future__ import annotations

import json
import time
from threading import Event, Thread

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ml_inference.monitoring.machines import KNOWN_AFTER_SECONDS
from ml_inference.scoring.outcomes import Rejection
from ml_inference.scoring.readings import ReadingDecoder
from ml_inference.serving.counters import Counters, Counts
from ml_inference.serving.intake import Intake, Regulars
from support.models import SIX


def reading(machine: str, number: int = 0) -> bytes:
    return f'{{"wRMSCurrent": {number}, "equipment_id": "{machine}"}}'.encode()


def make(limit: int = 3, max_bytes: int = 10_000) -> tuple[Intake, Counters]:
    counters = Counters()
    return Intake(limit, counters, max_bytes=max_bytes), counters


def drain(intake: Intake) -> list[bytes]:
    messages = []
    while arrival := intake.get(0):
        messages.append(arrival.payload)
    return messages


def test_messages_come_out_in_the_order_of_arrival_with_their_time() -> None:
    moments = iter([1.5, 2.5])
    intake = Intake(5, Counters(), monotonic=lambda: next(moments))
    intake.put(b"a")
    intake.put(b"b")
    first, second = intake.get(0), intake.get(0)
    assert first
    assert second
    assert [(first.payload, first.moment), (second.payload, second.moment)] == [(b"a", 1.5), (b"b", 2.5)]
    assert intake.get(0) is None


def test_when_full_the_oldest_reading_of_the_same_machine_makes_room() -> None:
    intake, counters = make(limit=4)
    for machine, number in (("a", 1), ("b", 1), ("b", 2), ("c", 1)):
        intake.put(reading(machine, number))
    intake.put(reading("b", 3))
    assert drain(intake) == [reading("a", 1), reading("b", 2), reading("c", 1), reading("b", 3)]
    assert counters.snapshot() == Counts(received=5, dropped=1, queued=4)


def test_a_machine_that_has_nothing_waiting_takes_the_place_of_the_oldest_of_all() -> None:
    intake, _ = make(limit=2)
    for machine in ("a", "b", "c"):
        intake.put(reading(machine))
    assert drain(intake) == [reading("b"), reading("c")]


def test_a_chatty_machine_cannot_push_out_the_others() -> None:
    intake, _ = make(limit=10)
    quiet = [reading(f"quiet-{number}") for number in range(5)]
    for message in quiet:
        intake.put(message)
    for number in range(1_000):
        intake.put(reading("chatty", number))
    left = drain(intake)
    assert left[:5] == quiet
    assert left[5:] == [reading("chatty", number) for number in range(995, 1_000)]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"equipment_id":"m","x":1}',
        b'{ "equipment_id" :\n "m" }',
        b'[{"equipment_id":"m"},{"equipment_id":"other"}]',
        b'{"readings":[{"x":1,"equipment_id":"m"}]}',
    ],
)
def test_the_machine_is_found_in_the_raw_bytes(payload: bytes) -> None:
    intake, _ = make(limit=3)
    intake.put(reading("other"))
    intake.put(reading("m"))
    intake.put(b"{}")
    intake.put(payload)
    assert drain(intake) == [reading("other"), b"{}", payload]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\x00",
        b'{"equipment_id": 7}',
        b'{"equipment_id": "' + b"x" * 300 + b'"}',
        b"[" + b" " * 5_000 + b'{"equipment_id": "m"}]',
        b'"equipment_id":"' * 10_000,
    ],
)
def test_messages_whose_machine_cannot_be_told_share_one_place(payload: bytes) -> None:
    intake, _ = make(limit=2, max_bytes=1_000_000)
    intake.put(b"{}")
    intake.put(reading("m"))
    intake.put(payload)
    assert drain(intake) == [reading("m"), payload]


def test_bytes_are_bounded_as_well_as_messages() -> None:
    intake, counters = make(limit=100, max_bytes=1_000)
    for _ in range(50):
        intake.put(bytes(300))
    assert len(intake) == 3
    intake.put(bytes(900))
    assert drain(intake) == [bytes(900)]
    assert counters.snapshot().dropped == 50


def test_a_message_larger_than_the_bound_waits_alone() -> None:
    intake, _ = make(max_bytes=100)
    intake.put(b"small")
    intake.put(bytes(500))
    assert drain(intake) == [bytes(500)]
    intake.put(b"small")
    assert len(intake) == 1


def test_a_smaller_bound_takes_effect_at_the_next_message() -> None:
    intake, counters = make(limit=10)
    for number in range(10):
        intake.put(reading("a", number))
    intake.resize(2)
    intake.put(reading("a", 10))
    assert drain(intake) == [reading("a", 9), reading("a", 10)]
    assert counters.snapshot() == Counts(received=11, dropped=9, queued=2)


def test_after_close_nothing_is_taken_or_counted_and_what_waits_can_be_got() -> None:
    intake, counters = make()
    intake.put(b"a")
    intake.close()
    intake.put(b"b")
    assert drain(intake) == [b"a"]
    assert counters.snapshot().received == 1


def test_giving_up_counts_what_waited_as_dropped() -> None:
    intake, counters = make()
    for _ in range(3):
        intake.put(b"a")
    assert intake.drop_all() == 3
    assert drain(intake) == []
    assert counters.snapshot() == Counts(received=3, dropped=3)
    intake.put(b"b")
    assert drain(intake) == [b"b"]


def test_a_waiting_get_wakes_for_a_message_and_for_the_end() -> None:
    intake, _ = make()
    got: list[bytes | None] = []
    waiting = Event()

    def work() -> None:
        for _ in range(2):
            waiting.set()
            arrival = intake.get(20)
            got.append(arrival.payload if arrival else None)

    thread = Thread(target=work)
    thread.start()
    assert waiting.wait(5)
    intake.put(b"a")
    intake.close()
    thread.join(5)
    assert got == [b"a", None]


def seconds_to_drain(messages: int) -> float:
    """CPU time of this thread, so that a busy machine does not count."""
    intake = Intake(messages, Counters())
    for number in range(messages):
        intake.put(b"%d" % number)
    began = time.thread_time()
    assert len(drain(intake)) == messages
    return time.thread_time() - began


def test_taking_a_message_costs_the_same_however_many_wait() -> None:
    few, many = (min(seconds_to_drain(messages) for _ in range(3)) for messages in (5_000, 50_000))
    # Some 12 times; 60 times where each look for the oldest passes over those that are gone.
    assert many < 30 * few


def known(*machines: str) -> Intake:
    """A full queue's intake that has heard some machines for long enough."""
    now = 0.0
    intake = Intake(10, Counters(), monotonic=lambda: now)
    for _ in range(int(KNOWN_AFTER_SECONDS / 30) + 1):
        for machine in machines:
            intake.known.heard(machine)
        now += 30
    return intake


def test_a_flood_of_made_up_machines_costs_only_the_flooder() -> None:
    names = ["a", "b", 'c"', "ü"]
    intake = known(*names)
    mine = [json.dumps({"equipment_id": name, "n": n}, ensure_ascii=n > 0).encode() for n in range(2) for name in names]
    for number in range(50):
        intake.put(reading(f"made-up-{number}"))
    for message in mine:
        intake.put(message)
    for number in range(50, 100):
        intake.put(reading(f"made-up-{number}"))
    assert drain(intake) == [*mine, reading("made-up-98"), reading("made-up-99")]
    assert intake.counters.snapshot().dropped == 98


def test_where_only_known_machines_wait_an_unknown_one_is_not_taken() -> None:
    intake = known("a", "b")
    mine = [reading(name, number) for number in range(5) for name in "ab"]
    for message in mine:
        intake.put(message)
    intake.put(reading("made-up"))
    assert intake.counters.snapshot() == Counts(received=11, dropped=1, queued=10)
    intake.put(reading("a", 5))
    assert drain(intake) == [*mine[1:], reading("a", 5)]


def test_a_machine_is_known_after_ten_minutes_of_this_devices_clock_and_not_after_two_readings() -> None:
    now = 0.0
    regulars = Regulars(lambda: now)
    for machine in ("steady", "rare"):
        regulars.heard(machine)
    for second in range(1, 601):
        assert b"steady" not in regulars
        now = float(second)
        regulars.heard("steady")
    regulars.heard("rare")
    assert b"steady" in regulars
    assert b"rare" not in regulars


def test_of_a_message_that_is_too_large_only_the_beginning_waits_and_it_is_refused_all_the_same() -> None:
    intake, _ = make(limit=100, max_bytes=10_000_000)
    huge = b'{"equipment_id": "m", "x": "' + bytes(2_000_000)
    for _ in range(20):
        intake.put(huge)
    assert intake._bytes < 100_000
    arrival = intake.get(0)
    assert arrival is not None
    (rejection,) = ReadingDecoder(SIX).decode(arrival.payload).items
    assert isinstance(rejection, Rejection)
    assert rejection.errors[0].msg == f"Message of {len(huge)} bytes is larger than 1048576"


def test_beside_a_large_message_single_readings_of_other_machines_are_taken_and_none_overtakes_its_own() -> None:
    intake, _ = make(limit=20)
    batch = b'[{"equipment_id": "d"}]'
    messages = [reading("a", 1), reading("b", 1), reading("a", 2), b'{"x": 1}', reading("c", 1), batch, reading("d", 1)]
    for message in messages:
        intake.put(message)
    assert [arrival.payload for arrival in intake.take_beside({"a", ""}, 1)] == [reading("b", 1)]
    assert [arrival.payload for arrival in intake.take_beside({"a", ""}, 9)] == [reading("c", 1)]
    assert intake.take_beside({"a", ""}, 9) == []  # the batch may hold anything
    assert drain(intake) == [reading("a", 1), reading("a", 2), b'{"x": 1}', batch, reading("d", 1)]


class IntakeAndCounters(RuleBasedStateMachine):
    """Against a list that is searched from its front."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.max_bytes = 4, 200
        self.intake, self.counters = make(self.limit, self.max_bytes)
        self.expected: list[tuple[str, bytes]] = []
        self.received = self.dropped = self.scored = self.rejected = 0
        self.working = 0

    @rule(machine=st.sampled_from(["", "a", "b", "c"]), size=st.integers(0, 120))
    def put(self, machine: str, size: int) -> None:
        payload = reading(machine, self.received) + b" " * size
        self.intake.put(payload)
        self.received += 1
        while self.expected and (
            len(self.expected) >= self.limit or sum(len(held) for _, held in self.expected) + len(payload) > 200
        ):
            own = [place for place, (name, _) in enumerate(self.expected) if name == machine]
            self.expected.pop(own[0] if own else 0)
            self.dropped += 1
        self.expected.append((machine, payload))

    @rule()
    def get(self) -> None:
        arrival = self.intake.get(0)
        assert (arrival.payload if arrival else None) == (self.expected.pop(0)[1] if self.expected else None)
        self.working += arrival is not None

    @precondition(lambda self: self.working)
    @rule(scored=st.integers(0, 3), rejected=st.integers(0, 3))
    def finish(self, scored: int, rejected: int) -> None:
        if scored + rejected == 0:
            rejected = 1
        self.counters.finished(scored=scored, rejected=rejected)
        self.working -= 1
        self.received += scored + rejected - 1
        self.scored += scored
        self.rejected += rejected

    @rule(limit=st.integers(1, 6))
    def resize(self, limit: int) -> None:
        self.intake.resize(limit)
        self.limit = limit

    @rule()
    def drop_all(self) -> None:
        assert self.intake.drop_all() == len(self.expected)
        self.dropped += len(self.expected)
        self.expected.clear()

    @invariant()
    def the_counts_are_right(self) -> None:
        counts = self.counters.snapshot()
        queued = len(self.expected) + self.working
        assert counts == Counts(self.received, self.scored, self.rejected, self.dropped, queued)
        assert counts.received == counts.scored + counts.rejected + counts.dropped + counts.queued
        assert len(self.intake) == len(self.expected)


IntakeAndCounters.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_intake_and_counters_behave_like_a_list = IntakeAndCounters.TestCase


def test_messages_taken_together_are_all_of_a_crowded_queue_or_none() -> None:
    intake, _ = make(limit=16)  # crowded while more than four wait
    for number in range(8):
        intake.put(reading("m", number))
    assert [len(intake.take(0, 4)) for _ in range(3)] == [3, 4, 1]
