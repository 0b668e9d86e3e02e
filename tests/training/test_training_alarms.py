import numpy as np
import pytest

from ml_inference.workbench.training.alarms import Alarms, replay


def one_machine(verdict: str, truth: str, debounces: tuple[int, ...] = (1,), step: float = 60.0) -> list[Alarms]:
    """Verdicts and labels a minute, written as `.` and `x`."""
    rows = len(verdict)
    return replay(
        np.full(rows, "m"),
        np.arange(float(rows)) * step,
        np.array([float(c == "x") for c in truth]),
        np.array([c == "x" for c in verdict]),
        debounces,
    )


def test_a_stretch_of_false_verdicts_is_one_false_alarm() -> None:
    (alarms,) = one_machine("..xxx...x....", ".............")
    assert alarms.false_alarms == 2
    assert alarms.episodes == 0
    assert alarms.days == pytest.approx(13 * 60 / 86_400)
    assert alarms.false_alarms_per_day == pytest.approx(2 / (13 * 60 / 86_400))


def test_an_episode_is_noticed_late_or_not_at_all() -> None:
    (alarms,) = one_machine("....xx........", "..xxxx....xx..")
    assert (alarms.episodes, alarms.noticed) == (2, 1)
    assert alarms.delay == 120.0
    assert alarms.false_alarms == 0


def test_an_alarm_that_ends_a_little_late_is_not_false() -> None:
    (alarms,) = one_machine("..xxxx..", "..xx....")
    assert alarms.false_alarms == 0


def test_debouncing_is_the_components_own() -> None:
    once, three = one_machine("..x..xxxx...", ".....xxxx...", (1, 3))
    assert (once.false_alarms, once.delay) == (1, 0.0)
    assert (three.false_alarms, three.delay) == (0, 120.0)


def test_machines_are_replayed_apart_whatever_the_order_of_rows() -> None:
    machines = np.array(["b", "a"] * 4)
    seconds = np.array([3, 3, 2, 2, 1, 1, 0, 0]) * 60.0
    truth = np.array([0, 1, 0, 1, 0, 0, 0, 0.0])
    verdict = np.array([0, 1, 0, 0, 1, 0, 0, 0], dtype=bool)
    (alarms,) = replay(machines, seconds, truth, verdict, (1,))
    assert (alarms.machines, alarms.episodes, alarms.noticed) == (2, 1, 1)
    assert (alarms.delay, alarms.false_alarms) == (60.0, 1)


def test_a_long_pause_ends_an_episode() -> None:
    seconds = np.array([0.0, 60.0, 120.0, 7_200.0, 7_260.0, 7_320.0])
    (alarms,) = replay(np.full(6, "m"), seconds, np.ones(6), np.array([1, 0, 0, 0, 0, 0], dtype=bool), (1,))
    assert (alarms.episodes, alarms.noticed) == (2, 1)
