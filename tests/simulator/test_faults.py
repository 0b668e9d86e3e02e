"""Each fault's signature, growth and label."""

from statistics import mean, pstdev

import pytest

from sensor_simulator import LABEL, SENSORS, Fault, Fleet
from sensor_simulator.cylinder import Build, Cylinder, Demand
from sensor_simulator.faults import CALL_LIMIT, Episode, Episodes, condition
from sensor_simulator.instruments import Instruments

DAY_S = 86_400.0
TEMPERATURE, Z, X, CURRENT, LOAD, ENCODER = range(6)


def episode_of(fault: Fault) -> Episode:
    return Episode(number=1, fault=fault, onset_s=0.0, grown_s=1e6, repair_s=2e6, back_s=3e6, peak=1.0, power=1.0)


def readings(fault: Fault, degree: float) -> list[tuple[float, ...]]:
    """Readings of a settled machine with the fault at a degree."""
    demand = Demand(running=True, load=1.0, speed=1.0, ambient=25.0)
    state = condition(fault, degree)
    cylinder, instruments = Cylinder(Build(), temperature=68.0), Instruments(seed=1, machine=1)
    for _ in range(2):
        cylinder.advance(clock_s=0.0, story_s=1e5, demand=demand, condition=state)
    return [
        instruments.read(
            cylinder.advance(clock_s=0.7, story_s=0.7, demand=demand, condition=state),
            0.0,  # story time stands still: no bursts
            episode_of(fault),
            degree,
        )
        for _ in range(1000)
    ]


def change(fault: Fault, degree: float) -> list[float]:
    """How each sensor's mean moves against the healthy machine, as a share; the temperature's in kelvin."""
    healthy, faulty = ([mean(column) for column in zip(*readings(fault, at), strict=True)] for at in (0.0, degree))
    moved = [after / before - 1.0 for before, after in zip(healthy, faulty, strict=True)]
    return [faulty[TEMPERATURE] - healthy[TEMPERATURE], *moved[1:]]


def test_bearing_wear_shakes_across_the_shaft_most_and_warms_the_seat() -> None:
    moved = change(Fault.BEARING_WEAR, 0.8)
    assert moved[Z] > 0.6
    assert 0.2 < moved[X] < moved[Z]
    assert moved[TEMPERATURE] > 10.0
    assert 0.02 < moved[CURRENT] < 0.10
    assert abs(moved[ENCODER]) < 0.01


def test_misalignment_shakes_along_the_shaft_most() -> None:
    moved = change(Fault.MISALIGNMENT, 0.8)
    assert moved[X] > 0.7
    assert moved[Z] < 0.3 * moved[X]
    assert moved[TEMPERATURE] > 4.0
    assert 0.02 < moved[LOAD] < 0.10


def test_overload_raises_load_current_and_heat_and_slows_the_machine() -> None:
    moved = change(Fault.OVERLOAD, 0.8)
    assert moved[LOAD] > 0.3
    assert moved[CURRENT] > 0.25
    assert moved[TEMPERATURE] > 20.0
    assert -0.03 < moved[ENCODER] < -0.005
    assert moved[Z] == pytest.approx(moved[X], abs=0.02)


def test_a_slipping_encoder_lowers_and_scatters_the_encoder_alone() -> None:
    moved = change(Fault.SLIPPING_ENCODER, 0.8)
    assert moved[ENCODER] < -0.2
    assert abs(moved[TEMPERATURE]) < 0.1
    assert moved[Z : LOAD + 1] == pytest.approx([0.0] * 4, abs=0.01)
    healthy, slipping = ([row[ENCODER] for row in readings(Fault.SLIPPING_ENCODER, at)] for at in (0.0, 0.8))
    assert pstdev(slipping) > 1.3 * pstdev(healthy)


def test_a_stuck_sensor_repeats_one_value_while_the_others_go_on() -> None:
    columns = [set(column) for column in zip(*readings(Fault.STUCK_SENSOR, 0.8), strict=True)]
    frozen = [values for values in columns if len(values) == 1]
    assert len(frozen) == 1
    assert all(len(values) > 50 for values in columns if values not in frozen)


