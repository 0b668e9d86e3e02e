"""Numbers that stand for a missing value: -999, 65535, or a 0 that no sensor of that kind ever shows.

A model that takes such a number for a measurement is confidently wrong. It only suspects; whether a number is one is the
user's to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

USUAL = (
    -1.0,
    *(sign * (10.0**digits - 1.0) for digits in (2, 3, 4, 5, 6) for sign in (1, -1)),
    32767.0,
    -32768.0,
    65535.0,
)
"""What programs and protocols write where there is no measurement: nines, and the ends of 16-bit registers."""

_MIN_TIMES = 3
_MIN_OTHERS = 10


def suspected(
    values: npt.NDArray[np.floating[Any]], expected: npt.NDArray[np.floating[Any]] | None = None
) -> list[tuple[float, int]]:
    """Values of a column that are far from all others, and repeat exactly or are a usual stand-in.

    Args:
        values: Shape (n,); NaN is left out.
        expected: Other values of the same feature, such as the thresholds that a booster compares it with; None for the
            column's own.

    Returns:
        Pairs of such a value and how often it is there, the most frequent first.
    """
    known = values[np.isfinite(values)].astype(np.float64)
    found: list[tuple[float, int]] = []
    for _ in range(4):  # several stand-ins hide one another
        distinct, counts = np.unique(known, return_counts=True)
        value = _far_end(distinct, counts, known, expected)
        if value is None:
            break
        found.append((value, int(counts[distinct == value][0])))
        known = known[known != value]
    return sorted(found, key=lambda pair: -pair[1])


def _far_end(
    distinct: npt.NDArray[np.float64],
    counts: npt.NDArray[np.intp],
    known: npt.NDArray[np.float64],
    expected: npt.NDArray[np.floating[Any]] | None,
) -> float | None:
    for at in (0, -1) if len(distinct) else ():
        value, times = float(distinct[at]), int(counts[at])
        others = known[known != value]
        if expected is not None:
            others = np.concatenate((others, expected[np.isfinite(expected)].astype(np.float64)))
        enough = len(np.unique(others)) >= (2 if expected is not None else _MIN_OTHERS)
        if not enough or (times < _MIN_TIMES and value not in USUAL):
            continue
        low, high = float(others.min()), float(others.max())
        away = low - value if value < low else value - high
        # Farther from all others than these are from one another: a fault that runs away leaves values between.
        if away > high - low:
            return value
    return None
