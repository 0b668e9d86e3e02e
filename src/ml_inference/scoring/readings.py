"""Bytes to validated readings.

It knows the features of a model, but not how they are scored; it does no I/O. Nothing that a message holds raises here: a
bad reading becomes a `Rejection` that names the field and the rule, and its neighbours in a batch go on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timezone, tzinfo
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError, from_json

from ml_inference.limits import MAX_FLOAT32
from ml_inference.model.manifest import Feature
from ml_inference.scoring.outcomes import MAX_ERRORS, CorrelationId, FieldError, Rejection
from ml_inference.times import TIME_KEYS, TimeError, parse_timestamp
from ml_inference.wire import MAX_RECEIVED_CHARACTERS

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest message that is parsed. Classic passes more; a gateway's memory should not depend on what a sibling sends."""
MAX_READINGS = 10_000
"""Most readings in one batch."""
MAX_IDENTIFIER_CHARACTERS = 128
"""Longest `equipment_id`: it is part of topics, which end at 256 bytes."""
MAX_CORRELATION_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """One validated reading.

    Attributes:
        equipment_id: The machine; "" where the message names none.
        timestamp: ISO 8601 in UTC with milliseconds; None where the message has none.
        correlation_id: The requester's own mark, echoed unchanged.
        values: Feature values in the model's column order and units; NaN for one that is missing, the code of a category.
        held: Columns that a gateway merely repeated.
        explain: Whether a fresh explanation is asked for.
        label: What the line itself says of the machine; None where it says nothing.
    """

    equipment_id: str
    timestamp: str | None
    correlation_id: CorrelationId
    values: tuple[float, ...]
    held: tuple[int, ...] = ()
    explain: bool = False
    label: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose readings are not looked at yet.

    Attributes:
        documents: A JSON value for each reading.
        correlation_id: The batch's own.
    """

    documents: Sequence[Any]
    correlation_id: CorrelationId

    @property
    def machines(self) -> frozenset[str]:
        """Whose readings it holds."""
        return frozenset(_readable_equipment(one) for one in self.documents if isinstance(one, dict))


@dataclass(frozen=True, slots=True)
class Decoded:
    """An input message, taken apart: what `Outcome` is before scoring."""

    items: tuple[Reading | Rejection, ...]
    batch: bool = False
    correlation_id: CorrelationId = None


def _timestamp(value: Any, info: ValidationInfo[Any]) -> str | None:
    if value is None:
        return None
    try:
        return parse_timestamp(value, info.context or timezone.utc)
    except TimeError as error:
        raise PydanticCustomError("timestamp", "Input {problem}", {"problem": str(error)}) from None


def _optional_timestamp(value: Any, info: ValidationInfo[Any]) -> str | None:
    # These keys belong to the line, not to the contract: one that cannot be read is as good as none.
    try:
        return _timestamp(value, info)
    except PydanticCustomError:
        return None


def _correlation_id(value: Any) -> CorrelationId:
    if value is None or (isinstance(value, str) and len(value) <= MAX_CORRELATION_CHARACTERS):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)  # the classic nucleus makes floats of the integers in a JSON message
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


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


# Wishes, not measurements: one that cannot be read is as good as none.
_WISHES: dict[str, Any] = {
    "explain": Annotated[bool, BeforeValidator(lambda value: value is True), WithJsonSchema({"type": "boolean"})],
    "held": Annotated[
        list[str], BeforeValidator(_names), WithJsonSchema({"type": "array", "items": {"type": "string"}})
    ],
}


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
        f"f{column}": (
            _value_of(feature),
            Field(alias=feature.name, description=feature.unit, default=None if feature.missing_allowed else ...),
        )
        for column, feature in enumerate(features)
    }
    names = {feature.name for feature in features}
    fields |= {key: (kind | None, None) for key, kind in _WISHES.items() if key not in names}
    base = _Envelope if names & set(_Line.model_fields) else _Line
    model: type[BaseModel] = create_model("Reading", __base__=base, **fields)
    return model


def _value_of(feature: Feature) -> Any:
    number: Any = _number(feature) if feature.categories is None else Literal[tuple(feature.categories)]
    kind = number | None if feature.missing_allowed else number
    gone = frozenset(feature.missing_values)
    if not gone:
        return kind
    return Annotated[kind, BeforeValidator(lambda value: None if _finite(value) in gone else value)]


def _number(feature: Feature) -> Any:
    low, high = feature.minimum, feature.maximum
    least = -MAX_FLOAT32 if low is None else max(low, -MAX_FLOAT32)
    most = MAX_FLOAT32 if high is None else min(high, MAX_FLOAT32)
    limits = {key: value for key, value in (("minimum", low), ("maximum", high)) if value is not None}
    return Annotated[
        float,
        Field(strict=True, allow_inf_nan=False, ge=least, le=most),
        # Without float32's limits: who reads the schema would take them for the sensor's.
        WithJsonSchema({"type": "number"} | limits),
    ]


class Oversized(bytes):
    """The beginning of a message that is too large to be kept: enough to refuse it by.

    Attributes:
        size: Bytes of the whole message.
    """

    size: int

    @classmethod
    def of(cls, payload: bytes) -> Oversized:
        """What is kept of a message."""
        beginning = cls(payload[: 4 * MAX_RECEIVED_CHARACTERS])
        beginning.size = len(payload)
        return beginning


class ReadingDecoder:
    """Takes input messages apart for one model.

    Args:
        features: The model's inputs in column order.
        zone: Of times without an offset.
        label_key: Key of the label that the line sends with a reading; "" for none.
    """

    def __init__(self, features: Sequence[Feature], zone: tzinfo = timezone.utc, label_key: str = "") -> None:
        self._label_key = label_key
        self._zone = zone
        # The core validator itself, as the adapter's own method costs as much again as the validation of a reading.
        self._validate = TypeAdapter(reading_model(features)).validator.validate_python
        self._columns = tuple(f"f{column}" for column in range(len(features)))
        self._names = {feature.name: column for column, feature in enumerate(features)}
        self._features = features
        # A model that takes numbers only, and all of them, is spared the conversion.
        self._plain = not any(feature.missing_allowed or feature.categories for feature in features)

    def decode(self, payload: bytes) -> Decoded:
        """Take one message apart.

        Args:
            payload: JSON in UTF-8: a reading, an array of readings, or an object with `readings`.

        Returns:
            A reading or a rejection for each reading in the message; one rejection for a message that cannot be read.
        """
        opened = self.open(payload)
        return opened if isinstance(opened, Decoded) else self.readings(opened)

    def open(self, payload: bytes) -> Decoded | Batch:
        """Take a message apart but for the readings of a batch, of which there may be very many.

        Args:
            payload: As for `decode`.
        """
        size = payload.size if isinstance(payload, Oversized) else len(payload)
        if size > MAX_MESSAGE_BYTES:
            return _refuse(payload, "too_large", f"Message of {size} bytes is larger than {MAX_MESSAGE_BYTES}")
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

    def readings(self, batch: Batch, start: int = 0, stop: int | None = None) -> Decoded:
        """Validate readings of a batch.

        Args:
            batch: Of `open`.
            start: Index of the first.
            stop: Index behind the last; None for all that follow.
        """
        items = tuple(self.reading(one, index) for index, one in enumerate(batch.documents[start:stop], start))
        return Decoded(items, batch=True, correlation_id=batch.correlation_id)

    def reading(self, document: Any, index: int | None = None) -> Reading | Rejection:
        """Validate one reading that is already a JSON value, such as a row of a table."""
        return self._reading(document, received=document, index=index)

    def _batch(self, payload: bytes, documents: list[Any], correlation_id: CorrelationId) -> Decoded | Batch:
        if not documents:
            return _refuse(payload, "too_short", "A batch needs at least one reading", correlation_id=correlation_id)
        if len(documents) > MAX_READINGS:
            text = f"A batch of {len(documents)} readings is larger than {MAX_READINGS}"
            return _refuse(payload, "too_long", text, correlation_id=correlation_id)
        return Batch(documents, correlation_id)

    def _reading(self, document: Any, *, received: Any, index: int | None = None) -> Reading | Rejection:
        if not isinstance(document, dict):
            error = FieldError((), "object_type", "Input should be an object")
            return Rejection(errors=(error,), received=received, index=index)
        try:
            held = self._validate(document, context=self._zone).__dict__
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
            values=tuple(map(held.__getitem__, self._columns)) if self._plain else self._numbers(held),
            held=tuple(self._names[name] for name in wish if name in self._names) if (wish := held.get("held")) else (),
            explain=bool(held.get("explain")),
            label=_label(document.get(self._label_key)) if self._label_key else None,
        )

    def without(self, rejection: Rejection, columns: Collection[int]) -> Reading | None:
        """The reading that a rejected one is without some features, if it is valid then.

        Args:
            rejection: Of one reading, with what was received.
            columns: Features that become missing (NaN).
        """
        names = {self._features[column].name: column for column in columns}
        if not columns or any(not error.loc or error.loc[0] not in names for error in rejection.errors):
            return None
        document = self._document(rejection)
        if document is None:
            return None
        # Any valid value in its place, so that the rest is validated as always.
        valid = {name: _valid(self._features[column]) for name, column in names.items()}
        reading = self._reading(document | valid, received=rejection.received)
        if not isinstance(reading, Reading):
            return None
        values = tuple(math.nan if column in columns else value for column, value in enumerate(reading.values))
        return replace(reading, values=values)

    def raw(self, rejection: Rejection) -> tuple[str | None, tuple[float, ...]] | None:
        """What a rejected reading says of its sensors: its time, and its values whatever their limits.

        Returns:
            The normalised timestamp, and a value for each feature, NaN for what is no finite number; None for what is no
            object at all.
        """
        document = self._document(rejection)
        if document is None:
            return None
        timestamp = None
        for key in TIME_KEYS:
            if timestamp is None:
                with suppress(TimeError):
                    timestamp = None if (value := document.get(key)) is None else parse_timestamp(value, self._zone)
        return timestamp, tuple(_finite(document.get(name)) for name in self._names)

    def _document(self, rejection: Rejection) -> dict[str, Any] | None:
        document = rejection.received
        if isinstance(document, bytes):
            if len(document) > MAX_MESSAGE_BYTES:
                return None
            try:
                document = from_json(document)
            except ValueError:
                return None
        return document if isinstance(document, dict) else None

    def _numbers(self, held: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(
            feature.number(held[column]) for feature, column in zip(self._features, self._columns, strict=True)
        )


def _label(value: Any) -> float | None:
    """A number, or what a line writes for one; None for what says nothing."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, (bool, int, float)) and value == value else None  # noqa: PLR0124


def _valid(feature: Feature) -> Any:
    if feature.categories:
        return feature.categories[0]
    if feature.minimum is not None:
        return feature.minimum
    return min(0.0, feature.maximum) if feature.maximum is not None else 0.0


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if abs(value) <= MAX_FLOAT32 else math.nan


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
