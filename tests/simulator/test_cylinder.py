"""The physics: what drives what."""

import math
from statistics import mean

import pytest

from sensor_simulator.cylinder import Build, Condition, Cylinder, Demand, Signals
from sensor_simulator.faults import condition

ORDINARY = Demand(running=True, load=1.0, speed=1.0, ambient=25.0)
HEALTHY = Condition()


def settled(demand: Demand = ORDINARY, condition: Condition = HEALTHY) -> Signals:
    """Mean of the signals over whole cycles once the temperature has settled; time is a second a reading."""
    build = Build()
    cylinder = Cylinder(build, temperature=60.0)
    cylinder.advance(clock_s=0.0, story_s=20 * build.thermal_s, demand=demand, condition=condition)
    cylinder.advance(clock_s=0.0, story_s=20 * build.thermal_s, demand=demand, condition=condition)
    readings = [
        cylinder.advance(clock_s=0.1, story_s=0.1, demand=demand, condition=condition)
        for _ in range(round(10 * 10 * build.cycle_s))
    ]
    return Signals(*(mean(values) for values in zip(*readings, strict=True)))


def test_an_ordinary_shift_halfway_to_the_overhaul_gives_the_published_reading_of_the_line() -> None:
    published = (69.71, 89.42, 50.58, 106.94, 107.94, 25.88)
    assert tuple(settled(condition=condition(None, 0.0, age=0.5))) == pytest.approx(published, rel=0.02)


def test_the_published_load_draws_the_published_current() -> None:
    assert 100.0 * Cylinder(Build(), temperature=60.0)._current_share(1.0794) == pytest.approx(106.94, abs=0.02)


def test_more_load_draws_more_current_and_heats_slows_and_shakes_the_machine() -> None:
    ordinary, heavy = settled(), settled(ORDINARY._replace(load=1.2))
    assert heavy.load > 1.15 * ordinary.load
    assert heavy.current > 1.1 * ordinary.current
    assert heavy.temperature > ordinary.temperature + 8.0
    assert heavy.z_velocity > 1.05 * ordinary.z_velocity
    assert 0.98 * ordinary.encoder < heavy.encoder < ordinary.encoder


def test_vibration_rises_in_proportion_to_speed_and_load_does_not() -> None:
    ordinary, fast = settled(), settled(ORDINARY._replace(speed=1.1))
    assert fast.encoder == pytest.approx(1.1 * ordinary.encoder, rel=0.005)
    assert fast.z_velocity == pytest.approx(1.1 * ordinary.z_velocity, rel=0.01)
    assert fast.x_velocity == pytest.approx(1.1 * ordinary.x_velocity, rel=0.01)
    assert fast.load == pytest.approx(ordinary.load, rel=0.01)
    assert fast.temperature > ordinary.temperature


def test_a_warmer_hall_makes_a_warmer_machine() -> None:
    assert settled(ORDINARY._replace(ambient=35.0)).temperature == pytest.approx(settled().temperature + 10.0, abs=0.3)


def test_a_machine_warms_up_with_its_time_constant() -> None:
    build = Build()
    end = settled().temperature
    cylinder = Cylinder(build, temperature=25.0)
    for _ in range(round(build.thermal_s)):
        cylinder.advance(clock_s=1.0, story_s=1.0, demand=ORDINARY, condition=HEALTHY)
    # The cold grease's friction heats a little extra at first.
    assert cylinder.temperature == pytest.approx(25.0 + (1.0 - math.exp(-1.0)) * (end - 25.0), abs=2.0)


def test_one_long_step_warms_as_much_as_many_short_ones() -> None:
    one, many = Cylinder(Build(), temperature=60.0), Cylinder(Build(), temperature=60.0)
    one.advance(clock_s=1800.0, story_s=1800.0, demand=ORDINARY, condition=HEALTHY)
    for _ in range(1800):
        many.advance(clock_s=1.0, story_s=1.0, demand=ORDINARY, condition=HEALTHY)
    assert one.temperature == pytest.approx(many.temperature, abs=0.1)


def test_a_cold_machine_pushes_harder_than_a_warm_one() -> None:
    cold, warm = (
        Cylinder(Build(), temperature=temperature).advance(clock_s=0.0, story_s=0.0, demand=ORDINARY, condition=HEALTHY)
        for temperature in (20.0, 65.0)
    )
    assert cold.load > warm.load + 5.0
    assert cold.current > warm.current + 4.0


def test_the_strokes_are_left_as_a_ripple_around_the_mean() -> None:
    cylinder = Cylinder(Build(), temperature=65.0)
    speeds = [
        cylinder.advance(clock_s=0.1, story_s=0.1, demand=ORDINARY, condition=HEALTHY).encoder for _ in range(700)
    ]
    assert 0.03 < (max(speeds) - min(speeds)) / (2 * mean(speeds)) < 0.15
    assert speeds[:70] == pytest.approx(speeds[70:140], rel=1e-3)


def test_a_stopped_machine_stands_still_and_cools_towards_the_hall() -> None:
    cylinder = Cylinder(Build(), temperature=70.0)
    stopped = ORDINARY._replace(running=False)
    first = cylinder.advance(clock_s=1.0, story_s=1800.0, demand=stopped, condition=HEALTHY)
    later = cylinder.advance(clock_s=1.0, story_s=1e6, demand=stopped, condition=HEALTHY)
    assert first.encoder == 0.0
    assert first.current < 5.0
    assert first.z_velocity < 5.0
    assert 40.0 < first.temperature < 65.0
    assert later.temperature == pytest.approx(25.0, abs=0.01)
