"""Topics and topic filters: what may stand in one, whether two overlap, and how placeholders are filled in.

Pure text; it knows neither the runtimes nor the messages.
"""

from __future__ import annotations

import hashlib
import re

from ml_inference.limits import MAX_CLOUD_TOPIC_SLASHES, MAX_TOPIC_BYTES

_BREAKS_TOPIC = re.compile(r"[\x00-\x1f\x7f-\x9f+#/*%]")


def publish_topic(topic: str) -> str:
    """Accept a topic to publish to, which may hold `{thingName}` and `{equipmentId}`.

    Raises:
        ValueError: It breaks a rule; the text names it.
    """
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise ValueError(f"must be 1 to {MAX_TOPIC_BYTES} bytes long")
    plain = topic.replace("{thingName}", "x").replace("{equipmentId}", "x")
    wrong = sorted({character for character in plain if character in "+#*{}" or not character.isprintable()})
    if wrong:
        raise ValueError(
            f"must not hold {' '.join(map(repr, wrong))}; the only placeholders are {{thingName}} and {{equipmentId}}"
        )
    return topic


def cloud_topic(topic: str) -> str:
    """Accept a topic of AWS IoT Core to publish to; see `publish_topic`.

    Raises:
        ValueError: It breaks a rule; the text names it.
    """
    if topic.count("/") > MAX_CLOUD_TOPIC_SLASHES:
        raise ValueError(f"AWS IoT Core allows at most {MAX_CLOUD_TOPIC_SLASHES} slashes")
    return publish_topic(topic)


def subscribe_filter(topic: str) -> str:
    """Accept an MQTT filter to subscribe to.

    Raises:
        ValueError: It breaks a rule; the text names it.
    """
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise ValueError(f"must be 1 to {MAX_TOPIC_BYTES} bytes long")
    levels = topic.split("/")
    if (
        any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels)
        or "#" in levels[:-1]
    ):
        raise ValueError("'+' must stand for a whole level and '#' for the last one")
    wrong = sorted({character for character in topic if character in "*{}" or not character.isprintable()})
    if wrong:
        raise ValueError(f"must not hold {' '.join(map(repr, wrong))}")
    return topic


def filters_overlap(subscription: str, published: str) -> bool:
    """Whether a subscription may hear a topic whose placeholders could become anything.

    Args:
        subscription: MQTT filter.
        published: Topic that may hold `{thingName}` and `{equipmentId}`; they never add a level.
    """
    left, right = subscription.split("/"), published.split("/")
    for position, level in enumerate(left):
        if level == "#":
            return len(right) >= position
        if position >= len(right):
            return False
        if level != "+" and not _may_become(right[position], level):
            return False
    return len(left) == len(right)


def _may_become(template: str, level: str) -> bool:
    """Whether a level may be another once its placeholders are filled in; it errs on the side of yes."""
    before, placeholder, _ = template.partition("{")
    if not placeholder:
        return template == level
    after = template.rpartition("}")[2]
    return level.startswith(before) and level.endswith(after) and len(level) > len(before) + len(after)


def render_topic(template: str, *, thing_name: str, equipment_id: str = "") -> str:
    """Fill in a topic's placeholders.

    Characters that would break a topic (wildcards, `/`, `*`, control characters, and `%` itself) are percent-encoded, an
    empty value becomes `unknown`, and a value for which there is no room is cut and ends in a checksum, so that different
    machines never share a topic.

    Args:
        template: Topic that may hold `{thingName}` and `{equipmentId}`.
        thing_name: The device's name in AWS IoT.
        equipment_id: The machine.

    Returns:
        A topic of at most 256 bytes, where the template's own text leaves room.
    """
    if "{" not in template:
        return template
    with_thing = template.replace("{thingName}", _escape(thing_name))
    room = MAX_TOPIC_BYTES - len(with_thing.replace("{equipmentId}", "").encode())
    times = max(1, with_thing.count("{equipmentId}"))
    return with_thing.replace("{equipmentId}", _fit(_escape(equipment_id), max(9, room // times)))


def _escape(value: str) -> str:
    encoded = _BREAKS_TOPIC.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)
    return encoded or "unknown"


def _fit(value: str, room: int) -> str:
    raw = value.encode()
    if len(raw) <= room:
        return value
    mark = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: room - len(mark) - 1].decode("utf-8", "ignore") + "~" + mark
