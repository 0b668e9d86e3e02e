"""What goes over the wire, judged by the component that takes it in."""

import json

import pytest

from ml_inference.model.manifest import Feature
from ml_inference.scoring.outcomes import Rejection
from ml_inference.scoring.readings import Reading, ReadingDecoder
from sensor_simulator import SENSORS, UNITS, Fleet, Row
from sensor_simulator.messages import malformed, message


@pytest.fixture
def row() -> Row:
    return next(Fleet(machines=1).rows(seconds=1))


@pytest.fixture
def decoder() -> ReadingDecoder:
    features = [Feature(name=name, unit=unit, minimum=-400.0, maximum=1000.0) for name, unit in UNITS.items()]
    return ReadingDecoder(features)


def test_a_message_holds_the_reading_and_nothing_that_only_the_story_knows(row: Row) -> None:
    sent = json.loads(message(row, 41))
    assert set(sent) == {"equipment_id", "timestamp", "correlation_id", "wCylinderStatus", *SENSORS}
    assert sent["correlation_id"] == 41
    assert {key: sent[key] for key in SENSORS} == {key: row[key] for key in SENSORS}


def test_the_inference_component_takes_a_message(row: Row, decoder: ReadingDecoder) -> None:
    (reading,) = decoder.decode(message(row, 41)).items
    assert isinstance(reading, Reading)
    assert (reading.equipment_id, reading.timestamp, reading.correlation_id) == ("cylinder-1", row["timestamp"], 41)
    assert reading.values == tuple(row[sensor] for sensor in SENSORS)


@pytest.mark.parametrize("kind", range(7))
def test_the_inference_component_rejects_every_kind_of_malformed_message(
    kind: int, row: Row, decoder: ReadingDecoder
) -> None:
    (item,) = decoder.decode(malformed(row, 41, kind)).items
    assert isinstance(item, Rejection)


def test_the_kinds_of_malformed_messages_take_turns(row: Row) -> None:
    assert len({malformed(row, 41, kind) for kind in range(7)}) == 7
    assert malformed(row, 41, 7) == malformed(row, 41, 0)
