from __future__ import annotations

import gc
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
from awsiot.eventstreamrpc import DeserializeError, StreamClosedError
from awsiot.greengrasscoreipc.client import (
    GetConfigurationOperation,
    PublishToIoTCoreOperation,
    PublishToTopicOperation,
)
from awsiot.greengrasscoreipc.model import InvalidArgumentsError, ServiceError, UnauthorizedError

from greengrass_sandbox import BackgroundNucleus, ProfileName
from ml_inference.greengrass.errors import (
    CallFailedError,
    Failure,
    FailureKind,
    NucleusUnavailableError,
    TokenRefusedError,
    classify,
    describe,
)
from ml_inference.greengrass.session import (
    NAME_VARIABLE,
    SOCKET_VARIABLE,
    TOKEN_VARIABLE,
    Answered,
    Connector,
    Session,
    _json_bytes,
    _Lifecycle,
)

SECONDS = 120.0
NAME = "com.example.Test"
ACCESS = {
    "aws.greengrass.ipc.pubsub": {"all": {"operations": ["*"], "resources": ["test/*"]}},
    "aws.greengrass.ipc.mqttproxy": {"all": {"operations": ["*"], "resources": ["*"]}},
}


class Rig:
    """A nucleus stand-in and connections to it that end with the test."""

    def __init__(self, nucleus: BackgroundNucleus, profile: str) -> None:
        self.nucleus = nucleus
        self.profile = profile
        self.environment = nucleus.credentials(NAME, ACCESS, configuration={"MaxQueue": 7, "Nested": {"a": [1]}})
        self.connector = Connector(self.environment)
        self.sessions: list[Session] = []
        self.lost: queue.Queue[Session] = queue.Queue()

    def open(self, connector: Connector | None = None) -> Session:
        session = (connector or self.connector).open(self.lost.put)
        self.sessions.append(session)
        return session


@pytest.fixture(params=["lite", "classic"])
def profile(request: pytest.FixtureRequest) -> ProfileName:
    chosen: ProfileName = request.param
    return chosen


@pytest.fixture
def rig(tmp_path: Path, profile: ProfileName) -> Iterator[Rig]:
    with BackgroundNucleus(tmp_path / "nucleus", profile) as nucleus:
        rig = Rig(nucleus, profile)
        yield rig
        for session in rig.sessions:
            session.close()


@pytest.fixture
def session(rig: Rig) -> Session:
    return rig.open()


def answer(publish: Callable[[Answered], None]) -> Failure | None:
    """What a publish is answered with."""
    answers: queue.Queue[Failure | None] = queue.Queue()
    publish(answers.put)
    return answers.get(timeout=SECONDS)


def failure(action: Callable[[], object]) -> CallFailedError:
    with pytest.raises(CallFailedError) as raised:
        action()
    return raised.value


def test_what_is_published_locally_is_a_binary_message(rig: Rig, session: Session) -> None:
    tap = rig.nucleus.watch("test/a")
    assert answer(partial(session.publish_local, "test/a", b'{"x":1}')) is None
    message = tap.get(SECONDS)
    assert (message.payload, message.kind) == (b'{"x":1}', "binary")


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_to_the_cloud_arrives_with_its_quality_of_service(
    rig: Rig, session: Session, qos: int
) -> None:
    tap = rig.nucleus.iot_core.watch()
    assert answer(partial(session.publish_cloud, "results/core", b"7", qos)) is None
    message = tap.get(SECONDS)
    assert (message.topic, message.payload, message.qos) == ("results/core", b"7", qos)


def test_a_subscription_hears_binary_and_json_messages_in_order_on_the_sdks_thread(rig: Rig, session: Session) -> None:
    heard: queue.Queue[tuple[bytes, str]] = queue.Queue()
    session.subscribe("test/+", lambda payload: heard.put((payload, threading.current_thread().name)))
    rig.nucleus.publish("test/a", b'{"x":1}')
    rig.nucleus.publish("test/b", {"x": 2.5, "y": "ü"})
    rig.nucleus.publish("test/a", b"")
    messages = [heard.get(timeout=SECONDS) for _ in range(3)]
    assert [json.loads(payload or b"null") for payload, _ in messages] == [{"x": 1}, {"x": 2.5, "y": "ü"}, None]
    assert threading.current_thread().name not in {name for _, name in messages}


