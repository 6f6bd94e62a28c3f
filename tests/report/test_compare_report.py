"""Tables and pictures of comparisons made by hand: what is said, and that it can be read."""

import html
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dipsim.analysis.compare import Comparison
from dipsim.errors import DipsimError
from dipsim.report.compare import html as html_of
from dipsim.report.compare import render
from dipsim.report.compare_picture import plot
from dipsim.report.pictures import Sheet
from tools.comparisons import comparison

SHARES = [f"{10 * i}%" for i in range(2, 10)]
LONG = "a-name-that-is-far-too-long-for-any-legend-of-a-picture-or-column-of-a-table"


def text_of(found: Comparison, details: bool = False) -> str:
    console = Console(width=80, no_color=True, file=StringIO())
    console.print(render(found, details), crop=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def steady(profile: str, method: str, density: float, policy: str, budget: int) -> float:
    """Rates that tell every place apart."""
    base = {"lru": 10.0, "lfu": 11.0, "opt": 20.0}.get(policy, 9.0 + len(policy) / 100)
    return base * (1 + budget) * (2 if method == "dip-ca" else 1) * len(profile) / density


# Tables -------------------------------------------------------------------------------------------


def test_rates_by_budget() -> None:
    # lru is ahead at the first budget, lfu at the third, at the second they are alike.
    table = {"lru": (3.0, 4.0, 5.0), "lfu": (2.0, 4.0, 6.5), "opt": (9.0, 9.5, 12345.0)}
    found = comparison(
        lambda *place: table[place[3]][place[4]], policies=list(table), dram=["1GB", "2GB", "4GB"]
    )
    lines = text_of(found).splitlines()
    assert lines[:8] == [
        "phone: lfu is the fastest: 6.5 tokens/s at dram=4GB (opt: 12345). lru leads at 1",
        "of 3 budgets, lfu at 1, several alike at 1.",
        "",
        "phone: tokens per second, by DRAM",
        "policy  1GB  2GB    4GB",
        "opt       9  9.5  12345",
        "lru      *3    4      5",
        "lfu       2    4   *6.5",
    ]


def test_a_table_for_each_profile_and_a_row_for_each_method_and_policy() -> None:
    found = comparison(
        steady,
        profiles=["a", "bb"],
        methods=["dip", "dip-ca"],
        policies=["lru", "lfu"],
        dram=SHARES[:4],
    )
    text = text_of(found)
    assert "a: dip-ca lfu is the fastest: 125.7 tokens/s at dram=50%" in text
    assert "dip-ca lfu leads at 4 of 4 budgets." in " ".join(text.split())
    heads = [line.split() for line in text.splitlines() if line.startswith("method")]
    assert heads == [["method", "policy", "20%", "30%", "40%", "50%"]] * 2
    assert text.count("\ndip-ca  lfu ") == text.count("\ndip     lru ") == 2
    assert "Methods and densities differ in what they lose" in " ".join(text.split())


def test_one_budget_and_many_profiles_make_one_table() -> None:
    found = comparison(steady, profiles=["a", "bb", "ccc"], dram=["50%"])
    text = text_of(found)
    assert "dram=50%: tokens per second\npolicy      a     bb    ccc\n" in text


def test_all_alike_has_no_star_and_no_leader() -> None:
    found = comparison(lambda *_: 7.0, policies=["lru", "lfu", "arc"], dram=SHARES)
    text = text_of(found)
    assert "lru is the fastest, as 2 others: 7 tokens/s" in text
    assert "Several are alike at 8 of 8 budgets." in " ".join(text.split())
    assert "*" not in text  # so no legend of one either
    led = comparison(lambda *place: len(place[3]), policies=["lru", "lfu-decay"], dram=SHARES)
    assert "*: the fastest that a device can run. " in text_of(led)


def test_what_cannot_run_is_said_once() -> None:
    def rate(*place: Any) -> float | None:
        return None if place[3] == "arc" and place[4] < 3 else 1.0 + len(place[3])

    found = comparison(rate, policies=["lru", "arc", "2q"], dram=SHARES)
    text = text_of(found)
    assert "-: arc cannot run at 1 MB (and 2 more with other numbers)" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("arc ")]
    assert row == ["arc", "-", "-", "-", *["*4"] * 5]  # as lru, whose name is as long
    nothing = comparison(lambda *place: None if place[3] != "opt" else 2.0, dram=SHARES)
    assert "phone: nothing ran that a device can run." in text_of(nothing)


