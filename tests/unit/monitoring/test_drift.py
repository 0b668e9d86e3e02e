from __future__ import annotations

import math
import tracemalloc
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from ml_inference.model.manifest import Feature, Histogram
from ml_inference.monitoring.drift import BLOCK_READINGS, WAITING_VALUES, WINDOW_READINGS, Drift, DriftReport
from ml_inference.workbench.writer import HISTOGRAM_BINS, with_histograms

NAMES = ("steady", "moving")


def readings(moving: float, count: int = WINDOW_READINGS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal((20.0, moving), (2.0, 1.0), (count, 2))


TRAINING = readings(5.0, 20_000, seed=0)
FEATURES = with_histograms([Feature(name=name) for name in NAMES], TRAINING)


def play(drift: Drift, rows: np.ndarray) -> dict[str, float]:
    for row in rows.tolist():
        drift.add(tuple(row))
    assert drift.report is not None
    return dict(drift.report.features)


def test_readings_like_those_of_the_training_do_not_drift() -> None:
    indices = play(Drift(FEATURES), readings(5.0))
    assert max(indices.values()) < 0.01


def test_a_sensor_that_reads_half_a_deviation_more_is_named_first() -> None:
    drift = Drift(FEATURES)
    indices = play(drift, readings(5.5))
    # Bins of equal content of the standard normal distribution, and their content after the shift.
    edges = [
        -math.inf,
        *(NormalDist().inv_cdf(number / HISTOGRAM_BINS) for number in range(1, HISTOGRAM_BINS)),
        math.inf,
    ]
    shifted = [NormalDist(0.5).cdf(b) - NormalDist(0.5).cdf(a) for a, b in pairwise(edges)]
    exact = math.fsum((p - 1 / HISTOGRAM_BINS) * math.log(p * HISTOGRAM_BINS) for p in shifted)
    assert indices["moving"] == pytest.approx(exact, rel=0.1)
    assert indices["steady"] < 0.01
    assert drift.report is not None
    assert drift.report.as_message()["largest"][0] == {"feature": "moving", "psi": round(indices["moving"], 4)}


def test_the_index_is_that_of_its_definition() -> None:
    feature = Feature(name="switch", histogram=Histogram(edges=[-0.5, 0.5, 1.5], counts=[300, 700]))
    halves = [[0.0]] * (BLOCK_READINGS // 2) + [[1.0]] * (BLOCK_READINGS // 2)
    [index] = play(Drift([feature]), np.array(halves)).values()
    # Of four bins: below, 0, 1 and above.
    expected = [count / 1002 for count in (0.5, 300.5, 700.5, 0.5)]
    actual = [count / 1002 for count in (0.5, 500.5, 500.5, 0.5)]
    assert index == pytest.approx(
        math.fsum((p - q) * math.log(p / q) for p, q in zip(actual, expected, strict=True)), rel=1e-12
    )


def test_the_last_edge_belongs_to_the_last_bin_and_what_lies_outside_counts_as_far_away() -> None:
    feature = Feature(name="x", histogram=Histogram(edges=[0.0, 1.0, 2.0], counts=[500, 500]))
    at_the_edges = [[0.0]] * 500 + [[2.0]] * 500
    assert play(Drift([feature]), np.array(at_the_edges))["x"] == pytest.approx(0.0, abs=1e-12)
    outside = [[0.5]] * 450 + [[1.5]] * 450 + [[-1.0]] * 50 + [[3.0]] * 50
    assert play(Drift([feature]), np.array(outside))["x"] > 0.25


def test_only_the_latest_readings_count() -> None:
    drift = Drift(FEATURES)
    play(drift, readings(9.0))
    indices = play(drift, readings(5.0))
    assert max(indices.values()) < 0.01
    assert drift.report is not None
    assert drift.report.readings == WINDOW_READINGS


def test_of_few_readings_it_says_nothing() -> None:
    drift = Drift(FEATURES)
    for _ in range(BLOCK_READINGS - 1):
        drift.add((20.0, 5.0))
    assert drift.report is None
    drift.add((20.0, 5.0))
    assert drift.report is not None
    assert drift.report.readings == BLOCK_READINGS


def test_features_without_a_histogram_are_left_out() -> None:
    drift = Drift([Feature(name="unknown"), FEATURES[1]])
    assert play(drift, TRAINING[:BLOCK_READINGS]).keys() == {"moving"}
    nothing = Drift([Feature(name="unknown")])
    for _ in range(2 * BLOCK_READINGS):
        nothing.add((1.0,))
    assert nothing.report is None
    assert not nothing._rows


def wide(width: int, bins: int) -> tuple[list[Feature], list[tuple[float, ...]]]:
    histogram = Histogram(edges=[float(edge) for edge in range(bins + 1)], counts=[1] * bins)
    rows = np.random.default_rng(2).uniform(-1, bins + 1, (50, width)).tolist()
    return [Feature(name=f"f{number}", histogram=histogram) for number in range(width)], [tuple(row) for row in rows]


def test_of_a_model_of_very_many_features_few_values_wait_and_reports_come_as_of_any_other() -> None:
    width = 2_000
    features, rows = wide(width, bins=1)
    drift = Drift(features)
    most = 0
    for number in range(BLOCK_READINGS):
        assert drift.report is None
        drift.add(rows[number % len(rows)])
        most = max(most, len(drift._rows))
    assert 0 < most * width <= WAITING_VALUES
    assert drift.report is not None
    assert drift.report.readings == BLOCK_READINGS


def test_memory_is_bounded_by_ten_blocks_of_counts_however_many_features() -> None:
    width, bins = 500, 100
    features, rows = wide(width, bins)
    drift = Drift(features)
    tracemalloc.start()
    for number in range(WINDOW_READINGS + BLOCK_READINGS):
        drift.add(rows[number % len(rows)])
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drift.report is not None
    assert drift.report.readings == WINDOW_READINGS
    assert grown < 10 * width * (bins + 2) * 4


def test_features_with_different_numbers_of_bins_beside_some_without_a_histogram_are_each_compared_with_their_own() -> (
    None
):
    random = np.random.default_rng(3)
    edges = {
        column: np.sort(random.normal(size=bins + 1)) for column, bins in {0: 1, 2: 2, 3: 15, 5: 16, 6: 256}.items()
    }
    features = [
        Feature(
            name=f"f{column}",
            histogram=Histogram(edges=edges[column].tolist(), counts=[5] * (len(edges[column]) - 1))
            if column in edges
            else None,
        )
        for column in range(7)
    ]
    rows = random.normal(size=(2 * BLOCK_READINGS, 7))
    for column, own in edges.items():  # some on the edges, too
        rows[: len(own), column] = own
    indices = play(Drift(features), rows)
    for column, own in edges.items():
        inner, _ = np.histogram(rows[:, column], own)
        counts = np.array([(rows[:, column] < own[0]).sum(), *inner, (rows[:, column] > own[-1]).sum()]) + 0.5
        p, q = counts / counts.sum(), np.array([0.5, *[5.5] * (len(own) - 1), 0.5])
        q /= q.sum()
        assert indices.pop(f"f{column}") == pytest.approx(np.sum((p - q) * np.log(p / q)), rel=1e-9)
    assert not indices


def test_the_message_names_the_three_that_moved_the_most() -> None:
    report = DriftReport(10_000, (("a", 0.4), ("b", 0.3), ("c", 0.2), ("d", 0.1)))
    message = report.as_message()
    assert (message["readings"], [entry["feature"] for entry in message["largest"]]) == (10_000, ["a", "b", "c"])
