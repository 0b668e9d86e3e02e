"""What every source has: a thread of its own that connects, works until the connection is lost, and connects again."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from inference_bridge.extract import Sample
from ml_inference.backoff import Backoff

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
MAX_PROBLEM = 200
MAX_OUTGOING = 1000
"""Results and alarms that wait to be acknowledged or written; more are refused, and counted."""

logger = logging.getLogger(__name__)


class SourceError(Exception):
    """A source cannot work as it is configured, or lost its connection; the message says why."""


class Events(Protocol):
    """Who is told what a source hears; each may be called from any thread."""

    def message(self, source: str, topic: str, payload: bytes) -> Any:
        """A message came."""

    def retained(self, source: str) -> None:
        """A message came that the broker had kept from before: of unknown age, so it is left out."""

    def samples(self, source: str, samples: Iterable[Sample]) -> None:
        """Values came."""

    def missed(self, source: str, count: int) -> None:
        """Messages or values never came, as the protocol tells."""

    def connected(self, source: str, *, connected: bool) -> None:
        """The source has its connection, or lost it."""

    def feature(self, name: str) -> int:
        """Position of a feature."""

    def sample(self, machine: str, feature: int, value: Any, time: float | None, problem: str = "") -> Sample:
        """A value of a machine as the source names it, converted."""

    def secret(self, name: str) -> str:
        """A secret of the nucleus's secret manager.

        Raises:
            SourceError: There is none of that name.
        """


class Source(ABC):
    """A source.

    Args:
        name: In logs and in the health message.
        events: Who is told.

    Attributes:
        state: `connecting`, `connected`, `stopped`, or `finished` for a file that was read.
        problem: Why it is not connected.
        connections: How often it was.
        sessions_lost: How often the server had forgotten what it was to keep for this source while that was away.
        lost_seconds: For how long it was not connected, since it was first.
    """

    def __init__(self, name: str, events: Events) -> None:
        self.name = name
        self.events = events
        self.state = "connecting"
        self.problem: str | None = None
        self.connections = 0
        self.sessions_lost = 0
        self._lost_at: float | None = None
        self._lost_seconds = 0.0
        self.stopping = Event()
        self._backoff = Backoff(time.monotonic, first=FIRST_PAUSE_SECONDS, longest=LONGEST_PAUSE_SECONDS)
        self._thread = Thread(target=self._run, name=name, daemon=True)

    @property
    def lost_seconds(self) -> float:
        """For how long it was not connected, since it was first."""
        return self._lost_seconds + (time.monotonic() - self._lost_at if self._lost_at is not None else 0.0)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; `join` waits for it."""
        self.stopping.set()
        self.wake()

    def join(self, timeout: float) -> None:
        """Wait for its end.

        Args:
            timeout: Seconds.
        """
        self._thread.join(timeout)

    def wake(self) -> None:  # noqa: B027 - only some wait for something else than `stopping`
        """Let it notice that it shall end."""

    @abstractmethod
    def work(self) -> None:
        """Connect, call `is_connected`, and work until the connection is lost or `stopping` is set.

        Raises:
            Exception: What ended it.
        """

    def is_connected(self) -> None:
        """The connection is there, and what is needed over it."""
        self.connections += 1
        if self._lost_at is not None:
            self._lost_seconds += time.monotonic() - self._lost_at
            self._lost_at = None
        self.state, self.problem = "connected", None
        self._backoff.succeeded()
        self.events.connected(self.name, connected=True)
        logger.info("%s: connected", self.name)

    def _run(self) -> None:
        while not self.stopping.is_set():
            problem = "the connection was closed"
            try:
                self.work()
            except Exception as error:
                problem = (str(error) or type(error).__name__)[:MAX_PROBLEM]
                logger.debug("%s", self.name, exc_info=True)
            if self.state == "connected":
                self._lost_at = time.monotonic()
                self.events.connected(self.name, connected=False)
            if self.state == "finished" or self.stopping.is_set():
                break
            if problem != self.problem:
                logger.warning("%s: %s; connecting again", self.name, problem)
            self.state, self.problem = "connecting", problem
            self._backoff.failed()
            self.stopping.wait(max(0.0, self._backoff.at - time.monotonic()))
        if self.state != "finished":
            self.state = "stopped"


def read_password(file: str, secret: str, ask: Callable[[str], str]) -> str | None:
    """The password from a file or the secret manager; None for none.

    Raises:
        SourceError: It cannot be read.
    """
    if secret:
        return ask(secret)
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read the password from {file}: {error}") from None
