"""Each fault verb, as the real SDK suffers it."""

from __future__ import annotations

import concurrent.futures
import json
import queue
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import StreamClosedError, UnmappedDataError
from awsiot.greengrasscoreipc import model

from greengrass_sandbox import BackgroundNucleus, StateChange
from greengrass_sandbox.codec import Frame, HeaderValue, encode

Connect = Callable[..., Any]
SHORT = 0.3
"""Seconds in which a local answer would have come many times over."""
LONG = 1.0
"""Seconds that even a busy machine does not need for a local answer."""


def connect_again(client: Any, environment: dict[str, str]) -> Any:
    again: Any = type(client)(environment)
    return again


def publish_to_cloud(client: Any, payload: bytes = b"x", qos: str = "1") -> None:
    client.call("publish_to_iot_core", topic_name="up", qos=qos, payload=payload)


def test_a_dropped_connection_is_lost_for_good_and_the_token_opens_a_new_one(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client, other = connect(nucleus), connect(nucleus, "com.example.Other")
    client.subscribe("in")
    assert nucleus.faults.drop_connections("com.example.Test") == 1
    assert client.lifecycle.lost.result(10) is not None
    other.publish("in", {})
    again = connect(nucleus)
    inbox = again.subscribe("in")
    nucleus.publish("in", {"a": 1})
    assert inbox.payload() == {"a": 1}
    assert nucleus.faults.drop_connections() == 2


def test_a_request_in_flight_fails_when_the_connection_drops(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    nucleus.faults.answer_never()
    waiting = client.start("get_configuration")
    nucleus.faults.drop_connections()
    with pytest.raises((StreamClosedError, AwsCrtError)):
        waiting.result(10)


def test_a_good_token_can_be_refused_some_times(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    environment = nucleus.credentials("com.example.Test")
    nucleus.faults.refuse_tokens("com.example.Test", times=2)
    connect(nucleus, "com.example.Other")
    for _ in range(2):
        with pytest.raises(AwsCrtError):
            connect_again(client, environment)
    connect_again(client, environment).close()


def test_a_rotated_token_is_worthless_for_new_connections_only(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    old = nucleus.credentials("com.example.Test")
    nucleus.faults.rotate_token("com.example.Test")
    assert client.call("get_configuration").value
    with pytest.raises(AwsCrtError):
        connect_again(client, old)
    new = nucleus.credentials("com.example.Test")
    assert new["SVCUID"] != old["SVCUID"]
    connect_again(client, new).close()


def test_a_component_gets_the_rotated_token_at_its_next_start(
    nucleus: BackgroundNucleus, component_files: Callable[..., Any]
) -> None:
    component = nucleus.deploy(component_files(run="'echo $SVCUID; exec sleep 60'"))
    nucleus.faults.rotate_token()
    component.restart()
    component.stop()
    events = nucleus.events()
    component.start()
    token = ""
    while not token:
        event = events.get()
        token = "" if isinstance(event, StateChange) else event.line
    assert token == nucleus.credentials(component.name)["SVCUID"]


def test_a_request_can_stay_without_answer(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client, tap = connect(nucleus), nucleus.watch("in")
    nucleus.faults.answer_never("PublishToTopic", times=1)
    lost = client.start_publish("in", {"n": 1})
    client.publish("in", {"n": 2})
    assert tap.get().json() == {"n": 2}
    assert client.call("get_configuration").value
    with pytest.raises(concurrent.futures.TimeoutError):
        lost.result(SHORT)


def test_only_the_answer_can_be_lost(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client, tap = connect(nucleus), nucleus.watch("in")
    nucleus.faults.answer_never("PublishToTopic", "com.example.Test", carried_out=True)
    unanswered = client.start_publish("in", {"n": 1})
    assert tap.get().json() == {"n": 1}
    with pytest.raises(concurrent.futures.TimeoutError):
        unanswered.result(SHORT)
    nucleus.faults.clear()
    client.publish("in", {"n": 2})


def test_a_late_answer_is_overtaken(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client, tap = connect(nucleus), nucleus.watch("in")
    nucleus.faults.answer_late(SHORT, "PublishToTopic", times=1)
    begun = time.monotonic()
    late = client.start_publish("in", "late")
    client.publish("in", "in time")
    assert not late.done()
    late.result(10)
    assert time.monotonic() - begun >= SHORT
    assert [message.json() for message in tap.take(2)] == ["in time", "late"]


def test_a_subscription_that_is_carried_out_after_the_component_left_is_ended(
    lite: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(lite)
    lite.faults.answer_late(0.05, "SubscribeToTopic")
    for number in range(100):  # all that lite has
        client.sdk.subscribe_to_topic_async(topic=f"in/{number}", on_stream_event=lambda _: None)
    assert client.call("get_configuration").value
    assert lite.faults.drop_connections() == 1
    other = connect(lite, "com.example.Other")
    other.subscribe("in/1")  # late, too: carried out after the others
    lite.publish("in/1", 1)

    async def subscribers(nucleus: Any) -> int:
        return len(nucleus.subscriptions)

    assert lite.call(subscribers) == 1


def test_an_event_before_the_response_breaks_the_sdks_subscription(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(nucleus)
    nucleus.faults.event_before_response()
    response, _ = client.sdk.subscribe_to_topic_async(topic="in", on_stream_event=lambda _: None)
    # The subscription stands once a later request of the same connection is answered and the message has somewhere to go.
    assert client.call("get_configuration").value
    nucleus.publish("in", {"a": 1})
    with pytest.raises(UnmappedDataError):
        response.result(10)
    inbox = client.subscribe("in")
    nucleus.publish("in", {"a": 2})
    assert inbox.payload() == {"a": 2}


def test_without_an_event_the_response_comes_in_the_end(nucleus: BackgroundNucleus, connect: Connect) -> None:
    nucleus.faults.event_before_response(within=0.05)
    inbox = connect(nucleus).subscribe("in")
    nucleus.publish("in", 1)
    assert inbox.payload() == 1


def test_a_forgotten_stream_receives_nothing_and_is_not_told(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus, configuration={"a": 1})
    inbox = client.subscribe("in")
    changes = client.stream("subscribe_to_configuration_update", key_path=[])
    assert nucleus.faults.forget_streams("com.example.Test", "SubscribeToTopic") == 1
    assert nucleus.faults.forget_streams("com.example.Other") == 0
    nucleus.publish("in", {"a": 1})
    nucleus.update_configuration("com.example.Test", {"a": 2})
    assert changes.get().configuration_update_event.key_path == ["a"]  # sent after what the other stream did not get
    with pytest.raises(queue.Empty):
        inbox.get(timeout=0)
    assert not inbox.ended.done()
    again = client.subscribe("in")
    nucleus.publish("in", {"a": 2})
    assert again.payload() == {"a": 2}


def test_what_was_sent_while_nobody_read_is_handled_in_order_later(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client, other, tap = connect(nucleus), connect(nucleus, "com.example.Other"), nucleus.watch("in")
    inbox = client.subscribe("out")
    nucleus.faults.stop_reading("com.example.Test")
    sent = [client.start_publish("in", number) for number in range(50)]
    other.publish("in", "other")
    assert tap.get().json() == "other"
    nucleus.publish("out", "still sent")
    assert inbox.payload() == "still sent"
    with pytest.raises(concurrent.futures.TimeoutError):
        sent[0].result(SHORT)
    nucleus.faults.resume_reading()
    for future in sent:
        future.result(10)
    assert [message.json() for message in tap.take(50)] == list(range(50))


def test_a_connection_can_be_dropped_while_nothing_is_read_from_it(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(nucleus)
    nucleus.faults.stop_reading("com.example.Test")
    client.start("get_configuration")
    assert nucleus.faults.drop_connections() == 1
    client.lifecycle.lost.result(10)


def test_the_cloud_goes_and_comes_back(nucleus: BackgroundNucleus, connect: Connect, profile: str) -> None:
    client = connect(nucleus)
    nucleus.faults.cloud_offline()
    assert not nucleus.iot_core.online
    if profile == "lite":
        with pytest.raises(model.ServiceError):
            publish_to_cloud(client)
    else:
        publish_to_cloud(client)
    nucleus.faults.cloud_online()
    publish_to_cloud(client, b"last")
    tap = nucleus.iot_core
    deadline = time.monotonic() + 10
    while [message.payload for message in tap.messages][-1:] != [b"last"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [message.payload for message in tap.messages] == ([b"last"] if profile == "lite" else [b"x", b"last"])


def test_a_full_spool_refuses_until_there_is_room_again(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic)
    classic.faults.spool_full()
    with pytest.raises(model.ServiceError) as refused:
        publish_to_cloud(client)
    assert refused.value.message == "The spool is full"
    classic.faults.spool_full(full=False)
    publish_to_cloud(client)


def test_a_small_window_refuses_what_is_too_much_in_flight(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    lite.faults.qos1_window(0)
    with pytest.raises(model.ServiceError):
        publish_to_cloud(client)
    publish_to_cloud(client, qos="0")
    lite.faults.clear()
    publish_to_cloud(client)


def test_without_acknowledgements_the_window_fills_and_empties_when_they_come(
    lite: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(lite)
    lite.iot_core.round_trip = 0
    lite.faults.withhold_acknowledgements()
    for _ in range(10):
        publish_to_cloud(client)
    with pytest.raises(model.ServiceError):
        publish_to_cloud(client)
    lite.faults.withhold_acknowledgements(withhold=False)
    publish_to_cloud(client)


@pytest.mark.parametrize(("profile", "blocked"), [("lite", True), ("classic", False)])
def test_a_slow_consumer_stops_everybody_on_lite_only(
    nucleus: BackgroundNucleus, connect: Connect, blocked: bool
) -> None:
    client, other = connect(nucleus), connect(nucleus, "com.example.Other")
    nucleus.faults.slow_consumer("in", after=3, seconds=LONG if blocked else None)
    for number in range(3):
        client.publish("in", number)
    begun = time.monotonic()
    client.start_publish("in", 3)
    client.publish("elsewhere", 1)
    other.publish("elsewhere", 2)
    assert (time.monotonic() - begun > LONG - 0.1) is blocked
    nucleus.faults.clear()
    begun = time.monotonic()
    client.publish("in", 4)
    assert time.monotonic() - begun < LONG


def test_a_real_subscriber_that_does_not_read_stalls_lite(lite: BackgroundNucleus, connect: Connect) -> None:
    # The socket's own buffer decides here, not a verb: a raw client that subscribes and never reads again.
    client = connect(lite)
    token = lite.credentials("com.example.Test")["SVCUID"]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(lite.socket_path))
        hello: dict[str, HeaderValue] = {":message-type": 4, ":stream-id": 0, ":version": "0.1.0"}
        raw.sendall(encode(Frame(hello, json.dumps({"authToken": token}).encode())))
        raw.recv(4096)
        ask: dict[str, HeaderValue] = {
            ":message-type": 0,
            ":stream-id": 1,
            "operation": "aws.greengrass#SubscribeToTopic",
        }
        raw.sendall(encode(Frame(ask, b'{"topic": "in"}')))
        raw.recv(4096)
        stalled = None
        for number in range(1000):
            future = client.start_publish("in", b"x" * 1000)
            try:
                future.result(2)
            except concurrent.futures.TimeoutError:
                stalled = number
                break
    # 93 on a real nucleus lite; the kernel's buffer and the size of its pages decide.
    assert stalled is not None
    assert 50 < stalled < 250, stalled


def test_faults_that_a_runtime_cannot_have_are_refused(lite: BackgroundNucleus) -> None:
    with pytest.raises(ValueError, match="no spool"):
        lite.faults.spool_full()


def test_a_window_is_nothing_for_classic(classic: BackgroundNucleus) -> None:
    with pytest.raises(ValueError, match="spools"):
        classic.faults.qos1_window(1)
    with pytest.raises(ValueError, match="spools"):
        classic.faults.withhold_acknowledgements()
