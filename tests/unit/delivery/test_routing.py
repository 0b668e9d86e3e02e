from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_inference.config import Configuration
from ml_inference.delivery.encoding import payload_limit
from ml_inference.delivery.routing import ERROR_BURST, ERRORS_PER_SECOND, FIRST_REJECTIONS, Message, Router
from ml_inference.monitoring.states import MAX_MACHINES
from ml_inference.scoring.outcomes import Explanation, FieldError, Outcome, Rejection, Result
from ml_inference.scoring.readings import ReadingDecoder
from support.clocks import Clock
from support.models import NORMAL, SIX


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock | None = None, thing_name: str = "core", **settings: Any) -> Router:
    numbers = count(1)
    return Router(Configuration(**settings), thing_name, clock or Clock(), lambda: f"id-{next(numbers)}")


def result(equipment: str = "m", *, abnormal: bool = False, changed: bool = False, **more: Any) -> Result:
    return Result(
        **{
            "equipment_id": equipment,
            "timestamp": "2026-11-22T03:15:00.120Z",
            "correlation_id": None,
            "score": 0.9 if abnormal else 0.1,
            "threshold": 0.5,
            "abnormal": abnormal,
            "state": "abnormal" if abnormal else "normal",
            "state_changed": changed,
            "model_name": "small",
            "model_version": "1.0.0",
        }
        | more
    )


def rejection(equipment: str = "m", **more: Any) -> Rejection:
    error = FieldError(("wRMSCurrent",), "missing", "Field required")
    return Rejection(**{"errors": (error,), "received": {"x": 1}, "equipment_id": equipment} | more)


def read(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.payload)
    return document


def test_a_result_goes_to_the_result_topic_as_it_is() -> None:
    (message,) = make().results(Outcome((result(correlation_id="a1"),)))
    assert message.topic == "ml/inference/result"
    assert read(message) == result(correlation_id="a1").as_message()
    assert (message.weight, message.alarm, message.id) == (1, False, "")


def test_a_reading_that_was_rejected_alone_goes_to_the_error_topic_only() -> None:
    router = make()
    outcome = Outcome((rejection(correlation_id=7),))
    assert router.results(outcome) == []
    assert router.cloud(outcome) == ([], 0)
    (message,) = router.errors(outcome)
    assert message.topic == "ml/inference/error"
    assert read(message)["correlation_id"] == 7


def test_a_batch_stays_together_with_its_rejected_readings_in_their_places() -> None:
    items = (result(index=0), rejection(index=1), result(index=2, abnormal=True))
    outcome = Outcome(items, batch=True, correlation_id="batch")
    router = make()
    (local,) = router.results(outcome)
    document = read(local)
    assert document["correlation_id"] == "batch"
    assert [item["index"] for item in document["results"]] == [0, 1, 2]
    assert "error" in document["results"][1]
    assert (local.weight, local.alarm) == (2, True)
    (cloud,), unwanted = router.cloud(outcome)
    assert read(cloud) == document | {"thing_name": "core", "id": "id-1"}
    assert unwanted == 0
    (error,) = router.errors(outcome)
    assert (read(error)["correlation_id"], read(error)["index"]) == ("batch", 1)


def test_each_machine_can_have_topics_of_its_own_and_keeps_its_order() -> None:
    router = make(result_topic="out/{thingName}/{equipmentId}", error_topic="bad/{equipmentId}")
    items = (result("a", index=0), rejection("b/1", index=1), result("a", index=2), result("", index=3))
    outcome = Outcome(items, batch=True)
    assert [
        (message.topic, [item["index"] for item in read(message)["results"]]) for message in router.results(outcome)
    ] == [
        ("out/core/a", [0, 2]),
        ("out/core/b%2F1", [1]),
        ("out/core/unknown", [3]),
    ]
    assert [message.topic for message in router.errors(outcome)] == ["bad/b%2F1"]


def test_every_message_to_the_cloud_has_an_id_of_its_own_and_the_things_name() -> None:
    router = make(thing_name="press-7")
    documents = [read(router.cloud(Outcome((result(),)))[0][0]) for _ in range(3)]
    assert [document["id"] for document in documents] == ["id-1", "id-2", "id-3"]
    assert {document["thing_name"] for document in documents} == {"press-7"}
    assert router.cloud(Outcome((result(),)))[0][0].topic == "greengrass/ml/inference/press-7"


