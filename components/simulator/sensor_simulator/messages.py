"""A reading as it goes over the wire, and what a broken sender makes of it.

A message carries the six sensors, `equipment_id`, `timestamp`, a sequence number as `correlation_id`, and `wCylinderStatus`, as real
lines send it. It must never carry what only the story knows (episode, fault).
"""

import json
from collections.abc import Mapping

from sensor_simulator.fleet import LABEL, SENSORS

_SENT = ("equipment_id", "timestamp", *SENSORS, LABEL)


def message(row: Mapping[str, object], sequence: int) -> bytes:
    """Give a reading as JSON in UTF-8.

    Args:
        row: A row of `sensor_simulator.Fleet`.
        sequence: Goes along as ``correlation_id``.
    """
    return _encode(_fields(row, sequence))


def malformed(row: Mapping[str, object], sequence: int, kind: int) -> bytes:
    """Give a reading as a broken sender would, in one of seven ways in turn; none of them may be scored.

    Args:
        row: A row of `sensor_simulator.Fleet`.
        sequence: Goes along as ``correlation_id`` where the way leaves room for it.
        kind: Any integer; the remainder by seven chooses the way.
    """
    fields = _fields(row, sequence)
    spoil = (
        {"rVibration_Temp": float("nan")},  # json writes NaN, which is not JSON
        {"wRMSCurrent": str(fields["wRMSCurrent"])},
        {"wCurrentLoad": None},
        {"rVibration_Z_RMS_Velocity": 1e9},  # far outside any physical limit
    )
    way = kind % (len(spoil) + 3)
    if way < len(spoil):
        return _encode(fields | spoil[way])
    if way == len(spoil):
        del fields["wEncoderVelocity"]
        return _encode(fields)
    if way == len(spoil) + 1:
        return _encode(fields)[:-40]  # cut off in transmission
    return json.dumps(f"{fields['equipment_id']} offline").encode()


def _fields(row: Mapping[str, object], sequence: int) -> dict[str, object]:
    return {"correlation_id": sequence} | {key: row[key] for key in _SENT}


def _encode(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
