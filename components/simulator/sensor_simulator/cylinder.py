"""The physics of one electric cylinder, without faults' causes, noise or sensors: what goes on inside the machine.

A geared motor drives a spindle that extends, dwells under pressure, retracts and rests, about once in seven seconds.
Load drives current, current and friction drive heat, speed and load drive vibration. Every relation holds for any length
of step, so that one reading a second and one reading a minute tell the same story. It must never draw a random number:
what varies comes in from outside.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Build:
    """What one machine is made of; the defaults are the type's rated values, each machine differs a little.

    The values are chosen so that a published reading of a real line (69.71 degC, 89.42 and 50.58 mm/s, 106.94 A, 107.94 %, 25.88
    RPM) is what a machine of this type gives in an ordinary shift, halfway to its overhaul.
    """

    cycle_s: float = 7.0
    """One extend, dwell, retract and rest, in seconds."""
    window_s: float = 6.0
    """How long the drive and the vibration sensor average, in seconds."""
    rated_current: float = 100.0
    """A, at 100 % load."""
    magnetising_share: float = 0.36
    """No-load current as a share of the rated current; about a third is usual for a four-pole induction motor."""
    load: float = 1.07
    """RMS load of an ordinary product over a cycle, as a share of the rated load."""
    speed: float = 25.9
    """RPM at the encoder, mean over a cycle at rated load."""
    slip: float = 0.03
    """Loss of speed from no load to rated load, as a share."""
    z_velocity: float = 83.0
    """mm/s RMS across the spindle (sensor axis Z) at rated speed and load."""
    x_velocity: float = 47.0
    """mm/s RMS along the spindle (sensor axis X) at rated speed and load."""
    copper_rise: float = 27.0
    """Kelvin that the windings' losses add at rated current."""
    friction_rise: float = 13.0
    """Kelvin that friction adds at rated speed and load."""
    thermal_s: float = 2400.0
    """Thermal time constant of the housing while the motor's fan turns, in seconds."""


class Demand(NamedTuple):
    """What the line asks of a machine at a moment."""

    running: bool
    load: float
    """Product's load relative to an ordinary one."""
    speed: float
    """Speed relative to the rated one."""
    ambient: float
    """degC in the hall."""


class Condition(NamedTuple):
    """What wear and faults change inside a machine; the defaults are a new machine."""

    extra_load: float = 0.0
    """Added to the load, as a share of the rated load."""
    extra_heat: float = 0.0
    """Added to the steady-state temperature, in kelvin, while running."""
    z_source: float = 0.0
    """RMS of an additional source of vibration in Z, relative to the rated velocity."""
    x_source: float = 0.0
    """The same in X."""
    looseness: float = 0.0
    """Growth of the vibration that was there anyway, as a share (play that comes with age)."""


class Signals(NamedTuple):
    """The six quantities, in the order and units in which the line reports them."""

    temperature: float
    """degC at the seat of the vibration sensor."""
    z_velocity: float
    """mm/s RMS."""
    x_velocity: float
    """mm/s RMS."""
    current: float
    """A RMS."""
    load: float
    """% of rated."""
    encoder: float
    """RPM, mean of the absolute speed."""


# Share of the cycle, and speed, load squared and vibration squared relative to the mean over a cycle (the weighted means are 1):
# extend against the load, dwell under pressure, retract empty (faster), rest.
PHASES = (
    (0.40, 1.20, 1.60, 1.27),
    (0.10, 0.00, 1.20, 0.10),
    (0.40, 1.30, 0.57, 1.19),
    (0.10, 0.00, 0.12, 0.06),
)
# A stopped machine: the brake holds, the drive idles, the floor shakes a little from the neighbours.
IDLE_CURRENT = 0.03
IDLE_LOAD = 0.015
IDLE_VELOCITY = 0.025
# Without its fan a motor cools more slowly; makers state factors of 2 and more for totally enclosed ones, the massive cylinder
# that carries the sensor softens it.
STOPPED_COOLING = 1.6
# Load that cold grease adds at 20 degC, and kelvin over which it falls to 1/e: the viscosity of oil falls about
# exponentially with temperature in this range (the tangent of the ASTM D341 line).
COLD_GREASE_LOAD = 0.09
COLD_GREASE_FALL = 16.0


