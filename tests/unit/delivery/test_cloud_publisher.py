from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from greengrass_sandbox import BackgroundNucleus
from ml_inference.delivery import pacing
from ml_inference.delivery.backlog import MEMORY_MESSAGES
from ml_inference.delivery.cloud import DISK_RETRY_SECONDS, MAX_EXPLAINED_REFUSALS, SPILL_SECONDS, CloudPublisher
from ml_inference.delivery.guard import MAX_LOST_CONNECTIONS
from ml_inference.delivery.outbox.outbox import Outbox
from ml_inference.delivery.pacing import BURST, LONGEST_PAUSE, OFFLINE_PAUSE, Pacer
from ml_inference.delivery.reach import PROBE_SECONDS
from ml_inference.delivery.routing import PROBE_ID, Message
from ml_inference.delivery.window import SPOOLED_SECONDS, UNCONFIRMED_MESSAGES, WINDOW
from ml_inference.greengrass.session import Connector, Session
from ml_inference.limits import CLASSIC_SPOOL_BYTES, CLOUD_ANSWER_SECONDS, LITE_DEAD_NETWORK_SECONDS
from support.clocks import Clock, LongestPauses, until
from support.sessions import BROKEN, FORBIDDEN, INVALID, REFUSED, Call, FakeSession

SECONDS = 120.0
TOPIC = "results/core"
ROOMY = 20_000_000
"""An outbox in which nothing expires here."""


def message(number: int, *, weight: int = 1, alarm: bool = False, size: int = 0) -> Message:
    identifier = f"id-{number}"
    return Message(TOPIC, identifier.encode().ljust(size, b"."), weight=weight, alarm=alarm, id=identifier)


def name(call: Call) -> str:
    return call.payload.decode().rstrip(".")


class Bench:
    """A publisher whose thread is the test, whose clock is set and whose nucleus answers on request.

    Each offer and each delivery is written down, and the books are checked against that.
    """

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.path = directory / "outbox.sqlite"
        self.outbox = Outbox(self.path, max_bytes=ROOMY)
        self.pacer = Pacer(self.clock, LongestPauses())
        self.publisher = CloudPublisher(lambda: self.outbox, qos=1, monotonic=self.clock, pacer=self.pacer)
        self.publisher._settle_outbox(self.outbox)
        self.scored = 0
        self.offered: list[Message] = []
        self.session = FakeSession()

    def offer(self, *messages: Message, unwanted: int = 0) -> None:
        self.offered += messages
        self.scored += unwanted + sum(each.weight for each in messages)
        self.publisher.offer(messages, unwanted)

    def attach(self) -> FakeSession:
        self.session = FakeSession()
        self.publisher.attach(cast("Session", self.session))
        return self.session

    def step(self) -> float | None:
        """Work until there is nothing to do at this moment; how long it would wait for news."""
        while (nap := self.publisher._try_step(self.outbox)) == 0:
            assert self.balanced()
        assert self.balanced()
        return nap

    def pass_time(self, seconds: float) -> float | None:
        self.clock.moment += seconds
        return self.step()

    def until_sent(self, calls: int) -> list[Call]:
        """Pass as little time as the pace needs to send so many in all."""
        while len(self.session.calls) < calls:
            nap = self.step()
            if len(self.session.calls) < calls:
                assert nap
                assert nap < 60, "it waits for nothing"
                self.clock.moment += nap + 1e-6
        return self.session.calls

    def deliver_all(self) -> list[str]:
        """Answer everything with success until nothing is left."""
        self.step()
        for _ in range(10_000):
            for call in self.session.open():
                call.answer()
            nap = self.step()
            if not self.session.open() and not self.publisher.counts().waiting:
                return [name(call) for call in self.session.calls]
            self.clock.moment += min(nap or 0.0, 1.0) + 1e-6
        raise AssertionError("it does not get rid of everything")

    def balanced(self) -> bool:
        counts = self.publisher.counts()
        total = counts.delivered + counts.waiting + counts.expired + counts.unwanted
        return self.scored + counts.carried_over == total and self.publisher._ledger.balanced

    def stored(self) -> list[str]:
        return [held.message.id for held in self.outbox.peek(100_000)]

    def finish(self, seconds: float = 0.0) -> list[str]:
        """Stop, and tell what the next process finds."""
        self.publisher._deliver_until = self.clock() + seconds
        while (nap := self.step()) is not None:
            self.clock.moment += nap
        self.outbox.close()
        reopened = Outbox(self.path, max_bytes=ROOMY)
        try:
            assert reopened.problems == ()
            return [held.message.id for held in reopened.peek(100_000)]
        finally:
            reopened.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.outbox.close()


def go_offline(bench: Bench) -> None:
    """Refuse until it believes it."""
    bench.offer(message(-1, weight=0))
    while not bench.publisher.offline:
        bench.until_sent(len(bench.session.calls) + 1)
        bench.session.calls[-1].answer(REFUSED)
        bench.step()


def test_results_go_straight_from_memory_in_order_and_count_when_the_nucleus_has_them(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(1, weight=3), message(2), unwanted=5)
    bench.step()
    assert [(call.topic, name(call), call.qos) for call in bench.session.calls] == [
        (TOPIC, "id-1", 1),
        (TOPIC, "id-2", 1),
    ]
    assert bench.publisher.counts().as_message() == {
        "delivered": 0,
        "waiting": 4,
        "expired": 0,
        "unwanted": 5,
        "carried_over": 0,
    }
    bench.session.calls[0].answer()
    bench.step()
    counts = bench.publisher.counts()
    assert (counts.delivered, counts.waiting) == (3, 1)
    assert bench.stored() == []


def test_no_more_than_a_window_is_in_flight_in_messages_and_in_bytes(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(20)))
    bench.pass_time(10)
    assert len(bench.session.open()) == WINDOW
    bench.deliver_all()
    bench.offer(*(message(number, size=6_900) for number in range(20, 25)))
    bench.pass_time(10)
    assert len(bench.session.open()) == 2
    bench.offer(message(25, size=20_000))
    assert bench.deliver_all()[-1] == "id-25"


