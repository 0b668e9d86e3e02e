"""Sparkplug B payloads: decodes the published protobuf as far as values need it, and knows the aliases of birth certificates.

The fields are those of `sparkplug_b.proto` (Eclipse Tahu, Sparkplug 3.0.0). A payload becomes what a JSON payload is: objects and
lists. It must never keep more than a bounded number of aliases, nor follow a length that leads outside the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

MAX_METRICS = 10_000
MAX_EDGES = 10_000
"""Edge nodes and devices whose aliases are known; the one heard first is forgotten for the next."""
_QUALITY = "Quality"
"""The property that carries the quality as an OPC DA code, by Sparkplug's own definition."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INT8, _INT16, _INT32, _INT64 = 1, 2, 3, 4
_BOOLEAN = 11
_METRIC_NAME, _METRIC_ALIAS, _METRIC_TIME, _METRIC_TYPE, _METRIC_NULL, _METRIC_PROPERTIES = 1, 2, 3, 4, 7, 9
_METRIC_INT, _METRIC_LONG, _METRIC_FLOAT, _METRIC_DOUBLE, _METRIC_BOOLEAN, _METRIC_STRING = 10, 11, 12, 13, 14, 15
_PROPERTY_KEYS, _PROPERTY_VALUES = 1, 2
_PROPERTY_INT, _PROPERTY_LONG = 3, 4
_PAYLOAD_TIME, _PAYLOAD_METRIC, _PAYLOAD_SEQUENCE = 1, 2, 3


class SparkplugError(ValueError):
    """The payload is not Sparkplug B."""


def decode(payload: bytes) -> dict[str, Any]:
    """Decode a payload.

    Returns:
        `timestamp` (milliseconds), `seq`, and `metrics`: each with those of `name`, `alias`, `timestamp`, `value`, `quality` that it
        carries; `value` is None where it is null or of a kind that is no single value.

    Raises:
        SparkplugError: It is not Sparkplug B.
    """
    metrics: list[dict[str, Any]] = []
    document: dict[str, Any] = {"metrics": metrics}
    for number, value in _fields(payload):
        if number == _PAYLOAD_METRIC and isinstance(value, bytes):
            if len(metrics) >= MAX_METRICS:
                raise SparkplugError(f"it holds more than {MAX_METRICS} metrics")
            metrics.append(_metric(value))
        elif number == _PAYLOAD_TIME and isinstance(value, int):
            document["timestamp"] = value
        elif number == _PAYLOAD_SEQUENCE and isinstance(value, int):
            document["seq"] = value
    return document


class Aliases:
    """Gives metrics that come with an alias alone the name of their birth certificate."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[int, str]] = {}
        self._sequences: dict[str, int] = {}

    def resolve(self, topic: str, document: dict[str, Any]) -> int:
        """Complete a document in place.

        Args:
            topic: `namespace/group/type/edge` or `namespace/group/type/edge/device`.
            document: Of `decode`.

        Returns:
            How many messages of this edge node were missed since its last one, as far as sequence numbers (0 to 255) tell.
        """
        levels = topic.split("/")
        kind = levels[2] if len(levels) in (4, 5) else ""
        edge = "/".join(levels[1:2] + levels[3:])
        if kind in ("NBIRTH", "DBIRTH"):
            if len(self._edges) >= MAX_EDGES:
                del self._edges[next(iter(self._edges))]
            self._edges[edge] = {
                metric["alias"]: metric["name"]
                for metric in document["metrics"]
                if "alias" in metric and metric.get("name")
            }
        names = self._edges.get(edge, {})
        for metric in document["metrics"]:
            if not metric.get("name") and metric.get("alias") in names:
                metric["name"] = names[metric["alias"]]
        return self._missed("/".join(levels[1:2] + levels[3:4]), kind, document.get("seq"))

    def _missed(self, node: str, kind: str, sequence: int | None) -> int:
        if sequence is None or kind not in ("NBIRTH", "NDATA", "DBIRTH", "DDATA", "DDEATH"):
            return 0
        if len(self._sequences) >= MAX_EDGES:
            self._sequences.clear()
        before = self._sequences.get(node)
        self._sequences[node] = sequence
        return 0 if before is None or kind == "NBIRTH" else (sequence - before - 1) % 256


def _metric(payload: bytes) -> dict[str, Any]:  # noqa: C901, PLR0912 - one branch a field
    metric: dict[str, Any] = {"value": None}
    datatype = 0
    null = False
    for number, value in _fields(payload):
        if number == _METRIC_NAME:
            metric["name"] = _text(value)
        elif number == _METRIC_ALIAS:
            metric["alias"] = value
        elif number == _METRIC_TIME:
            metric["timestamp"] = value
        elif number == _METRIC_TYPE and isinstance(value, int):
            datatype = value
        elif number == _METRIC_NULL:
            null = bool(value)
        elif number == _METRIC_PROPERTIES and isinstance(value, bytes):
            quality = _quality(value)
            if quality is not None:
                metric["quality"] = quality
        elif number in (_METRIC_INT, _METRIC_LONG):
            metric["value"] = value
        elif number == _METRIC_FLOAT:
            metric["value"] = _unpacked("<f", value, _FIXED32)
        elif number == _METRIC_DOUBLE:
            metric["value"] = _unpacked("<d", value, _FIXED64)
        elif number == _METRIC_BOOLEAN:
            metric["value"] = bool(value)
        elif number == _METRIC_STRING:
            metric["value"] = _text(value)
    # Signed integers travel as the unsigned number of the same bits.
    bits = {_INT8: 32, _INT16: 32, _INT32: 32, _INT64: 64}.get(datatype)
    if bits and isinstance(metric["value"], int):
        number = metric["value"] & (1 << bits) - 1
        metric["value"] = number - (1 << bits) if number >> bits - 1 else number
    if datatype == _BOOLEAN and isinstance(metric["value"], int):
        metric["value"] = bool(metric["value"])
    if null:
        metric["value"] = None
    return metric


def _quality(payload: bytes) -> int | None:
    keys: list[str] = []
    values: list[int | None] = []
    for number, value in _fields(payload):
        if number == _PROPERTY_KEYS:
            keys.append(_text(value))
        elif number == _PROPERTY_VALUES and isinstance(value, bytes):
            parts = dict(_fields(value))
            found = parts.get(_PROPERTY_INT, parts.get(_PROPERTY_LONG))
            values.append(found if isinstance(found, int) else None)
    return dict(zip(keys, values, strict=False)).get(_QUALITY)


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise SparkplugError("a text is no text")
    return value.decode("utf-8", "replace")


def _unpacked(form: str, value: int | bytes, wire: int) -> float:
    size = 4 if wire == _FIXED32 else 8
    if not isinstance(value, bytes) or len(value) != size:
        raise SparkplugError("a number has the wrong size")
    number: float = struct.unpack(form, value)[0]
    return number


def _fields(payload: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message: an integer for a varint, else the bytes."""
    position = 0
    while position < len(payload):
        key, position = _varint(payload, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(payload, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(payload, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise SparkplugError(f"wire type {wire} is not used by it")
        if size > len(payload) - position:
            raise SparkplugError("it is cut off")
        yield number, payload[position : position + size]
        position += size


def _varint(payload: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(payload) and shift < 64:  # noqa: PLR2004 - a varint has at most 64 bits
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return value, position
        shift += 7
    raise SparkplugError("it is cut off, or a number has more than 64 bits")