def _since_start(phase: float) -> tuple[float, float, float]:
    """The integrals of speed, load squared and vibration squared from cycle 0 to a phase counted in cycles."""
    whole, rest = divmod(phase, 1.0)
    speed = load = vibration = whole
    for share, phase_speed, phase_load, phase_vibration in PHASES:
        part = min(share, rest)
        speed += part * phase_speed
        load += part * phase_load
        vibration += part * phase_vibration
        rest -= part
        if rest <= 0.0:
            break
    return speed, load, vibration


class Cylinder:
    """One machine's state: where it is in its cycle, and how warm it is."""

    def __init__(self, build: Build, *, temperature: float, phase: float = 0.0) -> None:
        """Start somewhere in a cycle.

        Args:
            build: What the machine is made of.
            temperature: Of the housing, in degC.
            phase: Of the cycle, in cycles.
        """
        self.build = build
        self.temperature = temperature
        self.phase = phase

    def advance(self, *, clock_s: float, story_s: float, demand: Demand, condition: Condition) -> Signals:
        """Let time pass and say what a perfect sensor of each kind would read.

        Args:
            clock_s: Seconds by the clock; the cylinder's strokes follow it.
            story_s: Seconds for everything slow (heat); more than ``clock_s`` in an accelerated story.
            demand: What the line asks for.
            condition: What wear and faults have changed.
        """
        if not demand.running:
            return self._stand(story_s, demand.ambient)
        build = self.build
        self.phase += clock_s / build.cycle_s
        window = build.window_s / build.cycle_s
        end = _since_start(self.phase)
        begin = _since_start(self.phase - window)
        # What a sensor with a sliding window sees: nearly a whole cycle, so the strokes are left as a ripple.
        stroke_speed = (end[0] - begin[0]) / window
        stroke_load = math.sqrt((end[1] - begin[1]) / window)
        stroke_vibration = math.sqrt((end[2] - begin[2]) / window)

        grease = COLD_GREASE_LOAD * math.exp((20.0 - self.temperature) / COLD_GREASE_FALL)
        cycle_load = build.load * demand.load + condition.extra_load + grease
        self._warm(story_s, demand, condition, cycle_load)

        # Vibration velocity of a given eccentricity grows with speed (v = e * omega), that of meshing and pushing with load.
        shaking = demand.speed * stroke_vibration
        usual = shaking * (1.0 + 0.45 * (cycle_load - 1.0)) * (1.0 + condition.looseness)
        return Signals(
            temperature=self.temperature,
            # Independent sources add by their squares.
            z_velocity=build.z_velocity * math.hypot(usual, shaking * condition.z_source),
            x_velocity=build.x_velocity * math.hypot(usual, shaking * condition.x_source),
            current=build.rated_current * self._current_share(cycle_load * stroke_load),
            load=100.0 * cycle_load * stroke_load,
            encoder=build.speed * demand.speed * (1.0 - build.slip * (cycle_load - 1.0)) * stroke_speed,
        )

    def _current_share(self, load: float) -> float:
        """RMS current as a share of the rated one.

        The current of an induction motor has a magnetising part that does not depend on load and, at right angles to it, a part
        in proportion to torque; so the squares add (circle diagram of the simplified equivalent circuit).
        """
        magnetising = self.build.magnetising_share**2
        return math.sqrt(magnetising + (1.0 - magnetising) * load * load)

    def _warm(self, story_s: float, demand: Demand, condition: Condition, cycle_load: float) -> None:
        """Move the temperature towards the balance of heat in and out.

        First-order thermal model, ``tau * dT/dt = T_ambient + rise - T``, as motor protection relays use it (IEC 60255-149), with the
        exact solution over a step of constant losses. Losses: copper, with the square of the current, and friction, with speed
        times load.
        """
        build = self.build
        rise = build.copper_rise * self._current_share(cycle_load) ** 2
        rise += build.friction_rise * demand.speed * cycle_load + condition.extra_heat
        self._approach(demand.ambient + rise, story_s / build.thermal_s)

    def _stand(self, story_s: float, ambient: float) -> Signals:
        build = self.build
        self._approach(ambient, story_s / (build.thermal_s * STOPPED_COOLING))
        return Signals(
            temperature=self.temperature,
            z_velocity=build.z_velocity * IDLE_VELOCITY,
            x_velocity=build.x_velocity * IDLE_VELOCITY,
            current=build.rated_current * IDLE_CURRENT,
            load=100.0 * IDLE_LOAD,
            encoder=0.0,
        )

    def _approach(self, target: float, time_constants: float) -> None:
        self.temperature += (target - self.temperature) * -math.expm1(-time_constants)
