"""The page in a real browser, fed over the real SDK."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from greengrass_sandbox import BackgroundNucleus
from support import told
from support.dashboard import Dashboard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

AXE = Path(__file__).parents[1] / "support" / "axe" / "axe.min.js"
WAIT_MS = 15_000
HOSTILE = (
    "<img src=x onerror=document.title='owned'>",
    "\u202eevil\u202c \u2067right\u2069",
    "\U0001f3ed" * 128,
    "../../etc/passwd?#&%00",
)
VIEWS = ("/", "/#/machine/cylinder-2", "/#/alarms", "/#/system")


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "work").mkdir()
    with BackgroundNucleus(folder / "nucleus", "lite") as nucleus:
        running = Dashboard(nucleus, folder / "work")
        running.start()
        now = time.time()
        running.send(told.HEALTH, told.features())
        running.send(told.HEALTH, told.health(now, problems={"cloud": "the nucleus refuses: ServiceError"}))
        running.send(told.ERROR, told.rejection("cylinder-1"))
        for step in range(5):
            at = now - 5 + step
            running.send(told.RESULT, {"results": [told.result(f"cylinder-{n}", at, 0.04) for n in (1, 3, 4)]})
            running.send(told.RESULT, told.result("cylinder-2", at, 0.93))
            running.send(told.READING, [told.reading(f"cylinder-{n}", at) for n in (1, 2, 3, 4)])
        running.send(told.ALARM, told.alarm("bad", "cylinder-2", now - 600))
        running.send(
            told.ALARM, told.alarm("stuck", "cylinder-3", now - 60, kind="sensor", sensor="wRMSCurrent", reason="stuck")
        )
        running.send(told.ALARM, told.alarm("past", "cylinder-2", now - 9000, event="closed", closed=now - 8000))
        yield running
        running.end()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en", timezone_id="UTC")
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


class Visit:
    """A page, and what must be true of every visit: no error, no request to another host."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(self.address):
            self.complaints.append(request.url)

    def go(self, path: str = "/") -> Page:
        self.page.goto(self.address.rstrip("/") + path)
        return self.page


@pytest.fixture
def visit(context: BrowserContext, dashboard: Dashboard) -> Iterator[Visit]:
    visit = Visit(context.new_page(), dashboard.address)
    yield visit
    assert visit.complaints == []


def test_a_stranger_sees_which_machine_is_in_trouble_since_when_and_why(visit: Visit) -> None:
    page = visit.go()
    page.get_by_role("heading", name="2 of 4 machines need attention").wait_for()
    tiles = page.locator(".tile")
    first = tiles.first
    assert first.locator(".tile-name").inner_text() == "cylinder-2"
    text = first.inner_text()
    assert "Abnormal" in text
    assert "Vibration Z high: 128 mm/s (usual 76–104)" in text  # noqa: RUF001
    assert "(10 min)" in text
    assert "Current: the value does not move" in tiles.nth(1).inner_text()
    assert page.title() == "(2) Line · line-3"


def test_an_alarm_is_on_the_page_and_announced_within_a_second_of_its_message(
    visit: Visit, dashboard: Dashboard
) -> None:
    page = visit.go()
    tile = page.locator(".tile", has_text="cylinder-4")
    tile.get_by_text("Normal").wait_for()
    # Measured in the browser: a loaded machine may be late to ask, not to show.
    page.evaluate(
        """() => { window.shown = null; new MutationObserver(() => {
            const tile = [...document.querySelectorAll('.tile')].find((each) => each.textContent.includes('cylinder-4'));
            if (tile.dataset.mood === 'silent' && !window.shown) window.shown = Date.now() / 1000;
        }).observe(document.body, {subtree: true, childList: true, attributes: true}); }"""
    )
    sent = time.time()
    dashboard.send(told.ALARM, told.alarm("quiet", "cylinder-4", sent, kind="silence", explanation=[]))
    tile.get_by_text("The machine has stopped reporting").wait_for()
    assert page.evaluate("window.shown") - sent < 1.0
    assert "Alarm: cylinder-4. The machine has stopped reporting" in page.locator("#news").inner_text()
    dashboard.send(
        told.ALARM, told.alarm("quiet", "cylinder-4", sent, kind="silence", sequence=2, event="closed", closed=sent + 1)
    )
    tile.get_by_text("Normal").wait_for()


def test_a_machines_page_draws_its_score_and_every_sensor_and_shows_the_reasons_as_bars(visit: Visit) -> None:
    page = visit.go("/#/machine/cylinder-2")
    page.get_by_role("img", name="Temperature: now").wait_for()
    assert page.locator(".chart canvas").count() == 7
    assert page.locator(".bars li").count() == 3
    assert "usual 88–112 A" in page.get_by_label("Current", exact=True).inner_text()  # noqa: RUF001
    page.get_by_role("button", name="8 h").click()
    page.get_by_role("row").filter(has_text="Closed").wait_for()
    page.keyboard.press("Escape")
    page.locator(".tile").first.wait_for()


