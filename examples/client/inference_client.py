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

Any number of threads may ask at once. A connection that is lost does not come back by itself: when `predict` raises anything
but `RejectedError` again and again, end the process with a code other than 0, and the nucleus starts it with a new connection.
"""

from __future__ import annotations

import concurrent.futures
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage, SubscriptionResponseMessage

LARGEST_REQUEST = 7_000
"""Bytes that nucleus lite carries in one message."""


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
        # Without an executor events come on the SDK's only thread: in order, and `_heard` must not wait.
        self._ipc = GreengrassCoreIPCClientV2(executor=None)
        for topic in (result, error):
            self._ipc.subscribe_to_topic(topic=topic, on_stream_event=self._heard, on_stream_error=lambda _: False)

    def predict(self, reading: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        """The result for one reading.

        Args:
            reading: Every feature of the model by name, and `equipment_id` or `timestamp` if there is one.
            timeout: Seconds.

        Raises:
            RejectedError: The reading is refused.
            TimeoutError: No answer came; the component may be starting.
            ValueError: The reading is too large for nucleus lite.
        """
        with self._question(timeout) as (mark, next_answer):
            self._publish(dict(reading) | {"correlation_id": mark}, timeout)
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
            ValueError: The batch is too large for nucleus lite.
        """
        results: dict[int, dict[str, Any]] = {}
        with self._question(timeout) as (mark, next_answer):
            self._publish({"readings": list(readings), "correlation_id": mark}, timeout)
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

    def _publish(self, document: Any, timeout: float) -> None:
        payload = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        if len(payload) > LARGEST_REQUEST:
            raise ValueError(f"{len(payload)} bytes are more than the {LARGEST_REQUEST} that nucleus lite carries")
        # Binary, because nucleus lite loses a JSON message with more than 23 keys. The synchronous form waits without limit.
        message = PublishMessage(binary_message=BinaryMessage(message=payload))
        try:
            self._ipc.publish_to_topic_async(topic=self._request, publish_message=message).result(timeout)
        except concurrent.futures.TimeoutError:  # before Python 3.11 not the other one of that name
            raise TimeoutError("no answer from the nucleus") from None

    def _heard(self, event: SubscriptionResponseMessage) -> None:
        binary = event.binary_message
        try:
            message = json.loads(binary.message or b"" if binary else b"")
            self._waiting[message["correlation_id"]].put(message)
        except (ValueError, TypeError, KeyError):
            return  # somebody else's


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
