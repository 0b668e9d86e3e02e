"""Which columns become the model's inputs, with their units and limits, and why the others do not.

What is left out is always said: a feature that quietly disappears is as bad as a label that quietly stays. Names are the
user's, character by character, since they are the keys of the messages on the device.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from ml_inference.model.manifest import MAX_FEATURES, RESERVED_NAMES, Feature
from ml_inference.times import forms_date
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.table import MAX_DISTINCT_TEXTS, NumberArray, Table
from ml_inference.workbench.training.target import natural

KNOWN_UNITS: Mapping[str, str] = {
    "rVibration_Temp": "degC",
    "rVibration_Z_RMS_Velocity": "mm/s",
    "rVibration_X_RMS_Velocity": "mm/s",
    "wRMSCurrent": "A",
    "wCurrentLoad": "%",
    "wEncoderVelocity": "RPM",
}
"""The six sensors of the cylinder line; their names do not say their units."""

LINE_KEYS = frozenset({"sDateTime", "timeInSeconds"})
"""What messages of the cylinder line carry as a time."""

ALL = "all"
MAX_CATEGORIES = 1_000

_MOSTLY_MISSING = 0.5
_MIN_KNOWN = 0.02
_MOSTLY_STEPS = 0.95
_MIN_STEPS = 20
_FROM, _UNTIL = 631_152_000.0, 4_102_444_800.0
"""The years 1990 to 2100 in seconds since 1970."""
_UNIT = re.compile(r"\[([^\[\]]{1,32})\]\s*$")
_FEATURES = TypeAdapter(list[Feature])


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """The columns that become features, and those that do not.

    Attributes:
        features: In the order of the booster's columns.
        left_out: Pairs of a column and the reason, in the table's order.
    """

    features: tuple[Feature, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features in the booster's column order."""
        return tuple(feature.name for feature in self.features)


