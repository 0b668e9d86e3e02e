"""The way out: results and alarms of the inference component to MQTT topics or OPC UA nodes, where a PLC or SCADA reads them.

Off unless the mapping has `outputs`. A machine's name from a message is looked up in the allow-list or escaped into a topic; it is
never a part of a node id. Values wait in bounded queues, the newest for each node.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

from inference_bridge.mapping import Mapping, MqttOutput, OpcUaOutput
from inference_bridge.sources.base import Source
from ml_inference.topics import render_topic

MAX_WAITING = 5000
MAX_OPEN_ALARMS = 10_000

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class OutputCounts:
    """What became of results and alarms: received = handed_on + not_listed + unreadable + dropped + waiting.

    Attributes:
        received: Messages of the inference component.
        handed_on: Went to each output's source, which counts what it sent.
        not_listed: No output is for them.
        unreadable: Neither a result nor an alarm.
        dropped: There was no room for them.
    """

    received: int = 0
    handed_on: int = 0
    not_listed: int = 0
    unreadable: int = 0
    dropped: int = 0


class Outputs:
    """Hands results and alarms on.

    Args:
        mapping: Its outputs.
        sources: The sources that they use, by name.
        thing_name: Of this device.
    """

    def __init__(self, mapping: Mapping, sources: dict[str, Source], thing_name: str) -> None:
        self._outputs = [(output, sources[output.source]) for output in mapping.outputs if output.source in sources]
        self._thing_name = thing_name
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._changed = Condition()
        self._open: dict[str, set[str]] = {}
        self._stopped = False
        self.counts = OutputCounts()
        self._thread = Thread(target=self._run, name="outputs", daemon=True)
        self._thread.start()

    def take(self, kind: str, payload: bytes) -> None:
        """Take a message; never waits.

        Args:
            kind: `result` or `alarm`.
            payload: As it came.
        """
        with self._changed:
            self.counts.received += 1
            if len(self._waiting) >= MAX_WAITING:
                self.counts.dropped += 1
                return
            self._waiting.append((kind, payload))
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Messages that were not looked at yet."""
        return len(self._waiting)

    def stop(self) -> None:
        """Hand on what waits, and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if not self._waiting:
                    return
                kind, payload = self._waiting[0]
            try:
                fate = self._hand_on(kind, payload)
            except Exception:
                logger.exception("internal error in an output")
                fate = "unreadable"
            with self._changed:
                self._waiting.popleft()
                setattr(self.counts, fate, getattr(self.counts, fate) + 1)

    def _hand_on(self, kind: str, payload: bytes) -> str:
        try:
            document = json.loads(payload)
        except (ValueError, RecursionError):
            return "unreadable"
        if not isinstance(document, dict):
            return "unreadable"
        results = document.get("results", [document]) if kind == "result" else [document]
        if not isinstance(results, list):
            return "unreadable"
        taken = True
        any_listed = False
        for result in results:
            if not isinstance(result, dict) or not isinstance(result.get("equipment_id"), str):
                return "unreadable"
            for output, source in self._outputs:
                if isinstance(output, MqttOutput):
                    listed, room = self._to_mqtt(output, source, kind, result)
                else:
                    listed, room = self._to_nodes(output, source, kind, result)
                any_listed |= listed
                taken &= room
        return ("handed_on" if taken else "dropped") if any_listed else "not_listed"

    def _to_mqtt(self, output: MqttOutput, source: Any, kind: str, document: dict[str, Any]) -> tuple[bool, bool]:
        template = output.result_topic if kind == "result" else output.alarm_topic
        if not template:
            return False, True
        topic = render_topic(template, thing_name=self._thing_name, equipment_id=document["equipment_id"])
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        return True, source.publish(topic, text, output.qos)

    def _to_nodes(self, output: OpcUaOutput, source: Any, kind: str, document: dict[str, Any]) -> tuple[bool, bool]:
        machine = document["equipment_id"]
        nodes = output.nodes.get(machine)
        if nodes is None:
            return False, True
        writes: list[tuple[str, float | bool]] = []
        if kind == "alarm":
            if nodes.alarm and document.get("kind") == "equipment" and isinstance(document.get("id"), str):
                writes.append((nodes.alarm, self._alarm_is_open(machine, document)))
        else:
            abnormal, score = document.get("state"), document.get("score")
            if nodes.abnormal and isinstance(abnormal, str):
                writes.append((nodes.abnormal, abnormal == "abnormal"))
            if nodes.score and isinstance(score, float | int) and not isinstance(score, bool):
                writes.append((nodes.score, float(score)))
        return bool(writes), [source.write(node, value) for node, value in writes].count(False) == 0

    def _alarm_is_open(self, machine: str, alarm: dict[str, Any]) -> bool:
        # An alarm may be told of again, and a new one opened before the old one is closed.
        opened = self._open.setdefault(machine, set())
        if alarm.get("event") == "closed":
            opened.discard(alarm["id"])
        elif len(opened) < MAX_OPEN_ALARMS:
            opened.add(alarm["id"])
        return bool(opened)
