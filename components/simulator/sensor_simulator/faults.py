"""The five faults: what each does to a machine or its sensors, how it grows over an episode, and when it counts as abnormal.

A fault has a degree between 0 (nothing) and 1 (the machine would stop by itself). Its beginnings are within what healthy
machines do, too. The label is not "a fault is in there somewhere" but what a maintenance engineer would say: abnormal from
`CALL_LIMIT` on. It must never look at the signals: cause comes first.
"""

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sensor_simulator.cylinder import Condition
from sensor_simulator.plan import DAY_S, HOUR_S
from sensor_simulator.randomness import stream

CALL_LIMIT = 0.4
"""The degree from which a maintenance engineer calls the machine abnormal.

For a bearing it is where the vibration in Z has grown by a quarter over the machine's own baseline: ISO 20816-1 (before: ISO
10816-1) takes a change by 25 % of the upper limit of zone B as significant, whatever the absolute value (criterion II). The absolute
limits of criterion I are for rotating machines (ISO 20816-3: zone D above 4.5 to 11 mm/s) and do not fit a cylinder that strikes its end
stops. The other faults are scaled to the same urgency: a fifth more load, a seventh of the encoder's signal lost.
"""


class Fault(enum.Enum):
    """What can go wrong, named as in the training data."""

    BEARING_WEAR = "bearing_wear"
    MISALIGNMENT = "misalignment"
    OVERLOAD = "overload"
    SLIPPING_ENCODER = "slipping_encoder"
    STUCK_SENSOR = "stuck_sensor"


def condition(fault: Fault | None, degree: float, age: float = 0.0) -> Condition:
    """Say what a fault does inside the machine. Faults of the sensors change nothing there.

    - Bearing wear: broadband vibration across the shaft first, friction and with it load and heat at the seat later.
    - Misalignment: vibration along the shaft; as a rule of the trade, suspect it where the axial vibration exceeds half of the
      radial one. It bends the coupling, which costs some torque and heat.
    - Overload: nothing but load; current, heat, slip and vibration follow by the machine's own physics.

    Args:
        fault: Which one, or None.
        degree: 0 to 1.
        age: Since the last overhaul, 0 to 1; play and friction that come with use.
    """
    load = 0.03 * age
    looseness = 0.10 * age
    if fault is Fault.BEARING_WEAR:
        # sqrt(1 + (1.9 * CALL_LIMIT) ** 2) = 1.26: the quarter.
        return Condition(load + 0.07 * degree, 15.0 * degree, 1.9 * degree, 1.2 * degree, looseness)
    if fault is Fault.MISALIGNMENT:
        return Condition(load + 0.08 * degree, 7.0 * degree, 0.6 * degree, 2.1 * degree, looseness)
    if fault is Fault.OVERLOAD:
        return Condition(load + 0.52 * degree, looseness=looseness)
    return Condition(load, looseness=looseness)


SIGNATURES: Mapping[Fault, tuple[str, ...]] = {
    Fault.BEARING_WEAR: ("rVibration_Z_RMS_Velocity", "rVibration_X_RMS_Velocity"),
    Fault.MISALIGNMENT: ("rVibration_X_RMS_Velocity",),
    Fault.OVERLOAD: ("wCurrentLoad", "wRMSCurrent"),
    Fault.SLIPPING_ENCODER: ("wEncoderVelocity",),
}
"""The sensors that point to each fault. Heat is left out: every fault of the machine brings it, so it tells none of them apart.
A stuck sensor's signature is the sensor itself."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How a fault's degree develops."""

    hours: float
    """Median from onset to full degree."""
    power: float
    """Degree grows with this power of time: above 1 slow at first, below 1 sudden."""


GROWTH = {
    Fault.BEARING_WEAR: Growth(hours=26.0, power=2.0),
    Fault.MISALIGNMENT: Growth(hours=20.0, power=1.4),
    Fault.OVERLOAD: Growth(hours=12.0, power=1.0),
    Fault.SLIPPING_ENCODER: Growth(hours=16.0, power=1.2),
    Fault.STUCK_SENSOR: Growth(hours=12.0, power=0.8),
}


