"""SIGTERM at any moment: the process ends with 0 within 4 seconds, and what it holds is where the books say."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_inference.delivery.outbox.outbox import Outbox
from ml_inference.delivery.window import WINDOW
from ml_inference.serving.worker import TOGETHER
from support.clocks import until
from support.line import NAME, STOP_SECONDS, Line
from support.models import NORMAL

MakeLine = Callable[..., Line]
REAL = ("-m", "ml_inference", "run")


def can_be_stopped(line: Line) -> bool:
    """Whether the process catches SIGTERM by now; before that it is Python's own start that is stopped."""
    assert line.process is not None
    status = Path(f"/proc/{line.process.pid}/status").read_text()
    caught = next(row for row in status.splitlines() if row.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def last_counts(line: Line) -> dict[str, int]:
    """What the component logged last; a nucleus that does not answer gets no health message."""
    row = next(row for row in reversed(line.log.read_text().splitlines()) if "stopped: {" in row)
    counts: dict[str, int] = json.loads(row[row.index("{") :])["counters"]
    return counts


def kept_ids(line: Line) -> set[str]:
    """The ids in the outbox of a component that has stopped."""
    outbox = Outbox(line.work / "outbox" / "outbox.sqlite", max_bytes=64_000_000)
    try:
        return {stored.message.id for stored in outbox.peek(20_000)}
    finally:
        outbox.close()


MOMENTS: dict[str, Callable[[Line], Any]] = {
    "before its imports": can_be_stopped,
    "after its imports": lambda line: line.says("ml-inference"),
    "connected": lambda line: line.connections,
    "loaded": lambda line: line.says("is ready"),
    "listening": lambda line: line.subscriptions,
}


@pytest.mark.parametrize("profile", ["lite"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_during_its_start(make_line: MakeLine, moment: str) -> None:
    line = make_line(start=False)
    line.start(wait=False, command=REAL if moment == "before its imports" else None)
    until(lambda: can_be_stopped(line) and MOMENTS[moment](line), "it did not come so far")
    assert line.terminate() == 0


@pytest.mark.parametrize("profile", ["lite"])
@pytest.mark.parametrize("silent", ["connection", "GetConfiguration", "SubscribeToTopic"])
def test_during_its_start_while_the_nucleus_does_not_answer(make_line: MakeLine, silent: str) -> None:
    line = make_line(start=False)
    faults = line.nucleus.faults
    if silent == "connection":
        faults.stop_reading()
    else:
        faults.answer_never(silent, NAME)
    line.start(wait=False)
    until(lambda: line.says("ml-inference") and (silent == "connection" or line.connections), "it did not connect")
    if silent == "SubscribeToTopic":
        until(lambda: line.says("is ready"), "it did not load its model")
    assert line.terminate() == 0


def test_under_load_all_that_was_received_is_scored_and_delivered_or_kept(make_line: MakeLine, profile: str) -> None:
    line = make_line(command=REAL if profile == "lite" else None)
    line.send_all(NORMAL | {"correlation_id": number} for number in range(300))
    line.results.next()
    health = line.finish()
    counts, cloud = health["counters"], health["cloud"]
    assert counts["received"] == counts["scored"] == len(line.results.here()) + 1
    delivered = {message["id"] for message in line.in_cloud()}
    kept = kept_ids(line)
    assert len(kept) == cloud["waiting"] == counts["scored"] - cloud["delivered"]
    # What was on its way at the end is kept, too, as nobody knows whether it arrived.
    assert len(delivered | kept) == counts["scored"]
    assert len(delivered & kept) <= WINDOW


@pytest.mark.parametrize("profile", ["lite"])
def test_while_it_connects_again(make_line: MakeLine) -> None:
    line = make_line(timing={"connect": 1.0})
    line.send_json(NORMAL)
    line.cloud.next()
    line.nucleus.faults.stop_reading()
    line.nucleus.faults.drop_connections(NAME)
    until(lambda: line.says("connecting again"), "it did not notice the loss")
    assert line.terminate() == 0
    assert last_counts(line)["scored"] == 1


@pytest.mark.parametrize("profile", ["classic"])
def test_with_ten_thousand_messages_queued_and_a_nucleus_that_does_not_answer(line: Line) -> None:
    on_their_way = len(line.hold_up())
    line.send_all([NORMAL] * 10_000)
    line.configure(Threshold=0.6)  # comes after them
    assert line.health.next()["counters"]["received"] == on_their_way + 10_000
    assert line.terminate() == 0
    counts = last_counts(line)
    assert counts["queued"] == 0
    assert counts["received"] == counts["scored"] + counts["dropped"] == on_their_way + 10_000
    # And what the worker had taken out of the queue to score together.
    assert on_their_way <= counts["scored"] <= on_their_way + TOGETHER
    assert line.says("queued messages were dropped")
    assert line.says("local messages were not confirmed")
    # What was scored is in the cloud or waits for it, whatever became of the local results.
    delivered = {message["id"] for message in line.in_cloud()}
    assert len(delivered | kept_ids(line)) == counts["scored"]


@pytest.mark.parametrize("profile", ["lite"])
def test_with_ten_thousand_messages_queued_and_the_cloud_out_of_reach(line: Line) -> None:
    line.nucleus.faults.cloud_offline()
    line.send_all([NORMAL] * 10_000)
    line.configure(Threshold=0.6)  # comes after them
    line.health.next()
    health = line.finish()
    counts, cloud = health["counters"], health["cloud"]
    assert counts["received"] == 10_000
    assert len(kept_ids(line)) == cloud["waiting"] == counts["scored"]


@pytest.mark.parametrize("profile", ["lite"])
def test_a_hangup_ends_it_as_well(line: Line) -> None:
    assert line.process is not None
    line.process.send_signal(signal.SIGHUP)
    assert line.process.wait(STOP_SECONDS) == 0
    assert line.health.until(lambda health: health["state"] == "stopping")


@pytest.mark.parametrize("profile", ["lite"])
def test_a_second_signal_changes_nothing(line: Line) -> None:
    assert line.process is not None
    line.send_all([NORMAL] * 500)
    line.process.send_signal(signal.SIGTERM)
    assert line.terminate() == 0
    counts = line.health.until(lambda health: health["state"] == "stopping")["counters"]
    assert counts["received"] == counts["scored"]
