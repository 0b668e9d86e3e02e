from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greengrass_sandbox import BackgroundNucleus
from ml_inference.delivery.guard import MAX_LOST_CONNECTIONS
from ml_inference.delivery.local import RESERVE, WINDOW, LocalPublisher
from ml_inference.delivery.routing import Message
from ml_inference.greengrass.session import Connector, Session
from support.clocks import Clock, until
from support.sessions import BROKEN, FORBIDDEN, FakeSession

SECONDS = 120.0
TOPIC = "test/out"


def message(number: int) -> Message:
    return Message(TOPIC, b"%d" % number)


def numbers(session: FakeSession) -> list[int]:
    return [int(payload) for payload in session.payloads()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(clock: Clock) -> LocalPublisher:
    return LocalPublisher(clock)


def attach(publisher: LocalPublisher) -> FakeSession:
    session = FakeSession()
    publisher.attach(cast("Session", session))
    return session


def lose(publisher: LocalPublisher, session: FakeSession) -> None:
    session.break_off()
    publisher.detach()


def in_background(action: Callable[[], object]) -> Thread:
    thread = Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_messages_go_out_in_order_without_waiting_for_answers(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    for number in range(WINDOW):
        publisher.publish(message(number))
    assert numbers(session) == list(range(WINDOW))
    assert publisher.published == 0
    for call in session.open():
        call.answer()
    assert publisher.published == WINDOW
    assert publisher.drain(0)


def test_a_full_window_makes_the_next_message_wait_for_an_answer(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    for number in range(WINDOW):
        publisher.publish(message(number))
    thread = in_background(lambda: publisher.publish(message(WINDOW)))
    thread.join(0.05)
    assert thread.is_alive()
    session.calls[7].answer()
    thread.join(SECONDS)
    assert numbers(session) == list(range(WINDOW + 1))


def test_without_a_session_a_message_waits_for_one(publisher: LocalPublisher) -> None:
    thread = in_background(lambda: publisher.publish(message(1)))
    thread.join(0.05)
    assert thread.is_alive()
    session = attach(publisher)
    thread.join(SECONDS)
    assert numbers(session) == [1]


def test_what_is_said_about_the_component_itself_waits_for_nobody_and_has_room_beyond_the_window(
    publisher: LocalPublisher,
) -> None:
    assert not publisher.try_publish(message(0))
    session = attach(publisher)
    for number in range(WINDOW):
        publisher.publish(message(number))
    assert [publisher.try_publish(message(100 + number)) for number in range(RESERVE + 1)] == [True] * RESERVE + [False]
    assert numbers(session)[WINDOW:] == [100 + number for number in range(RESERVE)]


def test_a_refused_message_is_counted_and_the_next_ones_go_on(
    publisher: LocalPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    session = attach(publisher)
    for number in range(10):
        publisher.publish(message(number))
    for call in session.open():
        call.answer(None if call.payload == b"9" else FORBIDDEN)
    assert (publisher.published, publisher.failed) == (1, 9)
    assert publisher.drain(0)
    assert [text.split()[0] for text in caplog.messages] == ["1", "2", "4", "8"]
    assert caplog.messages[0].endswith("the last, to 'test/out': UnauthorizedError: not allowed")


def test_what_was_on_its_way_when_the_connection_broke_goes_again_before_anything_newer(
    publisher: LocalPublisher,
) -> None:
    session = attach(publisher)
    for number in range(6):
        publisher.publish(message(number))
    for call in (session.calls[0], session.calls[2]):
        call.answer()
    lose(publisher, session)
    thread = in_background(lambda: publisher.publish(message(6)))
    after = attach(publisher)
    thread.join(SECONDS)
    assert numbers(after) == [1, 3, 4, 5, 6]
    for call in after.open():
        call.answer()
    assert (publisher.published, publisher.failed) == (7, 0)


def test_a_message_that_meets_the_end_of_a_session_goes_again_over_the_next(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    publisher.publish(message(1))
    session.break_off()  # nobody has told the publisher yet
    publisher.publish(message(2))
    publisher.detach()
    assert numbers(attach(publisher)) == [1, 2]


def test_a_message_that_is_just_being_sent_when_the_session_is_given_up_goes_again(
    publisher: LocalPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, go_on = Event(), Event()
    send = publisher._send

    def send_slowly(session: Session, number: int, message: Message) -> None:
        sending.set()
        go_on.wait(SECONDS)
        send(session, number, message)

    session = attach(publisher)
    monkeypatch.setattr(publisher, "_send", send_slowly)
    publishing = in_background(lambda: publisher.publish(message(1)))
    assert sending.wait(SECONDS)
    session.break_off()
    detaching = in_background(publisher.detach)
    detaching.join(0.05)
    go_on.set()
    for thread in (publishing, detaching):
        thread.join(SECONDS)
    assert numbers(attach(publisher)) == [1]


def test_answers_of_a_session_that_is_over_mean_nothing(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    publisher.publish(message(1))
    publisher.detach()
    session.calls[0].answer()
    assert publisher.published == 0
    after = attach(publisher)
    after.calls[0].answer()
    assert publisher.published == 1


def test_a_message_that_breaks_every_connection_is_given_up_and_those_behind_it_are_not(
    publisher: LocalPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    session = attach(publisher)
    for number in range(5):
        publisher.publish(message(number))
    for _ in range(MAX_LOST_CONNECTIONS):
        lose(publisher, session)
        session = attach(publisher)
    assert numbers(session) == [1, 2, 3, 4]
    assert publisher.failed == 1
    assert f"dropped after {MAX_LOST_CONNECTIONS} lost connections" in caplog.text


def test_many_losses_with_progress_between_them_cost_no_message(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    for number in range(20):
        publisher.publish(message(number))
    for _ in range(20):
        session.calls[0].answer()
        lose(publisher, session)
        session = attach(publisher)
    assert session.calls == []
    assert (publisher.published, publisher.failed) == (20, 0)


def test_draining_waits_for_the_last_answer_and_no_longer_than_it_is_told(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    publisher.publish(message(1))
    assert not publisher.drain(0.01)
    drained: list[bool] = []
    thread = in_background(lambda: drained.append(publisher.drain(SECONDS)))
    session.calls[0].answer()
    thread.join(SECONDS)
    assert drained == [True]


def test_draining_is_not_done_while_something_waits_for_the_next_session(publisher: LocalPublisher) -> None:
    session = attach(publisher)
    publisher.publish(message(1))
    lose(publisher, session)
    assert not publisher.drain(0.01)


def test_when_it_is_abandoned_whoever_waits_goes_on_and_the_message_counts_as_failed(
    publisher: LocalPublisher,
) -> None:
    thread = in_background(lambda: publisher.publish(message(1)))
    publisher.abandon()
    thread.join(SECONDS)
    publisher.publish(message(2))
    assert (publisher.published, publisher.failed) == (0, 2)


def test_a_stall_is_the_time_for_which_the_oldest_call_has_had_no_answer(
    publisher: LocalPublisher, clock: Clock
) -> None:
    session = attach(publisher)
    clock.moment += 500
    assert publisher.stalled_for() == 0
    publisher.publish(message(1))
    publisher.publish(message(2))
    clock.moment += 5
    assert publisher.stalled_for() == 5
    session.calls[0].answer()
    assert publisher.stalled_for() == 0
    clock.moment += 3
    assert publisher.stalled_for() == 3
    session.calls[1].answer()
    clock.moment += 100
    assert publisher.stalled_for() == 0


def test_one_answer_that_never_comes_is_noticed_among_many_that_do(publisher: LocalPublisher, clock: Clock) -> None:
    session = attach(publisher)
    publisher.publish(message(0))
    for number in range(1, 100):
        publisher.publish(message(number))
        session.calls[number].answer()
        clock.moment += 1
    assert publisher.stalled_for() == 99


def test_a_new_session_starts_with_a_clean_slate(publisher: LocalPublisher, clock: Clock) -> None:
    session = attach(publisher)
    publisher.publish(message(1))
    clock.moment += 60
    lose(publisher, session)
    clock.moment += 60
    attach(publisher)
    assert publisher.stalled_for() == 0


class AnyOrder(RuleBasedStateMachine):
    """Whatever the nucleus and the network do, each message is answered, on its way or waiting, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.publisher = LocalPublisher(lambda: 0.0)
        self.session: FakeSession | None = None
        self.sent = 0
        self.settled: set[int] = set()

    def outstanding(self) -> list[int]:
        return [number for number in range(self.sent) if number not in self.settled]

    @precondition(lambda self: self.session is None)
    @rule()
    def attach(self) -> None:
        self.session = attach(self.publisher)
        given_up = {number for number in self.outstanding() if number not in set(numbers(self.session))}
        assert len(given_up) <= 1
        self.settled |= given_up
        assert numbers(self.session) == self.outstanding()

    @precondition(lambda self: self.session and len(self.session.open()) < WINDOW)
    @rule()
    def publish(self) -> None:
        self.publisher.publish(message(self.sent))
        self.sent += 1

    @precondition(lambda self: self.session and self.session.open())
    @rule(data=st.data(), error=st.sampled_from([None, None, FORBIDDEN]))
    def answer(self, data: st.DataObject, error: Exception | None) -> None:
        assert self.session
        call = data.draw(st.sampled_from(self.session.open()))
        call.answer(error)
        self.settled.add(int(call.payload))

    @precondition(lambda self: self.session)
    @rule(told_first=st.booleans())
    def lose(self, told_first: bool) -> None:
        assert self.session
        if told_first:
            self.publisher.detach()
        self.session.break_off()
        if not told_first:
            self.publisher.detach()
        self.session = None

    @precondition(lambda self: self.session and self.session.open())
    @rule()
    def lose_a_stream(self) -> None:
        assert self.session
        self.session.open()[-1].answer(BROKEN)  # the rest of the connection follows
        self.lose(told_first=False)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        held = len(self.publisher._in_flight) + len(self.publisher._again)
        assert self.publisher.published + self.publisher.failed + held == self.sent
        assert self.publisher.drain(0) == (held == 0)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_in_any_order_of_events_no_message_is_forgotten_or_overtaken = AnyOrder.TestCase


# Over the real SDK.

ACCESS = {"aws.greengrass.ipc.pubsub": {"all": {"operations": ["*"], "resources": ["test/*"]}}}


class Local:
    """A nucleus stand-in, a way to connect to it, and what it carried."""

    def __init__(self, nucleus: BackgroundNucleus) -> None:
        self.nucleus = nucleus
        self.tap = nucleus.watch(TOPIC)
        self.connector = Connector(nucleus.credentials("com.example.Test", ACCESS))
        self.sessions: list[Session] = []

    def connect(self, publisher: LocalPublisher) -> Session:
        session = self.connector.open(lambda _: None)
        self.sessions.append(session)
        publisher.attach(session)
        return session


@pytest.fixture(params=["lite", "classic"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Local]:
    with BackgroundNucleus(tmp_path / "nucleus", request.param) as nucleus:
        local = Local(nucleus)
        yield local
        for session in local.sessions:
            session.close()


def test_over_the_sdk_messages_arrive_in_order_as_binary(real: Local, publisher: LocalPublisher) -> None:
    real.connect(publisher)
    for number in range(100):
        publisher.publish(message(number))
    assert publisher.drain(SECONDS)
    arrived = real.tap.take(100)
    assert [int(each.payload) for each in arrived] == list(range(100))
    assert {each.kind for each in arrived} == {"binary"}
    assert publisher.published == 100


def test_over_the_sdk_a_topic_outside_the_recipe_is_a_failure_and_no_more(
    real: Local, publisher: LocalPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    real.connect(publisher)
    publisher.publish(Message("elsewhere", b"0"))
    publisher.publish(message(1))
    assert publisher.drain(SECONDS)
    assert (publisher.published, publisher.failed) == (1, 1)
    assert "to 'elsewhere': UnauthorizedError" in caplog.text


def test_over_the_sdk_nothing_is_missing_and_order_is_kept_after_connections_broke(
    real: Local, publisher: LocalPublisher
) -> None:
    def publish() -> None:
        for number in range(300):
            publisher.publish(message(number))

    thread = in_background(publish)
    for done in (50, 120, 200):
        session = real.connect(publisher)
        until(lambda done=done: publisher.published > done)  # type: ignore[misc]
        real.nucleus.faults.drop_connections()
        assert session.lost.wait(SECONDS)
        publisher.detach()
    real.connect(publisher)
    thread.join(SECONDS)
    assert publisher.drain(SECONDS)
    assert (publisher.published, publisher.failed) == (300, 0)
    arrived: list[int] = []
    while 299 not in arrived:
        arrived.append(int(real.tap.get(SECONDS).payload))
    assert sorted(set(arrived)) == list(range(300))
    # A repeat begins with the oldest message without an answer and goes on from there.
    assert list(dict.fromkeys(arrived)) == list(range(300))


def test_over_the_sdk_a_frame_that_lite_does_not_carry_costs_only_itself(tmp_path: Path) -> None:
    publisher = LocalPublisher(time.monotonic)
    with BackgroundNucleus(tmp_path / "nucleus", "lite") as nucleus:
        local = Local(nucleus)
        session = local.connect(publisher)
        publisher.publish(message(1))
        publisher.publish(Message(TOPIC, bytes(9_000)))
        publisher.publish(message(2))
        for _ in range(MAX_LOST_CONNECTIONS):
            assert session.lost.wait(SECONDS)
            publisher.detach()
            session = local.connect(publisher)
        publisher.publish(message(3))
        assert publisher.drain(SECONDS)
        assert (publisher.published, publisher.failed) == (3, 1)
        session.close()
