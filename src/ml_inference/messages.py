"""What goes over the wire: readings in, results and rejections out.

Turns bytes into validated readings and outcomes into JSON of a size that every runtime carries. It knows the features of
a model, but not how they are scored; it does no I/O. Nothing that a message holds raises here: a bad reading becomes a
`Rejection` that names the field and the rule, and its neighbours in a batch go on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError, from_json, to_json

from ml_inference.model.manifest import Feature

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest message that is parsed. Classic passes more; a gateway's memory should not depend on what a sibling sends."""
MAX_READINGS = 10_000
"""Most readings in one batch."""
MAX_VALUE = 3.4028234663852886e38
"""Largest finite float32, which is what a booster calculates with: beyond it a reading would be infinite to the model."""
MAX_IDENTIFIER_CHARACTERS = 128
"""Longest `equipment_id`: it is part of topics, which end at 256 bytes."""
MAX_CORRELATION_CHARACTERS = 256
MAX_ERRORS = 20
"""Most field errors reported for one reading; a model may have thousands of features."""
MAX_RECEIVED_CHARACTERS = 512
MAX_PAYLOAD_BYTES = 7_000
"""Largest payload of one publish: nucleus lite drops the connection at a frame over 10,000 bytes, in which the payload is
base64 and shares the room with the topic."""
MAX_TOPIC_AND_BASE64_BYTES = 9_700
"""What else is in a frame takes some 250 of nucleus lite's 10,000 bytes: 9,743 were carried, 9,759 not."""
MAX_TOPIC_BYTES = 256
"""AWS IoT Core's limit for a topic."""

JsonObject: TypeAlias = dict[str, Any]
CorrelationId: TypeAlias = str | int | None
Score: TypeAlias = float | list[float]


