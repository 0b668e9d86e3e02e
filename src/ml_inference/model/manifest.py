"""The manifest of a model directory: what a booster expects, promises and was measured to do.

It is the only thing that knows a model's features: their names, order, units and limits. It is read strictly, since a
field that is silently ignored is a check that silently did not happen. It never touches the booster itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MANIFEST_FILE = "manifest.json"
FORMAT: Literal[1] = 1

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_FEATURES = 2_000
RESERVED_NAMES = frozenset({"equipment_id", "timestamp", "correlation_id", "readings"})
"""Keys of the message's envelope. A feature of that name could not be told from it."""


class ModelError(Exception):
    """A model directory that cannot be trusted to score; the message names the check and the reason."""


class ModelUncheckedError(ModelError):
    """The machine was too busy to finish a check; later it may hold."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]


class _Strict(BaseModel):
    # Strings are not numbers here, and an unknown field is an error: see the module's first paragraph.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Format(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int


class Histogram(_Strict):
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


class Feature(_Strict):
    """One input of the model.

    Attributes:
        name: The key in the message, exactly as the user writes it (spaces and brackets included).
        unit: The physical unit, for people; may be empty.
        minimum: Lowest value the sensor can physically report, in `unit`; a reading below it is rejected.
        maximum: Highest such value.
        histogram: Distribution in the training data, the reference for drift.
    """

    name: str = Field(min_length=1, max_length=256)
    unit: str = Field(default="", max_length=64)
    minimum: Finite | None = None
    maximum: Finite | None = None
    histogram: Histogram | None = None

    @model_validator(mode="after")
    def _limits(self) -> Feature:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"a feature cannot be named {self.name!r}: the message's envelope uses that key")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"feature {self.name!r}: minimum {self.minimum} is not below maximum {self.maximum}")
        return self


class BoosterFile(_Strict):
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


class Golden(_Strict):
    """A reading with the score that the training machine got for it.

    Attributes:
        reading: Value by feature name, in each feature's unit.
        score: The booster's output; a list of class probabilities for `multi:softprob`.
    """

    reading: dict[str, Finite]
    score: Finite | list[Finite]


class Manifest(_Strict):
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
            `classes[normal_class]`. None: the model makes no such statement.
        classes: Names of the classes of a multi-class model, in the booster's order.
        normal_class: Index of the class that stands for normal operation.
        metrics: Figures on held-out data with the size of that data; for people and reports.
        golden: Readings with known scores; at least one, or nothing would notice swapped features.
        source: Where the model came from (a file, a SageMaker archive, a training table); for people.
    """

    format: Literal[1] = FORMAT
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
    source: str = Field(default="", max_length=1_024)

    @field_validator("created")
    @classmethod
    def _iso8601(cls, value: str) -> str:
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            moment = datetime.min  # noqa: DTZ901 - only its missing offset is used
        if moment.tzinfo is None:
            raise ValueError("must be ISO 8601 with an offset, such as 2026-11-22T03:15:00Z")
        return value

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
        return self

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in the booster's column order."""
        return tuple(feature.name for feature in self.features)

    def row(self, reading: Mapping[str, float]) -> list[float]:
        """Values of a reading in column order.

        Args:
            reading: Value by feature name; every feature must be there.
        """
        return [reading[name] for name in self.feature_names]


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
        made_for = FORMAT
    if made_for > FORMAT:
        raise ModelError(
            f"manifest: made for a newer ml-inference (format {made_for}, this one reads format {FORMAT}): "
            "update the component before the model"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}" for item in error.errors()
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
    return manifest.model_dump_json(indent=1, exclude_none=True) + "\n"


def scores_agree(expected: float | list[float], actual: float | list[float], tolerance: float = 1e-5) -> bool:
    """Whether two scores are the same within an absolute tolerance.

    Scores beyond 1 (a regression's) are compared relative to their size, since float32 carries some seven digits.
    """
    left = expected if isinstance(expected, list) else [expected]
    right = actual if isinstance(actual, list) else [actual]
    if isinstance(expected, list) != isinstance(actual, list) or len(left) != len(right):
        return False
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(left, right, strict=True))