def told(router: Router, *results: Result, batch: bool = False) -> tuple[list[Any], int]:
    """Correlation ids that go to the cloud, and the number that is not wanted there."""
    sent: list[Any] = []
    unwanted = 0
    outcomes = [Outcome(results, batch=True)] if batch else [Outcome((each,)) for each in results]
    for outcome in outcomes:
        messages, more = router.cloud(outcome)
        unwanted += more
        for document in map(read, messages):
            sent += [item["correlation_id"] for item in document.get("results", [document])]
    return sent, unwanted


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("all", ([0, 1, 2, 3], 0)), ("abnormal", ([1, 2], 2)), ("changes", ([0, 1, 3], 1)), ("none", ([], 4))],
)
def test_the_policy_decides_what_the_cloud_gets_and_the_rest_is_counted(
    policy: str, expected: tuple[list[int], int], batch: bool
) -> None:
    results = [
        result(correlation_id=0, changed=True),
        result(correlation_id=1, abnormal=True, changed=True),
        result(correlation_id=2, abnormal=True),
        result(correlation_id=3, changed=True),
    ]
    assert told(make(cloud_publish=policy), *results, batch=batch) == expected


def test_with_changes_a_machine_is_heard_of_once_a_health_interval_though_nothing_changes(clock: Clock) -> None:
    router = make(clock, cloud_publish="changes", health_interval_seconds=60)
    sent = []
    for second in range(200):
        sent += told(router, result("a", correlation_id=second))[0]
        clock.moment += 1
    assert sent == [0, 60, 120, 180]
    assert told(router, result("b", correlation_id="first")) == (["first"], 0)


def test_a_change_begins_the_interval_anew(clock: Clock) -> None:
    router = make(clock, cloud_publish="changes", health_interval_seconds=60)
    told(router, result(changed=True))
    clock.moment += 50
    assert told(router, result(correlation_id=1, changed=True)) == ([1], 0)
    clock.moment += 50
    assert told(router, result()) == ([], 1)


def test_with_changes_made_up_names_do_not_fill_the_memory() -> None:
    router = make(cloud_publish="changes")
    for number in range(MAX_MACHINES + 10):
        router.cloud(Outcome((result(f"made-up-{number}"),)))
    assert len(router._last_to_cloud) == MAX_MACHINES


def test_a_flood_of_bad_readings_is_no_flood_of_errors_and_what_is_left_out_is_counted(clock: Clock) -> None:
    router = make(clock)
    flood = Outcome(tuple(rejection(index=index) for index in range(1_000)), batch=True)
    assert len(router.errors(flood)) == ERROR_BURST
    assert router.errors_suppressed == 1_000 - ERROR_BURST
    clock.moment += 1
    assert len(router.errors(flood)) == ERRORS_PER_SECOND
    clock.moment += 3_600
    assert len(router.errors(flood)) == ERROR_BURST


def test_a_changed_configuration_applies_to_the_next_message() -> None:
    router = make()
    router.configuration = Configuration(result_topic="elsewhere", cloud_publish="none")
    assert router.results(Outcome((result(),)))[0].topic == "elsewhere"
    assert router.cloud(Outcome((result(),))) == ([], 1)


def test_a_large_batch_is_split_and_its_parts_share_out_its_weight() -> None:
    items = tuple(
        rejection(index=index) if index % 10 == 0 else result(index=index, abnormal=index == 199)
        for index in range(200)
    )
    outcome = Outcome(items, batch=True, correlation_id="batch")
    router = make()
    for messages in (router.results(outcome), router.cloud(outcome)[0]):
        documents = [read(message) for message in messages]
        assert [document["part"] for document in documents] == list(range(1, len(documents) + 1))
        assert {document["parts"] for document in documents} == {len(documents)}
        assert [item["index"] for document in documents for item in document["results"]] == list(range(200))
        assert sum(message.weight for message in messages) == 180
        assert [message.alarm for message in messages] == [False] * (len(messages) - 1) + [True]


