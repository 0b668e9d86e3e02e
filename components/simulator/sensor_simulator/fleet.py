"""Several machines over time: what users of the simulator hold in their hands.

`Fleet` puts a line, faults, a cylinder and instruments together for each machine and gives readings, deterministic by seed. The
episodes, products and pauses of a seed stay the same at every rate of readings. It must never do I/O or look at a clock.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from sensor_simulator import sensor_faults
from sensor_simulator.cylinder import Build, Cylinder
from sensor_simulator.faults import CALL_LIMIT, SIGNATURES, Episode, Episodes, Fault, condition
from sensor_simulator.instruments import Instruments, Sticking
from sensor_simulator.labels import HumanLabels, labelled
from sensor_simulator.line import Line
from sensor_simulator.plan import DAY_S, Plan
from sensor_simulator.randomness import stream
from sensor_simulator.sensor_faults import BrokenSensors, SensorEpisode, SensorFault, When
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
SENSOR_FAULT = "sensor_fault"
COLUMNS = ("equipment_id", "timestamp", *SENSORS, LABEL, "episode", "fault")
"""Keys of a row; in a story with broken sensors, `SENSOR_FAULT` comes after them."""
START = datetime(2026, 1, 5, tzinfo=timezone.utc)
"""When a story begins if nobody says otherwise: fixed, so that a seed gives the same file on every day."""

OVERHAUL_S = 84 * DAY_S
_FAULT_RATES = {1: 0.15, 2: 0.03}

Row = dict[str, str | float]
"""One reading; the keys are `COLUMNS`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a fleet's story is made of; see `Fleet`."""

    seed: int
    story: int
    fault_rate: float
    fault: Fault | None
    accelerate: float
    sensor_fault_rate: float
    sensor_fault_hours: float
    sensor_fault: SensorFault | None
    sensor_fault_when: When

    def episodes(self, machine: int) -> Episodes:
        """Plan a machine's episodes from the beginning."""
        return Episodes(self.seed, machine, rate=self.fault_rate, fault=self.fault, story=self.story)

    def sensor_plan(self, machine: int) -> Plan[SensorEpisode | None]:
        """Plan a machine's broken sensors from the beginning."""
        return sensor_faults.plan(
            stream(self.seed, machine, "sensor faults"),
            rate=self.sensor_fault_rate,
            hours=self.sensor_fault_hours,
            fault=self.sensor_fault,
            when=self.sensor_fault_when,
            episodes=self.episodes(machine).until(math.inf),
        )


