"""The explorer in a browser: drawn without an error or a request elsewhere, all by keyboard."""

import csv
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dipsim.simulate import simulate
from tools.cli import PROGRAM
from tools.reported import cell, figures, fill_store

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
_PATIENCE = 120_000
"""Milliseconds that a busy machine may take; nothing is measured."""
_SETTLED = "#now:not(.stale)[aria-busy=false]"
_CURVE = "#panels [data-name=rate-against-memory-1]:not(.stale)"
_BESIDE = "#panels [data-name=what-the-same-memory-could-do-1]:not(.stale)"


class Server:
    """A running `dipsim explore`."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "explore", "--no-browser", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.address = self.said.split()[0]

    def end(self) -> tuple[int, str]:
        """Interrupt it; return its exit code and what it complained of."""
        self.process.send_signal(signal.SIGINT)
        _, complaints = self.process.communicate()
        return self.process.returncode, complaints


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("explore"), "smollm2-chat")
    yield made
    assert made.end() == (0, "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that is open, what it asked for, and what it complained of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.address = address
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._asked)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("dialog"))
        self.page.goto(address)
        self.settle()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", f"blob:{self.address[:16]}")):
            self.elsewhere.append(request.url)

    def settle(self, command: str = "dipsim run") -> None:
        """Wait until a command's figures, and what stands beside them, are shown."""
        self.page.wait_for_selector(f"#command:has-text('{command}')")
        for selector in (_SETTLED, _BESIDE, _CURVE):
            self.page.wait_for_selector(selector)

    def draw_all(self) -> None:
        """Scroll from chart to chart until each is drawn."""
        for chart in self.page.query_selector_all(".chart"):
            chart.scroll_into_view_if_needed()
            chart.wait_for_selector(".main-svg", state="attached")

    def count(self, selector: str) -> int:
        return len(self.page.query_selector_all(selector))

    def add(self, runs: int) -> None:
        """Add the run to the comparison, which has so many then."""
        self.page.locator("#add").press("Enter")
        self.page.wait_for_selector(f"#comparison-table tbody tr:nth-child({runs})")

    @property
    def well(self) -> bool:
        """True if nothing was complained of, and nothing was asked for elsewhere."""
        return self.complaints == self.elsewhere == []


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[Callable[..., Opened]]:
    pages: list[Opened] = []

    def call(address: str = server.address, **options: Any) -> Opened:
        pages.append(Opened(browser, address, **options))
        return pages[-1]

    yield call
    for each in pages:
        each.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_without_a_word(opened: Callable[..., Opened], scheme: str) -> None:
    shown = opened(color_scheme=scheme)
    shown.add(1)
    shown.draw_all()
    assert shown.count(".chart") == shown.count(".chart:has(.main-svg)") >= 6
    ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(251, 251, 250)" if scheme == "light" else "rgb(18, 21, 25)")
    assert shown.well


def test_a_slider_by_keyboard_changes_figures(opened: Callable[..., Opened]) -> None:
    shown = opened()
    page = shown.page
    before = page.text_content("#answer")
    page.focus("#c-size")
    page.keyboard.press("ArrowRight")
    shown.settle("--dram 61%")
    own = simulate("smollm2-chat", "snapdragon8", method="dip", density=0.7, dram="61%")
    assert page.text_content("#answer").startswith(f"{own.tokens_per_second:.3g} tokens/s")
    assert f"{own.hit_rate:.1%}" in page.text_content("#answer") != before
    assert page.evaluate("document.activeElement.id") == "c-size"
    assert shown.well


def test_settings_survive_a_reload(opened: Callable[..., Opened]) -> None:
    shown = opened()
    page = shown.page
    assert page.is_disabled("#c-gamma\\.glu")
    assert page.text_content("#h-gamma\\.glu") == "not of dip"
    page.select_option("#c-method", "dip-ca")
    assert page.is_enabled("#c-gamma\\.glu")
    page.select_option("#c-budget", "cache_fraction")
    shown.settle("--gamma mlp_input=0.5,glu=0.2 --policy lfu --cache-fraction 0.6")
    page.reload()
    shown.settle("--gamma mlp_input=0.5,glu=0.2 --policy lfu --cache-fraction 0.6")
    page.click("#reset")
    shown.settle("--method dip --density 0.7 --policy lfu --dram 60%")
    assert shown.well


def test_what_is_impossible_is_said_in_place(opened: Callable[..., Opened]) -> None:
    shown = opened()
    page = shown.page
    page.select_option("#c-layout", "bundle")
    page.wait_for_selector("#problem:has-text('layout bundle')")
    assert page.get_attribute("#problem", "role") == "alert"
    assert shown.count("#now.stale") == 1  # the figures before are greyed
    page.select_option("#c-layout", "")
    page.wait_for_selector(_SETTLED)
    assert page.is_hidden("#problem")
    assert "needs" not in page.text_content("#c-method option[value=dip]")
    assert page.is_disabled("#c-method option[value=cats]")
    assert shown.well


