"""What is usual for each sensor of a healthy machine: the reference that a device judges its sensors by.

It runs the device's own watch over the training data and keeps what healthy sensors came to. It must be given healthy readings:
those of a broken sensor, or of a machine at fault, would make a fault usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import MeanReference, Usual
from ml_inference.monitoring.sensors import LEAST_SHARE, SensorWatch
from ml_inference.monitoring.shift import KNOWN, MAX_SHARE, SAMPLE_SECONDS

WINDOW_READINGS = 256
"""Readings of one machine in which the most common value is counted."""
MAX_EDGES = 16
SPREAD = 2
"""Neighbouring ranges of values whose shares count, too."""
OWN_SHARE = 0.5
"""A value with a larger share is one that the sensor rests at."""
MIN_READINGS = 500
"""From fewer readings nothing is said about a sensor."""
MAX_WATCHED = 500_000
"""Readings that the device's watch is tried on; the rest would add minutes and little else."""

MEAN_WINDOWS = (1_200.0, 14_400.0)
"""Time constants of the means that drift is found by: twenty minutes for a line, four hours for a single machine as well."""
MIN_MEANS = 50
"""From fewer of them nothing is said about drift."""
MIN_TOGETHER = 4
LEAST_LIMIT = 4.5
"""Standard deviations: of normally distributed means one in 150,000 lies beyond."""
LIMIT_MARGIN = 1.1
TAIL_SHARE = 0.02
EXPECTED_MEANS = 100_000
"""Means of four hours that a hundred machines have in half a year: one of them may be as unusual as an alarm."""

Float64Array = npt.NDArray[np.float64]


def usual_values(
    features: Sequence[Feature],
    values: npt.NDArray[np.floating[Any]],
    machine: npt.NDArray[Any],
    seconds: Float64Array,
    *,
    healthy: npt.NDArray[np.bool_] | None = None,
    off: npt.NDArray[np.bool_] | None = None,
) -> list[Feature]:
    """The features with what is usual for their sensors.

    Args:
        features: f features in the order of the columns.
        values: Shape (n, f), in the features' units; NaN for a missing value.
        machine: Shape (n,), which machine a reading is of; anything that can be compared.
        seconds: Shape (n,), epoch seconds.
        healthy: Shape (n,), readings of sensors that work on machines that are well; None for all.
        off: Shape (n,), readings of machines that stand still; None where there is no such condition.

    Returns:
        The features, each with `usual` (and `usual_off`) where there are enough readings; categories have none.
    """
    order = np.lexsort((seconds, machine))
    healthy = np.ones(len(order), dtype=bool) if healthy is None else healthy
    off = np.zeros(len(order), dtype=bool) if off is None else off
    values, seconds = np.asarray(values, dtype=np.float64)[order], np.asarray(seconds, dtype=np.float64)[order]
    starts = np.r_[True, machine[order][1:] != machine[order][:-1]] if len(order) else np.zeros(0, dtype=bool)
    # A stretch is a machine's readings of one kind in a row: nothing is compared beyond its ends.
    kind = np.where(healthy[order], 1 + off[order].astype(int), 0)
    part = np.cumsum(starts | np.r_[True, kind[1:] != kind[:-1]]) if len(order) else np.zeros(0, dtype=int)
    described = []
    for column, feature in enumerate(features):
        update: dict[str, Any] = {}
        if feature.categories is None:
            for name, which in (("usual", 1), ("usual_off", 2)):
                chosen = kind == which
                if chosen.sum() >= MIN_READINGS:
                    update[name] = _describe(
                        values[chosen, column], seconds[chosen], part[chosen], at_rest=name == "usual_off"
                    )
        described.append(feature.model_copy(update=update) if update else feature)
    described = _with_evidence(described, values, seconds, part, kind)
    return _with_means(described, values, machine[order], seconds, kind == 1)


def _describe(
    values: Float64Array, seconds: Float64Array, part: npt.NDArray[np.intp], *, at_rest: bool
) -> Usual | None:
    there = np.isfinite(values)
    missing = 1.0 - float(there.mean())
    values, seconds, part = values[there], seconds[there], part[there]
    if len(values) < MIN_READINGS:
        return None
    same_part = part[1:] == part[:-1]
    steps = np.diff(seconds)[same_part]
    interval = float(np.median(steps[steps > 0.0])) if (steps > 0.0).any() else 1.0
    repeats = (values[1:] == values[:-1]) & same_part
    longest, longest_seconds = _longest_run(repeats, seconds)
    distinct = np.unique(values)
    edges, shares = _at_rest(distinct) if at_rest else _shares(values, part, distinct)
    return Usual(
        interval_seconds=interval,
        resolution=_resolution(distinct),
        lowest=float(distinct[0]),
        highest=float(distinct[-1]),
        missing_share=round(missing, 6),
        repeat_share=round(float(repeats.sum() / max(1, same_part.sum())), 6),
        longest_run_readings=longest,
        longest_run_seconds=longest_seconds,
        edges=edges,
        shares=shares,
    )


