"""What is simulated: lines for false alarms and episodes, for broken sensors, and for drift.

Each case is a few jobs; a job is one line whose readings go through one run of `ml-inference score`. It must never use a seed of which
training has seen a story: see `SEED`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sensor_simulator import SENSORS

SEED = 40_000_000
"""First of the evaluation's own seeds; ``scripts/train_shipped_model.sh`` uses a date."""
DAY = 86_400.0
MINUTE = 60.0
LINE = 10
"""Machines of one line, where the case does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A change of readings from some time on."""

    at: float
    """Seconds after the first reading."""
    sensors: tuple[str, ...]
    machine: str | None = None
    """The only one; None for all."""
    factor: float = 1.0
    deviations: float = 0.0
    """Standard deviations of the readings before, over all machines."""


@dataclass(frozen=True, slots=True)
class Job:
    """One line."""

    case: str
    seconds: float
    step: float
    story: Mapping[str, Any]
    """Arguments of `sensor_simulator.Fleet`."""
    machines: range = field(default_factory=lambda: range(LINE))
    """Which of the fleet's machines are on this line."""
    spoiled: Spoiled | None = None

    @property
    def readings(self) -> int:
        """How many there will be."""
        return len(self.machines) * round(self.seconds / self.step)


def jobs(*, quick: bool, seed: int = SEED) -> list[Job]:
    """Give all jobs.

    Args:
        quick: Minutes in place of an hour: the same cases, each with less of everything.
        seed: Of the first story.
    """
    return [
        *_lines("minute", 20 if quick else 100, days=14 if quick else 28, step=MINUTE, story={"seed": seed}),
        *_rates(seed + 1, quick=quick),
        *_broken(seed + 2, quick=quick),
        *_lines(
            "during",
            10 if quick else 60,
            days=14 if quick else 21,
            step=MINUTE,
            story={"seed": seed + 3, "sensor_fault_rate": 1.0, "sensor_fault_when": "during"},
        ),
        *_healthy(seed + 4, quick=quick),
        *_changes(seed + 5, quick=quick),
        *_lines(
            "story 2", 10 if quick else 40, days=21 if quick else 56, step=MINUTE, story={"seed": seed + 6, "story": 2}
        ),
    ]


def _lines(case: str, machines: int, *, days: float, step: float, story: Mapping[str, Any]) -> Iterator[Job]:
    for first in range(0, machines, LINE):
        line = range(first, min(machines, first + LINE))
        yield Job(case, days * DAY, step, {"machines": machines, **story}, line)


def _rates(seed: int, *, quick: bool) -> Iterator[Job]:
    """Four machine-weeks at 1 Hz and the same at a reading a minute; faults are frequent, so that there are some to compare."""
    for case, step in (("1 Hz", 1.0), ("1 Hz, thinned", MINUTE)):
        for machine in range(2 if quick else 4):
            story = {"machines": 4, "seed": seed, "fault_rate": 1.0}
            yield Job(case, (0.5 if quick else 7) * DAY, step, story, range(machine, machine + 1))


def _broken(seed: int, *, quick: bool) -> Iterator[Job]:
    """A sensor breaks every two hours or so, for half an hour, on machines that are well."""
    story = {"machines": 8, "seed": seed, "fault_rate": 0.0}
    story |= {"sensor_fault_rate": 16.0, "sensor_fault_hours": 0.5}
    for first in range(0, 4 if quick else 8, 2):
        yield Job("broken sensors", (0.4 if quick else 3) * DAY, 1.0, story, range(first, first + 2))


def _healthy(seed: int, *, quick: bool) -> Iterator[Job]:
    spans = (
        # machines, step, days, lines; quick: days, lines
        (1, 1.0, 7, 1, 0.5, 1),
        (4, 1.0, 2, 1, 0.1, 1),
        (40, 1.0, 0.25, 1, 0.01, 1),
        (1, 10.0, 28, 2, 5, 1),
        (4, 10.0, 14, 1, 2, 1),
        (40, 10.0, 3, 1, 0.1, 1),
        (1, 600.0, 90, 8, 60, 4),
        (4, 600.0, 90, 4, 60, 2),
        (40, 600.0, 60, 2, 30, 1),
    )
    for machines, step, days, lines, quick_days, quick_lines in spans:
        for number in range(quick_lines if quick else lines):
            story = {"machines": machines, "seed": seed + 1000 * number, "fault_rate": 0.0}
            case = f"healthy, {machines} at {step:g} s"
            yield Job(case, (quick_days if quick else days) * DAY, step, story, range(machines))


def _changes(seed: int, *, quick: bool) -> Iterator[Job]:
    story = {"machines": 4, "seed": seed, "fault_rate": 0.0}
    for sensor in SENSORS[1:2] if quick else SENSORS:
        spoiled = Spoiled(DAY, (sensor,), "cylinder-2", factor=1.5)
        yield Job(f"{sensor} of one machine scaled by 1.5", 2 * DAY, 10.0, story, range(4), spoiled)
    for sensor in SENSORS[3:4] if quick else SENSORS:
        at = 2 * 3600.0 if quick else DAY / 2
        yield Job(
            f"{sensor} of all machines shifted",
            at + 5400.0,
            1.0,
            story,
            range(4),
            Spoiled(at, (sensor,), deviations=1.0),
        )
    at = 2 * 3600.0 if quick else DAY / 2
    yield Job(
        "all sensors of all machines shifted", at + 5400.0, 1.0, story, range(4), Spoiled(at, SENSORS, deviations=1.0)
    )