def test_a_topic_takes_its_share_of_the_window(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(Message("t" * 250, bytes(1_700), 1, id=f"long-{number}") for number in range(10)))
    bench.pass_time(10)
    # Nucleus lite holds 15 kB of MQTT packets, which hold the topic.
    assert 0 < len(bench.session.open()) * (1_700 + 250) < 15_000


def test_a_refused_result_waits_in_its_place_and_goes_again_before_newer_ones(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(4)))
    bench.step()
    first, second, third, fourth = bench.session.calls
    second.answer(REFUSED)
    bench.step()
    bench.offer(message(4))
    first.answer(REFUSED)
    bench.step()
    third.answer()
    fourth.answer(REFUSED)
    bench.step()
    assert [name(call) for call in bench.until_sent(5)][4:] == ["id-0"]
    # The third, too: nothing had filled the window, so the cloud may have gone with it.
    assert bench.deliver_all()[4:] == ["id-0", "id-1", "id-2", "id-3", "id-4"]
    assert bench.publisher.counts().delivered == 5


def test_answers_that_arrived_before_the_connection_was_given_up_count(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(4)))
    bench.step()
    bench.session.calls[2].answer()
    bench.session.break_off()
    bench.publisher.detach()
    bench.step()
    assert bench.publisher.counts().delivered == 1
    bench.attach()
    assert bench.deliver_all() == ["id-0", "id-1", "id-3"]


def test_what_was_in_flight_when_the_connection_broke_goes_again_in_order(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(5)))
    bench.step()
    old = bench.session.calls[:]
    bench.publisher.detach()
    bench.attach()
    for call in old[3:]:
        call.answer()  # too late: nobody knows any more what this was
    assert bench.deliver_all() == [f"id-{number}" for number in range(5)]
    assert bench.publisher.counts().delivered == 5


def test_without_a_session_results_go_to_disk_together_and_come_back_in_order(bench: Bench) -> None:
    bench.offer(*(message(number) for number in range(10)))
    nap = bench.step()
    assert nap
    assert nap <= SPILL_SECONDS + 1e-6
    assert bench.stored() == []
    bench.offer(message(10))
    bench.pass_time(nap)
    assert bench.stored() == [f"id-{number}" for number in range(11)]
    assert bench.publisher.counts().waiting == 11
    bench.attach()
    assert bench.deliver_all() == [f"id-{number}" for number in range(11)]
    assert bench.stored() == []


def ask_with_a_new_result(bench: Bench) -> Call:
    """Offline, with an old message on disk, the next question goes out just when results come."""
    bench.attach()
    go_offline(bench)
    bench.pass_time(SPILL_SECONDS)
    bench.clock.moment += bench.pacer.wait() + 1e-6
    bench.offer(message(1), message(2))
    bench.step()
    assert bench.stored() == ["id--1"]
    return bench.session.calls[-1]


def test_what_was_sent_before_goes_to_disk_before_what_came_after_it(bench: Bench) -> None:
    question = ask_with_a_new_result(bench)
    bench.pass_time(SPILL_SECONDS * 1.5)
    question.answer(REFUSED)
    bench.step()
    assert bench.stored() == ["id--1", "id-1", "id-2"]


def test_an_answer_that_does_not_come_keeps_results_in_memory_no_longer_than_twice_as_long(bench: Bench) -> None:
    ask_with_a_new_result(bench)
    bench.pass_time(SPILL_SECONDS * 1.9)
    assert bench.stored() == ["id--1"]
    bench.pass_time(SPILL_SECONDS * 0.2)
    assert bench.stored() == ["id--1", "id-2"]


def test_nothing_of_the_outbox_is_sent_over_a_session_that_ended_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.offer(message(1))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    old = bench.attach()
    peek = bench.outbox.peek

    def peek_and_lose(limit: int) -> Any:
        bench.publisher.detach()
        return peek(limit)

    monkeypatch.setattr(bench.outbox, "peek", peek_and_lose)
    bench.step()
    assert old.calls == []
    monkeypatch.setattr(bench.outbox, "peek", peek)
    bench.attach()
    assert bench.deliver_all() == ["id-1"]


def test_many_results_do_not_wait_in_memory_for_a_slow_cloud(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(MEMORY_MESSAGES + 1)))
    bench.step()
    assert len(bench.publisher._backlog) <= MEMORY_MESSAGES
    assert len(bench.stored()) > MEMORY_MESSAGES - WINDOW


def test_new_results_go_before_those_that_wait_on_disk(bench: Bench) -> None:
    bench.offer(*(message(number) for number in range(100)))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.attach()
    bench.step()
    bench.offer(message(1_000))
    bench.session.calls[0].answer()
    assert name(bench.until_sent(WINDOW + 1)[-1]) == "id-1000"


def test_a_message_of_the_outbox_is_not_sent_twice_while_it_is_in_flight(bench: Bench) -> None:
    bench.offer(*(message(number) for number in range(20)))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.attach()
    bench.pass_time(10)
    assert len({name(call) for call in bench.session.calls}) == len(bench.session.calls) == WINDOW
    bench.session.calls[3].answer()
    bench.pass_time(10)
    assert len({name(call) for call in bench.session.calls}) == WINDOW + 1
    assert len(bench.stored()) == 19


def test_while_the_cloud_is_offline_it_asks_now_and_then_with_one_message_and_then_goes_on(bench: Bench) -> None:
    bench.attach()
    go_offline(bench)
    bench.offer(*(message(number) for number in range(50)))
    asked = len(bench.session.calls)
    for _ in range(10 * int(LONGEST_PAUSE)):
        bench.pass_time(1)
        for call in bench.session.open():
            call.answer(REFUSED)
    assert 10 <= len(bench.session.calls) - asked <= 30
    assert bench.publisher.problem == "AWS IoT Core: ServiceError: no network"
    bench.pass_time(LONGEST_PAUSE)
    assert len(bench.session.open()) == 1
    assert set(bench.deliver_all()[asked:]) >= {f"id-{number}" for number in range(50)}
    assert not bench.publisher.offline
    assert bench.publisher.problem is None


