"""The server as the real SDK sees it."""

from __future__ import annotations

import datetime as dt
import json
import queue
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import StreamClosedError
from awsiot.greengrasscoreipc import model

from greengrass_sandbox import BackgroundNucleus, DeploymentError
from greengrass_sandbox.codec import Frame, HeaderValue, encode

Connect = Callable[..., Any]


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def access(service: str, *operations: str, resources: list[str]) -> dict[str, Any]:
    names = [f"aws.greengrass#{operation}" for operation in operations]
    return {f"aws.greengrass.ipc.{service}": {"p": {"operations": names, "resources": resources}}}


def test_both_kinds_of_message_arrive_as_they_were_sent(nucleus: BackgroundNucleus, connect: Connect) -> None:
    receiver, sender = connect(nucleus, "com.example.Receiver"), connect(nucleus, "com.example.Sender")
    inbox, tap = receiver.subscribe("in/+"), nucleus.watch("in/#")
    sender.publish("in/a", {"ü": [1.5, None, True]})
    sender.publish("in/b", b"\x00\xff")
    first, second = inbox.get(), inbox.get()
    assert (first.json_message.message, first.json_message.context.topic) == ({"ü": [1.5, None, True]}, "in/a")
    assert (second.binary_message.message, second.binary_message.context.topic) == (b"\x00\xff", "in/b")
    seen = tap.take(2)
    assert [(m.topic, m.kind, m.component) for m in seen] == [
        ("in/a", "json", "com.example.Sender"),
        ("in/b", "binary", "com.example.Sender"),
    ]
    assert (seen[0].json(), seen[1].payload) == ({"ü": [1.5, None, True]}, b"\x00\xff")
    assert seen[0].order < seen[1].order


