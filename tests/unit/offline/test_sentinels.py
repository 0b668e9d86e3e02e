import numpy as np
import numpy.typing as npt
import pytest

from ml_inference.offline.sentinels import suspected


@pytest.fixture
def temperatures() -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.random.default_rng(0).normal(70.0, 5.0, 500).round(1)
    return values


@pytest.mark.parametrize("stand_in", [-999.0, 65535.0, 0.0, 9999.0, 850.0])
def test_a_far_value_that_repeats_is_suspected_with_its_number(temperatures: np.ndarray, stand_in: float) -> None:
    temperatures[::50] = stand_in
    assert suspected(temperatures) == [(stand_in, 10)]


def test_several_stand_ins_are_found_beside_one_another(temperatures: np.ndarray) -> None:
    temperatures[:7], temperatures[10:14], temperatures[20:23] = -999.0, 65535.0, np.nan
    assert suspected(temperatures) == [(-999.0, 7), (65535.0, 4)]


def test_a_usual_stand_in_is_suspected_even_once_and_any_other_far_value_is_an_outlier(
    temperatures: np.ndarray,
) -> None:
    temperatures[3] = -9999.0
    assert suspected(temperatures) == [(-9999.0, 1)]
    temperatures[3] = -1234.5
    assert suspected(temperatures) == []


def test_measurements_are_not_suspected(temperatures: np.ndarray) -> None:
    assert suspected(temperatures) == []
    assert suspected(np.repeat([0.0, 1.0], 50)) == []
    assert suspected(np.append(temperatures, np.linspace(70.0, 400.0, 30))) == []
    assert suspected(np.array([])) == []


def test_a_single_reading_is_judged_by_what_the_model_compares_it_with() -> None:
    assert suspected(np.array([-999.0]), np.array([2.5, 4.1, 6.0])) == [(-999.0, 1)]
    assert suspected(np.array([3.0]), np.array([2.5, 4.1, 6.0])) == []
