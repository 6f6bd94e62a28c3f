"""The page in a browser: drawn without an error or a request, by keyboard, on paper, on a phone."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dipsim.report.page.output import figures_of, write
from dipsim.report.page.source import open_page, page_of
from dipsim.simulate import simulate
from tools.reported import HOSTILE, cell, figures, fill_store, thousand

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
_PATIENCE = 120_000
"""Milliseconds that a busy machine may take; nothing is measured."""
KINDS = ("run", "sweep", "hostile")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a run, of a thousand cells, and of hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    names = [{"policy": f"{HOSTILE}{i}", "dram": f"{i}0%"} for i in range(1, 4)]
    cells = [cell(place, figures(1.0 + i), [HOSTILE]) for i, place in enumerate(names)]
    pages = {
        "run": page_of(figures_of(ran)),
        "sweep": open_page(fill_store(folder / "s.db", thousand())),
        "hostile": open_page(fill_store(folder / "h.db", cells, HOSTILE)),
    }
    for name, page in pages.items():
        write(page, folder / f"{name}.html", "html")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that is open, what it asked for, and what it complained of."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("dialog"))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(".chart .main-svg", state="attached")

    def draw_all(self) -> None:
        """Scroll from chart to chart until each is drawn."""
        for chart in self.page.query_selector_all(".chart"):
            chart.scroll_into_view_if_needed()
            chart.wait_for_selector(".main-svg", state="attached")

    def count(self, selector: str) -> int:
        return len(self.page.query_selector_all(selector))

    def column(self, number: int) -> list[str]:
        """Texts of a column of the table of runs, as far as rows are shown."""
        rows = f"#every-run-table-1 tbody tr:not([hidden]) td:nth-child({number})"
        texts: list[str] = self.page.eval_on_selector_all(
            rows, "all => all.map(x => x.textContent)"
        )
        return texts


@pytest.fixture
def open_file(browser: Any, files: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def call(name: str, **options: Any) -> Opened:
        opened.append(Opened(browser, files[name], **options))
        return opened[-1]

    yield call
    for each in opened:
        each.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_every_chart_is_drawn_without_a_word_or_a_request(
    open_file: Callable[..., Opened], name: str, scheme: str
) -> None:
    opened = open_file(name, color_scheme=scheme)
    opened.draw_all()
    assert opened.count(".chart") == opened.count(".chart:has(.main-svg)") >= 3
    assert opened.complaints == []
    assert len(opened.requests) == 1  # the file itself
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(251, 251, 250)" if scheme == "light" else "rgb(18, 21, 25)")


@pytest.mark.parametrize("name", KINDS)
def test_a_phone_needs_no_sideways_scroll(open_file: Callable[..., Opened], name: str) -> None:
    opened = open_file(name, viewport={"width": 390, "height": 844})
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.complaints == []


def test_the_theme_is_changed_by_a_button(open_file: Callable[..., Opened]) -> None:
    opened = open_file("run", color_scheme="light")
    page = opened.page
    colour = "getComputedStyle(document.querySelector('.chart text')).fill"
    light = page.evaluate(colour)
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    assert page.text_content("#theme") == "Light"
    assert page.evaluate(colour) != light
    page.keyboard.press("Enter")
    assert page.evaluate(colour) == light
    assert opened.complaints == []


def test_a_head_sorts_by_enter(open_file: Callable[..., Opened]) -> None:
    opened = open_file("sweep")
    page = opened.page
    heads = page.eval_on_selector_all("#every-run-table-1 th", "all => all.map(x => x.textContent)")
    at = heads.index("tokens/s") + 1
    button = page.locator(f"#every-run-table-1 th:nth-child({at}) button")
    button.focus()
    page.keyboard.press("Enter")
    rates = opened.column(at)
    known = [float(text) for text in rates if text != "-"]
    assert known == sorted(known)
    assert rates[-1] == "-"  # what is impossible comes last either way
    sort = f"#every-run-table-1 th:nth-child({at})"
    assert page.get_attribute(sort, "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert page.get_attribute(sort, "aria-sort") == "descending"
    rates = opened.column(at)
    known = [float(text) for text in rates if text != "-"]
    assert known == sorted(known, reverse=True)
    assert rates[-1] == "-"
    sizes = heads.index("dram") + 1
    page.locator(f"#every-run-table-1 th:nth-child({sizes}) button").press("Enter")
    numbers = [float(text[:-1]) for text in opened.column(sizes)]  # 4% stands before 20%
    assert numbers == sorted(numbers)
    assert opened.count("#every-run-table-1 [aria-sort]") == 1


def test_rows_are_filtered(open_file: Callable[..., Opened]) -> None:
    opened = open_file("sweep")
    page = opened.page
    form = page.locator(".filter[data-table=every-run-table-1]")
    form.locator("label", has_text="policy").locator("select").select_option("lru")
    assert form.locator("output").text_content() == "200 of 1000"
    form.locator("input").fill("phone-b dip-ca")
    assert form.locator("output").text_content() == "20 of 1000"
    assert set(opened.column(1)) == {"phone-b"}
    form.locator("input").fill("nothing has this")
    assert form.locator("output").text_content() == "0 of 1000"
    form.locator("input").fill("")
    form.locator("select").nth(2).select_option("")
    assert form.locator("output").text_content() == "1000 of 1000"


def test_a_choice_changes_the_charts_of_its_section(open_file: Callable[..., Opened]) -> None:
    opened = open_file("sweep")
    page = opened.page
    choices = page.locator("#rate-and-hits-against-dram .choice select")
    choices.first.select_option("profile phone-a, method dip")
    assert choices.nth(1).input_value() == "profile phone-a, method dip"
    assert opened.count("#rate-and-hits-against-dram .legend button") == 10
    button = page.locator("#rate-and-hits-against-dram .legend button").first
    assert button.get_attribute("aria-pressed") == "true"
    button.press("Enter")
    again = page.locator("#rate-and-hits-against-dram .legend button").first
    assert again.get_attribute("aria-pressed") == "false"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    hidden = "document.querySelector('.chart').data.filter(trace => !trace.visible).length"
    assert page.evaluate(hidden) == 1
    assert opened.complaints == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    open_file: Callable[..., Opened],
) -> None:
    opened = open_file("run")
    page = opened.page
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, button, select, input, [tabindex=\"0\"]')]"
        ".filter(x => x.checkVisibility()).length"
    )
    reached = set()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    while page.evaluate("document.activeElement !== document.body"):
        place = page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        assert place not in reached, "the focus is caught"
        reached.add(place)
        style = "getComputedStyle(document.activeElement)"
        look = page.evaluate(f"[{style}.outlineStyle, {style}.outlineWidth]")
        assert look == ["solid", "3px"], page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Tab")
    assert len(reached) >= wanted


def test_the_skip_link_leads_to_the_report(open_file: Callable[..., Opened]) -> None:
    page = open_file("run").page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_the_command_of_a_row_is_copied(open_file: Callable[..., Opened]) -> None:
    opened = open_file("sweep", permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    page.locator("#every-run-table-1 tbody .copy").first.press("Enter")
    command = "dipsim run smollm2-chat -p phone-a --method dip --policy lru --dram 2%"
    same = "async (text) => (await navigator.clipboard.readText()) === text"
    page.wait_for_function(same, arg=command)


def test_paper_is_light_and_has_every_chart(open_file: Callable[..., Opened]) -> None:
    opened = open_file("run", color_scheme="dark")
    page = opened.page
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.count(".chart") == opened.count(".chart:has(.main-svg)")
    page.emulate_media(media="print")
    widths = page.eval_on_selector_all(".chart", "all => all.map(x => x._fullLayout.width)")
    assert set(widths) == {640}
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("#theme").is_visible() is False
    assert page.locator("th button").first.is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme === undefined")
    assert opened.complaints == []


def test_without_scripts_the_figures_can_be_read(browser: Any, files: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["run"].as_uri())
    assert page.locator("noscript").is_visible()
    assert page.locator("table").count() >= 5
    context.close()
