"""What is known of the way to AWS IoT Core, and how the classic nucleus is asked for it.

Nucleus lite refuses every message while it is offline. The classic nucleus takes those of QoS 1 into its spool, which is in
memory unless its disk spooler is deployed, and forgets them when it ends. But it refuses those of QoS 0 ("Device is offline",
`MqttClient.publish`), unless `keepQos0WhenOffline` is set. So on classic a small message of QoS 0, the probe, goes before the
first result, every `PROBE_SECONDS` while results go, and at the end. It must never be sent where a device's policy might not
allow it: AWS IoT Core answers that by closing the connection of the whole device.

Not locked: `CloudPublisher` calls it under its own lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from ml_inference.delivery.routing import PROBE_ID, Message
from ml_inference.logs import Occurrences, escaped

PROBE_SECONDS = 10.0
"""Between two probes while results go to a nucleus that spools: at most 8,640 a day."""


logger = logging.getLogger(__name__)


def is_probe(message: Message) -> bool:
    """Whether a message is a probe, and nothing that has to arrive."""
    return message.id == PROBE_ID


class Reach:
    """Whether the cloud can be reached.

    Args:
        monotonic: Seconds of a clock that never goes back.

    Attributes:
        problem: What is wrong with the way to the cloud; None if nothing is known to be.
        probe: What a probe is; None where none may be sent.
        spools: Whether the nucleus takes messages while it is offline.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lost_at: float | None = None
        self._invalid = Occurrences()
        self._known: bool | None = None
        self._probed_at = -inf
        self._asking = False
        self._news = False
        self.problem: str | None = None
        self.probe: Message | None = None
        self.spools = False

    def begin(self, *, spools: bool) -> None:
        """A session begins, or one ends: nothing is known."""
        self.spools = spools
        self._known = None
        self._asking = False
        self._probed_at = -inf

    @property
    def probes(self) -> bool:
        """Whether the nucleus has to be asked."""
        return self.spools and self.probe is not None

    @property
    def closed(self) -> bool:
        """Whether the last probe was refused: what is sent now would only be spooled."""
        return self.probes and self._known is False

    @property
    def asks_first(self) -> bool:
        """Whether nothing but a probe may go."""
        return self.probes and self._known is not True

    def wants_probe(self, *, last: bool) -> bool:
        """Whether a probe is due.

        Args:
            last: Whether it would be the last: the component stops.
        """
        if not self.probes or self._asking:
            return False
        due = last or self._monotonic() - self._probed_at >= PROBE_SECONDS
        return self._known is not True or (self._news and due)

    @property
    def due(self) -> float:
        """When the next probe is due while results go, in seconds of the clock; infinity for not before one goes."""
        return self._probed_at + PROBE_SECONDS if self.probes and self._news and not self._asking else inf

    def ask(self) -> Message:
        """The probe, which goes out."""
        assert self.probe is not None  # noqa: S101 - else none was wanted
        self._asking = True
        self._news = False
        self._probed_at = self._monotonic()
        return self.probe

    def unanswered(self) -> None:
        """There will be no answer to it."""
        self._asking = False
        self._news = True

    def took(self) -> None:
        """The nucleus took a message, which on classic says nothing but that something is to be asked for."""
        self._news = True
        if not self.probes:
            self._reached()
        elif self._known and self._lost_at is None:
            self.problem = None  # a full spool has room again; what the last probe said holds until the next

    def took_probe(self) -> None:
        """The nucleus is connected to AWS IoT Core."""
        self._asking = False
        self._known = True
        self._reached()

    def refused_probe(self, text: str) -> None:
        """The nucleus is not connected."""
        self._asking = False
        self._known = False
        self.refused(text)

    def may_not_probe(self, text: str) -> None:
        """Probes are not allowed: the spool is believed from now on, as long as this session lasts."""
        self._asking = False
        self.spools = False
        self.problem = f"whether AWS IoT Core can be reached is not known: CloudProbeTopic: {text}"
        logger.warning("%s", self.problem)

    def refused(self, text: str) -> None:
        """The nucleus refused a message."""
        self.problem = f"AWS IoT Core: {text}"

    def out_of_reach(self) -> None:
        """It refused so many, or so clearly, that the cloud is out of reach: one line in the log until it is back."""
        if self._lost_at is None:
            self._lost_at = self._monotonic()
            logger.warning("%s; it is out of reach, results wait in the outbox", self.problem)

    def invalid(self, message: Message, text: str) -> None:
        """A message is dropped since it would be refused for ever."""
        if self._invalid.add():
            form = "%d messages for the cloud were dropped; the last, to '%s': %s"
            logger.error(form, self._invalid.count, escaped(message.topic), text)

    def _reached(self) -> None:
        self.problem = None
        if self._lost_at is not None:
            logger.info("AWS IoT Core can be reached again after %.0f s", self._monotonic() - self._lost_at)
            self._lost_at = None
