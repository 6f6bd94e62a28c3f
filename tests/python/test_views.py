"""Answers in Python: short texts, tables, pictures and a card for notebooks."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

import dipsim
from dipsim import layers
from dipsim.errors import DipsimError
from dipsim.report import card
from tools.answers import LAYERS, READS, TOKENS, answers, arrays

NAMES = (
    *("simulate", "mrc", "search max_loss", "search target_rate", "search axes", "study"),
    "inspect",
    "plan",
    "compare",
)
WIDEST = 200
OPAQUE = ("dipsim.kernels",)
"""Packages whose records no user meets."""


def test_there_is_an_answer_of_every_question() -> None:
    assert set(answers()) == set(NAMES)


# Short texts -------------------------------------------------------------------------------------


def parts(value: Any) -> Iterator[Any]:
    """Yield what a value consists of."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    if is_dataclass(value):
        yield from (getattr(value, field.name) for field in fields(value))
    yield from (getattr(value, name) for name in getattr(type(value), "model_fields", ()))
    yield from getattr(value, "__dict__", {}).values()


def reachable(*roots: Any) -> Iterator[Any]:
    """Yield every object of dipsim that these consist of, each once."""
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | np.ndarray | type):
            continue
        seen[id(value)] = value
        if type(value).__module__.startswith("dipsim"):
            yield value
        waiting += parts(value)


def test_the_text_of_every_object_is_short(tmp_path: Path) -> None:
    shipped = [dipsim.load_profile("snapdragon8"), dipsim.load_trace("smollm2-chat")]
    shipped += [dipsim.load_trace("smollm2-kv"), *layers.BUILTIN.values()]
    models = [dipsim.load_model("llama-3.2-1b"), dipsim.load_policy("lfu-decay:half_life=32")]
    group = dipsim.UnitGroup("glu", ("down",))
    method = dipsim.PruningMethod("long" * 40, (group,), rank=lambda *given: None)
    dipsim.save_trace(tmp_path / "t.npz", arrays())
    sweep = {"trace": str(tmp_path / "t.npz"), "profile": "paper-a18", "policy": ["lru", "lfu"]}
    swept = dipsim.sweep(sweep, tmp_path / "s.db")
    with dipsim.TraceWriter(tmp_path / ("long" * 40 + ".npz")) as writer:
        writer.append({"glu": np.ones((2, 3), np.float32)})
        seen = set()
        for value in reachable(answers(), shipped, models, method, writer, swept):
            kind = type(value)
            if not kind.__module__.startswith(OPAQUE):
                seen |= {base.__name__ for base in kind.__mro__}
                for text in (repr(value), str(value)):
                    lines = text.splitlines()
                    assert len(lines) <= 2, kind
                    assert max(map(len, lines)) <= WIDEST, kind
    classes = {name for name in dipsim.__all__ if name[0].isupper()} - {"DipsimError"}
    assert seen >= classes
    assert seen >= {"Run", "Traffic", "Timing", "Budget", "Cell", "Settings", "Signal", "Method"}


def test_the_text_of_a_result_says_what_was_run_and_how_it_went() -> None:
    result = answers()["simulate"]
    what, how = repr(result).splitlines()
    assert what == "Result of arrays, dip, lfu, on phone, 24 tokens measured"
    assert f"{result.tokens_per_second:.4g} tokens/s" in how
    assert f"{result.hit_rate:.1%}" in how


def test_the_text_of_a_hostile_name_is_one_line() -> None:
    profile = dipsim.load_profile({**READS, "name": "a\nb\x1b[31m" + "c" * 500})
    assert len(repr(profile)) <= WIDEST
    assert repr(profile).isprintable()


# Tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_a_table_of_named_columns(name: str) -> None:
    table = answers()[name].to_frame()
    assert len(table) > 0
    assert all(re.fullmatch(r"[a-z0-9_.\-]+", column) for column in table.columns)


def test_a_table_of_tokens_adds_up_to_the_result() -> None:
    result = answers()["simulate"]
    table = result.to_frame()
    assert list(table.columns[:5]) == ["token", "sequence", "position", "accesses", "hits"]
    assert table["hits"].sum() == result.hits
    assert table["accesses"].sum() == result.accesses
    assert table["latency_ms"].sum() == pytest.approx(TOKENS / result.tokens_per_second * 1e3)
    exposed = [f"{name}_ms" for name in result.time_share]
    assert table[exposed].sum().sum() == pytest.approx(table["latency_ms"].sum())
    assert table["sequence"].tolist() == [0] * 12 + [1] * 12
    assert table["position"].tolist() == [*range(12)] * 2