def test_what_the_nucleus_took_last_goes_again_when_the_cloud_turns_out_to_be_gone(bench: Bench) -> None:
    bench.attach()
    for number in range(14):
        bench.offer(message(number))
        bench.until_sent(number + 1)[-1].answer()
        bench.step()
    assert bench.publisher.counts().delivered == 14
    go_offline(bench)
    assert bench.publisher.counts().delivered == 4
    bench.pass_time(SPILL_SECONDS)
    assert bench.stored() == [f"id-{number}" for number in range(4, 14)] + ["id--1"]
    bench.attach()
    bench.deliver_all()
    assert bench.publisher.counts().delivered == 14


def deliver_one_by_one(bench: Bench, count: int, pause: float = 0.0) -> None:
    for number in range(count):
        bench.offer(message(number))
        bench.until_sent(number + 1)[-1].answer()
        bench.step()
        bench.clock.moment += pause


def refuse_next(bench: Bench) -> None:
    calls = len(bench.session.calls)
    bench.offer(message(calls))
    bench.until_sent(calls + 1)[-1].answer(REFUSED)
    bench.step()


def test_refusals_at_full_pace_may_be_a_full_window_but_not_many_in_a_row(bench: Bench) -> None:
    bench.attach()
    deliver_one_by_one(bench, 40)
    for _ in range(MAX_EXPLAINED_REFUSALS - 1):
        refuse_next(bench)
        assert bench.publisher.counts().delivered == 40
    refuse_next(bench)
    assert bench.publisher.counts().delivered == 40 - UNCONFIRMED_MESSAGES
    assert not bench.publisher.offline


def test_a_refusal_behind_large_messages_may_be_a_full_window(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(0, size=6_900), message(1, size=6_900))
    for call in bench.until_sent(2):
        call.answer()
    bench.step()
    bench.offer(message(2, size=6_900))
    bench.until_sent(3)[-1].answer(REFUSED)
    bench.step()
    assert bench.publisher.counts().delivered == 2


def test_one_refusal_of_a_message_that_had_room_means_that_the_last_ones_may_be_gone(bench: Bench) -> None:
    bench.attach()
    deliver_one_by_one(bench, 12, pause=0.2)
    refuse_next(bench)
    assert bench.publisher.counts().delivered == 12 - UNCONFIRMED_MESSAGES
    assert bench.deliver_all()[13:] == [f"id-{number}" for number in range(2, 13)]
    assert bench.publisher.counts().delivered == 13


@pytest.mark.parametrize("stored", [False, True])
def test_a_message_that_breaks_every_connection_is_given_up_and_the_others_go(bench: Bench, stored: bool) -> None:
    deadly, others = message(0, weight=3), [message(number) for number in range(1, 20)]
    bench.offer(deadly, *others)
    if stored:
        bench.step()
        bench.pass_time(SPILL_SECONDS)
        assert len(bench.stored()) == 20
    for _ in range(MAX_LOST_CONNECTIONS):
        assert bench.publisher.counts().expired == 0
        bench.attach()
        bench.until_sent(1)
        bench.pass_time(1.0)
        bench.session.break_off()
        bench.publisher.detach()
        bench.step()
    assert bench.publisher.counts().expired == 3
    bench.attach()
    assert bench.deliver_all() == [each.id for each in others]


def test_losses_that_hit_another_message_each_time_give_up_none(bench: Bench) -> None:
    bench.offer(*(message(number) for number in range(2 * MAX_LOST_CONNECTIONS)))
    for _ in range(2 * MAX_LOST_CONNECTIONS - 1):
        bench.attach()
        bench.until_sent(1)[0].answer()
        bench.until_sent(2)
        bench.session.break_off()
        bench.publisher.detach()
        bench.step()
    bench.attach()
    bench.deliver_all()
    counts = bench.publisher.counts()
    assert (counts.delivered, counts.expired) == (2 * MAX_LOST_CONNECTIONS, 0)


def test_what_the_nucleus_took_long_ago_or_without_a_promise_does_not_go_again(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(0))
    bench.until_sent(1)[-1].answer()
    bench.step()
    bench.pass_time(LITE_DEAD_NETWORK_SECONDS + 1)
    bench.publisher.configure(qos=0, outbox_bytes=ROOMY)
    bench.offer(message(1))
    bench.until_sent(2)[-1].answer()
    bench.step()
    go_offline(bench)
    assert bench.publisher.counts().delivered == 2


def test_what_the_nucleus_took_from_the_outbox_goes_again_before_newer_results(bench: Bench) -> None:
    bench.offer(message(1), message(2))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.attach()
    assert bench.deliver_all() == ["id-1", "id-2"]
    bench.offer(message(3))
    bench.deliver_all()
    go_offline(bench)
    bench.pass_time(SPILL_SECONDS)
    assert bench.stored() == ["id-1", "id-2", "id-3", "id--1"]


def test_a_result_refused_as_invalid_is_given_up_and_holds_up_nothing(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(1, weight=2), message(2))
    bench.step()
    bench.session.calls[0].answer(INVALID)
    bench.session.calls[1].answer()
    bench.step()
    counts = bench.publisher.counts()
    assert (counts.delivered, counts.expired, counts.waiting) == (1, 2, 0)


def test_an_invalid_message_in_the_outbox_does_not_block_it_even_as_the_one_that_asks_whether_the_way_is_free(
    bench: Bench,
) -> None:
    bench.offer(message(1, weight=5), message(2))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.attach()
    bench.step()
    for call in bench.session.calls:
        call.answer(REFUSED)
    bench.step()
    (probe,) = bench.until_sent(3)[2:]
    assert name(probe) == "id-1"
    probe.answer(INVALID)
    bench.step()
    assert bench.deliver_all()[3:] == ["id-2"]
    counts = bench.publisher.counts()
    assert (counts.delivered, counts.expired) == (1, 5)


def test_an_answer_that_never_comes_is_a_refusal_after_a_while_and_the_message_goes_again(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(WINDOW + 5)))
    bench.step()
    nap = bench.pass_time(10)
    assert nap == pytest.approx(CLOUD_ANSWER_SECONDS - 10)
    bench.pass_time(CLOUD_ANSWER_SECONDS - 10)
    assert bench.publisher.problem == "AWS IoT Core: no answer within 30 s"
    again = bench.until_sent(WINDOW + 1)[WINDOW:]
    assert [name(call) for call in again] == ["id-0"]
    bench.session.calls[0].answer()  # the late answer is nobody's any more
    assert bench.publisher.counts().delivered == 0
    bench.deliver_all()
    assert bench.publisher.counts().delivered == WINDOW + 5


