from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_inference.delivery.encoding import dump, payload_limit, split
from ml_inference.limits import MAX_FLOAT32
from ml_inference.model.manifest import Feature
from ml_inference.scoring.outcomes import MAX_ERRORS, Rejection
from ml_inference.scoring.readings import (
    MAX_MESSAGE_BYTES,
    MAX_READINGS,
    Decoded,
    Reading,
    ReadingDecoder,
    reading_model,
)
from ml_inference.times import parse_timestamp
from ml_inference.topics import render_topic
from ml_inference.wire import MAX_RECEIVED_CHARACTERS
from support.models import NORMAL, SIX

DECODER = ReadingDecoder(SIX)
REAL_MESSAGE = (
    b'{"rVibration_Temp":69.71,"rVibration_Z_RMS_Velocity":89.42,"rVibration_X_RMS_Velocity":50.58,"wRMSCurrent":106.94,'
    b'"wCurrentLoad":107.94,"wEncoderVelocity":25.88,"wCylinderStatus":0.0,"sDateTime":"2022-07-06 22:56:30.503",'
    b'"timeInSeconds":1657148190}'
)


def decode(document: Any) -> Decoded:
    return DECODER.decode(json.dumps(document).encode())


def reading(document: Any) -> Reading:
    (item,) = decode(document).items
    assert isinstance(item, Reading), item
    return item


def rejection(payload: bytes) -> Rejection:
    (item,) = DECODER.decode(payload).items
    assert isinstance(item, Rejection), item
    return item


def test_the_lines_real_message_is_a_reading_with_its_own_time() -> None:
    (item,) = DECODER.decode(REAL_MESSAGE).items
    assert item == Reading("", "2022-07-06T22:56:30.503Z", None, (69.71, 89.42, 50.58, 106.94, 107.94, 25.88))


@pytest.mark.parametrize(
    ("payload", "loc", "kind"),
    [
        (b"", (), "json_invalid"),
        (b"{", (), "json_invalid"),
        (b"\xff\xfe", (), "json_invalid"),
        (b'"text"', (), "object_type"),
        (b"12", (), "object_type"),
        (b"null", (), "object_type"),
        (b"[]", (), "too_short"),
        (b"[" * 10_000 + b"]" * 10_000, (), "json_invalid"),
        (b" " * (MAX_MESSAGE_BYTES + 1), (), "too_large"),
        (b"[" + b"0," * MAX_READINGS + b"0]", (), "too_long"),
        (b'{"readings": [{}], "correlation_id": []}', ("correlation_id",), "correlation_id"),
    ],
)
def test_a_message_that_holds_no_readings_is_rejected_as_a_whole(
    payload: bytes, loc: tuple[str, ...], kind: str
) -> None:
    (error,) = rejection(payload).errors
    assert (error.loc, error.type) == (loc, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("12.5", "float_type"),
        (True, "float_type"),
        (None, "float_type"),
        ([1.0], "float_type"),
        ({}, "float_type"),
        (10**400, "float_type"),
        (float("nan"), "finite_number"),
        (float("inf"), "finite_number"),
        (-0.1, "greater_than_equal"),
        (400.1, "less_than_equal"),
    ],
)
def test_a_feature_that_is_no_number_within_its_limits_is_named_with_the_rule(value: Any, kind: str) -> None:
    (error,) = rejection(json.dumps(NORMAL | {"wCurrentLoad": value}).encode()).errors
    assert (error.loc, error.type) == (("wCurrentLoad",), kind)


def test_a_number_beyond_floating_point_is_not_finite() -> None:
    text = json.dumps(NORMAL).replace("25.0", "1e999")
    (error,) = rejection(text.encode()).errors
    assert (error.loc, error.type) == (("wEncoderVelocity",), "finite_number")


@pytest.mark.parametrize("feature", [Feature(name="x"), Feature(name="x", minimum=-1e300, maximum=1e300)])
@pytest.mark.parametrize(("value", "kind"), [(1e300, "less_than_equal"), (-3.5e38, "greater_than_equal")])
def test_a_number_beyond_float32_is_out_of_range_whatever_the_manifest_allows(
    feature: Feature, value: float, kind: str
) -> None:
    (item,) = ReadingDecoder([feature]).decode(json.dumps({"x": value}).encode()).items
    assert isinstance(item, Rejection)
    assert [(error.loc, error.type) for error in item.errors] == [(("x",), kind)]


def test_every_number_of_float32_is_in_range_and_the_schema_tells_the_manifests_limits_only() -> None:
    features = [Feature(name="x", unit="A"), Feature(name="y", minimum=-1.0, maximum=5.0)]
    for value in (MAX_FLOAT32, -MAX_FLOAT32):
        assert np.isfinite(np.float32(value))
        (item,) = ReadingDecoder(features).decode(json.dumps({"x": value, "y": 0}).encode()).items
        assert isinstance(item, Reading)
    described = reading_model(features).model_json_schema()["properties"]
    assert described["x"] == {"type": "number", "title": "X", "description": "A"}
    assert (described["y"]["minimum"], described["y"]["maximum"]) == (-1.0, 5.0)


