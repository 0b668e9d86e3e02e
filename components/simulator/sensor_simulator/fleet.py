"""Several machines over time: what users of the simulator hold in their hands.

`Fleet` puts a line, faults, a cylinder and instruments together for each machine and gives readings, deterministic by seed. The
episodes, products and pauses of a seed stay the same at every rate of readings. It must never do I/O or look at a clock.
"""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from sensor_simulator.cylinder import Build, Cylinder
from sensor_simulator.faults import CALL_LIMIT, SIGNATURES, Episodes, Fault, condition
from sensor_simulator.instruments import Instruments, Sticking
from sensor_simulator.line import DAY_S, Line
from sensor_simulator.randomness import stream
from sensor_simulator.truth import Truth, iso

UNITS = {
    "rVibration_Temp": "degC",
    "rVibration_Z_RMS_Velocity": "mm/s",
    "rVibration_X_RMS_Velocity": "mm/s",
    "wRMSCurrent": "A",
    "wCurrentLoad": "%",
    "wEncoderVelocity": "RPM",
}
"""The six sensors with their units."""
SENSORS = tuple(UNITS)
LABEL = "wCylinderStatus"
COLUMNS = ("equipment_id", "timestamp", *SENSORS, LABEL, "episode", "fault")
START = datetime(2026, 1, 5, tzinfo=timezone.utc)
"""When a story begins if nobody says otherwise: fixed, so that a seed gives the same file on every day."""

_OVERHAUL_S = 84 * DAY_S

Row = dict[str, str | float]
"""One reading; the keys are `COLUMNS`."""


class Machine:
    """One cylinder of the fleet, with its line and sensors."""

    def __init__(self, number: int, *, seed: int, fault_rate: float, fault: Fault | None, accelerate: float) -> None:
        """Build a machine that differs a little from its type; arguments as for `Fleet`."""
        self.equipment_id = f"cylinder-{number}"
        self._number, self._seed = number, seed
        self._fault_rate, self._fault = fault_rate, fault
        own = stream(seed, number, "build")
        build = Build(
            cycle_s=own.uniform(6.3, 7.7),
            rated_current=own.gauss(100.0, 1.0),
            magnetising_share=own.uniform(0.34, 0.38),
            load=own.gauss(1.065, 0.018),
            speed=own.gauss(25.9, 0.30),
            slip=own.uniform(0.025, 0.035),
            z_velocity=83.0 * own.lognormvariate(0.0, 0.05),
            x_velocity=47.0 * own.lognormvariate(0.0, 0.05),
            copper_rise=own.gauss(27.0, 1.2),
            friction_rise=own.gauss(13.0, 0.8),
            thermal_s=own.uniform(1900.0, 2900.0),
        )
        self._age_at_start_s = own.uniform(0.0, _OVERHAUL_S)
        self._accelerate = accelerate
        self._time_s = 0.0
        self._line = Line(seed, number)
        self._episodes = Episodes(seed, number, rate=fault_rate, fault=fault)
        self._cylinder = Cylinder(build, temperature=own.gauss(66.0, 2.0), phase=own.random())
        self._instruments = Instruments(seed, number)

    def read(self, *, step: float, at: datetime) -> Row:
        """Let a step of time pass and take a reading.

        Args:
            step: Seconds by the clock since this machine's last reading.
            at: The reading's timestamp, aware.
        """
        passed = step * self._accelerate
        self._time_s += passed
        time_s = self._time_s
        demand = self._line.demand(time_s, passed)
        episode = self._episodes.at(time_s)
        degree = 0.0
        if episode is not None and time_s >= episode.repair_s:
            demand = demand._replace(running=False)
            episode = None
        elif episode is not None:
            degree = episode.degree(time_s)
        age = math.fmod(self._age_at_start_s + time_s, _OVERHAUL_S) / _OVERHAUL_S
        state = condition(episode.fault if episode else None, degree, age)
        truth = self._cylinder.advance(clock_s=step, story_s=passed, demand=demand, condition=state)
        reading = self._instruments.read(truth, time_s, episode, degree)
        row: Row = {"equipment_id": self.equipment_id, "timestamp": iso(at)}
        row.update(zip(SENSORS, reading, strict=True))
        row[LABEL] = 1.0 if degree >= CALL_LIMIT else 0.0
        row["episode"] = f"{self.equipment_id}/{episode.number}" if episode else ""
        row["fault"] = episode.fault.value if episode else ""
        return row

    def truth(self, *, seconds: float, step: float, start: datetime) -> Iterator[Truth]:
        """Give the episodes that readings from the beginning on meet; arguments as for `Fleet.rows`."""
        passed = step * self._accelerate
        ends = round(seconds / step) * passed
        plan = Episodes(self._seed, self._number, rate=self._fault_rate, fault=self._fault)
        sticking = Sticking(self._seed, self._number)

        def moment(story_s: float) -> datetime:
            return start + timedelta(seconds=story_s - passed)

        for episode in plan.until(ends):
            # The first reading in it is the last one before its end, or there is none.
            if math.floor(episode.repair_s / passed) * passed < episode.onset_s:
                continue
            stuck = episode.fault is Fault.STUCK_SENSOR
            yield Truth(
                equipment_id=self.equipment_id,
                episode=f"{self.equipment_id}/{episode.number}",
                kind="sensor" if stuck else "equipment",
                fault=episode.fault.value,
                sensors=(SENSORS[sticking.at(episode)[0]],) if stuck else SIGNATURES[episode.fault],
                onset=moment(episode.onset_s),
                label=None if episode.called_s is None else moment(episode.called_s),
                full=moment(episode.grown_s),
                repair=moment(episode.repair_s),
                back=moment(episode.back_s),
            )