@dataclass(frozen=True, slots=True)
class Reading:
    """One validated reading.

    Attributes:
        equipment_id: The machine; "" where the message names none.
        timestamp: ISO 8601 in UTC with milliseconds; None where the message has none.
        correlation_id: The requester's own mark, echoed unchanged.
        values: Feature values in the model's column order and units.
    """

    equipment_id: str
    timestamp: str | None
    correlation_id: CorrelationId
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule: where (`loc`), which (`type`), and in words (`msg`)."""

    loc: tuple[str | int, ...]
    type: str
    msg: str

    def as_message(self) -> JsonObject:
        """The error as it goes over the wire."""
        return {
            "loc": [part[:256] if isinstance(part, str) else part for part in self.loc],
            "type": self.type,
            "msg": self.msg[:MAX_RECEIVED_CHARACTERS],
        }


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reading, or a whole message, that was not scored.

    Attributes:
        errors: What is wrong with it; at most `MAX_ERRORS`.
        received: The input: bytes of a message, or the JSON value of one reading in a batch.
        index: Position in the batch; None for a single reading or a whole message.
        equipment_id: As far as it could be read, else "".
        correlation_id: As far as it could be read, else None.
    """

    errors: tuple[FieldError, ...]
    received: Any = field(repr=False)
    index: int | None = None
    equipment_id: str = ""
    correlation_id: CorrelationId = None

    def as_result(self) -> JsonObject:
        """The place of this reading in its batch's results: `error` stands where the others have `score`."""
        return {
            "index": self.index,
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "error": [error.as_message() for error in self.errors[:3]],
        }

    def as_message(self) -> JsonObject:
        """The message for the error topic."""
        message: JsonObject = {
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "errors": [error.as_message() for error in self.errors],
            "received": self._received_text(),
        }
        if self.index is not None:
            message["index"] = self.index
        return message

    def _received_text(self) -> str:
        raw = self.received if isinstance(self.received, bytes) else to_json(self.received, inf_nan_mode="constants")
        # Four bytes are the longest character in UTF-8.
        return raw[: 4 * MAX_RECEIVED_CHARACTERS].decode("utf-8", "replace")[:MAX_RECEIVED_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one feature contributed to a score, in the booster's margin (log-odds for `binary:logistic`)."""

    feature: str
    value: float
    unit: str
    contribution: float

    def as_message(self) -> JsonObject:
        """The explanation as it goes over the wire."""
        return {"feature": self.feature, "value": self.value, "unit": self.unit, "contribution": self.contribution}


@dataclass(frozen=True, slots=True)
class Result:
    """A scored reading.

    Attributes:
        equipment_id: The machine.
        timestamp: When it was measured, else when it arrived; ISO 8601 in UTC with milliseconds.
        correlation_id: Echoed unchanged.
        score: The booster's output.
        threshold: In force when it was judged; None where the model makes no such statement.
        abnormal: Whether the score reaches the threshold; None without one.
        state: The machine's debounced state, `normal` or `abnormal`; None without a threshold.
        state_changed: Whether this reading changed that state, or is the machine's first.
        model_name: Name of the model that scored it.
        model_version: Its version.
        explanation: The features that pushed an abnormal score up, largest first.
        index: Position in the batch; None for a single reading.
    """

    equipment_id: str
    timestamp: str
    correlation_id: CorrelationId
    score: Score
    threshold: float | None
    abnormal: bool | None
    state: str | None
    state_changed: bool
    model_name: str
    model_version: str
    explanation: tuple[Explanation, ...] = ()
    index: int | None = None

    def as_message(self) -> JsonObject:
        """The message for the result topic; within a batch, its item."""
        message: JsonObject = {
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "timestamp": self.timestamp,
            "score": self.score,
            "threshold": self.threshold,
            "abnormal": self.abnormal,
            "state": self.state,
            "model": {"name": self.model_name, "version": self.model_version},
        }
        if self.explanation:
            message["explanation"] = [part.as_message() for part in self.explanation]
        if self.index is not None:
            message["index"] = self.index
        return message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input message.

    Attributes:
        items: A result or a rejection for each reading, in input order. A message that could not be taken apart is one
            rejection without an index.
        batch: Whether the input was a batch, so that the output is one, too.
        correlation_id: The batch's own, echoed unchanged.
    """

    items: tuple[Result | Rejection, ...]
    batch: bool = False
    correlation_id: CorrelationId = None

    @property
    def results(self) -> tuple[Result, ...]:
        """The scored readings."""
        return tuple(item for item in self.items if isinstance(item, Result))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The others."""
        return tuple(item for item in self.items if isinstance(item, Rejection))


@dataclass(frozen=True, slots=True)
class Decoded:
    """An input message, taken apart: what `Outcome` is before scoring."""

    items: tuple[Reading | Rejection, ...]
    batch: bool = False
    correlation_id: CorrelationId = None


_datetime = TypeAdapter(datetime)


def parse_timestamp(value: Any) -> str:
    """Normalise a time.

    Args:
        value: ISO 8601 (without an offset it is UTC), or a number: epoch seconds, or from 2e10 on (the year 2603) epoch
            milliseconds.

    Returns:
        ISO 8601 in UTC with milliseconds, such as `2026-11-22T03:15:00.120Z`.

    Raises:
        ValueError: It is none of these, or outside the years 1 to 9999.
    """
    moment = _datetime.validate_python(value)
    try:
        moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError("outside the years 1 to 9999") from error
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _timestamp(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return parse_timestamp(value)
    except ValueError:
        raise PydanticCustomError("timestamp", "Input should be ISO 8601, or epoch seconds or milliseconds") from None


def _optional_timestamp(value: Any) -> str | None:
    # These keys belong to the line, not to the contract: one that cannot be read is as good as none.
    try:
        return _timestamp(value)
    except PydanticCustomError:
        return None


def _correlation_id(value: Any) -> CorrelationId:
    if value is None or (isinstance(value, str) and len(value) <= MAX_CORRELATION_CHARACTERS):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    raise PydanticCustomError(
        "correlation_id",
        "Input should be a string of at most {characters} characters or an integer of 64 bits",
        {"characters": MAX_CORRELATION_CHARACTERS},
    )


_Time = Annotated[
    str | None,
    BeforeValidator(_timestamp),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}]}),
]
_LineTime = Annotated[str | None, BeforeValidator(_optional_timestamp), WithJsonSchema({})]
_Correlation = Annotated[
    str | int | None,
    BeforeValidator(_correlation_id),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "maxLength": MAX_CORRELATION_CHARACTERS}, {"type": "integer"}, {"type": "null"}]}
    ),
]


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, title="Reading")

    equipment_id: Annotated[str, Field(max_length=MAX_IDENTIFIER_CHARACTERS)] | None = None
    timestamp: _Time = None
    correlation_id: _Correlation = None


class _Line(_Envelope):
    sDateTime: _LineTime = None  # noqa: N815 - the line's own key
    timeInSeconds: _LineTime = None  # noqa: N815


def reading_model(features: Sequence[Feature]) -> type[BaseModel]:
    """The pydantic model of one reading: every feature a finite float32 within its physical limits, and the envelope.

    Args:
        features: The model's inputs in column order.

    Returns:
        A class whose fields `f0`, `f1`, ... are the features in that order, under the users' names as aliases.
    """
    fields: dict[str, Any] = {
        f"f{column}": (_value_of(feature), Field(alias=feature.name, description=feature.unit))
        for column, feature in enumerate(features)
    }
    names = {feature.name for feature in features}
    base = _Envelope if names & set(_Line.model_fields) else _Line
    model: type[BaseModel] = create_model("Reading", __base__=base, **fields)
    return model


def _value_of(feature: Feature) -> Any:
    low, high = feature.minimum, feature.maximum
    least = -MAX_VALUE if low is None else max(low, -MAX_VALUE)
    most = MAX_VALUE if high is None else min(high, MAX_VALUE)
    limits = {key: value for key, value in (("minimum", low), ("maximum", high)) if value is not None}
    return Annotated[
        float,
        Field(strict=True, allow_inf_nan=False, ge=least, le=most),
        # Without float32's limits: who reads the schema would take them for the sensor's.
        WithJsonSchema({"type": "number"} | limits),
    ]


