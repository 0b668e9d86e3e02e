"""Many readings of a machine at once, with numpy: the same numbers as `Machine.read` gives one at a time, some twenty times as fast.

Additions, products and roots are IEEE 754's, and so the same in an array as alone. What a mathematical library computes (sines,
logarithms, powers) goes through Python's own `math`, since numpy's differ in the last digit. It must never tell a story of its own: a
change of the physics is made in `Machine.read` and its parts first, and a test holds the two together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from random import Random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sensor_simulator import cylinder as physics
from sensor_simulator import instruments as sensors
from sensor_simulator.cylinder import Signals
from sensor_simulator.faults import CALL_LIMIT, Episode, Fault, condition
from sensor_simulator.fleet import OVERHAUL_S, Machine
from sensor_simulator.plan import DAY_S, Plan, Wander
from sensor_simulator.sensor_faults import SensorEpisode

_T = TypeVar("_T")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


_NEAR_HALF = 1e-6
"""Far more than what a product of numbers up to 65,535 can be off."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Consecutive readings of one machine, n of them."""

    values: Floats
    """n rows of the six sensors, in their order and units."""
    abnormal: npt.NDArray[np.bool_]
    """n labels."""
    episode: Integers
    """Number of the episode that each reading is in, 0 for none."""
    fault: list[tuple[int, str]]
    """Number and fault of each episode among them."""
    broken: Integers
    """Number of the machine's broken sensor that each reading shows, 0 for none."""
    sensor_fault: list[tuple[int, str]]
    """Number and fault of each of those."""


@dataclass(slots=True)
class _Demands:
    """`Demand` of each reading."""

    running: npt.NDArray[np.bool_]
    load: Floats
    speed: Floats
    ambient: Floats


def read(machine: Machine, *, count: int, step: float) -> Readings:
    """Take so many readings, as that many calls of ``machine.read`` would, and leave the machine as they would.

    Args:
        machine: Alone or of a fleet.
        count: How many; memory grows with it, some 500 bytes each.
        step: Seconds by the clock between two of them.
    """
    passed = step * machine.scenario.accelerate
    times = _sums(machine.time_s, np.full(count, passed))
    machine.time_s = float(times[-1])
    demands = _demands(machine, times, passed)
    episodes = list(_episodes(machine, times))
    degree = np.zeros(count)
    number = np.zeros(count, dtype=np.int64)
    age = np.fmod(machine.age_at_start_s + times, OVERHAUL_S) / OVERHAUL_S
    states = condition(None, 0.0, age)  # type: ignore[arg-type] # arithmetic, of numbers and of arrays alike
    state = [np.broadcast_to(np.asarray(part, dtype=np.float64), (count,)).copy() for part in states]
    for episode, ill, gone in episodes:
        demands.running[ill.stop : gone] = False
        number[ill] = episode.number
        degree[ill] = [episode.degree(time) for time in times[ill].tolist()]
        for whole, part in zip(state, condition(episode.fault, degree[ill], age[ill]), strict=True):  # type: ignore[arg-type]
            whole[ill] = part
    truth = _advance(machine.cylinder, demands, state, clock_s=step, story_s=passed)
    values = _measure(machine.instruments, truth, times, [(episode, ill) for episode, ill, _ in episodes], degree)
    broken, kinds = _break(machine, values, times)
    if machine.labels:
        abnormal = np.logical_or(*(_hold(plan, times) for plan in machine.labels.plans))
    else:
        abnormal = degree >= CALL_LIMIT
    faults = [(episode.number, episode.fault.value) for episode, ill, _ in episodes if ill.stop > ill.start]
    return Readings(values, abnormal, number, faults, broken, kinds)


def _sums(first: float, steps: Floats) -> Floats:
    """Add one after the other, as a loop does; numpy's ``sum`` would add in pairs."""
    result: Floats = np.add.accumulate(np.concatenate(([first], steps)))[1:]
    return result


def _stretches(plan: Plan[_T], times: Floats) -> tuple[list[_T], Integers]:
    """A plan's values over the times, and which one holds at each."""
    found = list(plan.until(float(times[-1])))
    values, ends = [value for value, _ in found], np.array([end for _, end in found])
    return values, np.searchsorted(ends, times, side="right")


def _hold(plan: Plan[Any], times: Floats) -> npt.NDArray[Any]:
    values, which = _stretches(plan, times)
    held: npt.NDArray[Any] = np.array(values)[which]
    return held


