"""The connection to the nucleus: lost, refused, silent, late."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import psutil
import pytest

from support.clocks import until
from support.line import NAME, REQUEST, Line
from support.models import NORMAL

MakeLine = Callable[..., Line]


def numbered(first: int, after: int) -> Iterator[dict[str, Any]]:
    return (NORMAL | {"correlation_id": number} for number in range(first, after))


def numbers(results: list[dict[str, Any]]) -> list[Any]:
    return [result["correlation_id"] for result in results]


def connected_again(line: Line) -> dict[str, Any]:
    return line.health.until(lambda health: health["state"] == "running")


def test_a_lost_connection_is_opened_again_with_the_same_token_and_nothing_comes_twice(line: Line) -> None:
    line.send_all(numbered(0, 5))
    assert numbers(line.results.take(5)) == [0, 1, 2, 3, 4]
    assert line.nucleus.faults.drop_connections(NAME) == 1
    connected_again(line)
    assert (line.connections, line.subscriptions) == (1, [REQUEST])
    line.send_all(numbered(5, 10))
    assert numbers(line.results.take(5)) == [5, 6, 7, 8, 9]
    health = line.finish()
    assert (health["counters"]["received"], health["counters"]["scored"], health["cloud"]["delivered"]) == (10, 10, 10)
    assert line.results.here() == []
    # What was delivered when the connection broke, and not confirmed, comes again with its id.
    cloud: dict[str, Any] = {}
    while len(cloud) < 10:  # on lite the last ones are half a round trip away
        message = line.cloud.next()
        cloud[message["id"]] = message["correlation_id"]
    assert sorted(cloud.values()) == list(range(10))


@pytest.mark.parametrize("carried_out", [False, True], ids=["request lost", "answer lost"])
def test_results_on_their_way_when_the_connection_breaks_are_sent_again_before_newer_ones(
    line: Line, carried_out: bool
) -> None:
    line.nucleus.faults.answer_never("PublishToTopic", NAME, times=10, carried_out=carried_out)
    line.send_all(numbered(0, 10))
    line.until_faults_happened()
    if carried_out:
        assert numbers(line.results.take(10)) == list(range(10))
    line.nucleus.faults.drop_connections(NAME)
    connected_again(line)
    line.send_all(numbered(10, 12))
    assert numbers(line.results.take(12)) == list(range(12))
    health = line.finish()
    assert (health["counters"]["scored"], health["local"]["failed"]) == (12, 0)
    assert line.results.here() == []


@pytest.mark.parametrize("profile", ["lite"])
def test_results_for_the_cloud_on_their_way_when_the_connection_breaks_are_sent_again(line: Line) -> None:
    line.nucleus.faults.answer_never("PublishToIoTCore", NAME, times=5)
    line.send_all(numbered(0, 5))
    line.until_faults_happened()
    line.nucleus.faults.drop_connections(NAME)
    assert sorted(numbers(line.cloud.take(5))) == list(range(5))
    assert line.finish()["cloud"]["delivered"] == 5
    assert line.cloud.here() == []


def test_many_lost_connections_leave_nothing_behind(line: Line) -> None:
    assert line.process is not None
    process = psutil.Process(line.process.pid)

    def lose_and_find(times: int) -> tuple[int, int]:
        for _ in range(times):
            line.nucleus.faults.drop_connections(NAME)
            connected_again(line)
        return process.num_fds(), process.num_threads()

    before = lose_and_find(10)
    memory = process.memory_info().rss
    assert lose_and_find(30) == before
    assert process.memory_info().rss - memory < 1_000_000
    assert (line.connections, line.subscriptions) == (1, [REQUEST])
    line.send_all(numbered(0, 1))
    assert numbers(line.results.take(1)) == [0]


def test_a_token_that_is_refused_when_it_connects_again_ends_it_and_the_next_start_goes_on(line: Line) -> None:
    assert line.process is not None
    line.nucleus.faults.rotate_token(NAME)
    line.nucleus.faults.drop_connections(NAME)
    assert line.process.wait(20) == 75
    line.environment |= line.nucleus.credentials(NAME)
    line.start()
    line.send_all(numbered(0, 1))
    assert numbers(line.results.take(1)) == [0]


def test_one_refusal_may_be_a_nucleus_that_is_going_down(line: Line) -> None:
    line.nucleus.faults.refuse_tokens(NAME, times=1)
    line.nucleus.faults.drop_connections(NAME)
    connected_again(line)


@pytest.mark.parametrize("profile", ["lite"])
def test_without_a_nucleus_for_too_long_it_asks_for_a_restart(make_line: MakeLine) -> None:
    line = make_line(timing={"connect": 0.2, "reconnect_limit": 0.5})
    assert line.process is not None
    line.nucleus.faults.stop_reading()
    line.nucleus.faults.drop_connections(NAME)
    assert line.process.wait(20) == 75
    assert line.says("no connection to the nucleus for")


@pytest.mark.parametrize("profile", ["lite"])
@pytest.mark.parametrize(
    "operation", ["GetConfiguration", "SubscribeToConfigurationUpdate", "SubscribeToTopic", None], ids=str
)
def test_a_nucleus_that_does_not_answer_at_start_does_not_hold_it_up_for_ever(
    make_line: MakeLine, operation: str | None
) -> None:
    line = make_line(start=False)
    line.nucleus.faults.answer_never(operation, NAME, times=1)
    line.start(timing={"call": 0.3})
    line.send_all(numbered(0, 1))
    assert numbers(line.results.take(1)) == [0]
    assert line.subscriptions == [REQUEST]


@pytest.mark.parametrize("profile", ["lite"])
def test_late_answers_cost_nothing(line: Line) -> None:
    line.nucleus.faults.answer_late(0.3, "PublishToTopic", NAME, times=5)
    line.nucleus.faults.answer_late(0.3, "PublishToIoTCore", NAME, times=5)
    line.send_all(numbered(0, 10))
    # The nucleus carries them out late, too, so their order is its own.
    assert sorted(numbers(line.results.take(10))) == list(range(10))
    assert sorted(numbers(line.cloud.take(10))) == list(range(10))
    assert line.finish()["local"]["failed"] == 0
    assert (line.results.here(), line.cloud.here()) == ([], [])


@pytest.mark.parametrize("profile", ["lite"])
def test_an_answer_that_never_comes_among_others_that_do_means_a_new_connection_and_the_message_goes_again(
    make_line: MakeLine,
) -> None:
    line = make_line(timing={"stall": 0.5})
    line.nucleus.faults.answer_never("PublishToTopic", NAME, times=1)
    line.send_all(numbered(0, 1))
    line.until_faults_happened()
    numbering = count(1)

    def is_noticed() -> bool:
        line.send_all(numbered(number := next(numbering), number + 1))
        return line.says("the nucleus has not answered for 0.5 s")

    until(is_noticed, "the answer that is missing among the others was not missed")
    line.results.until(lambda result: result["correlation_id"] == 0)
    health = line.finish()
    assert (health["counters"]["scored"], health["local"]["failed"]) == (health["counters"]["received"], 0)


def test_a_nucleus_that_stops_reading_is_left_and_found_again(make_line: MakeLine) -> None:
    line = make_line(timing={"stall": 0.3, "call": 0.3})
    line.nucleus.faults.stop_reading(NAME)
    line.send_all(numbered(0, 100))
    until(lambda: line.log.read_text().count("connecting again") >= 2, "it did not give the connection up")
    line.nucleus.faults.resume_reading()
    connected_again(line)
    line.send_all(numbered(100, 101))
    results: dict[Any, None] = {}
    line.results.until(lambda result: results.update({result["correlation_id"]: None}) or 100 in results)
    assert list(results) == list(range(101))  # some twice: nobody knew whether the nucleus had them
    assert line.finish()["counters"]["scored"] == 101


@pytest.mark.parametrize("profile", ["lite"])
def test_an_event_before_the_answer_to_its_subscription_means_another_connection(line: Line) -> None:
    line.nucleus.faults.event_before_response(NAME, times=1, within=0.3)
    line.nucleus.faults.drop_connections(NAME)
    numbering = count()

    def has_been_confused() -> bool:
        line.send_json(NORMAL | {"correlation_id": next(numbering)})
        return line.says("UnmappedDataError")

    until(has_been_confused, "no event came before the response")
    connected_again(line)
    assert line.subscriptions == [REQUEST]
    line.send_json(NORMAL | {"correlation_id": "last"})
    line.results.until(lambda result: result["correlation_id"] == "last")


def test_a_subscription_that_dies_in_silence_is_found_and_replaced(make_line: MakeLine, profile: str) -> None:
    line = make_line(timing={"silence": 0.3, "patience": 0.3})
    if profile == "lite":
        line.send({f"key{number}": number for number in range(30)})  # more than the runtime can carry
    else:
        line.nucleus.faults.forget_streams(NAME, "SubscribeToTopic")
    assert line.subscriptions == []
    until(lambda: line.subscriptions == [REQUEST], "it did not subscribe again")
    line.send_all(numbered(0, 1))
    assert numbers(line.results.take(1)) == [0]


def test_a_subscription_that_has_to_stay_silent_is_proved_and_kept(make_line: MakeLine) -> None:
    line = make_line(timing={"silence": 0.1, "patience": 5.0})
    said = line.watch(REQUEST)
    said.take(3)
    assert not line.says("subscribing again")
    assert line.finish()["counters"]["received"] == 0


@pytest.mark.parametrize("profile", ["lite"])
def test_only_its_own_heartbeat_is_no_reading(make_line: MakeLine) -> None:
    line = make_line(timing={"silence": 0.1})
    own = line.watch(REQUEST).next()
    line.send(json.dumps(own, separators=(",", ":")).encode())
    line.send(b'{"heartbeat":"somebody else\'s"}')
    assert line.errors.next()["received"] == '{"heartbeat":"somebody else\'s"}'
    assert line.finish()["counters"]["received"] == 1


@pytest.mark.parametrize("profile", ["lite"])
def test_where_it_may_not_say_anything_on_its_input_topic_it_says_so_once_and_goes_on(make_line: MakeLine) -> None:
    line = make_line(start=False)
    policy = {"operations": ["aws.greengrass#SubscribeToTopic"], "resources": [REQUEST]}
    line.configure(accessControl={"aws.greengrass.ipc.pubsub": {f"{NAME}:pubsub:1": policy}})
    line.start(timing={"silence": 0.1, "patience": 0.1}, HealthIntervalSeconds=1)
    until(lambda: line.says("cannot watch over the subscription"), "it did not say so")
    line.health.here()
    line.health.take(2)  # a second or two, in which it could say it again
    line.send_all(numbered(0, 1))
    assert numbers(line.results.take(1)) == [0]
    assert line.log.read_text().count("cannot watch over the subscription") == 1
    assert not line.says("subscribing again")


@pytest.mark.parametrize("profile", ["lite"])
def test_another_component_that_does_not_read_slows_it_down_and_loses_nothing(line: Line) -> None:
    line.nucleus.faults.slow_consumer("ml/inference/result", after=2, seconds=0.1)
    line.send_all(numbered(0, 20))
    assert numbers(line.results.take(20)) == list(range(20))
    assert line.finish()["local"]["failed"] == 0
