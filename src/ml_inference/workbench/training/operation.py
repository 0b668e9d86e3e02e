"""What time makes of a table: series of machines, episodes, and a label that looks ahead.

A table without machines or times has none of it and loses nothing. It decides which rows can teach: not those whose future is
unknown, and not those of a machine that stands still. It never looks at a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.data import Data
from ml_inference.workbench.training.episodes import (
    EQUIPMENT,
    SENSOR,
    Episode,
    Series,
    forecast_label,
    label_episodes,
    read_episodes,
    series,
    within,
    without_sensor_faults,
)
from ml_inference.workbench.training.request import Request
from ml_inference.workbench.training.running import in_operation, propose
from ml_inference.workbench.training.target import Target, Task


@dataclass(frozen=True, slots=True)
class Operation:
    """A table in operation over time.

    Attributes:
        target: n labels as they are learnt: of the equipment alone, and ahead by the horizon.
        usable: Shape (n,): rows that train, validate and are counted.
        running: Shape (n,): rows of a machine in operation; None without a condition.
        table: All rows by machine and time; None where the table has no machines with times in seconds.
        episodes: Of the equipment and of sensors; empty where the label has no classes.
        onsets_known: Whether they come from a file, with their true onsets.
    """

    target: Target
    usable: npt.NDArray[np.bool_]
    running: npt.NDArray[np.bool_] | None
    table: Series | None
    episodes: Sequence[Episode] = ()
    onsets_known: bool = False


def _proposed(data: Data) -> str | None:
    measured = [at for at, feature in enumerate(data.choice.features) if feature.categories is None]
    return propose([data.choice.names[at] for at in measured], data.values[:, measured])


def operate(request: Request, data: Data, say: Callable[[str], None]) -> Operation:
    """Find out what time says of a table.

    Args:
        request: What is asked for.
        data: The complete rows.
        say: Told what was found.

    Raises:
        TrainingError: The options ask for what the table does not have.
    """
    running = in_operation(request.running, data.choice.names, data.values) if request.running else None
    if running is None and (text := _proposed(data)):
        say(f'a sensor has two clear modes; if the lower one is a machine that stands still: --running "{text}"')
    elif running is not None:
        say(f"{int((~running).sum())} of {len(running)} rows are of a machine that stands still: they teach nothing")
        if not running.any():
            raise TrainingError("--running: no row is of a machine in operation")
    usable = np.ones(len(data.values), dtype=bool) if running is None else running.copy()
    if data.seconds is None or not data.in_seconds or data.machines is None:
        _require_nothing_of_time(request)
        return Operation(data.target, usable, running, None)
    table = series(data.machines, data.seconds, names=data.machine_names)
    if data.target.task is Task.REGRESSION:
        if request.horizon or request.episodes or request.sensor_fault_label:
            raise TrainingError(
                "--horizon, --episodes and --sensor-fault-label belong to classes; the label is a number"
            )
        return Operation(data.target, usable, running, table)
    return _classes(request, data, table, running, say)


def _classes(
    request: Request,
    data: Data,
    table: Series,
    running: npt.NDArray[np.bool_] | None,
    say: Callable[[str], None],
) -> Operation:
    usable = np.ones(len(data.values), dtype=bool) if running is None else running
    target = data.target
    if target.task is not Task.BINARY and (request.horizon or request.sensor_fault_label):
        raise TrainingError("--horizon and --sensor-fault-label need a label of two classes")
    abnormal = target.abnormal[table.rows] > 0
    faulty = None if data.sensor_fault is None else data.sensor_fault[table.rows]
    episodes = [] if request.episodes is None else read_episodes(request.episodes, table.machines)
    if episodes:
        known_faulty = within(table, episodes, SENSOR)
        faulty = known_faulty if faulty is None else faulty | known_faulty
    if faulty is not None:
        own = without_sensor_faults(table, abnormal, faulty)
        say(
            f"a sensor is broken in {int(faulty.sum())} rows; {int((abnormal & ~own).sum())} abnormal labels are its alone"
        )
        abnormal = own
    if request.episodes is None:
        in_table_order = _scattered(table, abnormal)
        broken = None if faulty is None else _scattered(table, faulty)
        episodes = label_episodes(table, in_table_order, horizon=request.horizon or 0.0, sensor_fault=broken)
    if request.horizon:
        abnormal, known = forecast_label(table, abnormal, request.horizon)
        say(f"{int((~known).sum())} rows whose next {request.horizon / 3600.0:g} h are unknown teach nothing")
        usable = usable & _scattered(table, known)
    if request.horizon or faulty is not None:
        values = np.where(_scattered(table, abnormal), 1.0 - float(target.normal or 0), float(target.normal or 0))
        target = replace(target, values=values)
    count = sum(episode.kind == EQUIPMENT for episode in episodes)
    say(f"{count} episodes of {len(table.machines)} machines, a reading every {table.step:g} s")
    return Operation(target, usable, running, table, tuple(episodes), onsets_known=request.episodes is not None)


def _scattered(table: Series, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """From the series' order to the table's."""
    result = np.empty_like(flags)
    result[table.rows] = flags
    return result


def _require_nothing_of_time(request: Request) -> None:
    asked = [
        option
        for option, value in (
            ("--horizon", request.horizon),
            ("--episodes", request.episodes),
            ("--sensor-fault-label", request.sensor_fault_label),
        )
        if value
    ]
    if asked:
        raise TrainingError(
            f"{asked[0]} needs machines and times in seconds: --time COLUMN, and --group or a column 'equipment_id'"
        )
