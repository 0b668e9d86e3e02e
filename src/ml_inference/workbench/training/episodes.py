"""The episodes of a table: from when until when a machine was at fault, and since when a forecast of it is right.

Where the true onsets are known (a simulator's truth, a maintenance log) they come from a file; where they are not, an
episode is a stretch of abnormal label, and an alarm up to one horizon before it is right. Episodes of a broken sensor
are kept apart: they say nothing about the machine. It never looks at a score.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.times import TimeError, parse_time
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.table import FloatArray

GAP_STEPS = 10.0
"""A pause of more than so many usual steps ends a series: nobody knows what was in between."""
FLICKER_STEPS = 3
"""So few normal labels in a row do not end an episode: they are noise of the label, not a repair."""

SENSOR = "sensor"
EQUIPMENT = "equipment"
KINDS = (EQUIPMENT, SENSOR)


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault of one machine; moments in seconds, as the table's times.

    Attributes:
        machine: Whose.
        onset: From here on an alarm is right.
        label: First moment that the label calls abnormal; None where it never does.
        full: When the fault had grown to its peak; None where nobody knows.
        repair: Last moment at which an alarm may open and be right.
        kind: `equipment`, or `sensor` for a fault of a sensor alone.
        fault: Its name; "" where it has none.
    """

    machine: str
    onset: float
    label: float | None
    full: float | None
    repair: float
    kind: str = EQUIPMENT
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of a table by machine, in the order of time.

    Attributes:
        rows: Shape (n,): positions in the table, ascending by machine, then by time.
        seconds: Shape (n,): their moments.
        bounds: Shape (m + 1,): machine k has `rows[bounds[k]:bounds[k + 1]]`.
        machines: Names of the m machines.
        step: Median time between two readings of one machine, in seconds; 0 if no machine has two.
    """

    rows: npt.NDArray[np.intp]
    seconds: FloatArray
    bounds: npt.NDArray[np.intp]
    machines: tuple[str, ...]
    step: float

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Each machine with the place of its readings."""
        for name, begin, end in zip(self.machines, self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True):
            yield name, slice(begin, end)

    @property
    def begins(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): whether a reading is the first of its machine, or the first after a long pause."""
        first = np.ones(len(self.rows), dtype=bool)
        first[1:] = np.diff(self.seconds) > GAP_STEPS * max(self.step, 1e-9)
        first[self.bounds[:-1]] = True
        return first

    def observed(self, part: slice) -> float:
        """Seconds over which a machine was observed: its usual step for each reading that has a neighbour in time.

        Args:
            part: Of `parts`.
        """
        steps = np.diff(self.seconds[part])
        return float(steps[steps <= GAP_STEPS * max(self.step, 1e-9)].sum())


def series(
    machines: npt.NDArray[Any],
    seconds: FloatArray,
    rows: npt.NDArray[np.intp] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Series:
    """Sort rows by machine and time.

    Args:
        machines: Shape (n,), names, or indices into `names`.
        seconds: Shape (n,), moments.
        rows: Positions to take; None for all.
        names: Of the machines.
    """
    chosen = np.arange(len(seconds)) if rows is None else rows
    present, codes = np.unique(machines[chosen], return_inverse=True)
    order = np.lexsort((seconds[chosen], codes))
    moments, owners = seconds[chosen][order], codes[order]
    steps = np.diff(moments)[owners[1:] == owners[:-1]]
    bounds = np.searchsorted(owners, np.arange(len(present) + 1))
    step = float(np.median(steps)) if len(steps) else 0.0
    named = present.tolist() if names is None else [names[one] for one in present.tolist()]
    return Series(chosen[order], moments, bounds, tuple(named), step)


def label_episodes(
    table: Series,
    abnormal: npt.NDArray[np.bool_],
    *,
    horizon: float = 0.0,
    sensor_fault: npt.NDArray[np.bool_] | None = None,
) -> list[Episode]:
    """Stretches of abnormal label, and of a broken sensor.

    Args:
        table: The rows.
        abnormal: Shape (n,), in the table's own order of rows, not the series'.
        horizon: How long before its label an episode may be forecast, in seconds.
        sensor_fault: Shape (n,): where a sensor is known to be broken.
    """
    found = []
    for kind, flags in ((EQUIPMENT, abnormal), (SENSOR, sensor_fault)):
        if flags is None:
            continue
        chosen, begins = flags[table.rows], table.begins
        for name, part in table.parts():
            for run in _runs(chosen[part], begins[part]):
                first, last = (float(table.seconds[part][at]) for at in (run.start, run.stop - 1))
                early = horizon if kind == EQUIPMENT else 0.0
                found.append(Episode(name, first - early, first, None, last, kind))
    return found


def read_episodes(path: Path, machines: Sequence[str]) -> list[Episode]:
    """Read the true episodes.

    Args:
        path: JSON lines or CSV with `equipment_id`, `onset` and `repair`, and where they are known `label`, `full`, `kind`
            (`equipment` or `sensor`) and `fault`; moments as in a table's time column.
        machines: Names of the table's machines; episodes of others are left out.

    Raises:
        TrainingError: It cannot be read, or an episode lacks what it needs; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 (byte {error.start})") from error
    known = set(machines)
    episodes = [_episode(fields, f"{path}, line {line}") for line, fields in _lines(text, path)]
    chosen = [episode for episode in episodes if episode.machine in known]
    if episodes and not chosen:
        raise TrainingError(f"{path}: none of its machines ({episodes[0].machine!r}, ...) is in the table")
    return chosen


