"""The table of docs/kv-eviction.md, and how near it is to figures of an independent program."""

import json

import independent
import kv_eviction
import pytest

from tools.paths import DOCS


def test_the_table_of_the_page_is_what_was_measured():
    rows = json.loads((DOCS / "tables/kv_eviction.json").read_text())
    assert [{key: row[key] for key in ("rule", "when")} for row in rows] == kv_eviction.wanted()
    page = (DOCS / "kv-eviction.md").read_text()
    assert f"<!-- kv_eviction -->\n{kv_eviction.table(rows)}\n<!-- end -->" in page


@pytest.mark.parametrize(("rule", "when"), independent.KV)
def test_perplexities_are_those_of_an_independent_program(rule, when):
    row = kv_eviction.find(kv_eviction.load(), rule, when)
    assert row["perplexity"] == pytest.approx(independent.KV[rule, when], rel=independent.NEAR)
