"""Readings and truth as files: CSV and JSON lines.

With numpy at hand the readings are taken many at a time, without it one at a time; the files are the same, byte for byte. It must never
know how a reading comes about.
"""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, TextIO

from sensor_simulator.fleet import SENSORS, START, Fleet
from sensor_simulator.messages import malformed
from sensor_simulator.truth import iso

try:
    from sensor_simulator import many
except ImportError:  # the device's environment has no numpy, and needs none
    many = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from sensor_simulator.many import Readings

_FIRST_BLOCK, _BLOCK = 2_000, 200_000
"""Readings at a time: few at first, for who looks at the first lines only; then some 100 MB."""


def write_csv(fleet: Fleet, file: TextIO, *, seconds: float, step: float) -> None:
    """Write a header and a line for each reading.

    Args:
        fleet: At the beginning of its story.
        file: Where to.
        seconds: How long, by the clock.
        step: Between two readings of a machine, in seconds by the clock.
    """
    if many is None:
        rows = csv.DictWriter(file, fleet.columns, lineterminator="\n")
        rows.writeheader()
        rows.writerows(fleet.rows(seconds=seconds, step=step))
        return
    file.write(",".join(fleet.columns) + "\n")

    def end(label: float, episode: str, fault: str, broken: str) -> str:
        cells = (str(label), episode, fault, broken)
        return ",".join(cells[: len(fleet.columns) - 2 - len(SENSORS)])

    for lines in _blocks(fleet, seconds, step, "{name},%s" + ",%s" * len(SENSORS) + ",%s\n", end):
        file.writelines(lines)


def write_json_lines(fleet: Fleet, file: TextIO, *, seconds: float, step: float, bad_every: int = 0) -> None:
    """Write a JSON object a line for each reading.

    Args:
        fleet: At the beginning of its story.
        file: Where to.
        seconds: How long, by the clock.
        step: Between two readings of a machine, in seconds by the clock.
        bad_every: Every so many lines one is malformed; 0 for none.
    """
    for number, line in enumerate(_json_lines(fleet, seconds, step), start=1):
        if bad_every and number % bad_every == 0:
            file.write(malformed(json.loads(line), number, number // bad_every - 1).decode() + "\n")
        else:
            file.write(line)


def write_truth(fleet: Fleet, file: TextIO, *, seconds: float, step: float) -> None:
    """Write the episodes that the readings of such a file meet, one a line, as JSON; arguments as for `write_csv`."""
    file.writelines(json.dumps(truth.as_row()) + "\n" for truth in fleet.truth(seconds=seconds, step=step))


def _json_lines(fleet: Fleet, seconds: float, step: float) -> Iterator[str]:
    if many is None:
        for row in fleet.rows(seconds=seconds, step=step):
            yield json.dumps(row, separators=(",", ":")) + "\n"
        return

    def end(label: float, episode: str, fault: str, broken: str) -> str:
        cells = dict(zip(fleet.columns[2 + len(SENSORS) :], (label, episode, fault, broken), strict=False))
        return json.dumps(cells, separators=(",", ":"))[1:]

    values = "".join(f',"{sensor}":%s' for sensor in SENSORS)
    for lines in _blocks(fleet, seconds, step, '{"equipment_id":"{name}","timestamp":"%s"' + values + ",%s\n", end):
        yield from lines


def _blocks(
    fleet: Fleet, seconds: float, step: float, line: str, end: Callable[[float, str, str, str], str]
) -> Iterator[Iterator[str]]:
    """Give the lines in the order of time, many at a time.

    Args:
        fleet: At the beginning of its story.
        seconds: How long, by the clock.
        step: Between two readings of a machine, in seconds by the clock.
        line: With the machine's ``{name}``, then places for the timestamp, the sensors and the end.
        end: Makes it, from the label, the episode, its fault and the broken sensor's.
    """
    count, size = round(seconds / step), _FIRST_BLOCK
    accelerate = fleet.scenario.accelerate
    at = 0
    while at < count:
        rows = min(count - at, max(1, size // len(fleet.machines)))
        size = min(2 * size, _BLOCK)
        stamps = [iso(START + timedelta(seconds=number * step * accelerate)) for number in range(at, at + rows)]
        at += rows
        machines = []
        for machine in fleet.machines:
            readings = many.read(machine, count=rows, step=step)
            template = line.replace("{name}", machine.equipment_id)
            ends = _ends(readings, machine.equipment_id, end)
            machines.append([template % cells for cells in zip(stamps, *readings.values.T.tolist(), ends, strict=True)])
        yield chain.from_iterable(zip(*machines, strict=True))


def _ends(readings: "Readings", name: str, end: Callable[[float, str, str, str], str]) -> list[str]:
    episodes = {number: (f"{name}/{number}", fault) for number, fault in readings.fault} | {0: ("", "")}
    broken = dict(readings.sensor_fault) | {0: ""}
    made: dict[tuple[bool, int, int], str] = {}
    ends = []
    for key in zip(readings.abnormal.tolist(), readings.episode.tolist(), readings.broken.tolist(), strict=True):
        if key not in made:
            made[key] = end(float(key[0]), *episodes[key[1]], broken[key[2]])
        ends.append(made[key])
    return ends