class Machine:
    """One cylinder of the fleet, with its line and sensors."""

    def __init__(self, number: int, scenario: Scenario) -> None:
        """Build a machine that differs a little from its type.

        Args:
            number: From 1 on.
            scenario: What happens to it.
        """
        self.equipment_id = f"cylinder-{number}"
        self.number, self.scenario = number, scenario
        seed = scenario.seed
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
        self.age_at_start_s = own.uniform(0.0, OVERHAUL_S)
        self.time_s = 0.0
        """Story time of the last reading."""
        self.line = Line(seed, number, scenario.story)
        self.episodes = scenario.episodes(number)
        self.cylinder = Cylinder(build, temperature=own.gauss(66.0, 2.0), phase=own.random())
        self.instruments = Instruments(seed, number, scenario.story)
        self.broken_sensors = BrokenSensors(scenario.sensor_plan(number)) if scenario.sensor_fault_rate else None
        self.labels = None
        if scenario.story > 1:
            plan = scenario.episodes(number).until(math.inf)
            self.labels = HumanLabels(stream(seed, number, "labels"), stream(seed, number, "needless"), plan)

    def read(self, *, step: float, at: datetime, accelerate: float | None = None) -> Row:
        """Let a step of time pass and take a reading.

        Args:
            step: Seconds by the clock since this machine's last reading.
            at: The reading's timestamp, aware.
            accelerate: In place of the scenario's, for this step.
        """
        passed = step * (self.scenario.accelerate if accelerate is None else accelerate)
        self.time_s += passed
        time_s = self.time_s
        demand = self.line.demand(time_s, passed)
        episode = self.episodes.at(time_s)
        degree = 0.0
        if episode is not None and time_s >= episode.repair_s:
            demand = demand._replace(running=False)
            episode = None
        elif episode is not None:
            degree = episode.degree(time_s)
        age = math.fmod(self.age_at_start_s + time_s, OVERHAUL_S) / OVERHAUL_S
        state = condition(episode.fault if episode else None, degree, age)
        truth = self.cylinder.advance(clock_s=step, story_s=passed, demand=demand, condition=state)
        reading = self.instruments.read(truth, time_s, episode, degree)
        broken = None
        if self.broken_sensors:
            reading, broken = self.broken_sensors.read(reading, time_s)
        row: Row = {"equipment_id": self.equipment_id, "timestamp": iso(at)}
        row.update(zip(SENSORS, reading, strict=True))
        abnormal = self.labels.at(time_s) if self.labels else degree >= CALL_LIMIT
        row[LABEL] = 1.0 if abnormal else 0.0
        row["episode"] = f"{self.equipment_id}/{episode.number}" if episode else ""
        row["fault"] = episode.fault.value if episode else ""
        if self.broken_sensors:
            row[SENSOR_FAULT] = broken.fault.value if broken else ""
        return row

    def truth(self, *, seconds: float, step: float, start: datetime) -> Iterator[Truth]:
        """Give the episodes that readings from the beginning on meet; arguments as for `Fleet.rows`."""
        passed = step * self.scenario.accelerate
        ends = round(seconds / step) * passed

        def met(onset_s: float, repair_s: float) -> bool:
            # The last reading before its end is in it, or none is.
            return onset_s <= math.floor(min(repair_s, ends) / passed) * passed

        def moment(story_s: float) -> datetime:
            return start + timedelta(seconds=story_s - passed)

        yield from self._episode_truth(ends, met, moment)
        onset = 0.0
        for broken, end in self.scenario.sensor_plan(self.number).until(ends):
            if broken is not None and met(onset, end):
                yield Truth(
                    equipment_id=self.equipment_id,
                    episode=f"{self.equipment_id}/sensor-{broken.number}",
                    kind="sensor",
                    fault=broken.fault.value,
                    sensors=(SENSORS[broken.sensor],),
                    onset=moment(onset),
                    label=None,
                    labelled=None,
                    full=moment(onset),
                    repair=moment(end),
                    back=moment(end),
                )
            onset = end

    def _episode_truth(
        self, ends: float, met: Callable[[float, float], bool], moment: Callable[[float], datetime]
    ) -> Iterator[Truth]:
        sticking = Sticking(self.scenario.seed, self.number)
        plan = self.scenario.episodes(self.number).until(ends)
        labels: Iterator[tuple[Episode, tuple[float, float] | None]]
        if self.labels:
            labels = labelled(stream(self.scenario.seed, self.number, "labels"), plan)
        else:
            labels = (
                (episode, None if (at := episode.called_s) is None else (at, episode.repair_s)) for episode in plan
            )
        for episode, label in labels:
            if not met(episode.onset_s, episode.repair_s):
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
                labelled=None if label is None else moment(label[0]),
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
        story: int = 1,
        fault_rate: float | None = None,
        fault: Fault | str | None = None,
        accelerate: float = 1.0,
        sensor_fault_rate: float = 0.0,
        sensor_fault_hours: float = 6.0,
        sensor_fault: SensorFault | str | None = None,
        sensor_fault_when: When | str = When.ANY,
    ) -> None:
        """Build the machines.

        Args:
            machines: How many; they are called ``cylinder-1`` and so on. Machine n of a seed is the same in a fleet of any size.
            seed: The same seed gives the same story.
            story: 1, or 2 for a line that is harder to judge: rarer faults, some of which do not go on, labels as people give them, shifts,
                other products, exchanged sensors.
            fault_rate: Episodes that begin on a healthy machine a day of story; None for the story's own, 0.15 in the first, 0.03 in
                the second. An episode takes hours to a few days.
            fault: Only this kind (a `Fault` or its name); None for all kinds.
            accelerate: Seconds of story (heat, products, faults) a second by the clock. The cylinder's strokes follow the clock.
            sensor_fault_rate: Sensors that break a day on a machine none of whose sensors is broken, beside the story's own.
            sensor_fault_hours: For how long, median.
            sensor_fault: Only this way to break; None for all.
            sensor_fault_when: When they break.

        Raises:
            ValueError: If there is no such story or fault.
        """
        if story not in _FAULT_RATES:
            raise ValueError(f"{story!r} is not a story; there are 1 and 2")
        self.scenario = Scenario(
            seed=seed,
            story=story,
            fault_rate=_FAULT_RATES[story] if fault_rate is None else fault_rate,
            fault=None if fault is None else Fault(fault),
            accelerate=accelerate,
            sensor_fault_rate=sensor_fault_rate,
            sensor_fault_hours=sensor_fault_hours,
            sensor_fault=None if sensor_fault is None else SensorFault(sensor_fault),
            sensor_fault_when=When(sensor_fault_when),
        )
        self.columns = (*COLUMNS, SENSOR_FAULT) if sensor_fault_rate else COLUMNS
        self.machines = tuple(Machine(number, self.scenario) for number in range(1, machines + 1))

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
            at = start + timedelta(seconds=count * step * self.scenario.accelerate)
            for machine in self.machines:
                yield machine.read(step=step, at=at)

    def truth(self, *, seconds: float, step: float = 1.0, start: datetime = START) -> list[Truth]:
        """Give the episodes in the readings that the first call of `rows` gives with the same arguments, in the order of their onsets.

        An episode that goes on beyond the last reading has its planned end.
        """
        found = [truth for machine in self.machines for truth in machine.truth(seconds=seconds, step=step, start=start)]
        return sorted(found, key=lambda truth: truth.onset)
