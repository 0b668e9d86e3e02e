from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_inference.config import Configuration, ConfigurationError, parse_configuration
from ml_inference.topics import filters_overlap

KEY = "A" * 43 + "="


def value(key: str, given: Any) -> Any:
    """What one key becomes."""
    (field,) = (name for name, field in Configuration.model_fields.items() if field.alias == key)
    return getattr(parse_configuration({key: given}), field)


def refusal(**tree: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        parse_configuration(tree)
    return str(raised.value)


def test_an_empty_tree_is_the_defaults() -> None:
    assert parse_configuration({}) == Configuration()


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("MaxQueue", "7", 7),
        ("MaxQueue", 7.0, 7),
        ("MaxQueue", "7.0", 7),
        ("MaxQueue", " 7 ", 7),
        ("DebounceReadings", "3", 3),
        ("ExplainTopK", "0", 0),
        ("OutboxMaxMegabytes", "0", 0),
        ("CloudQos", "0", 0),
        ("CloudQos", 1.0, 1),
        ("Threshold", "0.5", 0.5),
        ("Threshold", "null", None),
        ("Threshold", None, None),
        ("Threshold", 1, 1.0),
        ("Threshold", "-3e2", -300.0),
        ("HealthIntervalSeconds", "60", 60.0),
        ("HealthIntervalSeconds", 2.5, 2.5),
        ("TrustedKeys", "[]", []),
        ("TrustedKeys", json.dumps([KEY]), [KEY]),
        ("TrustedKeys", [KEY], [KEY]),
        ("LogLevel", "debug", "DEBUG"),
        ("ModelDirectory", "", ""),
        ("Challenger", "/models/next", "/models/next"),
        ("InputTopic", "7", "7"),
        ("ResultTopic", "null", "null"),
    ],
)
def test_a_value_means_the_same_in_each_form_in_which_a_runtime_delivers_it(
    key: str, given: Any, expected: Any
) -> None:
    held = value(key, given)
    assert (held, type(held)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("key", "given", "reason"),
    [
        ("InputTopic", "", "must be 1 to 256 bytes long"),
        ("InputTopic", "ä" * 129, "must be 1 to 256 bytes long"),
        ("InputTopic", "a/#/b", "'#' for the last one"),
        ("InputTopic", "a/b+", "'+' must stand for a whole level"),
        ("InputTopic", "a/{thingName}", "must not hold '{' '}'"),
        ("InputTopic", "a\nb", r"must not hold '\n'"),
        ("InputTopic", "a/*", "must not hold '*'"),
        ("InputTopic", "\ud800", "surrogates not allowed"),
        ("InputTopic", None, "valid string"),
        ("ResultTopic", "a/+", "must not hold '+'"),
        ("ErrorTopic", "a/{equipmentID}", "the only placeholders are {thingName} and {equipmentId}"),
        ("HealthTopic", 5, "valid string"),
        ("CloudTopic", "a/b/c/d/e/f/g/h/i", "at most 7 slashes"),
        ("CloudTopic", "x" * 257, "must be 1 to 256 bytes long"),
        ("CloudPublish", "some", "'all', 'abnormal', 'changes' or 'none'"),
        ("CloudQos", 2, "less than or equal to 1"),
        ("CloudQos", "true", "valid integer"),
        ("CloudQos", False, "valid integer"),
        ("ModelDirectory", "models/a", "must be an absolute path"),
        ("Challenger", None, "valid string"),
        ("TrustedKeys", KEY, "valid list"),
        ("TrustedKeys", [KEY, 3], "valid string"),
        ("TrustedKeys", "[" * 100_000, "valid list"),
        ("TrustedKeys", "9" * 10_000, "valid list"),
        ("Threshold", "high", "valid number"),
        ("Threshold", "", "valid number"),
        ("Threshold", "NaN", "finite number"),
        ("Threshold", float("inf"), "finite number"),
        ("Threshold", True, "valid number"),
        ("DebounceReadings", 0, "greater than or equal to 1"),
        ("DebounceReadings", "1.5", "valid integer"),
        ("DebounceReadings", "null", "valid integer"),
        ("ExplainTopK", -1, "greater than or equal to 0"),
        ("ExplainTopK", 1e300, "less than or equal to 20"),
        ("MaxQueue", "seven", "valid integer"),
        ("MaxQueue", "true", "valid integer"),
        ("MaxQueue", {"a": 1}, "valid integer"),
        ("OutboxMaxMegabytes", "1e9", "less than or equal to 100000"),
        ("HealthIntervalSeconds", 0.5, "greater than or equal to 1"),
        ("HealthIntervalSeconds", "NaN", "Input should be"),
        ("HealthIntervalSeconds", "1e999", "less than or equal to 86400"),
        ("LogLevel", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key_and_the_rule(key: str, given: Any, reason: str) -> None:
    problem = refusal(**{key: given})
    assert problem.startswith(key)
    assert reason in problem
    assert len(problem) < 400


def test_every_wrong_value_is_named_at_once() -> None:
    problem = refusal(MaxQueue="many", Threshold="high", CloudPublish="all")
    assert "MaxQueue: " in problem
    assert "Threshold: " in problem
    assert "CloudPublish" not in problem


def test_unknown_keys_are_warnings_and_the_nucleuss_own_key_is_none(caplog: pytest.LogCaptureFixture) -> None:
    tree = {"MaxQueue": 5, "Colour\n": "red", "maxQueue": 7, "accessControl": {"aws.greengrass.ipc.pubsub": {}}}
    with caplog.at_level(logging.WARNING):
        assert parse_configuration(tree).max_queue == 5
    assert caplog.messages == [
        r"configuration: unknown key 'Colour\n' is ignored",
        "configuration: unknown key 'maxQueue' is ignored",
    ]


@pytest.mark.parametrize("key", ["ResultTopic", "ErrorTopic", "HealthTopic"])
@pytest.mark.parametrize(
    ("heard", "published"),
    [
        ("a/b", "a/b"),
        ("a/+", "a/b"),
        ("a/#", "a"),
        ("a/#", "a/b/c"),
        ("+/+", "a/b"),
        ("a/b", "a/{equipmentId}"),
        ("a/b", "{thingName}/b"),
        ("a/press-7-x", "a/press-{equipmentId}-x"),
        ("a/xy", "a/{thingName}{equipmentId}"),
    ],
)
def test_topics_that_would_make_a_loop_are_refused_with_both_keys(key: str, heard: str, published: str) -> None:
    problem = refusal(**{"InputTopic": heard, key: published})
    assert problem == f"InputTopic {heard!r} would hear what goes to {key} {published!r}: a loop"


def test_an_input_that_hears_everything_is_a_loop() -> None:
    assert refusal(InputTopic="#").endswith(": a loop")


@pytest.mark.parametrize(
    ("heard", "published"),
    [
        ("a/b", "a/b/c"),
        ("a/b", "a"),
        ("a/+", "a/b/c"),
        ("a/+", "a"),
        ("a/b/#", "a/c"),
        ("+", "a/b"),
        ("ml/inference/request", "ml/inference/result-{equipmentId}"),
        ("a/b", "a/b{equipmentId}"),
        ("a/b", "a/b/{equipmentId}"),
        ("a/b", "A/b"),
    ],
)
def test_topics_that_cannot_meet_are_accepted(heard: str, published: str) -> None:
    assert parse_configuration({"InputTopic": heard, "ResultTopic": published}).input_topic == heard


levels = st.sampled_from(["a", "b", "ab"])


@given(
    heard=st.lists(st.one_of(levels, st.just("+")), min_size=1, max_size=3),
    rest=st.booleans(),
    published=st.lists(st.one_of(levels, st.sampled_from(["{equipmentId}", "a{thingName}"])), min_size=1, max_size=4),
    filling=levels,
)
def test_no_topic_that_a_filter_matches_is_taken_for_harmless(
    heard: list[str], rest: bool, published: list[str], filling: str
) -> None:
    topic = "/".join(published).replace("{equipmentId}", filling).replace("{thingName}", filling).split("/")
    long_enough = len(topic) >= len(heard) if rest else len(topic) == len(heard)
    matches = long_enough and all(a in ("+", b) for a, b in zip(heard, topic, strict=False))
    if matches:
        assert filters_overlap("/".join([*heard, "#"] if rest else heard), "/".join(published))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from([field.alias or "" for field in Configuration.model_fields.values()])


@given(tree=st.dictionaries(keys | st.text(), json_values | json_values.map(json.dumps), max_size=5))
def test_whatever_a_deployment_sends_is_read_or_refused(tree: dict[str, Any]) -> None:
    problem = ""
    try:
        parse_configuration(tree)
    except ConfigurationError as error:
        problem = str(error)
    assert not problem or any(key in problem for key in tree)
