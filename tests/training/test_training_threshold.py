import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.threshold import choose_threshold, parse_rule


@pytest.fixture
def validation() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    truth = (random.random(400) < 0.2).astype(float)
    # Rounded, so that there are ties.
    scores = np.clip(random.normal(0.3 + 0.3 * truth, 0.15), 0.0, 1.0).round(2)
    return truth, scores


def every(truth: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """The verdicts of every threshold that makes a difference."""
    return [scores >= threshold for threshold in np.unique(scores)]


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = (random.random(600) < 0.1).astype(float)
    return truth, np.clip(random.normal(0.3 + 0.3 * truth, 0.15), 0.0, 1.0)


def test_f1_is_close_to_the_largest_that_any_threshold_gives(validation: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = validation
    threshold = choose_threshold(parse_rule("f1"), truth, scores)
    best = max(f1_score(truth, verdict) for verdict in every(truth, scores))
    assert f1_score(truth, scores >= threshold) >= 0.97 * best


def test_the_threshold_for_f1_varies_less_from_sample_to_sample_than_the_samples_own_peaks() -> None:
    chosen, peaks = [], []
    for seed in range(25):
        truth, scores = drawn(seed)
        chosen.append(choose_threshold(parse_rule("f1"), truth, scores))
        order = np.argsort(-scores)
        f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(truth) + 1) + truth.sum())
        peaks.append(scores[order[f1.argmax()]])
    assert np.std(chosen) < 0.8 * np.std(peaks)
    assert np.mean(chosen) == pytest.approx(np.mean(peaks), abs=0.02)


@pytest.mark.parametrize("wanted", [0.5, 0.9, 1.0])
def test_recall_is_reached_with_the_fewest_alarms(validation: tuple[np.ndarray, np.ndarray], wanted: float) -> None:
    truth, scores = validation
    verdict = scores >= choose_threshold(parse_rule(f"recall={wanted}"), truth, scores)
    assert recall_score(truth, verdict) >= wanted
    fewest = min(other.sum() for other in every(truth, scores) if recall_score(truth, other) >= wanted)
    assert verdict.sum() == fewest


def test_precision_is_reached_with_the_highest_recall(validation: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = validation
    verdict = scores >= choose_threshold(parse_rule("precision=0.8"), truth, scores)
    assert precision_score(truth, verdict) >= 0.8
    best = max(recall_score(truth, other) for other in every(truth, scores) if precision_score(truth, other) >= 0.8)
    assert recall_score(truth, verdict) == pytest.approx(best)


@pytest.mark.parametrize(("missed", "false"), [(20, 1), (1, 1), (1, 5)])
def test_the_cost_is_close_to_the_least(validation: tuple[np.ndarray, np.ndarray], missed: int, false: int) -> None:
    truth, scores = validation

    def cost(verdict: np.ndarray) -> float:
        return float(missed * (truth * ~verdict).sum() + false * ((1 - truth) * verdict).sum())

    chosen = cost(scores >= choose_threshold(parse_rule(f"cost={missed}:{false}"), truth, scores))
    assert chosen <= 1.1 * min(cost(other) for other in every(truth, scores))


def test_dearer_misses_lower_the_threshold(validation: tuple[np.ndarray, np.ndarray]) -> None:
    thresholds = [choose_threshold(parse_rule(f"cost={cost}:1"), *validation) for cost in (1, 5, 25)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]


def test_a_threshold_between_two_scores_is_a_short_number() -> None:
    truth, scores = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.31234, 0.61234, 0.9])
    assert choose_threshold(parse_rule("recall=1"), truth, scores) == 0.46


def test_scores_that_differ_in_the_last_digit_are_told_apart() -> None:
    low = np.float32(0.7)
    # As the device compares: doubles.
    scores = np.array([low, np.nextafter(low, np.float32(1))], dtype=np.float64)
    threshold = choose_threshold(parse_rule("precision=1"), np.array([0.0, 1.0]), scores)
    assert (scores >= threshold).tolist() == [False, True]


def test_a_precision_out_of_reach_is_an_error_that_says_the_best() -> None:
    truth = np.array([0.0, 1.0, 0.0, 1.0])
    with pytest.raises(TrainingError, match=r"no threshold reaches a precision of 0\.9 .* the best is 0\.500"):
        choose_threshold(parse_rule("precision=0.9"), truth, np.full(4, 0.5))


def test_a_number_is_taken_as_it_is() -> None:
    assert choose_threshold(parse_rule("0.35"), np.array([0.0, 1.0]), np.array([0.1, 0.2])) == 0.35


@pytest.mark.parametrize(
    "text", ["", "F2", "recall", "recall=1.5", "recall=0", "precision=x", "cost=5", "cost=0:1", "nan"]
)
def test_a_rule_that_is_none_says_what_there_is(text: str) -> None:
    with pytest.raises(TrainingError, match=r"f1, recall=0\.9, precision=0\.9, cost=FN:FP"):
        parse_rule(text)
