"""What the line asks of a healthy machine over days: products, speeds, pauses and the weather in the hall.

Much of it resembles a fault, as it does on a real line: a heavy batch looks like an early overload, a machine after a pause like a
stuck temperature sensor, a hard duty cycle like a worn bearing. It must never know of faults or labels.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import Generic, TypeVar

from sensor_simulator.cylinder import Demand
from sensor_simulator.randomness import stream

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

_T = TypeVar("_T")


class Line:
    """The demand on one machine."""

    def __init__(self, seed: int, machine: int) -> None:
        """Begin in the middle of an ordinary shift.

        Args:
            seed: Of the whole story.
            machine: Number of the machine.
        """
        place = stream(seed, machine, "place")
        self._mean_ambient = place.uniform(21.0, 27.0)
        self._daily_swing = place.uniform(1.0, 3.0)
        self._time_of_day_s = place.uniform(0.0, DAY_S)
        self._weather = _Wander(stream(seed, machine, "weather"), deviation=2.0, memory_s=3 * DAY_S)
        self._runs = _Plan(_runs(stream(seed, machine, "pauses")))
        self._product = _Plan(_products(stream(seed, machine, "products")))
        self._speed = _Plan(_speeds(stream(seed, machine, "speeds")))
        # Between two parts of one product, and in the mains' voltage, nothing is quite constant.
        self._load_wander = _Wander(stream(seed, machine, "load wander"), deviation=0.025, memory_s=600.0)
        self._speed_wander = _Wander(stream(seed, machine, "speed wander"), deviation=0.008, memory_s=300.0)

    def demand(self, time_s: float, passed_s: float) -> Demand:
        """Say what the line wants.

        Args:
            time_s: Story time since the beginning, in seconds; must not go back.
            passed_s: Story time since the last call, in seconds.
        """
        day = math.sin(math.tau * (time_s + self._time_of_day_s) / DAY_S)
        return Demand(
            running=self._runs.at(time_s),
            load=max(0.5, self._product.at(time_s) + self._load_wander.advance(passed_s)),
            speed=max(0.5, self._speed.at(time_s) + self._speed_wander.advance(passed_s)),
            ambient=self._mean_ambient + self._daily_swing * day + self._weather.advance(passed_s),
        )


def _runs(random: Random) -> Iterator[tuple[bool, float]]:
    """Hours of work, then a pause of minutes: no parts, a meal, another tool."""
    while True:
        yield True, (0.5 + random.expovariate(1.0 / 6.0)) * HOUR_S
        yield False, min(1.5, random.lognormvariate(math.log(0.3), 0.6)) * HOUR_S


def _products(random: Random) -> Iterator[tuple[float, float]]:
    """Load of a batch relative to the ordinary product; one in seven is heavy, one in seven light."""
    while True:
        batch = random.choices(("heavy", "light", "ordinary"), (1, 1, 5))[0]
        if batch == "heavy":
            load = random.uniform(1.08, 1.24)
        elif batch == "light":
            load = random.uniform(0.80, 0.92)
        else:
            load = random.gauss(1.0, 0.025)
        yield load, random.uniform(0.7, 5.0) * HOUR_S


def _speeds(random: Random) -> Iterator[tuple[float, float]]:
    """Speed relative to the rated one; now and then the line catches up, or waits for its neighbours."""
    while True:
        pace = random.choices(("fast", "slow", "ordinary"), (1, 1, 8))[0]
        if pace == "fast":
            yield random.uniform(1.06, 1.18), random.uniform(0.4, 2.0) * HOUR_S
        elif pace == "slow":
            yield random.uniform(0.82, 0.93), random.uniform(0.4, 2.0) * HOUR_S
        else:
            yield random.gauss(1.0, 0.012), random.uniform(1.0, 5.0) * HOUR_S


class _Plan(Generic[_T]):
    """A value that holds for a while, then the next one; drawn in order, whatever the steps in which time passes."""

    def __init__(self, stretches: Iterator[tuple[_T, float]]) -> None:
        self._stretches = stretches
        self._value, self._until_s = next(stretches)

    def at(self, time_s: float) -> _T:
        while time_s >= self._until_s:
            self._value, seconds = next(self._stretches)
            self._until_s += seconds
        return self._value


class _Wander:
    """A slow wander around zero: an Ornstein-Uhlenbeck process, exact for any step (Gillespie 1996, Phys. Rev. E 54, 2084)."""

    def __init__(self, random: Random, *, deviation: float, memory_s: float) -> None:
        self._random = random
        self._deviation = deviation
        self._memory_s = memory_s
        self._value = random.gauss(0.0, deviation)

    def advance(self, seconds: float) -> float:
        keep = math.exp(-seconds / self._memory_s)
        self._value = self._value * keep + self._random.gauss(0.0, self._deviation) * math.sqrt(1.0 - keep * keep)
        return self._value
