"""Listens on the local topics, over one connection to the nucleus at a time, and never publishes.

It runs in a thread of its own; the SDK's callbacks only put messages into the `Inbox`, which is bounded: a page that cannot keep up
costs messages that are counted, never the device's IPC. A connection that is lost is opened again; a token that the nucleus refuses
is final, and only a restart by the nucleus brings a new one. On nucleus lite a subscription can die without a word, so one that
stays silent is renewed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from inference_dashboard.line import Kind
from inference_dashboard.settings import Settings, SettingsError, parse, unknown
from ml_inference.greengrass.connection import EXIT_CONNECTION_LOST, Connection
from ml_inference.greengrass.errors import CallFailedError, ConnectionLostError
from ml_inference.greengrass.hearing import Hearing
from ml_inference.greengrass.session import Connector, Session

MAX_MESSAGES = 20_000
MAX_BYTES = 16 * 1024 * 1024
"""What may wait in the inbox: some ten seconds of all that a nucleus carries."""
EXIT_CANNOT_START = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the feed waits for what; all in seconds.

    Attributes:
        connect: For one attempt to connect.
        first: Pause after a failed attempt; it doubles.
        longest: Longest pause.
        limit: Without a connection, after which only a restart, with a new token, can help.
        silence: Without a message, after which a subscription is renewed; it doubles while nothing comes.
        longest_silence: Longest such time: alarms may be rare.
        poll: Between looks at the configuration: on nucleus lite its events can die in silence.
    """

    connect: float = 2.0
    first: float = 0.1
    longest: float = 5.0
    limit: float = 60.0
    silence: float = 30.0
    longest_silence: float = 600.0
    poll: float = 30.0


