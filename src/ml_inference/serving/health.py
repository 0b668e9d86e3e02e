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
from ml_inference.serving.requests import ControlSubscription
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
        self.state = "starting"
        self.due = -inf
        self._cloud_due = -inf

    def publish(self, worker: Worker | None) -> None:
        """Publish the message now, and set when the next is due."""
        message = self.message(worker)
        sent = self._outputs.local.try_publish(self._outputs.router.health(message))
        interval = self._settings.current.health_interval_seconds
        for_cloud = self._outputs.router.cloud_health(message)
        if for_cloud is not None and self._monotonic() >= self._cloud_due:
            self._outputs.offer([for_cloud], 0)
            self._cloud_due = self._monotonic() + interval
        self.due = self._monotonic() + (interval if sent else RETRY_SECONDS)

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
            "cloud": cloud_counts.as_message() | {"offline": cloud.offline} if cloud and cloud_counts else None,
            "local": {"published": local.published, "failed": local.failed},
            "problems": {key: text[:MAX_PROBLEM_CHARACTERS] for key, text in self._problems(worker).items() if text},
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
            "memory": worker.problem if worker else None,
            "model": self._models.problem,
            "challenger": self._models.challenger_problem,
            "cloud": cloud.problem if cloud else None,
            "outbox": "; ".join(cloud.recovery) if cloud else None,
        }