def test_a_thousand_messages_keep_their_order(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    inbox = client.subscribe("in")
    futures = [client.start_publish("in", {"i": number}) for number in range(1000)]
    for future in futures:
        future.result(10)
    assert [inbox.payload()["i"] for _ in range(1000)] == list(range(1000))


def test_an_injected_message_reaches_components_as_the_kind_it_is(nucleus: BackgroundNucleus, connect: Connect) -> None:
    inbox = connect(nucleus).subscribe("in")
    nucleus.publish("in", {"a": 1})
    nucleus.publish("in", b"raw")
    assert [inbox.payload(), inbox.payload()] == [{"a": 1}, b"raw"]


@pytest.mark.parametrize(
    ("profile", "topic", "mode", "heard"),
    [
        ("lite", "own", model.ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS, True),
        ("lite", "own/+", None, True),
        ("classic", "own", None, True),
        ("classic", "own/+", None, False),
        ("classic", "own", model.ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS, False),
        ("classic", "own/+", model.ReceiveMode.RECEIVE_ALL_MESSAGES, True),
    ],
)
def test_who_hears_their_own_messages(
    nucleus: BackgroundNucleus, connect: Connect, topic: str, mode: str | None, heard: bool
) -> None:
    client = connect(nucleus)
    inbox = client.subscribe(topic, mode)
    client.publish(topic.replace("+", "x"), {"from": "me"})
    nucleus.publish(topic.replace("+", "x"), {"from": "other"})
    assert [inbox.payload()["from"] for _ in range(1 + heard)] == ["me", "other"][not heard :]


def test_a_closed_subscription_receives_nothing_more(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    closed, kept = client.subscribe("in"), client.subscribe("in")
    closed.operation.close().result(10)
    # The same connection carries both: what is answered after the close was handled after it.
    client.publish("in", {"a": 1})
    assert kept.payload() == {"a": 1}
    with pytest.raises(queue.Empty):
        closed.get(timeout=0)


def test_what_the_recipe_does_not_allow_is_unauthorized(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(
        nucleus,
        access=access("pubsub", "PublishToTopic", resources=["out/*"])
        | access("mqttproxy", "SubscribeToIoTCore", resources=["cloud/#"]),
    )
    client.publish("out/x", {})
    client.stream("subscribe_to_iot_core", topic_name="cloud/+", qos="1")
    refusals: list[Callable[[], Any]] = [
        lambda: client.publish("other", {}),
        lambda: client.subscribe("out/x"),
        lambda: client.call("publish_to_iot_core", topic_name="cloud/x", qos="1", payload=b""),
        lambda: client.stream("subscribe_to_iot_core", topic_name="other", qos="1"),
    ]
    for refused in refusals:
        with pytest.raises(model.UnauthorizedError):
            refused()


def test_a_policy_may_name_the_thing_on_classic(nucleus: BackgroundNucleus, connect: Connect, profile: str) -> None:
    resources = ["$aws/things/{iot:thingName}/jobs/+/get"]
    client = connect(nucleus, access=access("mqttproxy", "PublishToIoTCore", resources=resources))
    topic = {"topic_name": "$aws/things/sandbox-core/jobs/7/get", "qos": "1", "payload": b""}
    if profile == "lite":
        with pytest.raises(model.UnauthorizedError):
            client.call("publish_to_iot_core", **topic)
    else:
        client.call("publish_to_iot_core", **topic)


def test_a_wrong_token_is_refused_as_the_runtime_refuses_it(nucleus: BackgroundNucleus, connect: Connect) -> None:
    environment = nucleus.credentials("com.example.Test") | {"SVCUID": "A" * 16}
    client: Any = type(connect(nucleus))
    with pytest.raises(AwsCrtError):
        client(environment)


def test_each_component_has_its_own_token_and_keeps_it(nucleus: BackgroundNucleus) -> None:
    first, second = nucleus.credentials("com.example.A"), nucleus.credentials("com.example.B")
    assert first["SVCUID"] != second["SVCUID"]
    assert nucleus.credentials("com.example.A")["SVCUID"] == first["SVCUID"]
    assert first["AWS_IOT_THING_NAME"] == "sandbox-core"
    assert first["AWS_REGION"] == first["AWS_DEFAULT_REGION"] == "eu-central-1"


def test_a_gap_in_the_stream_ids_drops_the_connection(nucleus: BackgroundNucleus) -> None:
    token = nucleus.credentials("com.example.Test")["SVCUID"]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(nucleus.socket_path))
        hello: dict[str, HeaderValue] = {":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}
        raw.sendall(encode(Frame(hello, json.dumps({"authToken": token}).encode())))
        assert raw.recv(4096)
        request: dict[str, HeaderValue] = {
            ":message-type": 0,
            ":message-flags": 0,
            ":stream-id": 2,
            "operation": "aws.greengrass#GetConfiguration",
        }
        raw.sendall(encode(Frame(request, b"{}")))
        assert raw.recv(4096) == b""


def test_bytes_that_are_no_frame_drop_only_their_own_connection(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(nucleus.socket_path))
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert raw.recv(4096) == b""
    assert client.call("get_configuration").value


def test_configuration_is_read_by_path(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus, configuration={"leaf": 7, "map": {"a": {"b": [1]}}})
    assert client.call("get_configuration", key_path=["leaf"]).value == {"leaf": 7}
    assert client.call("get_configuration", key_path=["map"]).value == {"a": {"b": [1]}}
    assert client.call("get_configuration", key_path=["map", "a", "b"]).value == {"b": [1]}
    assert client.call("get_configuration", component_name="com.example.Test", key_path=["leaf"]).value == {"leaf": 7}
    for missing in ({"key_path": ["none"]}, {"component_name": "com.example.None"}):
        with pytest.raises(model.ResourceNotFoundError):
            client.call("get_configuration", **missing)


def test_a_deployed_change_arrives_as_an_event_with_the_leafs_path(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(nucleus, configuration={"map": {"a": 1}, "other": 1})
    events = client.stream("subscribe_to_configuration_update", key_path=["map"])
    nucleus.update_configuration("com.example.Test", {"other": 2, "map": {"a": 1, "b": 2}})
    event = events.get().configuration_update_event
    assert (event.component_name, event.key_path) == ("com.example.Test", ["map", "b"])
    nucleus.update_configuration("com.example.Test", reset=["/map/b"])
    assert events.get().configuration_update_event.key_path == ["map", "b"]
    assert client.call("get_configuration", key_path=["map"]).value == {"a": 1}


def test_a_component_changes_its_own_configuration_but_not_its_rights(
    nucleus: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(nucleus, configuration={"a": 1})
    client.call("update_configuration", key_path=["a"], timestamp=now(), value_to_merge=2)
    assert client.call("get_configuration", key_path=["a"]).value == {"a": 2}
    for path in (["accessControl"], []):
        with pytest.raises(model.InvalidArgumentsError):
            client.call("update_configuration", key_path=path, timestamp=now(), value_to_merge={"accessControl": {}})


@pytest.mark.parametrize(("profile", "refused"), [("classic", True), ("lite", False)])
def test_an_outdated_update_changes_nothing(nucleus: BackgroundNucleus, connect: Connect, refused: bool) -> None:
    client = connect(nucleus, configuration={"a": 1})
    old = now() - dt.timedelta(days=1)
    future: Future[Any] = client.start("update_configuration", key_path=["a"], timestamp=old, value_to_merge=2)
    assert isinstance(future.exception(10), model.FailedUpdateConditionCheckError) is refused
    assert client.call("get_configuration", key_path=["a"]).value == {"a": 1}


def test_a_classic_component_can_reject_a_configuration(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic, configuration={"limit": 1})
    requests = client.stream("subscribe_to_validate_configuration_updates")

    def answer(status: str) -> dict[str, Any]:
        event = requests.get().validate_configuration_update_event
        report = model.ConfigurationValidityReport(status=status, deployment_id=event.deployment_id, message="too high")
        client.call("send_configuration_validity_report", configuration_validity_report=report)
        asked: dict[str, Any] = event.configuration
        return asked

    with pytest.raises(DeploymentError, match="too high"):
        run_beside(lambda: classic.update_configuration("com.example.Test", {"limit": 9}), lambda: answer("REJECTED"))
    assert client.call("get_configuration", key_path=["limit"]).value == {"limit": 1}
    asked = run_beside(
        lambda: classic.update_configuration("com.example.Test", {"limit": 2}), lambda: answer("ACCEPTED")
    )
    assert asked["limit"] == 2
    assert client.call("get_configuration", key_path=["limit"]).value == {"limit": 2}


def run_beside(action: Callable[[], object], meanwhile: Callable[[], Any]) -> Any:
    """Runs an action in a thread while something else happens; raises what the action raised."""
    with ThreadPoolExecutor(1) as executor:
        acting = executor.submit(action)
        result = meanwhile()
        acting.result(10)
    return result


def test_a_classic_component_can_defer_an_update(
    classic: BackgroundNucleus, connect: Connect, component_files: Callable[..., Any]
) -> None:
    client = connect(classic)
    notices = client.stream("subscribe_to_component_updates")

    def answer() -> None:
        first = notices.get().pre_update_event
        client.call("defer_component_update", deployment_id=first.deployment_id, recheck_after_ms=20, message="busy")
        second = notices.get().pre_update_event
        assert second.deployment_id == first.deployment_id
        client.call("defer_component_update", deployment_id=first.deployment_id, recheck_after_ms=0)

    run_beside(lambda: classic.deploy(component_files(run="exec sleep 60")), answer)
    assert notices.get().post_update_event is not None
    assert classic.component("com.example.Worker").state == "RUNNING"


@pytest.mark.parametrize(("profile", "error"), [("lite", model.ServiceError), ("classic", model.UnauthorizedError)])
def test_an_operation_that_is_not_to_be_had_gives_the_runtimes_error(
    nucleus: BackgroundNucleus, connect: Connect, error: type[Exception]
) -> None:
    with pytest.raises(error):
        connect(nucleus).call("list_components")


def test_the_cloud_gets_what_is_published_and_components_hear_it(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client, tap = connect(nucleus), nucleus.iot_core.watch("up/#")
    echo, down = (client.stream("subscribe_to_iot_core", topic_name=topic, qos="1") for topic in ("up/+", "down"))
    client.call("publish_to_iot_core", topic_name="up/a", qos="1", payload=b"hello")
    message = tap.get()
    assert (message.topic, message.payload, message.qos, message.component) == ("up/a", b"hello", 1, "com.example.Test")
    assert echo.payload() == b"hello"
    assert nucleus.iot_core.publish("down", b"command") == 1
    assert down.payload() == b"command"
    assert nucleus.iot_core.publish("nobody", b"") == 0
    assert [seen.topic for seen in nucleus.iot_core.messages] == ["up/a"]


def test_lite_offline_refuses_at_once_and_keeps_nothing(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    lite.iot_core.online = False
    for qos in ("0", "1"):
        with pytest.raises(model.ServiceError) as refused:
            client.call("publish_to_iot_core", topic_name="up", qos=qos, payload=b"lost")
        assert refused.value.message is None
    with pytest.raises(model.ServiceError):
        client.stream("subscribe_to_iot_core", topic_name="up", qos="1")
    lite.iot_core.online = True
    client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"kept")
    assert [message.payload for message in lite.iot_core.messages] == [b"kept"]


def test_lite_takes_ten_unacknowledged_messages(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    lite.iot_core.round_trip = 3600
    for number in range(10):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=bytes([number]))
    with pytest.raises(model.ServiceError):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x")
    client.call("publish_to_iot_core", topic_name="up", qos="0", payload=b"x")


def test_lite_takes_15000_unacknowledged_bytes(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    lite.iot_core.round_trip = 3600
    for _ in range(3):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x" * 5000)
    with pytest.raises(model.ServiceError):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x")


def test_acknowledged_messages_make_room_again(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    lite.iot_core.round_trip = 0
    for _ in range(50):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x")
    assert len(lite.iot_core.messages) == 50


def test_classic_offline_spools_and_delivers_in_order(classic: BackgroundNucleus, connect: Connect) -> None:
    client, tap = connect(classic), classic.iot_core.watch()
    classic.iot_core.online = False
    for number in range(5):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=bytes([number]))
    with pytest.raises(model.ServiceError):
        client.call("publish_to_iot_core", topic_name="up", qos="0", payload=b"")
    assert classic.iot_core.messages == []
    classic.iot_core.online = True
    assert [message.payload[0] for message in tap.take(5)] == list(range(5))


def test_a_full_classic_spool_refuses(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic)
    classic.iot_core.online = False
    for _ in range(20):  # 20 times 128 KiB are the 2.5 MB
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x" * 128 * 1024)
    with pytest.raises(model.ServiceError):
        client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"x")


def test_a_cloud_subscription_offline_is_refused(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    nucleus.iot_core.online = False
    with pytest.raises(model.ServiceError):
        client.stream("subscribe_to_iot_core", topic_name="down", qos="1")
    nucleus.iot_core.online = True
    client.stream("subscribe_to_iot_core", topic_name="down", qos="1")


@pytest.mark.parametrize("topic", ["up/+", "up/#"])
def test_classic_publishes_to_no_topic_filter_of_the_cloud(
    classic: BackgroundNucleus, connect: Connect, topic: str
) -> None:
    with pytest.raises(model.ServiceError):
        connect(classic).call("publish_to_iot_core", topic_name=topic, qos="1", payload=b"")


@pytest.mark.parametrize(
    ("topic", "payload"),
    [("a" * 257, b""), ("1/2/3/4/5/6/7/8/9", b""), ("up", b"x" * (128 * 1024 + 1))],
)
def test_classic_checks_a_cloud_message_before_it_spools_it(
    classic: BackgroundNucleus, connect: Connect, topic: str, payload: bytes
) -> None:
    with pytest.raises(model.InvalidArgumentsError):
        connect(classic).call("publish_to_iot_core", topic_name=topic, qos="1", payload=payload)


def test_a_json_message_that_lite_cannot_parse_again_kills_the_subscription_in_silence(
    lite: BackgroundNucleus, connect: Connect
) -> None:
    client, other = connect(lite), connect(lite, "com.example.Other")
    inbox, kept = client.subscribe("in"), other.subscribe("elsewhere")
    client.publish("in", {f"k{number}": 0 for number in range(23)})
    assert len(inbox.payload()) == 23
    client.publish("in", {f"k{number}": 0 for number in range(24)})  # answered with success
    nucleus_heard = lite.watch("in")
    client.publish("in", {"after": 1})
    assert nucleus_heard.get().json() == {"after": 1}
    client.publish("elsewhere", {"b": 1})
    assert kept.payload() == {"b": 1}
    with pytest.raises(queue.Empty):
        inbox.get(timeout=0)
    assert not inbox.ended.done()


def test_a_message_nested_too_deep_for_lite_is_refused(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    nested: dict[str, Any] = {}
    for _ in range(11):
        nested = {"a": nested}
    client.publish("in", nested)
    with pytest.raises(model.ServiceError):
        client.publish("in", {"a": nested})


def test_a_large_frame_drops_the_connection_on_lite_only(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    client.publish("in", b"x" * 7302)
    with pytest.raises((StreamClosedError, AwsCrtError)):
        client.publish("in", b"x" * 100_000)
    client.lifecycle.lost.result(10)


def test_classic_carries_large_messages(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic)
    inbox = client.subscribe("in")
    client.publish("in", b"x" * 1_000_000)
    assert len(inbox.payload()) == 1_000_000


def test_lite_has_fifty_connections(lite: BackgroundNucleus) -> None:
    token = lite.credentials("com.example.Test")["SVCUID"]
    hello = encode(
        Frame({":message-type": 4, ":stream-id": 0, ":version": "0.1.0"}, json.dumps({"authToken": token}).encode())
    )
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(51)]
    try:
        answers = []
        for raw in sockets:
            raw.settimeout(10)
            raw.connect(str(lite.socket_path))
            try:
                raw.sendall(hello)
                answers.append(raw.recv(4096))
            except ConnectionError:
                answers.append(b"")
        assert [bool(answer) for answer in answers] == [True] * 50 + [False]
    finally:
        for raw in sockets:
            raw.close()


def test_lite_has_a_hundred_subscriptions(lite: BackgroundNucleus, connect: Connect) -> None:
    client = connect(lite)
    subscriptions = [client.subscribe(f"in/{number}") for number in range(100)]
    with pytest.raises(model.ServiceError):
        client.subscribe("in/more")
    subscriptions[0].operation.close().result(10)
    client.subscribe("in/more")


def test_update_state_is_accepted(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus)
    client.call("update_state", state="RUNNING")
    with pytest.raises((model.ServiceError, model.InvalidArgumentsError)):
        client.call("update_state", state="HAPPY")


def test_a_root_with_a_long_path_still_gets_a_socket(tmp_path: Any, connect: Connect) -> None:
    root = tmp_path / ("long" * 30)
    with BackgroundNucleus(root, "lite") as nucleus:
        client = connect(nucleus)
        assert client.call("get_configuration").value
        client.close()
        path = nucleus.socket_path
    assert not path.exists()
