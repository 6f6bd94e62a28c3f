"""The report of `dipsim validate`: text, JSON, picture, and the page in docs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dipsim.report.validate import page, render
from dipsim.units import show_number
from dipsim.validate import Validation, judge, judge_routes, load_cases
from tools.cli import Dipsim, done, refused
from tools.paths import DOCS, of_a_phone
from tools.validating import METRICS, ROUTES, case, judged_as_shipped, streamed, written

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def validation() -> Validation:
    return judged_as_shipped()


def same_text(shown: str, written: str) -> None:
    """Equal but for the last figure of numbers: processors differ in the last bit of logarithms."""
    assert NUMBER.sub("#", " ".join(shown.split())) == NUMBER.sub("#", " ".join(written.split()))
    for ours, theirs in zip(NUMBER.findall(shown), NUMBER.findall(written), strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=2e-3, abs=0.11), ours


def without_routes(text: str) -> str:
    """The page but for what needs the phone's routes."""
    head, _, rest = text.partition("## A phone's run, token by token")
    head = re.sub(r"\* A phone's run, .*\n(  .*\n)*", "", head)
    return head + rest[rest.index("\n## ") :]


# The page -----------------------------------------------------------------------------------------


def test_the_page_is_what_the_command_writes(validation: Validation) -> None:
    written = (DOCS / "validation.md").read_text()
    same_text(without_routes(page(validation, None)), without_routes(written))


@of_a_phone
def test_the_page_with_the_routes_is_what_the_command_writes(validation: Validation) -> None:
    routes = judge_routes(ROUTES, METRICS)
    same_text(page(validation, routes), (DOCS / "validation.md").read_text())


def test_the_page_says_where_a_trivial_predictor_is_closer(validation: Validation) -> None:
    text = " ".join(page(validation, None).split())
    names = {"peak": "bytes over the peak", "line": "a straight line in bytes"}
    for group in validation.groups:
        for name, said in names.items():
            found = group.trivial_median(name)
            whole = found is not None and found[0] == len(group.cases) > 1
            closer = whole and round(found[1], 3) < round(group.median, 3)  # type: ignore[index]
            assert (f"{group.name}: {said} is closer" in text) == closer


def test_the_page_names_every_case(validation: Validation) -> None:
    text = page(validation, None)
    for judged in validation.cases:
        assert judged.case.id in text


# Text, JSON and picture ---------------------------------------------------------------------------


@pytest.mark.usefixtures("judged_once")
def test_tables_fit_a_terminal(dipsim: Dipsim) -> None:
    lines = done(dipsim("validate")).out.splitlines()
    assert max(map(len, lines)) <= 80
    group = next(line for line in lines if line.startswith("decode "))
    assert re.fullmatch(
        r"decode +\d+ +[\d.]+% +[+-][\d.]+% +[+-]\d+% +\d+% +x [\d.]+ +[a-z]+ \d+%", group
    )


def test_a_case_shows_its_figures(dipsim: Dipsim, tmp_path: Path) -> None:
    path = written(tmp_path, case("a"), case("b", kind="ttft", unit="ms"), case("c", value=None))
    judged = judge(load_cases(path)).cases
    lines = done(dipsim("validate --cases", path)).out.splitlines()
    assert judged[0].prediction is not None
    shown = [show_number(figure, 3) for figure in judged[0].prediction]
    row = next(line for line in lines if line.startswith("a ")).split()
    assert row[1:4] == shown
    assert row[4:6] == ["40", f"{judged[0].error():+.0%}"]
    assert any(line.startswith("b, ms ") for line in lines)
    assert next(line for line in lines if line.startswith("c ")).split()[4:6] == ["-", "-"]
    assert any("nothing was measured" in line for line in lines)


def test_json_says_what_each_case_is(dipsim: Dipsim, tmp_path: Path) -> None:
    path = written(tmp_path, case("a"), streamed("b"), case("c", device="x", profile=None))
    printed = done(dipsim("validate --json --cases", path)).json
    assert set(printed) == {"about", "cases", "groups", "routes", "trivial_is_closer"}
    assert printed["routes"] is None
    assert [each["id"] for each in printed["cases"]] == ["a", "b", "c"]
    first = printed["cases"][0]
    assert set(first) == {
        "id", "kind", "profile", "backend", "unit", "predicted", "measured", "low", "high",
        "run_prints", "without_device", "counted", "why", "trivial",
    }  # fmt: skip
    assert first["low"] < first["predicted"] < first["high"]
    assert {each["name"] for each in printed["groups"]} >= {"decode", "streaming"}


@pytest.mark.parametrize("entries", [(case(), streamed()), (case(device="x", profile=None),)])
def test_a_page_and_a_picture_are_written(dipsim: Dipsim, tmp_path: Path, entries: Any) -> None:
    path = written(tmp_path, *entries)
    written_to, drawn = tmp_path / "p.md", tmp_path / "p.svg"
    outcome = dipsim(f"validate --page {written_to} --plot {drawn} --cases", path)
    assert (outcome.code, outcome.out) == (0, "")
    assert written_to.read_text().startswith("# Validation\n")
    assert "<svg" in drawn.read_text()
    assert any(f"wrote {written_to}" in line for line in outcome.err)


def test_names_stay_in_their_cells(tmp_path: Path) -> None:
    name = "a | b\nc"
    text = page(judge(load_cases(written(tmp_path, case(name)))), None)
    (row,) = (line for line in text.splitlines() if "a \\| b" in line)
    assert row.startswith("| a \\| b c | ")


def test_nothing_counted_still_prints() -> None:
    assert render(Validation(()), None) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--routes a.csv", "give both, or neither"),
        ("--metrics a.metrics", "give both, or neither"),
        ("--page page.txt", "ends in .md"),
        ("--page nowhere/page.md", "no such folder"),
        ("--cases missing.json", "not a regular file"),
        ("--routes few.json --metrics few.json", "metrics begin with the columns"),
    ],
)
def test_wrong_options_are_refused(
    ran: Callable[..., Any], tmp_path: Path, options: str, said: str
) -> None:
    written(tmp_path, case(), name="few.json")
    refused(ran(*options.split()), said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.json"]
