"""What can go wrong between a component and its nucleus, to order.

Each verb does one thing that a runtime, a socket or a network really does, and nothing of it may happen unless a verb asked for it. Verbs can be called
from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Rule:
    """What happens to the next matching requests.

    Attributes:
        action: `never`: no answer. `late`: carried out and answered after `delay`. `event_first`: the response to a subscription waits for its first event.
        operation: Only for this operation, as `PublishToTopic`; None for all.
        component: Only for this component; None for all.
        times: For how many more requests; None for all that follow.
        delay: In seconds.
        carried_out: For `never`: whether the request is carried out all the same.
    """

    action: Literal["never", "late", "event_first"]
    operation: str | None
    component: str | None
    times: int | None
    delay: float = 0.0
    carried_out: bool = False


class Rules:
    """The rules in force, in the order in which they were given; the first that matches counts."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Puts a rule into force."""
        self._rules.append(rule)

    def clear(self) -> None:
        """Ends all rules."""
        self._rules.clear()

    def take(self, component: str, operation: str) -> Rule | None:
        """Returns the rule for a request, and counts it."""
        for rule in self._rules:
            if rule.component in (None, component) and rule.operation in (None, operation):
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times <= 0:
                        self._rules.remove(rule)
                return rule
        return None
