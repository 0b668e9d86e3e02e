"""What a manifest says of a model in operation over time: alarms, off-time, history, and what is usual for each sensor.

Only the data's shape and its own rules; what is done with it stands in `ml_inference.monitoring`. All of it came with format 2
of the manifest, and all of it is optional.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, field_validator, model_validator

from ml_inference.model.fields import Finite, Interval, NotNegative, Positive, Share, Strict, Value

LONGEST_SECONDS = 400 * 86_400.0
"""Longest window, horizon or time constant: a little over a year."""

MAX_COMPARED = 32
"""Most sensors of a machine that are compared with one another: the work grows with their square."""

Statistic: TypeAlias = Literal["mean", "std", "slope", "shift", "deviation"]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)]


class MeasuredAlarms(Strict):
    """What the alarm's settings gave on held-out data; for people, and for the device's comparison with its own rate.

    Every figure is optional. `..._interval` is its 95 % confidence interval, lower end first.

    Attributes:
        interval_seconds: Median time between two readings of a machine in that data.
        episodes: Abnormal episodes in it.
        machines: Machines in it.
        machine_weeks: Operating time in it, all machines together.
        false_alarms_per_machine_week: Alarms that opened outside any episode.
        noticed: Share of the episodes during which an alarm was open.
        before_label: Share of the episodes whose alarm opened before their label.
        median_lead_seconds: Median time from the opening of the alarm to the fault's full degree, where that is known.
        median_lead_to_label_seconds: Median time from the opening of the alarm to the label; negative if after it.
        alarms_per_episode: Median number of alarms that opened during an episode.
    """

    interval_seconds: Positive | None = None
    episodes: Annotated[int, Field(ge=0)] | None = None
    machines: Annotated[int, Field(ge=0)] | None = None
    machine_weeks: NotNegative | None = None
    false_alarms_per_machine_week: NotNegative | None = None
    false_alarms_per_machine_week_interval: Interval | None = None
    noticed: Share | None = None
    noticed_interval: Interval | None = None
    before_label: Share | None = None
    before_label_interval: Interval | None = None
    median_lead_seconds: Finite | None = None
    median_lead_seconds_interval: Interval | None = None
    median_lead_to_label_seconds: Finite | None = None
    median_lead_to_label_seconds_interval: Interval | None = None
    alarms_per_episode: NotNegative | None = None


class Alarm(Strict):
    """How a machine's scores become an alarm.

    Attributes:
        smoothing_seconds: Time constant of the smoothed log-odds.
        open_score: An alarm opens when the smoothed score reaches it.
        close_score: It closes when the smoothed score falls below it; at most `open_score`.
        measured: What this gave on held-out data.
    """

    smoothing_seconds: Seconds
    open_score: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    close_score: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    measured: MeasuredAlarms = MeasuredAlarms()

    @model_validator(mode="after")
    def _ordered(self) -> Alarm:
        if self.close_score > self.open_score:
            raise ValueError(f"close_score {self.close_score} is above open_score {self.open_score}")
        return self


class Condition(Strict):
    """A comparison of a feature with a number, such as `wRMSCurrent > 20`."""

    feature: str
    operator: Literal[">", ">=", "<", "<="]
    value: Finite


class Derived(Strict):
    """A feature that is computed from a machine's own past; `ml_inference.model.history` defines how.

    Attributes:
        name: Its name in the booster; explanations name its source.
        source: The feature that it is computed from.
        statistic: `mean` and `std` (standard deviation) over the window; `slope`: the mean over a quarter of the window less
            the mean over the window; `shift`: the mean over the window less the machine's own baseline; `deviation`: that
            in spreads of the baseline. All but `deviation` are in the source's unit.
        window_seconds: Time constant of the window: the weight of the past falls to 1/e over it. In the unit of the time,
            where that is a count.
    """

    name: str = Field(min_length=1, max_length=256)
    source: str
    statistic: Statistic
    window_seconds: Seconds


class TimedReading(Strict):
    """One reading of a golden sequence.

    Attributes:
        timestamp: ISO 8601 with an offset.
        values: Value by feature name; None for one that the reading lacks.
    """

    timestamp: str
    values: dict[str, Value]

    @field_validator("timestamp")
    @classmethod
    def _iso8601(cls, value: str) -> str:
        return with_offset(value)

    @property
    def seconds(self) -> float:
        """The timestamp in seconds since the epoch."""
        return datetime.fromisoformat(self.timestamp.replace("Z", "+00:00")).timestamp()


class GoldenSequence(Strict):
    """Readings of one machine in order, from its very first one, with the scores that the training machine got.

    Attributes:
        equipment_id: The machine, for people.
        readings: In the order in which they arrived.
        scores: One for each reading; a list of class probabilities for `multi:softprob`.
    """

    equipment_id: str = ""
    readings: list[TimedReading] = Field(min_length=1, max_length=10_000)
    scores: list[Finite | list[Finite]] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _paired(self) -> GoldenSequence:
        if len(self.readings) != len(self.scores):
            raise ValueError(f"{len(self.readings)} readings and {len(self.scores)} scores")
        return self


class Usual(Strict):
    """What is usual for one sensor of a healthy machine; the reference of the sensor watch.

    How often a value recurs depends on the value: a machine at rest reports few different ones. So the shares stand by
    value, between `edges`; `shares[0]` is for values below the first edge and the last one for those above the last.

    Attributes:
        interval_seconds: Median time between two readings of a machine.
        resolution: Smallest step between two different values; None where there is no common one.
        lowest: Lowest value in the data.
        highest: Highest value in the data.
        missing_share: Share of readings that lack it.
        repeat_share: Share of readings with the same value as the machine's reading before.
        longest_run_readings: Most readings in a row with the same value.
        longest_run_seconds: Longest time over which every reading had the same value.
        edges: Ascending values that part `shares`.
        shares: How large a share of a machine's readings one value takes, at most, for a value between two edges.
        evidence: The largest evidence for a recurring value that healthy machines gave (a log-likelihood ratio).
    """

    interval_seconds: Positive
    resolution: Positive | None = None
    lowest: Finite
    highest: Finite
    missing_share: Share = 0.0
    repeat_share: Share = 0.0
    longest_run_readings: int = Field(default=1, ge=1)
    longest_run_seconds: NotNegative = 0.0
    edges: list[Finite] = Field(default_factory=list, max_length=256)
    shares: list[Share] = Field(default_factory=lambda: [0.0], min_length=1, max_length=257)
    evidence: NotNegative = 0.0

    @model_validator(mode="after")
    def _shape(self) -> Usual:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} shares")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must ascend")
        if self.lowest > self.highest:
            raise ValueError(f"lowest {self.lowest} is above highest {self.highest}")
        return self


class MeanReference(Strict):
    """How a sensor's mean over a time varied from machine to machine and from hour to hour in the training data.

    Attributes:
        window_seconds: Time constant of the mean.
        mean: Mean of these means, in the feature's unit.
        spread: Their standard deviation.
        common: The part of it that all machines do together, and that does not average out over them.
        limit: Distance from `mean`, in standard deviations, from which a mean is unusual: well beyond the furthest one.
    """

    window_seconds: Seconds
    mean: Finite
    spread: Positive
    common: NotNegative = 0.0
    limit: Positive


class Consistency(Strict):
    """How the sensors of a machine that is well change together; the reference for one that breaks all at once.

    A change is a sensor's mean over `fast_seconds` less that over `slow_seconds`.

    Attributes:
        features: The sensors that are compared.
        fast_seconds: Time constant of the mean over the last minutes.
        slow_seconds: Time constant of the mean that it is compared with.
        settle_seconds: A machine that was started is not looked at for so long: it is warming up.
        hold_seconds: A sensor counts as broken once it has disagreed for so long.
        precision: Inverse of the covariance of the sensors' changes.
        limits: Distance of each sensor's change from what the others' changes explain, in its spread, from which it disagrees.
        rest: Squared Mahalanobis distance of the other sensors' changes up to which these are usual.
    """

    features: list[str] = Field(min_length=3, max_length=MAX_COMPARED)
    fast_seconds: Seconds
    slow_seconds: Seconds
    settle_seconds: Seconds
    hold_seconds: Seconds
    precision: list[list[Finite]]
    limits: list[Positive]
    rest: Positive

    @model_validator(mode="after")
    def _square(self) -> Consistency:
        count = len(self.features)
        if len(self.limits) != count or [len(row) for row in self.precision] != [count] * count:
            raise ValueError(
                f"consistency: {count} features need {count} limits and as many rows and columns of precision"
            )
        if len(set(self.features)) < count:
            raise ValueError("consistency: a feature is named twice")
        matrix = np.array(self.precision)
        if not np.allclose(matrix, matrix.T, rtol=1e-6) or np.linalg.eigvalsh(matrix).min() <= 0.0:
            raise ValueError("consistency: precision must be symmetric and positive definite")
        return self


def with_offset(value: str) -> str:
    """The time itself, if it is ISO 8601 with an offset.

    Raises:
        ValueError: It is not.
    """
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        parsed = datetime.min  # noqa: DTZ901 - only its missing offset is used
    if parsed.tzinfo is None:
        raise ValueError("must be ISO 8601 with an offset, such as 2026-11-22T03:15:00Z")
    return value


def holds(condition: Condition, value: float) -> bool:
    """Whether a value meets a condition. A value that is missing (NaN) says nothing against it."""
    if math.isnan(value):
        return True
    if condition.operator == ">":
        return value > condition.value
    if condition.operator == ">=":
        return value >= condition.value
    if condition.operator == "<":
        return value < condition.value
    return value <= condition.value
