"""When a machine is in operation, as a condition on its features."""

from __future__ import annotations

import numpy as np
import pytest

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.running import in_operation, parse_running, propose
from sensor_simulator import SENSORS, Fleet


def test_a_condition_is_a_comparison_of_a_feature_with_a_number() -> None:
    (one,) = parse_running("wRMSCurrent > 20")
    assert (one.feature, one.operator, one.value) == ("wRMSCurrent", ">", 20.0)
    two = parse_running("Rotational speed [rpm]>=1.5e2 and load < -3")
    assert [(each.feature, each.operator, each.value) for each in two] == [
        ("Rotational speed [rpm]", ">=", 150.0),
        ("load", "<", -3.0),
    ]


@pytest.mark.parametrize("text", ["", "wRMSCurrent", "wRMSCurrent > on", "> 20", "a > 1 and", "a > 1..2", "a == 3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(TrainingError, match="--running"):
        parse_running(text)


def test_a_machine_is_in_operation_while_all_conditions_hold_and_a_missing_value_says_nothing_against_it() -> None:
    values = np.array([[1, 5], [30, 5], [30, 50], [np.nan, 5], [np.nan, 50]], dtype=np.float32)
    conditions = parse_running("a > 20 and b < 10")
    assert in_operation(conditions, ["a", "b"], values).tolist() == [False, True, False, True, False]
    with pytest.raises(TrainingError, match="'c' is not among the features a, b"):
        in_operation(parse_running("c > 1"), ["a", "b"], values)


def test_a_condition_is_proposed_where_a_sensor_has_two_clear_modes() -> None:
    rows = list(Fleet(machines=6, seed=12).rows(seconds=10 * 86_400, step=600.0))
    values = np.array([[row[name] for name in SENSORS] for row in rows], dtype=np.float32)
    text = propose(SENSORS, values)
    assert text is not None
    running = in_operation(parse_running(text), SENSORS, values)
    standing = values[:, SENSORS.index("wEncoderVelocity")] == 0.0
    assert (running == ~standing).mean() > 0.995


def test_nothing_is_proposed_where_there_is_only_one_mode() -> None:
    random = np.random.default_rng(0)
    smooth = np.column_stack([random.normal(50, 10, 2000), random.uniform(0, 100, 2000), random.exponential(5, 2000)])
    assert propose(["a", "b", "c"], np.abs(smooth).astype(np.float32)) is None
    # A switch that is off most of the time is no standstill of a machine that works.
    switch = (random.random((2000, 1)) < 0.3).astype(np.float32)
    assert propose(["switch"], switch) is None
