from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_inference.delivery.pacing import (
    BURST,
    DECREASE,
    FIRST_PAUSE,
    FIRST_RATE,
    GROWTH,
    LONGEST_PAUSE,
    LONGEST_STEP,
    MAXIMUM_RATE,
    MINIMUM_RATE,
    OFFLINE_PAUSE,
    REPEATED_DECREASE,
    Pacer,
)
from support.clocks import Clock, LongestPauses


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacer(clock: Clock) -> Pacer:
    return Pacer(clock, LongestPauses())


def go(pacer: Pacer, clock: Clock) -> float:
    """Wait as long as it says, send one, and say when."""
    clock.moment += pacer.wait() + 1e-9
    assert pacer.wait() == pytest.approx(0, abs=1e-6)
    pacer.sent()
    return clock.moment


def test_after_a_short_burst_messages_go_at_the_rate(pacer: Pacer, clock: Clock) -> None:
    began = clock.moment
    moments = [go(pacer, clock) - began for _ in range(int(BURST) + 50)]
    assert moments[int(BURST) - 1] == pytest.approx(0, abs=1e-6)
    assert moments[-1] == pytest.approx(50 / FIRST_RATE, rel=1e-6)


def test_a_long_silence_does_not_add_to_the_burst(pacer: Pacer, clock: Clock) -> None:
    clock.moment += 3_600
    for _ in range(int(BURST)):
        assert pacer.wait() == 0
        pacer.sent()
    assert pacer.wait() == pytest.approx(1 / FIRST_RATE)


def play(pacer: Pacer, clock: Clock, seconds: float, *, limit: float = inf) -> None:
    """Send as fast as it lets, and not faster than a limit; each message is taken."""
    until, free = clock.moment + seconds, clock.moment
    while clock.moment < until:
        clock.moment = max(clock.moment + pacer.wait() + 1e-9, free)
        free = clock.moment + 1 / limit
        pacer.sent()
        pacer.succeeded()


def test_it_grows_with_the_cube_of_time_up_to_a_limit(pacer: Pacer, clock: Clock) -> None:
    play(pacer, clock, 2.0)
    assert pacer.rate == pytest.approx(FIRST_RATE + GROWTH * 2**3, rel=0.1)
    play(pacer, clock, 10.0)
    assert pacer.rate == MAXIMUM_RATE


def test_a_pace_that_nobody_uses_does_not_grow(pacer: Pacer, clock: Clock) -> None:
    play(pacer, clock, 100.0, limit=FIRST_RATE / 2)
    assert pacer.rate == FIRST_RATE
    clock.moment += 3_600
    for _ in range(int(BURST) + 1):
        go(pacer, clock)
        pacer.succeeded()
    assert pacer.rate < FIRST_RATE + 1


def test_after_one_refusal_it_is_soon_back_where_it_was_refused_and_stays_there_for_a_while(
    pacer: Pacer, clock: Clock
) -> None:
    play(pacer, clock, 2.0)
    refused_at = pacer.rate
    pacer.refused()
    assert pacer.rate == pytest.approx(DECREASE * refused_at)
    back = (refused_at * (1 - DECREASE) / GROWTH) ** (1 / 3)
    play(pacer, clock, back)
    assert pacer.rate == pytest.approx(refused_at, rel=0.01)
    play(pacer, clock, back / 2)
    assert pacer.rate == pytest.approx(refused_at, rel=0.01)
    play(pacer, clock, 2 * back)
    assert pacer.rate > 1.1 * refused_at


def test_each_further_refusal_in_a_row_takes_more_down_to_a_limit(pacer: Pacer, clock: Clock) -> None:
    pacer.refused()
    go(pacer, clock)
    pacer.refused()
    assert pacer.rate == pytest.approx(FIRST_RATE * DECREASE * REPEATED_DECREASE)
    for _ in range(10):
        clock.moment += 100
        pacer.refused()
    assert pacer.rate == MINIMUM_RATE