_STOPS = 0.3
"""Share of the faults that begin and do not go on, in the second story."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault from its onset to its repair; times are story seconds."""

    number: int
    """Counts a machine's episodes from 1."""
    fault: Fault
    onset_s: float
    grown_s: float
    repair_s: float
    """The fault is gone from here on, the machine stands."""
    back_s: float
    """The machine runs again."""
    peak: float
    """Degree at which the growth ends, up to 1; below `CALL_LIMIT` for a fault that does not go on."""
    power: float

    @property
    def called_s(self) -> float | None:
        """When the degree reaches `CALL_LIMIT`; None if it never does."""
        if self.peak < CALL_LIMIT:
            return None
        return self.onset_s + (self.grown_s - self.onset_s) * float((CALL_LIMIT / self.peak) ** (1.0 / self.power))

    def degree(self, time_s: float) -> float:
        """Say how far the fault has grown, 0 to 1."""
        if not self.onset_s <= time_s < self.repair_s:
            return 0.0
        grown = min(1.0, (time_s - self.onset_s) / (self.grown_s - self.onset_s))
        return float(self.peak * grown**self.power)


class Episodes:
    """A machine's episodes, one after the other; drawn in order, whatever the steps in which time passes."""

    def __init__(self, seed: int, machine: int, *, rate: float, fault: Fault | None = None, story: int = 1) -> None:
        """Plan the first one.

        Args:
            seed: Of the whole story.
            machine: Number of the machine.
            rate: Episodes that begin on a machine a day of story, while it has none; 0 for a machine that stays healthy.
            fault: Only this one; None for all kinds.
            story: 1, or 2 where some faults begin and do not go on.
        """
        self._stops = _STOPS if story > 1 else 0.0
        self._random = stream(seed, machine, "faults")
        self._rate = rate
        self._kinds = list(Fault) if fault is None else [fault]
        self.next = self._plan(1, 0.0)
        """The episode under way, or else the next one; None if there will be none."""

    def at(self, time_s: float) -> Episode | None:
        """Give the episode (repair included) that is under way at a story time; times must not go back."""
        while self.next is not None and time_s >= self.next.back_s:
            self.next = self._plan(self.next.number + 1, self.next.back_s)
        return self.next if self.next is not None and time_s >= self.next.onset_s else None

    def until(self, time_s: float) -> Iterator[Episode]:
        """Give the episodes, one after the other, that begin up to a story time; instead of `at`, not between its calls."""
        while self.next is not None and self.next.onset_s <= time_s:
            yield self.next
            self.next = self._plan(self.next.number + 1, self.next.back_s)

    def _plan(self, number: int, after_s: float) -> Episode | None:
        if self._rate <= 0.0:
            return None
        onset = after_s + self._random.expovariate(self._rate / DAY_S)
        fault = self._random.choice(self._kinds)
        growth = GROWTH[fault]
        grown = onset + growth.hours * HOUR_S * self._random.lognormvariate(0.0, 0.35)
        # Nobody repairs at once, and not every fault is left to grow to its end.
        repair = grown + (grown - onset) * self._random.uniform(0.05, 0.4)
        back = repair + HOUR_S * self._random.lognormvariate(math.log(0.8), 0.4)
        peak = self._random.uniform(0.6, 1.0)
        if self._stops and self._random.random() < self._stops:
            # Far below the limit; it is found and mended in the next inspection.
            peak = self._random.uniform(0.10, 0.34)
            wait = HOUR_S * self._random.uniform(12.0, 96.0)
            repair, back = repair + wait, back + wait
        return Episode(
            number=number,
            fault=fault,
            onset_s=onset,
            grown_s=grown,
            repair_s=repair,
            back_s=back,
            peak=peak,
            power=growth.power,
        )