class ReadingDecoder:
    """Takes input messages apart for one model.

    Args:
        features: The model's inputs in column order.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        # The core validator itself, as the adapter's own method costs as much again as the validation of a reading.
        self._validate = TypeAdapter(reading_model(features)).validator.validate_python
        self._columns = tuple(f"f{column}" for column in range(len(features)))

    def decode(self, payload: bytes) -> Decoded:
        """Take one message apart.

        Args:
            payload: JSON in UTF-8: a reading, an array of readings, or an object with `readings`.

        Returns:
            A reading or a rejection for each reading in the message; one rejection for a message that cannot be read.
        """
        if len(payload) > MAX_MESSAGE_BYTES:
            return _refuse(payload, "too_large", f"Message of {len(payload)} bytes is larger than {MAX_MESSAGE_BYTES}")
        try:
            document = from_json(payload, cache_strings="keys")
        except ValueError as error:
            return _refuse(payload, "json_invalid", f"Invalid JSON: {error}")
        if isinstance(document, dict) and isinstance(document.get("readings"), list):
            try:
                correlation_id = _correlation_id(document.get("correlation_id"))
            except PydanticCustomError as error:
                return _refuse(payload, error.type, error.message(), loc=("correlation_id",))
            return self._batch(payload, document["readings"], correlation_id)
        if isinstance(document, list):
            return self._batch(payload, document, None)
        return Decoded((self._reading(document, received=payload),))

    def reading(self, document: Any, index: int | None = None) -> Reading | Rejection:
        """Validate one reading that is already a JSON value, such as a row of a table."""
        return self._reading(document, received=document, index=index)

    def _batch(self, payload: bytes, documents: list[Any], correlation_id: CorrelationId) -> Decoded:
        if not documents:
            return _refuse(payload, "too_short", "A batch needs at least one reading", correlation_id=correlation_id)
        if len(documents) > MAX_READINGS:
            text = f"A batch of {len(documents)} readings is larger than {MAX_READINGS}"
            return _refuse(payload, "too_long", text, correlation_id=correlation_id)
        items = tuple(self.reading(document, index) for index, document in enumerate(documents))
        return Decoded(items, batch=True, correlation_id=correlation_id)

    def _reading(self, document: Any, *, received: Any, index: int | None = None) -> Reading | Rejection:
        if not isinstance(document, dict):
            error = FieldError((), "object_type", "Input should be an object")
            return Rejection(errors=(error,), received=received, index=index)
        try:
            held = self._validate(document).__dict__
        except ValidationError as error:
            return Rejection(
                errors=_field_errors(error),
                received=received,
                index=index,
                equipment_id=_readable_equipment(document),
                correlation_id=_readable_correlation(document),
            )
        timestamp = held["timestamp"] or held.get("sDateTime") or held.get("timeInSeconds")
        return Reading(
            equipment_id=held["equipment_id"] or "",
            timestamp=timestamp,
            correlation_id=held["correlation_id"],
            values=tuple(map(held.__getitem__, self._columns)),
        )


def _field_errors(error: ValidationError) -> tuple[FieldError, ...]:
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [FieldError(tuple(item["loc"]), item["type"], item["msg"]) for item in listed[:MAX_ERRORS]]
    if len(listed) > MAX_ERRORS:
        errors[-1] = FieldError((), "more", f"{len(listed) - MAX_ERRORS + 1} more errors")
    return tuple(errors)


def _readable_equipment(document: Mapping[str, Any]) -> str:
    value = document.get("equipment_id")
    return value if isinstance(value, str) and len(value) <= MAX_IDENTIFIER_CHARACTERS else ""


def _readable_correlation(document: Mapping[str, Any]) -> CorrelationId:
    try:
        return _correlation_id(document.get("correlation_id"))
    except PydanticCustomError:
        return None


def _refuse(
    payload: bytes, kind: str, text: str, *, loc: tuple[str | int, ...] = (), correlation_id: CorrelationId = None
) -> Decoded:
    """A message that is refused as a whole."""
    return Decoded((Rejection((FieldError(loc, kind, text),), received=payload, correlation_id=correlation_id),))


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
    kept = ("index", "correlation_id", "equipment_id", "thing_name", "id")
    return {key: item[key] for key in kept if key in item} | {"error": [error.as_message()]}


def payload_limit(topic: str) -> int:
    """Largest payload in bytes that nucleus lite carries on a topic: a long topic takes its share of the frame.

    In the frame the payload is base64, and the topic JSON in ASCII, which makes six bytes of an accented letter.
    """
    room = (MAX_TOPIC_AND_BASE64_BYTES - len(json.dumps(topic))) // 4 * 3
    return min(room, MAX_PAYLOAD_BYTES - max(0, len(topic.encode()) - 64))


_BREAKS_TOPIC = re.compile(r"[\x00-\x1f\x7f-\x9f+#/*%]")


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


def group_by(items: Iterable[Result | Rejection], key: Callable[[str], str]) -> dict[str, list[Result | Rejection]]:
    """Group by a key of the machine, such as its topic, keeping the order within each group."""
    groups: dict[str, list[Result | Rejection]] = {}
    for item in items:
        groups.setdefault(key(item.equipment_id), []).append(item)
    return groups
