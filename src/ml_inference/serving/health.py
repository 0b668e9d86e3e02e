"""The health message: what the component is doing, with which model, and an accounting that adds up.

It only reads; each part knows its own figures.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from ml_inference.scoring.pipeline import now
from ml_inference.serving.counters import Counters
from ml_inference.serving.models import Models
from ml_inference.serving.outputs import Outputs
from ml_inference.serving.settings import Settings, judgement_of
from ml_inference.serving.subscription import InputSubscription
from ml_inference.serving.worker import Worker
from ml_inference.times import parse_timestamp

MAX_PROBLEM_CHARACTERS = 500
RETRY_SECONDS = 1.0
"""After a health message that could not be sent."""


class Health:
    """Makes and publishes the health message.

    Args:
        thing_name: The device's name in AWS IoT.
        version: Of the deployed component.
        settings: The configuration in force.
        subscription: What is listened to.
        models: Champion and challenger.
        outputs: Where the message goes, and the counts of what left.
        counters: What became of the readings.
        monotonic: Seconds of a clock that never goes back.

    Attributes:
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
        models: Models,
        outputs: Outputs,
        counters: Counters,
        monotonic: Callable[[], float],
    ) -> None:
        self._thing_name = thing_name
        self.version = version
        self._settings = settings
        self._subscription = subscription
        self._models = models
        self._outputs = outputs
        self._counters = counters
        self._monotonic = monotonic
        self._started = monotonic()
        self.state = "starting"
        self.due = -inf

    def publish(self, worker: Worker | None) -> None:
        """Publish the message now, and set when the next is due."""
        sent = self._outputs.local.try_publish(self._outputs.router.health(self.message(worker)))
        self.due = self._monotonic() + (self._settings.current.health_interval_seconds if sent else RETRY_SECONDS)

    def message(self, worker: Worker | None) -> dict[str, Any]:
        """The message at this moment."""
        local, cloud = self._outputs.local, self._outputs.cloud
        with self._counters.lock:  # the worker counts a message and hands it to the cloud under it, so that both agree
            counts = self._counters.snapshot()
            cloud_counts = cloud.counts() if cloud else None
        message: dict[str, Any] = {
            "state": self.state,
            "timestamp": parse_timestamp(now()),
            "thing_name": self._thing_name,
            "component_version": self.version,
            "uptime_seconds": round(self._monotonic() - self._started, 1),
            "model": self._model(),
            "counters": counts.as_message(),
            "cloud": cloud_counts.as_message() | {"offline": cloud.offline} if cloud and cloud_counts else None,
            "local": {"published": local.published, "failed": local.failed},
            "problems": {key: text[:MAX_PROBLEM_CHARACTERS] for key, text in self._problems().items() if text},
        }
        return message | (worker.as_message() if worker else {})

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

    def _problems(self) -> dict[str, str | None]:
        cloud = self._outputs.cloud
        return {
            "configuration": self._settings.problem,
            "input": self._subscription.problem,
            "model": self._models.problem,
            "challenger": self._models.challenger_problem,
            "cloud": cloud.problem if cloud else None,
            "outbox": "; ".join(cloud.recovery) if cloud else None,
        }
