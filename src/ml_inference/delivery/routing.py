"""Which messages an outcome becomes, and on which topics.

Pure: it decides and encodes, others publish. It never lets a flood of bad readings become a flood of error messages, and
never a payload larger than nucleus lite carries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ml_inference.config import Configuration
from ml_inference.delivery.encoding import dump, fit_error, group_by, payload_limit, shorten, split
from ml_inference.monitoring.alarms import Event
from ml_inference.monitoring.states import MAX_MACHINES
from ml_inference.scoring.outcomes import JsonObject, Outcome, Rejection, Result
from ml_inference.topics import render_topic

PROBE_ID = "probe"
"""In place of an id: nobody has to drop a repeat."""
ERRORS_PER_SECOND = 20
ERROR_BURST = 200
MAX_REJECTIONS = 64
"""Rejected readings of a batch that are all listed in its results."""
FIRST_REJECTIONS = 8
"""Of more than that so many are listed, and all are counted: 20 kB of broken readings would become megabytes."""


@dataclass(frozen=True, slots=True)
class Message:
    """A payload on its way to a topic.

    Attributes:
        topic: Topic without placeholders.
        payload: JSON in UTF-8.
        weight: Scored readings it stands for.
        alarm: Whether it is an alarm, which outlives all else; of a model without alarms: a result that is abnormal.
        id: What a consumer in the cloud drops a repeat by; "" for a local message.
    """

    topic: str
    payload: bytes
    weight: int = 0
    alarm: bool = False
    id: str = ""


class Router:
    """Turns outcomes into messages.

    Args:
        configuration: Topics and what the cloud wants.
        thing_name: The device's name in AWS IoT.
        monotonic: Seconds of a clock that never goes back.
        message_id: Gives an id to each message to the cloud, by which a consumer can drop a repeat.
        sequence: Gives each result message to the cloud its number, by which a consumer can see a gap; None for none.
    """

    def __init__(
        self,
        configuration: Configuration,
        thing_name: str,
        monotonic: Callable[[], float],
        message_id: Callable[[], str],
        sequence: Callable[[], int] | None = None,
    ) -> None:
        self.configuration = configuration
        self._thing_name = thing_name
        self._monotonic = monotonic
        self._message_id = message_id
        self._sequence = sequence
        self._tokens = float(ERROR_BURST)
        self._refilled = monotonic()
        self._last_to_cloud: OrderedDict[str, float] = OrderedDict()
        self.errors_suppressed = 0
        self.last_rejection: Rejection | None = None

    def results(self, outcome: Outcome) -> list[Message]:
        """Messages for the result topic: one, or as many as its size needs. None for a reading that was rejected alone."""
        if not outcome.batch and not outcome.results:
            return []
        return self._encode(self.configuration.result_topic, outcome, outcome.items)

    def errors(self, outcome: Outcome) -> list[Message]:
        """Messages for the error topic, one for each rejection, as far as their rate allows."""
        messages = []
        for rejection in outcome.rejections:
            self.last_rejection = rejection
            if not self._allowed():
                self.errors_suppressed += 1
                continue
            message = rejection.as_message()
            if outcome.batch and rejection.correlation_id is None:
                message["correlation_id"] = outcome.correlation_id
            topic = self._topic(self.configuration.error_topic, rejection.equipment_id)
            messages.append(Message(topic, fit_error(message, payload_limit(topic))))
        return messages

    def cloud(self, outcome: Outcome) -> tuple[list[Message], int]:
        """Messages for the cloud.

        Returns:
            The messages, and how many scored readings `CloudPublish` does not want there.
        """
        results = outcome.results
        wanted = [result for result in results if self._wanted(result)]
        unwanted = len(results) - len(wanted)
        if not wanted:
            return [], unwanted
        items: Sequence[Result | Rejection] = wanted
        if outcome.batch and self.configuration.cloud_publish == "all":
            items = outcome.items
        return self._encode(self.configuration.cloud_topic, outcome, items, to_cloud=True), unwanted

    def alarms(self, events: Sequence[Event]) -> tuple[list[Message], list[Message]]:
        """Messages of alarms: for the local topic and for the cloud, which gets all of them whatever `CloudPublish` says."""
        local, cloud = [], []
        for event in events:
            topic = self._topic(self.configuration.alarm_topic, event.equipment_id)
            local.append(Message(topic, _fit_alarm(event.message, payload_limit(topic)), alarm=True))
            if self.configuration.cloud_alarm_topic:
                topic = self._topic(self.configuration.cloud_alarm_topic, event.equipment_id)
                payload = _fit_alarm(event.message | {"thing_name": self._thing_name}, payload_limit(topic))
                cloud.append(Message(topic, payload, alarm=True, id=f"{event.id}-{event.message['sequence']}"))
        return local, cloud

    def reply(self, reply: JsonObject) -> Message:
        """The reply to a request about alarms."""
        topic = f"{self.configuration.control_topic}/reply"
        payload = dump(reply)
        if len(payload) > payload_limit(topic):
            short = {key: reply[key] for key in ("correlation_id", "action") if key in reply}
            payload = dump(short | {"ok": False, "error": "the reply is larger than a message may be"})
        return Message(topic, payload)

    def cloud_health(self, message: JsonObject) -> Message | None:
        """The health message for the cloud; None where none is wanted."""
        if not self.configuration.cloud_health_topic:
            return None
        topic = self._topic(self.configuration.cloud_health_topic, "")
        identifier = self._message_id()
        payload = dump(message | {"id": identifier})
        if len(payload) > payload_limit(topic):
            payload = dump(message | {"id": identifier, "problems": dict.fromkeys(message["problems"], "")})
        return Message(topic, payload, id=identifier)

    def probe(self) -> Message | None:
        """What asks a nucleus that spools whether it is online (see `delivery.reach`); None where none may be sent."""
        topic = self.configuration.probe_topic
        if not topic or not self.configuration.cloud_qos:
            return None
        payload = dump({"thing_name": self._thing_name, "probe": True})
        return Message(self._topic(topic, ""), payload, id=PROBE_ID)

    def health(self, message: JsonObject) -> Message:
        """The message for the health topic."""
        topic = self._topic(self.configuration.health_topic, "")
        payload = dump(message)
        if len(payload) > payload_limit(topic):
            payload = dump(message | {"problems": {key: text[:80] for key, text in message["problems"].items()}})
        return Message(topic, payload)

    def _encode(
        self, template: str, outcome: Outcome, items: Iterable[Result | Rejection], *, to_cloud: bool = False
    ) -> list[Message]:
        extra: JsonObject = {"thing_name": self._thing_name} if to_cloud else {}
        messages = []
        for topic, items_of_topic in group_by(items, lambda equipment: self._topic(template, equipment)).items():
            if not outcome.batch:
                item = items_of_topic[0]
                messages.append(self._message(topic, _as_item(item) | extra, [item], to_cloud=to_cloud))
                continue
            group, summary = _summarised(items_of_topic)
            envelope: JsonObject = {"results": [], "correlation_id": outcome.correlation_id} | summary | extra
            # An id and a sequence are some 30 bytes each.
            parts = split([_as_item(item) for item in group], envelope, payload_limit(topic) - 75 * to_cloud)
            start = 0
            for message in parts:
                end = start + len(message["results"])
                messages.append(self._message(topic, message, group[start:end], to_cloud=to_cloud))
                start = end
        return messages

    def _message(
        self, topic: str, message: JsonObject, items: Sequence[Result | Rejection], *, to_cloud: bool
    ) -> Message:
        identifier = self._message_id() if to_cloud else ""
        if to_cloud:
            message["id"] = identifier
            if self._sequence is not None:
                message["sequence"] = self._sequence()
        results = [item for item in items if isinstance(item, Result)]
        # A model with alarms says by them what must not be lost.
        alarm = any(result.abnormal and not result.has_alarms for result in results)
        payload = dump(message)
        if len(payload) > payload_limit(topic):
            payload = dump(shorten(message, payload_limit(topic)))
        return Message(topic, payload, weight=len(results), alarm=alarm, id=identifier)

    def _topic(self, template: str, equipment_id: str) -> str:
        return render_topic(template, thing_name=self._thing_name, equipment_id=equipment_id)

    def _wanted(self, result: Result) -> bool:
        policy = self.configuration.cloud_publish
        if policy == "abnormal":
            return bool(result.abnormal)
        if policy == "changes":
            return self._is_news(result)
        return policy == "all"

    def _is_news(self, result: Result) -> bool:
        """Whether a machine changed its state, or was not heard of in the cloud for as long as a health interval."""
        moment = self._monotonic()
        last = self._last_to_cloud.get(result.equipment_id)
        due = last is None or moment - last >= self.configuration.health_interval_seconds
        if not due and not result.state_changed:
            return False
        self._last_to_cloud[result.equipment_id] = moment
        self._last_to_cloud.move_to_end(result.equipment_id)
        if len(self._last_to_cloud) > MAX_MACHINES:
            self._last_to_cloud.popitem(last=False)
        return True

    def _allowed(self) -> bool:
        """A token bucket."""
        moment = self._monotonic()
        self._tokens = min(ERROR_BURST, self._tokens + (moment - self._refilled) * ERRORS_PER_SECOND)
        self._refilled = moment
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _summarised(items: list[Result | Rejection]) -> tuple[list[Result | Rejection], JsonObject]:
    """A batch's items, of too many rejected ones the first few, and then the count of all."""
    rejected = sum(isinstance(item, Rejection) for item in items)
    if rejected <= MAX_REJECTIONS:
        return items, {}
    listed = set([place for place, item in enumerate(items) if isinstance(item, Rejection)][:FIRST_REJECTIONS])
    kept = [item for place, item in enumerate(items) if isinstance(item, Result) or place in listed]
    return kept, {"rejected": {"count": rejected, "listed": FIRST_REJECTIONS}}


def _as_item(item: Result | Rejection) -> JsonObject:
    return item.as_message() if isinstance(item, Result) else item.as_result()


def _fit_alarm(message: JsonObject, limit: int) -> bytes:
    payload = dump(message)
    return payload if len(payload) <= limit else dump(message | {"explanation": []})
