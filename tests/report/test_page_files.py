"""Files of `dipsim report`: every format, and what is refused in one line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import dipsim as package
from dipsim.errors import DipsimError
from dipsim.report.page import source
from dipsim.report.page.output import FORMATS, check_output, figures_of, write
from dipsim.report.page.source import open_page, page_of
from dipsim.simulate import simulate
from tools.cli import Dipsim, done, refused
from tools.reported import (
    cell,
    entry,
    figures,
    fill_store,
    sweep_page,
    thousand,
)

RUN = "run smollm2-chat -p snapdragon8 --tokens 0:8 --dram 60%"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What ``run --json --details`` prints of a run."""
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    known: dict[str, Any] = json.loads(json.dumps(figures_of(ran)))
    return known


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written(kind: str, dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(done(dipsim(f"{RUN} --json")).out)
    target = tmp_path / f"r.{kind}"
    out = done(dipsim("report", tmp_path / "r.json", "-o", target)).out
    assert "tokens/s: " in out
    starts = {"html": b"<!doctype html>", "md": b"# ", "png": b"\x89PNG", "svg": b"<?xml"}
    assert target.read_bytes().startswith(starts[kind])


def test_a_result_writes_its_report(tmp_path: Path) -> None:
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    ran.write_report(tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# smollm2-chat: dip with lfu on snapdragon8\n")
    assert "## Layer by layer" in text
    assert "## What the same memory could do" in text
    with pytest.raises(package.DipsimError, match=r"ends in \.html, \.md, \.png, \.svg"):
        ran.write_report(tmp_path / "r.pdf")


def test_the_file_says_the_format() -> None:
    assert check_output(None) == (Path("report.html"), "html")
    assert check_output(None, "md") == (Path("report.md"), "md")
    assert check_output("a.svg", "svg") == (Path("a.svg"), "svg")
    for path, kind, said in (
        ("a.svg", "png", "ends in .svg"),
        ("a.txt", None, "give a file that ends in"),
        (None, "pdf", "use one of html, md, png, svg"),
        ("no/such/folder.md", None, "no such folder"),
    ):
        with pytest.raises(DipsimError, match=said):
            check_output(path, kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "no result of dipsim run (tokens is missing"),
        ('{"about": {"command": "compare"}}', "the JSON of dipsim 'compare'"),
        ('{"about": 3}', "no result of dipsim run"),
        ("{" * 100_000, "not readable as JSON"),
        ("SQLite format 3", "not readable as JSON"),
        ("SQLite format 3\0", "no"),
    ],
)
def test_what_is_no_result_is_refused(text: str, said: str, dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    refused(dipsim("report", tmp_path / "r.json", "-o", tmp_path / "r.html"), said)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens_per_second", "fast"),
        ("tokens_per_second", -1),
        ("hit_rate", 1.5),
        ("hit_rate", "NaN"),
        ("latency_ms", None),
        ("groups", {}),
        ("config", {"trace": 1}),
        ("marks", [1]),
        ("per_layer", [{"layer": -1}]),
        ("time_share", {"flash": 2}),
    ],
)
def test_a_result_with_a_wrong_figure_is_refused(
    result: dict[str, Any], key: str, value: Any
) -> None:
    with pytest.raises(DipsimError, match=f"no result of dipsim run .*{key}"):
        page_of(result | {key: value})


def test_a_store_of_nothing_is_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    target = ("-o", tmp_path / "r.html")
    store = fill_store(tmp_path / "s.db", [])
    refused(dipsim("report", store, *target), "no cell is finished")
    for _ in range(2):  # the second time what would be written is there already
        refused(dipsim("report", tmp_path / "none.db", *target), "no such file")
        (tmp_path / "there.html").touch()
        target = "-o", tmp_path / "there.html"
    refused(dipsim("report", tmp_path, *target), "not a regular file")
    assert not (tmp_path / "r.html").exists()


def test_one_of_several_sweeps_is_chosen(dipsim: Dipsim, tmp_path: Path) -> None:
    for name, rate in (("first", 1.0), ("second", 2.0)):
        fill_store(tmp_path / "s.db", [cell({"policy": name}, figures(rate))], name)
    words = ("report", tmp_path / "s.db", "-o", tmp_path / "r.md")
    refused(dipsim(*words), "several sweeps (first, second): choose one with --sweep NAME")
    refused(dipsim(*words, "--sweep", "third"), "finished cells of first, second")
    assert "2 tokens/s" in done(dipsim(*words, "--sweep", "second")).out


def test_a_sweep_is_of_a_store(dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}")
    refused(dipsim("report", tmp_path / "r.json", "--sweep", "a"), "is no store; drop it")


def test_more_cells_than_a_page_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MOST_CELLS", 999)
    store = fill_store(tmp_path / "s.db", thousand())
    with pytest.raises(DipsimError, match="has 1000 cells, a page at most 999"):
        open_page(store)


def test_the_source_is_not_overwritten(dipsim: Dipsim, tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s.html", [cell({"policy": "lru"}, figures(1.0))])
    before = store.read_bytes()
    refused(dipsim("report", store, "-o", store), "s.html")
    assert store.read_bytes() == before


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_a_page_without_its_packages_names_the_extra(
    missing: str, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    from dipsim.report.page import html

    html.bundle.cache_clear()
    page, target = page_of(result), tmp_path / "r.html"
    with pytest.raises(DipsimError, match=r"pip install 'dipsim\[report\]'"):
        write(page, target, "html")
    assert not target.exists()
    write(page, tmp_path / "r.md", "md")
    write(page, tmp_path / "r.png", "png")
    html.bundle.cache_clear()


def test_a_picture_of_no_chart_is_refused(tmp_path: Path) -> None:
    page = sweep_page([entry({"policy": "lru"}, None)])
    with pytest.raises(DipsimError, match="nothing to draw"):
        write(page, tmp_path / "r.png", "png")
