"""The component as a whole: the feed's messages go into the line, the line's minutes into the history, and the page to browsers.

One event loop owns the line; the history has a thread of its own, and so have the feed and the SDK. It ends with 0 when asked to,
with 1 when it cannot start, with 75 when only a restart by the nucleus can help. A bad message, a full disk, a port that is taken or
a bad new configuration are no reasons to end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from inference_dashboard.exposition import Exposition
from inference_dashboard.feed import EXIT_CANNOT_START, Feed, Inbox
from inference_dashboard.history import Batch, History, open_history
from inference_dashboard.line import Line
from inference_dashboard.server import Live, Server, certificate_changed
from inference_dashboard.settings import Settings
from ml_inference.greengrass.errors import NucleusUnavailableError
from ml_inference.greengrass.session import Connector
from ml_inference.logs import log_to_nucleus

DRAIN_SECONDS = 0.1
"""Between looks into the inbox: cheaper than waking the loop for each message."""
SLICE_SECONDS = 0.03
"""Longest time for which messages keep browsers waiting."""
TICK_SECONDS = 0.5
"""Between live events: an alarm has to be on the page within a second."""
WRITE_SECONDS = 2.0
"""Between writes of alarms and states; minutes are written when they end."""
CERTIFICATE_SECONDS = 60.0
LISTEN_AGAIN_SECONDS = 5.0

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the component; what the recipe starts.

    Args:
        argv: Arguments without the program's name; None for this process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="inference_dashboard", description="A page for the line. Started by a Greengrass nucleus."
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="configuration that wins over the nucleus's"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="where the history lives (default: here)")
    arguments = parser.parse_args(argv)
    overrides = {}
    for text in arguments.set:
        key, equals, value = text.partition("=")
        if not equals:
            parser.error(f"--set {text}: expected KEY=VALUE")
        overrides[key] = value
    log_to_nucleus()
    try:
        connector = Connector()
    except NucleusUnavailableError as error:
        logger.error("%s", error)
        return EXIT_CANNOT_START
    return asyncio.run(Application(connector, arguments.work, overrides).run())


class Application:
    """Everything, put together.

    Args:
        connector: Opens connections to the nucleus.
        work: Where the history lives; survives restarts and updates.
        overrides: Configuration that wins over the nucleus's.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        connector: Connector,
        work: Path,
        overrides: Mapping[str, Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._path = work / "history" / "dashboard.sqlite"
        self._line = Line(clock)
        self._inbox = Inbox()
        self._settings: asyncio.Queue[Settings] = asyncio.Queue()
        self._done = asyncio.Event()
        self._code = 0
        self._history: History | None = None
        self._history_problem: str | None = None
        # One thread: SQLite is asked and told in the order of the calls.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._server: Server | None = None
        self._server_problem: str | None = None
        self._started = clock()
        self._restored = asyncio.Event()
        self._minute = int(clock() // 60)
        self._login = False
        self._exposition = Exposition(self._line, self._own_figures, clock)
        self._feed = Feed(connector, self._inbox, on_settings=self._configured, on_end=self._ended, overrides=overrides)

    async def run(self) -> int:
        """Run until asked to stop, or until it cannot go on; the exit code."""
        self._loop = loop = asyncio.get_running_loop()
        self._live = Live(self._line, self._extra, self._clock)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._done.set)
        self._feed.start()
        tasks = [asyncio.create_task(work()) for work in (self._serve, self._drain, self._tick, self._write)]
        for task in tasks:
            task.add_done_callback(self._failed)
        await self._done.wait()
        self._feed.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop()
        self._take_slice(1.0)
        await self._save(last=True)
        self._disk.shutdown(wait=True)
        logger.info("ended after %d messages", sum(self._line.counts.messages.values()))
        return self._code

    # Told by the feed, in its thread.

    def _configured(self, settings: Settings) -> None:
        self._loop.call_soon_threadsafe(self._settings.put_nowait, settings)

    def _ended(self, code: int) -> None:
        def end() -> None:
            self._code = code
            self._done.set()

        self._loop.call_soon_threadsafe(end)

    def _failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal error", exc_info=error)
            self._code = 1
            self._done.set()

    # The work.

    async def _serve(self) -> None:
        """Serve the page as configured, from one configuration to the next."""
        settings = await self._settings.get()
        await self._open_history(settings)
        changed = certificate_changed(settings)
        while True:
            logging.getLogger().setLevel(settings.log_level)
            self._login = bool(settings.token)
            if self._history is not None:
                self._history.limit_bytes = settings.history_megabytes * 1024 * 1024
            if self._server is None:
                await self._listen(settings)
            wait = CERTIFICATE_SECONDS if self._server is not None else LISTEN_AGAIN_SECONDS
            try:
                new = await asyncio.wait_for(self._settings.get(), wait)
            except asyncio.TimeoutError:
                if self._server is not None and certificate_changed(settings) != changed:
                    changed = certificate_changed(settings)
                    try:
                        self._server.renew_certificate()
                        logger.info("the certificate was read again")
                    except OSError as error:
                        logger.error("the new certificate cannot be read, the old one stays: %s", error)
                continue
            if self._server is not None and _serving(new) != _serving(settings):
                await self._server.stop()
                self._server = None
            settings, changed = new, certificate_changed(new)

    async def _listen(self, settings: Settings) -> None:
        try:
            server = Server(
                settings,
                line=self._line,
                live=self._live,
                ask=self._ask_as_it_is_now,
                exposition=self._exposition,
                clock=self._clock,
            )
            await server.start()
        except OSError as error:
            problem = f"cannot serve at {settings.listen_address} port {settings.port}: {error}"
            if problem != self._server_problem:
                logger.error("%s; trying again", problem)
            self._server_problem = problem
        else:
            self._server, self._server_problem = server, None

    async def _open_history(self, settings: Settings) -> None:
        def begin() -> None:
            self._history, restored = open_history(self._path, settings.history_megabytes * 1024 * 1024, self._clock())
            self._loop.call_soon_threadsafe(
                lambda: self._line.restore(
                    restored.machines, restored.columns, restored.features, restored.open_alarms, restored.model
                )
            )

        try:
            await self._loop.run_in_executor(self._disk, begin)
        except (OSError, sqlite3.Error) as error:
            self._history_problem = str(error)
            logger.error("no history: %s", error)
        self._restored.set()

    async def _drain(self) -> None:
        await self._restored.wait()
        while True:
            more = self._take_slice(SLICE_SECONDS)
            await asyncio.sleep(0 if more else DRAIN_SECONDS)

    def _take_slice(self, seconds: float) -> bool:
        """Take messages for some time; returns whether more wait."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            message = self._inbox.take()
            if message is None:
                return False
            kind, payload, arrived = message
            self._line.take(kind, payload, arrived)
        return True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for event, alarm in self._line.news:
                logger.info("alarm %s: %s %s %s", event, alarm.kind, json.dumps(alarm.machine), alarm.sensor or "")
            self._line.news.clear()
            self._live.tick()

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            if self._restored.is_set():
                await self._save()

    async def _save(self, *, last: bool = False) -> None:
        """Write what is new; the running minute only at its end, or at our own."""
        line, minute = self._line, int(self._clock() // 60)
        batch = Batch(minute=self._minute)
        if minute != self._minute or last:
            for machine in line.machines.values():
                packed = machine.minute.take()
                if packed is not None:
                    batch.records[machine.number] = packed
                    line.dirty_machines.add(machine.number)
            self._minute = minute
        batch.alarms = list(line.dirty_alarms.values())
        machines = (line.by_number[number] for number in line.dirty_machines)
        batch.machines = [(machine.number, machine.name, machine.heard, line.saved(machine)) for machine in machines]
        if line.dirty_features:
            batch.facts = {
                "columns": list(line.columns),
                "features": [feature.as_json() for feature in line.features.values()],
                "model": line.model,
            }
        if not (batch.records or batch.alarms or batch.machines or batch.facts):
            return
        line.dirty_alarms.clear()
        line.dirty_machines.clear()
        line.dirty_features = False
        try:
            await self._ask(lambda history: history.write(batch))
        except OSError as error:
            if self._history_problem is None:
                logger.error("the history cannot be written: %s", error)
            self._history_problem = str(error)
            # Alarms are few and matter most: they are re-sent with the next batch.
            line.dirty_alarms = {alarm.id: alarm for alarm in batch.alarms} | line.dirty_alarms
        else:
            if self._history_problem is not None:
                logger.info("the history can be written again")
            self._history_problem = None

    async def _ask_as_it_is_now(self, question: Callable[[History], Any]) -> Any:
        """Ask with every alarm that is known: a browser that asks once must not miss one that waits to be written."""
        if self._line.dirty_alarms:
            await self._save()
        return await self._ask(question)

    async def _ask(self, question: Callable[[History], Any]) -> Any:
        history = self._history
        if history is None:
            raise OSError(f"no history: {self._history_problem}")
        try:
            return await self._loop.run_in_executor(self._disk, question, history)
        except sqlite3.Error as error:
            raise OSError(f"history: {error}") from error

    # What is told of this process.

    def _extra(self) -> dict[str, Any]:
        problems = {
            "configuration": self._feed.problem,
            "history": self._history_problem,
            "dropped": f"{self._inbox.dropped} messages" if self._inbox.dropped else None,
        }
        return {
            "connected": self._feed.connected,
            "own_problems": {key: text for key, text in problems.items() if text},
            "started": round(self._started),
            "login": self._login,
        }

    def _own_figures(self) -> dict[str, float]:
        return {
            "connected": float(self._feed.connected),
            "browsers": float(self._live.browsers),
            "inbox": float(len(self._inbox)),
            "dropped_messages": float(self._inbox.dropped),
            "started_timestamp_seconds": self._started,
        }


def _serving(settings: Settings) -> tuple[object, ...]:
    """What of a configuration needs another server."""
    return (
        settings.listen_address,
        settings.port,
        settings.token,
        settings.tls_certificate,
        settings.tls_key,
        settings.behind_proxy,
    )
