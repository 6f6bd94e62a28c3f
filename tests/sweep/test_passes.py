"""What do many runs hold at a time?"""

from typing import Any

import numpy as np
import pytest

from dipsim.kernels.frames import Frame
from dipsim.policies import BUILTIN
from dipsim.replay.cache import ReplayedCache
from dipsim.run import Run
from dipsim.simulate import prepare
from dipsim.sweep import passes
from dipsim.trace import load_trace
from tools.devices import PHONE
from tools.three_layers import DEVICE, scores

TRACE = load_trace(scores(3, 32))
WIDE: dict[str, Any] = {
    "glu": np.ones((2, 2, 8192), np.float32),
    "meta": {
        "model": {
            "layers": 2,
            "hidden": 64,
            "intermediate": 8192,
            "heads": 1,
            "kv_heads": 1,
            "vocab": 16,
        }
    },
}
"""A trace of so many units that they decide what its caches take."""


def run(**options: Any) -> Run:
    given = {"profile": DEVICE, "policy": "lfu", "cache_fraction": 0.5, **options}
    return prepare(TRACE, given.pop("profile"), **given)


def test_runs_share_the_tables_that_are_equal() -> None:
    tables: dict[Any, Any] = {}
    permuted = {"layout": "permuted", "method": "dip"}
    first, other_budget, other_flash = (
        passes.with_shared_tables(one, tables)
        for one in (
            run(**permuted),
            run(**permuted, cache_fraction=0.25, policy="lru"),
            run(**permuted, profile=PHONE),
        )
    )
    assert first.costs is other_budget.costs
    assert first.placement.places is not None
    assert first.placement.places is other_budget.placement.places
    assert other_flash.costs is not first.costs
    assert other_flash.costs[0][0].seconds[0, 1] != first.costs[0][0].seconds[0, 1]
    other_order = passes.with_shared_tables(run(method="dip"), tables)
    assert other_order.costs is not first.costs


@pytest.mark.parametrize("method", ["glu", "dip-ca"])
@pytest.mark.parametrize("policy", ["lfu", "arc", "lirs"])
def test_the_estimate_of_a_pass_covers_its_caches(method: str, policy: str) -> None:
    trace = dict(WIDE)
    if method == "dip-ca":
        trace["mlp_input"] = np.ones((2, 2, 64), np.float32)
    one = prepare(trace, PHONE, method=method, policy=policy, cache_fraction=0.5)
    places = [(layer, i) for layer in range(2) for i in range(len(one.method.groups))]
    caches = [ReplayedCache(one.method, BUILTIN[policy], [place], [64], 0) for place in places]
    taken = sum(_nbytes(cache.cache) for cache in caches)
    fixed = 2**17 * len(caches)  # histograms, which do not grow with the units
    estimate = passes._bytes(one, one.contender())
    assert estimate < 1.1 * taken
    assert estimate + fixed > taken


def _nbytes(record: Any) -> int:
    """Return the bytes of the arrays of a record, and of the records and frames in it."""
    if isinstance(record, Frame):
        return _nbytes(record.record)
    if isinstance(record, np.ndarray):
        return record.nbytes
    return sum(map(_nbytes, record)) if isinstance(record, tuple) else 0