@pytest.mark.parametrize("name", [feature.name for feature in SIX])
def test_a_missing_feature_is_named(name: str) -> None:
    document = {key: value for key, value in NORMAL.items() if key != name}
    (error,) = rejection(json.dumps(document).encode()).errors
    assert error.as_message() == {"loc": [name], "type": "missing", "msg": "Field required"}


def test_whole_numbers_are_numbers() -> None:
    assert reading(NORMAL | {"wRMSCurrent": 7}).values[3] == 7.0


def test_values_are_in_the_models_order_whatever_the_messages() -> None:
    document = dict(reversed(NORMAL.items()))
    assert reading(document).values == tuple(NORMAL.values())


@pytest.mark.parametrize("mark", ["a1", "", 0, -5, 2**63 - 1, "ü" * 256])
def test_the_correlation_id_is_kept_unchanged(mark: str | int) -> None:
    assert reading(NORMAL | {"correlation_id": mark}).correlation_id == mark


def test_an_integer_that_the_classic_nucleus_made_a_float_is_echoed_as_an_integer() -> None:
    mark = reading(NORMAL | {"correlation_id": 7.0}).correlation_id
    assert (mark, type(mark)) == (7, int)


@pytest.mark.parametrize("mark", [1.5, True, [], {}, "x" * 257, 2**63])
def test_any_other_correlation_id_is_rejected(mark: Any) -> None:
    (error,) = rejection(json.dumps(NORMAL | {"correlation_id": mark}).encode()).errors
    assert error.loc == ("correlation_id",)


@pytest.mark.parametrize("equipment", [5, ["a"], "x" * 129])
def test_an_equipment_id_that_is_no_short_string_is_rejected(equipment: Any) -> None:
    (error,) = rejection(json.dumps(NORMAL | {"equipment_id": equipment}).encode()).errors
    assert error.loc == ("equipment_id",)


def test_null_stands_for_an_envelope_field_that_is_not_there() -> None:
    item = reading(NORMAL | {"equipment_id": None, "timestamp": None, "correlation_id": None})
    assert (item.equipment_id, item.timestamp, item.correlation_id) == ("", None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T03:15:00.120Z", "2026-11-22T03:15:00.120Z"),
        ("2026-11-22T05:15:00+02:00", "2026-11-22T03:15:00.000Z"),
        ("2022-07-06 22:56:30.503", "2022-07-06T22:56:30.503Z"),
        (1657148190, "2022-07-06T22:56:30.000Z"),
        (1657148190.5, "2022-07-06T22:56:30.500Z"),
        (1657148190503, "2022-07-06T22:56:30.503Z"),
    ],
)
def test_a_timestamp_becomes_utc_with_milliseconds(value: Any, expected: str) -> None:
    assert parse_timestamp(value) == expected
    assert reading(NORMAL | {"timestamp": value}).timestamp == expected


@pytest.mark.parametrize("value", ["yesterday", True, [], 1e300, "0001-01-01T00:00:00+14:00"])
def test_a_timestamp_that_is_none_is_rejected(value: Any) -> None:
    (error,) = rejection(json.dumps(NORMAL | {"timestamp": value}).encode()).errors
    assert error.loc == ("timestamp",)


def test_the_lines_own_times_stand_in_and_are_ignored_where_they_cannot_be_read() -> None:
    assert reading(NORMAL | {"timeInSeconds": 1657148190}).timestamp == "2022-07-06T22:56:30.000Z"
    both = {"sDateTime": "06.07.2022", "timeInSeconds": 1657148190}
    assert reading(NORMAL | both).timestamp == "2022-07-06T22:56:30.000Z"
    assert reading(NORMAL | both | {"timestamp": 0}).timestamp == "1970-01-01T00:00:00.000Z"
    assert reading(NORMAL | {"sDateTime": {}, "timeInSeconds": "?"}).timestamp is None


def test_a_bad_reading_in_a_batch_is_rejected_and_its_neighbours_are_not() -> None:
    decoded = decode({"readings": [NORMAL, {}, NORMAL, 5], "correlation_id": "b"})
    assert [type(item).__name__ for item in decoded.items] == ["Reading", "Rejection", "Reading", "Rejection"]
    assert [item.index for item in decoded.items if isinstance(item, Rejection)] == [1, 3]
    assert (decoded.batch, decoded.correlation_id) == (True, "b")