def test_python_knows_the_sdks_thread_again_from_call_to_call(rig: Rig, session: Session) -> None:
    """Its state costs more to make and drop than a message does."""
    known = threading.local()
    heard: queue.Queue[int] = queue.Queue()

    def on_payload(_: bytes) -> None:
        known.calls = getattr(known, "calls", 0) + 1
        heard.put(known.calls)

    session.subscribe("test/a", on_payload)
    for _ in range(3):
        rig.nucleus.publish("test/a", b"1")
    assert [heard.get(timeout=SECONDS) for _ in range(3)] == [1, 2, 3]


def test_a_closed_subscription_hears_no_more_and_the_others_do(rig: Rig, session: Session) -> None:
    first: queue.Queue[bytes] = queue.Queue()
    second: queue.Queue[bytes] = queue.Queue()
    subscription = session.subscribe("test/a", first.put)
    session.subscribe("test/a", second.put)
    subscription.close()
    session.configuration()  # the nucleus has read everything before
    rig.nucleus.publish("test/a", b"1")
    assert second.get(timeout=SECONDS) == b"1"
    assert first.empty()


def test_a_callback_that_fails_does_not_end_its_subscription(rig: Rig, session: Session) -> None:
    heard: queue.Queue[bytes] = queue.Queue()

    def on_payload(payload: bytes) -> None:
        heard.put(payload)
        if payload == b"1":
            raise ValueError("a mistake")

    session.subscribe("test/a", on_payload)
    for payload in (b"1", b"2"):
        rig.nucleus.publish("test/a", payload)
    assert [heard.get(timeout=SECONDS) for _ in range(2)] == [b"1", b"2"]


def test_a_request_that_was_answered_leaves_nothing_open(session: Session) -> None:
    # Nucleus lite does not close the stream of an answer, and an open one costs memory as long as the connection lives.
    kinds = PublishToTopicOperation, PublishToIoTCoreOperation, GetConfigurationOperation

    def alive() -> int:
        session.configuration()  # answered after what came before it
        gc.collect()
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    def publish(times: int) -> None:
        for _ in range(times):
            answer(partial(session.publish_local, "test/a", b"1"))
            answer(partial(session.publish_cloud, "test/a", b"1", 0))

    publish(2)
    before = alive()
    publish(20)
    # Of forty requests; the latest may be closing just now.
    assert alive() <= before + 2


def test_a_topic_outside_the_recipe_is_refused_by_name(session: Session) -> None:
    error = failure(lambda: session.subscribe("elsewhere", lambda _: None))
    assert str(error).startswith("cannot subscribe to 'elsewhere': UnauthorizedError")
    assert error.refused


def test_a_call_without_an_answer_ends_after_its_time_and_was_not_refused(rig: Rig) -> None:
    session = rig.open(Connector(rig.environment, call_timeout=0.2))
    rig.nucleus.faults.answer_never("GetConfiguration")
    error = failure(session.configuration)
    assert str(error) == "cannot read the configuration: TimeoutError"
    assert not error.refused


def test_a_subscription_that_is_answered_too_late_hears_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    session = rig.open(Connector(rig.environment, call_timeout=0.05))
    heard: queue.Queue[bytes] = queue.Queue()
    answers: list[Future[Any]] = []
    subscribe = session._client.new_subscribe_to_topic

    def remember(handler: Any) -> Any:
        operation = subscribe(handler)
        answers.append(operation.get_response())
        return operation

    monkeypatch.setattr(session._client, "new_subscribe_to_topic", remember)
    rig.nucleus.faults.answer_late(0.2, "SubscribeToTopic", times=1)
    assert not failure(lambda: session.subscribe("test/a", heard.put)).refused
    wait(answers, SECONDS)
    other: queue.Queue[bytes] = queue.Queue()
    rig.open().subscribe("test/a", other.put)
    rig.nucleus.publish("test/a", b"1")
    assert other.get(timeout=SECONDS) == b"1"
    assert answer(partial(session.publish_local, "test/a", b"2")) is None
    assert other.get(timeout=SECONDS) == b"2"
    assert heard.empty()


