"""What becomes of a message: results, rejections and their JSON.

Values only: it neither reads readings nor knows topics or sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_core import to_json

from ml_inference.monitoring.alarms import Event
from ml_inference.wire import MAX_RECEIVED_CHARACTERS

MAX_ERRORS = 20
"""Most field errors reported for one reading; a model may have thousands of features."""

JsonObject: TypeAlias = dict[str, Any]
CorrelationId: TypeAlias = str | int | None
Score: TypeAlias = float | list[float]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule: where (`loc`), which (`type`), and in words (`msg`)."""

    loc: tuple[str | int, ...]
    type: str
    msg: str

    def as_message(self) -> JsonObject:
        """The error as it goes over the wire."""
        return {
            "loc": [part[:256] if isinstance(part, str) else part for part in self.loc],
            "type": self.type,
            "msg": self.msg[:MAX_RECEIVED_CHARACTERS],
        }


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reading, or a whole message, that was not scored.

    Attributes:
        errors: What is wrong with it; at most `MAX_ERRORS`.
        received: The input: bytes of a message, or the JSON value of one reading in a batch.
        index: Position in the batch; None for a single reading or a whole message.
        equipment_id: As far as it could be read, else "".
        correlation_id: As far as it could be read, else None.
    """

    errors: tuple[FieldError, ...]
    received: Any = field(repr=False)
    index: int | None = None
    equipment_id: str = ""
    correlation_id: CorrelationId = None

    def as_result(self) -> JsonObject:
        """The place of this reading in its batch's results: `error` stands where the others have `score`."""
        return {
            "index": self.index,
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "error": [error.as_message() for error in self.errors[:3]],
        }

    def as_message(self) -> JsonObject:
        """The message for the error topic."""
        message: JsonObject = {
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "errors": [error.as_message() for error in self.errors],
            "received": self._received_text(),
        }
        if self.index is not None:
            message["index"] = self.index
        return message

    def _received_text(self) -> str:
        raw = self.received if isinstance(self.received, bytes) else to_json(self.received, inf_nan_mode="constants")
        # Four bytes are the longest character in UTF-8.
        return raw[: 4 * MAX_RECEIVED_CHARACTERS].decode("utf-8", "replace")[:MAX_RECEIVED_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one feature contributed to a score, in the booster's margin (log-odds for `binary:logistic`)."""

    feature: str
    value: float | str | None
    unit: str
    contribution: float

    def as_message(self) -> JsonObject:
        """The explanation as it goes over the wire."""
        return {"feature": self.feature, "value": self.value, "unit": self.unit, "contribution": self.contribution}


@dataclass(frozen=True, slots=True)
class OverTime:
    """What a result says beside the verdict on its single reading.

    Attributes:
        smoothed_score: The machine's smoothed score; None where there is none.
        sensors: Faulty sensors with what is wrong with them.
        missing: Features that the model did without.
        forecast_hours: Within which time the machine is or becomes abnormal, by the score; None for the present.
        explanation_age_seconds: Age of the explanation, where it is of an earlier reading of the same alarm.
    """

    smoothed_score: float | None = None
    sensors: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    forecast_hours: float | None = None
    explanation_age_seconds: float | None = None

    def add_to(self, message: JsonObject) -> None:
        """Say it in a result's message, as far as there is something to say."""
        if self.smoothed_score is not None:
            message["smoothed_score"] = round(self.smoothed_score, 6)
        if self.sensors:
            message["sensors"] = dict(self.sensors)
        if self.missing:
            message["missing"] = list(self.missing)
        if self.forecast_hours is not None:
            message["forecast_hours"] = self.forecast_hours
        if self.explanation_age_seconds is not None:
            message["explanation_age_seconds"] = self.explanation_age_seconds


@dataclass(frozen=True, slots=True)
class Result:
    """A scored reading.

    Attributes:
        equipment_id: The machine.
        timestamp: When it was measured, else when it arrived; ISO 8601 in UTC with milliseconds.
        correlation_id: Echoed unchanged.
        score: The booster's output.
        threshold: In force when it was judged; None where the model defines no threshold.
        abnormal: Whether the score reaches the threshold; None without one.
        state: The machine's state, `normal`, `abnormal` or `off`; None without a threshold or an alarm.
        state_changed: Whether this reading changed that state, or is the machine's first.
        model_name: Name of the model that scored it.
        model_version: Its version.
        explanation: The features that pushed an abnormal score up, largest first.
        index: Position in the batch; None for a single reading.
        over_time: What the machine's past adds to it; None for a model that judges single readings only.
    """

    equipment_id: str
    timestamp: str
    correlation_id: CorrelationId
    score: Score
    threshold: float | None
    abnormal: bool | None
    state: str | None
    state_changed: bool
    model_name: str
    model_version: str
    explanation: tuple[Explanation, ...] = ()
    index: int | None = None
    over_time: OverTime | None = None

    @property
    def has_alarms(self) -> bool:
        """Whether it is an alarm, and not the verdict on single readings, that says when something is wrong."""
        return self.over_time is not None and self.over_time.smoothed_score is not None

    def as_message(self) -> JsonObject:
        """The message for the result topic; within a batch, its item."""
        message: JsonObject = {
            "correlation_id": self.correlation_id,
            "equipment_id": self.equipment_id,
            "timestamp": self.timestamp,
            "score": self.score,
            "threshold": self.threshold,
            "abnormal": self.abnormal,
            "state": self.state,
            "model": {"name": self.model_name, "version": self.model_version},
        }
        if self.explanation:
            message["explanation"] = [part.as_message() for part in self.explanation]
        if self.over_time is not None:
            self.over_time.add_to(message)
        if self.index is not None:
            message["index"] = self.index
        return message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input message.

    Attributes:
        items: A result or a rejection for each reading, in input order. A message that could not be taken apart is one
            rejection without an index.
        batch: Whether the input was a batch, so that the output is one, too.
        correlation_id: The batch's own, echoed unchanged.
        alarms: What happened to alarms with it.
    """

    items: tuple[Result | Rejection, ...]
    batch: bool = False
    correlation_id: CorrelationId = None
    alarms: tuple[Event, ...] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """The scored readings."""
        if len(self.items) == 1:  # nearly always, and asked for several times
            return self.items if isinstance(self.items[0], Result) else ()  # type: ignore[return-value]
        return tuple(item for item in self.items if isinstance(item, Result))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The others."""
        return tuple(item for item in self.items if isinstance(item, Rejection))
