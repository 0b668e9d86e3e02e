"""The cloud out of reach: nothing waits for it, nothing is lost for it, and the books say what is where."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import Nucleus
from ml_inference.delivery.outbox.file import PAGE_BYTES
from ml_inference.delivery.outbox.outbox import Outbox
from support.clocks import until
from support.line import NAME, Line
from support.models import ABNORMAL, NORMAL

MakeLine = Callable[..., Line]


def send(line: Line, first: int, after: int) -> None:
    line.send_all(NORMAL | {"correlation_id": number} for number in range(first, after))


def numbers(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["correlation_id"] for message in messages]


def cut_off(line: Line) -> None:
    """Let the nucleus refuse everything for the cloud: lite does so offline, classic when its spool is full."""
    faults = line.nucleus.faults
    if line.nucleus.nucleus.profile.spool is None:
        faults.cloud_offline()
    else:
        faults.spool_full()


def outbox_file(line: Line) -> Path:
    return line.work / "outbox" / "outbox.sqlite"


def until_on_disk(line: Line, last: int) -> None:
    """Wait until the result of that number is in the outbox's write-ahead log, and committed."""
    log = outbox_file(line).with_name("outbox.sqlite-wal")
    frame = 24 + PAGE_BYTES  # https://www.sqlite.org/fileformat2.html#walformat

    def is_committed() -> bool:
        data = log.read_bytes() if log.exists() else b""
        ends_in_commit = any(data[32 + (len(data) - 32) // frame * frame - frame :][4:8])
        return f'"correlation_id":{last},'.encode() in data and ends_in_commit

    until(is_committed, "nothing was written to disk")


def leave_in_outbox(line: Line, count: int) -> None:
    """Score so many readings while the cloud is cut off, and stop."""
    cut_off(line)
    send(line, 0, count)
    line.results.take(count)
    cloud = line.finish()["cloud"]
    assert (cloud["waiting"], cloud["delivered"]) == (count, 0)
    line.nucleus.faults.clear()


def test_results_wait_in_the_outbox_and_follow_in_order_while_new_ones_go_first(make_line: MakeLine) -> None:
    line = make_line(HealthIntervalSeconds=1)
    cut_off(line)
    send(line, 0, 40)
    assert numbers(line.results.take(40)) == list(range(40))
    health = line.health.until(lambda health: health["cloud"]["offline"])
    assert health["cloud"]["waiting"] == 40
    assert "ServiceError" in health["problems"]["cloud"]
    until_on_disk(line, 39)
    line.nucleus.faults.clear()
    first = line.cloud.next()
    send(line, 40, 41)
    messages = [first, *line.cloud.take(40)]
    order = numbers(messages)
    assert order.index(40) < 35  # ahead of the last that waited
    assert [number for number in order if number != 40] == list(range(40))
    assert len({message["id"] for message in messages}) == 41
    health = line.finish()
    assert health["cloud"] == {
        "delivered": 41,
        "waiting": 0,
        "expired": 0,
        "unwanted": 0,
        "carried_over": 0,
        "offline": False,
    }
    assert "cloud" not in health["problems"]


@pytest.mark.parametrize("profile", ["classic"])
def test_what_is_scored_while_the_classic_nucleus_is_offline_survives_its_restart(make_line: MakeLine) -> None:
    line = make_line(HealthIntervalSeconds=1)
    send(line, 0, 5)
    line.cloud.take(5)
    line.nucleus.faults.cloud_offline()
    send(line, 5, 105)
    health = line.health.until(lambda health: health["cloud"]["offline"] and health["counters"]["scored"] == 105)
    assert "offline" in health["problems"]["cloud"]
    cloud = line.finish()["cloud"]
    assert cloud["delivered"] <= 5
    assert cloud["waiting"] >= 100
    assert line.log.read_text().count("out of reach") == 1
    line.nucleus.call(restart)
    line.nucleus.faults.cloud_online()
    line.start(HealthIntervalSeconds=1)
    line.health.until(lambda health: health["cloud"]["waiting"] == 0)
    line.finish()
    assert set(numbers(line.in_cloud())) == set(range(105))


async def restart(nucleus: Nucleus) -> None:
    """End the classic nucleus's spool, which is in memory."""
    nucleus.iot_core.restart()


@pytest.mark.parametrize("profile", ["lite"])
@pytest.mark.parametrize("fault", ["small window", "no acknowledgements"])
def test_what_does_not_fit_into_the_window_waits_its_turn_and_arrives(make_line: MakeLine, fault: str) -> None:
    line = make_line(HealthIntervalSeconds=1)
    if fault == "small window":
        line.nucleus.faults.qos1_window(2)  # others on the device use the rest
    else:
        line.nucleus.faults.withhold_acknowledgements()
    send(line, 0, 30)
    line.results.take(30)
    if fault == "no acknowledgements":
        line.cloud.take(10)
        line.nucleus.faults.withhold_acknowledgements(withhold=False)
    line.health.until(lambda health: health["cloud"]["delivered"] == 30)
    assert line.finish()["cloud"]["delivered"] == 30
    sent = Counter(message["id"] for message in line.in_cloud())
    assert len(sent) == 30
    # Again goes what may have been lost, with the same id.
    assert max(sent.values()) <= 2


@pytest.mark.parametrize("profile", ["lite"])
def test_what_is_never_answered_is_sent_again_with_the_same_id(make_line: MakeLine) -> None:
    line = make_line(timing={"cloud": 0.3})
    line.nucleus.faults.answer_never("PublishToIoTCore", NAME, times=3, carried_out=True)
    send(line, 0, 3)
    # On a busy machine the first may be sent again, even twice, before the last has been sent at all.
    assert len({message["id"] for message in line.cloud.take(6)}) == 3
    assert line.finish()["cloud"]["delivered"] == 3


@pytest.mark.parametrize("profile", ["lite"])
def test_a_full_outbox_gives_up_the_oldest_normal_results_before_any_alarm_and_counts_them(make_line: MakeLine) -> None:
    line = make_line(OutboxMaxMegabytes=1, HealthIntervalSeconds=1)
    cut_off(line)
    line.send_all([ABNORMAL | {"correlation_id": number} for number in range(5)])
    batches = 300
    line.send_all({"readings": [NORMAL] * 20, "correlation_id": number} for number in range(batches))
    line.results.take(5 + batches)
    cloud = line.finish()["cloud"]
    assert cloud["delivered"] == 0
    assert cloud["waiting"] + cloud["expired"] == 5 + 20 * batches
    assert sum(path.stat().st_size for path in outbox_file(line).parent.iterdir()) <= 1_000_000
    outbox = Outbox(outbox_file(line), max_bytes=1_000_000)
    kept = [stored.message for stored in outbox.peek(1000)]
    outbox.close()
    assert sum(message.weight for message in kept) == cloud["waiting"]
    assert [message.alarm for message in kept] == [True] * 5 + [False] * (len(kept) - 5)
    last = (cloud["waiting"] - 5) // 20
    assert last > 50
    assert [
        f'"correlation_id":{number}'.encode() in kept[5 + place].payload
        for place, number in enumerate(range(batches - last, batches))
    ] == [True] * last


@pytest.mark.parametrize("profile", ["lite"])
def test_without_an_outbox_what_cannot_be_delivered_expires_and_is_counted(make_line: MakeLine) -> None:
    line = make_line(OutboxMaxMegabytes=0)
    cut_off(line)
    send(line, 0, 20)
    line.results.take(20)
    assert line.finish()["cloud"]["expired"] == 20
    assert not outbox_file(line).exists()


def test_what_waited_when_it_was_stopped_is_delivered_after_the_next_start(line: Line) -> None:
    leave_in_outbox(line, 20)
    line.start()
    messages = line.cloud.take(20)
    assert numbers(messages) == list(range(20))
    assert len({message["id"] for message in messages}) == 20
    send(line, 20, 21)
    line.cloud.next()
    cloud = line.finish()["cloud"]
    assert (cloud["carried_over"], cloud["delivered"], cloud["waiting"]) == (20, 21, 0)


@pytest.mark.parametrize("profile", ["lite"])
def test_a_part_of_a_batch_with_nothing_but_rejected_readings_is_delivered_like_the_others(line: Line) -> None:
    cut_off(line)
    line.send_json({"readings": [NORMAL, *[{}] * 60], "correlation_id": "batch"})
    parts = line.results.next()["parts"]
    assert parts > 1
    assert line.finish()["cloud"]["waiting"] == 1
    line.nucleus.faults.clear()
    line.start()
    # What was taken before the first refusal goes again, with the same id.
    until(lambda: len({message["id"] for message in line.in_cloud()}) == parts, "some are missing")
    arrived = {message["id"]: message["part"] for message in line.in_cloud()}
    assert list(arrived.values()) == list(range(1, parts + 1))


@pytest.mark.parametrize("profile", ["lite"])
def test_what_waits_survives_kill_9(line: Line) -> None:
    cut_off(line)
    send(line, 0, 20)
    line.results.take(20)
    until_on_disk(line, 19)
    line.kill()
    line.nucleus.faults.clear()
    line.start()
    arrived = line.cloud.take(20)
    assert numbers(arrived) == list(range(20))
    send(line, 20, 21)
    arrived.append(line.cloud.next())
    assert [message["sequence"] for message in arrived] == list(range(1, 22))
    cloud = line.finish()["cloud"]
    assert (cloud["carried_over"], cloud["delivered"]) == (20, 21)
    assert line.cloud.here() == []


@pytest.mark.parametrize("profile", ["lite"])
def test_what_kill_9_costs_is_said_and_shows_as_a_gap(line: Line) -> None:
    cut_off(line)
    send(line, 0, 20)
    line.results.take(20)
    until_on_disk(line, 19)
    send(line, 20, 25)
    line.results.take(5)
    line.kill()  # within the 0.2 s, as a rule
    line.nucleus.faults.clear()
    line.start(HealthIntervalSeconds=1)
    send(line, 25, 26)
    line.results.next()
    health = line.health.until(lambda health: health["cloud"]["waiting"] == 0 and health["counters"]["scored"] == 1)
    arrived = {message["correlation_id"]: message["sequence"] for message in line.in_cloud()}
    assert arrived == {number: number + 1 for number in arrived}
    assert arrived.keys() >= {*range(20), 25}
    missing = 26 - len(arrived)
    assert missing <= health["cloud"].get("lost", 0) <= 5
    assert line.says("the process before was killed") or not missing


@pytest.mark.parametrize("profile", ["lite"])
@pytest.mark.parametrize("damage", ["some bytes", "everything"])
def test_with_a_damaged_outbox_it_starts_and_says_what_is_lost(line: Line, damage: str) -> None:
    leave_in_outbox(line, 200)
    path = outbox_file(line)
    data = bytearray(path.read_bytes())
    hurt = range(20_000, 24_000) if damage == "some bytes" else range(len(data))
    data[hurt.start : hurt.stop] = os.urandom(len(hurt))
    path.write_bytes(data)
    line.start(HealthIntervalSeconds=1)
    health = line.health.until(lambda health: "outbox" in health["problems"])
    assert "was damaged" in health["problems"]["outbox"]
    send(line, 200, 201)
    arrived = set(numbers([line.cloud.until(lambda message: message["correlation_id"] == 200)])) | set()
    line.health.until(lambda health: health["cloud"]["waiting"] == 0)
    arrived |= set(numbers(line.in_cloud()))
    cloud = line.finish()["cloud"]
    assert cloud["delivered"] == len(arrived)
    assert cloud["carried_over"] + 1 == cloud["delivered"] + cloud["expired"]
    if damage == "some bytes":
        assert 150 < cloud["delivered"] < 201
        assert cloud["carried_over"] == 200
    assert path.with_name("outbox.sqlite.broken").exists()


@pytest.mark.parametrize("profile", ["lite"])
def test_what_the_nucleus_had_not_confirmed_when_it_was_stopped_is_delivered_after_the_next_start(line: Line) -> None:
    line.nucleus.faults.answer_never("PublishToIoTCore", NAME)
    send(line, 0, 15)
    line.results.take(15)
    cloud = line.finish()["cloud"]
    assert (cloud["waiting"], cloud["delivered"]) == (15, 0)
    line.nucleus.faults.clear()
    line.start()
    assert numbers(line.cloud.take(15)) == list(range(15))


@pytest.mark.parametrize("profile", ["lite"])
def test_nobody_else_on_the_device_can_read_what_waits(line: Line) -> None:
    cut_off(line)
    send(line, 0, 5)
    line.results.take(5)
    until_on_disk(line, 4)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in outbox_file(line).parent.iterdir()}
    assert modes
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(outbox_file(line).parent.stat().st_mode) == 0o700
