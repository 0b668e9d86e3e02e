"""The simulator as a Greengrass component: publishes readings over IPC by the clock until it is stopped.

The only module that needs awsiotsdk. One connection for the process's life: the SDK never reconnects, and a nucleus that comes
back hands out a new token, so a lost connection ends the process and the runtime starts it again. It must never wait without a
limit for an answer, nor log a line a message.
"""

import logging
import math
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, wait
from datetime import datetime, timedelta, timezone
from types import FrameType
from typing import Any, Literal, NoReturn

import awsiot.greengrasscoreipc
from awsiot.eventstreamrpc import LifecycleHandler
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from sensor_simulator.fleet import LABEL, Row
from sensor_simulator.messages import malformed, message
from sensor_simulator.settings import Settings, SettingsError, parse, unknown

_log = logging.getLogger(__name__)

EXIT_CANNOT_START, EXIT_CONNECTION_LOST = 1, 75
_ENVIRONMENT = ("SVCUID", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")
_ANSWER_S = 10.0
"""Time limit of every call; nucleus lite can block five seconds for each message that a stalled subscriber leaves unread."""
_MAX_IN_FLIGHT = 200
"""Messages without an answer, some 100 kB; more are dropped and counted."""
_SUMMARY_S = 60.0
_TICK_S = 0.5
"""Longest wait: Python does not end one for a signal that comes the moment before it begins."""
_LATE_S = 1.0
"""More than this behind the clock (a suspended machine), and the missed readings are left out."""

_Event = Literal["stopped", "connection lost", "configuration changed"]


def publish_and_exit(overrides: Mapping[str, Any], *, seconds: float | None = None) -> NoReturn:
    """Publish, and end the process; see `publish`."""
    try:
        code = publish(overrides, seconds=seconds)
    except SystemExit as end:
        code = int(end.code or 0)
    logging.shutdown()
    # The SDK's native threads may take their time to end, and the nucleus kills after 5 s.
    os._exit(code)


def publish(overrides: Mapping[str, Any], *, seconds: float | None = None) -> int:
    """Publish until SIGTERM or SIGINT, for a time, or until the connection is lost.

    Call it from the main thread of a process that a nucleus started: it installs signal handlers.

    Args:
        overrides: By configuration key; stronger than the nucleus's configuration.
        seconds: When to end; None for no end.

    Returns:
        The process's exit code: 0 when the time is over, 1 when it cannot start, 75 when the connection is lost or refused.

    Raises:
        SystemExit: With code 0, on SIGTERM or SIGINT, wherever the process is.
    """
    missing = [name for name in _ENVIRONMENT if not os.environ.get(name)]
    if missing:
        _log.error("not started by a nucleus: %s not set", ", ".join(missing))
        return EXIT_CANNOT_START
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()

    def leave(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # nucleus lite may send it twice
        # Python drops an exception that is raised inside a callback of the SDK; the word in the queue stays.
        events.put("stopped")
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        connection = awsiot.greengrasscoreipc.connect(lifecycle_handler=_Watch(events), timeout=_ANSWER_S)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises here, a restart with a new token is the cure
        _log.error("no connection to the nucleus: %r", error)
        return EXIT_CONNECTION_LOST
    # No executor: the one callback only puts a word into a queue.
    ipc = GreengrassCoreIPCClientV2(client=connection, executor=None)
    try:
        return _Session(ipc, events, overrides).run(seconds)
    finally:
        ipc.close()


class _Watch(LifecycleHandler):
    """Tells the main thread of a lost connection."""

    def __init__(self, events: "queue.SimpleQueue[_Event]") -> None:
        super().__init__()
        self._events = events

    def on_disconnect(self, reason: Exception | None) -> None:
        if reason is not None:
            _log.error("connection lost: %r", reason)
        self._events.put("connection lost")

    def on_error(self, error: Exception) -> bool:
        _log.error("connection error: %r", error)
        return True


class _Session:
    """What happens on one connection."""

    def __init__(
        self, ipc: GreengrassCoreIPCClientV2, events: "queue.SimpleQueue[_Event]", overrides: Mapping[str, Any]
    ) -> None:
        self._ipc = ipc
        self._events = events
        self._overrides = overrides
        self._outbound = _Outbound(ipc)
        self._sequence = 0
        self._abnormal: set[str] = set()
        self._summary_due = time.monotonic() + _SUMMARY_S

    def run(self, seconds: float | None) -> int:
        try:
            self._follow_configuration()
            settings = self._settings()
        except SettingsError as error:
            _log.error("configuration: %s", error)
            return EXIT_CANNOT_START
        except Exception as error:  # noqa: BLE001 - a timeout, or an error of the nucleus: a restart is the cure
            _log.error("configuration cannot be read: %r", error)
            return EXIT_CONNECTION_LOST
        ends = math.inf if seconds is None else time.monotonic() + seconds
        story = _Story(settings)
        try:
            while True:
                event = self._tell(story, settings, ends)
                if event == "stopped":
                    return 0
                if event == "connection lost":
                    return EXIT_CONNECTION_LOST
                if event is None:
                    self._outbound.wait()
                    return 0
                changed = self._changed(settings)
                # One merge brings an event for each leaf.
                if changed != settings:
                    settings, story = changed, _Story(changed)
                    self._abnormal.clear()
        finally:
            _log.info("ended: %s", self._outbound.summary())

    def _tell(self, story: "_Story", settings: Settings, ends: float) -> _Event | None:
        """Publish as the machines take their turns; returns at an event, or with None when the time is over."""
        # They share a period instead of all speaking at once.
        interval = 1.0 / (settings.rate_hz * settings.machines)
        due = time.monotonic()
        while due < ends:
            left = max(0.0, due - time.monotonic())
            try:
                return self._events.get(timeout=min(left, _TICK_S))
            except queue.Empty:
                if left > _TICK_S:
                    continue
            self._publish(story.read(datetime.now(timezone.utc)), settings)
            now = time.monotonic()
            due += interval
            if now - due > _LATE_S:
                due = now
            if now >= self._summary_due:
                self._summary_due = now + _SUMMARY_S
                _log.info("%s; abnormal now: %s", self._outbound.summary(), ", ".join(sorted(self._abnormal)) or "none")
        return None

    def _publish(self, row: Row, settings: Settings) -> None:
        (self._abnormal.add if row[LABEL] else self._abnormal.discard)(str(row["equipment_id"]))
        self._sequence += 1
        turn, rest = divmod(self._sequence, settings.bad_every) if settings.bad_every else (0, 1)
        if rest:
            self._outbound.send(settings.topic, message(row, self._sequence))
        else:
            self._outbound.malformed += 1
            self._outbound.send(settings.topic, malformed(row, self._sequence, turn - 1))

    def _follow_configuration(self) -> None:
        # A merge restarts the component on nucleus lite only.
        future, self._following = self._ipc.subscribe_to_configuration_update_async(
            key_path=[],
            on_stream_event=lambda _event: self._events.put("configuration changed"),
            on_stream_error=lambda _error: False,
        )
        try:
            future.result(_ANSWER_S)
        except model.GreengrassCoreIPCError as error:
            _log.warning("changes of the configuration will need a restart: %r", error)

    def _settings(self) -> Settings:
        try:
            answer = self._ipc.get_configuration_async(key_path=[]).result(_ANSWER_S)
        except model.ResourceNotFoundError:
            configured: dict[str, Any] = {}
        else:
            configured = answer.value or {}
        for key in unknown(configured):
            _log.warning("configuration: %s is not a key of this component", key)
        return parse(self._overrides, parse(configured, Settings()))

    def _changed(self, old: Settings) -> Settings:
        try:
            return self._settings()
        except Exception as error:  # noqa: BLE001 - a wrong change must not stop what runs
            _log.error("changed configuration not taken: %s", error)
            return old


class _Story:
    """Machines that take turns without end, and the time that it is in their story.

    An accelerated story begins in the past, so that its readings bear the times at which they happen in the story and none of them lies in the
    future. Once it has reached the present it goes on in real time.
    """

    def __init__(self, settings: Settings) -> None:
        _log.info("publishing to %s: %s", settings.topic, settings)
        self._machines = settings.fleet().machines
        self._turn = 0
        self._step = 1.0 / settings.rate_hz
        self._accelerate = settings.accelerate
        self._at: datetime | None = None
        if settings.accelerate > 1.0 and settings.start_days_ago > 0.0:
            self._at = datetime.now(timezone.utc) - timedelta(days=settings.start_days_ago)

    def read(self, now: datetime) -> Row:
        """Take the next machine's reading at a moment."""
        machine = self._machines[self._turn]
        row = machine.read(step=self._step, at=self._at or now, accelerate=self._accelerate)
        self._turn += 1
        if self._turn == len(self._machines):
            self._turn = 0
            self._pass(now)
        return row

    def _pass(self, now: datetime) -> None:
        if self._at is None:
            return
        self._at += timedelta(seconds=self._step * self._accelerate)
        if self._at > now:
            _log.info("the story has reached the present and goes on in real time")
            self._at, self._accelerate = None, 1.0


class _Outbound:
    """Publishes without waiting, a bounded number at a time, and counts what became of it. For one thread."""

    def __init__(self, ipc: GreengrassCoreIPCClientV2) -> None:
        self._ipc = ipc
        self._in_flight: deque[tuple[float, Future[Any]]] = deque()
        self._works = True
        self.malformed = 0
        self.published = self.failed = self.unanswered = self.dropped = 0

    def summary(self) -> str:
        """What became of everything so far."""
        self._sweep()
        return (
            f"{self.published} published ({self.malformed} malformed), {self.failed} failed, {self.unanswered} unanswered, "
            f"{self.dropped} dropped, {len(self._in_flight)} in flight"
        )

    def send(self, topic: str, payload: bytes) -> None:
        self._sweep()
        if len(self._in_flight) >= _MAX_IN_FLIGHT:
            self.dropped += 1
            return
        try:
            operation = self._ipc.client.new_publish_to_topic()
            content = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
            operation.activate(model.PublishToTopicRequest(topic=topic, publish_message=content))
            future = operation.get_response()
            # Nucleus lite leaves it open, and each one that is open costs some 5 kB for as long as the connection lives.
            future.add_done_callback(lambda _: operation.close())
        except Exception as error:  # noqa: BLE001 - the SDK raises what it likes once a connection is going down
            self.failed += 1
            self._report(error)
        else:
            self._in_flight.append((time.monotonic() + _ANSWER_S, future))

    def wait(self) -> None:
        """Wait for the answers that are still due."""
        while self._in_flight:
            deadline, future = self._in_flight[0]
            wait([future], timeout=max(0.0, deadline - time.monotonic()))
            self._sweep()

    def _sweep(self) -> None:
        now = time.monotonic()
        while self._in_flight:
            deadline, future = self._in_flight[0]
            if future.done():
                error = future.exception()
                if error is None:
                    self.published += 1
                else:
                    self.failed += 1
                self._report(error)
            elif now >= deadline:
                self.unanswered += 1
                self._report(TimeoutError(f"no answer in {_ANSWER_S:g} s"))
            else:
                return  # answers come in order
            self._in_flight.popleft()

    def _report(self, error: BaseException | None) -> None:
        if self._works and error is not None:
            _log.warning("publishing fails: %r", error)
        elif not self._works and error is None:
            _log.info("publishing works again")
        self._works = error is None
