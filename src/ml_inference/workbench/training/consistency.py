"""How the sensors of machines that are well change together: the reference for a sensor that breaks all at once.

The device's own means run over the training data, and what healthy sensors came to is kept. It must be given readings of
sensors that work: those of a broken one would make it usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import MAX_COMPARED, Consistency
from ml_inference.monitoring.consistency import MIN_SAMPLES, SAMPLE_SECONDS, ConsistencyWatch, Course

FAST_SECONDS, SLOW_SECONDS = 240.0, 1_500.0
SETTLE_SECONDS = 3_600.0
"""A machine that was started is nearly warm after so long."""
HOLD_SECONDS = 360.0
FAST_STEPS, SLOW_STEPS, HOLD_STEPS = 2.0, 12.0, 3.0
"""Where readings are rare these take so many of them, at least."""
MIN_FEATURES = 3
"""Of two sensors that disagree nobody can say which one is right."""
MIN_CHANGES = 2_000
"""From fewer changes nothing is said."""
MAX_READINGS = 1_200_000
"""Readings that are looked at, of whole machines; the rest would add minutes and little else."""
RIDGE = 1e-4
"""Added to the variances, as a share of them: sensors that are copies of one another have no inverse."""
LIMIT_MARGIN = 1.15
LEAST_LIMIT = 4.5
LARGE = 1e9
"""A change that nothing exceeds, while the usual ones are not known."""
REST_QUANTILE = 0.9999

Float64Array = npt.NDArray[np.float64]


def consistency_of(
    features: Sequence[Feature],
    values: npt.NDArray[np.floating[Any]],
    machine: npt.NDArray[Any],
    seconds: Float64Array,
    *,
    well: npt.NDArray[np.bool_],
    off: npt.NDArray[np.bool_] | None = None,
) -> Consistency | None:
    """The reference; None where there are too few sensors, or readings, for one.

    Args:
        features: f features in the order of the columns.
        values: Shape (n, f), in the features' units; NaN for a missing value.
        machine: Shape (n,), which machine a reading is of; anything that can be compared.
        seconds: Shape (n,), epoch seconds.
        well: Shape (n,), readings of sensors that work on machines that are not yet at fault.
        off: Shape (n,), readings of machines that stand still; None where there is no such condition.
    """
    columns = [
        column
        for column, feature in enumerate(features)
        if feature.categories is None and np.nanstd(values[:, column]) > 0.0
    ]
    if not MIN_FEATURES <= len(columns) <= MAX_COMPARED:
        return None
    order = np.lexsort((seconds, machine))[:MAX_READINGS]
    steps = np.diff(seconds[order])[machine[order][1:] == machine[order][:-1]]
    if not (steps > 0.0).any():
        return None
    interval = float(np.median(steps[steps > 0.0]))
    fast = max(FAST_SECONDS, FAST_STEPS * interval)
    windows = {
        "fast_seconds": fast,
        "slow_seconds": max(SLOW_SECONDS, SLOW_STEPS * interval),
        "settle_seconds": SETTLE_SECONDS,
        "hold_seconds": max(HOLD_SECONDS, HOLD_STEPS * interval),
    }
    names = [features[column].name for column in columns]
    unknown = Consistency(
        features=names,
        precision=(np.eye(len(names)) / LARGE**2).tolist(),
        limits=[1.0] * len(names),
        rest=1.0,
        **windows,
    )
    stopped = ~well if off is None else ~well | off
    changes, runs = _changes(
        ConsistencyWatch(unknown, [features[column] for column in columns]),
        values[:, columns][order],
        machine[order],
        seconds[order],
        stopped[order],
    )
    if len(changes) < MIN_CHANGES:
        return None
    covariance = np.cov(changes.T)
    precision = np.linalg.inv(covariance + np.diag(RIDGE * np.diag(covariance)))
    scores = changes @ precision / np.sqrt(np.diag(precision))
    total = np.einsum("ni,ij,nj->n", changes, precision, changes)
    held = max(MIN_SAMPLES, math.ceil(windows["hold_seconds"] / max(interval, SAMPLE_SECONDS)) + 1)
    return Consistency(
        features=names,
        precision=[[float(f"{value:.9g}") for value in row] for row in precision.tolist()],
        limits=[
            float(f"{max(LEAST_LIMIT, LIMIT_MARGIN * _most_for_long(scores[:, place], runs, held)):.4g}")
            for place in range(len(names))
        ],
        rest=float(f"{np.quantile(total - np.abs(scores).max(axis=1) ** 2, REST_QUANTILE):.4g}"),
        **windows,
    )


def _changes(
    watch: ConsistencyWatch,
    values: npt.NDArray[np.floating[Any]],
    machine: npt.NDArray[Any],
    seconds: Float64Array,
    stopped: npt.NDArray[np.bool_],
) -> tuple[Float64Array, npt.NDArray[np.intp]]:
    """What the device would compare, and in which unbroken run of samples."""
    found: list[list[float]] = []
    runs: list[int] = []
    run = 0
    bounds = np.flatnonzero(machine[1:] != machine[:-1]) + 1
    for begin, end in zip([0, *bounds.tolist()], [*bounds.tolist(), len(values)], strict=True):
        course = Course()
        rows = zip(values[begin:end].tolist(), seconds[begin:end].tolist(), stopped[begin:end].tolist(), strict=True)
        for row, at, still in rows:
            if at - course.sampled < SAMPLE_SECONDS:
                continue
            if watch.advance(course, at, row, off=still) and course.fast is not None and course.slow is not None:
                found.append([new - old for new, old in zip(course.fast, course.slow, strict=True)])
                runs.append(run)
            else:
                run += 1
    return np.array(found), np.array(runs)


def _most_for_long(scores: Float64Array, runs: npt.NDArray[np.intp], held: int) -> float:
    """The largest score that lasted for so many samples in a row, on one side."""
    if len(scores) < held:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(scores, held)
    whole = runs[held - 1 :] == runs[: len(runs) - held + 1]
    if not whole.any():
        return 0.0
    lasting = np.maximum(windows.min(axis=1), -windows.max(axis=1))
    return float(lasting[whole].max())