def test_details_have_every_figure_of_every_run() -> None:
    found = comparison(steady, profiles=["a", "bb"], dram=SHARES[:2])
    assert "reads" not in text_of(found)
    text = text_of(found, details=True)
    assert text.count("reads") == 4  # a head for each profile and budget
    assert "a, dram=20%: 500 kB of cache" in text
    assert "123456" in text  # never 1.235e+05
    few = comparison(steady, dram=SHARES[:2])
    assert text_of(few) == text_of(few, details=True)
    assert "leads at" not in text_of(few)


@pytest.mark.parametrize("budgets", [3, 8, 20, 40])
@pytest.mark.parametrize("axes", [{}, {"methods": ["dip", "dip-ca"]}, {"densities": [0.5, 0.7]}])
def test_rates_fit_80_columns(budgets: int, axes: dict[str, Any]) -> None:
    names = ["lru", "lfu", "opt", "lfu-decay:half_life=64", "arc", "sieve"]
    shares = [(i + 1) / budgets for i in range(budgets)]
    found = comparison(
        steady, profiles=["a", "b", "c"], policies=names, cache_fraction=shares, **axes
    )
    lines = text_of(found).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith(("policy ", "method ", "density "))]
    columns = [head for row in rows for head in row if head.endswith("%")]
    assert len(columns) == 3 * budgets


def test_html_says_the_same_and_cannot_break_out() -> None:
    found = comparison(steady, policies=["lru", "<b>&mine"], dram=SHARES)
    shown = html_of(found)
    assert found._repr_html_() == shown
    assert "<b>" not in shown
    assert html.escape("<b>&mine") in shown
    assert shown.count("<th ") == 9
    assert shown.count("<td ") == 18
    assert "<caption>phone: tokens per second, by DRAM</caption>" in shown


# Pictures -----------------------------------------------------------------------------------------