def test_the_alarms_are_filtered_and_the_filters_are_part_of_the_address(visit: Visit) -> None:
    page = visit.go("/#/alarms?days=1")
    page.get_by_role("row").filter(has_text="Sensor fault").wait_for()
    page.get_by_label("State").select_option("closed")
    page.get_by_label("Machine").fill("linder-2")
    page.get_by_text("1 alarm", exact=True).wait_for()
    assert page.get_by_role("row").count() == 2
    assert page.url.endswith("#/alarms?state=closed&days=1&machine=linder-2")


def test_the_system_says_that_the_figures_add_up_and_what_to_do_about_a_problem(visit: Visit) -> None:
    page = visit.go("/#/system")
    page.get_by_text("Check the network and the device's connection").wait_for()
    assert page.get_by_text("The figures add up.").count() == 2
    assert page.get_by_text("Field required").count() == 1


def test_it_speaks_korean_and_dark_and_remembers_both(visit: Visit) -> None:
    page = visit.go()
    page.get_by_role("button", name="한국어").click()
    page.get_by_role("heading", name="설비 4대 중 2대 확인 필요").wait_for()
    page.get_by_role("button", name="테마: 시스템").click()
    page.get_by_role("button", name="테마: 밝게").click()
    page.reload()
    page.get_by_role("heading", name="설비 4대 중 2대 확인 필요").wait_for()
    assert page.locator("html").get_attribute("lang") == "ko"
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    page = visit.go()
    page.locator(".tile").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.n") is not None
    names = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        names.append(page.evaluate("document.activeElement.querySelector('.tile-name').textContent"))
    assert names[:2] == ["cylinder-3", "cylinder-2"]
    assert names[2] not in names[:2]
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=names[2]).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_view(visit: Visit, scheme: Any) -> None:
    page = visit.page
    page.emulate_media(color_scheme=scheme)
    for view in VIEWS:
        visit.go(view)
        page.get_by_text("Live", exact=True).wait_for()
        # By the debugger's own way in, which the page's policy does not concern.
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (view, rule["id"], [node["html"][:200] for node in rule["nodes"]])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []


@pytest.mark.parametrize(("width", "height"), [(375, 812), (1280, 800), (2560, 1440)])
def test_nothing_is_cut_off_from_a_phone_to_a_wall_screen(visit: Visit, width: int, height: int) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": height})
    for view in VIEWS:
        visit.go(view)
        page.get_by_text("Live", exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            """() => [...document.querySelectorAll('main *, header *')].filter((each) => {
                const box = each.getBoundingClientRect();
                return box.width > 1 && box.right > innerWidth + 1 && !each.closest('.unseen, .uplot');
            }).map((each) => each.outerHTML.slice(0, 120))"""
        )
        assert outside == []


def test_a_hostile_name_is_shown_as_text_wherever_it_appears(visit: Visit, dashboard: Dashboard) -> None:
    now = time.time()
    for name in HOSTILE:
        dashboard.send(told.RESULT, told.result(name, now, 0.04))
        dashboard.send(told.ERROR, told.rejection(name))
        dashboard.send(
            told.ALARM, told.alarm(name[:20], name, now - 5, event="closed", closed=now, kind=name, reason=name)
        )
    page = visit.go()
    for name in HOSTILE:
        page.locator(".tile-name bdi", has_text=name).first.wait_for()
    assert page.locator("main img").count() == 0
    for name in HOSTILE:
        visit.go(f"/#/machine/{quote(name, safe='')}")
        page.get_by_role("heading", name=name).wait_for()
        page.get_by_role("img", name="Score: now").wait_for()
    visit.go("/#/alarms")
    page.get_by_text(HOSTILE[0]).first.wait_for()
    visit.go("/#/system")
    page.get_by_text(HOSTILE[0]).first.wait_for()
    assert "owned" not in page.title()


def test_the_page_comes_back_by_itself_when_the_component_is_started_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with BackgroundNucleus(tmp_path / "nucleus", "lite") as nucleus:
        own = Dashboard(nucleus, tmp_path / "work")
        own.start()
        own.send(told.RESULT, told.result("cylinder-9", time.time(), 0.04))
        page = context.new_page()
        page.goto(own.address)
        page.get_by_role("heading", name="The machine is normal").wait_for()
        port = int(own.address.rsplit(":", 1)[1].rstrip("/"))
        assert own.stop() == 0
        page.get_by_text("The page has lost its connection").wait_for()
        own.start(port=port)
        page.get_by_text("Live", exact=True).wait_for()
        assert page.locator(".tile-name", has_text="cylinder-9").count() == 1
        own.send(told.ALARM, told.alarm("later", "cylinder-9", time.time()))
        page.get_by_role("heading", name="1 of 1 machines needs attention").wait_for()
        own.end()


def test_with_a_token_a_browser_has_to_sign_in_once(context: BrowserContext, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with BackgroundNucleus(tmp_path / "nucleus", "lite") as nucleus:
        own = Dashboard(nucleus, tmp_path / "work", {"Token": "a token of some length"})
        own.start()
        own.send(told.RESULT, told.result("cylinder-9", time.time(), 0.04))
        page = context.new_page()
        page.goto(own.address)
        page.get_by_label("Access token").fill("a token of some length")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The machine is normal").wait_for()
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Access token").wait_for()
        own.end()
