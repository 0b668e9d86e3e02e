from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from ml_inference.greengrass.listener import Listener
from ml_inference.greengrass.session import Session
from ml_inference.limits import CALL_SECONDS
from support.sessions import FORBIDDEN, FakeSession

TOPIC = "line/+/telemetry"
SILENCE, PATIENCE = 5.0, 2.0


class FakeSubscription:
    def __init__(self, topic: str, hear: Callable[[bytes], None]) -> None:
        self.topic = topic
        self.hear = hear
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Subscribing(FakeSession):
    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: list[FakeSubscription] = []

    def subscribe(
        self, topic: str, on_payload: Callable[[bytes], None], on_begin: Callable[[], None]
    ) -> FakeSubscription:
        self.subscriptions.append(FakeSubscription(topic, on_payload))
        on_begin()
        self.between()
        return self.subscriptions[-1]

    def between(self) -> None:
        """What comes after the nucleus has answered, and before the caller goes on."""


class Bench:
    """A listener on a clock and a nucleus that are the test's."""

    def __init__(self) -> None:
        self.moment = 100.0
        self.heard: list[bytes] = []
        self.session = Subscribing()
        self.listener = Listener(self.heard.append, monotonic=lambda: self.moment, silence=SILENCE, patience=PATIENCE)
        self.listener.listen(cast("Session", self.session), TOPIC)

    def after(self, seconds: float) -> Bench:
        self.moment += seconds
        self.listener.check()
        return self

    @property
    def subscribed(self) -> int:
        return len(self.session.subscriptions)

    def hear(self, payload: bytes) -> None:
        self.session.subscriptions[-1].hear(payload)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_while_messages_come_it_says_nothing(bench: Bench) -> None:
    for _ in range(5):
        bench.hear(b"{}")
        bench.after(SILENCE)
    assert bench.session.calls == []
    assert bench.heard == [b"{}"] * 5


def test_after_a_silence_it_says_one_thing_on_the_topic_and_hearing_that_is_proof(bench: Bench) -> None:
    bench.after(SILENCE + 0.1).after(0.1)
    [call] = bench.session.calls
    assert call.topic == "line/heartbeat/telemetry"
    call.answer()
    bench.hear(call.payload)
    bench.after(SILENCE - 0.1)
    assert (bench.subscribed, len(bench.session.calls), bench.heard) == (1, 1, [])


def test_what_the_nucleus_took_and_did_not_bring_back_shows_that_the_subscription_is_dead(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.after(SILENCE + 0.1)
    bench.session.calls[0].answer()
    bench.after(PATIENCE)
    assert bench.subscribed == 1
    with caplog.at_level(logging.WARNING):
        bench.after(0.1)
    assert bench.subscribed == 2
    assert bench.session.subscriptions[0].closed
    assert "died in silence" in caplog.text
    bench.hear(b"{}")
    assert bench.heard == [b"{}"]


def test_a_nucleus_that_is_stalled_is_waited_for(bench: Bench) -> None:
    bench.after(SILENCE + 0.1).after(CALL_SECONDS - 0.1)
    assert bench.subscribed == 1
    bench.session.calls[0].answer()
    bench.after(PATIENCE - 0.1)
    assert bench.subscribed == 1
    bench.hear(bench.session.calls[0].payload)
    bench.after(PATIENCE)
    assert bench.subscribed == 1


def test_but_not_for_ever(bench: Bench) -> None:
    bench.after(SILENCE + 0.1).after(CALL_SECONDS + 0.1)
    assert bench.subscribed == 2


def test_where_it_may_not_say_anything_it_does_not_try_again(bench: Bench) -> None:
    bench.after(SILENCE + 0.1)
    bench.session.calls[0].answer(FORBIDDEN)
    bench.after(100.0).after(100.0)
    assert (bench.subscribed, len(bench.session.calls)) == (1, 1)


def test_without_a_session_it_has_nothing_to_check(bench: Bench) -> None:
    bench.listener.forget()
    bench.after(100.0)
    assert (bench.session.calls, bench.listener.topic) == ([], None)


def test_a_message_that_two_subscriptions_get_counts_once(bench: Bench) -> None:
    bench.listener.listen(cast("Session", bench.session), "other/topic")
    for subscription in bench.session.subscriptions:
        subscription.hear(b"{}")
    assert bench.heard == [b"{}"]


def test_a_message_that_comes_right_behind_the_answer_is_heard_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message_to_both() -> None:
        for subscription in bench.session.subscriptions:
            subscription.hear(b"{}")

    monkeypatch.setattr(bench.session, "between", message_to_both)
    bench.listener.listen(cast("Session", bench.session), TOPIC)
    assert bench.heard == [b"{}"]


def test_a_refused_topic_leaves_the_one_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise FORBIDDEN

    monkeypatch.setattr(bench.session, "subscribe", refuse)
    with pytest.raises(type(FORBIDDEN)):
        bench.listener.listen(cast("Session", bench.session), "forbidden")
    bench.hear(b"{}")
    assert (bench.listener.topic, bench.heard) == (TOPIC, [b"{}"])