class _Dice:
    """The same numbers as a `random.Random` draws, many at a time; `close` puts the generator where they leave it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._version, internal, self._spare = random.getstate()
        self._twister = np.random.RandomState()
        self._twister.set_state(("MT19937", np.array(internal[:-1], dtype=np.uint32), internal[-1], 0, 0.0))

    def close(self) -> None:
        _, keys, position, *_ = self._twister.get_state(legacy=True)
        self._random.setstate((self._version, (*np.asarray(keys).tolist(), int(position)), self._spare))

    def normal(self, count: int) -> Floats:
        """Standard normal numbers as `random.gauss` makes them: in pairs, of which it keeps one for the next call."""
        spare = [] if self._spare is None else [self._spare]
        wanted = count - len(spare)
        if wanted < 0:
            return np.empty(0)
        numbers = self._pairs(self._twister.random_sample((wanted + 1) // 2 * 2).reshape(-1, 2))
        drawn = np.concatenate((np.array(spare), numbers))
        self._spare = float(drawn[count]) if len(drawn) > count else None
        return drawn[:count]

    def normal_and_uniform(self, rows: int, normals: int) -> tuple[Floats, Floats]:
        """For each row an even number of normal numbers, then a uniform one."""
        drawn = self._twister.random_sample((rows, normals + 1))
        numbers = self._pairs(drawn[:, :-1].reshape(-1, 2))
        if self._spare is not None:
            # Each row begins with the spare number of the one before.
            numbers, self._spare = np.concatenate(([self._spare], numbers[:-1])), float(numbers[-1])
        return numbers.reshape(rows, normals), drawn[:, -1]

    @staticmethod
    def _pairs(uniform: Floats) -> Floats:
        angles = (uniform[:, 0] * math.tau).tolist()
        logarithms = np.array(list(map(math.log, (1.0 - uniform[:, 1]).tolist())))
        radii = np.sqrt(-2.0 * logarithms)
        cosines, sines = np.array(list(map(math.cos, angles))), np.array(list(map(math.sin, angles)))
        return np.stack((cosines * radii, sines * radii), axis=1).reshape(-1)


def _wander(wander: Wander, count: int, seconds: float) -> Floats:
    keep = math.exp(-seconds / wander.memory_s)
    dice = _Dice(wander.random)
    pushes = dice.normal(count) * wander.deviation * math.sqrt(1.0 - keep * keep)
    dice.close()
    value, values = wander.value, []
    for push in pushes.tolist():
        value = value * keep + push
        values.append(value)
    wander.value = value
    return np.array(values)


def _demands(machine: Machine, times: Floats, passed: float) -> _Demands:
    """What the line wants; see `Line.demand`."""
    line, count = machine.line, len(times)
    angles = (math.tau * (times + line.time_of_day_s) / DAY_S).tolist()
    family = _hold(line.family, times)
    return _Demands(
        _hold(line.runs, times) & _hold(line.on_duty, times),
        np.maximum(0.5, family[:, 0] * _hold(line.product, times) + _wander(line.load_wander, count, passed)),
        np.maximum(0.5, family[:, 1] * _hold(line.speed, times) + _wander(line.speed_wander, count, passed)),
        line.mean_ambient
        + line.daily_swing * np.array(list(map(math.sin, angles)))
        + _wander(line.weather, count, passed),
    )


def _episodes(machine: Machine, times: Floats) -> Iterator[tuple[Episode, slice, int]]:
    """Each episode with the readings in it, and where its repair ends."""
    at = 0
    while at < len(times):
        episode = machine.episodes.at(float(times[at]))
        ahead = machine.episodes.next
        if episode is not None:
            onset, repair, back = np.searchsorted(times, (episode.onset_s, episode.repair_s, episode.back_s)).tolist()
            yield episode, slice(max(at, onset), max(at, repair)), back
            at = back
        elif ahead is None:
            return
        else:
            at = int(np.searchsorted(times, ahead.onset_s))


def _advance(
    cylinder: physics.Cylinder, demands: _Demands, state: list[Floats], *, clock_s: float, story_s: float
) -> list[Floats]:
    """What perfect sensors would read; see `Cylinder.advance`."""
    running = demands.running
    build = cylinder.build
    extra_load, extra_heat, z_source, x_source, looseness = (part[running] for part in state)
    phase = _sums(cylinder.phase, np.full(int(running.sum()), clock_s / build.cycle_s))
    if len(phase):
        cylinder.phase = float(phase[-1])
    window = build.window_s / build.cycle_s
    end, begin = _since_start(phase), _since_start(phase - window)
    stroke_speed = (end[0] - begin[0]) / window
    stroke_load = np.sqrt((end[1] - begin[1]) / window)
    stroke_vibration = np.sqrt((end[2] - begin[2]) / window)

    own_load, speed = build.load * demands.load[running] + extra_load, demands.speed[running]
    friction = build.friction_rise * speed
    temperature, grease = _temperatures(
        cylinder, demands, zip(own_load.tolist(), friction.tolist(), extra_heat.tolist(), strict=True), story_s
    )
    cycle_load = own_load + grease

    shaking = speed * stroke_vibration
    usual = shaking * (1.0 + 0.45 * (cycle_load - 1.0)) * (1.0 + looseness)
    effort = cycle_load * stroke_load
    magnetising = build.magnetising_share**2
    current = build.rated_current * np.sqrt(magnetising + (1.0 - magnetising) * effort * effort)
    encoder = build.speed * speed * (1.0 - build.slip * (cycle_load - 1.0)) * stroke_speed
    moving = (
        (build.z_velocity * _hypot(usual, shaking * z_source), build.z_velocity * physics.IDLE_VELOCITY),
        (build.x_velocity * _hypot(usual, shaking * x_source), build.x_velocity * physics.IDLE_VELOCITY),
        (current, build.rated_current * physics.IDLE_CURRENT),
        (100.0 * cycle_load * stroke_load, 100.0 * physics.IDLE_LOAD),
        (encoder, 0.0),
    )
    signals = [temperature]
    for values, idle in moving:
        signals.append(np.full(len(running), idle))
        signals[-1][running] = values
    return signals


def _since_start(phase: Floats) -> tuple[Floats, Floats, Floats]:
    whole, rest = np.divmod(phase, 1.0)
    speed, load, vibration = whole.copy(), whole.copy(), whole.copy()
    for share, phase_speed, phase_load, phase_vibration in physics.PHASES:
        part = np.minimum(share, rest)
        speed += part * phase_speed
        load += part * phase_load
        vibration += part * phase_vibration
        rest = rest - part
    return speed, load, vibration


def _temperatures(
    cylinder: physics.Cylinder, demands: _Demands, steps: Iterator[tuple[float, float, float]], story_s: float
) -> tuple[Floats, Floats]:
    """The temperature at each reading, and the load that the grease adds at those while it runs.

    Heat depends on load, load on the grease, and the grease on heat: each step needs the one before. ``steps`` gives, for each reading while
    it runs, the load without the grease, the kelvin that friction adds for each unit of load, and extra heat.
    """
    build = cylinder.build
    warming = -math.expm1(-(story_s / build.thermal_s))
    cooling = -math.expm1(-(story_s / (build.thermal_s * physics.STOPPED_COOLING)))
    magnetising = build.magnetising_share**2
    active = 1.0 - magnetising
    copper, exp, sqrt = build.copper_rise, math.exp, math.sqrt
    thickest, fall = physics.COLD_GREASE_LOAD, physics.COLD_GREASE_FALL
    temperature, temperatures, greases = cylinder.temperature, [], []
    for runs, around in zip(demands.running.tolist(), demands.ambient.tolist(), strict=True):
        if runs:
            load, friction, extra = next(steps)
            grease = thickest * exp((20.0 - temperature) / fall)
            load += grease
            rise = copper * sqrt(magnetising + active * load * load) ** 2
            rise += friction * load + extra
            temperature += (around + rise - temperature) * warming
            greases.append(grease)
        else:
            temperature += (around - temperature) * cooling
        temperatures.append(temperature)
    cylinder.temperature = temperature
    return np.array(temperatures), np.array(greases)


def _hypot(first: Floats, second: Floats) -> Floats:
    result = np.abs(first)
    both = second != 0.0
    result[both] = list(map(math.hypot, first[both].tolist(), second[both].tolist()))
    return result


def _measure(
    instruments: sensors.Instruments,
    truth: list[Floats],
    times: Floats,
    episodes: list[tuple[Episode, slice]],
    degree: Floats,
) -> Floats:
    """What the sensors report; see `Instruments.read`."""
    count = len(times)
    noise, slips, sticks = _noise(instruments, count, episodes)
    burst = _hold(instruments.bursts, times)
    values = np.empty((count, 6))
    values[:, 0] = truth[0] + instruments.temperature_offset + noise[:, 0] * sensors.TEMPERATURE_NOISE_K
    z_velocity, x_velocity = _hypot(truth[1], burst), _hypot(truth[2], burst * sensors.BURST_X_SHARE)
    values[:, 1] = z_velocity * instruments.z_gain * (1.0 + noise[:, 1] * sensors.VELOCITY_NOISE)
    values[:, 2] = x_velocity * instruments.x_gain * (1.0 + noise[:, 2] * sensors.VELOCITY_NOISE)
    values[:, 3] = truth[3] * instruments.current_gain * (1.0 + noise[:, 3] * sensors.CURRENT_NOISE)
    values[:, 4] = truth[4] * instruments.load_gain * (1.0 + noise[:, 4] * sensors.LOAD_NOISE)
    values[:, 5] = truth[5] * (1.0 + noise[:, 5] * sensors.ENCODER_NOISE)
    exchanged, which = _stretches(instruments.exchanged, times)
    if exchanged[0] is not None:
        other = np.array(exchanged)[which]
        values[:, 0] += other[:, 0]
        values[:, 1:] *= other[:, 1:]
    for (episode, ill), slip, stick in zip(episodes, slips, sticks, strict=True):
        if slip is not None:
            values[ill, 5] *= 1.0 - np.minimum(1.0, np.maximum(0.0, degree[ill] * (0.34 + slip * 0.12)))
        if stick is not None and len(stick):
            sensor, value = instruments.sticking.at(episode)
            column = values[ill, sensor]
            column[stick < 0.8 * degree[ill] / CALL_LIMIT] = value
            values[ill, sensor] = column
    values[:, 0] = np.clip(values[:, 0], *sensors.TEMPERATURE_LIMITS)
    values[:, 1:] = np.clip(values[:, 1:], 0.0, sensors.REGISTER_MAXIMUM)
    return hundredths(values)


def _noise(
    instruments: sensors.Instruments, count: int, episodes: list[tuple[Episode, slice]]
) -> tuple[Floats, list[Floats | None], list[Floats | None]]:
    """The dice of each reading's six sensors, and for each episode those of a slipping encoder and of a stuck sensor."""
    dice = _Dice(instruments.noise)
    noise = np.empty((count, 6))
    slips: list[Floats | None] = []
    sticks: list[Floats | None] = []
    at = 0
    for episode, ill in episodes:
        rows = ill.stop - ill.start
        slip = stick = None
        if episode.fault in (Fault.SLIPPING_ENCODER, Fault.STUCK_SENSOR):
            noise[at : ill.start] = dice.normal(6 * (ill.start - at)).reshape(-1, 6)
            at = ill.stop
            if episode.fault is Fault.SLIPPING_ENCODER:
                drawn = dice.normal(7 * rows).reshape(-1, 7)
                noise[ill], slip = drawn[:, :6], drawn[:, 6]
            elif rows:
                noise[ill], stick = dice.normal_and_uniform(rows, 6)
        slips.append(slip)
        sticks.append(stick)
    noise[at:] = dice.normal(6 * (count - at)).reshape(-1, 6)
    dice.close()
    return noise, slips, sticks


