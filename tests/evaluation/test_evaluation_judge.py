"""The arithmetic of the evaluation, on small cases that were worked out by hand."""

import json
import math
from typing import Any

import pytest

from evaluation import drift
from evaluation.alarms import Alarm, read
from evaluation.cases import jobs
from evaluation.judge import (
    HOUR,
    MONTH,
    WEEK,
    Episode,
    Figure,
    Tally,
    exact,
    figure,
    judge,
    middle,
    most_events_within,
    named_share,
    per_week,
    read_truth,
    share,
)
from sensor_simulator import Fleet

SPANS = {"a": (0.0, WEEK), "b": (0.0, WEEK)}
LOAD, CURRENT, HEAT = "wCurrentLoad", "wRMSCurrent", "rVibration_Temp"


def alarm(opened: float, closed: float | None, **changes: Any) -> Alarm:
    """An alarm; times in hours."""
    fields: dict[str, Any] = {
        "kind": "equipment",
        "machine": "a",
        "sensor": None,
        "named": (),
        "features": (LOAD,),
        "first_features": (LOAD,),
    }
    end = None if closed is None else closed * HOUR
    return Alarm(id=f"{opened}", opened=opened * HOUR, closed=end, **fields | changes)


def episode(onset: float, label: float | None, full: float, repair: float, **changes: Any) -> Episode:
    """An overload; times in hours."""
    fields: dict[str, Any] = {"machine": "a", "kind": "equipment", "fault": "overload", "sensors": (LOAD, CURRENT)}
    called = None if label is None else label * HOUR
    return Episode(
        name=f"a/{onset}", onset=onset * HOUR, label=called, full=full * HOUR, repair=repair * HOUR, **fields | changes
    )


def test_an_alarm_outside_every_episode_of_its_machine_is_false() -> None:
    episodes = [episode(10, 14, 20, 24)]
    alarms = [alarm(9.9, 10.5), alarm(10, 11), alarm(24, 25), alarm(24.1, 25), alarm(15, 16, machine="b")]
    a, b = judge(alarms, episodes, SPANS)
    assert (a.false, b.false) == (2, 1)
    assert (a.weeks, b.weeks) == (1.0, 1.0)


def test_an_equipment_alarm_in_the_episode_of_a_sensor_is_false() -> None:
    episodes = [episode(10, None, 10, 24, kind="sensor", fault="dead")]
    (tally, _) = judge([alarm(11, 12), alarm(30, 31)], episodes, SPANS)
    assert (tally.false, tally.false_in_sensor_episodes, tally.outcomes) == (2, 1, [])


def test_an_episode_is_noticed_early_or_late_by_an_alarm_that_opens_in_it() -> None:
    episodes = [episode(10, 14, 20, 24), episode(40, 44, 50, 54), episode(70, 74, 80, 84)]
    alarms = [alarm(12, 13), alarm(16, 23), alarm(45.5, None)]
    early, late, missed = judge(alarms, episodes, SPANS)[0].outcomes
    assert (early.noticed, early.early, early.lead, early.alarms) == (True, True, 8.0, 2)
    assert (late.noticed, late.early, late.lead, late.alarms) == (True, False, 4.5, 1)
    assert (missed.noticed, missed.early, missed.lead, missed.alarms, missed.pointed) == (False, False, None, 0, None)


def test_an_alarm_from_before_the_onset_counts_if_it_is_open_when_the_machine_is_called() -> None:
    episodes = [episode(10, 14, 20, 24), episode(40, 44, 50, 54)]
    # The second one closes between onset and call.
    tally = judge([alarm(9, 15), alarm(39, 43)], episodes, SPANS)[0]
    first, second = tally.outcomes
    assert tally.false == 2
    assert (first.noticed, first.early, first.lead, first.alarms) == (True, True, 10.0, 0)
    assert not second.noticed


def test_episodes_that_the_data_cuts_off_or_that_nobody_calls_do_not_count_but_excuse_alarms() -> None:
    episodes = [episode(-2, 1, 3, 5), episode(20, None, 30, 40), episode(160, 164, 170, 180)]
    tally = judge([alarm(2, 3), alarm(25, 26), alarm(165, None)], episodes, SPANS)[0]
    assert (tally.false, tally.outcomes) == (0, [])


def test_a_fault_is_pointed_at_by_the_first_two_different_sensors() -> None:
    episodes = [episode(10, 14, 20, 24)]

    def pointed(*features: str) -> bool | None:
        reasons = {"features": features, "first_features": (HEAT,)}
        source = {"heat over 1 h": HEAT, "load over 1 h": LOAD}
        held = judge([alarm(12, 13, **reasons)], episodes, SPANS, lambda name: source.get(name, name))[0].outcomes[0]
        assert held.pointed_at_once is False
        return held.pointed

    assert pointed(LOAD)
    assert pointed(HEAT, CURRENT)
    assert not pointed(HEAT, "wEncoderVelocity", LOAD)
    # Two features of one sensor are one reason.
    assert pointed(HEAT, "heat over 1 h", "load over 1 h")


