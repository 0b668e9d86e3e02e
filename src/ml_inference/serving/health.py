"""The health message: what the component is doing, with which model, and an accounting that adds up.

It only reads; each part knows its own figures.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from ml_inference.delivery.cloud import CloudPublisher
from ml_inference.delivery.encoding import dump
from ml_inference.delivery.ledger import CloudCounts
from ml_inference.limits import MAX_PAYLOAD_BYTES
from ml_inference.model.bundle import Model
from ml_inference.model.ranges import training_range
from ml_inference.scoring.pipeline import now
from ml_inference.serving.counters import Counters
from ml_inference.serving.models import Models
from ml_inference.serving.outputs import Outputs
from ml_inference.serving.requests import ControlSubscription
from ml_inference.serving.settings import Settings, judgement_of
from ml_inference.serving.subscription import InputSubscription
from ml_inference.serving.worker import Worker
from ml_inference.times import parse_timestamp

MAX_PROBLEM_CHARACTERS = 500
RETRY_SECONDS = 1.0
"""After a health message that could not be sent."""
FEATURES_SECONDS = 60.0
"""Between messages that also list the model's features: whoever begins to listen later wants them, too."""
MAX_FEATURES = 64
"""Features that are listed; a model may have thousands, and no page shows them."""
RESERVED_BYTES = 200
"""Of a message that lists features: for the part's numbers, and for a topic longer than usual."""


class Health:
    """Makes and publishes the health message.

    Args:
        thing_name: The device's name in AWS IoT.
        version: Of the deployed component.
        settings: The configuration in force.
        subscription: What is listened to.
        requests: The same for requests about alarms.
        models: Champion and challenger.
        outputs: Where the message goes, and the counts of what left.
        counters: What became of the readings.
        monotonic: Seconds of a clock that never goes back.

    Attributes:
        thing_name: As given.
        version: As given.
        state: `starting`, `running` or `stopping`.
        due: When the next message is due, in seconds of the clock.
    """

    def __init__(
        self,
        *,
        thing_name: str,
        version: str,
        settings: Settings,
        subscription: InputSubscription,
        requests: ControlSubscription,
        models: Models,
        outputs: Outputs,
        counters: Counters,
        monotonic: Callable[[], float],
    ) -> None:
        self.thing_name = thing_name
        self.version = version
        self._settings = settings
        self._subscription = subscription
        self._requests = requests
        self._models = models
        self._outputs = outputs
        self._counters = counters
        self._monotonic = monotonic
        self._started = monotonic()
        self._told: Model | None = None
        self._told_at = -inf
        self.state = "starting"
        self.due = -inf
        self._cloud_due = -inf

    def publish(self, worker: Worker | None) -> None:
        """Publish the message now, and set when the next is due.

        With each model, and now and then, the local message also lists the model's features; if they do not fit into it,
        several messages do.
        """
        message, model, moment = self.message(worker), self._models.in_force, self._monotonic()
        tell = model is not None and (model is not self._told or moment - self._told_at >= FEATURES_SECONDS)
        parts = feature_parts(model, MAX_PAYLOAD_BYTES - RESERVED_BYTES - len(dump(message))) if model and tell else []
        messages = [
            message | {"features": part, "part": number, "parts": len(parts)} for number, part in enumerate(parts, 1)
        ]
        sent = True
        for each in messages or [message]:
            sent = self._outputs.local.try_publish(self._outputs.router.health(each)) and sent
        if tell and sent:
            self._told, self._told_at = model, moment
        interval = self._settings.current.health_interval_seconds
        for_cloud = self._outputs.router.cloud_health(message)
        if for_cloud is not None and moment >= self._cloud_due:
            self._outputs.offer([for_cloud], 0)
            self._cloud_due = moment + interval
        self.due = moment + (interval if sent else RETRY_SECONDS)
        self._outputs.rejections.look(message["counters"]["rejected"], moment)

    def message(self, worker: Worker | None) -> dict[str, Any]:
        """The message at this moment."""
        local, cloud = self._outputs.local, self._outputs.cloud
        with self._counters.lock:  # the worker counts a message and hands it to the cloud under it, so that both agree
            counts = self._counters.snapshot()
            cloud_counts = cloud.counts() if cloud else None
        message: dict[str, Any] = {
            "state": self.state,
            "timestamp": parse_timestamp(now()),
            "thing_name": self.thing_name,
            "component_version": self.version,
            "uptime_seconds": round(self._monotonic() - self._started, 1),
            "model": self._model(),
            "counters": counts.as_message(),
            "cloud": self._cloud(cloud, cloud_counts) if cloud and cloud_counts else None,
            "local": {"published": local.published, "failed": local.failed},
            "problems": {key: text[:MAX_PROBLEM_CHARACTERS] for key, text in self._problems(worker).items() if text},
        }
        return message | (worker.as_message() if worker else {})

    def _cloud(self, cloud: CloudPublisher, counts: CloudCounts) -> dict[str, Any]:
        lost = self._outputs.lost
        return counts.as_message() | {"offline": cloud.offline} | ({"lost": lost} if lost else {})

    def _model(self) -> dict[str, Any] | None:
        model = self._models.in_force
        if model is None:
            return None
        return {
            "name": model.manifest.name,
            "version": model.manifest.version,
            "directory": str(model.directory),
            "threshold": judgement_of(self._settings.current).threshold_for(model.manifest),
        }

    def _without_effect(self) -> str | None:
        """Settings that do nothing to the alarms of the model in use."""
        model, configuration = self._models.in_force, self._settings.current
        if model is None or model.manifest.alarm is None:
            return None
        is_set = {
            "Threshold": configuration.threshold is not None,
            "DebounceReadings": configuration.debounce_readings > 1,
        }
        keys = [key for key, value in is_set.items() if value]
        if not keys:
            return None
        return (
            f"{' and '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect on state: this model's alarms follow its "
            "smoothed score (AlarmOpenScore, AlarmCloseScore, AlarmSmoothingSeconds)"
        )

    def _problems(self, worker: Worker | None) -> dict[str, str | None]:
        cloud = self._outputs.cloud
        return {
            "configuration": self._settings.problem,
            "input": self._subscription.problem,
            "control": self._requests.problem,
            "alarms": self._without_effect(),
            "quality": worker.quality_problem if worker else None,
            "rate": worker.rate_problem if worker else None,
            "memory": worker.problem if worker else None,
            "model": self._models.problem,
            "challenger": self._models.challenger_problem,
            "cloud": cloud.problem if cloud else None,
            "outbox": "; ".join(cloud.recovery) if cloud else None,
        }


def feature_parts(model: Model, room: int) -> list[list[dict[str, Any]]]:
    """The model's features with units, physical limits, and where training data mostly lay, split to fit.

    Args:
        model: The model; its first `MAX_FEATURES` features are listed.
        room: Bytes of JSON for each part.
    """
    parts: list[list[dict[str, Any]]] = []
    left = 0
    for feature in model.manifest.features[:MAX_FEATURES]:
        low, high = training_range(feature) or (None, None)
        entry = {
            "name": feature.name,
            "unit": feature.unit,
            "minimum": feature.minimum,
            "maximum": feature.maximum,
            "low": low,
            "high": high,
        }
        size = len(dump(entry)) + 1
        if not parts or size > left:
            parts.append([])
            left = room
        parts[-1].append(entry)
        left -= size
    return parts
