"""The page as one HTML file and as Markdown: harmless whatever its names, small, and closed."""

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from dipsim.report.page import html, markdown
from dipsim.report.page.model import Bars, Chart, Heat, Lines, Page, Series
from dipsim.report.page.output import figures_of
from dipsim.report.page.plots import plotted
from dipsim.report.page.source import open_page, page_of
from dipsim.simulate import simulate
from tools.reported import HOSTILE, cell, figures, fill_store, thousand


class Tags(HTMLParser):
    """Tags of a page, their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value) for key, value in attributes]
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def hostile(path: Path) -> Page:
    """A page all of whose names are hostile."""
    cells = [
        cell({"policy": f"{HOSTILE}{i}", "dram": f"{i}0%", HOSTILE: i}, figures(1.0 + i), [HOSTILE])
        for i in range(1, 4)
    ]
    cells.append(cell({"policy": HOSTILE, "dram": "90%"}, None))
    return open_page(fill_store(path / "s.db", cells, HOSTILE))


def harmless(path: Path) -> Page:
    """The same page with harmless names."""
    cells = [
        cell({"policy": f"p{i}", "dram": f"{i}0%", "axis": i}, figures(1.0 + i), ["mark"])
        for i in range(1, 4)
    ]
    cells.append(cell({"policy": "p", "dram": "90%"}, None))
    return open_page(fill_store(path / "h.db", cells, "name"))


@pytest.fixture(scope="module")
def page() -> Page:
    """The page of a run with all its sections."""
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    return page_of(figures_of(ran))


def test_no_name_becomes_a_tag_or_a_script(tmp_path: Path) -> None:
    text = html.render(hostile(tmp_path))
    tags = Tags(text)
    assert tags.tags == Tags(html.render(harmless(tmp_path))).tags
    assert "img" not in tags.tags
    for script in tags.scripts[:-2]:  # charts; then plotly and the page's own
        assert not set("<>&") & set(script)
        assert isinstance(json.loads(script), dict)
    handlers = [key for _, key, _ in tags.attributes if key.startswith("on")]
    assert handlers == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    shown = HOSTILE.replace("\u202e", "?").replace("\x1b", "?")
    assert any(shown in each for each in tags.texts)


def test_a_result_with_hostile_names_is_harmless(page: Page) -> None:
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    known: dict[str, Any] = json.loads(json.dumps(figures_of(ran)))
    for group in known["groups"]:
        group["name"] = HOSTILE
    for row in known["per_layer"]:
        row["group"] = HOSTILE + row["group"]
    known["marks"] = [HOSTILE] * len(known["marks"])
    known["config"]["trace"]["name"] = known["config"]["settings"]["policy"] = HOSTILE
    known["tried"] = [each | {"option": f"{HOSTILE}{i}"} for i, each in enumerate(known["tried"])]
    known["version"] = HOSTILE
    tags = Tags(html.render(page_of(known)))
    assert "img" not in tags.tags
    assert tags.tags["script"] == Tags(html.render(page)).tags["script"]


def test_no_name_becomes_markdown(tmp_path: Path) -> None:
    text = markdown.render(hostile(tmp_path))
    outside = [line for line in text.splitlines() if not line.startswith("    ")]
    assert not re.search(r"(?<!\\)[<>`$]", "\n".join(outside))
    rows = [line for line in outside if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(rows) > 5
    assert widths <= {3, 4, 11, 12}
    assert [line for line in outside if line.startswith("# ")] == [outside[0]]


def test_the_page_loads_nothing_and_lets_no_other_script_run(page: Page) -> None:
    tags = Tags(html.render(page))
    for _, key, value in tags.attributes:
        assert value is None or not re.match(r"\s*(https?:)?//", value)
        assert key != "src"
        assert key != "href" or (value or "").startswith("#")
    (policy,) = [value for _, key, value in tags.attributes if (value or "").startswith("default")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (tags.scripts[-1], get_plotlyjs())
    ]
    assert re.findall("'sha256-(.*?)'", policy) == digests
    assert "connect-src" not in policy  # that of default-src: none


def test_plotly_is_inside_once_and_whole(page: Page) -> None:
    text = html.render(page)
    assert text.count('id="plotly"') == 1
    bundle = html.bundle()
    assert bundle.text in text
    assert not set("<>&\"'\\ ") & set(bundle.text + bundle.alphabet)
    data = bytearray()
    for i in range(0, len(bundle.text), 5):
        word = 0
        for letter in bundle.text[i : i + 5]:
            word = 85 * word + bundle.alphabet.index(letter)
        data += word.to_bytes(4)
    assert gzip.decompress(data[: bundle.size]).decode() == get_plotlyjs()


def test_the_file_of_a_run_has_two_megabytes_at_most(page: Page) -> None:
    assert len(html.render(page).encode()) <= 2_000_000


def test_the_file_of_a_thousand_runs_has_five_megabytes_at_most(tmp_path: Path) -> None:
    text = html.render(open_page(fill_store(tmp_path / "s.db", thousand())))
    assert len(text.encode()) <= 5_000_000
    assert Tags(text).tags["tr"] >= 1001


def test_every_link_leads_somewhere(page: Page, tmp_path: Path) -> None:
    for each in (page, open_page(fill_store(tmp_path / "s.db", thousand()))):
        tags = Tags(html.render(each))
        ids = [value for _, key, value in tags.attributes if key == "id"]
        links = [value for _, key, value in tags.attributes if key == "href"]
        assert len(ids) == len(set(ids))
        assert {(link or "")[1:] for link in links} <= {*ids}
        named = [value for _, key, value in tags.attributes if key == "aria-labelledby"]
        assert {*named} <= {*ids}


# Charts -------------------------------------------------------------------------------------------


def test_a_line_is_drawn_with_its_interval() -> None:
    series = Series("a", [1.0, 2.0, 3.0], [4.0, None, 6.0], [3.0, None, 7.0], [6.0, None, 9.0])
    figure = go.Figure(plotted(Lines("title", "x", "y", [series])))
    (trace,) = figure.data
    assert trace.x == (1.0, 2.0, 3.0)
    assert trace.y == (4.0, None, 6.0)
    assert trace.error_y.array == (2.0, 0.0, 3.0)
    assert trace.error_y.arrayminus == (1.0, 0.0, 0.0)  # an interval that begins above its point
    assert trace.hovertext[0] == "a<br>x: 1<br>y: 4<br>from 3 to 6"
    assert trace.hovertext[1] == "a<br>x: 2<br>y: -"


def test_bars_and_maps_are_drawn() -> None:
    parts = {"flash": [1.0, 2.0], "DRAM": [3.0, 4.0]}
    bars = go.Figure(plotted(Bars("title", "ms", ["a", "b"], parts)))
    assert [trace.x for trace in bars.data] == [(1.0, 2.0), (3.0, 4.0)]
    assert bars.layout.barmode == "stack"
    assert bars.layout.yaxis.ticktext == ("a", "b")
    heat = Heat("t", "x", "y", ["1", "2"], ["a"], [[1.0, None]], "tokens/s")
    (trace,) = go.Figure(plotted(heat)).data
    assert trace.z == ([1.0, None],)
    assert trace.hovertext == (["x 1, y a: 1 tokens/s", "x 2, y a: - tokens/s"],)
    assert trace.text == (["1", ""],)


@pytest.mark.parametrize(
    "chart",
    [
        Lines(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [HOSTILE], [1.0], notes=[HOSTILE])]),
        Bars(HOSTILE, HOSTILE, [HOSTILE], {HOSTILE: [1.0]}),
        Heat(HOSTILE, HOSTILE, HOSTILE, [HOSTILE], [HOSTILE], [[1.0]], HOSTILE),
    ],
    ids=lambda chart: type(chart).__name__,
)
def test_no_name_becomes_a_tag_of_a_chart(chart: Chart) -> None:
    text = json.dumps(plotted(chart)).replace("<br>", "")
    assert not set("<>") & set(text)
    assert "%{" not in text.replace("%{text}", "")


def test_a_chart_of_many_lines_tells_them_apart() -> None:
    many = [Series(str(i), [1.0], [float(i)]) for i in range(16)]
    traces = go.Figure(plotted(Lines("", "x", "y", many))).data
    looks = {(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in traces}
    assert len(looks) == 16