def test_a_part_that_is_just_full_has_room_for_its_id() -> None:
    router = make(thing_name="core")
    router._message_id = lambda: "0123456789abcdef-1000000"
    for more in range(60):
        items = [result("m" * more, index=0), *(result(index=index) for index in range(1, 60))]
        messages, _ = router.cloud(Outcome(tuple(items), batch=True))
        assert sum(len(read(message)["results"]) for message in messages) == 60
        assert all(len(message.payload) <= payload_limit(message.topic) for message in messages)


def test_a_result_that_is_too_large_loses_its_explanation_first_and_then_itself() -> None:
    explanation = tuple(Explanation("feature " * 30, 1.0, "unit", 1.0) for _ in range(40))
    router = make()
    for outcome in (
        Outcome((result(explanation=explanation, correlation_id="a1"),)),
        Outcome((result(explanation=explanation, correlation_id="a1", index=0),), batch=True),
    ):
        document = read(router.results(outcome)[0])
        (item,) = document.get("results", [document])
        assert (item["score"], item["correlation_id"], "explanation" in item) == (0.1, "a1", False)
    (message,), _ = router.cloud(Outcome((result(score=[0.001] * 2_000, correlation_id="a1"),)))
    document = read(message)
    assert document["error"][0]["type"] == "result_too_large"
    assert (document["correlation_id"], document["thing_name"], document["id"]) == ("a1", "core", "id-1")
    assert message.weight == 1


def test_health_is_shortened_rather_than_too_large() -> None:
    problems = dict.fromkeys(("configuration", "model", "challenger", "cloud", "outbox"), "x" * 500)
    message = make().health({"state": "running", "problems": problems, "directory": "d" * 4_500})
    assert len(message.payload) <= payload_limit(message.topic)
    assert read(message)["problems"]["model"] == "x" * 80
    assert read(make().health({"state": "running", "problems": problems}))["problems"] == problems


texts = st.text(max_size=128) | st.sampled_from(["\x01" * 128, "\U0001f600" * 128, '"\\' * 64, "%" * 128])
marks = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=256) | st.just("\x02" * 256)
explanations = st.lists(
    st.builds(
        Explanation, st.text(min_size=1, max_size=256), st.floats(-1e9, 1e9), st.text(max_size=64), st.just(1.25)
    ),
    max_size=20,
).map(tuple)
results = st.builds(
    result, texts, abnormal=st.booleans(), correlation_id=marks, explanation=explanations, index=st.integers(0, 9_999)
)
errors = st.lists(
    st.builds(
        FieldError, st.tuples(st.text(max_size=300) | st.just("\x01" * 300)), st.just("missing"), st.just("x" * 600)
    ),
    min_size=1,
    max_size=20,
).map(tuple)
rejections = st.builds(
    rejection,
    texts,
    errors=errors,
    received=st.binary(max_size=600) | st.just(b"\x00" * 600),
    correlation_id=marks,
    index=st.integers(0, 9_999),
)
topics = st.sampled_from(["out", "out/{equipmentId}", "{thingName}/{equipmentId}/" + "x" * 150])


@settings(max_examples=60)
@given(items=st.lists(results | rejections, min_size=1, max_size=30), batch=st.booleans(), mark=marks, topic=topics)
def test_no_message_is_ever_larger_than_lite_carries_and_nothing_is_left_out(
    items: list[Result | Rejection], batch: bool, mark: str | int | None, topic: str
) -> None:
    outcome = Outcome(tuple(items), batch=True, correlation_id=mark) if batch else Outcome((items[0],))
    router = make(thing_name="t" * 40, result_topic=topic, error_topic=topic, cloud_topic=topic)
    local, cloud = router.results(outcome), router.cloud(outcome)[0]
    for message in local + cloud + router.errors(outcome):
        assert len(message.payload) <= payload_limit(message.topic)
        assert len(message.topic.encode()) <= 256
    for messages in (local, cloud):
        assert sum(message.weight for message in messages) == len(outcome.results)
        if batch and messages:
            assert sum(len(read(message)["results"]) for message in messages) == len(outcome.items)


DECODER = ReadingDecoder(SIX)