def _longest_run(repeats: npt.NDArray[np.bool_], seconds: Float64Array) -> tuple[int, float]:
    """Most readings in a row with one value, and the longest time over which that was so."""
    if not repeats.any():
        return 1, 0.0
    bounds = np.diff(np.r_[0, repeats.astype(np.int8), 0])
    begins, ends = np.flatnonzero(bounds == 1), np.flatnonzero(bounds == -1)
    return int((ends - begins).max()) + 1, float((seconds[ends] - seconds[begins]).max())


def _resolution(distinct: Float64Array) -> float | None:
    """The step of which all differences are multiples, if it is one of 1, 2 and 5 times a power of ten."""
    if len(distinct) < 2:  # noqa: PLR2004 - one difference
        return None
    differences = np.diff(distinct)
    smallest = float(differences.min())
    for power in range(6, -7, -1):
        for digit in (5.0, 2.0, 1.0):
            step = digit * 10.0**power
            if step <= smallest * (1 + 1e-6) and np.allclose(
                differences / step, np.round(differences / step), atol=0.01
            ):
                return float(f"{step:.1g}")
    return None


def _shares(
    values: Float64Array, part: npt.NDArray[np.intp], distinct: Float64Array
) -> tuple[list[float], list[float]]:
    """How large a share of a machine's readings one value takes, by value."""
    # The edges lie between distinct values, so that a common one is not parted from itself.
    inner = np.unique(np.quantile(distinct, np.linspace(0.0, 1.0, MAX_EDGES - 1), method="lower"))
    edges = np.r_[inner, np.nextafter(distinct[-1], np.inf)]
    found: list[list[float]] = [[] for _ in range(len(edges) + 1)]
    for begin in range(0, len(values) - WINDOW_READINGS // 2, WINDOW_READINGS):
        window = values[begin : begin + WINDOW_READINGS]
        if part[begin] != part[min(begin + WINDOW_READINGS, len(values)) - 1]:
            # A window over a boundary still tells how common a value is in itself, in its longer part.
            inside = part[begin : begin + WINDOW_READINGS]
            most = np.bincount(inside - inside[0]).argmax() + inside[0]
            window = window[inside == most]
            if len(window) < WINDOW_READINGS // 4:
                continue
        held, counts = np.unique(window, return_counts=True)
        place = np.searchsorted(edges, held, side="right")
        for bin_, share in zip(place.tolist(), (counts / len(window)).tolist(), strict=True):
            if share * len(window) > 1.5:  # noqa: PLR2004 - a single value is no recurrence
                found[bin_].append(share)
    shares = [float(np.quantile(one, 0.98)) if one else LEAST_SHARE for one in found]
    # Machines differ: what is usual beside a value is usual there, too. A value of its own (a machine at rest) is not.
    spread = [
        max(share, *(near for near in shares[max(0, place - SPREAD) : place + SPREAD + 1] if near < OWN_SHARE), 0.0)
        for place, share in enumerate(shares)
    ]
    return edges.tolist(), [round(min(share, 1.0), 5) for share in spread]


def _at_rest(distinct: Float64Array) -> tuple[list[float], list[float]]:
    """A machine at rest reports whatever it likes of what machines at rest report; only other values say something."""
    width = float(distinct[-1] - distinct[0])
    return [float(distinct[0]) - width, float(np.nextafter(distinct[-1] + width, np.inf))], [
        LEAST_SHARE,
        1.0,
        LEAST_SHARE,
    ]


def _with_evidence(
    features: Sequence[Feature],
    values: Float64Array,
    seconds: Float64Array,
    part: npt.NDArray[np.intp],
    kind: npt.NDArray[np.intp],
) -> list[Feature]:
    """Let the device's own watch run over healthy readings, and keep the largest evidence that each sensor came to."""
    watch = SensorWatch(features)
    if not watch.active:
        return list(features)
    largest = {1: np.zeros(len(features)), 2: np.zeros(len(features))}
    state, current, before = watch.state(), -1, 0.0
    rows = np.flatnonzero(kind > 0)[:MAX_WATCHED]
    for row, at, one, which in zip(
        values[rows].tolist(), seconds[rows].tolist(), part[rows].tolist(), kind[rows].tolist(), strict=True
    ):
        if one != current:
            state, current, before = watch.state(), one, at
        _, suspicious = watch.look(state, row, at, step=at - before, off=which == 2)  # noqa: PLR2004 - off-time
        before = at
        if suspicious:
            np.maximum(largest[which], state.evidence, out=largest[which])
    updated = []
    for column, feature in enumerate(features):
        update = {
            name: usual.model_copy(update={"evidence": round(float(largest[which][column]), 3)})
            for name, which, usual in (("usual", 1, feature.usual), ("usual_off", 2, feature.usual_off))
            if usual is not None
        }
        updated.append(feature.model_copy(update=update) if update else feature)
    return updated


def _with_means(
    features: Sequence[Feature],
    values: Float64Array,
    machine: npt.NDArray[Any],
    seconds: Float64Array,
    running: npt.NDArray[np.bool_],
) -> list[Feature]:
    """What is usual for each sensor's mean over a time, as the device computes it."""
    named = np.unique(machine)
    # Sampled once a window: {feature: {window: [(period, machine, mean)]}}.
    samples: dict[tuple[int, float], list[tuple[int, int, float]]] = {}
    numeric = [column for column, feature in enumerate(features) if feature.categories is None]
    for number, name in enumerate(named):
        rows = np.flatnonzero((machine == name) & running)
        if len(rows) < MIN_READINGS // 10:
            continue
        at = seconds[rows]
        # As sampled by the device.
        kept = rows[np.r_[True, np.diff(np.floor(at / SAMPLE_SECONDS)) > 0]]
        steps = np.diff(seconds[kept], prepend=seconds[kept[0]])
        for window in MEAN_WINDOWS:
            shares = np.minimum(-np.expm1(-steps / window), MAX_SHARE)
            operating = np.cumsum(np.minimum(steps, MAX_SHARE * MEAN_WINDOWS[0]))
            period = np.floor(seconds[kept] / window).astype(int)
            ends = np.flatnonzero(np.r_[period[1:] != period[:-1], True] & (operating >= KNOWN * window))
            if not len(ends):
                continue
            for column in numeric:
                means = _smoothed(values[kept, column], shares)[ends]
                samples.setdefault((column, window), []).extend(
                    (when, number, mean)
                    for when, mean in zip(period[ends].tolist(), means.tolist(), strict=True)
                    if np.isfinite(mean)
                )
    described = list(features)
    for column in numeric:
        found = [_mean_reference(window, samples.get((column, window), [])) for window in MEAN_WINDOWS]
        references = [reference for reference in found if reference is not None]
        if references:
            described[column] = described[column].model_copy(update={"means": references})
    return described


def _smoothed(values: Float64Array, shares: Float64Array) -> Float64Array:
    """The mean after each sample; values that are missing leave it as it is."""
    result, mean = [], float("nan")
    for value, share in zip(values.tolist(), shares.tolist(), strict=True):
        if not math.isnan(value):
            mean = value if math.isnan(mean) else mean + share * (value - mean)
        result.append(mean)
    return np.array(result)


def _mean_reference(window: float, samples: Sequence[tuple[int, int, float]]) -> MeanReference | None:
    if len(samples) < MIN_MEANS:
        return None
    periods, machines, means = (np.array(part) for part in zip(*samples, strict=True))
    machine_count = len(np.unique(machines))
    centre = float(means.mean())
    # Few machines say little of how much others differ.
    spread = float(means.std(ddof=1)) * (1.0 + 2.0 / machine_count)
    if spread <= 1e-9 * max(1.0, abs(centre)):
        return None
    # Machines that share a period move together as far as the mean over them varies more than independent ones would.
    _, place, together = np.unique(periods, return_inverse=True, return_counts=True)
    sums = np.bincount(place, weights=means - centre)
    enough = together >= MIN_TOGETHER
    common = 0.0
    if enough.sum() >= MIN_TOGETHER:
        observed = float(np.mean((sums[enough] / together[enough]) ** 2))
        alone = float(np.mean(spread**2 / together[enough]))
        common = float(np.sqrt(max(0.0, observed - alone)))
    distances = np.abs(means - centre) / np.hypot(spread, common)
    return MeanReference(
        window_seconds=window,
        mean=round(centre, 6),
        spread=float(f"{spread:.6g}"),
        common=float(f"{common:.6g}"),
        limit=round(_limit(distances), 3),
    )


def _limit(distances: Float64Array) -> float:
    """The distance that one of `EXPECTED_MEANS` is expected to reach, by an exponential tail (peaks over a threshold)."""
    start = float(np.quantile(distances, 1.0 - TAIL_SHARE))
    beyond = distances[distances > start]
    scale = float((beyond - start).mean()) if len(beyond) else 0.0
    reached = start + scale * math.log(TAIL_SHARE * EXPECTED_MEANS)
    return max(LEAST_LIMIT, reached, LIMIT_MARGIN * float(distances.max()))
