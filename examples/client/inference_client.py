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

Any number of threads may ask at once. To know its answers the client sends a `correlation_id` of its own in the place of yours. A
connection that is lost does not come back by itself, and is noticed at the next question: it raises `ConnectionError`. Then end the
process with a code other than 0, and the nucleus starts it again.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError  # Python 3.10's is not the built-in one
from contextlib import contextmanager
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock
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
"""Bytes that nucleus lite carries in one message. The classic nucleus carries more: there, set what you need."""
CONNECT_SECONDS = 10.0


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

    Raises:
        ConnectionError: Not started by Greengrass, or the nucleus refuses.
        TimeoutError: The nucleus does not answer.
    """

    def __init__(
        self,
        request: str = "ml/inference/request",
        result: str = "ml/inference/result",
        error: str = "ml/inference/error",
    ) -> None:
        self._request = request
        self._topics = (result, error)
        # Others ask, too, and their answers come on the same topics.
        self._prefix, self._numbers = uuid.uuid4().hex, count()
        self._waiting: dict[str, SimpleQueue[dict[str, Any]]] = {}
        self._subscriptions: list[Any] = []
        self._subscribing, self._deaf, self._events = Lock(), True, 0
        try:
            # Not the SDK's second client: it hides the operations, which have to be closed.
            self._ipc = awsiot.greengrasscoreipc.connect(timeout=CONNECT_SECONDS)
        except KeyError as missing:
            raise ConnectionError(f"not started by Greengrass: {missing.args[0]} is not set") from None
        except Exception as failure:
            raise ConnectionError(f"no connection to the nucleus: {failure!r}") from failure
        self._listen(time.monotonic() + CONNECT_SECONDS)

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
        with self._asked(reading, timeout) as next_answer:
            answer = next_answer()
        if "errors" in answer:
            raise RejectedError(answer["errors"])
        return answer

    def predict_batch(self, readings: Sequence[Mapping[str, Any]], timeout: float = 5.0) -> list[dict[str, Any]]:
        """The results for several readings, in their order; one that was refused has `error` in place of `score`.

        Args:
            readings: Some 30 of six features are as many as nucleus lite carries; for none there is nothing to ask.
            timeout: Seconds.

        Raises:
            RejectedError: The whole batch is refused.
            TimeoutError: Not all of the answer came.
            ConnectionError: The nucleus cannot be asked.
            ValueError: The batch is too large for nucleus lite.
        """
        if not readings:
            return []
        results: dict[int, dict[str, Any]] = {}
        unlisted = 0
        with self._asked({"readings": list(readings)}, timeout) as next_answer:
            while len(results) + unlisted < len(readings):  # a long answer comes in parts
                answer = next_answer()
                if "results" in answer:
                    results |= {item["index"]: item for item in answer["results"]}
                    rejected = answer.get("rejected")
                    if rejected and answer.get("part", 1) == 1:  # of many only the first are listed
                        unlisted += rejected["count"] - rejected["listed"]
                elif "index" not in answer:  # one that was refused alone has its place in the results, too
                    raise RejectedError(answer["errors"])
        error = [{"loc": [], "type": "rejected", "msg": "one of many that were rejected"}]
        return [results.get(index, {"index": index, "error": error}) for index in range(len(readings))]

    def close(self) -> None:
        """End the connection."""
        self._ipc.close()

    @contextmanager
    def _asked(self, question: Mapping[str, Any], timeout: float) -> Iterator[Callable[[], dict[str, Any]]]:
        """Asks, and gives a function that waits for the next message of the answer."""
        deadline = time.monotonic() + timeout
        mark, answers = f"{self._prefix}-{next(self._numbers)}", SimpleQueue[dict[str, Any]]()
        payload = json.dumps({**question, "correlation_id": mark}, separators=(",", ":"), allow_nan=False).encode()
        if len(payload) > LARGEST_REQUEST:
            raise ValueError(f"{len(payload)} bytes are more than the {LARGEST_REQUEST} that nucleus lite carries")
        self._listen(deadline)
        events = self._events

        def next_answer() -> dict[str, Any]:
            try:
                return answers.get(timeout=_left(deadline))
            except Empty:
                if self._events == events:
                    self._deaf = True
                raise TimeoutError("no answer from the inference component") from None

        self._waiting[mark] = answers
        try:
            # Binary, because nucleus lite loses a JSON message with more than 23 keys.
            message = PublishMessage(binary_message=BinaryMessage(message=payload))
            request = PublishToTopicRequest(topic=self._request, publish_message=message)
            # Nucleus lite leaves the stream open, and each one costs some 5 kB for as long as the connection lives.
            self._call(self._ipc.new_publish_to_topic, request, deadline).close()
            yield next_answer
        finally:
            del self._waiting[mark]

    def _listen(self, deadline: float) -> None:
        """Subscribes at the beginning, and again after a question that nothing at all was heard after.

        When the publish/subscribe daemon of nucleus lite restarts, subscriptions die and nobody is told.
        """
        if not self._subscribing.acquire(timeout=_left(deadline)):
            raise TimeoutError("the nucleus does not answer")
        try:
            if self._deaf:
                while self._subscriptions:
                    self._subscriptions.pop().close()
                for topic in self._topics:
                    new_operation = partial(self._ipc.new_subscribe_to_topic, _Handler(self._heard))
                    self._subscriptions.append(
                        self._call(new_operation, SubscribeToTopicRequest(topic=topic), deadline)
                    )
                self._deaf = False
        finally:
            self._subscribing.release()

    def _call(self, new_operation: Callable[[], Any], request: Any, deadline: float) -> Any:
        """The operation, once the nucleus has answered; the SDK itself would wait for that without limit."""
        operation = None
        try:
            operation = new_operation()
            operation.activate(request).result(_left(deadline))
            operation.get_response().result(_left(deadline))
        except Exception as error:
            if operation is not None:
                operation.close()
            if isinstance(error, FutureTimeoutError):
                raise TimeoutError("the nucleus does not answer") from None
            raise ConnectionError(f"the nucleus cannot be asked: {error!r}") from error
        return operation

    def _heard(self, event: SubscriptionResponseMessage) -> None:
        self._events += 1
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


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def main() -> int | str:
    """Ask for each line of standard input, a reading or a batch in JSON, and print the answers."""
    try:
        client = InferenceClient()
        for line in sys.stdin:
            try:
                question = json.loads(line)
                readings = question.get("readings") if isinstance(question, dict) else question
                answer: Any = client.predict_batch(readings) if isinstance(readings, list) else client.predict(question)
            except RejectedError as error:
                answer = {"rejected": error.errors}
            except (ValueError, TypeError, TimeoutError) as error:  # not JSON, no object, too large; or nobody answers
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        client.close()
    except (ConnectionError, TimeoutError) as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