def test_a_sensor_that_begins_to_stick_does_so_now_and_then() -> None:
    columns = list(zip(*readings(Fault.STUCK_SENSOR, CALL_LIMIT / 4), strict=True))
    most_frequent = max(max(column.count(value) for value in set(column)) for column in columns)
    assert 100 < most_frequent < 300


@pytest.mark.parametrize("fault", [Fault.SLIPPING_ENCODER, Fault.STUCK_SENSOR])
def test_a_fault_of_a_sensor_changes_nothing_in_the_machine(fault: Fault) -> None:
    assert condition(fault, 1.0) == condition(None, 0.0)


@pytest.mark.parametrize("fault", list(Fault))
def test_an_onset_is_subtle_and_the_end_is_not(fault: Fault) -> None:
    def largest(degree: float) -> float:
        return max(abs(share) for share in change(fault, degree)[1:])

    assert largest(0.1) < 0.15
    assert largest(1.0) > 0.25


def test_at_the_limit_a_bearing_shakes_a_quarter_more_than_new() -> None:
    assert change(Fault.BEARING_WEAR, CALL_LIMIT)[Z] == pytest.approx(0.25, abs=0.05)


def test_age_brings_play_and_friction() -> None:
    new, old = condition(None, 0.0, age=0.0), condition(None, 0.0, age=1.0)
    assert old.looseness > new.looseness
    assert old.extra_load > new.extra_load


def test_a_degree_grows_from_nothing_to_its_peak_and_is_gone_after_the_repair() -> None:
    episode = Episodes(seed=1, machine=1, rate=1.0).at(10 * DAY_S)
    assert episode is not None
    span = episode.grown_s - episode.onset_s
    degrees = [episode.degree(episode.onset_s + share * span) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert degrees[0] == 0.0
    assert degrees == sorted(set(degrees))
    assert degrees[-1] == pytest.approx(episode.peak)
    assert episode.degree(episode.repair_s - 1.0) == pytest.approx(episode.peak)
    assert episode.degree(episode.repair_s) == episode.degree(episode.onset_s - 1.0) == 0.0


def test_the_label_says_from_which_degree_an_engineer_would_call_it() -> None:
    step, seen = 600.0, set()
    fleet = Fleet(machines=6, seed=3, fault_rate=1.0)
    plans = {machine.equipment_id: Episodes(3, number, rate=1.0) for number, machine in enumerate(fleet.machines, 1)}
    times = dict.fromkeys(plans, 0.0)
    for row in fleet.rows(seconds=10 * DAY_S, step=step):
        machine = str(row["equipment_id"])
        times[machine] += step
        episode = plans[machine].at(times[machine])
        degree = episode.degree(times[machine]) if episode else 0.0
        assert row[LABEL] == (1.0 if degree >= CALL_LIMIT else 0.0)
        assert (row["fault"] != "") == (row["episode"] != "")
        if degree > 0.0:
            assert episode is not None
            assert row["fault"] == episode.fault.value
            assert row["episode"] == f"{machine}/{episode.number}"
        elif episode is not None and times[machine] >= episode.repair_s:
            assert row["fault"] == ""
            assert row["wEncoderVelocity"] == 0.0  # under repair, it stands
        seen.add((row["fault"], row[LABEL]))
    # Every fault was there, below and above the limit.
    assert seen == {("", 0.0)} | {(fault.value, label) for fault in Fault for label in (0.0, 1.0)}


def test_only_the_chosen_fault_occurs() -> None:
    rows = Fleet(machines=4, seed=1, fault_rate=2.0, fault="misalignment").rows(seconds=5 * DAY_S, step=900.0)
    assert {row["fault"] for row in rows} == {"", "misalignment"}


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="gremlins"):
        Fleet(fault="gremlins")


def test_a_fleet_without_faults_is_never_abnormal() -> None:
    rows = list(Fleet(machines=3, seed=5, fault_rate=0.0).rows(seconds=20 * DAY_S, step=1800.0))
    assert {(row[LABEL], row["fault"], row["episode"]) for row in rows} == {(0.0, "", "")}
    assert all(isinstance(row[sensor], float) for row in rows for sensor in SENSORS)
