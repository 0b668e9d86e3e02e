"""The booster's columns: the table's features, and after them what is computed from each machine's own past.

History is computed from all readings, at the full rate, whichever of them train. Rows may also be withheld from training in
part: a sensor at a time, so that the model learns to do without one that fails, and the whole past, which a machine's first
readings do not have. It never looks at a label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_inference.model.history import Plan
from ml_inference.model.over_time import Derived
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.data import Data
from ml_inference.workbench.training.history import default_plan, history_table, order_of_arrival, usual_windows
from ml_inference.workbench.training.operation import Operation
from ml_inference.workbench.training.request import Request

NO_HISTORY = "none"
AUTO = "auto"
WITHHELD_SENSOR = 0.15
"""Share of the training rows that lack one sensor, where the model is to do without one."""
WITHHELD_PAST = 0.1
"""Share of the training rows that lack the whole past: more than a machine's first readings, so that they are judged well."""

_WINDOW = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|min|m|h|d)?$")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the booster sees.

    Attributes:
        names: Of its columns.
        values: Shape (n, columns), float32; NaN where a machine's past does not say.
        derived: Its last columns.
        plan: Of these; None without history.
        withholdable: Names of the features that the model learns to do without.
        categorical: Names of the features whose values are codes of categories.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    derived: tuple[Derived, ...] = ()
    plan: Plan | None = None
    withholdable: tuple[str, ...] = ()
    categorical: frozenset[str] = frozenset()

    @property
    def types(self) -> list[str]:
        """XGBoost's types of the columns: "c" for categories, "q" for numbers."""
        return ["c" if name in self.categorical else "q" for name in self.names]

    def withheld(self, rows: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.float32]:
        """Training rows, some of them without a sensor or without the past.

        Args:
            rows: Positions.
            seed: Of the draw.

        Returns:
            Shape (rows, columns), a copy.
        """
        values = self.values[rows]
        random = np.random.default_rng(seed)
        features = len(self.names) - len(self.derived)
        if self.withholdable:
            sensor = random.integers(0, len(self.withholdable), len(rows))
            sensor[random.random(len(rows)) >= WITHHELD_SENSOR] = -1
            for number, name in enumerate(self.withholdable):
                own = [self.names.index(name)]
                own += [features + at for at, derived in enumerate(self.derived) if derived.source == name]
                values[np.ix_(sensor == number, own)] = np.nan
        if self.derived:
            values[random.random(len(rows)) < WITHHELD_PAST, features:] = np.nan
        return values


def parse_history(text: str) -> str | tuple[float, ...]:
    """Read `auto`, `none` or windows of time such as `1h,6h,24h`.

    Raises:
        TrainingError: It is something else.
    """
    if text in {AUTO, NO_HISTORY}:
        return text
    windows = []
    for part in text.split(","):
        match = _WINDOW.match(part.strip())
        seconds = float(match["number"]) * _SECONDS[match["unit"] or ""] if match else 0.0
        if seconds <= 0.0:
            raise TrainingError(f"--history {text!r} is neither auto, none nor windows such as 1h,6h,24h")
        windows.append(seconds)
    return tuple(sorted(set(windows)))


def prepare(request: Request, data: Data, operation: Operation, say: Callable[[str], None]) -> Inputs:
    """The inputs that are asked for.

    Args:
        request: What is asked for.
        data: The table.
        operation: What time says of it.
        say: Told what is computed.

    Raises:
        TrainingError: History is asked for where there are no machines or times.
    """
    names = data.choice.names
    withholdable = names if list(request.withholdable) == ["all"] else tuple(request.withholdable)
    unknown = [name for name in withholdable if name not in names]
    if unknown:
        raise TrainingError(f"--withholdable: {unknown[0]!r} is not among the features {', '.join(names[:20])}")
    # What a reading may lack, and what a gateway may withhold, the model learns to do without in the same way.
    lacking = [feature.name for feature in data.choice.features if feature.missing_allowed]
    withholdable = tuple(dict.fromkeys((*withholdable, *lacking)))
    categorical = frozenset(feature.name for feature in data.choice.features if feature.categories)
    plain = Inputs(names, data.values, withholdable=withholdable, categorical=categorical)
    if request.history == NO_HISTORY:
        return plain
    if data.seconds is None or data.machines is None:
        if request.history == AUTO:
            return plain
        raise TrainingError("--history needs machines and times: --time COLUMN, and --group or a column 'equipment_id'")
    machines = np.unique(data.machines, return_inverse=True)[1]
    windows: Sequence[float]
    if isinstance(request.history, str):
        windows = usual_windows(machines, data.seconds, counted=not data.in_seconds)
        if not windows:
            say("the series of readings are too short for a history")
            return plain
    else:
        windows = request.history
    derived = default_plan([name for name in names if name not in categorical], windows, counted=not data.in_seconds)
    say(f"history: {len(derived)} features of the machine's own past, such as {derived[0].name!r}")
    plan = Plan.of(derived, names)
    values = np.empty((len(data.values), len(names) + len(derived)), dtype=np.float32)
    values[:, : len(names)] = data.values
    order = order_of_arrival(machines, data.seconds)
    if order is None:
        history_table(data.values, machines, data.seconds, plan, running=operation.running, out=values[:, len(names) :])
    else:
        say("the rows are not in the order of time; history takes them in the order of time")
        running = None if operation.running is None else operation.running[order]
        past = history_table(data.values[order], machines[order], data.seconds[order], plan, running=running)
        values[order, len(names) :] = past
    columns = (*names, *(one.name for one in derived))
    return Inputs(columns, values, tuple(derived), plan, plain.withholdable, categorical)
