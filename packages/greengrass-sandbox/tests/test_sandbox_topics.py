from __future__ import annotations

import asyncio

import pytest

from greengrass_sandbox.access import MQTT_PROXY, PUBSUB, is_allowed
from greengrass_sandbox.topics import Tap, matches


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$aws/x", False),
        ("+/x", "$aws/x", False),
        ("$aws/#", "$aws/x", True),
        ("a/b+", "a/bc", False),
        ("a#", "ab", False),
        ("a/#/c", "a/b/c", False),
        ("a/", "a", False),
        ("a/+/#", "a/b", True),
    ],
)
def test_topic_filters_match_as_mqtt_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@pytest.mark.parametrize(
    ("service", "resource", "topic", "expected"),
    [
        (PUBSUB, "a/*", "a/b/c", True),
        (PUBSUB, "a/*", "a", False),
        (PUBSUB, "*/c", "a/b/c", True),
        (PUBSUB, "a*c", "abc", True),
        (PUBSUB, "a/+", "a/b", False),
        (PUBSUB, "a/+", "a/+", True),
        (PUBSUB, "a/#", "a/b", False),
        (PUBSUB, "a.c", "abc", False),
        (PUBSUB, "a/${*}", "a/*", True),
        (PUBSUB, "a/${*}", "a/b", False),
        (PUBSUB, "*", "", True),
        (MQTT_PROXY, "a/+", "a/b", True),
        (MQTT_PROXY, "a/+", "a/b/c", False),
        (MQTT_PROXY, "a/#", "a/b/+", True),
        (MQTT_PROXY, "a/#", "a", False),
        (MQTT_PROXY, "a/+/c", "a/b/c", True),
        (MQTT_PROXY, "a/b", "a/bc", False),
        (MQTT_PROXY, "a/*", "a/b/c", True),
    ],
)
def test_resources_cover_topics_as_the_runtimes_match_them(
    service: str, resource: str, topic: str, expected: bool
) -> None:
    policies = {service: {"p": {"operations": ["op"], "resources": [resource]}}}
    assert is_allowed(policies, service, "op", topic) is expected


@pytest.mark.parametrize(
    "policies",
    [
        None,
        [],
        "all",
        {},
        {PUBSUB: None},
        {PUBSUB: {"p": {}}},
        {PUBSUB: {"p": {"operations": "*", "resources": "*"}}},
        {PUBSUB: {"p": {"operations": ["other"], "resources": ["*"]}}},
        {MQTT_PROXY: {"p": {"operations": ["*"], "resources": ["*"]}}},
    ],
)
def test_what_no_policy_allows_is_refused(policies: object) -> None:
    assert not is_allowed(policies, PUBSUB, "op", "topic")


def test_a_tap_that_nobody_reads_loses_the_oldest_and_counts_them() -> None:
    async def read() -> list[int]:
        tap: Tap[int] = Tap(lambda _: None, size=3)
        for number in range(5):
            tap.put(number)
        tap.close()
        assert tap.dropped == 2
        return [number async for number in tap]

    assert asyncio.run(read()) == [2, 3, 4]


def test_reading_a_silent_tap_ends_at_the_deadline() -> None:
    async def read() -> None:
        tap: Tap[int] = Tap(lambda _: None)
        with pytest.raises(TimeoutError, match="nothing came"):
            await tap.get(0.01)
        tap.put(1)
        assert await tap.get(1) == 1

    asyncio.run(read())