def test_a_model_may_use_the_lines_keys_and_any_characters_as_features() -> None:
    decoder = ReadingDecoder(
        [Feature(name="timeInSeconds"), Feature(name="Air temperature [K]"), Feature(name="a.b c")]
    )
    document = {"timeInSeconds": 3, "Air temperature [K]": 298.1, "a.b c": 1}
    assert decoder.reading(document) == Reading("", None, None, (3.0, 298.1, 1.0))
    bad = decoder.reading(document | {"Air temperature [K]": "hot"})
    assert isinstance(bad, Rejection)
    assert bad.errors[0].loc == ("Air temperature [K]",)


def test_a_model_of_many_features_reports_a_few_errors_and_how_many_more() -> None:
    bad = ReadingDecoder([Feature(name=f"f{number}") for number in range(500)]).reading({})
    assert isinstance(bad, Rejection)
    assert len(bad.errors) == MAX_ERRORS
    assert bad.errors[-1].msg == "481 more errors"


def test_an_error_message_shows_what_was_received_up_to_its_limit() -> None:
    message = rejection(("ü" * 5000).encode()).as_message()
    assert message["received"] == "ü" * MAX_RECEIVED_CHARACTERS
    assert json.loads(dump(message))["errors"][0]["type"] == "json_invalid"


def test_a_rejected_reading_keeps_what_could_be_read_of_its_envelope() -> None:
    message = rejection(b'{"equipment_id": "cylinder-7", "correlation_id": "a1"}').as_message()
    assert (message["equipment_id"], message["correlation_id"]) == ("cylinder-7", "a1")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
odd_readings = st.fixed_dictionaries(
    {},
    optional={name: st.one_of(st.floats(), json_values) for name in [*NORMAL, "equipment_id", "timestamp", "sDateTime"]}
    | {"correlation_id": json_values, "readings": json_values},
)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_raise(payload: bytes) -> None:
    items = DECODER.decode(payload).items
    assert items
    for item in items:
        if isinstance(item, Rejection):
            dump(item.as_message())


@given(st.one_of(json_values, odd_readings, st.lists(odd_readings, max_size=3)))
def test_no_json_makes_the_decoder_raise(document: Any) -> None:
    items = DECODER.decode(json.dumps(document).encode()).items
    assert items
    for item in items:
        if isinstance(item, Rejection):
            assert item.errors
            json.loads(dump(item.as_message()))
            json.loads(dump(item.as_result()))


@pytest.mark.parametrize(
    ("equipment", "expected"),
    [
        ("cylinder-7", "r/cylinder-7"),
        ("a/b+c#d*e", "r/a%2Fb%2Bc%23d%2Ae"),
        ("50%", "r/50%25"),
        ("a\nb\x7f", "r/a%0Ab%7F"),
        ("", "r/unknown"),
        ("Prüfstand 3", "r/Prüfstand 3"),
    ],
)
def test_a_value_that_would_break_a_topic_is_escaped(equipment: str, expected: str) -> None:
    assert render_topic("r/{equipmentId}", thing_name="t", equipment_id=equipment) == expected


def test_long_names_are_cut_to_different_topics_within_the_limit() -> None:
    topics = {
        render_topic("x/{thingName}/{equipmentId}", thing_name="t" * 100, equipment_id="ü" * 127 + end) for end in "abc"
    }
    assert len(topics) == 3
    assert all(len(topic.encode()) <= 256 for topic in topics)


def test_braces_in_a_machines_name_are_no_placeholder() -> None:
    assert render_topic("{thingName}/{equipmentId}", thing_name="t", equipment_id="{thingName}") == "t/{thingName}"


@given(st.lists(st.text(max_size=200), min_size=1, max_size=60), st.integers(1_000, 3_000))
def test_parts_are_in_order_complete_and_within_the_limit(texts: list[str], limit: int) -> None:
    parts = split([{"t": text} for text in texts], {"correlation_id": "c"}, limit)
    assert [item["t"] for part in parts for item in part["results"]] == texts
    if len(parts) > 1:
        assert [(part["part"], part["parts"]) for part in parts] == [(n, len(parts)) for n in range(1, len(parts) + 1)]
    for part in parts:
        assert len(dump(part)) <= limit or len(part["results"]) == 1


def test_a_long_topic_takes_its_share_of_the_frame() -> None:
    assert payload_limit("short") == 7_000
    assert payload_limit("x" * 256) == 7_000 - 192


@pytest.mark.parametrize(
    "topic", ["short", "x" * 256, "é" * 128, "ml/inference/result/" + "\U0001f916" * 59, '"' * 256]
)
def test_payload_and_topic_fit_into_a_frame_as_they_stand_there(topic: str) -> None:
    # Measured on nucleus lite 2.6.0: 9,743 bytes of both were carried, 9,759 broke the connection.
    assert 4 * ((payload_limit(topic) + 2) // 3) + len(json.dumps(topic)) <= 9_743