PHONES = ["phone", "other phone", "a third", LONG]
POLICIES = ["lru", "lfu", "opt", "arc", "sieve", "2q", "lfu-decay:half_life=123456", LONG]
PICTURES = {
    "one line": {"policies": ["lru"], "dram": SHARES},
    "one policy, one budget": {"policies": ["lru"], "dram": ["2GB"]},
    "2 policies, 1 budget": {"dram": ["50%"]},
    "8 policies, 1 budget": {"policies": POLICIES, "cache_fraction": [0.8]},
    "8 policies, 1 budget, 4 profiles": {"policies": POLICIES, "profiles": PHONES, "dram": ["2GB"]},
    "20 policies, 1 budget": {"policies": [f"policy {i}" for i in range(20)], "cache": ["2GB"]},
    "2 policies, 1 budget, 8 profiles": {"profiles": [f"phone {i}" for i in range(8)]},
    "2 policies, 2 budgets": {"dram": ["50%", "60%"]},
    "8 policies, 8 budgets": {"policies": POLICIES, "dram": SHARES},
    "6 policies, 8 budgets, 3 profiles": {
        "policies": POLICIES[:6], "profiles": PHONES[:3], "dram": SHARES,
    },
    "8 policies, 20 budgets, 4 profiles": {
        "policies": POLICIES, "profiles": PHONES, "cache": [f"{i}GB" for i in range(1, 21)],
    },
    "methods and policies": {
        "methods": ["dip", "dip-ca"], "policies": POLICIES[-4:], "cache_fraction": [0.1, 0.5, 1.0],
    },
    "budgets of every kind": {"dram": ["2MB", "50%"], "cache": ["3MB"], "cache_fraction": [0.5]},
    "densities": {"densities": [0.3, 0.5, 0.7], "methods": ["dip", "dip-ca"], "dram": ["50%"]},
    "5 profiles": {"profiles": [*PHONES, "fifth"], "dram": SHARES},
    "long names": {"profiles": [LONG], "policies": [LONG], "methods": [LONG], "dram": ["2GB"]},
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_no_text_is_cut_or_touches_another(case: str) -> None:
    figure = plot(comparison(steady, **PICTURES[case]), Sheet())
    figure.draw_without_rendering()
    whole = figure.bbox
    shown = [figure._suptitle]
    for axes in figure.axes:
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        low, high = axes.bbox.min - 1, axes.bbox.max + 1
        for tick in ticks:  # labels beyond the limits are not drawn
            x, y = tick.get_transform().transform(tick.get_position())
            inside = low[0] <= x <= high[0] or low[1] <= y <= high[1]
            middle = tick.get_window_extent()
            centre = (middle.x0 + middle.x1) / 2, (middle.y0 + middle.y1) / 2
            on = low[0] <= centre[0] <= high[0] or low[1] <= centre[1] <= high[1]
            shown += [tick] if tick.get_text() and tick.get_visible() and inside and on else []
        shown += [axes.title, axes.xaxis.label, axes.yaxis.label]
    shown += figure.legends
    boxes = {text: text.get_window_extent() for text in shown if _says_something(text)}
    for text, box in boxes.items():
        assert whole.x0 <= box.x0, text
        assert box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0, text
        assert box.y1 <= whole.y1, text
    for (one, box), (other, its) in combinations(boxes.items(), 2):
        assert not box.overlaps(its), (one, other)


def _says_something(text: Any) -> bool:
    return not hasattr(text, "get_text") or bool(text.get_text())


def lines_of(axes: Any) -> list[tuple[list[float], list[float]]]:
    """Return the lines that have points: across and up."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if len(line.get_xdata())
    ]


def test_a_line_for_each_policy_and_a_panel_for_each_profile() -> None:
    found = comparison(steady, profiles=["a", "bb"], dram=["90%", "20%"])
    figure = plot(found, Sheet())
    assert [axes.get_title() for axes in figure.axes] == ["a", "bb"]
    assert figure._suptitle.get_text() == "Tokens per second by DRAM: arrays, dip"
    for profile, axes in zip(["a", "bb"], figure.axes, strict=True):
        expected = [
            ([20.0, 90.0], [steady(profile, "dip", 0.7, policy, n) for n in (1, 0)])
            for policy in ("lru", "opt")
        ]
        assert lines_of(axes) == expected
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(styles) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["lru", "opt"]


def test_what_goes_across() -> None:
    def across(**axes: Any) -> tuple[str, list[float]]:
        axes_of_picture = plot(comparison(steady, policies=["lru"], **axes), Sheet()).axes[0]
        return axes_of_picture.get_xlabel(), lines_of(axes_of_picture)[0][0]

    assert across(dram=["10%", "50%"]) == ("DRAM (% of the model)", [10, 50])
    assert across(cache_fraction=[0.25, 1]) == ("units that the caches hold (%)", [25, 100])
    assert across(dram=["1MB", "2MB"]) == ("DRAM (MB)", [1, 2])  # the cells' own bytes
    assert across(cache=["1MB", "2MB"]) == ("cache (MB)", [0.5, 1])
    assert across(dram=["1MB"], cache=["2MB"]) == ("DRAM (MB)", [1, 2])
    assert across(dram=["1MB"], densities=[0.5, 0.7]) == ("MLP density", [0.5, 0.7])


def test_a_run_that_is_impossible_leaves_a_gap() -> None:
    found = comparison(
        lambda *place: None if place[4] == 1 and place[3] == "lru" else 5.0, dram=SHARES[:3]
    )
    lru, opt = lines_of(plot(found, Sheet()).axes[0])
    assert (lru[0], opt[0]) == ([20, 40], [20, 30, 40])


def test_more_lines_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    nine = [f"policy {i}" for i in range(9)]
    with pytest.raises(DipsimError, match="8 policies at most, not 9: name fewer"):
        plot(comparison(steady, policies=nine, dram=SHARES), Sheet(tmp_path / "p.png"))
    five = {"methods": ["dip", "dip-ca"], "policies": nine[:5]}
    with pytest.raises(DipsimError, match="8 lines, one for each method, policy at most, not 10"):
        plot(comparison(steady, dram=SHARES, **five), Sheet(tmp_path / "p.png"))
    with pytest.raises(DipsimError, match="8 profiles at most, not 9"):
        plot(comparison(steady, profiles=nine), Sheet(tmp_path / "p.png"))
    assert list(tmp_path.iterdir()) == []
    plot(comparison(steady, policies=nine), Sheet(tmp_path / "p.png"))  # rows, not lines
    assert (tmp_path / "p.png").exists()