def hundredths(values: Floats) -> Floats:
    """Round to two decimals as `round` does, by the decimal digits of each number.

    A hundredth of an integer is the float nearest to the decimal, so only where the half lies so near that the product has lost it does
    the number itself have to be asked.
    """
    hundredfold = values * 100.0
    rounded = np.rint(hundredfold)
    close = np.abs(np.abs(hundredfold - rounded) - 0.5) < _NEAR_HALF
    result: Floats = rounded / 100.0
    result[close] = list(map(round, values[close].tolist(), repeat(2)))
    return result


def _break(machine: Machine, values: Floats, times: Floats) -> tuple[Integers, list[tuple[int, str]]]:
    """Let the broken sensors report what they do, in place; see `BrokenSensors.read`."""
    numbers = np.zeros(len(times), dtype=np.int64)
    kinds: list[tuple[int, str]] = []
    state = machine.broken_sensors
    if state is None:
        return numbers, kinds
    stretches, which = _stretches(state.plan, times)
    for index, episode in enumerate(stretches):
        first, last = np.searchsorted(which, (index, index + 1)).tolist()
        if first == last:
            continue
        if episode is None:
            state.healthy = Signals(*values[last - 1].tolist())
            continue
        column = values[first:last, episode.sensor]
        frozen = state.freeze(episode, (state.healthy or values[first].tolist())[episode.sensor])
        values[first:last, episode.sensor] = _spoiled(episode, column.tolist(), frozen)
        numbers[first:last] = episode.number
        kinds.append((episode.number, episode.fault.value))
    return numbers, kinds


def _spoiled(episode: SensorEpisode, values: list[float], frozen: float) -> list[float]:
    return [episode.spoil(value, frozen) for value in values]