def hostile() -> Iterator[bytes]:
    yield b"\x00" * 2_000_000
    yield b"[" * 100_000
    yield json.dumps(NORMAL | {"wRMSCurrent": "\x00" * 100_000}).encode()
    yield json.dumps(
        {"x" * 5_000: "\x01" * 5_000, "equipment_id": "\x01" * 128, "correlation_id": "\x02" * 256}
    ).encode()
    yield json.dumps([[[]]] * 10_000).encode()
    yield json.dumps([{}] * 10_001).encode()


@pytest.mark.parametrize("payload", list(hostile()), ids=range(6))
def test_errors_about_hostile_messages_are_small(payload: bytes) -> None:
    decoded = DECODER.decode(payload)
    outcome = Outcome(tuple(item for item in decoded.items if isinstance(item, Rejection)), batch=decoded.batch)
    messages = make(error_topic="ml/inference/error/{equipmentId}").errors(outcome)
    assert messages
    assert all(len(message.payload) <= payload_limit(message.topic) for message in messages)


def test_the_worst_rejection_fits() -> None:
    worst = tuple(FieldError(("\x01" * 256,), "missing", "x" * 600) for _ in range(20))
    mark, machine = "\x02" * 256, "\x01" * 128
    error = rejection(machine, errors=worst, correlation_id=mark, received=b"\x03" * 600, index=9_999)
    (message,) = make(error_topic="e" * 200 + "/{equipmentId}").errors(Outcome((error,), batch=True))
    assert len(message.payload) <= payload_limit(message.topic)
    assert (read(message)["correlation_id"], read(message)["equipment_id"]) == (mark, machine)


def test_every_part_of_a_batch_to_the_cloud_has_room_for_its_id_whatever_the_sizes() -> None:
    router = make()
    for length in range(64):
        outcome = Outcome(
            tuple(result(f"machine-{'x' * length}", index=index) for index in range(60)), batch=True, correlation_id=7
        )
        messages, _ = router.cloud(outcome)
        documents = [read(message) for message in messages]
        assert [item["index"] for document in documents for item in document["results"]] == list(range(60)), length
        assert all(len(message.payload) <= payload_limit(message.topic) for message in messages)


def test_with_changes_the_machine_that_was_silent_the_longest_is_forgotten_first(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_inference.delivery.routing.MAX_MACHINES", 2)
    router = make(clock, cloud_publish="changes", health_interval_seconds=60)

    def heard(machine: str) -> bool:
        return bool(router.cloud(Outcome((result(machine),)))[0])

    assert heard("first")
    assert heard("second")
    clock.moment += 60
    assert heard("first")  # now "second" is the one that was silent the longest
    assert heard("third")
    assert not heard("first")
    assert heard("second")


def test_a_batch_of_many_rejected_readings_becomes_no_multiple_of_itself_and_outranks_no_result() -> None:
    payload = json.dumps([NORMAL, *[{}] * 9_999]).encode()
    rejected = [item for item in DECODER.decode(payload).items if isinstance(item, Rejection)]
    assert len(rejected) == 9_999
    assert len(payload) > 30_000
    outcome = Outcome((result(index=0), *rejected), batch=True, correlation_id="flood")
    router = make()
    for messages in (router.results(outcome), router.cloud(outcome)[0]):
        assert sum(len(message.payload) for message in messages) < len(payload)
        assert [message.weight for message in messages] == [1]
        (document,) = map(read, messages)
        assert document["rejected"] == {"count": 9_999, "listed": FIRST_REJECTIONS}
        assert [item["index"] for item in document["results"]] == list(range(1 + FIRST_REJECTIONS))


def test_the_first_rejections_are_listed_in_their_places_and_no_result_is_left_out() -> None:
    items = tuple(rejection(index=index) if index % 2 else result(index=index) for index in range(200))
    documents = [read(message) for message in make().results(Outcome(items, batch=True))]
    assert all(document["rejected"]["count"] == 100 for document in documents)
    listed = [item["index"] for document in documents for item in document["results"]]
    assert listed == sorted([*range(0, 200, 2), *range(1, 2 * FIRST_REJECTIONS, 2)])