class Inbox:
    """Messages on their way from the SDK's thread to the page's, in order and bounded."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Kind, bytes, float]] = deque()
        # Each is written by one thread only.
        self._put_bytes = 0
        self._taken_bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, kind: Kind, payload: bytes) -> None:
        """Enter a message; never waits. Drops it if there is no room."""
        if len(self._messages) >= MAX_MESSAGES or self._put_bytes - self._taken_bytes > MAX_BYTES:
            self.dropped += 1
            return
        self._put_bytes += len(payload)
        self._messages.append((kind, payload, time.time()))

    def take(self) -> tuple[Kind, bytes, float] | None:
        """The oldest message and the time of its arrival; None if there is none."""
        try:
            message = self._messages.popleft()
        except IndexError:
            return None
        self._taken_bytes += len(message[1])
        return message


class _Ear:
    """One topic, and when it was heard and subscribed to."""

    def __init__(self, kind: Kind, topic: str, inbox: Inbox, patience: float) -> None:
        self.topic = topic
        self.patience = patience
        self.renewed = time.monotonic()
        self.heard = 0.0
        self.refusal: str | None = None
        self.hearing = Hearing(self._take)
        self._kind = kind
        self._inbox = inbox

    def _take(self, payload: bytes) -> None:
        self.heard = time.monotonic()
        self._inbox.put(self._kind, payload)


class Feed:
    """The connection and what is done over it.

    Args:
        connector: Opens connections.
        inbox: Takes the messages.
        on_settings: Called in the feed's thread with the configuration, at the start and whenever it has changed.
        on_end: Called in the feed's thread with the exit code, when it cannot go on.
        overrides: Configuration that wins over the nucleus's.
        patience: How long it waits for what.
    """

    def __init__(
        self,
        connector: Connector,
        inbox: Inbox,
        *,
        on_settings: Callable[[Settings], None],
        on_end: Callable[[int], None],
        overrides: Mapping[str, Any],
        patience: Patience | None = None,
    ) -> None:
        self._connector = connector
        self._inbox = inbox
        self._on_settings = on_settings
        self._on_end = on_end
        self._overrides = overrides
        self._patience = patience or Patience()
        self._events: SimpleQueue[object] = SimpleQueue()
        self._settings: Settings | None = None
        self._ears: dict[Kind, _Ear] = {}
        self._thread = Thread(target=self._run, name="feed", daemon=True)
        self.connected = False
        self.problem: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Let no call wait any longer, and end."""
        self._connector.give_up()
        self._events.put("stop")
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            code = self._supervise()
        except Exception:
            logger.exception("internal error in the feed")
            code = EXIT_CONNECTION_LOST
        if code is not None:
            self._on_end(code)

    def _supervise(self) -> int | None:
        patience = self._patience
        connection = Connection(
            self._connector,
            self._events.put,
            monotonic=time.monotonic,
            timeout=patience.connect,
            first_pause=patience.first,
            longest_pause=patience.longest,
            limit=patience.limit,
        )
        try:
            while True:
                session = connection.open()
                if session is not None:
                    reason = "the connection to the nucleus is lost"
                    try:
                        code = self._converse(session, connection.confirm)
                    except CallFailedError as error:
                        code, reason = 0, str(error)
                    self.connected = False
                    if code is None or code:
                        return code
                    connection.drop(reason)
                if self._stopped(max(0.0, connection.next_attempt - time.monotonic())):
                    return None
        except ConnectionLostError as error:
            logger.error("%s", error)
            return EXIT_CONNECTION_LOST
        finally:
            self.connected = False
            connection.close()

    def _stopped(self, pause: float) -> bool:
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            try:
                if self._events.get(timeout=left) == "stop":
                    return True
            except Empty:
                break
        return False

    def _converse(self, session: Session, confirm: Callable[[], None]) -> int | None:
        """What happens on one connection; returns 0 when it is lost, None when asked to stop, else an exit code."""
        try:
            session.watch_configuration(lambda: self._events.put("configuration"))
        except CallFailedError as error:
            if not error.refused:
                raise
            logger.warning("%s; changes are found by looking", error)
        self._ears.clear()
        code = self._configure(session)
        if code:
            return code
        self.connected = True
        confirm()
        logger.info("connected to the nucleus")
        looked = time.monotonic()
        while True:
            try:
                event = self._events.get(timeout=1.0)
            except Empty:
                event = None
            if event == "stop":
                return None
            if event is session or session.lost.is_set():
                logger.warning("the connection to the nucleus is lost")
                return 0
            now = time.monotonic()
            look = event == "configuration" or now - looked >= self._patience.poll
            if look:
                looked = now
            self._maintain(session, now, look=look)

    def _maintain(self, session: Session, now: float, *, look: bool) -> None:
        """See to the configuration and to subscriptions that have fallen silent.

        Raises:
            CallFailedError: The nucleus does not answer, and nothing comes any more.
        """
        try:
            if look:
                self._configure(session)
            self._renew(session, now)
        except CallFailedError as error:
            # A nucleus that is busy answers late: as long as messages come, the connection is worth keeping.
            if now - max(ear.heard for ear in self._ears.values()) > self._patience.silence:
                raise
            logger.warning("%s; trying again later", error)

    def _configure(self, session: Session) -> int:
        """Read the configuration and listen where it says.

        Returns:
            0, or the exit code if there is nothing to go on with.
        """
        try:
            values = session.configuration()
            settings = parse(dict(values) | dict(self._overrides))
        except SettingsError as error:
            if str(error) != self.problem:
                logger.error("configuration: %s", error)
            self.problem = str(error)
            if self._settings is None:
                return EXIT_CANNOT_START
            settings = self._settings
        else:
            self.problem = None
            if settings != self._settings:
                for key in unknown(values):
                    logger.warning("configuration: %s is not a key of this component", key)
                self._settings = settings
                self._on_settings(settings)
        for kind, topic in settings.topics.items():
            self._listen(session, kind, topic)  # type: ignore[arg-type]
        return 0

    def _listen(self, session: Session, kind: Kind, topic: str) -> None:
        ear = self._ears.get(kind)
        if ear is not None and ear.topic == topic and ear.hearing.subscription is not None:
            return
        before = ear
        ear = self._ears[kind] = _Ear(kind, topic, self._inbox, self._patience.silence)
        if before is not None:
            ear.refusal = before.refusal
        self._subscribe(session, ear)
        if before is not None:
            before.hearing.end()

    def _subscribe(self, session: Session, ear: _Ear) -> None:
        """Subscribe, instead of the subscription before.

        Raises:
            CallFailedError: The nucleus does not answer.
        """
        try:
            ear.hearing.listen(session, ear.topic)
        except CallFailedError as error:
            if not error.refused:
                raise
            if ear.refusal != str(error):
                logger.error("%s (is the topic in accessControl?); trying again", error)
            ear.refusal = str(error)
            return
        ear.refusal = None

    def _renew(self, session: Session, now: float) -> None:
        """Subscribe again where nothing was heard for long."""
        for ear in self._ears.values():
            if ear.heard > ear.renewed and ear.patience > self._patience.silence:
                # It speaks again. What had cut it off may have cut off the others, too.
                for each in self._ears.values():
                    each.patience = self._patience.silence
            elif ear.hearing.subscription is not None and now - max(ear.heard, ear.renewed) >= ear.patience:
                logger.debug("nothing on %s for %g s: subscribing again", ear.topic, ear.patience)
                self._subscribe(session, ear)
                ear.renewed, ear.patience = now, min(self._patience.longest_silence, ear.patience * 2)
