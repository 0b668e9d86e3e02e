"""The truth of a story: which episodes there are, on which sensors each one shows, and when it begins, shows and ends.

For training and for judging alarms. It is computed from the story's plan alone and must never depend on a reading.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any


@dataclass(frozen=True, slots=True)
class Truth:
    """One episode. Moments are those of the first reading that it can affect, so that they compare with timestamps of readings."""

    equipment_id: str
    episode: str
    """Unique in the story; the rows' ``episode`` for an episode of the label."""
    kind: str
    """``equipment`` or ``sensor``: whether the machine is at fault or one of its sensors."""
    fault: str
    sensors: tuple[str, ...]
    """The fault's signature: the sensors that point to it."""
    onset: datetime
    label: datetime | None
    """From here on a maintenance engineer calls the machine abnormal; None where that never happens."""
    labelled: datetime | None
    """From here on the line's own label says so, late or never where people give it."""
    full: datetime
    """The fault has grown to its peak."""
    repair: datetime
    """The fault is gone."""
    back: datetime
    """The machine runs again."""

    def as_row(self) -> dict[str, Any]:
        """Give it for JSON, with moments as timestamps in UTC."""
        row = asdict(self)
        return {key: iso(value) if isinstance(value, datetime) else value for key, value in row.items()}


def iso(at: datetime) -> str:
    """Give a moment as the messages do: UTC, milliseconds, Z.

    Args:
        at: Aware.
    """
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
