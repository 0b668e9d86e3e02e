"""Messages as bytes that every runtime carries: JSON, split and shortened to fit.

Pure; it decides neither topics nor order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from ml_inference.limits import MAX_PAYLOAD_BYTES, MAX_TOPIC_AND_BASE64_BYTES
from ml_inference.scoring.outcomes import FieldError, JsonObject, Rejection, Result


def dump(message: JsonObject) -> bytes:
    """JSON in UTF-8 without spaces."""
    return to_json(message)


def split(items: Sequence[JsonObject], envelope: JsonObject, limit: int) -> list[JsonObject]:
    """Pack items into as few messages as fit the limit, in order.

    Args:
        items: What is to be sent; one that is larger than the limit on its own is shortened, see `shorten`.
        envelope: What each message holds beside its `results`.
        limit: Largest message in bytes.

    Returns:
        Messages with `results`; where there are several each has `part` (from 1) and `parts`.
    """
    sizes = [len(dump(item)) + 1 for item in items]
    room = limit - len(dump(envelope | {"results": []}))
    if sum(sizes) <= room:
        return [envelope | {"results": list(items)}]
    room -= 26  # ,"part":9999,"parts":9999
    if max(sizes) > room:
        items = [shorten(item, room - 1) for item in items]
        sizes = [len(dump(item)) + 1 for item in items]
    groups: list[list[JsonObject]] = [[]]
    used = 0
    for item, size in zip(items, sizes, strict=True):
        if groups[-1] and used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(item)
        used += size
    return [
        envelope | {"results": group, "part": part, "parts": len(groups)} for part, group in enumerate(groups, start=1)
    ]


def shorten(item: JsonObject, limit: int) -> JsonObject:
    """What of one result fits: all of it, or all but its explanation, or an error in the place of its score."""
    size = len(dump(item))
    if size <= limit:
        return item
    shorter = {key: value for key, value in item.items() if key != "explanation"}
    if len(dump(shorter)) <= limit:
        return shorter
    error = FieldError((), "result_too_large", f"Result of {size} bytes is larger than a message may be")
    kept = ("index", "correlation_id", "equipment_id", "thing_name", "id", "sequence")
    return {key: item[key] for key in kept if key in item} | {"error": [error.as_message()]}


@lru_cache(maxsize=10_000)  # a topic for each machine, perhaps
def payload_limit(topic: str) -> int:
    """Largest payload in bytes that nucleus lite carries on a topic: a long topic takes its share of the frame.

    In the frame the payload is base64, and the topic JSON in ASCII, which makes six bytes of an accented letter.
    """
    room = (MAX_TOPIC_AND_BASE64_BYTES - len(json.dumps(topic))) // 4 * 3
    return min(room, MAX_PAYLOAD_BYTES - max(0, len(topic.encode()) - 64))


def fit_error(message: dict[str, Any], limit: int) -> bytes:
    """An error message within the limit: errors beyond the first few and most of the text received go."""
    payload = dump(message)
    for errors, characters in ((3, 64), (1, 0)):
        if len(payload) > limit:
            shorter = {"errors": message["errors"][:errors], "received": message["received"][:characters]}
            payload = dump(message | shorter)
    return payload


def group_by(items: Iterable[Result | Rejection], key: Callable[[str], str]) -> dict[str, list[Result | Rejection]]:
    """Group by a key of the machine, such as its topic, keeping the order within each group."""
    groups: dict[str, list[Result | Rejection]] = {}
    for item in items:
        groups.setdefault(key(item.equipment_id), []).append(item)
    return groups
