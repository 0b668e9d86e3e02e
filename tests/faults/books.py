"""What was sent and what was seen of it, held against what the component says of itself.

Only what crossed the nucleus counts: the component's own figures are what is judged here, never what it is judged by.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.schedule import Schedule
from ml_inference.serving.last_good import MAX_DEATHS
from support.line import accounted

BLAMED = "the process died"
"""What health says of a model with which the process died again and again while it was on trial."""
WINDOW = 10
"""Messages that nucleus lite has on their way to the cloud at most."""
GARBAGE = "garbage "
"""How a message begins that is no JSON; its number follows."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A reading that was sent.

    Attributes:
        machine: Whose it is.
        life: Which process was there to hear it.
        kind: `normal` or `abnormal`.
    """

    machine: str
    life: int
    kind: str


@dataclass
class Life:
    """What was seen of one process.

    Attributes:
        results: Readings with a result on the local topic, in the order in which they came first.
        repeats: Results that came again.
        rejected: Readings, or messages, with an error.
        health: The process's last health message.
    """

    results: dict[int, None] = field(default_factory=dict)
    repeats: int = 0
    rejected: set[int] = field(default_factory=set)
    health: Mapping[str, Any] | None = None


@dataclass
class Books:
    """Everything seen on one nucleus.

    Attributes:
        scores: What a reading of each kind is scored with, by model version and kind.
        life: Number of the process that runs.
        closed: Readings that processes which ended well counted as delivered.
        owed: Readings that the last process left in the outbox; None where it could not say.
        killed: Processes that were.
    """

    scores: Mapping[tuple[str, str], float]
    sent: dict[int, Sent] = field(default_factory=dict)
    lives: defaultdict[int, Life] = field(default_factory=lambda: defaultdict(Life))
    cloud: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    life: int = 0
    closed: int = 0
    owed: int | None = 0
    killed: int = 0
    wrong: list[str] = field(default_factory=list)
    _settled: int = 0
    _first: int = 0

    def take_result(self, message: Mapping[str, Any]) -> None:
        """A message on the result topic."""
        for item in message.get("results", [message]):
            if "score" in item:
                self._take_score(item)

    def _take_score(self, item: Mapping[str, Any]) -> None:
        number = item["correlation_id"]
        sent = self.sent.get(number)
        if sent is None:
            self.wrong.append(f"a result for reading {number}, which nobody sent")
            return
        life = self.lives[sent.life]
        if number in life.results:
            life.repeats += 1
        life.results[number] = None
        expected = self.scores[item["model"]["version"], sent.kind]
        if abs(item["score"] - expected) > 1e-6:
            self.wrong.append(f"reading {number} says model {item['model']}, which does not score it {item['score']}")

    def take_error(self, message: Mapping[str, Any]) -> None:
        """A message on the error topic."""
        number = message["correlation_id"]
        if number is None and message["received"].startswith(GARBAGE):
            number = int(message["received"].removeprefix(GARBAGE))
        if number in self.sent:
            self.lives[self.sent[number].life].rejected.add(number)
        else:
            self.wrong.append(f"an error for what nobody sent: {message}")

    def take_cloud(self, message: Mapping[str, Any]) -> None:
        """A message that reached the cloud."""
        for item in message.get("results", [message]):
            if "score" in item:
                self.cloud[item["correlation_id"]].add(message["id"])

    def take_health(self, message: Mapping[str, Any]) -> None:
        """A health message of the process that runs."""
        if not accounted(message):
            self.wrong.append(f"the books do not balance: {json.dumps(message)}")
        if self.lives[self.life].health is None and self.owed is not None and message["state"] == "running":
            self._check_inheritance(message)
        self.lives[self.life].health = message

    def _check_inheritance(self, message: Mapping[str, Any]) -> None:
        carried = message["cloud"]["carried_over"]
        if carried not in (0, self.owed):  # 0 until the outbox is open
            self.wrong.append(f"{self.owed} readings were left in the outbox, {carried} were found")

    def end_life(self, last: Mapping[str, Any] | None) -> None:
        """The process has ended.

        Args:
            last: Its last figures; None if it had no chance to tell them.
        """
        if last is None:
            self.killed += 1
            health = self.lives[self.life].health
            self.closed += health["cloud"]["delivered"] if health else 0
            self.owed = None
        elif last["cloud"]:
            if not accounted(last):
                self.wrong.append(f"the books do not balance: {json.dumps(last)}")
            self.closed += last["cloud"]["delivered"]
            self.owed = last["cloud"]["waiting"]
        self.life += 1

    def open_items(self, schedule: Schedule) -> list[str]:
        """What does not agree yet, or never will, while nothing is sent and nothing is broken."""
        life = self.lives[self.life]
        if life.health is None:
            return ["no health message"]
        counts, cloud, local = (life.health[key] for key in ("counters", "cloud", "local"))
        suppressed = life.health.get("errors_suppressed", 0)  # nothing yet before a model is loaded
        delivered, arrived = self.closed + cloud["delivered"], len(self.cloud)
        surplus = delivered - arrived - self._settled
        # A process that was killed delivered more than it could tell.
        balance = delivered <= arrived if schedule.kills else 0 <= surplus <= (WINDOW if schedule.forgets else 0)
        items = {
            f"{counts['queued']} queued": counts["queued"] == 0,
            f"{counts['scored']} scored, {len(life.results)} results": counts["scored"] == len(life.results),
            f"{counts['rejected']} rejected, {len(life.rejected)} errors, {suppressed} suppressed": (
                counts["rejected"] == len(life.rejected) + suppressed
            ),
            f"{cloud['waiting']} waiting": cloud["waiting"] == 0,
            f"{cloud['expired']} expired": cloud["expired"] == 0,
            f"{local['failed']} local messages failed": local["failed"] == 0,
            f"{delivered} delivered, {arrived} in the cloud (before: {self._settled:+})": balance,
            f"problems {life.health['problems']}": not self._unexpected(life.health["problems"]),
        }
        return [item for item, holds in items.items() if not holds]

    def _unexpected(self, problems: Mapping[str, str]) -> bool:
        """Whether there is a problem but that a model is blamed for processes that were killed while it was on trial."""
        return any(kind != "model" or BLAMED not in text or self.killed < MAX_DEATHS for kind, text in problems.items())

    def settle(self, schedule: Schedule) -> list[str]:
        """What is wrong now that all agrees; the next schedule begins from here."""
        self.wrong += [
            f"reading {number} was scored {len(ids)} times" for number, ids in self.cloud.items() if len(ids) > 1
        ]
        self.wrong += [
            f"reading {number} in the cloud, which nobody sent" for number in self.cloud.keys() - self.sent.keys()
        ]
        for life in self.lives.values():
            if not schedule.reorders:
                self._check_order(life)
            if life.repeats and not schedule.loses_answers:
                self.wrong.append(f"{life.repeats} results came twice for no reason")
        health = self.lives[self.life].health
        if health is not None:
            self._settled = self.closed + health["cloud"]["delivered"] - len(self.cloud)
        wrong, self.wrong = self.wrong, []
        for life in self.lives.values():
            life.repeats = 0
        self._first = len(self.sent)
        return wrong

    def totals(self) -> dict[str, int]:
        """How much was seen."""
        return {
            "readings sent": len(self.sent),
            "scored": sum(len(life.results) for life in self.lives.values()),
            "rejected": sum(len(life.rejected) for life in self.lives.values()),
            "in the cloud": len(self.cloud),
            "processes": len(self.lives),
        }

    def _check_order(self, life: Life) -> None:
        last: dict[str, int] = {}
        for number in life.results:
            if number < self._first:
                continue
            machine = self.sent[number].machine
            if last.get(machine, -1) > number:
                self.wrong.append(f"{machine}: the result of reading {number} came after that of {last[machine]}")
            last[machine] = number
