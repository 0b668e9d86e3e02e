"""Mappings, the ready ones among them, and what they make of payloads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from inference_bridge.command import main
from inference_bridge.extract import Extract, Extractor, Names
from inference_bridge.intake import Intake
from inference_bridge.mapping import READY, MappingError, Mqtt, load_mapping, parse_mapping
from inference_bridge.outbox import pack
from inference_bridge.patterns import Pattern
from inference_bridge.settings import SettingsError, parse_settings, read_mapping
from inference_bridge.sources.modbus import blocks, number
from inference_bridge.units import conversion

SAMPLES = READY.parent / "samples"
READING = {
    "rVibration_Temp": 84.2,
    "rVibration_Z_RMS_Velocity": 140.1,
    "rVibration_X_RMS_Velocity": 78.0,
    "wRMSCurrent": 106.9,
    "wCurrentLoad": 107.9,
    "wEncoderVelocity": 25.9,
}


def mapping(rule: dict[str, Any], feature: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    broker = {"type": "mqtt", "name": "broker", "host": "localhost", "topics": ["#"], "read": [rule], **source}
    return {"features": {"a": feature or {}, "b": {}}, "sources": [broker]}


def extract(document: dict[str, Any], payload: Any, topic: str = "t") -> Extract:
    parsed = parse_mapping(document)
    (source,) = parsed.sources
    assert isinstance(source, Mqtt)
    return Extractor(Names(parsed), source).extract(
        topic, payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    )


def one(feature: dict[str, Any], value: Any, **source: Any) -> Any:
    """The sample that a value becomes."""
    rule = {"machine": "m", "tag": "n", "value": "v", "quality": "q", "time": "t"}
    message = value if isinstance(value, dict) else {"v": value}
    (sample,) = extract(mapping(rule, feature, **source), {"m": "x", "n": "a", **message}).samples
    return sample


@pytest.mark.parametrize("sample", sorted(SAMPLES.iterdir()), ids=lambda path: path.stem)
def test_a_ready_mapping_reads_its_sample_to_the_last_feature(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = {
        "sparkplug": ["--topic", "spBv1.0/plant/DDATA/edge/cylinder-7"],
        "node_red": ["--topic", "node-red/cylinder-7"],
    }
    assert main(["try", sample.stem, str(sample), *machine.get(sample.stem, [])]) == 0
    reading = json.loads(capsys.readouterr().out)
    assert reading.pop("timestamp") in ("2026-11-26T03:15:00.120Z", "2026-11-26T03:15:00.000Z")
    assert reading == {"equipment_id": "cylinder-7", **READING}


def test_every_ready_mapping_can_be_used_and_has_a_sample_or_needs_none() -> None:
    names = {path.stem for path in READY.glob("*.json")}
    assert {path.stem for path in SAMPLES.iterdir()} == names - {"single_values"}
    for name in names:
        assert list(load_mapping(name).features) == list(READING)


def test_try_says_what_a_payload_lacks_and_what_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((SAMPLES / "kepware.json").read_text())
    document["values"][0]["q"] = False
    document["values"][1]["v"] = "broken"
    document["values"][2]["id"] = "Line1.cylinder-7.Other"
    path = tmp_path / "payload.json"
    path.write_text(json.dumps(document))
    assert main(["try", "kepware", str(path)]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out).keys() == {
        "equipment_id",
        "timestamp",
        "wRMSCurrent",
        "wCurrentLoad",
        "wEncoderVelocity",
    }
    for text in (
        "cylinder-7: rVibration_Temp: its quality is false",
        'cylinder-7: rVibration_Z_RMS_Velocity: expected a number, got "broken"',
        "Line1.cylinder-7.Other: the mapping has no feature or machine for it",
        "this message has no rVibration_Temp, rVibration_Z_RMS_Velocity, rVibration_X_RMS_Velocity",
    ):
        assert text in said.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": {}}, "features"),
        ({"features": {"timestamp": {}}}, "cannot be called timestamp"),
        ({"features": {"a": {"from_unit": "degF", "unit": "mm/s"}}}, "degF is a temperature and mm/s a velocity"),
        ({"features": {"a": {"tags": "x"}, "b": {"tags": ["x"]}}}, "belongs to a and to b"),
        ({"colour": 1}, "colour"),
        ({"machine_name": "m"}, "machine_name"),
        ({"outputs": [{"type": "mqtt", "source": "broker", "alarm_topic": "x/y"}]}, "a loop"),
        ({"outputs": [{"type": "opcua", "source": "broker", "nodes": {"m": {}}}]}, "a source of its kind"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_with_the_rule(change: dict[str, Any], says: str) -> None:
    rule = {"machine": "m", "tag": "n", "value": "v"}
    with pytest.raises(MappingError, match=says):
        parse_mapping({**mapping(rule), **change})


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"machine": "a[", "tags_in": "v"}, "no JMESPath"),
        ({"tags_in": "v"}, "nothing of the machine"),
        ({"machine": "m", "value": "v"}, "nothing of the tag"),
        ({"machine": "m", "value": "v", "tag": "n", "tags_in": "x"}, "give one of"),
        ({"topic": "a/{machine}/{machine}", "tags_in": "v"}, "twice"),
        ({"topic": "a/x{machine}+/b", "tags_in": "v"}, "a whole level"),
        ({"machine": "m", "values": {"zzz": "v"}}, "zzz"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_the_rule(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(MappingError, match=says):
        parse_mapping(mapping(rule))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            {"type": "mqtt", "host": "10.0.0.1", "topics": ["#"], "read": [{"machine": "m", "tags_in": "v"}]},
            "needs `tls`",
        ),
        ({"security_policy": "None"}, "protects nothing"),
        ({"security_policy": "Basic128Rsa15"}, "protects nothing"),
        ({"security_policy": "Basic256Sha256"}, "server_certificate"),
        ({"security_policy": "None", "allow_insecure": True, "username": "u", "password_file": "/p"}, "as it is"),
        ({"security_policy": "None", "allow_insecure": True, "endpoint": "opc.tcp://u:p@plc"}, "ends up in logs"),
        ({"security_policy": "None", "allow_insecure": True, "machines": ["x", "y"]}, "each node needs"),
    ],
)
def test_a_source_without_security_is_refused_unless_that_is_asked_for(source: dict[str, Any], says: str) -> None:
    opcua = {"type": "opcua", "endpoint": "opc.tcp://plc", "nodes": {"a": "ns=2;s=a"}, "machines": ["x"], "name": "plc"}
    with pytest.raises(MappingError, match=says):
        parse_mapping(
            {"features": {"a": {}}, "sources": [{**(opcua if "type" not in source else {"name": "b"}), **source}]}
        )


def test_inner_records_borrow_machine_and_time_from_the_outer_ones() -> None:
    rule = {"each": ["lines", "cells"], "machine": "cell", "time": "at", "tags_in": "values"}
    payload = {
        "at": 1795662900,
        "lines": [{"cells": [{"cell": 7, "values": {"a": 1}}, {"cell": 8, "at": 1795662901, "values": {"b": 2}}]}],
    }
    samples = extract(mapping(rule), payload).samples
    assert [(each.machine, each.feature, each.value, each.time) for each in samples] == [
        ("7", 0, 1.0, 1795662900.0),
        ("8", 1, 2.0, 1795662901.0),
    ]


def test_an_integer_equipment_number_becomes_the_name_that_the_mapping_gives_it() -> None:
    document = mapping({"machine": "m", "tags_in": "v"}) | {
        "machines": {"7": "press"},
        "machine_name": "cylinder-{machine}",
    }
    names = [extract(document, {"m": number, "v": {"a": 1}}).samples[0].machine for number in (7, 8, 8.0, "nine")]
    assert names == ["press", "cylinder-8", "cylinder-8", "cylinder-nine"]
    left_out = extract(document | {"only_listed": True}, {"m": 8, "v": {"a": 1}})
    assert [refused.unmapped for refused in left_out.refused] == [True]


@pytest.mark.parametrize("machine", [None, True, 1.5, "", " ", "x" * 129, "a\nb", [], {}, float("nan")])
def test_what_is_no_machines_name_is_counted_as_rejected(machine: Any) -> None:
    found = extract(mapping({"machine": "m", "tags_in": "v"}), {"m": machine, "v": {"a": 1}})
    assert not found.samples
    assert [refused.unmapped for refused in found.refused] == [False]


@pytest.mark.parametrize(
    ("feature", "value", "becomes"),
    [
        ({}, 5, 5.0),
        ({"scale": 0.1, "offset": -40}, 523, 12.3),
        ({"from_unit": "degF", "unit": "degC"}, 212, 100.0),
        ({"from_unit": "in/s", "unit": "mm/s"}, 2, 50.8),
        ({"scale": 0.1, "from_unit": "Hz", "unit": "RPM"}, 500, 3000.0),
        ({"parse_text": True}, " 71.5 ", 71.5),
        ({"kind": "boolean"}, True, 1.0),
        ({"kind": "text"}, "steel", "steel"),
        ({"missing_values": [-9999]}, -9999, None),
    ],
)
def test_a_value_becomes_the_models_number(feature: dict[str, Any], value: Any, becomes: Any) -> None:
    sample = one(feature, value)
    assert sample.value == (pytest.approx(becomes) if isinstance(becomes, float) else becomes)
    assert not sample.rejected


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ({}, "71.5"),
        ({}, True),
        ({}, [1]),
        ({}, {"v": {}}),
        ({}, math.nan),
        ({}, math.inf),
        ({}, 1e300),
        ({}, 10**400),
        ({"scale": 1e30}, 1e30),
        ({"parse_text": True}, "1_000"),
        ({"parse_text": True}, "nan"),
        ({"parse_text": True}, "7" * 200),
        ({"kind": "boolean"}, "true"),
        ({"kind": "text"}, 5),
    ],
)
def test_what_is_no_such_value_is_rejected_and_never_a_number(feature: dict[str, Any], value: Any) -> None:
    sample = one(feature, value)
    assert sample.rejected
    assert sample.value is None
    assert sample.problem


@pytest.mark.parametrize(
    ("codes", "quality", "good"),
    [
        ("", True, True), ("", False, False), ("", "Good", True), ("", "GOOD", True), ("", "Bad_NoCommunication", False),
        ("", "UNCERTAIN", False), ("", "what", False), ("", 0, False), ("opc_ua", 0, True), ("opc_ua", 0x80050000, False),
        ("opc_ua", 0x40900000, False), ("opc_ua", {"Code": 0}, True), ("opc_ua", {}, True), ("opc_ua", -1, False),
        ("opc_da", 192, True), ("opc_da", 216, True), ("opc_da", 0, False), ("opc_da", 64, False), ("opc_da", 1e9, False),
    ],
)  # fmt: skip
def test_a_value_whose_quality_is_not_good_is_missing(codes: str, quality: Any, good: bool) -> None:
    sample = one({}, {"v": 5, "q": quality}, quality_codes=codes)
    assert (sample.value == 5.0) == good
    assert not sample.rejected


def test_an_uncertain_value_is_used_where_the_mapping_says_so() -> None:
    assert one({}, {"v": 5, "q": 0x40900000}, quality_codes="opc_ua", uncertain="use").value == 5.0


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (1795662900, 1795662900.0),
        (1795662900120, 1795662900.12),
        ("2026-11-26T03:15:00.120Z", 1795662900.12),
        ("2026-11-26T12:15:00.120+09:00", 1795662900.12),
        ({"timeInSeconds": 1795662900, "offsetInNanos": 120000000}, 1795662900.12),
    ],
)
def test_the_sources_time_is_read_in_every_usual_form(time: Any, seconds: float) -> None:
    assert one({}, {"v": 5, "t": time}).time == pytest.approx(seconds)


def test_a_time_that_is_none_rejects_its_value_unless_the_arrival_counts() -> None:
    assert one({}, {"v": 5, "t": "yesterday"}).rejected
    assert one({}, {"v": 5, "t": "yesterday"}, time_from="arrival").value == 5.0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"5" * 5000,
        b'{"m": "x", "v": ' + b'{"a":' * 5000,
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"NaN",
    ],
)
def test_a_payload_that_is_no_message_is_counted_and_does_no_harm(payload: bytes) -> None:
    found = extract(mapping({"machine": "m", "tags_in": "v"}), payload)
    assert not found.samples
    assert found.problem or found.refused


def test_a_message_with_very_many_values_is_cut_off() -> None:
    found = extract(
        mapping({"machine": "m", "tags_in": "v"}), {"m": "x", "v": {f"t{number}": 1 for number in range(30_000)}}
    )
    assert len(found.refused) == 20_000


def test_a_topics_variables_stay_within_their_level_and_wildcards_are_only_text() -> None:
    pattern = Pattern("line/{machine}/x-{tag}/#", topic=True)
    assert pattern.filter == "line/+/+/#"
    assert pattern.match("line/c7/x-temp/now/1") == {"machine": "c7", "tag": "temp"}
    assert pattern.match("line/c7/more/x-temp/1") is None
    assert pattern.match("line/+/x-#/") == {"machine": "+", "tag": "#"}


def test_a_pattern_takes_linear_time_for_hostile_names() -> None:
    pattern = Pattern("{a}.{b}.{machine}.{tag}!", topic=False)
    assert pattern.match("." * 200_000) is None
    assert pattern.match("x" * 200_000) is None


def test_units_convert_there_and_back() -> None:
    factor, offset = conversion("degF", "K")
    assert 32 * factor + offset == pytest.approx(273.15)
    factor, offset = conversion("psi", "bar")
    assert 14.5038 * factor + offset == pytest.approx(1.0, rel=1e-4)


def test_registers_are_read_in_few_requests_and_mean_what_their_type_and_word_order_say() -> None:
    document = {
        "type": "modbus", "name": "plc", "host": "plc", "machines": {"m": {}},
        "registers": {
            "a": {"address": 10, "type": "float32"},
            "b": {"address": 12, "type": "int16"},
            "c": {"address": 500, "type": "uint32", "word_order": "little"},
            "d": {"address": 0, "kind": "input", "type": "float64"},
        },
    }  # fmt: skip
    parsed = parse_mapping({"features": {name: {} for name in "abcd"}, "sources": [document]}).sources[0]
    assert parsed.type == "modbus"
    made = blocks(parsed.registers)
    assert [(block.kind, block.first, block.count) for block in made] == [
        ("holding", 10, 3),
        ("holding", 500, 2),
        ("input", 0, 4),
    ]
    assert number(parsed.registers["a"], [0x42F6, 0xE979]) == pytest.approx(123.456)
    assert number(parsed.registers["b"], [0xFFFE]) == -2
    assert number(parsed.registers["c"], [0x0001, 0x0002]) == 0x00020001


def as_lite_delivers(value: Any) -> Any:
    """A local deployment on nucleus lite: every value that is no object or list is a string."""
    if isinstance(value, dict):
        return {key: as_lite_delivers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_lite_delivers(each) for each in value]
    return value if isinstance(value, str) else json.dumps(value)


def test_a_mapping_whose_values_are_all_strings_is_the_same_mapping_and_one_that_is_wrong_names_the_place() -> None:
    document = {
        "features": {"a": {"scale": 0.1, "missing_values": [-9999], "max_age_seconds": None}, "b": {"parse_text": True}},
        "assemble": {"every_seconds": 0.5},
        "only_listed": True,
        "machines": {"7": "press"},
        "sources": [
            {"type": "modbus", "name": "p", "host": "h", "port": 502, "machines": {"7": {"unit": 3}}, "registers": {"a": {"address": 10}}},
            {"type": "mqtt", "name": "b", "host": "localhost", "port": None, "qos": 1, "tls": None, "version": "5",
             "read": [{"topic": "x/{machine}/{tag}", "value": "v"}]},
        ],
    }  # fmt: skip
    for delivered in (as_lite_delivers(document), {key: json.dumps(part) for key, part in document.items()}):
        settings = parse_settings({"Mapping": delivered, "MaxMachines": "10"})
        assert read_mapping(settings) == parse_mapping(document)
    assert read_mapping(parse_settings({"Mapping": json.dumps(document)})) == parse_mapping(document)
    document["sources"][0]["port"] = "fast"  # type: ignore[index]
    with pytest.raises(SettingsError, match=r"Mapping: sources.0.modbus.port: .*integer"):
        read_mapping(parse_settings({"Mapping": as_lite_delivers(document)}))


@pytest.mark.parametrize("nothing", [{}, "", "{}", "null", None])
def test_without_a_mapping_there_is_none(nothing: Any) -> None:
    assert read_mapping(parse_settings({"Mapping": nothing})) is None


def test_ten_thousand_new_machines_with_hostile_names_take_their_room_and_no_more() -> None:
    parsed = parse_mapping(mapping({"topic": "{machine}/{tag}", "value": "v"}))
    intake = Intake(parsed, max_machines=50)
    names = (
        "../../etc/passwd",
        "{machine}",
        "$SYS",
        "' or 1=1",
        "설비",
        "a" * 128,
        "a" * 129,
        "\u202eevil",
        "\x00",
        "\ud800",
        " ",
    )
    for turn in range(10_000):
        topic = f"{names[turn % len(names)]}{turn if turn % 2 else ''}/a"
        intake.message("broker", topic, b'{"v": 1}')
    readings = intake.close()
    assert len(readings) == 50
    assert all(reading["equipment_id"].isprintable() for reading in readings)
    assert all(json.loads(payload) for payload, _ in pack(readings))
    values = intake.values
    assert values.balanced
    # A slash is no part of a level.
    assert values.received + intake.messages["broker"].unmatched == 10_000
    assert (values.assembled, values.waiting) == (
        values.received - values.dropped - values.rejected - values.superseded,
        0,
    )
    assert values.rejected > 2_000
    intake.message("broker", "late/a", b'{"v": 1}')
    assert intake.messages["broker"].received == 10_000
