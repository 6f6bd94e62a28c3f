"""Sequential access against libCacheSim 0.3.5: the same hits, to the count.

libCacheSim requests units one at a time, as ``access="sequential"`` does, and ends a request before
it looks at the next. Its LIRS lets a unit go on a hit where the paper does not, and remembers at
most twice the cache where the paper has no bound; ``lirs:eager=1,stack=2`` does the same.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import workload

from dipsim.methods import build_method
from dipsim.policies import BUILTIN, load_policy
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from tools.replays import replay

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and find_spec("libcachesim") is None,
    reason="needs libcachesim (in CI that is a failure)",
)

SAME = {
    "lru": "LRU",
    "fifo": "FIFO",
    "lfu-resident": "LFU",
    "clock": "Clock",
    "sieve": "Sieve",
    "slru": "SLRU",
    "arc": "ARC",
    "2q": "TwoQ",
    "s3fifo": "S3FIFO",
    "lirs:eager=1,stack=2": "LIRS",
    "belady": "Belady",
}
"""What dipsim calls them, and libCacheSim."""
APART = {
    "w-tinylfu": "libCacheSim counts in a sketch, with hash functions of its own",
    "random": "libCacheSim draws from a generator of its own",
    **dict.fromkeys(
        ("lfru", "lfru-sampled", "least-stale", "lru-heat", "lru-throttled"),
        "of engines that stream experts: libCacheSim has none such; twins check them",
    ),
    "pinned": "libCacheSim pins nothing; the twin checks it",
    "lru-k": "libCacheSim's LRUK evicts others; the twin checks it (test_replay.py)",
    "none": "no cache",
    "static": "no replacement",
    "opt": "may turn a miss away, which one request after another cannot",
    "window": "about the sets of whole tokens",
    **dict.fromkeys(("mru", "lfu", "lfu-decay"), "not in libCacheSim"),
}
"""Policies that are not compared, and why."""
UNITS, REQUESTS = 2000, 24_000
CAPACITIES = (200, 500, 1200)
"""Divisible by 4: SLRU of libCacheSim gives each of its four segments the whole part of C / 4."""


# The streams -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Requests, for dipsim a trace and for libCacheSim a file."""

    trace: Trace
    file: Path
    requests: int
    capacities: tuple[int, ...]


def zipf(seed: int) -> np.ndarray:
    """int[REQUESTS] units, the n-th most popular with probability ~ n**-0.9, in random order."""
    rng = np.random.default_rng(seed)
    chance = np.arange(1, UNITS + 1) ** -0.9
    return rng.permutation(UNITS)[rng.choice(UNITS, REQUESTS, p=chance / chance.sum())]


def with_scans(seed: int) -> np.ndarray:
    """The same, and every 1500 requests a run of 300 units in ascending order instead."""
    units = zipf(seed)
    for start in range(1000, REQUESTS, 1500):
        first = np.random.default_rng(start).integers(UNITS - 300)
        units[start : start + 300] = np.arange(first, first + 300)
    return units


def one_by_one(units: np.ndarray) -> np.ndarray:
    """bool[tokens, 1, UNITS]: every request is a token of its own."""
    return (units[:, None] == np.arange(UNITS))[:, None]


STREAMS: dict[str, tuple[Callable[[], np.ndarray], tuple[int, ...]]] = {
    "zipf": (lambda: one_by_one(zipf(seed=1)), CAPACITIES),
    "zipf with scans": (lambda: one_by_one(with_scans(seed=2)), CAPACITIES),
    "token sets": (lambda: workload.active_sets(64, 1920), (1152, 1536)),  # .6 and .8 of the units
}
"""bool[tokens, 1, units], and the capacities to be tried."""


def next_requests(units: np.ndarray) -> np.ndarray:
    """For every request the index of the next of the same unit, -1: never again."""
    order = np.argsort(units, kind="stable")
    same = units[order][1:] == units[order][:-1]
    found = np.full(len(units), -1)
    found[order[:-1][same]] = order[1:][same]
    return found


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stream]:
    """Makes a stream when it is first asked for."""

    @cache
    def stream(name: str) -> Stream:
        make, capacities = STREAMS[name]
        sets = make()
        requests = workload.requests(sets)
        requests["next"] = next_requests(requests["unit"])
        file = tmp_path_factory.mktemp("streams") / "requests.oracleGeneral.bin"
        requests.tofile(file)
        meta = {"signals": {"glu": {"encoding": "bits", "units": sets.shape[-1]}}}
        packed = np.packbits(sets, axis=-1, bitorder="little")
        trace = load_trace({"glu": packed, "meta": meta})
        return Stream(trace, file, len(requests), capacities)

    return stream


def dipsim_hits(stream: Stream, policy: str, capacity: int) -> int:
    method = build_method(stream.trace, Settings(method="recorded"))
    settings = Settings(access="sequential")
    held = np.array([[capacity]])
    traffic = replay(stream.trace, method, load_policy(policy), held, settings, threads=1)
    assert traffic.active.sum() == stream.requests
    return int(traffic.hits.sum())


def libcachesim_hits(stream: Stream, policy: str, capacity: int) -> int:
    import libcachesim

    reader = libcachesim.TraceReader(
        str(stream.file),
        libcachesim.TraceType.ORACLE_GENERAL_TRACE,
        libcachesim.ReaderInitParam(ignore_obj_size=True),
    )
    cached: Any = getattr(libcachesim, policy)(capacity, hashpower=12)
    return round((1 - cached.process_trace(reader)[0]) * stream.requests)


# The tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("policy", SAME)
def test_hits_equal_those_of_libcachesim(
    policy: str, name: str, streams: Callable[[str], Stream]
) -> None:
    stream = streams(name)
    found = {c: dipsim_hits(stream, policy, c) for c in stream.capacities}
    assert found == {c: libcachesim_hits(stream, SAME[policy], c) for c in stream.capacities}
    assert min(found.values()) > 0


def test_lirs_of_the_paper_lets_nothing_go_on_a_hit(streams: Callable[[str], Stream]) -> None:
    stream = streams("token sets")
    for capacity in stream.capacities:
        theirs = libcachesim_hits(stream, "LIRS", capacity)
        assert dipsim_hits(stream, "lirs:eager=1,stack=2", capacity) == theirs
        paper = dipsim_hits(stream, "lirs:stack=2", capacity)
        assert paper == dipsim_hits(stream, "lirs:eager=0,stack=2", capacity)
        assert theirs < paper < 1.005 * theirs


def test_lirs_of_the_paper_remembers_more(streams: Callable[[str], Stream]) -> None:
    stream = streams("zipf")
    small = stream.capacities[0]
    assert libcachesim_hits(stream, "LIRS", small) != dipsim_hits(stream, "lirs:eager=1", small)


def test_every_policy_is_compared_or_says_why_not() -> None:
    compared = [name.partition(":")[0] for name in SAME]
    assert sorted([*compared, *APART]) == sorted(BUILTIN)