def sensor_alarm(opened: float, closed: float | None, reason: str, sensor: str = HEAT) -> Alarm:
    return alarm(opened, closed, kind="sensor", sensor=sensor, named=((opened * HOUR, reason),))


def broken(onset: float, repair: float, fault: str) -> Episode:
    return episode(onset, None, onset, repair, kind="sensor", fault=fault, sensors=(HEAT,))


@pytest.mark.parametrize(
    ("alarms", "delay"),
    [
        ([], None),
        ([sensor_alarm(10.1, 12, "stuck")], 360.0),
        ([sensor_alarm(10.1, 12, "saturated")], None),
        ([sensor_alarm(10.1, 12, "stuck", sensor=LOAD)], None),
        ([sensor_alarm(9, 12, "stuck")], 0.0),
        ([sensor_alarm(13.1, 14, "stuck")], None),
        ([sensor_alarm(10.1, 10.2, "inconsistent"), sensor_alarm(10.5, 12, "stuck")], 1800.0),
    ],
)
def test_a_broken_sensor_is_named_by_its_own_name_and_a_fitting_reason(
    alarms: list[Alarm], delay: float | None
) -> None:
    (naming,) = judge(alarms, [broken(10, 13, "stuck")], SPANS)[0].namings
    assert naming.delay == (None if delay is None else pytest.approx(delay))


def test_a_reason_that_changes_while_the_alarm_is_open_names_from_then_on() -> None:
    changing = alarm(10, 12, kind="sensor", sensor=HEAT, named=((10 * HOUR, "inconsistent"), (10.5 * HOUR, "stuck")))
    (naming,) = judge([changing], [broken(10, 13, "stuck")], SPANS)[0].namings
    assert naming.delay == 1800.0


def test_a_sensor_alarm_for_a_sensor_that_is_well_is_false() -> None:
    episodes = [broken(10, 13, "dead"), episode(50, 54, 60, 64)]
    slipping = episode(90, 94, 100, 104, fault="slipping_encoder", sensors=("wEncoderVelocity",))
    alarms = [
        sensor_alarm(11, 12, "stuck"),
        sensor_alarm(13.2, 13.3, "stuck"),  # late: mended 12 minutes ago
        sensor_alarm(14, 15, "stuck"),
        sensor_alarm(11, 12, "stuck", sensor=CURRENT),
        sensor_alarm(55, 56, "inconsistent", sensor=LOAD),
        sensor_alarm(95, 96, "inconsistent", sensor="wEncoderVelocity"),
    ]
    tally = judge(alarms, [*episodes, slipping], SPANS)[0]
    assert (tally.false_sensor, tally.false_sensor_in_episodes) == (3, 1)


def test_an_episode_with_a_sensor_reported_is_known_as_such() -> None:
    episodes = [episode(10, 14, 20, 24), episode(40, 44, 50, 54)]
    first, second = judge([sensor_alarm(8, 11, "dead"), alarm(12, 20)], episodes, SPANS)[0].outcomes
    assert (first.with_broken_sensor, second.with_broken_sensor) == (True, False)


def test_figures_are_rates_shares_and_medians_over_all_machines() -> None:
    episodes = [episode(10, 14, 20, 24), episode(40, 44, 50, 54), episode(10, 14, 20, 24, machine="b")]
    alarms = [alarm(12, 13), alarm(46, 47), alarm(100, 101), alarm(110, 111), alarm(120, 121)]
    tallies = judge(alarms, episodes, SPANS)
    assert figure(tallies, per_week(lambda tally: tally.false)).value == 1.5
    assert figure(tallies, share(lambda one: one.noticed)).value == pytest.approx(2 / 3)
    assert figure(tallies, share(lambda one: one.early)).value == pytest.approx(1 / 3)
    assert figure(tallies, middle(lambda one: one.lead)).value == 6.0
    assert math.isnan(figure(tallies, named_share(frozenset({"stuck"}))).value)
    assert math.isnan(figure([], per_week(lambda tally: tally.false)).value)


def test_an_interval_comes_from_drawing_machines() -> None:
    same = [Tally(weeks=1.0, false=2) for _ in range(10)]
    held = figure(same, per_week(lambda tally: tally.false))
    assert (held.low, held.value, held.high) == (2.0, 2.0, 2.0)
    # One machine has all of them: the share of draws without it is (9 / 10) ** 10 = 0.35.
    uneven = [Tally(weeks=1.0, false=20), *(Tally(weeks=1.0) for _ in range(9))]
    held = figure(uneven, per_week(lambda tally: tally.false))
    assert (held.low, held.value) == (0.0, 2.0)
    assert 4.0 <= held.high <= 8.0


