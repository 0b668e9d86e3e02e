"""What to package and what became of it: all that passes between a user's process and the child that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_inference.model.manifest import Feature
from ml_inference.offline.chunks import Dialect


class Request(BaseModel):
    """What to package, and how.

    Attributes:
        source: Absolute path of the booster or the archive.
        label: What the user called the source; kept in the manifest.
        out: Absolute path of the model directory.
        name: Of the model.
        version: Of the model.
        features: In column order; None for the names that the booster holds.
        units: Unit by feature name.
        threshold: Score from which a reading is abnormal.
        classes: Names of the classes of a multi-class model.
        normal_class: The one of them that stands for normal operation.
        data: Absolute paths of the files of a table of readings.
        dialect: How they are written.
        categories: By feature, the texts that stand for its codes, in their order.
        allow_missing: Features that a reading may lack; `all` for each.
        expected: Column of that table with the scores that the model is known to give.
        tolerance: By how much they may differ; relative for scores beyond 1.
        limits_from_data: Whether to take physical limits from the table.
        trees: `best` for the rounds up to the booster's `best_iteration`, where it has one; `all`; or how many rounds.
        member: Path of the booster within an archive.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Path
    label: str
    out: Path
    name: str
    version: str
    features: list[Feature] | None = None
    units: dict[str, str] = Field(default_factory=dict)
    threshold: float | None = None
    classes: list[str] | None = None
    normal_class: str | None = None
    data: list[Path] = Field(default_factory=list)
    dialect: Dialect = Field(default_factory=Dialect)
    categories: dict[str, list[str]] = Field(default_factory=dict)
    allow_missing: list[str] = Field(default_factory=list)
    expected: str | None = None
    tolerance: float = 1e-5
    limits_from_data: bool = False
    trees: Literal["best", "all"] | int = "best"
    member: str | None = None


class Report(BaseModel):
    """What became of it.

    Attributes:
        name: Of the model.
        version: Of the model.
        features: Names in column order.
        objective: The booster's.
        xgboost_version: The version that wrote the booster.
        golden: Number of golden readings.
        notes: What was decided for the user.
        warnings: What the user should look into.
    """

    name: str
    version: str
    features: list[str]
    objective: str
    xgboost_version: str
    golden: int
    notes: list[str]
    warnings: list[str]


class Answer(BaseModel):
    """What the child says: a report, or the reason why there is none."""

    report: Report | None = None
    error: str = ""
