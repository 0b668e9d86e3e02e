"""What the line asks of a healthy machine over days: products, speeds, pauses and the weather in the hall.

Much of it resembles a fault, as it does on a real line: a heavy batch looks like an early overload, a machine after a pause like a
stuck temperature sensor, a hard duty cycle like a worn bearing. It must never know of faults or labels.
"""

import math
from collections.abc import Iterator
from random import Random

from sensor_simulator.cylinder import Demand
from sensor_simulator.plan import DAY_S, HOUR_S, Plan, Wander
from sensor_simulator.randomness import stream


class Line:
    """The demand on one machine."""

    def __init__(self, seed: int, machine: int, story: int = 1) -> None:
        """Begin in the middle of an ordinary shift; in the second story, at midnight before a Monday.

        Args:
            seed: Of the whole story.
            machine: Number of the machine.
            story: 1, or 2 for a line that does not work around the clock and whose products are replaced by others.
        """
        place = stream(seed, machine, "place")
        self.mean_ambient = place.uniform(21.0, 27.0)
        self.daily_swing = place.uniform(1.0, 3.0)
        self.time_of_day_s = place.uniform(0.0, DAY_S)
        self.weather = Wander(stream(seed, machine, "weather"), deviation=2.0, memory_s=3 * DAY_S)
        self.runs = Plan(_runs(stream(seed, machine, "pauses")))
        self.product = Plan(_products(stream(seed, machine, "products")))
        self.speed = Plan(_speeds(stream(seed, machine, "speeds")))
        # Between two parts of one product, and in the mains' voltage, nothing is quite constant.
        self.load_wander = Wander(stream(seed, machine, "load wander"), deviation=0.025, memory_s=600.0)
        self.speed_wander = Wander(stream(seed, machine, "speed wander"), deviation=0.008, memory_s=300.0)
        always = Plan(iter([(True, math.inf)]))
        unchanged = Plan(iter([((1.0, 1.0), math.inf)]))
        self.on_duty = always if story == 1 else Plan(_duties(stream(seed, machine, "duties")))
        self.family = unchanged if story == 1 else Plan(_families(stream(seed, machine, "families")))

    def demand(self, time_s: float, passed_s: float) -> Demand:
        """Say what the line wants.

        Args:
            time_s: Story time since the beginning, in seconds; must not go back.
            passed_s: Story time since the last call, in seconds.
        """
        day = math.sin(math.tau * (time_s + self.time_of_day_s) / DAY_S)
        load, speed = self.family.at(time_s)
        running, on_duty = self.runs.at(time_s), self.on_duty.at(time_s)
        return Demand(
            running=running and on_duty,
            load=max(0.5, load * self.product.at(time_s) + self.load_wander.advance(passed_s)),
            speed=max(0.5, speed * self.speed.at(time_s) + self.speed_wander.advance(passed_s)),
            ambient=self.mean_ambient + self.daily_swing * day + self.weather.advance(passed_s),
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


def _duties(random: Random) -> Iterator[tuple[bool, float]]:
    """When the line works, day by day from a Monday on: around the clock, two shifts or one, with or without the Saturday."""
    begin, end = random.choice(((0.0, 24.0), (6.0, 22.0), (6.0, 22.0), (6.0, 14.0)))
    days = 7 if begin == 0.0 else random.choice((5, 5, 6))
    now = 0.0
    day = 0
    while True:
        if day % 7 < days:
            # People come and go on time within some minutes.
            early, late = random.uniform(-0.2, 0.2), random.uniform(-0.2, 0.2)
            if begin > 0.0:
                on, off = day * DAY_S + (begin + early) * HOUR_S, day * DAY_S + (end + late) * HOUR_S
                yield False, on - now
                yield True, off - on
                now = off
            else:
                yield True, DAY_S
        day += 1


def _families(random: Random) -> Iterator[tuple[tuple[float, float], float]]:
    """Load and speed of one product after another relative to the first; each is made for some weeks."""
    load = speed = 1.0
    while True:
        yield (load, speed), random.uniform(1.0, 5.0) * 7 * DAY_S
        load, speed = random.uniform(0.90, 1.10), random.uniform(0.93, 1.07)
