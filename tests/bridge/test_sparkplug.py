"""Sparkplug B, encoded here by hand from the published protobuf."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from inference_bridge.extract import Extractor, Names
from inference_bridge.mapping import Mqtt, load_mapping
from inference_bridge.sparkplug import SparkplugError, decode

EDGE = "spBv1.0/plant/{}/edge"


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, value: bytes | str | float) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def payload(sequence: int, *metrics: bytes) -> bytes:
    return field(1, 1795662900120) + b"".join(field(2, metric) for metric in metrics) + field(3, sequence)


@pytest.fixture
def extractor() -> Extractor:
    mapping = load_mapping("sparkplug")
    (source,) = mapping.sources
    assert isinstance(source, Mqtt)
    return Extractor(Names(mapping), source)


def test_an_alias_means_what_the_birth_certificate_says_and_gaps_in_the_sequence_are_counted(
    extractor: Extractor,
) -> None:
    birth = payload(1, field(1, "Temperature") + field(2, 9) + field(13, 70.0))
    assert extractor.extract(EDGE.format("DBIRTH") + "/c7", birth).samples[0].value == 70.0
    data = payload(2, field(2, 9) + field(3, 1795662901000) + field(13, 71.0))
    (sample,) = extractor.extract(EDGE.format("DDATA") + "/c7", data).samples
    assert (sample.machine, sample.value, sample.time) == ("c7", 71.0, 1795662901.0)
    later = extractor.extract(EDGE.format("DDATA") + "/c7", payload(6, field(2, 9) + field(13, 72.0)))
    assert later.missed == 3
    stranger = extractor.extract(EDGE.format("DDATA") + "/c8", payload(7, field(2, 9) + field(13, 72.0)))
    assert [refused.unmapped for refused in stranger.refused] == [False]


def test_the_death_of_an_edge_node_is_that_of_every_machine_behind_it(extractor: Extractor) -> None:
    for machine in ("c7", "c8"):
        extractor.extract(EDGE.format("DBIRTH") + f"/{machine}", payload(0, field(1, "Temperature") + field(13, 1.0)))
    assert extractor.extract(EDGE.format("DDEATH") + "/c7", payload(1)).deaths == ["c7"]
    assert extractor.extract(EDGE.format("NDEATH"), payload(2)).deaths == ["edge", "c7", "c8"]


def test_values_of_every_single_kind_are_read_and_a_null_or_a_bad_quality_is_missing(extractor: Extractor) -> None:
    def read(metric: bytes) -> Any:
        (found,) = decode(payload(0, metric))["metrics"]
        return found["value"]

    assert read(field(4, 3) + field(10, 2**32 - 5)) == -5
    assert read(field(4, 4) + field(11, 2**64 - 5)) == -5
    assert read(field(4, 7) + field(10, 2**32 - 5)) == 2**32 - 5
    assert read(varint(12 << 3 | 5) + struct.pack("<f", 1.5)) == 1.5
    assert read(field(4, 11) + field(14, 1)) is True
    assert read(field(15, "text")) == "text"
    assert read(field(7, 1) + field(13, 3.0)) is None
    bad = field(1, "Quality") + field(2, field(1, 3) + field(3, 0))
    metric = field(1, "Temperature") + field(9, bad) + field(13, 3.0)
    (sample,) = extractor.extract(EDGE.format("DDATA") + "/c7", payload(0, metric)).samples
    assert (sample.value, sample.rejected, sample.problem) == (None, False, "its quality is 0")


def test_hostile_payloads_end_in_an_error_and_nothing_else(extractor: Extractor) -> None:
    for hostile in (b"\xff" * 20, field(2, b"\xff"), b"\x12\xff\xff\xff\xff\x0f", b"\x0b", field(1, "x")[:-1]):
        with pytest.raises(SparkplugError):
            decode(hostile)
    chance = random.Random(1)
    good = payload(
        1, *(field(1, f"Tag{number}") + field(9, field(1, "Quality")) + field(13, 1.0) for number in range(5))
    )
    for _ in range(500):
        damaged = bytearray(good)
        damaged[chance.randrange(len(good))] = chance.randrange(256)
        extractor.extract(EDGE.format("DDATA") + "/c7", bytes(damaged[: chance.randrange(len(good))]))
