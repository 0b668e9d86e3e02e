import numpy as np
import pytest

from ml_inference.workbench.training.leakage import find_leaks
from ml_inference.workbench.training.target import Target, Task, read_target
from support.tables import AI4I_LABEL, AI4I_MODES, AI4I_SENSORS, ai4i


def labels(truth: np.ndarray) -> Target:
    return read_target([str(int(one)) for one in truth])


@pytest.fixture
def truth() -> np.ndarray:
    return (np.random.default_rng(0).random(2_000) < 0.05).astype(float)


def leaking(values: np.ndarray, target: Target) -> bool:
    return bool(find_leaks(["column"], values.reshape(-1, 1).astype(float), target))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_flags_of_failure_modes_are_found_and_the_sensors_are_not(seed: int) -> None:
    table = ai4i(6_000, seed)
    names = [*AI4I_SENSORS, *AI4I_MODES]
    found = find_leaks(names, np.column_stack([table[name] for name in names]), labels(table[AI4I_LABEL]))
    # Fewer than five rows are no pattern.
    assert [leak.feature for leak in found] == [name for name in AI4I_MODES if table[name].sum() >= 5]
    assert "where it is 1, 100.0% are abnormal" in found[0].reason


def test_a_copy_of_the_label_is_found_however_it_is_written(truth: np.ndarray) -> None:
    random = np.random.default_rng(1)
    target = labels(truth)
    assert leaking(truth, target)
    assert leaking(-3.0 * truth + 7.0, target)
    assert leaking(truth * 10 + random.normal(0, 1, len(truth)), target)


def test_a_code_that_no_order_of_numbers_shows_is_found(truth: np.ndarray) -> None:
    good = np.random.default_rng(2).choice([0, 2, 4], len(truth))
    bad = np.random.default_rng(3).choice([1, 3], len(truth))
    assert leaking(np.where(truth > 0, bad, good), labels(truth))


def test_a_duration_that_is_written_only_after_some_failures_is_found(truth: np.ndarray) -> None:
    random = np.random.default_rng(4)
    repaired = np.where((truth > 0) & (random.random(len(truth)) < 0.2), random.uniform(5, 90, len(truth)), 0.0)
    assert leaking(repaired, labels(truth))


def test_good_sensors_are_no_leaks(truth: np.ndarray) -> None:
    random = np.random.default_rng(5)
    target = labels(truth)
    assert not leaking(random.normal(2.0 * truth, 1.0), target)
    # Whatever is extreme has failed, as heat and torque do.
    assert not leaking(
        random.normal(0.0, 1.0, len(truth)) + np.where(random.random(len(truth)) < 0.3, 6 * truth, 0), target
    )
    assert not leaking(random.integers(0, 4, len(truth)), target)


def test_a_few_rows_of_chance_are_no_leak() -> None:
    random = np.random.default_rng(6)
    truth = (random.random(400) < 0.5).astype(float)
    flag = np.zeros(400)
    flag[np.flatnonzero(truth)[:6]] = 1
    assert not leaking(flag, labels(truth))


def test_a_column_that_repeats_one_of_many_classes_is_found(truth: np.ndarray) -> None:
    random = np.random.default_rng(7)
    classes = np.where(truth > 0, random.integers(1, 4, len(truth)), 0)
    target = read_target([f"mode {int(one)}" for one in classes])
    assert leaking(classes, target)
    assert leaking(classes == 2, target)
    assert not leaking(random.normal(classes, 1.0), target)


def test_a_copy_of_a_number_is_found_and_a_good_sensor_is_not() -> None:
    random = np.random.default_rng(8)
    hours = random.uniform(0, 1_000, 1_000)
    target = Target(Task.REGRESSION, hours)
    assert leaking(hours * 60 + 3, target)
    assert leaking(np.sqrt(hours), target)
    assert not leaking(hours + random.normal(0, 100, 1_000), target)


@pytest.mark.parametrize("rows", [48, 200])
def test_a_continuous_sensor_that_tells_a_few_faults_apart_is_not_accused(rows: int) -> None:
    random = np.random.default_rng(9)
    truth = (np.arange(rows) % (rows // 12) == 0).astype(float)
    assert not leaking(random.normal(60.0 + 24.0 * truth, 3.0), labels(truth))


@pytest.mark.parametrize("resolution", [0.1, 0.5])
def test_a_sensor_of_coarse_resolution_is_no_code(resolution: float) -> None:
    random = np.random.default_rng(10)
    truth = (np.arange(240) % 6 == 0).astype(float)
    values = random.integers(0, 4, 240) * resolution + 3.0 + 6.0 * truth * (random.random(240) < 0.9)
    assert not leaking(values, labels(truth))


def test_a_strong_sensor_of_many_rows_is_not_accused(truth: np.ndarray) -> None:
    random = np.random.default_rng(11)
    assert not leaking(random.normal(4.5 * truth, 1.0), labels(truth))
