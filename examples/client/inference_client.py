"""Ask the inference component for predictions, as one asks a server. Copy this file into a component of your own.

    client = InferenceClient()
    result = client.predict({"equipment_id": "cylinder-7", "rVibration_Temp": 69.7, ...})
    results = client.predict_batch([{...}, {...}])

It needs `awsiotsdk`, and in the recipe of the component that asks:

    accessControl:
      aws.greengrass.ipc.pubsub:
        "com.example.Asks:pubsub:1":
          policyDescription: Readings to the inference component
          operations: ["aws.greengrass#PublishToTopic"]
          resources: ["ml/inference/request"]
        "com.example.Asks:pubsub:2":
          policyDescription: Its answers
          operations: ["aws.greengrass#SubscribeToTopic"]
          resources: ["ml/inference/result", "ml/inference/error"]

Any number of threads may ask at once. A connection that is lost does not come back by itself, and is noticed at the next question: it
raises `ConnectionError`. Then end the process with a code other than 0, and the nucleus starts it again.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

import awsiot.greengrasscoreipc
from awsiot.greengrasscoreipc.client import SubscribeToTopicStreamHandler
from awsiot.greengrasscoreipc.model import (
    BinaryMessage,
    PublishMessage,
    PublishToTopicRequest,
    SubscribeToTopicRequest,
    SubscriptionResponseMessage,
)

LARGEST_REQUEST = 7_000
"""Bytes that nucleus lite carries in one message."""
CALL_SECONDS = 10.0
"""The SDK itself would wait for the nucleus without limit."""


class RejectedError(Exception):
    """The component refused the reading.

    Attributes:
        errors: What is wrong with it: `loc` names the field, `type` the rule, `msg` says it in words.
    """

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors))
        self.errors = errors


class InferenceClient:
    """One connection to the nucleus; keep it for the life of the process.

    Args:
        request: The inference component's `InputTopic`.
        result: Its `ResultTopic`.
        error: Its `ErrorTopic`.
    """

    def __init__(
        self,
        request: str = "ml/inference/request",
        result: str = "ml/inference/result",
        error: str = "ml/inference/error",
    ) -> None:
        self._request = request
        # Others ask, too, and their answers come on the same topics.
        self._prefix, self._numbers = uuid.uuid4().hex, count()
        self._waiting: dict[str, SimpleQueue[dict[str, Any]]] = {}
        # Not the SDK's second client: it hides the operation, which `_publish` has to close.
        self._ipc = awsiot.greengrasscoreipc.connect(timeout=CALL_SECONDS)
        for topic in (result, error):
            operation = self._ipc.new_subscribe_to_topic(_Handler(self._heard))
            operation.activate(SubscribeToTopicRequest(topic=topic)).result(CALL_SECONDS)
            operation.get_response().result(CALL_SECONDS)

    def predict(self, reading: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        """The result for one reading.

        Args:
            reading: Every feature of the model by name, and `equipment_id` or `timestamp` if there is one.
            timeout: Seconds.

        Raises:
            RejectedError: The reading is refused.
            TimeoutError: No answer came; the component may be starting.
            ConnectionError: The nucleus cannot be asked.
            ValueError: The reading is too large for nucleus lite.
        """
        with self._question(timeout) as (mark, next_answer):
            self._publish(dict(reading) | {"correlation_id": mark})
            answer = next_answer()
        if "errors" in answer:
            raise RejectedError(answer["errors"])
        return answer

    def predict_batch(self, readings: Sequence[Mapping[str, Any]], timeout: float = 5.0) -> list[dict[str, Any]]:
        """The results for several readings, in their order; one that was refused has `error` in place of `score`.

        Args:
            readings: Some 30 of six features are as many as nucleus lite carries.
            timeout: Seconds.

        Raises:
            RejectedError: The whole batch is refused.
            TimeoutError: Not all of the answer came.
            ConnectionError: The nucleus cannot be asked.
            ValueError: The batch is too large for nucleus lite.
        """
        results: dict[int, dict[str, Any]] = {}
        with self._question(timeout) as (mark, next_answer):
            self._publish({"readings": list(readings), "correlation_id": mark})
            while len(results) < len(readings):  # a long answer comes in parts
                answer = next_answer()
                if "results" in answer:
                    results |= {item["index"]: item for item in answer["results"]}
                elif "index" not in answer:  # one that was refused alone has its place in the results, too
                    raise RejectedError(answer["errors"])
        return [results[index] for index in sorted(results)]

    def close(self) -> None:
        """End the connection."""
        self._ipc.close()

    @contextmanager
    def _question(self, timeout: float) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """A mark for a question, and a function that waits for the next message that bears it."""
        mark, answers = f"{self._prefix}-{next(self._numbers)}", SimpleQueue[dict[str, Any]]()
        deadline = time.monotonic() + timeout

        def next_answer() -> dict[str, Any]:
            try:
                return answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError("no answer from the inference component") from None

        self._waiting[mark] = answers
        try:
            yield mark, next_answer
        finally:
            del self._waiting[mark]

    def _publish(self, document: Any) -> None:
        payload = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        if len(payload) > LARGEST_REQUEST:
            raise ValueError(f"{len(payload)} bytes are more than the {LARGEST_REQUEST} that nucleus lite carries")
        # Binary, because nucleus lite loses a JSON message with more than 23 keys.
        message = PublishMessage(binary_message=BinaryMessage(message=payload))
        operation = None
        try:
            operation = self._ipc.new_publish_to_topic()
            operation.activate(PublishToTopicRequest(topic=self._request, publish_message=message)).result(CALL_SECONDS)
            operation.get_response().result(CALL_SECONDS)
        except Exception as error:
            raise ConnectionError(f"the nucleus did not take the question: {error!r}") from error
        finally:
            # Nucleus lite leaves it open, and each one that is open costs some 5 kB for as long as the connection lives.
            if operation is not None:
                operation.close()

    def _heard(self, event: SubscriptionResponseMessage) -> None:
        binary = event.binary_message
        try:
            message = json.loads(binary.message or b"" if binary else b"")
            self._waiting[message["correlation_id"]].put(message)
        except (ValueError, TypeError, KeyError):
            return  # somebody else's


class _Handler(SubscribeToTopicStreamHandler):
    """Is called on the SDK's only thread: events come in order, and `heard` must not wait."""

    def __init__(self, heard: Callable[[SubscriptionResponseMessage], None]) -> None:
        super().__init__()
        self._heard = heard

    def on_stream_event(self, event: Any) -> None:
        self._heard(event)

    def on_stream_error(self, error: Exception) -> bool:  # noqa: ARG002 - the SDK's signature
        return False  # anything else closes the stream


def main() -> int:
    """Ask for each line of standard input, a reading or a batch in JSON, and print the answers."""
    client = InferenceClient()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = client.predict_batch(question) if isinstance(question, list) else client.predict(question)
        except RejectedError as error:
            answer = {"rejected": error.errors}
        print(json.dumps(answer), flush=True)
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