def test_refusals_of_what_was_on_its_way_count_once(pacer: Pacer) -> None:
    for _ in range(int(BURST) - 1):
        pacer.sent()
    for _ in range(int(BURST) - 1):
        pacer.refused()
    assert pacer.rate == FIRST_RATE * DECREASE
    assert pacer.wait() == pytest.approx(FIRST_PAUSE)


def test_after_a_refusal_one_message_goes_and_the_others_wait_for_its_answer(pacer: Pacer, clock: Clock) -> None:
    pacer.refused()
    go(pacer, clock)
    assert pacer.wait() == inf
    pacer.succeeded()
    assert pacer.wait() == 0


def test_the_pause_doubles_while_nothing_goes_through_and_ends_with_the_first_success(
    pacer: Pacer, clock: Clock
) -> None:
    pauses = []
    for _ in range(15):
        pacer.refused()
        pauses.append(pacer.wait())
        go(pacer, clock)
    assert pauses == pytest.approx([min(LONGEST_PAUSE, FIRST_PAUSE * 2**number) for number in range(15)])
    pacer.succeeded()
    assert not pacer.offline
    pacer.refused()
    assert pacer.wait() == pytest.approx(FIRST_PAUSE)


def test_it_calls_the_cloud_offline_after_more_than_a_second_of_refusals(pacer: Pacer, clock: Clock) -> None:
    began = clock.moment
    while not pacer.offline:
        go(pacer, clock)
        pacer.refused()
    assert OFFLINE_PAUSE < clock.moment - began < 2 * OFFLINE_PAUSE
    go(pacer, clock)
    pacer.succeeded()
    assert not pacer.offline


def test_pauses_of_many_devices_differ(clock: Clock) -> None:
    waits = set()
    for seed in range(20):
        pacer = Pacer(clock, Random(seed))
        pacer.refused()
        waits.add(pacer.wait())
    assert len(waits) == 20
    assert min(waits) >= FIRST_PAUSE / 2
    assert max(waits) <= FIRST_PAUSE


def test_something_new_ends_a_pause_and_a_wait_for_an_answer(pacer: Pacer, clock: Clock) -> None:
    for _ in range(13):
        clock.moment += 100
        pacer.refused()
    assert pacer.wait() > 20
    pacer.retry_now()
    assert pacer.wait() == 0
    pacer.sent()
    assert pacer.wait() == inf
    pacer.retry_now()
    assert pacer.wait() == 0
    assert pacer.offline


def test_an_answer_that_says_nothing_about_the_way_ends_the_wait_for_it_and_nothing_else(
    pacer: Pacer, clock: Clock
) -> None:
    pacer.refused()
    rate = pacer.rate
    go(pacer, clock)
    pacer.inconclusive()
    assert pacer.wait() < 1
    assert pacer.rate == rate
    pacer.sent()
    assert pacer.wait() == inf


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["succeeded", "refused", "inconclusive", "retry_now", "wait"]), st.floats(0, 100))
    )
)
def test_as_soon_as_every_message_is_answered_the_wait_has_an_end(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    pacer = Pacer(clock, LongestPauses())
    on_the_way = 0
    for step, seconds in steps:
        clock.moment += seconds
        if step == "retry_now":
            pacer.retry_now()
        elif step == "wait":
            if pacer.wait() == 0:
                pacer.sent()
                on_the_way += 1
        elif on_the_way:
            getattr(pacer, step)()
            on_the_way -= 1
        assert MINIMUM_RATE <= pacer.rate <= MAXIMUM_RATE
        assert on_the_way or pacer.wait() <= LONGEST_PAUSE


def test_a_long_wait_for_an_answer_counts_as_little_growth(pacer: Pacer, clock: Clock) -> None:
    for _ in range(int(BURST) + 1):
        go(pacer, clock)  # the pace is made use of
    before = pacer.rate
    clock.moment += 3.0
    pacer.succeeded()
    assert LONGEST_STEP <= 0.1
    assert pacer.rate - before <= GROWTH * LONGEST_STEP**3 + 1e-9