def _lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text.splitlines()
    if not text.lstrip().startswith("{"):
        yield from enumerate(csv.DictReader(lines), start=2)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise TrainingError(f"{path}, line {number} is not a JSON object")
        yield number, fields


def _episode(fields: Mapping[str, Any], where: str) -> Episode:
    def moment(key: str, *, needed: bool) -> float | None:
        value = fields.get(key)
        if value in (None, ""):
            if needed:
                raise TrainingError(f"{where}: {key!r} is missing")
            return None
        try:
            return parse_time(value).timestamp()
        except TimeError as error:
            raise TrainingError(f"{where}: {key!r}: the time {value!r} {error}") from error

    onset, repair = moment("onset", needed=True), moment("repair", needed=True)
    machine, kind = fields.get("equipment_id"), fields.get("kind") or EQUIPMENT
    if not isinstance(machine, str):
        raise TrainingError(f"{where}: 'equipment_id' is missing")
    if kind not in KINDS:
        raise TrainingError(f"{where}: 'kind' is {kind!r}, neither of {', '.join(KINDS)}")
    assert onset is not None  # noqa: S101 - needed
    assert repair is not None  # noqa: S101 - needed
    if repair < onset:
        raise TrainingError(f"{where}: 'repair' is before 'onset'")
    return Episode(
        machine=machine,
        onset=onset,
        label=moment("label", needed=False),
        full=moment("full", needed=False),
        repair=repair,
        kind=kind,
        fault=str(fields.get("fault") or ""),
    )


def within(table: Series, episodes: Sequence[Episode], kind: str) -> npt.NDArray[np.bool_]:
    """Which readings lie in an episode of a kind.

    Returns:
        Shape (n,), in the series' order.
    """
    inside = np.zeros(len(table.rows), dtype=bool)
    places = dict(table.parts())
    for episode in episodes:
        if episode.kind == kind and (part := places.get(episode.machine)) is not None:
            first = int(np.searchsorted(table.seconds[part], episode.onset, side="left"))
            last = int(np.searchsorted(table.seconds[part], episode.repair, side="right"))
            inside[part][first:last] = True
    return inside


def forecast_label(
    table: Series, abnormal: npt.NDArray[np.bool_], horizon: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The label of a forecast: abnormal now, or at some time within the horizon.

    Args:
        table: The rows.
        abnormal: Shape (n,), in the series' order.
        horizon: In seconds.

    Returns:
        The label and whether it is known, shape (n,) each, in the series' order. It is not known where the readings end, or
        pause for long, before the horizon and nothing abnormal is seen until then.
    """
    label = np.zeros(len(abnormal), dtype=bool)
    known = np.zeros(len(abnormal), dtype=bool)
    edges = np.append(np.flatnonzero(table.begins), len(abnormal))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        moments, now = table.seconds[begin:end], abnormal[begin:end]
        following = np.append(np.where(now, moments, np.inf), np.inf)
        # For each reading the next abnormal moment from it on.
        upcoming = np.minimum.accumulate(following[::-1])[::-1][:-1]
        label[begin:end] = upcoming <= moments + horizon
        known[begin:end] = label[begin:end] | (moments + horizon <= moments[-1])
    return label, known


def _runs(chosen: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]) -> list[slice]:
    """Stretches of neighbouring chosen readings of one machine without a long pause or more than a flicker between them."""
    starts = np.flatnonzero(chosen & (begins | ~np.append(False, chosen[:-1])))
    ends = np.flatnonzero(chosen & (np.append(begins[1:], True) | ~np.append(chosen[1:], False))) + 1
    runs: list[slice] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if runs and start - runs[-1].stop < FLICKER_STEPS and not begins[runs[-1].stop : start + 1].any():
            runs[-1] = slice(runs[-1].start, end)
        else:
            runs.append(slice(start, end))
    return runs


def without_sensor_faults(
    table: Series, abnormal: npt.NDArray[np.bool_], sensor_fault: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """The label of the machine alone: a stretch of it that begins and ends within a sensor's fault is the sensor's.

    A stretch that reaches beyond the sensor's fault is the machine's, whose sensor broke at the time.

    Args:
        table: The rows.
        abnormal: Shape (n,), in the series' order.
        sensor_fault: Likewise.
    """
    own: npt.NDArray[np.bool_] = abnormal.copy()
    for run in _runs(abnormal, table.begins):
        if sensor_fault[run].all():
            own[run] = False
    return own
