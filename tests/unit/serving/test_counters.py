from __future__ import annotations

from threading import Event, Thread

from hypothesis import given
from hypothesis import strategies as st

from ml_inference.serving.counters import Counters, Counts


def holds(counts: Counts) -> bool:
    return counts.received == counts.scored + counts.rejected + counts.dropped + counts.queued


@given(
    steps=st.lists(
        st.one_of(
            st.just("arrived"),
            st.integers(1, 3),
            st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: sum(pair) > 0),
        )
    )
)
def test_both_sides_are_equal_after_every_change(steps: list[str | int | tuple[int, int]]) -> None:
    counters = Counters()
    for step in steps:
        if isinstance(step, str):
            counters.arrived()
        elif isinstance(step, int):
            counters.dropped(step)
        else:
            counters.finished(scored=step[0], rejected=step[1])
        assert holds(counters.snapshot())


def test_a_message_counts_as_one_reading_until_it_is_taken_apart() -> None:
    counters = Counters()
    counters.arrived()
    assert counters.snapshot() == Counts(received=1, queued=1)
    counters.finished(scored=30, rejected=2)
    assert counters.snapshot() == Counts(received=32, scored=30, rejected=2)


def test_a_snapshot_taken_while_others_count_is_of_one_moment() -> None:
    counters, stop = Counters(), Event()

    def work() -> None:
        while not stop.is_set():
            counters.arrived()
            counters.arrived()
            counters.dropped()
            counters.finished(scored=3, rejected=1)

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(holds(counters.snapshot()) for _ in range(5_000))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_whoever_holds_the_lock_may_count_and_sees_nobody_elses_changes() -> None:
    counters = Counters()
    other = Thread(target=counters.arrived)
    with counters.lock:
        counters.arrived()
        other.start()
        other.join(0.05)
        assert other.is_alive()
        assert counters.snapshot().received == 1
    other.join()
    assert counters.snapshot().received == 2


def test_counts_go_over_the_wire_by_name() -> None:
    assert Counts(5, 1, 1, 1, 2).as_message() == {"received": 5, "scored": 1, "rejected": 1, "dropped": 1, "queued": 2}


def test_at_the_end_what_is_still_being_scored_is_dropped_and_counted() -> None:
    counters = Counters()
    for _ in range(3):
        counters.arrived()
    counters.finished(scored=10, rejected=0)
    assert counters.end() == 2
    assert counters.over
    assert counters.snapshot() == Counts(received=12, scored=10, dropped=2)
