"""The manifest of a model directory: what a booster expects, promises and was measured to do.

It is the only thing that knows a model's features: their names, order, units and limits. It is read strictly, since a
field that is silently ignored is a check that silently did not happen. It never touches the booster itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml_inference.logs import escaped
from ml_inference.model.fields import Finite, Strict, Value
from ml_inference.model.over_time import (
    Alarm,
    Condition,
    Consistency,
    Derived,
    GoldenSequence,
    MeanReference,
    Seconds,
    Usual,
    with_offset,
)

MANIFEST_FILE = "manifest.json"
FORMAT = 2
"""The newest format that is read. What needs none of its fields is written in format 1, which older components read, too."""

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_FEATURES = 2_000
RESERVED_NAMES = frozenset({"equipment_id", "timestamp", "correlation_id", "readings"})
"""Keys of the message's envelope. A feature of that name could not be told from it."""


class ModelError(Exception):
    """A model directory that cannot be trusted to score; the message names the check and the reason."""


class ModelCheckDeferredError(ModelError):
    """The machine was too busy to finish a check; later it may hold."""


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]


class _Format(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int


class Histogram(Strict):
    """The distribution of one feature in the training data.

    Attributes:
        edges: Bin edges in the feature's unit, ascending; one more than `counts`.
        counts: Number of training readings in each bin.
    """

    edges: list[Finite] = Field(min_length=2, max_length=257)
    counts: list[Annotated[int, Field(ge=0, le=2**53)]] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _shape(self) -> Histogram:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"a histogram of {len(self.counts)} counts needs {len(self.counts) + 1} edges")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of a histogram must ascend")
        return self


class Feature(Strict):
    """One input of the model.

    Attributes:
        name: The key in the message, exactly as the user writes it (spaces and brackets included).
        unit: The physical unit, for people; may be empty.
        minimum: Lowest value the sensor can physically report, in `unit`; a reading below it is rejected.
        maximum: Highest such value.
        histogram: Distribution in the training data, for people and tools.
        missing_allowed: Whether a reading may lack it (null or absent): the model was trained on such readings.
        withholdable: Whether the model was trained to do without it, should its sensor be faulty.
        missing_values: Numbers that a sensor sends where it has no measurement, such as -999: they count as missing.
        categories: The texts that stand for its values, in the order of the booster's codes (0, 1, ...); None for a number.
        usual: What is usual for its sensor while the machine runs.
        means: What is usual for its mean over a time, the reference for drift.
        usual_off: What is usual for it in off-time, where the manifest has a `running` condition.
    """

    name: str = Field(min_length=1, max_length=256)
    unit: str = Field(default="", max_length=64)
    minimum: Finite | None = None
    maximum: Finite | None = None
    histogram: Histogram | None = None
    missing_allowed: bool = False
    withholdable: bool = False
    missing_values: list[Finite] = Field(default_factory=list, max_length=16)
    categories: list[Annotated[str, Field(max_length=256)]] | None = Field(
        default=None, min_length=1, max_length=10_000
    )
    usual: Usual | None = None
    usual_off: Usual | None = None
    means: list[MeanReference] | None = Field(default=None, min_length=1, max_length=8)

    @model_validator(mode="after")
    def _limits(self) -> Feature:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"a feature cannot be named {self.name!r}: the message's envelope uses that key")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"feature {self.name!r}: minimum {self.minimum} is not below maximum {self.maximum}")
        if self.categories is not None:
            if len(set(self.categories)) < len(self.categories):
                raise ValueError(f"feature {self.name!r}: a category is named twice")
            if self.minimum is not None or self.maximum is not None:
                raise ValueError(f"feature {self.name!r}: categories have no minimum and no maximum")
        return self

    def number(self, value: Value) -> float:
        """A value as the booster takes it: the code of a category, NaN for one that is missing.

        Raises:
            KeyError: There is no such category.
        """
        if value is None:
            return math.nan
        if isinstance(value, str):
            try:
                return float((self.categories or []).index(value))
            except ValueError:
                raise KeyError(value) from None
        return value

    def value(self, number: float) -> Value:
        """The reverse of `number`: the text of a category, None for NaN."""
        if math.isnan(number):
            return None
        return number if self.categories is None else self.categories[int(number)]


class BoosterFile(Strict):
    """The booster beside the manifest: a plain file name and the SHA-256 of its content in lower-case hexadecimal."""

    file: FileName
    sha256: Sha256

    @field_validator("file")
    @classmethod
    def _format(cls, value: str) -> str:
        if not value.endswith((".ubj", ".json")) or value == MANIFEST_FILE:
            raise ValueError(
                "a booster file ends in .ubj or .json (pickles and the old binary format are never loaded)"
            )
        return value


class Golden(Strict):
    """A reading with the score that the training machine got for it.

    Attributes:
        reading: Value by feature name, in each feature's unit.
        score: The booster's output; a list of class probabilities for `multi:softprob`.
    """

    reading: dict[str, Value]
    score: Finite | list[Finite]


