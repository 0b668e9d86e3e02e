"""From a table to what can be learnt from: features chosen, incomplete rows dropped, the label as numbers.

Rows that lack a value are dropped and counted, since the component rejects such readings: a model must not learn to lean on
gaps that it will never see.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_inference.model.manifest import Feature
from ml_inference.offline.sentinels import suspected
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.features import FeatureChoice, choose_features, matrix
from ml_inference.workbench.training.request import Request
from ml_inference.workbench.training.table import FloatArray, Table, Texts, read_table
from ml_inference.workbench.training.target import Target, canonical, target_of
from ml_inference.workbench.writer import with_missing_values

MACHINE_COLUMN = "equipment_id"
"""What a message calls its machine; readings of one machine are alike, so a table that has it should be split by it."""

MOST_LABELS_LOST = 0.5
"""Share of rows without a label beyond which a training stops: most of the file would say nothing."""
MOST_TIMES_LOST = 0.5
"""Share of rows whose time cannot be read beyond which the column is something else."""


@dataclass(frozen=True, slots=True)
class Data:
    """The complete rows of a table.

    Attributes:
        choice: The features.
        values: Shape (n, f), finite, float32 as the booster sees them.
        target: n labels.
        rows_read: Rows of the file.
        missing: Rows that lack a value, by column; a row may lack several.
        groups: n indices into `machine_names`, if asked for.
        machines: n indices of machines: the group, else `equipment_id`, if there is one.
        machine_names: In alphabetical order.
        seconds: n moments, if asked for.
        in_seconds: Whether `seconds` is in seconds, and not a count.
        files: n files, by number in the order of reading.
        sensor_fault: n flags: whether a sensor is known to be broken; None if nobody said.
    """

    choice: FeatureChoice
    values: npt.NDArray[np.float32]
    target: Target
    rows_read: int
    missing: Mapping[str, int]
    groups: npt.NDArray[np.int32] | None
    machines: npt.NDArray[np.int32] | None
    machine_names: Sequence[str]
    seconds: FloatArray | None
    in_seconds: bool
    files: npt.NDArray[np.int32]
    sensor_fault: npt.NDArray[np.bool_] | None = None

    @property
    def dropped(self) -> int:
        """Rows that lack a value."""
        return self.rows_read - len(self.values)


def load_data(request: Request, say: Callable[[str], None]) -> Data:
    """Read the table, choose the features and drop incomplete rows.

    Args:
        request: What is asked for.
        say: Told what was taken, what was left out and why.

    Raises:
        TrainingError: A column is missing, or too little is left.
    """
    roles = _roles(request)
    times = set() if request.time is None else {request.time}
    texts = {*roles, MACHINE_COLUMN, *request.categorical, *(request.features or ())}
    unneeded = frozenset(request.exclude) - texts - times
    table = read_table(
        request.data,
        texts - times,
        times,
        dialect=request.dialect,
        zone=request.zone,
        needed=lambda name: name not in unneeded,
    )
    for name, role in roles.items():
        if name not in table.names:
            raise TrainingError(f"there is no column {name!r} for {role}; the table has {', '.join(table.names[:20])}")
    for name, found in table.times.items():
        if len(found.unreadable) > MOST_TIMES_LOST * table.rows:
            raise TrainingError(f"the column {name!r} holds no times: {next(iter(found.unreadable.values()))}")
    labels = _labels(table, request)
    choice = choose_features(
        table,
        roles=roles,
        named=request.features,
        described=request.described,
        categorical=request.categorical,
        allow_missing=request.allow_missing,
        exclude=request.exclude,
        units=request.units,
        limits=request.limits,
    )
    choice = replace(choice, features=with_missing_values(choice.features, request.dialect))
    values = matrix(table, choice.features)
    gaps = {feature.name: _lost(values[:, column], table, feature) for column, feature in enumerate(choice.features)}
    lacking = int(sum(np.isnan(values[:, at]).sum() for at, one in enumerate(choice.features) if one.missing_allowed))
    if lacking:
        say(f"{lacking} values are missing where they may be; their rows are used")
    needed = [name for name in roles if name != request.sensor_fault_label]  # nothing in it: no sensor is broken
    gaps |= {
        name: np.isnan(table.times[name].values) if name in times else table.texts[name].missing for name in needed
    }
    gaps[request.label] = np.array([not text for text in labels.values], dtype=bool)[labels.codes]
    missing = {name: int(gap.sum()) for name, gap in gaps.items() if gap.any()}
    rows = np.flatnonzero(~np.any(list(gaps.values()), axis=0))
    _tell(table, choice, missing, len(rows), say)
    _require_labels(request.label, gaps[request.label])
    try:
        target = target_of(
            labels.values, labels.codes[rows], objective=request.objective, normal_class=request.normal_class
        )
    except TrainingError as error:
        raise TrainingError(f"{error}{_because(missing, table.rows)}") from error
    owner = request.group or (MACHINE_COLUMN if MACHINE_COLUMN in table.texts else None)
    owners = None if owner is None else table.texts[owner].ranked()
    machines = None if owners is None else owners.codes[rows]
    time = None if request.time is None else table.times[request.time]
    return Data(
        choice=choice,
        values=values[rows],
        target=target,
        rows_read=table.rows,
        missing=missing,
        groups=None if request.group is None else machines,
        machines=machines,
        machine_names=() if owners is None else owners.values,
        seconds=None if time is None else time.values[rows],
        in_seconds=time is not None and time.in_seconds,
        files=table.files.codes[rows],
        sensor_fault=_sensor_fault(table, request, rows),
    )


def _sensor_fault(table: Table, request: Request, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
    if request.sensor_fault_label is None:
        return None
    texts = [canonical(text) for text in table.texts[request.sensor_fault_label].at(rows).tolist()]
    if not request.sensor_fault_values:
        return np.array([text not in {"", "0"} for text in texts])
    broken = {canonical(value) for value in request.sensor_fault_values}
    unknown = broken - set(texts)
    if unknown:
        raise TrainingError(f"{request.sensor_fault_label!r} is nowhere {min(unknown)!r}")
    return np.array([text in broken for text in texts])


def _lost(values: npt.NDArray[np.float32], table: Table, feature: Feature) -> npt.NDArray[np.bool_]:
    """Rows that a feature makes unusable: without a value, unless it may be missing; and those of which it is no number."""
    gone = ~np.isfinite(values)
    if not feature.missing_allowed:
        return gone
    return gone & table.unreadable.get(feature.name, np.zeros(1, dtype=bool))


def _labels(table: Table, request: Request) -> Texts:
    """The label of each row; a file without the column is refused by name, unless a default is given."""
    label = table.texts[request.label]
    lacking = table.lacking.get(request.label, ())
    if not lacking:
        return label
    if request.label_default is None:
        raise TrainingError(
            f"{lacking[0]} has no column {request.label!r}"
            + (f", nor have {len(lacking) - 1} other files" if len(lacking) > 1 else "")
            + "; leave it out, or say what all of its rows are with --label-default"
        )
    values = (*label.values, request.label_default)
    of_lacking = np.isin(
        table.files.codes, [table.files.values.index(str(file)) for file in lacking if str(file) in table.files.values]
    )
    return Texts(np.where(of_lacking, len(values) - 1, label.codes).astype(np.int32), values)


def _require_labels(name: str, gap: npt.NDArray[np.bool_]) -> None:
    if (lost := int(gap.sum())) > MOST_LABELS_LOST * len(gap):
        raise TrainingError(
            f"the label {name!r} is empty in {lost} of {len(gap)} rows; rows without a label teach nothing. "
            "If an empty cell means normal operation, write that in it"
        )


def _roles(request: Request) -> dict[str, str]:
    roles = {request.label: "the label"}
    others = (
        (request.group, "the group"),
        (request.time, "the time"),
        (request.sensor_fault_label, "the sensor's fault"),
    )
    for name, role in others:
        if name in roles:
            raise TrainingError(f"{name!r} cannot be {roles[name]} and {role}")
        if name:
            roles[name] = role
    return roles


def _tell(
    table: Table, choice: FeatureChoice, missing: Mapping[str, int], kept: int, say: Callable[[str], None]
) -> None:
    files = len(table.files.values)
    say(
        f"{table.rows} rows{f' in {files} files' if files > 1 else ''}, {len(choice.names)} features: {', '.join(choice.names)}"
    )
    for name, reason in choice.left_out:
        say(f"not a feature: {name!r} ({reason})")
    if table.broken_count:
        first = table.broken[0]
        say(
            f"dropped {table.broken_count} broken rows, the first in line {first.line} of {first.file.name}: {first.text}"
        )
    for name, times in table.times.items():
        if times.unreadable:
            problem = next(iter(times.unreadable.values()))
            say(f"dropped {len(times.unreadable)} rows whose {name!r} is no time: {problem}")
    for name in choice.names:
        if odd := table.odd.get(name):
            others = f", and {odd.count - 1} more" if odd.count > 1 else ""
            say(f"dropped rows of which {name!r} is no number: {odd.first}{others}")
        for value, count in suspected(table.numbers[name]) if name in table.numbers else ():
            say(
                f"{name!r} is {value:g} in {count} rows, far from all else: if that stands for a missing value, "
                f"say --missing-value {shlex.quote(f'{name}={value:g}')}"
            )
    if missing:
        most = sorted(missing.items(), key=lambda item: -item[1])[:5]
        say(
            f"dropped {table.rows - kept} rows that lack a value, as the component rejects such readings: "
            + ", ".join(f"{name!r} in {count}{_first(table, name)}" for name, count in most)
        )


def _first(table: Table, name: str) -> str:
    return f" (the first: {table.gaps[name]})" if name in table.gaps else ""


def _because(missing: Mapping[str, int], rows: int) -> str:
    """Where dropping rows took the data away, which column to leave out."""
    most = max(missing, key=lambda name: missing[name], default=None)
    if most is None:
        return ""
    if missing[most] < rows / 4:
        return " (rows that lack a value were dropped; --allow-missing all uses them)"
    return f" ({most!r} is missing in {missing[most]} of {rows} rows: leave it out with --exclude, or use rows with gaps with --allow-missing)"
