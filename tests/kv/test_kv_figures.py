"""The table of docs/kv-eviction.md, and how near it is to figures of an independent program."""

import json

import kv_eviction
import pytest

from tools.paths import DOCS

INDEPENDENT = {  # perplexity on the same text and windows
    ("full", "token"): 14.23,
    ("window", "token"): 29.9,
    ("streaming", "token"): 16.51,
    ("h2o", "token"): 16.45,
    ("tova", "token"): 15.93,
    ("tova:heads=kv", "token"): 16.28,
    ("streaming", "prompt"): 14.99,
    ("h2o", "prompt"): 14.99,
    ("snapkv:window=16,pool=max,kernel=7", "prompt"): 14.89,
    ("snapkv:window=16,pool=none", "prompt"): 14.85,
    ("obcache:score=value,pool=none", "prompt"): 14.84,
    ("obcache:score=key,pool=none", "prompt"): 14.85,
    ("obcache:score=key", "prompt"): 14.91,
    ("obcache:score=joint,pool=none", "prompt"): 14.85,
    ("obcache:score=value,recent=64", "token"): 16.55,
    ("obcache:score=key,recent=64", "token"): 16.54,
    ("obcache:score=joint,recent=64", "token"): 16.56,
}
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


@pytest.mark.parametrize(("rule", "when"), INDEPENDENT)
def test_perplexities_are_those_of_an_independent_program(rule, when):
    row = kv_eviction.find(kv_eviction.load(), rule, when)
    assert row["perplexity"] == pytest.approx(INDEPENDENT[rule, when], rel=0.02)


@pytest.mark.parametrize("rule", LOST)
def test_what_is_lost_is_that_of_an_independent_program(rule):
    row, (mass, error) = kv_eviction.find(kv_eviction.load(), rule, "token"), LOST[rule]
    assert (round(row["mass"], 2), float(f"{row['error']:.2g}")) == (mass, float(f"{error:.2g}"))