def test_a_nucleus_that_never_answers_does_not_stop_it_for_ever(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(3)))
    for _ in range(20):
        nap = bench.step()
        assert nap
        assert nap < inf
        bench.clock.moment += nap
    assert len(bench.session.calls) > 6
    assert bench.publisher.offline
    assert bench.publisher.counts().waiting == 3


def test_what_the_recipe_does_not_allow_waits_and_says_so(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(1))
    bench.step()
    bench.session.calls[0].answer(FORBIDDEN)
    bench.step()
    assert bench.publisher.problem == "AWS IoT Core: UnauthorizedError: not allowed"
    assert bench.publisher.counts().waiting == 1


def test_a_changed_quality_of_service_applies_to_the_next_message(bench: Bench) -> None:
    bench.attach()
    bench.offer(message(1))
    bench.step()
    bench.publisher.configure(qos=0, outbox_bytes=ROOMY)
    bench.offer(message(2))
    bench.step()
    assert [call.qos for call in bench.session.calls] == [1, 0]


def test_a_smaller_outbox_expires_what_no_longer_fits_and_counts_it(bench: Bench) -> None:
    bench.offer(*(message(number, size=1_000, weight=2) for number in range(500)))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.publisher.configure(qos=1, outbox_bytes=200_000)
    bench.step()
    counts = bench.publisher.counts()
    assert counts.expired > 0
    assert counts.waiting == 2 * len(bench.stored()) < 1_000
    bench.publisher.configure(qos=1, outbox_bytes=0)
    bench.step()
    assert bench.publisher.counts().expired == 1_000


def test_results_of_an_earlier_process_are_carried_over(bench: Bench, tmp_path: Path) -> None:
    bench.offer(*(message(number, weight=2) for number in range(3)))
    assert bench.finish() == ["id-0", "id-1", "id-2"]
    later = Bench(tmp_path)
    assert later.publisher.counts().as_message() == {
        "delivered": 0,
        "waiting": 6,
        "expired": 0,
        "unwanted": 0,
        "carried_over": 6,
    }
    later.attach()
    assert later.deliver_all() == ["id-0", "id-1", "id-2"]
    assert later.publisher.counts().delivered == 6
    later.outbox.close()


