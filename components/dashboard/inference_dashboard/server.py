"""The web server: the page's files, its data, live events, and `/metrics`.

Live events are deltas, made once for all browsers and never queued: each browser waits in its own task until the last one has gone
out, then gets all that has changed since. So a slow browser misses steps in between and slows nobody. It must never render anything
from a message: names go out as JSON, and the page puts them in as text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import mimetypes
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from inference_dashboard.access import MAX_FORM_BYTES, STATIC, Access
from inference_dashboard.exposition import CONTENT_TYPE, Exposition
from inference_dashboard.history import History
from inference_dashboard.line import Line, Machine, rounded
from inference_dashboard.settings import Settings

MAX_BROWSERS = 64
"""Live connections at a time; a browser holds one for each open page."""
KEEP_ALIVE_SECONDS = 2.0
"""Longest time without an event, so that a page knows that it is still connected."""
STALLED_SECONDS = 30.0
"""A browser that takes nothing for so long is cut off; it connects again when it can."""
SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel holds back for a browser that does not read; by itself it would let that grow to 4 MB each."""
RANGES = {"live": 300.0, "1h": 3600.0, "8h": 8 * 3600.0, "24h": 86_400.0, "7d": 7 * 86_400.0, "30d": 30 * 86_400.0}
POINTS = 480
"""Points of a curve: more than a chart has pixels bring nothing."""

logger = logging.getLogger(__name__)

Ask = Callable[[Callable[[History], Any]], Awaitable[Any]]
"""Runs a question in the history's thread; raises OSError when there is no history."""


class Live:
    """What is new, tick by tick.

    Args:
        line: The line.
        extra: What else belongs to the system's state.
        clock: Seconds since 1970.
    """

    def __init__(self, line: Line, extra: Callable[[], dict[str, Any]], clock: Callable[[], float]) -> None:
        self._line = line
        self._extra = extra
        self._clock = clock
        self._event = asyncio.Event()
        self._frames: dict[int, str] = {}
        self._last_extra: dict[str, Any] = {}
        self.ended = 0
        self.browsers = 0

    def tick(self) -> None:
        """End the running tick and wake those who wait."""
        extra = self._extra()
        if extra != self._last_extra:
            self._last_extra = extra
            self._line.system_changed = self._line.tick
        self.ended = self._line.advance()
        self._frames.clear()
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, after: int, timeout: float) -> None:
        """Wait for the end of a tick.

        Args:
            after: A tick that ended; a later one that has ended already is not waited for.
            timeout: Seconds.
        """
        if self.ended > after:
            return
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except asyncio.TimeoutError:
            return

    def frame(self, since: int) -> str:
        """All that has changed after a tick, as JSON; everything after tick 0."""
        frame = self._frames.get(since)
        if frame is None:
            line = self._line
            document: dict[str, Any] = {"now": round(self._clock(), 2)}
            if since == 0:
                document["all"] = [line.tile(machine, spark=True) for machine in line.machines.values()]
            else:
                document["moved"] = line.moved_since(since)
                document["changed"] = line.changed_since(since)
            if line.system_changed > since:
                document["system"] = line.system() | self._last_extra
            frame = self._frames[since] = dump(document)
        return frame


