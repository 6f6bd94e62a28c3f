"""Numbers for people: bytes have units, and no number has an exponent."""

import re
from typing import Any

import pytest

from dipsim.report.tables import Table
from dipsim.units import show_gain, show_number
from tools.cli import Dipsim, done

EXPONENT = re.compile(r"\d[eE][+-]?\d")
IN_BYTES = re.compile(r"^([\d.]+ ([kMGT]?B|[KMG]iB)( at .*)?|-|unlimited)?$")
PRINTING = (
    "run sized.npz -p snapdragon8 --cache 30MB --details",
    "run t.npz -p phone.yaml --cache-fraction .5 --details",
    "run t.npz -p phone.yaml --cache-fraction .5 --attribution -s flash.bandwidth=1kB/s --details",
    "run t.npz -p paper-a18 --dram 7GB --context 1000000 --details",
    "mrc sized.npz",
    "search t.npz -p phone.yaml --max-loss .5 --cache-fraction .5",
    "search t.npz -p phone.yaml --target-rate 100000",
    "search t.npz -p phone.yaml --axes dram,flash-bandwidth --points 9",
    "study density t.npz -p phone.yaml",
    "study gamma t.npz -p phone.yaml",
    "inspect marked.npz",
    "inspect sized.npz",
    "profiles",
    "profiles oneplus15r",
    "models",
    "models llama-3-8b",
    "policies",
    "methods",
    "explain",
    "validate",
)
"""Command lines whose rates are huge, since the models are tiny, and whose units are large."""


@pytest.mark.usefixtures("judged_once")
@pytest.mark.parametrize("line", PRINTING)
def test_what_is_printed_has_no_exponents_and_no_bare_bytes(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    columns: list[tuple[str, list[str]]] = []
    show = Table.__rich_console__

    def noting(table: Table, *how: Any) -> Any:
        for head, *cells in zip(table.heads, *table.rows, strict=True):
            columns.append((head, cells))
        return show(table, *how)

    monkeypatch.setattr(Table, "__rich_console__", noting)
    out = done(dipsim(line)).out
    assert [text for text in out.splitlines() if EXPONENT.search(text)] == []
    sizes = {"bytes", "cache", "DRAM", "size", "memory"}
    for head, cells in columns:
        if head in sizes and not any(cell.endswith("%") for cell in cells):
            assert [cell for cell in cells if not IN_BYTES.match(cell)] == [], head


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 4, "0"),
        (12345.6, 4, "12346"),
        (9.99996, 4, "10"),
        (1e15, 3, "1000000000000000"),
        (0.000012345, 3, "0.0000123"),
        (1e-12, 4, "0"),
        (-2.5, 4, "-2.5"),
        (float("inf"), 4, "unlimited"),
        (127.0, 4, "127"),
    ],
)
def test_numbers_have_no_exponent(value: float, digits: int, text: str) -> None:
    assert show_number(value, digits) == text


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (1.0, "+0%"),
        (1.0065, "+0.65%"),
        (1.04, "+4%"),
        (1.123, "+12%"),
        (1.996, "+100%"),
        (2.0, "2 x"),
        (18.46, "18.5 x"),
        (1234.5, "1234 x"),
        (float("inf"), "unlimited x"),
    ],
)
def test_gains_are_said_as_people_do(times: float, text: str) -> None:
    assert show_gain(times) == text