def test_tokens_and_layers_of_a_part_are_numbered_as_in_the_trace() -> None:
    trace = dipsim.load_trace(arrays())
    result = dipsim.simulate(
        trace, READS, tokens="6:20", layers="1:2", warmup=2, cache_fraction=0.5
    )
    assert result.to_frame()["token"].tolist() == [*range(8, 20)]
    assert result.to_frame()["position"].tolist() == [8, 9, 10, 11, *range(8)]
    assert set(result.to_frame("layers")["layer"]) == {1}


def test_a_table_of_layers_adds_up_to_the_result() -> None:
    result = answers()["simulate"]
    table = result.to_frame("layers")
    assert len(table) == LAYERS * 2
    assert table["hits"].sum() == result.hits
    of_group = table.groupby("group")["hits"].sum()
    assert of_group.to_dict() == {group["name"]: group["hits"] for group in result.groups()}
    assert table["unit_bytes"].tolist() == result.unit_bytes.ravel().tolist()
    assert table["capacity"].tolist() == result.traffic.capacity.ravel().tolist()
    moved = table["flash_bytes_per_token"].sum() + result.timing.static_flash_bytes
    assert moved == pytest.approx(result.flash_bytes_per_token)


def test_a_shared_cache_has_no_capacity_per_layer() -> None:
    result = dipsim.simulate(arrays(), READS, scope="global", cache_fraction=0.5)
    assert result.to_frame("layers")["capacity"].isna().all()


def test_another_table_is_refused() -> None:
    with pytest.raises(DipsimError, match=r"'layer'.*'tokens' or 'layers'"):
        answers()["simulate"].to_frame("layer")


@pytest.mark.parametrize("name", NAMES)
def test_a_table_without_pandas_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DipsimError, match=r"pip install 'dipsim\[pandas\]'"):
        answers()[name].to_frame()


# Pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_a_picture_that_a_notebook_shows(name: str, tmp_path: Path) -> None:
    figure = answers()[name].plot(tmp_path / "p.png", size=(6, 4), dpi=50)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure.axes
    width, height = np.frombuffer((tmp_path / "p.png").read_bytes()[16:24], ">u4")
    assert (width, height) == (300, 200)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert answers()[name].plot().axes


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    answer = answers()[name]
    for path in ("p.gif", tmp_path / "gone" / "p.png", tmp_path, np.ones(3)):
        with pytest.raises(DipsimError) as problem:
            answer.plot(path)
        assert "\n" not in str(problem.value)
    for wrong in ({"size": (0, 4)}, {"size": 3}, {"size": (float("nan"), 1)}, {"dpi": 0}):
        with pytest.raises(DipsimError, match="give"):
            answer.plot(**wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_plain_values(name: str) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str | int) for key in value)
            value = [*value.values()]
        if isinstance(value, list | tuple):
            for inner in value:
                check(inner)
        else:
            assert value is None or isinstance(value, str | int | float), value

    check(answers()[name].to_dict())


# The card ----------------------------------------------------------------------------------------


def test_the_card_has_the_answer_and_bars() -> None:
    result = answers()["simulate"]
    text = result._repr_html_()
    shown = unescape(re.sub(r"<[^>]+>", " ", text))
    assert f"{result.tokens_per_second:.4g} tokens/s" in shown
    assert f"hit {result.hit_rate:.1%}" in shown
    assert all(mark in shown for mark in result.marks)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", text)]
    assert sum(widths) == pytest.approx(300, abs=0.1)  # three bars, each filled
    assert f"width:{100 * result.hit_rate:.3f}%" in text


@pytest.mark.parametrize("forbidden", ["<script", "<style", "http", "url(", "src=", "href="])
def test_the_card_loads_nothing(forbidden: str) -> None:
    assert forbidden not in answers()["simulate"]._repr_html_()


def test_the_card_escapes_what_files_say() -> None:
    result = answers()["simulate"]
    device = result.run.device.model_copy(update={"name": "<script>alert(1)</script>"})
    named = replace(result, run=replace(result.run, device=device))
    assert "<script" not in card.html(named)
    assert "&lt;script&gt;" in card.html(named)


def test_the_card_of_a_run_that_needs_no_flash() -> None:
    result = dipsim.simulate(arrays(), READS, cache_fraction=1.0)
    assert "everything fits" in result._repr_html_()