class Fleet:
    """Several machines, each a little different.

    Example:
        >>> fleet = Fleet(machines=2, seed=7)
        >>> rows = list(fleet.rows(seconds=60, step=1.0))
        >>> len(rows)
        120
    """

    def __init__(
        self,
        *,
        machines: int = 8,
        seed: int = 7,
        fault_rate: float = 0.15,
        fault: Fault | str | None = None,
        accelerate: float = 1.0,
    ) -> None:
        """Build the machines.

        Args:
            machines: How many; they are called ``cylinder-1`` and so on. Machine n of a seed is the same in a fleet of any size.
            seed: The same seed gives the same story.
            fault_rate: Episodes that begin on a healthy machine a day of story. An episode takes hours to a few days.
            fault: Only this kind (a `Fault` or its name); None for all kinds.
            accelerate: Seconds of story (heat, products, faults) a second by the clock. The cylinder's strokes follow the clock.

        Raises:
            ValueError: If there is no such fault.
        """
        self._accelerate = accelerate
        kind = None if fault is None else Fault(fault)
        self.machines = tuple(
            Machine(number, seed=seed, fault_rate=fault_rate, fault=kind, accelerate=accelerate)
            for number in range(1, machines + 1)
        )

    def rows(self, *, seconds: float, step: float = 1.0, start: datetime = START) -> Iterator[Row]:
        """Give readings of all machines in the order of time; a second call goes on where the first one ended.

        Args:
            seconds: How long, by the clock.
            step: Between two readings of a machine, in seconds by the clock.
            start: Timestamp of the first readings, aware; the following ones are later by as much as has passed in the story.

        Yields:
            One reading of one machine; see `COLUMNS`. ``wCylinderStatus`` is 1.0 where a maintenance engineer would call the machine
            abnormal. ``episode`` and ``fault`` are set from the onset on, "" where there is none.
        """
        for count in range(round(seconds / step)):
            at = start + timedelta(seconds=count * step * self._accelerate)
            for machine in self.machines:
                yield machine.read(step=step, at=at)

    def truth(self, *, seconds: float, step: float = 1.0, start: datetime = START) -> list[Truth]:
        """Give the episodes in the readings that the first call of `rows` gives with the same arguments, in the order of their onsets.

        An episode that goes on beyond the last reading has its planned end.
        """
        found = [truth for machine in self.machines for truth in machine.truth(seconds=seconds, step=step, start=start)]
        return sorted(found, key=lambda truth: truth.onset)
