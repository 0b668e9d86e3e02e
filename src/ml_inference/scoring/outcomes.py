"""What becomes of a message: results, rejections and their JSON.

Values only: it neither reads readings nor knows topics or sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_core import to_json

MAX_ERRORS = 20
"""Most field errors reported for one reading; a model may have thousands of features."""
MAX_RECEIVED_CHARACTERS = 512

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
    value: float
    unit: str
    contribution: float

    def as_message(self) -> JsonObject:
        """The explanation as it goes over the wire."""
        return {"feature": self.feature, "value": self.value, "unit": self.unit, "contribution": self.contribution}


@dataclass(frozen=True, slots=True)
class Result:
    """A scored reading.

    Attributes:
        equipment_id: The machine.
        timestamp: When it was measured, else when it arrived; ISO 8601 in UTC with milliseconds.
        correlation_id: Echoed unchanged.
        score: The booster's output.
        threshold: In force when it was judged; None where the model makes no such statement.
        abnormal: Whether the score reaches the threshold; None without one.
        state: The machine's debounced state, `normal` or `abnormal`; None without a threshold.
        state_changed: Whether this reading changed that state, or is the machine's first.
        model_name: Name of the model that scored it.
        model_version: Its version.
        explanation: The features that pushed an abnormal score up, largest first.
        index: Position in the batch; None for a single reading.
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
    """

    items: tuple[Result | Rejection, ...]
    batch: bool = False
    correlation_id: CorrelationId = None

    @property
    def results(self) -> tuple[Result, ...]:
        """The scored readings."""
        return tuple(item for item in self.items if isinstance(item, Result))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The others."""
        return tuple(item for item in self.items if isinstance(item, Rejection))