def test_results_found_in_a_file_that_can_be_used_again_are_carried_over(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "disk", tmp_path / "unplugged"
    earlier = Bench(path)
    earlier.offer(message(1, weight=4))
    earlier.finish()
    path.rename(elsewhere)
    path.write_text("not a directory")
    bench = Bench(path)
    bench.offer(message(2))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.attach()
    assert bench.deliver_all() == ["id-2"]
    assert bench.publisher.counts().carried_over == 0
    path.unlink()
    elsewhere.rename(path)
    bench.outbox._retry_at = 0.0
    bench.publisher.detach()
    bench.offer(message(3))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    assert bench.publisher.counts().carried_over == 4
    bench.attach()
    assert bench.deliver_all() == ["id-1", "id-3"]
    bench.outbox.close()


def test_results_for_which_the_disk_is_too_slow_expire_oldest_normal_ones_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml_inference.delivery.backlog.MEMORY_BYTES", 40_000)
    for number in range(200):
        bench.offer(message(number, alarm=number % 4 == 0, size=1_000))
        assert bench.publisher._backlog.payload_bytes <= 40_000
        assert bench.balanced()
    held = [message.id for _, message in bench.publisher._backlog._messages]
    assert len([identifier for identifier in held if int(identifier[3:]) % 4 == 0]) > len(held) * 3 // 4
    assert held == sorted(held, key=lambda identifier: int(identifier[3:]))
    assert held[-1] == "id-199"
    assert "the disk does not keep up" in caplog.text
    bench.attach()
    assert bench.deliver_all() == held
    assert bench.publisher._backlog.payload_bytes == 0


def fill_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk takes nothing, until the patch is undone."""

    def refuse(*_: Any) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(bench.outbox, "_transaction", refuse)


def test_what_a_full_disk_refuses_stays_in_memory_and_the_problem_ends_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(bench, monkeypatch)
    for number in range(1_500):
        bench.offer(message(number))
        if number % 100 == 0:
            bench.pass_time(SPILL_SECONDS)
    bench.pass_time(SPILL_SECONDS)
    counts = bench.publisher.counts()
    assert (counts.waiting, counts.expired) == (1_500, 0)
    assert "disk is full" in bench.publisher.recovery[0]
    monkeypatch.undo()
    bench.pass_time(DISK_RETRY_SECONDS)
    assert bench.stored() == [f"id-{number}" for number in range(1_500)]
    assert bench.publisher.recovery == ()
    bench.attach()
    assert bench.deliver_all() == [f"id-{number}" for number in range(1_500)]


def test_a_full_disk_is_not_asked_for_each_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(bench, monkeypatch)
    puts = 0
    put = bench.outbox.put

    def count_puts(*arguments: Any, **options: Any) -> Any:
        nonlocal puts
        puts += 1
        return put(*arguments, **options)

    monkeypatch.setattr(bench.outbox, "put", count_puts)
    for number in range(2_000):
        bench.offer(message(number, alarm=number % 2 == 0))
        bench.pass_time(0.01)
    assert puts <= 20 / DISK_RETRY_SECONDS + 2


def test_what_a_full_disk_refuses_at_the_end_has_expired(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(bench, monkeypatch)
    bench.offer(message(1, weight=3))
    bench.publisher._deliver_until = bench.clock()
    assert bench.step() is None
    counts = bench.publisher.counts()
    assert (counts.waiting, counts.expired) == (0, 3)


def test_an_alarm_is_on_disk_at_once_while_the_cloud_is_out_of_reach(bench: Bench) -> None:
    bench.offer(message(1))
    bench.step()
    assert bench.stored() == []
    bench.offer(message(2, alarm=True))
    bench.step()
    assert bench.stored() == ["id-1", "id-2"]


def test_an_error_of_ours_ends_neither_the_delivery_nor_the_accounting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = bench.outbox.put

    def broken(messages: Any) -> Any:
        raise ValueError("a mistake")

    monkeypatch.setattr(bench.outbox, "put", broken)
    bench.offer(*(message(number) for number in range(3)))
    bench.step()
    bench.offer(message(3))
    assert bench.pass_time(SPILL_SECONDS) == 1.0
    assert bench.publisher.problem
    monkeypatch.setattr(bench.outbox, "put", put)
    bench.step()
    assert bench.stored() == [f"id-{number}" for number in range(4)]


def test_at_the_end_what_is_in_flight_or_waits_is_in_the_outbox_in_order(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number, weight=2) for number in range(30)))
    bench.step()
    first, second = bench.session.calls[:2]
    first.answer()
    bench.step()
    second.answer()
    assert bench.finish() == [f"id-{number}" for number in range(2, 30)]
    assert bench.publisher.counts().delivered == 4


def test_answers_that_come_while_it_stops_count(bench: Bench) -> None:
    bench.attach()
    bench.offer(*(message(number) for number in range(3)))
    bench.step()
    bench.publisher._deliver_until = bench.clock() + 1
    bench.session.calls[1].answer()
    bench.step()
    bench.session.calls[0].answer()
    bench.clock.moment += 1
    assert bench.step() is None
    assert bench.stored() == ["id-2"]
    assert bench.publisher.counts().delivered == 2


def test_an_answer_that_comes_at_the_last_moment_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.attach()
    bench.offer(message(1), message(2))
    bench.step()
    is_over = bench.publisher._is_over

    def answer_and_look() -> bool:
        bench.session.calls[0].answer()
        return is_over()

    monkeypatch.setattr(bench.publisher, "_is_over", answer_and_look)
    bench.publisher._deliver_until = bench.clock()
    assert bench.publisher._step(bench.outbox) is None
    assert bench.stored() == ["id-2"]
    assert bench.publisher.counts().delivered == 1
    assert bench.balanced()


def test_while_it_stops_it_delivers_new_results_and_leaves_the_old_ones(bench: Bench) -> None:
    bench.offer(*(message(number) for number in range(10)))
    bench.step()
    bench.pass_time(SPILL_SECONDS)
    bench.offer(message(100))
    bench.publisher._deliver_until = bench.clock() + 1
    bench.attach()
    bench.step()
    assert [name(call) for call in bench.session.calls] == ["id-100"]
    bench.session.calls[0].answer()
    assert bench.step() is None
    assert len(bench.stored()) == 10


class AnyOrder(RuleBasedStateMachine):
    """Whatever the nucleus, the network and the clock do, nothing is lost and the books balance."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.bench = Bench(self.directory)
        self.numbers = 0
        self.sessions: list[FakeSession] = []
        self.attached = False
        self.taken: set[str] = set()
        self.invalid: set[str] = set()

    def teardown(self) -> None:
        try:
            left = self.bench.finish()
            assert len(set(left)) == len(left)
            offered = {each.id for each in self.bench.offered}
            # What the nucleus never took is still there; what it took may be, if the connection broke.
            assert offered - self.taken - self.invalid <= set(left) <= offered
            counts = self.bench.publisher.counts()
            weights = {each.id: each.weight for each in self.bench.offered}
            assert counts.waiting == sum(weights[identifier] for identifier in left)
        finally:
            self.bench.outbox.close()
            shutil.rmtree(self.directory)

    @initialize()
    def begin(self) -> None:
        self.attach()

    @rule(
        weights=st.lists(st.integers(0, 4), min_size=1, max_size=12), unwanted=st.integers(0, 2), size=st.integers(0, 9)
    )
    def offer(self, weights: list[int], unwanted: int, size: int) -> None:
        batch = []
        for weight in weights:
            self.numbers += 1
            batch.append(message(self.numbers, weight=weight, alarm=self.numbers % 5 == 0, size=900 * size))
        self.bench.offer(*batch, unwanted=unwanted)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 31.0]))
    def work(self, seconds: float) -> None:
        nap = self.bench.pass_time(seconds)
        assert nap
        assert nap < inf

    @precondition(lambda self: any(session.open() for session in self.sessions))
    @rule(data=st.data(), error=st.sampled_from([None, None, None, REFUSED, REFUSED, INVALID, BROKEN]))
    def answer(self, data: st.DataObject, error: Exception | None) -> None:
        waiting = [call for session in self.sessions for call in session.open()]
        call = data.draw(st.sampled_from(waiting))
        if error is None:
            self.taken.add(name(call))
        elif error is INVALID:
            self.invalid.add(name(call))
        call.answer(error)

    @rule()
    def answer_everything(self) -> None:
        for session in self.sessions:
            for call in session.open():
                self.taken.add(name(call))
                call.answer()

    @precondition(lambda self: self.attached)
    @rule(cleanly=st.booleans())
    def lose_the_connection(self, cleanly: bool) -> None:
        if cleanly:
            self.sessions[-1].break_off()
        self.bench.publisher.detach()
        self.attached = False

    @precondition(lambda self: not self.attached)
    @rule()
    def attach(self) -> None:
        self.sessions.append(self.bench.attach())
        self.attached = True

    @rule(size=st.sampled_from([ROOMY, 2 * ROOMY]))
    def configure(self, size: int) -> None:
        self.bench.publisher.configure(qos=1, outbox_bytes=size)

    @invariant()
    def the_books_balance(self) -> None:
        assert self.bench.balanced()
        assert self.bench.publisher.counts().expired <= sum(
            each.weight for each in self.bench.offered if each.id in self.invalid
        )

    @invariant()
    def everything_is_in_one_place(self) -> None:
        publisher = self.bench.publisher
        live = [order for order, _ in publisher._backlog._messages]
        assert live == sorted(live)
        assert len(publisher._window) <= WINDOW
        places = [each.id for _, each in publisher._backlog._messages]
        places += [flight.message.id for flight in publisher._window.flights if flight.stored is None]
        places += self.bench.stored()
        assert len(places) == len(set(places))
        assert publisher._backlog.payload_bytes == sum(
            len(each.payload) for each in self.bench.offered if each.id in set(places) - set(self.bench.stored())
        )


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=30)
test_in_any_order_of_events_nothing_is_lost_and_the_books_balance = AnyOrder.TestCase


