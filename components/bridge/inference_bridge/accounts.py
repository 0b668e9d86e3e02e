"""The accounts: every message, value and reading is counted when it comes, and once more for what became of it.

At any time, under the intake's lock: messages received = read + unmatched + unreadable + retained; values received = assembled + superseded +
late + duplicate + missing + rejected + unmapped + dropped + waiting; readings assembled + carried_over = published + refused + dropped +
kept + waiting.
Names of what went wrong are kept for people, a bounded number of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

MAX_NAMES = 20
"""Examples of one kind that a health message shows."""


@dataclass(slots=True)
class MessageCounts:
    """Messages of one source.

    Attributes:
        received: All that came.
        read: Their values were taken.
        unmatched: No rule is for their topic.
        unreadable: No JSON, too large, or whatever else keeps a message as a whole from being read; some of its values may have been
            taken before.
        retained: The broker had kept them from before, nobody knows for how long; left out, unless the source reports by exception.
        missed: Never came, as the protocol tells: sequence numbers of Sparkplug B and OPC UA, and values for which an OPC UA server had no
            room (at least so many).
    """

    received: int = 0
    read: int = 0
    unmatched: int = 0
    unreadable: int = 0
    retained: int = 0
    missed: int = 0

    @property
    def balanced(self) -> bool:
        """Whether it adds up."""
        return self.received == self.read + self.unmatched + self.unreadable + self.retained


@dataclass(slots=True)
class ValueCounts:
    """Values, of all sources.

    Attributes:
        received: All that came.
        assembled: Went into a reading as new.
        superseded: A newer one came before a reading was due.
        late: Older than what was known.
        duplicate: The same again, of the same time.
        missing: Their source says that they are none: bad quality, null, or a number that stands for none.
        rejected: Could not be read: of the wrong kind, not finite, no time.
        unmapped: The mapping has no feature or machine for them.
        dropped: There was no room for another machine.
        waiting: For a reading.
    """

    received: int = 0
    assembled: int = 0
    superseded: int = 0
    late: int = 0
    duplicate: int = 0
    missing: int = 0
    rejected: int = 0
    unmapped: int = 0
    dropped: int = 0
    waiting: int = 0

    @property
    def balanced(self) -> bool:
        """Whether it adds up."""
        fates: int = sum(getattr(self, each.name) for each in fields(self)) - self.received
        return self.received == fates


@dataclass(slots=True)
class ReadingCounts:
    """Readings.

    Attributes:
        assembled: All that were made.
        carried_over: Taken over from the process before this one, which kept them.
        published: The nucleus took them.
        refused: It never will: too large for a message, or no permission.
        dropped: Waited too long for it, and made room.
        kept: For the next process, since this one ends.
        waiting: On their way.
        resent: Nobody knew what became of them when the connection was lost, so they were sent again.
    """

    assembled: int = 0
    carried_over: int = 0
    published: int = 0
    refused: int = 0
    dropped: int = 0
    kept: int = 0
    waiting: int = 0
    resent: int = 0

    @property
    def balanced(self) -> bool:
        """Whether it adds up."""
        fates = self.published + self.refused + self.dropped + self.kept + self.waiting
        return self.assembled + self.carried_over == fates


@dataclass(slots=True)
class Examples:
    """The last names of each kind of trouble, with the reason."""

    _by_kind: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, kind: str, name: str, reason: str = "") -> bool:
        """Remember one; whether it was not known."""
        names = self._by_kind.setdefault(kind, {})
        new = names.pop(name, None) is None
        names[name] = reason
        if len(names) > MAX_NAMES:
            del names[next(iter(names))]
        return new

    def as_json(self) -> dict[str, dict[str, str]]:
        """By kind: reasons by name, the last one last."""
        return {kind: dict(names) for kind, names in self._by_kind.items() if names}
