import numpy as np
import pytest
from sklearn import metrics as sk

from ml_inference.workbench.training.metrics import abnormal_score, confusion, figures, ranking
from ml_inference.workbench.training.target import Target, Task


def binary(rows: int = 500, seed: int = 1) -> tuple[Target, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = (random.random(rows) < 0.2).astype(float)
    scores = np.clip(random.normal(0.3 + 0.3 * truth, 0.2), 0.01, 0.99).round(2).astype(np.float32)
    return Target(Task.BINARY, truth, ("0", "1"), 0), scores


def test_binary_figures_are_those_of_scikit_learn() -> None:
    target, scores = binary()
    values = figures(target, scores, 0.5, np.arange(500)).values
    truth, exact, verdict = target.values, scores.astype(np.float64), scores >= 0.5
    assert values == pytest.approx(
        {
            "roc_auc": sk.roc_auc_score(truth, scores),
            "pr_auc": sk.average_precision_score(truth, scores),
            "brier": sk.brier_score_loss(truth, exact),
            "log_loss": sk.log_loss(truth, exact),
            "precision": sk.precision_score(truth, verdict),
            "recall": sk.recall_score(truth, verdict),
            "f1": sk.f1_score(truth, verdict),
        }
    )


def test_ranking_under_weights_is_that_of_repeated_rows() -> None:
    target, scores = binary(200)
    weights = np.random.default_rng(3).integers(0, 4, 200)
    repeated = np.repeat(np.arange(200), weights)
    roc_auc, pr_auc = ranking(target.values, scores.astype(np.float64))
    truth, again = target.values[repeated], scores[repeated]
    assert roc_auc(weights.astype(float)) == pytest.approx(sk.roc_auc_score(truth, again))
    assert pr_auc(weights.astype(float)) == pytest.approx(sk.average_precision_score(truth, again))


def test_multi_class_figures_are_macro_means() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 300)
    scores = random.dirichlet([1, 1, 1], 300).astype(np.float32)
    scores[np.arange(300), labels] += 0.5
    scores /= scores.sum(axis=1, keepdims=True)
    target = Target(Task.MULTI_CLASS, labels.astype(float), ("a", "b", "c"), 1)
    values = figures(target, scores, 0.5, np.arange(300)).values
    predicted = scores.argmax(axis=1)
    assert values["macro_roc_auc"] == pytest.approx(
        np.mean([sk.roc_auc_score(labels == c, scores[:, c]) for c in range(3)])
    )
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert values["log_loss"] == pytest.approx(-np.log(scores[np.arange(300), labels]).mean(), rel=1e-4)
    assert values["recall"] == pytest.approx(sk.recall_score(labels != 1, 1.0 - scores[:, 1] >= 0.5))


def test_a_class_that_is_not_held_out_is_left_out_of_the_mean() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]] * 10, dtype=np.float32)
    target = Target(Task.MULTI_CLASS, np.array([0.0, 1.0] * 10), ("a", "b", "c"), 0)
    values = figures(target, scores, 0.5, np.arange(20)).values
    assert values["macro_roc_auc"] == 1.0
    assert values["macro_f1"] == 1.0


def test_regression_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    truth = random.normal(100.0, 20.0, 200)
    predicted = (truth + random.normal(0.0, 5.0, 200)).astype(np.float32)
    values = figures(Target(Task.REGRESSION, truth), predicted, None, np.arange(200)).values
    assert values == pytest.approx(
        {
            "mae": sk.mean_absolute_error(truth, predicted),
            "rmse": sk.root_mean_squared_error(truth, predicted),
            "r2": sk.r2_score(truth, predicted),
        }
    )


def test_intervals_hold_the_value_and_shrink_with_more_rows() -> None:
    widths = []
    for rows in (200, 5_000):
        target, scores = binary(rows)
        result = figures(target, scores, 0.5, np.arange(rows))
        low, high = result.intervals["roc_auc"]
        assert low < result.values["roc_auc"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_intervals_over_machines_are_wider_than_over_their_alike_rows() -> None:
    random = np.random.default_rng(7)
    machines = np.repeat(np.arange(20), 100)
    truth = (random.random(2_000) < 0.3).astype(float)
    # Each machine has its own offset, and so its own figures.
    scores = np.clip(
        0.4 + 0.2 * truth + random.normal(0, 0.3, 20)[machines] + random.normal(0, 0.05, 2_000), 0.01, 0.99
    )
    target = Target(Task.BINARY, truth, ("0", "1"), 0)
    by_row = figures(target, scores.astype(np.float32), 0.5, np.arange(2_000)).intervals["brier"]
    by_machine = figures(target, scores.astype(np.float32), 0.5, machines).intervals["brier"]
    assert by_machine[1] - by_machine[0] > 2 * (by_row[1] - by_row[0])


def test_a_score_equal_to_the_threshold_is_abnormal() -> None:
    counted = confusion(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.5, 0.4, 0.5, 0.4]), 0.5)
    assert (counted.caught, counted.missed, counted.false_alarms, counted.true_normal) == (1, 1, 1, 1)


def test_the_score_of_a_multi_class_reading_is_its_chance_of_not_being_normal() -> None:
    target = Target(Task.MULTI_CLASS, np.array([0.0]), ("a", "b"), 1)
    assert abnormal_score(target, np.array([[0.25, 0.75]], dtype=np.float32)).tolist() == [0.25]
