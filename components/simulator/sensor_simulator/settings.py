"""What can be set, read leniently from the nucleus or the command line; both share the keys, the limits and the messages.

A value may arrive as a string: nucleus lite gives every value of a local deployment as one. It must never guess: what cannot be
read is an error that names the key.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from sensor_simulator.faults import Fault
from sensor_simulator.fleet import Fleet
from sensor_simulator.sensor_faults import SensorFault, When

_E = TypeVar("_E", bound=Enum)


class SettingsError(ValueError):
    """A value cannot be used; the message names its key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The component's configuration; the defaults are the recipe's."""

    topic: str = "ml/inference/request"
    """Local topic to publish to."""
    machines: int = 4
    rate_hz: float = 1.0
    """Messages a second for each machine."""
    seed: int = 7
    story: int = 1
    """Which story; see `Fleet`."""
    fault_rate: float | None = None
    """Fault episodes that begin on a healthy machine a day of story; None for the story's own."""
    fault: Fault | None = None
    """Only this kind of fault; None for all."""
    accelerate: float = 600.0
    """Seconds of story a second: at 600 an episode of a day develops in two and a half minutes."""
    bad_every: int = 0
    """Every so many messages one is malformed; 0 for none."""

    sensor_fault_rate: float = 0.0
    """Sensors that break a day on a machine, beside the story's own faults."""
    sensor_fault_hours: float = 6.0
    """For how long, median."""
    sensor_fault: SensorFault | None = None
    """Only this way to break; None for all."""
    sensor_fault_when: When = When.ANY
    """When they break."""
    start_days_ago: float = 30.0
    """Over IPC an accelerated story begins so many days ago and goes on in real time once it has reached the present."""

    def fleet(self) -> Fleet:
        """Build the machines that are asked for."""
        return Fleet(
            machines=self.machines,
            seed=self.seed,
            story=self.story,
            fault_rate=self.fault_rate,
            fault=self.fault,
            accelerate=self.accelerate,
            sensor_fault_rate=self.sensor_fault_rate,
            sensor_fault_hours=self.sensor_fault_hours,
            sensor_fault=self.sensor_fault,
            sensor_fault_when=self.sensor_fault_when,
        )


def parse(values: Mapping[str, Any], base: Settings) -> Settings:
    """Put given values over a base.

    Args:
        values: By configuration key. None and "null" leave the base's value; unknown keys are left out (see `unknown`).
        base: For what is not given.

    Raises:
        SettingsError: If a value cannot be used.
    """
    given = {key: value for key, value in values.items() if key in _KEYS and value is not None and value != "null"}
    return replace(base, **{_KEYS[key][0]: parse_value(key, value) for key, value in given.items()})


def parse_value(key: str, value: Any) -> Any:
    """Read the value of one key.

    Args:
        key: One of the configuration's.
        value: As it arrived.

    Raises:
        SettingsError: If the value cannot be used.
    """
    try:
        return _KEYS[key][1](value)
    except SettingsError as error:
        raise SettingsError(f"{key}: expected {error}, got {value!r}") from None


def unknown(values: Mapping[str, Any]) -> list[str]:
    """Give the keys that mean nothing here."""
    return sorted(values.keys() - _KEYS.keys() - {"accessControl"})


def _topic(value: Any) -> str:
    # AWS IoT's limit of 256 bytes holds on both runtimes; wildcards are for subscribers.
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 256 or "+" in value or "#" in value:  # noqa: PLR2004
        raise SettingsError("a topic without wildcards")
    return value


def _one_of(kind: type[_E], *, all_of_them: bool) -> Callable[[Any], _E | None]:
    """Read a member by its value; where that has a meaning, "" is None."""

    def read(value: Any) -> _E | None:
        try:
            return None if all_of_them and value == "" else kind(value)
        except ValueError:
            raise SettingsError("one of " + ", ".join(str(member.value) for member in kind)) from None

    return read


def _number(says: str, lowest: float, highest: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not lowest <= number <= highest:  # NaN is in no range
            raise SettingsError(says)
        return number

    return read


def _integer(says: str, lowest: int, highest: int) -> Callable[[Any], int]:
    number = _number(says, lowest, highest)

    def read(value: Any) -> int:
        # A nucleus may hand out 4 as 4.0.
        if not number(value).is_integer():
            raise SettingsError(says)
        return int(number(value))

    return read


_KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "Topic": ("topic", _topic),
    "Machines": ("machines", _integer("an integer from 1 to 1000", 1, 1000)),
    "RateHz": ("rate_hz", _number("a number from 0.0001 to 1000", 0.0001, 1000.0)),
    "Seed": ("seed", _integer("an integer", -(2**53), 2**53)),
    "FaultRate": ("fault_rate", _number("a number from 0 to 1000", 0.0, 1000.0)),
    "Fault": ("fault", _one_of(Fault, all_of_them=True)),
    "Story": ("story", _integer("1 or 2", 1, 2)),
    "SensorFaultRate": ("sensor_fault_rate", _number("a number from 0 to 1000", 0.0, 1000.0)),
    "SensorFaultHours": ("sensor_fault_hours", _number("a number from 0.01 to 1000", 0.01, 1000.0)),
    "SensorFault": ("sensor_fault", _one_of(SensorFault, all_of_them=True)),
    "SensorFaultWhen": ("sensor_fault_when", _one_of(When, all_of_them=False)),
    "StartDaysAgo": ("start_days_ago", _number("a number from 0 to 3650", 0.0, 3650.0)),
    "Accelerate": ("accelerate", _number("a number from 0.001 to 100000", 0.001, 100_000.0)),
    "BadEvery": ("bad_every", _integer("an integer of 0 or more", 0, 2**53)),
}
