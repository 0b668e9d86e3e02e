"""The server over HTTP: who gets in, which headers go out, what live events hold, and that a slow browser slows nobody."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_dashboard import server as server_module
from inference_dashboard.exposition import Exposition
from inference_dashboard.history import History
from inference_dashboard.line import Line
from inference_dashboard.server import Live, Server
from inference_dashboard.settings import Settings
from support import told

NOW = 1_790_000_000.0
TOKEN = "a token of some length"
STEPS = 100
PATHS = (
    "/",
    "/app.js",
    "/page.css",
    "/vendor/uPlot.min.js",
    "/api/live",
    "/api/history?n=1",
    "/api/alarms",
    "/metrics",
)


@dataclass
class Page:
    """A running server and what it serves."""

    server: Server
    line: Line
    live: Live
    client: aiohttp.ClientSession

    def url(self, path: str) -> str:
        return self.server.address.rstrip("/") + path

    async def get(self, path: str, **options: Any) -> tuple[int, str, Any]:
        async with self.client.get(self.url(path), allow_redirects=False, **options) as answer:
            # A stream has no end.
            text = "" if answer.content_type == "text/event-stream" else await answer.text()
            return answer.status, text, answer.headers


def page(work: Callable[[Page], Awaitable[None]], tmp_path: Path, **settings: Any) -> None:
    """Run a test against a server on a free port of loopback."""

    async def run() -> None:
        async with _page(tmp_path, Settings(port=0, **settings)) as running:
            await asyncio.wait_for(work(running), 60)

    asyncio.run(run())


@asynccontextmanager
async def _page(tmp_path: Path, settings: Settings) -> AsyncIterator[Page]:
    line = Line(lambda: NOW)
    line.take("result", told.payload(told.result("a", NOW)), NOW)
    live = Live(line, lambda: {"connected": True}, lambda: NOW)
    live.tick()
    history = History(tmp_path / "dashboard.sqlite", 8_000_000)

    async def ask(question: Callable[[History], Any]) -> Any:
        return question(history)

    server = Server(
        settings,
        line=line,
        live=live,
        ask=ask,
        exposition=Exposition(line, lambda: {"connected": 1.0}, lambda: NOW),
        clock=lambda: NOW,
    )
    await server.start()
    try:
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address, too
        async with aiohttp.ClientSession(cookie_jar=jar) as client:
            yield Page(server, line, live, client)
    finally:
        await server.stop()
        history.close()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """The events of a stream, each with its name."""
    name = "message"
    async for raw in answer.content:
        text = raw.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text[7:]
        elif text.startswith("data: "):
            yield name, json.loads(text[6:])
            name = "message"


def test_without_a_token_loopback_serves_everything_to_this_machine_and_nothing_to_another_name(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        port = page.server.address.rsplit(":", 1)[1].rstrip("/")
        for path in PATHS:
            assert (await page.get(path))[0] == 200
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[", ""):
                assert (await page.get(path, headers={"Host": host}))[0] in (400, 421)
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
            assert (await page.get("/", headers={"Host": host}))[0] == 200

    page(work, tmp_path)


def test_with_a_token_nothing_is_served_without_it_and_a_scraper_brings_it_in_a_header(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        for path in PATHS:
            assert (await page.get(path))[0] == 401
            for wrong in ("Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer \udcff"):
                assert (await page.get(path, headers={"Authorization": wrong}))[0] == 401
            assert (await page.get(path, headers={"Authorization": f"Bearer {TOKEN}"}))[0] == 200
        status, _, headers = await page.get("/", headers={"Accept": "text/html"})
        assert (status, headers["Location"]) == (303, "/login")
        for cookie in ("", "1.2", f"9999999999.{'0' * 64}", "²." + "0" * 64, "99999999999999999999.x"):
            assert (await page.get("/", headers={"Cookie": f"inference_dashboard={cookie}"}))[0] == 401

    page(work, tmp_path, token=TOKEN)


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        status, text, _ = await page.get("/login", headers={"Accept-Language": "ko-KR"})
        assert (status, "접근 토큰" in text) == (200, True)
        async with page.client.post(page.url("/login"), data={"token": "wrong"}, allow_redirects=False) as answer:
            assert answer.status == 403
            assert 'role="alert"' in await answer.text()
        elsewhere = {"Origin": "http://evil.example"}
        async with page.client.post(page.url("/login"), data={"token": TOKEN}, headers=elsewhere) as answer:
            assert answer.status == 403
        async with page.client.post(page.url("/login"), data={"token": TOKEN}, allow_redirects=False) as answer:
            assert answer.status == 303
            cookie = answer.headers["Set-Cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
        assert TOKEN not in cookie
        assert (await page.get("/api/alarms"))[0] == 200
        async with page.client.post(page.url("/logout"), allow_redirects=False) as answer:
            assert answer.status == 303
        assert (await page.get("/api/alarms"))[0] == 401

    page(work, tmp_path, token=TOKEN)


def test_behind_a_proxy_any_host_will_do_and_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        there = {"Host": "line.example"}
        assert (await page.get("/login", headers=there))[0] == 200
        assert (await page.get("/", headers=there))[0] == 401
        data = {"token": TOKEN}
        async with page.client.post(page.url("/login"), data=data, headers=there, allow_redirects=False) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]

    page(work, tmp_path, token=TOKEN, behind_proxy=True)


def test_it_speaks_tls_with_the_certificate_it_is_given(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    async def work(page: Page) -> None:
        assert page.server.address.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        status, _, headers = await page.get("/", ssl=trust, headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        assert "max-age" in headers["Strict-Transport-Security"]
        page.server.renew_certificate()

    page(work, tmp_path, token=TOKEN, tls_certificate=str(certificate[0]), tls_key=str(certificate[1]))


def test_every_answer_has_strict_headers_and_no_page_needs_an_inline_script(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        for path in (*PATHS, "/login", "/login.css", "/nothing", "/api/history?n=99", "/api/history?n=1&range=x"):
            _, text, headers = await page.get(path)
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"
            assert "aiohttp" not in headers["Server"].lower()
            if headers["Content-Type"].startswith("text/html"):
                assert "<script>" not in text
                assert "style=" not in text

    page(work, tmp_path)


def test_a_file_that_the_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        _, _, headers = await page.get("/app.js")
        assert (await page.get("/app.js", headers={"If-None-Match": headers["ETag"]}))[0] == 304

    page(work, tmp_path)


def test_live_events_begin_with_everything_and_go_on_with_what_changed(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        async with page.client.get(page.url("/api/live?n=1")) as answer:
            stream = events(answer)
            name, first = await anext(stream)
            assert (name, [tile["name"] for tile in first["all"]]) == ("message", ["a"])
            assert first["system"]["connected"] is True
            name, samples = await anext(stream)
            assert (name, samples["scores"]) == ("samples", [[NOW, 0.05, 0.05]])
            page.line.take("result", told.payload(told.result("a", NOW + 1, 0.07)), NOW + 1)
            page.line.take("alarm", told.payload(told.alarm("x", "b", NOW)), NOW + 1)
            page.live.tick()
            _, second = await anext(stream)
            assert second["moved"] == [[1, 0.07, 0.07]]
            assert [(tile["name"], tile["mood"]) for tile in second["changed"]] == [("b", "abnormal")]
            _, samples = await anext(stream)
            assert samples["scores"] == [[NOW + 1, 0.07, 0.07]]

    page(work, tmp_path)


def test_a_browser_that_does_not_read_misses_steps_and_holds_nobody_up(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        names = [f"machine-{number}" for number in range(500)]
        page.line.take("result", told.payload({"results": [told.result(name, NOW) for name in names]}), NOW)
        page.live.tick()
        asked = socket.create_connection(("127.0.0.1", int(page.server.address.rsplit(":", 1)[1].rstrip("/"))))
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        asked.setblocking(False)
        slow, writer = await asyncio.open_connection(sock=asked, limit=1024 * 1024)
        writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow._transport.pause_reading()  # type: ignore[attr-defined]
        async with page.client.get(page.url("/api/live"), read_bufsize=2**20) as fast:
            stream = events(fast)
            await anext(stream)
            for step in range(STEPS):
                for machine in page.line.machines.values():
                    machine.smoothed, machine.moved = step / 1000, page.line.tick
                page.live.tick()
                _, frame = await anext(stream)
                assert len(frame["moved"]) == len(names) + 1
            assert page.live.browsers == 2
            assert len(page.live._frames) <= 2
            slow._transport.resume_reading()  # type: ignore[attr-defined]
            steps: list[float] = []
            while not steps or steps[-1] != (STEPS - 1) / 1000:
                text = (await slow.readline()).decode()
                if '"moved":[[' in text:
                    steps.append(json.loads(text.removeprefix("data: "))["moved"][0][1])
            assert steps == sorted(steps)
            assert len(steps) < STEPS / 2
            writer.close()

    page(work, tmp_path)


def test_pages_beyond_the_bound_are_asked_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_BROWSERS", 1)

    async def work(page: Page) -> None:
        async with page.client.get(page.url("/api/live")) as first:
            assert first.status == 200
            async with page.client.get(page.url("/api/live")) as second:
                assert second.status == 503

    page(work, tmp_path)


def test_the_figures_are_in_prometheus_format_and_say_what_was_heard(tmp_path: Path) -> None:
    async def work(page: Page) -> None:
        hostile = 'a"\\\n{<img src=x>}'
        page.line.take("reading", told.payload(told.reading(hostile, NOW, "k")), NOW)
        page.line.take("result", told.payload(told.result(hostile, NOW, 0.9, key="k")), NOW + 0.02)
        page.line.take("alarm", told.payload(told.alarm("x", hostile, NOW)), NOW)
        page.line.take("alarm", told.payload(told.alarm("y", hostile, NOW + 1)), NOW)
        page.line.take("error", told.payload(told.rejection("a")), NOW)
        page.line.take("health", told.payload(told.health(NOW, problems={"cloud": "gone"})), NOW)
        status, text, headers = await page.get("/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["ml_inference_up",] == 1.0
        assert samples["ml_inference_readings_received_total",] == 14_420
        assert samples["ml_inference_outbox_waiting",] == 10
        assert samples["ml_inference_model_info", "1.0.0", "cylinder-anomaly"] == 1
        assert samples["ml_inference_problem", "cloud"] == 1
        assert samples["ml_inference_alarms_open", "equipment"] == 2
        assert samples["ml_inference_alarms_opened_total", "equipment"] == 2
        assert samples["ml_inference_dashboard_rejections_total",] == 1
        assert samples["ml_inference_latency_seconds_bucket", "0.025"] == 1
        assert samples["ml_inference_latency_seconds_bucket", "0.01"] == 0
        assert samples["ml_inference_alarm_opened_timestamp_seconds", "", hostile, "equipment"] == NOW + 1

    page(work, tmp_path)


def test_the_grafana_dashboard_asks_for_figures_and_labels_that_there_are(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "examples" / "grafana" / "ml-inference.json").read_text()
    expressions = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]

    async def work(page: Page) -> None:
        page.line.take("alarm", told.payload(told.alarm("x", "a", NOW)), NOW)
        page.line.take("health", told.payload(told.health(NOW)), NOW)
        _, exposed, _ = await page.get("/metrics")
        labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(exposed):
            for sample in family.samples:
                labels.setdefault(sample.name, {"instance"}).update(sample.labels)
        for expression in expressions:
            (name,) = re.findall(r"ml_inference_\w+", expression)
            assert name in labels
            (selector,) = re.findall(r"\{(.*?)\}", expression)
            grouped = re.findall(r"by \((\w+)\)", expression)
            assert {*re.findall(r"(\w+)=", selector), *grouped} <= labels[name]
        assert len(expressions) > 12

    page(work, tmp_path)
