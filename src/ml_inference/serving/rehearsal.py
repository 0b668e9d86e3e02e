"""One reading through the component's own code without a nucleus: what a new version must manage before it replaces the one that runs.

The recipe's `install` asks for it, since a deployment ends the running version before `run` of the new one begins: code that
cannot be imported has to be found out here. It must never touch the nucleus, the outbox or anything else that a running
component has in use.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from queue import Empty, SimpleQueue

from ml_inference.config import Configuration
from ml_inference.delivery.routing import Message, Router
from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import Golden
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.component import Component  # noqa: F401 - everything that it imports is there
from ml_inference.serving.counters import Counters
from ml_inference.serving.intake import Intake
from ml_inference.serving.worker import Worker


class RehearsalError(Exception):
    """A reading went in and no result came out; the message says what came instead."""


def rehearse(directory: Path, seconds: float) -> None:
    """Put one of a model's golden readings through intake, worker and router.

    Args:
        directory: A model directory that has passed its checks.
        seconds: Longest wait for the result.

    Raises:
        RehearsalError: It was rejected, or nothing came in time.
        Exception: Whatever the code raises that is broken.
    """
    model = load_model(directory)
    sent: SimpleQueue[Message] = SimpleQueue()
    to_cloud: list[Message] = []
    counters, configuration = Counters(), Configuration()
    intake = Intake(1, counters)
    worker = Worker(
        intake=intake,
        pipeline=Pipeline(model),
        router=Router(configuration, "rehearsal", time.monotonic, lambda: "rehearsal"),
        publish=sent.put,
        offer=lambda messages, _: to_cloud.extend(messages),
        monotonic=time.monotonic,
    )
    worker.start()
    # The one that is most likely abnormal, so that an explanation is made, too.
    golden = max(model.manifest.golden, key=_greatest_score)
    intake.put(json.dumps(golden.reading | {"correlation_id": "rehearsal"}).encode())
    try:
        message = sent.get(timeout=seconds)
    except Empty:
        raise RehearsalError(f"no result within {seconds:g} s; {counters.snapshot()}") from None
    intake.close()
    if message.topic != configuration.result_topic:
        raise RehearsalError(f"in place of a result: {message.payload.decode()[:500]}")
    if not worker.finish(seconds) or not to_cloud:
        raise RehearsalError("the result did not reach the cloud's queue")


def _greatest_score(golden: Golden) -> float:
    return max(golden.score) if isinstance(golden.score, list) else golden.score
