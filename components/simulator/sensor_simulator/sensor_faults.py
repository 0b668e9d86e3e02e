"""Sensors that break while the machine is well, or while it is not: injected on demand, each with its own row in the truth.

They change what one sensor reports and nothing else; neither the label nor the five other sensors know of them. They must never draw
from the story's own dice: a story with broken sensors is the same story.
"""

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sensor_simulator.cylinder import Signals
from sensor_simulator.faults import Episode, Fault
from sensor_simulator.instruments import ORDINARY, REGISTER_MAXIMUM, TEMPERATURE_LIMITS, register
from sensor_simulator.plan import DAY_S, HOUR_S, Plan

_TEMPERATURE = 0
_TEMPERATURE_RANGE_END = 155.0
"""degC; where the transmitter's range ends: class F insulation (IEC 60085)."""


class SensorFault(enum.Enum):
    """What can go wrong with a sensor, from one reading to the next."""

    STUCK = "stuck"
    """It repeats its last value."""
    SATURATED = "saturated"
    """It reports the end of its register or, for the temperature, of its range."""
    SCALED = "scaled"
    """It reports a multiple of the truth: a wrong range, a current transformer of another ratio."""
    OFFSET = "offset"
    """It reports the truth and a constant."""
    DEAD = "dead"
    """It reports zero."""


class When(enum.Enum):
    """When sensors break."""

    ANY = "any"
    """At any time, by the rate."""
    ALONE = "alone"
    """By the rate, but not while an episode of the story is under way."""
    DURING = "during"
    """In each episode of the equipment, from some hours before its onset to its repair; the rate does not matter."""


@dataclass(frozen=True, slots=True)
class SensorEpisode:
    """One sensor that is broken for a time."""

    number: int
    """Counts a machine's from 1."""
    fault: SensorFault
    sensor: int
    """Position in the reading."""
    amount: float
    """The value of a saturated or dead one, the factor of a scaled one, the constant of one with an offset."""

    def spoil(self, value: float, frozen: float) -> float:
        """Give what the sensor reports in place of a value; frozen is its last value before it broke."""
        if self.fault is SensorFault.STUCK:
            return frozen
        if self.fault in (SensorFault.SATURATED, SensorFault.DEAD):
            return self.amount
        value = value * self.amount if self.fault is SensorFault.SCALED else value + self.amount
        return register(value, *TEMPERATURE_LIMITS) if self.sensor == _TEMPERATURE else register(value)


def plan(
    random: Random, *, rate: float, hours: float, fault: SensorFault | None, when: When, episodes: Iterator[Episode]
) -> Plan[SensorEpisode | None]:
    """Plan a machine's broken sensors.

    Args:
        random: The dice for this machine.
        rate: How many break a day, while none is broken; 0 for none at all.
        hours: For how long, median.
        fault: Only this kind; None for all.
        when: When they break.
        episodes: The machine's episodes from the beginning of the story.
    """
    kinds = list(SensorFault) if fault is None else [fault]
    if rate <= 0.0:
        return Plan(iter([(None, math.inf)]))
    if when is When.DURING:
        return Plan(_during(random, kinds, episodes))
    return Plan(_by_rate(random, kinds, (rate, hours), episodes if when is When.ALONE else iter(())))


class BrokenSensors:
    """What a machine's broken sensors make of its readings, one reading after the other."""

    def __init__(self, plan: Plan[SensorEpisode | None]) -> None:
        """Begin with all sensors well, as far as the plan allows."""
        self.plan = plan
        self.healthy: Signals | None = None
        """The latest reading with all sensors well."""
        self._number, self._frozen = 0, 0.0

    def read(self, reading: Signals, time_s: float) -> tuple[Signals, SensorEpisode | None]:
        """Give what is reported in place of a reading, and what is broken; times must not go back."""
        episode = self.plan.at(time_s)
        if episode is None:
            self.healthy = reading
            return reading, None
        if episode.number != self._number:
            self.freeze(episode, (self.healthy or reading)[episode.sensor])
        values = list(reading)
        values[episode.sensor] = episode.spoil(values[episode.sensor], self._frozen)
        return Signals(*values), episode

    def freeze(self, episode: SensorEpisode, value: float) -> float:
        """Keep the last value before an episode, unless it has begun already; gives what is kept."""
        if episode.number != self._number:
            self._number, self._frozen = episode.number, value
        return self._frozen


def _by_rate(
    random: Random, kinds: list[SensorFault], rate_and_hours: tuple[float, float], avoided: Iterator[Episode]
) -> Iterator[tuple[SensorEpisode | None, float]]:
    rate, hours = rate_and_hours
    now, number = 0.0, 0
    ahead = next(avoided, None)
    while True:
        begin = now + random.expovariate(rate / DAY_S)
        while ahead is not None and ahead.onset_s <= begin:
            if begin < ahead.back_s:
                begin = ahead.back_s + random.expovariate(rate / DAY_S)
            ahead = next(avoided, None)
        end = begin + HOUR_S * random.lognormvariate(math.log(hours), 0.6)
        if ahead is not None:
            end = min(end, ahead.onset_s)
        number += 1
        yield None, begin - now
        yield _episode(random, number, kinds), end - begin
        now = end


def _during(
    random: Random, kinds: list[SensorFault], episodes: Iterator[Episode]
) -> Iterator[tuple[SensorEpisode | None, float]]:
    now, number = 0.0, 0
    for episode in episodes:
        if episode.fault is Fault.STUCK_SENSOR:
            continue
        begin = max(now, episode.onset_s - HOUR_S * random.uniform(0.5, 6.0))
        number += 1
        yield None, begin - now
        yield _episode(random, number, kinds), episode.repair_s - begin
        now = episode.repair_s
    yield None, math.inf


def _episode(random: Random, number: int, kinds: list[SensorFault]) -> SensorEpisode:
    fault, sensor = random.choice(kinds), random.randrange(len(ORDINARY))
    high, share = random.random() < 0.5, random.random()  # noqa: PLR2004 - a coin
    if fault is SensorFault.SCALED:
        amount = 1.35 + 0.65 * share if high else 0.5 + 0.25 * share
    elif fault is SensorFault.OFFSET:
        # Of the temperature in kelvin, since its zero means nothing.
        size = 15.0 + 15.0 * share if sensor == _TEMPERATURE else (0.25 + 0.25 * share) * ORDINARY[sensor]
        amount = round(size if high else -size, 2)
    elif fault is SensorFault.SATURATED:
        amount = REGISTER_MAXIMUM
        if sensor == _TEMPERATURE:
            amount = TEMPERATURE_LIMITS[1] if high else _TEMPERATURE_RANGE_END
    else:
        amount = 0.0
    return SensorEpisode(number, fault, sensor, amount)
