"""Requests about alarms: acknowledge, shelve, maintenance, and what was a false alarm.

JSON on the control topic, answered on the topic with `/reply` behind it. A request that is no request is answered with the
reason and changes nothing. What people say of false alarms is kept in the work directory, for the next training.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ml_inference.monitoring.alarms import EQUIPMENT
from ml_inference.monitoring.watch import Watch

MAX_FEEDBACK_BYTES = 4_000_000
"""Of the file that keeps what people said: some twenty thousand alarms."""
LONGEST_SECONDS = 366 * 86_400.0

logger = logging.getLogger(__name__)

_Identifier = Annotated[str, Field(min_length=1, max_length=128)]
_Duration = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    correlation_id: str | int | None = None


class Acknowledge(_Request):
    """Somebody has seen an alarm."""

    action: Literal["acknowledge"]
    id: _Identifier


class FalseAlarm(_Request):
    """An alarm was none."""

    action: Literal["false_alarm"]
    id: _Identifier
    note: Annotated[str, Field(max_length=500)] = ""


class Shelve(_Request):
    """No alarm of a machine is to open for some seconds; 0 ends that."""

    action: Literal["shelve"]
    equipment_id: Annotated[str, Field(max_length=128)]
    seconds: _Duration


class Maintenance(_Request):
    """A machine is under maintenance for some seconds; 0 ends that. With `new_baseline` its past is forgotten."""

    action: Literal["maintenance"]
    equipment_id: Annotated[str, Field(max_length=128)]
    seconds: _Duration
    new_baseline: bool = False


class ListAlarms(_Request):
    """Which alarms are open."""

    action: Literal["alarms"]


class Quality(_Request):
    """How the alarms compare with the line's own label, machine by machine from the one numbered `start`."""

    action: Literal["quality"]
    start: Annotated[int, Field(ge=0)] = 0


Request = Annotated[
    Acknowledge | FalseAlarm | Shelve | Maintenance | ListAlarms | Quality, Field(discriminator="action")
]
REQUEST: TypeAdapter[Acknowledge | FalseAlarm | Shelve | Maintenance | ListAlarms | Quality] = TypeAdapter(Request)

MAX_LISTED = 20
"""Alarms or machines in one reply: nucleus lite's frames are small."""


def _nothing(_: str) -> None:
    """Where machines have no past."""


class Control:
    """Does what requests ask for. Used by the thread that scores.

    Args:
        directory: Where feedback is kept.

    Attributes:
        false_alarms: How many alarms were said to be false since the start.
    """

    def __init__(self, directory: Path) -> None:
        self._feedback = directory / "false-alarms.jsonl"
        self.false_alarms = 0

    def handle(
        self,
        payload: bytes,
        watch: Watch | None,
        quality: Mapping[str, Any] | None = None,
        forget: Callable[[str], None] = _nothing,
    ) -> dict[str, Any]:
        """Do what a request asks for.

        Args:
            payload: JSON in UTF-8.
            watch: What is known of the machines; None where the model says nothing of time.
            quality: Figures by machine, worst first.
            forget: Lets the past of a machine begin anew.

        Returns:
            The reply.
        """
        try:
            request = REQUEST.validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return {"correlation_id": None, "ok": False, "error": f"{where}: {first['msg']}".removeprefix(": ")[:500]}
        reply: dict[str, Any] = {"correlation_id": request.correlation_id, "action": request.action, "ok": True}
        if watch is None:
            return reply | {"ok": False, "error": "the model in use has no alarms"}
        match request:
            case Acknowledge(id=identifier):
                if not watch.acknowledge(identifier):
                    return reply | {"ok": False, "error": f"no open alarm has the id {identifier!r}"}
            case FalseAlarm():
                self._keep(request, watch)
            case Shelve():
                watch.shelve(request.equipment_id, request.seconds)
            case Maintenance():
                self._maintain(request, watch, forget)
            case ListAlarms():
                every = sorted(watch.book, key=lambda alarm: -alarm.opened)
                reply["open"] = len(every)
                reply["alarms"] = [
                    {"id": alarm.id, "kind": alarm.kind, "equipment_id": alarm.equipment_id, "sensor": alarm.sensor}
                    for alarm in every[:MAX_LISTED]
                ]
            case Quality():
                named = list((quality or {}).items())
                reply["machines"] = dict(named[request.start : request.start + MAX_LISTED])
                reply["of"] = len(named)
        return reply

    @staticmethod
    def _maintain(request: Maintenance, watch: Watch, forget: Callable[[str], None]) -> None:
        watch.maintain(request.equipment_id, request.seconds, new_baseline=request.new_baseline)
        if request.new_baseline:
            forget(request.equipment_id)

    def _keep(self, request: FalseAlarm, watch: Watch) -> None:
        """Count a false alarm and keep it for the next training."""
        self.false_alarms += 1
        alarm = watch.book.by_id(request.id)
        kept: dict[str, Any] = {"id": request.id, "note": request.note, "said": watch.now}
        if alarm is not None:
            kept |= {"kind": alarm.kind, "equipment_id": alarm.equipment_id, "sensor": alarm.sensor}
            kept |= {"opened": alarm.opened, "last": alarm.last, "peak_score": alarm.peak}
            if alarm.kind == EQUIPMENT:
                kept["explanation"] = [reason.as_message() for reason in alarm.explanation]
        try:
            self._feedback.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._feedback.exists() and self._feedback.stat().st_size > MAX_FEEDBACK_BYTES:
                self._feedback.replace(self._feedback.with_suffix(".old.jsonl"))
            with self._feedback.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kept) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("what was said of alarm %s cannot be kept: %s", request.id, error)
