"""One connection at a time, opened again with growing pauses, until only a restart can help.

What every component of this repository needs and the SDK does not offer. Used from the component's supervising thread; it
never ends the process itself: `ConnectionLostError` says that it should end with `EXIT_CONNECTION_LOST`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from ml_inference.backoff import Backoff
from ml_inference.greengrass.errors import ConnectionLostError, NucleusUnavailableError, TokenRefusedError
from ml_inference.greengrass.session import Connector, Session

EXIT_CONNECTION_LOST = 75
"""EX_TEMPFAIL of sysexits.h: a temporary failure; the nucleus restarts the component, with a new token."""
MAX_TOKEN_REFUSALS = 2
"""Handshakes in a row that must be refused before it is the token: nucleus lite refuses one by closing the connection, and a
connection also closes because the nucleus is just going down."""

logger = logging.getLogger(__name__)


class Connection:
    """The supervised connection to the nucleus.

    Args:
        connector: Opens sessions.
        on_lost: Called on the SDK's thread when a session has ended; must only enqueue.
        monotonic: Seconds of a clock that never goes back.
        timeout: Seconds for one attempt.
        first_pause: Seconds after the first failed attempt.
        longest_pause: Seconds that it grows to.
        limit: Seconds without a connection after which only a restart, with a new token, can help.

    Attributes:
        session: The live session; None while there is none.
        confirmed: Whether it has proved itself.
    """

    def __init__(
        self,
        connector: Connector,
        on_lost: Callable[[Session], None],
        *,
        monotonic: Callable[[], float],
        timeout: float = 2.0,
        first_pause: float = 0.1,
        longest_pause: float = 5.0,
        limit: float = 60.0,
    ) -> None:
        self._connector = connector
        self._on_lost = on_lost
        self._monotonic = monotonic
        self._timeout = timeout
        self._limit = limit
        self._backoff = Backoff(monotonic, first=first_pause, longest=longest_pause)
        self._refusals = 0
        self.session: Session | None = None
        self.confirmed = False

    @property
    def next_attempt(self) -> float:
        """When `open` is due, in seconds of the clock; infinity while there is a session."""
        return inf if self.session is not None else self._backoff.at

    @property
    def down_for(self) -> float:
        """Seconds since the connection was lost; 0 without a loss."""
        return self._backoff.lasted

    def open(self) -> Session | None:
        """Try once, if it is due.

        Returns:
            The new session; None if it is not due or nobody answers, and the next attempt is scheduled.

        Raises:
            ConnectionLostError: Only a restart can help.
        """
        if self._monotonic() < self.next_attempt:
            return None
        try:
            session = self._connector.open(self._on_lost, self._timeout)
        except TokenRefusedError as error:
            self._refusals += 1
            if self._refusals >= MAX_TOKEN_REFUSALS:
                raise ConnectionLostError(f"{error}; a restart brings a new one") from error
            self._failed(str(error))
            return None
        except NucleusUnavailableError as error:
            self._failed(str(error))
            return None
        self._refusals = 0
        self.session, self.confirmed = session, False
        return session

    def give_up(self) -> None:
        """Let no call wait any longer. May be called from a signal handler."""
        self._connector.give_up()

    @property
    def given_up(self) -> bool:
        """Whether that was asked."""
        return self._connector.given_up

    def confirm(self) -> None:
        """The session has proved itself: what the component needs of it is in place, and the pauses begin anew."""
        self.confirmed = True
        self._backoff.succeeded()

    def drop(self, reason: str) -> None:
        """Give the session up and schedule the next.

        Raises:
            ConnectionLostError: There has been none for too long.
        """
        logger.warning("%s; connecting again", reason)
        self.close(timeout=0.5)
        self._failed(reason)

    def close(self, timeout: float = 0.2) -> None:
        """End the session, if there is one.

        Args:
            timeout: Seconds to wait for the socket to close.
        """
        session, self.session = self.session, None
        if session:
            session.close(timeout)

    def _failed(self, reason: str) -> None:
        self._backoff.failed()
        if self._backoff.lasted > self._limit:
            raise ConnectionLostError(f"no connection to the nucleus for {self._backoff.lasted:.0f} s: {reason}")
