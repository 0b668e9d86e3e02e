"""From what happens to what the line reports: each sensor's gain, noise and resolution, and the two faults of the sensors.

It must never change the machine: a sensor that lies leaves the other five telling the truth.
"""

import math
from collections.abc import Iterator
from random import Random

from sensor_simulator.cylinder import Signals
from sensor_simulator.faults import CALL_LIMIT, Episode, Fault
from sensor_simulator.plan import DAY_S, HOUR_S, Plan
from sensor_simulator.randomness import stream

# Standard deviation of one reading, as a share of it; of an RMS value it is 1 / (2 * sqrt(B * T)) (Bendat and Piersol, Random Data), which
# is 3 % for an effective bandwidth of 46 Hz and six seconds. The strokes' energy sits at the low end of the sensor's 10 to 1000 Hz.
VELOCITY_NOISE = 0.03
TEMPERATURE_NOISE_K = 0.3
CURRENT_NOISE = 0.008
LOAD_NOISE = 0.010
ENCODER_NOISE = 0.006
# The controller's registers hold hundredths in 16 bits; the temperature's is signed.
REGISTER_MAXIMUM = 655.35
TEMPERATURE_LIMITS = (-327.68, 327.67)
# A stuck sensor's last word lies between these.
_STANDSTILL = Signals(22.0, 0.0, 0.0, 0.0, 0.0, 0.0)
ORDINARY = Signals(68.0, 90.0, 52.0, 107.0, 107.5, 25.9)
# What comes through the floor reaches the spindle's direction less.
BURST_X_SHARE = 0.6


class Sticking:
    """Which sensor sticks in each of a machine's stuck-sensor episodes, and at what; drawn in the order of the episodes.

    Contacts fail while things start to move and warm up, so the last word lies between standstill and the ordinary value.
    """

    def __init__(self, seed: int, machine: int) -> None:
        """Prepare the first one; arguments as for `Instruments`."""
        self._random = stream(seed, machine, "sticking")
        self._episode = 0
        self._sensor, self._value = 0, 0.0

    def at(self, episode: Episode) -> tuple[int, float]:
        """Give the number of the sensor and its last word, for an episode of `Fault.STUCK_SENSOR`; in order."""
        if self._episode != episode.number:
            self._episode = episode.number
            self._sensor = sensor = self._random.randrange(len(ORDINARY))
            share = self._random.uniform(0.1, 0.6)
            self._value = _STANDSTILL[sensor] + share * (ORDINARY[sensor] - _STANDSTILL[sensor])
        return self._sensor, self._value


class Instruments:
    """The six sensors of one machine."""

    def __init__(self, seed: int, machine: int, story: int = 1) -> None:
        """Mount the sensors: each a little off, and not the same on two machines.

        Args:
            seed: Of the whole story.
            machine: Number of the machine.
            story: 1, or 2 where sensors are exchanged for others.
        """
        mounting = stream(seed, machine, "mounting")
        self.temperature_offset = mounting.gauss(0.0, 1.0)
        self.z_gain = mounting.lognormvariate(0.0, 0.04)
        self.x_gain = mounting.lognormvariate(0.0, 0.04)
        self.current_gain = mounting.gauss(1.0, 0.008)
        self.load_gain = mounting.gauss(1.0, 0.010)
        self.noise = stream(seed, machine, "noise")
        self.sticking = Sticking(seed, machine)
        self.bursts = Plan(_bursts(stream(seed, machine, "bursts")))
        exchanges = _exchanges(stream(seed, machine, "exchanges")) if story > 1 else iter([(None, math.inf)])
        self.exchanged: Plan[Signals | None] = Plan(exchanges)

    def read(self, truth: Signals, time_s: float, episode: Episode | None, degree: float) -> Signals:
        """Take a reading.

        Args:
            truth: What perfect sensors would read.
            time_s: Story time, in seconds; must not go back.
            episode: What is under way on this machine.
            degree: Of its fault now, 0 to 1.
        """
        gauss = self.noise.gauss
        burst = self.bursts.at(time_s)
        values = [
            truth.temperature + self.temperature_offset + gauss(0.0, TEMPERATURE_NOISE_K),
            math.hypot(truth.z_velocity, burst) * self.z_gain * gauss(1.0, VELOCITY_NOISE),
            math.hypot(truth.x_velocity, burst * BURST_X_SHARE) * self.x_gain * gauss(1.0, VELOCITY_NOISE),
            truth.current * self.current_gain * gauss(1.0, CURRENT_NOISE),
            truth.load * self.load_gain * gauss(1.0, LOAD_NOISE),
            truth.encoder * gauss(1.0, ENCODER_NOISE),
        ]
        exchanged = self.exchanged.at(time_s)
        if exchanged is not None:
            values = [
                values[0] + exchanged[0],
                *(value * gain for value, gain in zip(values[1:], exchanged[1:], strict=True)),
            ]
        if episode is not None and episode.fault is Fault.SLIPPING_ENCODER:
            # The coupling slips on some strokes and holds on others: a mean loss, and much scatter around it.
            values[5] *= 1.0 - min(1.0, max(0.0, degree * gauss(0.34, 0.12)))
        elif episode is not None and episode.fault is Fault.STUCK_SENSOR:
            self._stick(values, episode, degree)
        return Signals(register(values[0], *TEMPERATURE_LIMITS), *(register(value) for value in values[1:]))

    def _stick(self, values: list[float], episode: Episode, degree: float) -> None:
        """Let one sensor freeze, at first for a few readings, in the end for good."""
        sensor, value = self.sticking.at(episode)
        # Where an engineer would call it, four readings of five are frozen.
        if self.noise.random() < 0.8 * degree / CALL_LIMIT:
            values[sensor] = value


def _bursts(random: Random) -> Iterator[tuple[float, float]]:
    """Vibration from outside, in mm/s RMS: a forklift, the press next door; for minutes, a few times a shift."""
    while True:
        yield 0.0, random.expovariate(1.0 / (3.0 * HOUR_S))
        seconds = random.uniform(60.0, 900.0)
        yield random.uniform(25.0, 80.0), seconds


def _exchanges(random: Random) -> Iterator[tuple[Signals | None, float]]:
    """What another sensor reads in place of the first one: the temperature's difference in kelvin, the others' ratio."""
    deviations = (1.0, 0.04, 0.04, 0.008, 0.010, 0.0)
    values = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    while True:
        yield Signals(*values), random.expovariate(1.0 / (28.0 * DAY_S))
        sensor = random.randrange(len(values))
        values[sensor] = random.gauss(float(sensor > 0), deviations[sensor])


def register(value: float, lowest: float = 0.0, highest: float = REGISTER_MAXIMUM) -> float:
    """Give a value as a register of hundredths holds it."""
    return round(min(highest, max(lowest, value)), 2)