def choose_features(
    table: Table,
    *,
    roles: Mapping[str, str],
    named: Sequence[str] | None = None,
    described: Sequence[Feature] = (),
    categorical: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
    exclude: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> FeatureChoice:
    """Choose the features: those named, else those described, else every column of numbers that could be a measurement.

    Args:
        table: The whole table.
        roles: What a column is, by name, where it is no feature: `{"Machine failure": "the label"}`.
        named: The user's own list, in its order.
        described: From a features file, with units and limits.
        categorical: Columns of text that are features; taken beside all columns of numbers, where none are named.
        allow_missing: Features that a reading may lack; `all` for each.
        exclude: Columns never to use.
        units: Unit by feature name; goes before the file's and the name's own.
        limits: Physical minimum and maximum by feature name.

    Raises:
        TrainingError: A column that was asked for is missing or unusable, or nothing is left.
    """
    by_name = {feature.name: feature for feature in described}
    wanted = list(named) if named is not None else list(by_name) or None
    able = [] if list(allow_missing) == [ALL] else allow_missing
    for asked in (*exclude, *(units or {}), *(limits or {}), *(wanted or ()), *categorical, *able):
        if asked not in table.names:
            raise TrainingError(f"there is no column {asked!r}; the table has {_listed(table.names)}")
    left_out = dict.fromkeys(exclude, "excluded")
    if wanted is None:
        for name in table.names:
            if name in left_out:
                continue
            reason = roles.get(name) or (
                None if name in categorical else _unsuitable(table, name, gaps=bool(allow_missing))
            )
            if reason:
                left_out[name] = reason
        wanted = [name for name in table.names if name not in left_out]
    else:
        wanted = [name for name in dict.fromkeys((*wanted, *categorical)) if name not in left_out]
        others = [name for name in table.names if name not in wanted and name not in left_out]
        left_out |= {name: roles.get(name, "not asked for") for name in others}
    _require_usable(table, wanted, roles)
    if not wanted:
        raise TrainingError("no column is left to learn from: " + _reasons(left_out))
    if len(wanted) > MAX_FEATURES:
        raise TrainingError(f"{len(wanted)} features; a model holds at most {MAX_FEATURES}. Name some with --features")
    given = {**{name: table.units[name] for name in table.units if not unit_of(name)}, **(units or {})}
    features = [_feature(name, by_name.get(name), given, limits or {}) for name in wanted]
    texts = {name for name in wanted if name in categorical or name not in table.numbers}
    features = [
        feature.model_copy(
            update={
                "categories": _categories(table, feature) if feature.name in texts else None,
                "missing_allowed": feature.name in able or list(allow_missing) == [ALL],
            }
        )
        for feature in features
    ]
    if unable := [name for name in able if name not in wanted]:
        raise TrainingError(f"--allow-missing: {unable[0]!r} is not among the features {_listed(wanted)}")
    return FeatureChoice(tuple(features), tuple((name, left_out[name]) for name in table.names if name in left_out))


def matrix(table: Table, features: Sequence[Feature]) -> npt.NDArray[np.float32]:
    """The features' values as the booster sees them, shape (n, f)."""
    values = np.empty((table.rows, len(features)), dtype=np.float32)
    for column, feature in enumerate(features):
        values[:, column] = table.numbers[feature.name] if feature.categories is None else _codes(table, feature)
    return values


def _codes(table: Table, feature: Feature) -> npt.NDArray[np.float32]:
    """The number of each row's category; NaN where there is none."""
    texts = table.texts[feature.name]
    number = {text: float(code) for code, text in enumerate(feature.categories or ())}
    return np.array([number.get(text, np.nan) for text in texts.values], dtype=np.float32)[texts.codes]


def _categories(table: Table, feature: Feature) -> list[str]:
    """The texts of a column in their natural order.

    Raises:
        TrainingError: They are names rather than categories, or the feature has limits.
    """
    found = sorted({text for text in table.texts[feature.name].values if text}, key=natural)
    if not found or len(found) > max(MAX_CATEGORIES, 0) or 2 * len(found) > table.rows:
        raise TrainingError(
            f"{feature.name!r} holds {len(found)} different texts in {table.rows} rows: these are no categories"
        )
    if feature.minimum is not None or feature.maximum is not None:
        raise TrainingError(f"{feature.name!r} holds text, which has no limits")
    return found


def read_features_file(path: Path) -> list[Feature]:
    """Read names, units and limits of features.

    Args:
        path: JSON: a list of `{"name": ..., "unit": ..., "minimum": ..., "maximum": ...}`, all but the name optional, or an
            object with such a list as `features`, as a model's `manifest.json` is.

    Raises:
        TrainingError: It is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        features = _FEATURES.validate_json(
            json.dumps(document["features"] if isinstance(document, dict) else document), strict=True
        )
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainingError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{path} is no JSON list of features") from error
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TrainingError(f"{path} names {twice[0]!r} twice")
    # The old model's data is not this one's.
    return [feature.model_copy(update={"histogram": None}) for feature in features]


def unit_of(name: str) -> str:
    """The unit that a name itself gives: that of a known sensor, or a trailing bracket (`Torque [Nm]`); else ""."""
    bracket = _UNIT.search(name)
    return bracket.group(1).strip() if bracket else KNOWN_UNITS.get(name, "")


def _is_identifier(values: NumberArray) -> bool:
    """Whole numbers that never repeat, though there is hardly room: a row number, of all rows or of a part of them.

    n whole numbers drawn from r do not repeat with a probability of about exp(-n^2 / 2r) (the birthday problem); at
    r = n^2 / 40 that is 2e-9.
    """
    ascending = np.sort(values)
    room = max(3 * len(values), len(values) ** 2 / 40)
    whole = bool(np.all(values == np.floor(values)))
    return whole and bool(np.all(np.diff(ascending) > 0)) and bool(ascending[-1] - ascending[0] < room)


def _is_time(values: NumberArray) -> bool:
    """Whether all numbers are times of 1990 to 2100: since 1970 in some unit, or as digits of a date."""
    low, high = float(values.min()), float(values.max())
    if any(_FROM * unit <= low and high < _UNTIL * unit for unit in (1.0, 1e3, 1e6, 1e9)):
        return True
    return forms_date(low) and all(map(forms_date, np.unique(values).tolist()))


def _is_counter(values: NumberArray) -> bool:
    """Whether a column counts in the order of the rows, over the whole table or within each of its runs."""
    steps = np.diff(values.astype(np.float64))
    if len(steps) < _MIN_STEPS:
        return False
    if np.all(steps >= 0) and len(np.unique(values)) >= _MIN_STEPS:
        return True
    rounding = 4 * np.finfo(np.float32).eps * float(np.abs(values).max())
    usual = float(np.median(steps))
    return usual > rounding and bool(np.mean(np.abs(steps - usual) <= rounding) >= _MOSTLY_STEPS)


def _feature(
    name: str, described: Feature | None, units: Mapping[str, str], limits: Mapping[str, tuple[float, float]]
) -> Feature:
    unit = units.get(name) or (described.unit if described else "") or unit_of(name)
    old = (described.minimum, described.maximum) if described else (None, None)
    minimum, maximum = limits.get(name, old)
    try:
        return Feature(name=name, unit=unit, minimum=minimum, maximum=maximum)
    except ValidationError as error:
        raise TrainingError(f"feature {name!r}: {error.errors()[0]['msg']}") from error


def _require_usable(table: Table, wanted: Sequence[str], roles: Mapping[str, str]) -> None:
    for name in wanted:
        if name in roles:
            raise TrainingError(f"{name!r} is {roles[name]} and cannot be a feature, too")
        if name in RESERVED_NAMES:
            raise TrainingError(f"{name!r} cannot be a feature: the message's envelope uses that key")
        if name in table.not_numbers and name not in table.texts:
            raise TrainingError(
                f"{name!r} holds {table.not_numbers[name].first}; features are numbers, as in the messages"
            )


def _unsuitable(table: Table, name: str, *, gaps: bool) -> str | None:
    """Why a column is no feature unless it is asked for."""
    if not name.strip():
        return "it has no name"
    if name in RESERVED_NAMES or name in LINE_KEYS:
        return "belongs to the message's envelope"
    if name not in table.numbers:
        odd = table.not_numbers[name]
        few = len(odd.texts) <= MAX_DISTINCT_TEXTS
        return f"holds {odd.first}, no number" + (f"; to take it in: --categorical {shlex.quote(name)}" if few else "")
    return _worthless(table.numbers[name], gaps=gaps)


def _worthless(values: NumberArray, *, gaps: bool) -> str | None:
    """Why numbers are no measurement to learn from."""
    known = values[~np.isnan(values)]
    if len(known) < (_MIN_KNOWN if gaps else 1.0 - _MOSTLY_MISSING) * len(values) or not len(known):
        return f"missing in {len(values) - len(known)} of {len(values)} rows"
    if _is_time(known):
        return "a time, not a measurement"
    if _is_identifier(known):
        return "whole numbers that never repeat, as row numbers do"
    if _is_counter(known):
        return "only counts on, as a clock or a row number does"
    if np.all(known == known[0]):
        return f"always {known[0]:g}"
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")  # noqa: PLR2004 - a line's worth


def _reasons(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{name!r} {reason}" for name, reason in list(left_out.items())[:8])