def test_runs_are_gathered_copied_and_downloaded(
    opened: Callable[..., Opened], tmp_path: Path
) -> None:
    shown = opened(permissions=["clipboard-read", "clipboard-write"])
    page = shown.page
    page.locator("#copy").press("Enter")
    page.wait_for_function(  # not for the button's word, which stays a moment alone
        "async () => await navigator.clipboard.readText() === command.textContent"
    )
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.text_content("#command")
    shown.add(1)
    assert page.is_disabled("#add")
    page.select_option("#c-policy", "lru")
    shown.settle("--policy lru")
    shown.add(2)
    for file in ("comparison.csv", "comparison.json", "result.json", "report.html"):
        with page.expect_download() as download:
            page.locator(f"[data-file='{file}']").press("Enter")
        assert download.value.suggested_filename == file
        download.value.save_as(tmp_path / file)
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [row["policy"] for row in rows] == ["lfu", "lru"]
    assert rows[0]["command"] == copied
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["tokens_per_second"] == float(rows[1]["tokens_per_second"])
    page.reload()
    page.wait_for_selector("#comparison-table tbody tr:nth-child(2)")  # the tab keeps them
    page.locator("#comparison-table button:has-text('remove')").first.press("Enter")
    page.wait_for_selector("#comparison-table tbody:not(:has(tr:nth-child(2)))")
    page.locator("#clear").press("Enter")
    assert page.is_hidden("#comparison")
    assert shown.well


def test_a_phone_needs_no_sideways_scroll(opened: Callable[..., Opened]) -> None:
    shown = opened(viewport={"width": 390, "height": 844})
    shown.add(1)
    shown.draw_all()
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "24.9" in shown.page.text_content("#mini")
    assert shown.page.is_visible("#mini")
    assert shown.well


def test_paper_is_light_and_has_every_chart(opened: Callable[..., Opened]) -> None:
    shown = opened(color_scheme="dark")
    page = shown.page
    page.wait_for_selector(".chart .main-svg", state="attached")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.count(".chart") == shown.count(".chart:has(.main-svg)")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.is_hidden("#controls")
    assert page.is_visible("#command")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme === undefined")
    assert shown.well


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    opened: Callable[..., Opened],
) -> None:
    shown = opened()
    page = shown.page
    page.locator("details.more summary").press("Enter")
    shown.add(1)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, button, select, input, summary, [tabindex=\"0\"]')]"
        ".filter(x => x.checkVisibility() && !x.disabled).length"
    )
    page.locator("body").click(position={"x": 1, "y": 1})
    reached = set()
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body"):
        place = page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        assert place not in reached, "the focus is caught"
        reached.add(place)
        style = "getComputedStyle(document.activeElement)"
        look = page.evaluate(f"[{style}.outlineStyle, {style}.outlineWidth]")
        assert look == ["solid", "3px"], page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Tab")
    assert len(reached) >= wanted
    assert page.evaluate(
        "[...document.querySelectorAll('select, input')].every(x => x.labels.length === 1)"
    )


def test_a_sweep_whose_trace_goes_shows_what_is_stored(browser: Any, tmp_path: Path) -> None:
    from dipsim.files import shipped

    trace = str(tmp_path / "mine.npz")
    shutil.copy(shipped("traces") / "smollm2-chat.npz", trace)
    places = [{"policy": "lru", "dram": "60%"}, {"policy": "lfu", "dram": "60%"}]
    cells = [cell({"trace": trace, **place}, figures(111.0 + i)) for i, place in enumerate(places)]
    server = Server(tmp_path, str(fill_store(tmp_path / "s.db", cells)))
    shown = Opened(browser, server.address)
    page = shown.page
    shown.settle("--policy lru --dram 60%")
    page.wait_for_selector("#study-table tbody tr:nth-child(2)")
    Path(trace).rename(tmp_path / "away.npz")
    page.locator("#axes select").select_option("1")
    page.wait_for_selector("#answer:has-text('As stored')")
    assert "112 tokens/s" in page.text_content("#answer")
    assert "no trace" in page.text_content("#problem")
    (tmp_path / "away.npz").rename(trace)
    page.locator("#axes select").select_option("0")
    page.wait_for_selector("#answer:not(:has-text('As stored'))")
    shown.settle("--policy lru --dram 60%")
    assert page.is_hidden("#problem")
    assert shown.well
    shown.context.close()
    assert server.end() == (0, "")
