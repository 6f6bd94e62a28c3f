"""The table of docs/kv-eviction.md, and how near it is to figures of an independent program."""

import json

import independent
import kv_eviction
import pytest

from tools.paths import DOCS

LOST = {  # mass kept and output error of the same runs, evicting at each token
    "window": (0.28, 3.9),
    "streaming": (0.71, 0.177),
    "h2o": (0.84, 0.050),
    "tova": (0.89, 0.032),
    "obcache:score=value,recent=64": (0.78, 0.062),
    "obcache:score=key,recent=64": (0.79, 0.059),
}


def test_the_table_of_the_page_is_what_was_measured():
    rows = json.loads((DOCS / "tables/kv_eviction.json").read_text())
    assert [{key: row[key] for key in ("rule", "when")} for row in rows] == kv_eviction.wanted()
    page = (DOCS / "kv-eviction.md").read_text()
    assert f"<!-- kv_eviction -->\n{kv_eviction.table(rows)}\n<!-- end -->" in page


@pytest.mark.parametrize(("rule", "when"), independent.KV)
def test_perplexities_are_those_of_an_independent_program(rule, when):
    row = kv_eviction.find(kv_eviction.load(), rule, when)
    assert row["perplexity"] == pytest.approx(independent.KV[rule, when], rel=independent.NEAR)


@pytest.mark.parametrize("rule", LOST)
def test_what_is_lost_is_that_of_an_independent_program(rule):
    row, (mass, error) = kv_eviction.find(kv_eviction.load(), rule, "token"), LOST[rule]
    assert (round(row["mass"], 2), float(f"{row['error']:.2g}")) == (mass, float(f"{error:.2g}"))
