"""What goes wrong, and when: drawn by chance from a seed, so that a failure can be replayed. It does nothing by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from greengrass_sandbox import ProfileName

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One fault.

    Attributes:
        at: Seconds after the schedule's start.
        verb: A method of `faults.rig.Rig`, without its `do_`.
        arguments: Its arguments.
    """

    at: float
    verb: str
    arguments: Arguments

    def __str__(self) -> str:
        arguments = " ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.at:.2f} s {self.verb} {arguments}".strip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens on one runtime.

    Attributes:
        seed: What it was drawn from.
        seconds: How long readings come and faults happen.
        rate: Messages a second.
        machines: Machines that send them.
        queue: `MaxQueue`.
        steps: In order.
        profile: The runtime.
    """

    seed: int
    seconds: float
    rate: float
    machines: int
    queue: int
    steps: tuple[Step, ...]
    profile: ProfileName = "classic"

    @property
    def kills(self) -> bool:
        """Whether a process ends without a chance to close its books."""
        return any(step.verb == "kill" for step in self.steps)

    @property
    def forgets(self) -> bool:
        """Whether an outage may go by unseen, and with it what nucleus lite had only written to its socket.

        The component learns of an outage on lite by a message that is refused. One that is shorter than the time in which
        nothing is answered refuses none.
        """
        return (
            self.profile == "lite" and self.loses_answers and any(step.verb == "cloud_offline" for step in self.steps)
        )

    @property
    def reorders(self) -> bool:
        """Whether the nucleus itself changes the order of local messages, by losing one or by taking its time over it."""
        return any(
            step.verb in ("never", "late") and step.arguments["operation"] in ("PublishToTopic", None)
            for step in self.steps
        )

    @property
    def loses_answers(self) -> bool:
        """Whether the component can be left in doubt about what the nucleus took."""
        return any(step.verb in _DOUBT for step in self.steps)


_OPERATIONS = (
    "PublishToTopic",
    "PublishToTopic",
    "PublishToIoTCore",
    "PublishToIoTCore",
    "GetConfiguration",
    "SubscribeToTopic",
    None,
)


def _span(random: Random) -> float:
    return round(random.uniform(0.05, 0.5), 2)


_VERBS: dict[str, tuple[int, Callable[[Random], Arguments]]] = {
    "drop": (4, lambda random: {"times": random.choice((1, 1, 1, 2, 3))}),
    "refuse": (1, lambda random: {"times": random.choice((1, 2))}),
    "restart_nucleus": (1, lambda _: {}),
    "stall": (2, lambda random: {"seconds": _span(random)}),
    "never": (
        3,
        lambda random: {
            "operation": random.choice(_OPERATIONS),
            "times": random.choice((1, 2, 5)),
            "carried_out": random.random() < 0.5,
        },
    ),
    "late": (
        2,
        lambda random: {
            "operation": random.choice(_OPERATIONS),
            "times": random.choice((1, 5, 20)),
            "seconds": _span(random),
        },
    ),
    "event_first": (1, lambda _: {}),
    "forget": (1, lambda random: {"operation": random.choice(("SubscribeToTopic", "SubscribeToConfigurationUpdate"))}),
    "cloud_offline": (4, lambda random: {"seconds": _span(random)}),
    "slow_consumer": (1, lambda random: {"seconds": round(random.uniform(0.005, 0.03), 3)}),
    "burst": (2, lambda random: {"messages": random.choice((50, 200, 500))}),
    "configure": (
        2,
        lambda random: random.choice(
            (
                {"Threshold": 0.3},
                {"DebounceReadings": 3},
                {"ExplainTopK": 0},
                {"CloudPublish": "abnormal"},
                {"CloudPublish": "none"},
                {"CloudQos": 0},
                {"MaxQueue": 5},
                {"Threshold": "high"},
            )
        ),
    ),
    "swap_model": (1, lambda _: {}),
    "terminate": (1, lambda _: {}),
    "kill": (1, lambda _: {}),
}
_ONLY: dict[ProfileName, dict[str, tuple[int, Callable[[Random], Arguments]]]] = {
    "classic": {"spool_full": (2, lambda random: {"seconds": _span(random)})},
    "lite": {
        "small_window": (1, lambda random: {"size": random.choice((0, 1, 3)), "seconds": _span(random)}),
        "withhold_acknowledgements": (1, lambda random: {"seconds": _span(random)}),
        "deadly_message": (1, lambda _: {}),
    },
}
_RESTARTS = frozenset({"refuse", "restart_nucleus", "terminate", "kill"})
_DOUBT = frozenset(
    {"drop", "refuse", "restart_nucleus", "stall", "never", "late", "event_first", "terminate", "kill", "slow_consumer"}
)


def draw(seed: int, profile: ProfileName) -> Schedule:
    """Draw a schedule.

    Args:
        seed: The same seed gives the same schedule.
        profile: The runtime: some faults exist on one only.
    """
    random = Random(f"{profile} {seed}")
    verbs = _VERBS | _ONLY[profile]
    seconds = round(random.uniform(0.6, 1.2), 2)
    names = random.choices(list(verbs), [weight for weight, _ in verbs.values()], k=random.choice((1, 2, 2, 3, 3, 4)))
    if set(names) & _RESTARTS and "configure" in names:
        # A process that starts with a wrong configuration ends with 1, as it should; nothing could be learnt from that here.
        names = ["swap_model" if name == "configure" else name for name in names]
    steps = [Step(round(random.uniform(0.05, seconds * 0.8), 2), name, verbs[name][1](random)) for name in names]
    return Schedule(
        seed=seed,
        seconds=seconds,
        rate=random.choice((20, 100, 200, 400)),
        machines=random.choice((1, 3, 10)),
        queue=random.choice((10_000, 10_000, 20)),
        steps=tuple(sorted(steps, key=lambda step: step.at)),
        profile=profile,
    )
