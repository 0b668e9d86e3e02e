"""When a machine is in operation: reads the condition, applies it to a table, and proposes one where the data show it.

A machine that stands still is not a fault, and what it reports at rest is neither its past nor its baseline. It proposes and
never decides: only the user knows whether the lower mode of a sensor is standstill.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.model.over_time import Condition
from ml_inference.workbench.training import TrainingError

_COMPARISON = re.compile(r"^(?P<feature>.+?)\s*(?P<operator>>=|<=|>|<)\s*(?P<value>[-+]?[\d.]+(?:[eE][-+]?\d+)?)$")
_OPERATORS: Mapping[str, Callable[[Any, float], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}

MIN_SHARE, MAX_SHARE = 0.005, 0.5
"""Share of the readings at rest: rarer may be anything, more than half is no standstill of a machine that works."""
MAX_BETWEEN = 0.002
"""Share of the readings between the two modes: starts and stops, a sensor that fails."""
MAX_REST = 0.2
"""A machine at rest reports less than this part of its median in operation."""
MIN_GAP = 0.3
"""Width of the emptiness between the modes, as a part of the median in operation."""


def parse_running(text: str) -> list[Condition]:
    """Read `wRMSCurrent > 20`, or several such comparisons joined by ` and `.

    Raises:
        TrainingError: It is something else.
    """
    conditions = []
    for part in re.split(r"\s+and\s+", text.strip()):
        match = _COMPARISON.match(part.strip())
        try:
            value = float(match["value"]) if match else np.nan
        except ValueError:
            value = np.nan
        if match is None or not np.isfinite(value):
            raise TrainingError(f"--running {part.strip()!r} is not FEATURE > NUMBER (or >=, <, <=)")
        conditions.append(
            Condition.model_validate(
                {"feature": match["feature"].strip(), "operator": match["operator"], "value": value}
            )
        )
    return conditions


def in_operation(
    conditions: Sequence[Condition], names: Sequence[str], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Which readings are of a machine in operation; a value that is missing says nothing against it.

    Args:
        conditions: All must hold.
        names: f features.
        values: Shape (n, f).

    Returns:
        Shape (n,).

    Raises:
        TrainingError: A condition names no feature.
    """
    running = np.ones(len(values), dtype=bool)
    for condition in conditions:
        if condition.feature not in names:
            raise TrainingError(f"--running: {condition.feature!r} is not among the features {', '.join(names[:20])}")
        column = values[:, list(names).index(condition.feature)].astype(np.float64)
        running &= _OPERATORS[condition.operator](column, condition.value) | np.isnan(column)
    return running


def propose(names: Sequence[str], values: npt.NDArray[np.float32]) -> str | None:
    """The condition that the data suggest: a sensor with two clear modes, the lower one near zero.

    Args:
        names: f features.
        values: Shape (n, f).

    Returns:
        As for `parse_running`; None where no sensor has two such modes. Of several the one with the emptiest gap.
    """
    best: tuple[float, str] | None = None
    for column, name in enumerate(names):
        found = _gap(values[:, column])
        if found is not None and (best is None or found[0] < best[0]):
            best = found[0], f"{name} > {found[1]:g}"
    return best[1] if best else None


def _gap(values: npt.NDArray[np.float32]) -> tuple[float, float] | None:
    """Share of readings within the gap between the modes, and a limit within it; None where there is no gap."""
    known = np.sort(values[np.isfinite(values)].astype(np.float64))
    if len(known) < 100 or known[0] < 0.0:  # noqa: PLR2004 - too few for a share of half a percent; at rest is near zero
        return None
    usual = float(np.median(known))
    if usual <= 0.0:
        return None
    # Between the upper end of what is at rest and the lower end of what works, whatever few readings lie there.
    resting = known[known < MAX_REST * usual]
    if not MIN_SHARE <= len(resting) / len(known) <= MAX_SHARE:
        return None
    low = float(np.quantile(resting, 1.0 - 0.01))
    working = known[known > low + MIN_GAP * usual]
    high = float(np.quantile(working, 0.001)) if len(working) else low
    if high - low < MIN_GAP * usual:
        return None
    limit = float(f"{low + (high - low) / 3:.1g}")
    if not low < limit < high:
        limit = float(f"{low + (high - low) / 3:.3g}")
    between = float(((known > low) & (known < high)).mean()) - 0.01 * len(resting) / len(known)
    return (between, limit) if between <= MAX_BETWEEN + 0.001 * len(working) / len(known) else None