def test_giving_up_ends_a_wait_at_once(rig: Rig, session: Session) -> None:
    rig.nucleus.faults.answer_never("GetConfiguration")
    ended: queue.Queue[CallFailedError] = queue.Queue()
    thread = Thread(target=lambda: ended.put(failure(session.configuration)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    began = time.monotonic()
    rig.connector.give_up()
    assert not ended.get(timeout=SECONDS).refused
    assert time.monotonic() - began < 5
    thread.join(SECONDS)


def test_a_loss_is_told_once_and_every_call_that_waits_ends(rig: Rig, session: Session) -> None:
    rig.nucleus.faults.answer_never("PublishToTopic")
    answers: queue.Queue[Failure | None] = queue.Queue()
    session.publish_local("test/a", b"1", answers.put)
    rig.nucleus.faults.drop_connections()
    assert rig.lost.get(timeout=SECONDS) is session
    assert session.lost.is_set()
    ended = answers.get(timeout=SECONDS)
    assert ended is not None
    assert ended.kind is FailureKind.LOST
    session.close()
    assert rig.lost.empty()


def test_publishing_over_a_lost_connection_is_answered_with_the_loss(rig: Rig, session: Session) -> None:
    rig.nucleus.faults.drop_connections()
    assert session.lost.wait(SECONDS)
    for publish in (partial(session.publish_local, "test/a", b""), partial(session.publish_cloud, "test/a", b"", 1)):
        lost = answer(publish)
        assert lost is not None
        assert lost.kind is FailureKind.LOST
    assert not failure(session.configuration).refused


def test_a_loss_between_the_handshake_and_the_first_look_is_told_too() -> None:
    handler, told, lost = _Lifecycle(), [], Event()
    handler.on_disconnect(None)
    handler.watch(lambda: told.append("lost"), lost)
    assert lost.is_set()
    handler.on_disconnect(None)
    assert told == ["lost"]


def test_one_connector_opens_many_sessions_one_after_another(rig: Rig) -> None:
    threads = threading.active_count()
    for _ in range(30):
        session = rig.connector.open(rig.lost.put)
        session.configuration()
        session.close(SECONDS)
        assert rig.lost.get(timeout=SECONDS) is session
    assert threading.active_count() <= threads + 2


def test_a_wrong_token_is_told_from_a_nucleus_that_is_not_there(rig: Rig, tmp_path: Path) -> None:
    wrong = Connector(rig.environment | {TOKEN_VARIABLE: "A" * 16})
    with pytest.raises(TokenRefusedError):
        wrong.open(rig.lost.put)
    impostor = Connector(rig.environment | {TOKEN_VARIABLE: "A" * 16, NAME_VARIABLE: NAME})
    with pytest.raises(TokenRefusedError):  # no process of that component
        impostor.open(rig.lost.put)
    nobody = Connector(rig.environment | {SOCKET_VARIABLE: str(tmp_path / "nobody")})
    with pytest.raises(NucleusUnavailableError):
        nobody.open(rig.lost.put)
    rig.nucleus.faults.stop_reading()
    with pytest.raises(NucleusUnavailableError, match=r"no answer within 0\.2 s"):
        rig.connector.open(rig.lost.put, timeout=0.2)
    rig.nucleus.faults.clear()
    assert rig.open().configuration()
    assert rig.lost.empty()


def test_an_attempt_that_is_given_up_leaves_no_connection_behind(rig: Rig) -> None:
    rig.open().close()
    process = psutil.Process()
    before = process.num_fds()
    rig.nucleus.faults.stop_reading()
    for _ in range(5):
        with pytest.raises(NucleusUnavailableError):
            rig.connector.open(rig.lost.put, timeout=0.05)
    rig.nucleus.faults.clear()
    deadline = time.monotonic() + SECONDS
    while process.num_fds() > before:
        assert time.monotonic() < deadline, "connections stay open"
        time.sleep(0.01)


@pytest.mark.parametrize("missing", [SOCKET_VARIABLE, TOKEN_VARIABLE])
def test_outside_greengrass_it_names_the_missing_variable(missing: str) -> None:
    environment = {SOCKET_VARIABLE: "/nowhere", TOKEN_VARIABLE: "token"}
    del environment[missing]
    with pytest.raises(NucleusUnavailableError, match=f"^{missing} is not set"):
        Connector(environment)


def test_the_configuration_is_read_whole_and_changes_are_told(rig: Rig, session: Session) -> None:
    assert session.configuration() == {"MaxQueue": 7, "Nested": {"a": [1]}, "accessControl": ACCESS}
    changed = Event()
    session.watch_configuration(changed.set)
    rig.nucleus.update_configuration(NAME, {"MaxQueue": 8})
    assert changed.wait(SECONDS)
    assert session.configuration()["MaxQueue"] == 8


@pytest.mark.parametrize("profile", ["lite"])
def test_what_lite_does_not_offer_fails_and_the_session_goes_on(rig: Rig, session: Session) -> None:
    for watch in (session.watch_configuration_checks, session.watch_component_updates):
        # Not for good: lite answers in the same way while one of its daemons is down.
        assert not failure(lambda watch=watch: watch(lambda *_: None)).refused  # type: ignore[misc]
    assert session.configuration()


@pytest.mark.parametrize("profile", ["classic"])
@pytest.mark.parametrize("problem", [None, "MaxQueue: no"])
def test_on_classic_a_proposed_configuration_is_accepted_or_fails_its_deployment(
    rig: Rig, session: Session, problem: str | None
) -> None:
    asked: list[dict[str, Any]] = []

    def check(deployment: str, proposed: dict[str, Any]) -> None:
        asked.append(proposed)
        session.answer_configuration_check(deployment, problem)

    session.watch_configuration_checks(check)
    if problem is None:
        rig.nucleus.update_configuration(NAME, {"MaxQueue": 9})
    else:
        with pytest.raises(Exception, match="MaxQueue: no"):
            rig.nucleus.update_configuration(NAME, {"MaxQueue": 9})
    assert asked[0]["MaxQueue"] == 9
    assert session.configuration()["MaxQueue"] == (9 if problem is None else 7)


def test_a_message_that_python_cannot_write_as_json_becomes_one_that_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(_json_bytes(nested))
    assert _json_bytes({"x": [1, "ü"]}) == b'{"x": [1, "\\u00fc"]}'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ServiceError(message="no network"), "ServiceError: no network"),
        (ServiceError(), "ServiceError"),
        (StreamClosedError(), "StreamClosedError"),
        (TimeoutError("too long"), "TimeoutError: too long"),
        (DeserializeError("cannot read", ValueError(), b"a secret"), "DeserializeError"),
        (ServiceError(message="x" * 10_000), "ServiceError: " + "x" * 286),
    ],
)
def test_a_reason_is_told_in_few_words_and_without_payloads(error: Exception, text: str) -> None:
    assert describe(error) == text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidArgumentsError(message="bad topic"), FailureKind.INVALID),
        (UnauthorizedError(message="no"), FailureKind.UNAUTHORIZED),
        (ServiceError(message="no network"), FailureKind.TRANSIENT),
        (StreamClosedError(), FailureKind.LOST),
        (TimeoutError(), FailureKind.LOST),
    ],
)
def test_the_sdks_errors_are_mapped_to_what_they_say_about_the_next_attempt(
    error: Exception, kind: FailureKind
) -> None:
    assert classify(error).kind is kind