class Server:
    """The server for one configuration.

    Args:
        settings: Where to listen, and for whom.
        line: The line.
        live: Its news.
        ask: Runs questions to the history.
        exposition: The figures for Prometheus.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        line: Line,
        live: Live,
        ask: Ask,
        exposition: Exposition,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._line = line
        self._live = live
        self._ask = ask
        self._exposition = exposition
        self._clock = clock
        self._files = dict(_files())
        self._tls = _tls(settings) if settings.tls else None
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: The address or the port cannot be had, or the certificate cannot be read.
        """
        access = Access(self._settings, self._clock)
        application = web.Application(middlewares=[access.middleware], client_max_size=MAX_FORM_BYTES)
        access.install(application)
        for path in self._files:
            application.router.add_get(path, self._file)
        for path, handler in {
            "/api/live": self._stream,
            "/api/history": self._history,
            "/api/alarms": self._alarms,
            "/metrics": self._metrics,
        }.items():
            application.router.add_get(path, handler)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            listening = _socket(self._settings.listen_address, self._settings.port)
            await web.SockSite(self._runner, listening, ssl_context=self._tls).start()
        except OSError:
            await self._runner.cleanup()
            raise
        logger.info("the page is at %s", self.address)

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        assert self._runner is not None  # noqa: S101 - it is set by `start`
        host, port = self._runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}/"

    def renew_certificate(self) -> None:
        """Read the certificate again; new connections get it.

        Raises:
            OSError: It cannot be read.
        """
        if self._tls is not None:
            self._tls.load_cert_chain(self._settings.tls_certificate, self._settings.tls_key)

    async def stop(self) -> None:
        """Stop listening and end what is open."""
        self._stopping.set()
        self._live.tick()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _file(self, request: web.Request) -> web.Response:
        body, kind, tag = self._files[request.path]
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        machine = self._machine(request) if "n" in request.query else None
        live = self._live
        if live.browsers >= MAX_BROWSERS:
            raise web.HTTPServiceUnavailable(text="too many open pages\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        live.browsers += 1
        try:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            sent, sampled = -1, self._clock() - RANGES["live"]
            while not self._stopping.is_set():
                ended = live.ended
                if ended > sent:
                    text = f"data: {live.frame(max(0, sent))}\n\n"
                    if machine is not None:
                        samples, sampled = self._samples(machine, sampled)
                        text += f"event: samples\ndata: {dump(samples)}\n\n"
                    sent = ended
                else:
                    text = f'data: {{"now":{self._clock():.2f}}}\n\n'
                await asyncio.wait_for(response.write(text.encode()), STALLED_SECONDS)
                await live.wait(sent, KEEP_ALIVE_SECONDS)
        except (ConnectionError, asyncio.TimeoutError):
            pass
        finally:
            live.browsers -= 1
        return response

    def _samples(self, machine: Machine, since: float) -> tuple[dict[str, Any], float]:
        """The samples of a machine after a moment, and the moment of the last one."""
        scores = list(machine.scores.since(since))
        readings = list(machine.readings.since(since))
        last = max([since, *(at for at, _ in scores[-1:]), *(at for at, _ in readings[-1:])])
        columns = self._line.columns
        return {
            "n": machine.number,
            "scores": [[round(at, 2), rounded(values[0]), rounded(values[1])] for at, values in scores],
            "columns": list(columns),
            "readings": [[round(at, 2), *map(rounded, values)] for at, values in readings],
        }, last

    async def _history(self, request: web.Request) -> web.Response:
        machine = self._machine(request)
        span = RANGES.get(request.query.get("range", "1h"))
        if span is None:
            raise web.HTTPBadRequest(text=f"range: one of {', '.join(RANGES)}\n")
        end = self._clock()
        begin = end - span
        features = self._line.shown_features()
        columns = [0, *(self._line.columns[feature.name] + 1 for feature in features)]

        def ask(history: History) -> tuple[Any, Any]:
            alarms = history.alarms(machine=machine.name, begin=begin, end=end)
            return history.minutes(machine.number, begin, end, columns, POINTS), alarms

        (times, curves), alarms = await self._asked(ask)
        rounded_curves = [
            [None if triple is None else [rounded(value) for value in triple] for triple in curve] for curve in curves
        ]
        return answer(
            {
                "begin": begin,
                "end": end,
                "times": times,
                "score": rounded_curves[0],
                "sensors": {feature.name: curve for feature, curve in zip(features, rounded_curves[1:], strict=True)},
                "alarms": alarms,
            }
        )

    async def _alarms(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            days = min(366.0, float(query.get("days", "7")))
            limit = max(1, min(500, int(query.get("limit", "200"))))
        except ValueError:
            raise web.HTTPBadRequest(text="days and limit: numbers\n") from None
        begin = self._clock() - days * 86_400 if days == days else 0.0  # noqa: PLR0124 - not NaN
        found = await self._asked(
            lambda history: history.alarms(
                machine=query.get("machine"),
                kind=query.get("kind") or None,
                state=query.get("state"),
                begin=begin,
                limit=limit,
            )
        )
        return answer({"alarms": found})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._exposition.text(), headers={"Content-Type": CONTENT_TYPE})

    def _machine(self, request: web.Request) -> Machine:
        text = request.query.get("n", "")
        machine = self._line.by_number.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None  # noqa: PLR2004
        if machine is None:
            raise web.HTTPNotFound(text="no such machine\n")
        return machine

    async def _asked(self, question: Callable[[History], Any]) -> Any:
        try:
            return await self._ask(question)
        except OSError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from None


def dump(document: Any) -> str:
    """JSON in one line."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def answer(document: Any) -> web.Response:
    """JSON as an answer."""
    return web.Response(text=dump(document), content_type="application/json")


def _files() -> list[tuple[str, tuple[bytes, str, str]]]:
    found = []
    for path in sorted(STATIC.rglob("*")):
        if not path.is_file() or path.name in ("login.html", "login.css"):
            continue
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "text/plain"
        if path.suffix == ".js":
            kind = "text/javascript"  # what a system's table says of it differs
        place = "/" if path.name == "index.html" else f"/{path.relative_to(STATIC).as_posix()}"
        found.append((place, (body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')))
    return found


def _socket(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # its connections inherit it
        listening.bind((address, port))
    except OSError:
        listening.close()
        raise
    return listening


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


def certificate_changed(settings: Settings) -> float:
    """When the certificate's files were last changed, in seconds since 1970; 0 without a certificate."""
    if not settings.tls:
        return 0.0
    try:
        return max(Path(path).stat().st_mtime for path in (settings.tls_certificate, settings.tls_key))
    except OSError:
        return 0.0
