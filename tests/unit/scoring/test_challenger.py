from __future__ import annotations

from collections import deque

import pytest

from ml_inference.scoring.challenger import WINDOW, Comparison, median
from ml_inference.scoring.outcomes import FieldError, Outcome, Rejection, Result

REJECTED = Rejection((FieldError((), "missing", "Field required"),), received=b"{}")


def result(score: float | list[float], *, abnormal: bool | None = False) -> Result:
    return Result(
        equipment_id="m",
        timestamp="2026-11-22T03:15:00.000Z",
        correlation_id=None,
        score=score,
        threshold=0.5,
        abnormal=abnormal,
        state=None,
        state_changed=False,
        model_name="small",
        model_version="1.0.0",
    )


def compare(*pairs: tuple[Result | Rejection, Result | Rejection]) -> Comparison:
    comparison = Comparison("next", "2.0.0")
    for ours, theirs in pairs:
        comparison.add(Outcome((ours,)), Outcome((theirs,)), 0.001, 0.002)
    return comparison


def test_it_counts_verdicts_that_agree_and_averages_how_far_scores_differ() -> None:
    message = compare(
        (result(0.1), result(0.3)),
        (result(0.9, abnormal=True), result(0.8, abnormal=True)),
        (result(0.4), result(0.6, abnormal=True)),
        (result(0.6, abnormal=True), result(0.6, abnormal=True)),
    ).as_message()
    assert message == {
        "model": {"name": "next", "version": "2.0.0"},
        "compared": 4,
        "agreement": 0.75,
        "mean_score_difference": pytest.approx(0.125),
        "refused": 0,
        "latency_ms": {"champion": 1.0, "challenger": 2.0},
    }


def test_before_anything_was_compared_it_claims_nothing() -> None:
    message = Comparison("next", "2.0.0").as_message()
    assert (message["compared"], message["agreement"], message["mean_score_difference"]) == (0, None, None)
    assert message["latency_ms"] == {"champion": None, "challenger": None}


def test_what_only_the_challenger_rejects_is_counted_and_what_the_champion_rejects_is_not_compared() -> None:
    comparison = compare((result(0.1), REJECTED), (REJECTED, result(0.1)), (REJECTED, REJECTED))
    assert (comparison.compared, comparison.refused) == (0, 1)


def test_models_without_verdicts_neither_agree_nor_disagree() -> None:
    message = compare((result(3.0, abnormal=None), result(4.0, abnormal=None))).as_message()
    assert (message["compared"], message["agreement"], message["mean_score_difference"]) == (1, None, 1.0)
    assert compare((result(3.0, abnormal=None), result(4.0))).as_message()["agreement"] == 0.0


def test_scores_of_several_classes_have_no_difference_that_is_a_number() -> None:
    message = compare((result([0.5, 0.5]), result([0.1, 0.9])), (result(0.5), result([0.1, 0.9]))).as_message()
    assert (message["compared"], message["agreement"], message["mean_score_difference"]) == (2, 1.0, None)


def test_readings_of_a_batch_are_compared_one_by_one() -> None:
    comparison = Comparison("next", "2.0.0")
    ours = (result(0.1), REJECTED, result(0.9, abnormal=True))
    theirs = (result(0.2), REJECTED, result(0.3))
    comparison.add(Outcome(ours, batch=True), Outcome(theirs, batch=True), 0.1, 0.1)
    assert (comparison.compared, comparison.agreed, comparison.refused) == (2, 1, 0)
    assert comparison.difference == pytest.approx(0.7)


def test_times_are_those_of_the_latest_messages() -> None:
    comparison = Comparison("next", "2.0.0")
    for number in range(WINDOW + 10):
        comparison.add(Outcome((result(0.1),)), Outcome((result(0.1),)), float(number), 1.0)
    assert len(comparison.champion_seconds) == WINDOW
    assert comparison.champion_seconds[0] == 10.0


def test_the_median_is_one_of_the_values() -> None:
    assert median(deque()) is None
    assert median(deque([3.0, 1.0, 2.0])) == 2.0
    assert median(deque([4.0, 1.0, 3.0, 2.0])) in (2.0, 3.0)