def test_a_share_of_none_or_all_has_the_exact_interval() -> None:
    # Clopper and Pearson: 0 of 10 is at most 30.85 %, 10 of 10 at least 69.15 %.
    assert exact(Figure(0.0, 0.0, 0.0), 10).high == pytest.approx(0.3085, abs=1e-4)
    assert exact(Figure(1.0, 1.0, 1.0), 10).low == pytest.approx(0.6915, abs=1e-4)
    assert exact(Figure(0.5, 0.4, 0.6), 10) == Figure(0.5, 0.4, 0.6)


def test_the_upper_end_of_a_count_is_that_of_the_tables() -> None:
    # Garwood's, as printed in Ulm 1990: 3.689, 5.572, 18.39 and, for 100, 121.63.
    assert [most_events_within(count) for count in (0, 1, 10, 100)] == pytest.approx(
        [3.689, 5.572, 18.39, 121.63], abs=0.01
    )


def test_an_alarm_is_put_together_from_events_in_any_order_and_twice() -> None:
    def event(sequence: int, kind: str, seconds: float, **more: Any) -> str:
        base = {"id": "a-1", "sequence": sequence, "event": kind, "kind": "sensor", "equipment_id": "m", "sensor": HEAT}
        return json.dumps(
            base | {"opened": "1970-01-01T01:00:00.000Z", "closed": None, "duration_seconds": seconds} | more
        )

    lines = [
        event(3, "closed", 600.0, closed="1970-01-01T01:10:00Z", reason="stuck", explanation=[{"feature": LOAD}]),
        event(1, "opened", 0.0, reason="inconsistent", explanation=[{"feature": HEAT}]),
        event(2, "updated", 60.0, reason="stuck", explanation=[]),
        event(1, "opened", 0.0, reason="inconsistent", explanation=[{"feature": HEAT}]),
    ]
    (held,) = read(lines)
    assert (held.kind, held.machine, held.sensor) == ("sensor", "m", HEAT)
    assert (held.opened, held.closed) == (3600.0, 4200.0)
    assert held.named == ((3600.0, "inconsistent"), (3660.0, "stuck"))
    assert (held.first_features, held.features) == ((HEAT,), (LOAD,))
    assert read(lines[1:])[0].closed is None


def test_the_truth_is_read_as_the_simulator_writes_it() -> None:
    truths = Fleet(machines=3, fault_rate=1.0, sensor_fault_rate=1.0).truth(seconds=5 * 86_400.0, step=60.0)
    episodes = read_truth(json.dumps(truth.as_row()) for truth in truths)
    assert len(episodes) == len(truths) > 10
    assert [held.sensors for held in episodes] == [truth.sensors for truth in truths]
    # Stamps have milliseconds.
    assert [held.onset for held in episodes] == pytest.approx([truth.onset.timestamp() for truth in truths], abs=0.001)
    assert {held.kind for held in episodes} == {"equipment", "sensor"}
    assert all((held.label is None) == (truth.label is None) for held, truth in zip(episodes, truths, strict=True))


def test_drift_on_a_healthy_line_is_counted_by_line_and_month() -> None:
    alarms = [alarm(1, 2, kind="drift", machine=""), alarm(1, 2, kind="drift", sensor=HEAT), alarm(3, 4)]
    assert drift.healthy(alarms, (0.0, MONTH / 2)) == drift.Healthy(0.5, 2)


def test_a_change_is_detected_by_an_alarm_for_the_right_machine_and_sensor() -> None:
    alarms = [
        alarm(1, None, kind="drift", machine="b", sensor=LOAD),  # before the change
        alarm(11, None, kind="drift", machine="a", sensor=LOAD),
        alarm(12, None, kind="drift", machine="b", sensor=HEAT),
        alarm(12.5, None, kind="sensor", machine="b", sensor=LOAD),
        alarm(14, None, kind="drift", machine="b", sensor=LOAD),
    ]
    one = drift.change(alarms, what="x", at=10 * HOUR, machine="b", sensors=(LOAD,))
    assert (one.drift, one.told, one.elsewhere) == (4.0, 2.5, 2)
    every = drift.change(alarms, what="x", at=10 * HOUR, machine=None, sensors=(LOAD,))
    assert (every.drift, every.elsewhere) == (1.0, 1)
    assert drift.change([], what="x", at=0.0, machine=None, sensors=(LOAD,)).told is None


@pytest.mark.parametrize("quick", [True, False])
def test_no_two_jobs_are_the_same_and_their_stories_exist(quick: bool) -> None:
    held = jobs(quick=quick)
    assert len({repr(job) for job in held}) == len(held)
    for job in held:
        assert max(job.machines) < len(Fleet(**{**job.story, "machines": job.story["machines"]}).machines)
    readings = sum(job.readings for job in held)
    assert readings < (3e6 if quick else 40e6)
