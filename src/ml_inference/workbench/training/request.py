"""What a user asks of a training; the command line fills it in, and nothing else is ever asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from pathlib import Path

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import Condition
from ml_inference.offline.chunks import Dialect
from ml_inference.workbench.training.threshold import Rule

FALSE_ALARMS = 0.15
"""A machine-week, if nobody says otherwise: one a day in a hall of forty-seven machines."""


@dataclass(frozen=True, slots=True)
class Request:
    """A training.

    Attributes:
        data: The table: a file, several, or folders of files.
        label: Its label column.
        features: The user's own list of features; None to choose.
        described: Features with units and limits, from a file.
        exclude: Columns never to use.
        units: Unit by feature name.
        limits: Physical minimum and maximum by feature name.
        group: Column whose values are never in two parts of the split.
        time: Column that tells when a row was measured.
        objective: XGBoost's; None to judge by the label.
        normal_class: The label's value that stands for normal operation.
        rule: How the threshold is chosen; None for F1, or for none with a regression.
        seed: Of every draw.
        threads: Boosters trained at once; 0 for as many as this process may use cores.
        max_trees: Most boosting rounds; a limit for the device's time and memory.
        max_depth: Deepest trees; likewise.
        horizon: How far ahead the label looks, in seconds; None for the present.
        episodes: File with the true episodes; None to take them from the label.
        sensor_fault_label: Column that says where a sensor is broken.
        sensor_fault_values: Its values that say so; empty for all but 0, false and nothing.
        false_alarms: Allowed, a machine-week; chooses smoothing and levels of the alarm. None for no alarm section.
        running: When a machine is in operation; empty for always.
        history: `none`, `auto`, or windows in seconds over which a machine's past becomes features.
        withholdable: Features that the model learns to do without.
        every: Least time between two readings of a machine that train, in seconds; 0 for all.
        dialect: How the files are written.
        zone: Of times without an offset.
        categorical: Columns of text to take as features, whatever else is.
        allow_missing: Features that a reading may lack; `all` for each.
        split: How to hold out rows where neither group nor time says so: `auto`, `rows` or `blocks`.
        label_default: The label of rows of files that have no label column; None to refuse such files.
    """

    data: Path | Sequence[Path]
    label: str
    features: Sequence[str] | None = None
    described: Sequence[Feature] = ()
    exclude: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    group: str | None = None
    time: str | None = None
    objective: str | None = None
    normal_class: str | None = None
    rule: Rule | None = None
    seed: int = 0
    threads: int = 0
    max_trees: int = 500
    horizon: float | None = None
    episodes: Path | None = None
    sensor_fault_label: str | None = None
    sensor_fault_values: Sequence[str] = ()
    false_alarms: float | None = FALSE_ALARMS
    running: Sequence[Condition] = ()
    every: float = 0.0
    history: str | Sequence[float] = "none"
    withholdable: Sequence[str] = ()
    max_depth: int = 9
    dialect: Dialect = field(default_factory=Dialect)
    zone: tzinfo = timezone.utc
    categorical: Sequence[str] = ()
    allow_missing: Sequence[str] = ()
    split: str = "auto"
    label_default: str | None = None

    @property
    def title(self) -> str:
        """What to call the table."""
        first, *others = [self.data] if isinstance(self.data, Path) else self.data
        return first.name + (f" and {len(others)} more" if others else "")