class Manifest(Strict):
    """Everything about a model that its booster file does not say.

    Attributes:
        format: Version of this schema.
        name: Name of the model, as in results.
        version: Version of the model, as in results.
        created: When it was trained or packaged (ISO 8601 with an offset).
        objective: The booster's objective, such as `binary:logistic`.
        booster: The booster file and its checksum.
        xgboost_version: Version that wrote the booster. A newer booster on an older xgboost gives silently wrong scores.
        features: The inputs, in the booster's column order.
        threshold: A score at or above it is abnormal; for a multi-class model the probability of not being
            `classes[normal_class]`. None: the model defines no threshold.
        classes: Names of the classes of a multi-class model, in the booster's order.
        normal_class: Index of the class that stands for normal operation.
        metrics: Figures on held-out data with the size of that data; for people and reports.
        golden: Readings with known scores; at least one, or nothing would notice swapped features. Each counts as the first
            one of its machine, so derived features are missing.
        alarm: How a machine's scores become an alarm; None for the debounced verdicts of single readings.
        horizon_seconds: The score is the probability that the machine is or becomes abnormal within this time; None for
            a model that judges the present.
        running: A machine is in operation while all of these hold; None: always.
        derived: Features from the machine's own past; the booster's columns after `features`.
        consistency: How the sensors of a machine that is well change together.
        golden_sequences: Readings in order with known scores, which guard the derived features.
        source: Where the model came from (a file, a SageMaker archive, a training table); for people.
    """

    format: Literal[1, 2] = 1
    name: Identifier
    version: Identifier
    created: str
    objective: str = Field(min_length=1, max_length=64)
    booster: BoosterFile
    xgboost_version: str = Field(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}")
    features: list[Feature] = Field(min_length=1, max_length=MAX_FEATURES)
    threshold: Finite | None = None
    classes: list[str] | None = Field(default=None, min_length=2)
    normal_class: int | None = Field(default=None, ge=0)
    metrics: dict[str, Any] = Field(default_factory=dict)
    golden: list[Golden] = Field(min_length=1, max_length=1_000)
    alarm: Alarm | None = None
    horizon_seconds: Seconds | None = None
    running: list[Condition] | None = Field(default=None, min_length=1, max_length=16)
    derived: list[Derived] = Field(default_factory=list, max_length=MAX_FEATURES)
    consistency: Consistency | None = None
    golden_sequences: list[GoldenSequence] = Field(default_factory=list, max_length=100)
    source: str = Field(default="", max_length=1_024)

    @field_validator("created")
    @classmethod
    def _iso8601(cls, value: str) -> str:
        return with_offset(value)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"features named twice: {twice}")
        if self.normal_class is not None and (self.classes is None or self.normal_class >= len(self.classes)):
            raise ValueError("normal_class must be an index into classes")
        for number, golden in enumerate(self.golden):
            if set(golden.reading) != set(names):
                different = sorted(set(golden.reading) ^ set(names))
                raise ValueError(f"golden[{number}].reading and features differ in {different[:5]}")
            self._check_values(golden.reading, f"golden[{number}].reading")
        self._check_over_time(set(names))
        if self.format == 1 and self.needs_format_2:
            raise ValueError("a manifest of format 1 holds nothing of format 2")
        return self

    def _check_over_time(self, names: set[str]) -> None:
        if self.alarm is not None and (self.classes is not None or self.objective != "binary:logistic"):
            raise ValueError("alarm: needs a binary:logistic objective, whose score is a probability")
        for condition in self.running or ():
            if condition.feature not in names:
                raise ValueError(f"running: there is no feature {condition.feature!r}")
        taken = set(names)
        for derived in self.derived:
            if derived.source not in names:
                raise ValueError(f"derived {derived.name!r}: there is no feature {derived.source!r}")
            if derived.name in taken:
                raise ValueError(f"derived {derived.name!r}: the name is taken")
            taken.add(derived.name)
        for number, sequence in enumerate(self.golden_sequences):
            for place, reading in enumerate(sequence.readings):
                where = f"golden_sequences[{number}].readings[{place}].values"
                if set(reading.values) != names:
                    raise ValueError(f"{where} and features differ in {sorted(set(reading.values) ^ names)[:5]}")
                self._check_values(reading.values, where)

    @model_validator(mode="after")
    def _compared(self) -> Manifest:
        unknown = set(self.consistency.features if self.consistency else ()) - set(self.feature_names)
        if unknown:
            raise ValueError(f"consistency: there is no feature {min(unknown)!r}")
        return self

    def _check_values(self, values: Mapping[str, Value], where: str) -> None:
        for feature in self.features:
            value = values[feature.name]
            if isinstance(value, str) and value not in (feature.categories or ()):
                raise ValueError(f"{where}: {feature.name!r} has no category {value!r}")
            if isinstance(value, float | int) and not (
                (feature.minimum is None or value >= feature.minimum)
                and (feature.maximum is None or value <= feature.maximum)
            ):
                raise ValueError(f"{where}: {feature.name!r} is {value:g}, outside the feature's own limits")
            if value is None and not (feature.missing_allowed or feature.withholdable):
                raise ValueError(f"{where}: {feature.name!r} must not be missing")

    @property
    def needs_format_2(self) -> bool:
        """Whether it says anything that a component reading only format 1 could not know."""
        return (
            any(part is not None for part in (self.alarm, self.horizon_seconds, self.running, self.consistency))
            or bool(self.derived or self.golden_sequences)
            or any(
                feature.missing_allowed
                or feature.withholdable
                or feature.missing_values
                or any(
                    part is not None for part in (feature.categories, feature.usual, feature.usual_off, feature.means)
                )
                for feature in self.features
            )
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, which a reading brings, in the booster's column order."""
        return tuple(feature.name for feature in self.features)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all of the booster's columns: the features, then the derived ones."""
        return (*self.feature_names, *(derived.name for derived in self.derived))

    def row(self, reading: Mapping[str, Value]) -> list[float]:
        """A booster's row of a reading without a past: its values in column order, NaN for what is missing or derived.

        Args:
            reading: Value by feature name; every feature must be there.
        """
        values = [feature.number(reading[feature.name]) for feature in self.features]
        return values + [math.nan] * len(self.derived)


def booster_feature_name(name: str) -> str:
    """The name a booster can hold for a feature.

    XGBoost refuses `[`, `]` and `<` in feature names; they are percent-encoded, and `%` with them, so that two different
    names never become one.
    """
    for character in "%[]<":
        name = name.replace(character, f"%{ord(character):02X}")
    return name


def parse_manifest(data: bytes | str) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ModelError: Not JSON, of a newer format, or a field is missing, unknown or wrong; the message names the field and
            the rule.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError(f"manifest: larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        # The format comes first: a newer one may break every other rule, and only its number says what to do.
        made_for = _Format.model_validate_json(data).format
    except ValidationError:
        made_for = FORMAT  # whatever it is, the whole manifest's validation names it
    if made_for > FORMAT:
        raise ModelError(
            f"manifest: made for a newer ml-inference (format {made_for}, this one reads formats 1 and 2): "
            "update the component before the model"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(escaped(part) for part in item['loc']) or 'manifest'}: {item['msg']}" for item in error.errors()
        ]
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""  # noqa: PLR2004 - enough to act on
        raise ModelError(f"manifest: {'; '.join(problems[:5])}{more}") from error


def read_manifest(directory: Path) -> Manifest:
    """Read `manifest.json` of a model directory; see `parse_manifest`."""
    return parse_manifest(read_manifest_bytes(directory))


def read_manifest_bytes(directory: Path) -> bytes:
    """The exact bytes of `manifest.json`: what a signature covers.

    Raises:
        ModelError: It cannot be read, or is too large.
    """
    return read_file(directory / MANIFEST_FILE, MAX_MANIFEST_BYTES, "manifest")


def read_file(path: Path, limit: int, what: str) -> bytes:
    """Read a whole file of a model directory.

    Args:
        path: A regular file: opening a named pipe would wait for ever.
        limit: Most bytes that it may hold.
        what: Begins the message of an error.

    Raises:
        ModelError: It is not a regular file, cannot be read, or is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{what}: {path} is not a file")
        with path.open("rb") as file:
            # Not `limit`: a buffer of the size asked for is reserved before anything is read.
            data = file.read(min(limit, path.stat().st_size) + 1)
    except OSError as error:
        raise ModelError(f"{what}: cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise ModelError(f"{what}: {path} is larger than {limit} bytes")
    return data


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as JSON for a file, with unset optional fields left out."""
    document = _without_unset(manifest.model_dump(mode="json"))
    for feature in document["features"]:
        if not feature["missing_values"]:
            del feature["missing_values"]
    if manifest.format == 1:
        # What only format 2 knows, and is not None where it is not set.
        for key in ("derived", "golden_sequences"):
            del document[key]
        for feature in document["features"]:
            del feature["missing_allowed"], feature["withholdable"]
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_READINGS = frozenset({"reading", "values"})
"""Keys of readings, in which null is a missing value and not an unset field."""


def _without_unset(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: value if key in _READINGS else _without_unset(value)
            for key, value in part.items()
            if value is not None
        }
    return [_without_unset(item) for item in part] if isinstance(part, list) else part


def scores_agree(expected: float | list[float], actual: float | list[float], tolerance: float = 1e-5) -> bool:
    """Whether two scores are the same within an absolute tolerance.

    Scores beyond 1 (a regression's) are compared relative to their size, since float32 carries some seven digits.
    """
    left = expected if isinstance(expected, list) else [expected]
    right = actual if isinstance(actual, list) else [actual]
    if isinstance(expected, list) != isinstance(actual, list) or len(left) != len(right):
        return False
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(left, right, strict=True))