# On its own thread.


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[CloudPublisher]:
    publisher = CloudPublisher(
        lambda: Outbox(tmp_path / "outbox.sqlite", max_bytes=ROOMY), qos=1, monotonic=time.monotonic
    )
    publisher.start()
    yield publisher
    publisher.stop(5)
    assert not publisher._thread.is_alive()


def left_behind(directory: Path) -> list[str]:
    outbox = Outbox(directory / "outbox.sqlite", max_bytes=ROOMY)
    try:
        return [held.message.id for held in outbox.peek(100_000)]
    finally:
        outbox.close()


def test_the_thread_wakes_for_a_result_for_an_answer_and_for_a_session(publisher: CloudPublisher) -> None:
    publisher.offer([message(1)])
    session = FakeSession()
    publisher.attach(cast("Session", session))
    session.wait_for_calls(1)[0].answer()
    until(lambda: publisher.counts().delivered == 1)
    publisher.offer([message(2)])
    session.wait_for_calls(2)[1].answer()
    until(lambda: publisher.counts().delivered == 2)


def test_what_comes_just_before_the_thread_sleeps_wakes_it(
    publisher: CloudPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(at_once=None)
    send_next = publisher._send_next
    meanwhile = [message(2)]

    def send_next_and_offer(outbox: Outbox) -> float:
        pause = send_next(outbox)
        if pause and publisher.counts().delivered and meanwhile:
            publisher.offer([meanwhile.pop()])
        return pause

    monkeypatch.setattr(publisher, "_send_next", send_next_and_offer)
    publisher.attach(cast("Session", session))
    publisher.offer([message(1)])
    session.wait_for_calls(2)


@pytest.mark.parametrize("state", ["never answers", "refuses", "no session", "lost"])
def test_it_stops_in_time_and_what_was_not_delivered_is_in_the_outbox(
    tmp_path: Path, publisher: CloudPublisher, state: str
) -> None:
    session = FakeSession(at_once=REFUSED if state == "refuses" else "later")
    if state != "no session":
        publisher.attach(cast("Session", session))
    publisher.offer([message(number) for number in range(50)])
    if state == "lost":
        session.wait_for_calls(int(BURST))
        session.break_off()
        publisher.detach()
    elif state != "no session":
        session.wait_for_calls(2 if state == "refuses" else WINDOW)
    publisher.stop(1.0)
    assert not publisher._thread.is_alive()
    assert left_behind(tmp_path) == [f"id-{number}" for number in range(50)]
    assert publisher.counts().waiting == 50


def test_it_stops_at_once_when_nothing_waits(publisher: CloudPublisher) -> None:
    publisher.attach(cast("Session", FakeSession()))
    began = time.monotonic()
    publisher.stop(10)
    assert time.monotonic() - began < 2


def test_it_says_so_when_the_disk_does_not_let_it_stop_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = Event()

    def open_slowly() -> Outbox:
        go_on.wait(SECONDS)
        return Outbox(tmp_path / "outbox.sqlite", max_bytes=ROOMY)

    publisher = CloudPublisher(open_slowly, qos=1, monotonic=time.monotonic)
    publisher.start()
    publisher.offer([message(1)])
    publisher.stop(0.05)
    assert "the outbox did not close within" in caplog.text
    assert "1 results for the cloud are lost" in caplog.text
    counts = publisher.counts()
    assert (counts.waiting, counts.expired) == (0, 1)
    go_on.set()
    publisher._thread.join(SECONDS)
    assert left_behind(tmp_path) == ["id-1"]


def test_what_is_put_at_the_end_waits_for_no_slow_flash(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite", max_bytes=ROOMY)
    go_on = Event()
    closing = Event()
    close = outbox.close

    def close_slowly() -> None:
        closing.set()
        go_on.wait(SECONDS)
        close()

    outbox.close = close_slowly  # type: ignore[method-assign]
    statements: list[str] = []
    connection = outbox._database()
    connection.set_trace_callback(statements.append)
    told = Event()

    def opened() -> Outbox:
        told.wait(SECONDS)  # so that all is put at the end
        return outbox

    def clock() -> float:
        if current_thread() is stopping:
            told.set()
        return 0.0

    stopping = Thread(target=lambda: publisher.stop(SECONDS))
    publisher = CloudPublisher(opened, qos=1, monotonic=clock)
    publisher.start()
    publisher.offer([message(number, alarm=number % 2 == 0) for number in range(1_200)])
    stopping.start()
    assert closing.wait(SECONDS)
    counts = publisher.counts()
    assert (counts.waiting, counts.expired) == (1_200, 0)
    # Nothing was synced: neither after a commit nor by a checkpoint.
    assert {text for text in statements if "synchronous" in text} == {"PRAGMA synchronous=OFF"}
    assert "PRAGMA wal_autocheckpoint=0" in statements
    shutil.copytree(tmp_path, tmp_path / "after")  # what the next process finds if this one ends now
    assert len(left_behind(tmp_path / "after")) == 1_200
    go_on.set()
    stopping.join(SECONDS)


def test_the_books_balance_at_every_moment_while_threads_offer_answer_and_reconnect(
    publisher: CloudPublisher,
) -> None:
    done = Event()

    def balanced() -> bool:
        counts = publisher.counts()
        # A multiple of three is offered at a time, under the same lock.
        total = counts.delivered + counts.waiting + counts.expired + counts.unwanted
        return total % 3 == 0

    def offer() -> None:
        for number in range(150):
            publisher.offer([message(number, weight=2)], unwanted=1)
        done.set()

    def reconnect() -> None:
        while not done.is_set():
            session = FakeSession(at_once=None)
            publisher.attach(cast("Session", session))
            session.wait_for_calls(1)
            session.break_off()
            publisher.detach()

    threads = [Thread(target=offer), Thread(target=reconnect, daemon=True)]
    for thread in threads:
        thread.start()
    while not done.is_set():
        assert balanced()
    threads[0].join()
    publisher.offer([message(1_000, weight=2)], unwanted=1)  # whoever still waits for a call gets one
    threads[1].join(SECONDS)
    session = FakeSession(at_once=None)
    publisher.attach(cast("Session", session))
    until(lambda: publisher.counts().waiting == 0)
    counts = publisher.counts()
    assert (counts.delivered, counts.unwanted, counts.expired) == (302, 151, 0)


# Over the real SDK.

ACCESS = {"aws.greengrass.ipc.mqttproxy": {"all": {"operations": ["*"], "resources": ["*"]}}}


class Cloud:
    """A nucleus stand-in and a way to connect to it."""

    def __init__(self, nucleus: BackgroundNucleus) -> None:
        self.nucleus = nucleus
        self.connector = Connector(nucleus.credentials("com.example.Test", ACCESS))
        self.sessions: list[Session] = []

    def connect(self, publisher: CloudPublisher) -> Session:
        session = self.connector.open(lambda _: None)
        self.sessions.append(session)
        publisher.attach(session)
        return session

    def arrived(self) -> list[str]:
        """Ids in the order of their first arrival."""
        return list(dict.fromkeys(message.payload.decode() for message in self.nucleus.iot_core.messages))


@pytest.fixture(params=["lite", "classic"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    with BackgroundNucleus(tmp_path / "nucleus", request.param) as nucleus:
        nucleus.iot_core.round_trip = 0.005
        cloud = Cloud(nucleus)
        yield cloud
        for session in cloud.sessions:
            session.close()


def all_of(count: int) -> list[str]:
    return [f"id-{number}" for number in range(count)]


def test_over_the_sdk_results_arrive_in_order(real: Cloud, publisher: CloudPublisher) -> None:
    real.connect(publisher)
    publisher.offer([message(number) for number in range(40)])
    until(lambda: publisher.counts().delivered == 40)
    until(lambda: real.arrived() == all_of(40))


def test_over_the_sdk_results_of_an_offline_time_arrive_later_in_order(
    real: Cloud, publisher: CloudPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "FIRST_PAUSE", OFFLINE_PAUSE)
    real.nucleus.faults.cloud_offline()
    if real.nucleus.nucleus.profile.spool is not None:
        real.nucleus.faults.spool_full()
    real.connect(publisher)
    publisher.offer([message(number) for number in range(30)])
    until(lambda: publisher.offline and not publisher._window)
    assert publisher.problem
    assert publisher.problem.startswith("AWS IoT Core: ServiceError")
    assert publisher.counts().waiting == 30
    real.nucleus.faults.clear()
    until(lambda: publisher.counts().delivered == 30)
    until(lambda: real.arrived() == all_of(30))
    assert publisher.problem is None


def test_over_the_sdk_nothing_is_missing_after_connections_broke(real: Cloud, publisher: CloudPublisher) -> None:
    for start in range(0, 60, 20):
        session = real.connect(publisher)
        before = publisher.counts().delivered
        publisher.offer([message(number) for number in range(start, start + 20)])
        until(lambda before=before: publisher.counts().delivered > before)  # type: ignore[misc]
        real.nucleus.faults.drop_connections()
        assert session.lost.wait(SECONDS)
        publisher.detach()
    real.connect(publisher)
    until(lambda: publisher.counts().delivered == 60)
    until(lambda: set(real.arrived()) == set(all_of(60)))


@pytest.mark.parametrize("carried_out", [False, True])
def test_over_the_sdk_lost_answers_cost_a_repeat_at_most(real: Cloud, tmp_path: Path, carried_out: bool) -> None:
    publisher = CloudPublisher(
        lambda: Outbox(tmp_path / "outbox.sqlite", max_bytes=ROOMY), qos=1, monotonic=time.monotonic, answer=0.2
    )
    publisher.start()
    real.nucleus.faults.answer_never("PublishToIoTCore", times=3, carried_out=carried_out)
    real.connect(publisher)
    publisher.offer([message(number) for number in range(10)])
    until(lambda: publisher.counts().delivered == 10)
    until(lambda: set(real.arrived()) == set(all_of(10)))
    publisher.stop(5)


def test_over_the_sdk_stopping_leaves_what_was_not_answered_in_the_outbox(
    real: Cloud, publisher: CloudPublisher, tmp_path: Path
) -> None:
    real.nucleus.faults.answer_never("PublishToIoTCore")
    real.connect(publisher)
    publisher.offer([message(number) for number in range(20)])
    publisher.stop(1.0)
    assert not publisher._thread.is_alive()
    assert left_behind(tmp_path) == all_of(20)


# A nucleus that spools: classic.

PROBE = Message("results/core/probe", b"{}", id=PROBE_ID)


class ClassicBench(Bench):
    """A publisher on a classic nucleus: it takes what is of QoS 1, and what is of QoS 0 while it is online."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.publisher.configure(qos=1, outbox_bytes=ROOMY, probe=PROBE)
        self.online = True
        self.answered = 0

    def attach(self) -> FakeSession:
        self.session = FakeSession()
        self.session.spools = True
        self.answered = 0
        self.publisher.attach(cast("Session", self.session))
        return self.session

    def run(self, seconds: float) -> None:
        """Let time pass and the nucleus answer."""
        until = self.clock() + seconds
        while True:
            nap = self.step()
            for call in self.session.open():
                call.answer(REFUSED if call.qos == 0 and not self.online else None)
            if self.session.calls[self.answered :]:
                self.answered = len(self.session.calls)
                continue
            assert nap is not None
            if self.clock() + nap > until:
                self.clock.moment = until
                return
            self.clock.moment += nap + 1e-6

    def sent(self) -> list[str]:
        return [name(call) for call in self.session.calls if call.qos == 1]

    def probes(self) -> int:
        return sum(call.topic == PROBE.topic for call in self.session.calls)


@pytest.fixture
def classic(tmp_path: Path) -> Iterator[ClassicBench]:
    bench = ClassicBench(tmp_path)
    yield bench
    bench.outbox.close()


def test_classic_is_asked_before_the_first_result_and_now_and_then_while_results_go(classic: ClassicBench) -> None:
    classic.attach()
    classic.run(60)
    assert classic.session.calls == []  # nothing to send, nothing to ask
    classic.offer(message(1))
    classic.step()
    assert [(call.topic, call.qos) for call in classic.session.calls] == [(PROBE.topic, 0)]
    for number in range(2, 62):
        classic.run(1)
        classic.offer(message(number))
    classic.run(1)
    assert classic.sent() == [f"id-{number}" for number in range(1, 62)]
    assert 60 / PROBE_SECONDS <= classic.probes() <= 60 / PROBE_SECONDS + 2
    assert classic.publisher.counts().delivered == 61
    assert classic.stored() == []


def test_while_classic_is_offline_results_wait_in_the_outbox_and_not_in_its_spool(
    classic: ClassicBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    classic.attach()
    classic.online = False
    for number in range(100):
        classic.offer(message(number))
        classic.run(1)
    assert classic.sent() == []
    assert classic.publisher.offline
    assert "no network" in str(classic.publisher.problem)
    assert (classic.publisher.counts().waiting, classic.publisher.counts().delivered) == (100, 0)
    assert classic.stored() == [f"id-{number}" for number in range(100)]
    assert classic.probes() < 20
    classic.online = True
    classic.run(LONGEST_PAUSE + 20)
    assert classic.sent() == [f"id-{number}" for number in range(100)]
    assert not classic.publisher.offline
    assert classic.publisher.problem is None
    assert classic.publisher.counts().delivered == 100
    assert [caplog.text.count(text) for text in ("out of reach", "can be reached again")] == [1, 1]


def test_what_classic_took_last_is_taken_back_when_it_proves_to_be_offline(classic: ClassicBench) -> None:
    classic.attach()
    for number in range(200):  # one a second
        if number == 195:
            classic.online = False  # found out when the next probe is due
        classic.offer(message(number))
        classic.run(1)
    classic.run(PROBE_SECONDS)
    counts = classic.publisher.counts()
    first = 200 - counts.waiting
    assert 205 - SPOOLED_SECONDS - PROBE_SECONDS <= first <= 205 - SPOOLED_SECONDS
    assert classic.stored() == [f"id-{number}" for number in range(first, 200)]
    assert counts.delivered == first
    classic.online = True
    classic.run(LONGEST_PAUSE + 20)
    assert classic.publisher.counts().delivered == 200
    assert set(classic.sent()) == {f"id-{number}" for number in range(200)}


def test_no_more_is_remembered_than_classics_spool_can_hold(classic: ClassicBench) -> None:
    classic.attach()
    for number in range(400):
        classic.offer(message(number, size=20_000))
        classic.run(0.1)
    classic.online = False
    classic.offer(message(400))
    classic.run(PROBE_SECONDS + 1)
    assert sum(len(held.message.payload) for held in classic.outbox.peek(1_000)) <= CLASSIC_SPOOL_BYTES + 20_000
    assert len(classic.stored()) > 100


def test_at_the_end_classic_is_asked_once_more_and_what_it_may_lose_is_kept(classic: ClassicBench) -> None:
    classic.attach()
    classic.offer(message(0))
    classic.run(1)
    classic.offer(message(1), message(2))
    classic.run(1)
    assert classic.publisher.counts().delivered == 3
    classic.publisher._deliver_until = classic.clock() + 1.5
    classic.step()
    last = classic.session.open()
    assert [call.qos for call in last] == [0]
    last[0].answer(REFUSED)
    assert classic.finish(1.5) == ["id-0", "id-1", "id-2"]
    assert classic.publisher.counts().delivered == 0


def test_at_the_end_nothing_is_waited_for_where_there_is_nothing_to_ask(classic: ClassicBench) -> None:
    classic.attach()
    began = classic.clock()
    assert classic.finish(1.5) == []
    assert classic.clock() == began


def test_what_no_probe_vouched_for_is_kept_when_classic_ends(classic: ClassicBench) -> None:
    classic.attach()
    for number in range(30):
        classic.offer(message(number))
        classic.run(1)
    classic.publisher.detach()
    classic.step()
    assert classic.publisher.counts().delivered == 30
    kept = classic.finish()
    assert 0 < len(kept) <= PROBE_SECONDS + 1
    assert kept == [f"id-{number}" for number in range(30 - len(kept), 30)]


@pytest.mark.parametrize("hindrance", ["no session", "full window"])
def test_a_probe_that_cannot_go_is_not_waited_for_in_a_busy_loop(classic: ClassicBench, hindrance: str) -> None:
    classic.attach()
    classic.offer(message(0))
    classic.run(1)
    classic.offer(message(1))
    classic.run(1)
    if hindrance == "no session":
        classic.publisher.detach()
    else:
        classic.offer(*(message(number) for number in range(2, 20)))
        classic.pass_time(1)
    nap = classic.pass_time(PROBE_SECONDS)
    assert nap is not None
    assert nap > 0.0


def test_another_connection_to_the_same_classic_nucleus_costs_no_repeats(classic: ClassicBench) -> None:
    classic.attach()
    for number in range(30):
        classic.offer(message(number))
        classic.run(1)
    classic.publisher.detach()
    classic.attach()
    classic.offer(message(30))
    classic.run(1)
    assert classic.sent() == ["id-30"]
    assert classic.publisher.counts().delivered == 31


@pytest.mark.parametrize("answer", [FORBIDDEN, INVALID])
def test_where_it_may_not_ask_the_spool_is_believed_and_that_is_said(
    classic: ClassicBench, answer: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    classic.attach()
    classic.offer(message(0), message(1))
    classic.step()
    (probe,) = classic.session.open()
    probe.answer(answer)
    classic.online = False
    classic.run(30)
    assert classic.sent() == ["id-0", "id-1"]
    assert classic.probes() == 1
    assert classic.publisher.counts().delivered == 2
    assert caplog.text.count("CloudProbeTopic") == 1


def test_a_full_spool_is_no_reason_to_send_everything_again(classic: ClassicBench) -> None:
    classic.attach()
    for number in range(50):
        classic.offer(message(number))
        classic.run(0.1)
    classic.offer(message(50))
    classic.step()
    classic.session.open()[-1].answer(REFUSED)
    classic.run(30)
    assert classic.sent().count("id-49") == 1
    assert classic.publisher.counts().delivered == 51
