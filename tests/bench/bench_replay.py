"""How fast the replay is, next to what else one could use: ``python tests/bench/bench_replay.py``.

The contenders of a part take turns (turns.py), and each is compared with the first of its part,
round by round. README.md beside this file tells what the parts compare.
"""

import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import history
import numpy as np
import turns
import workload
from machine import this_machine
from numba import njit
from numpy.typing import NDArray
from turns import Part, Prepare, Ratio, Row, Run, measure

from dipsim.kernels import new_choosing
from dipsim.kernels.topk import select_codes, top_k_weighed
from dipsim.methods import Group, Method, masking
from dipsim.methods.rules import parse_rule
from dipsim.policies import BUILTIN, Policy, load_policy
from dipsim.replay.replay import replay_policy
from dipsim.settings import Access, Settings
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import encode_log8, pack_sets

USER_LRU = f"{Path(__file__).with_name('user_lru.py')}:policy"
GAMMA = 0.5
FITTED, FITTED_TABLE = 16, "libCacheSim, hash table fitted"
TABLES = {FITTED_TABLE: FITTED, "libCacheSim, as it comes": 24}
"""Logarithms of the size of libCacheSim's hash table: the fastest here, and its default."""
QUICK_POLICIES = ("lru", "lfu", "opt")
"""Of ``--quick``: each policy costs some seconds of compilation when nothing is stored yet."""
LAYERS = 8
"""Of the part that compares threads."""

LRU, CHOOSING, DIP_CA = "lru over recorded sets", "dip-ca, selection", "dip-ca, lfu"
OWN, ENCODINGS, THREADS = (
    "a user's own policy",
    f"{DIP_CA}, by encoding",
    f"{DIP_CA}, {LAYERS} layers",
)
HASHING = ("hashing, 1 thread", "hashing, 2 threads")
HELD = {
    "lru x libCacheSim": Ratio(LRU, "dipsim, sets as bits", FITTED_TABLE),
    "lru over bool x libCacheSim": Ratio(LRU, "dipsim, sets as bool", FITTED_TABLE),
    "selection from float32 x numpy": Ratio(CHOOSING, "float32", "numpy"),
    "selection from log8 x numpy": Ratio(CHOOSING, "log8", "numpy"),
    "dip-ca x numpy": Ratio(DIP_CA, "dipsim", "numpy"),
    "user's own lru x built in": Ratio(OWN, "lru, user_lru.py", "lru, built in"),
    "float16 x float32": Ratio(ENCODINGS, "float16", "float32"),
    "log8 x float32": Ratio(ENCODINGS, "log8", "float32"),
}
SHOWN = {
    "2 threads x 1": Ratio(THREADS, "2 threads", "1 thread"),
    "hashing in 2 threads x 1": Ratio(THREADS, HASHING[1], HASHING[0]),
}
RATES = {
    "selection from float32, M scores/s": (CHOOSING, "float32"),
    "dip-ca, M scores/s": (DIP_CA, "dipsim"),
}

# The contenders --------------------------------------------------------------------------------


def recorded(trace: Trace) -> Method:
    """The method that takes the trace's own sets."""
    return Method("recorded", (Group("glu", trace.signals["glu"].units, (), "sets"),))


def dip_ca(trace: Trace) -> Method:
    """Cache-aware top-k over one group."""
    units = trace.signals["glu"].units
    rule = parse_rule("--masking", "gamma", masking.MASKING)
    group = Group("glu", units, (), "top-k", workload.ACTIVE, gamma=GAMMA, rule=rule)
    return Method("dip-ca", (group,))


def dipsim(
    trace: Trace, method: Method, policy: Policy, threads: int = 1, access: Access = "atomic"
) -> Prepare:
    """A whole `replay_policy` call: a trace in memory -> Traffic."""
    fraction = workload.FRACTION
    capacity = np.full((trace.layers, 1), int(fraction * trace.signals["glu"].units + 1e-9))
    settings = Settings(access=access)

    def run() -> int:
        (traffic,) = replay_policy(trace, method, policy, [capacity], settings, threads=threads)
        return int(traffic.hits.sum())

    return lambda: run


def libcachesim(name: str, file: Path, accesses: int, capacity: int, hashpower: int) -> Prepare:
    """A policy of libCacheSim, in C: its own loop over a binary trace, one access at a time."""
    import libcachesim
    from libcachesim import ReaderInitParam, TraceReader, TraceType

    def prepare() -> Run:
        reader = TraceReader(
            str(file), TraceType.ORACLE_GENERAL_TRACE, ReaderInitParam(ignore_obj_size=True)
        )
        cache = getattr(libcachesim, name)(capacity, hashpower=hashpower)
        return lambda: round((1 - cache.process_trace(reader)[0]) * accesses)

    return prepare


def numpy_dip_ca(scores: NDArray[np.float32], k: int, capacity: int) -> int:
    """dip-ca with lfu over one group as one writes it in numpy; returns the hits.

    Args:
        scores: float32[tokens, units], without ties at the cut.
    """
    units = scores.shape[1]
    resident = np.zeros(units, np.bool_)
    uses, last = np.zeros(units, np.int64), np.zeros(units, np.int64)
    gamma = np.float32(GAMMA)
    hits = size = 0
    for token, score in enumerate(scores):
        keys = np.where(resident, score, gamma * score)
        active = keys >= np.partition(keys, units - k)[units - k]  # faster than argpartition
        misses = active & ~resident
        missed = int(np.count_nonzero(misses))
        kept = min(missed, capacity - (k - missed))
        leaving = max(0, size + kept - capacity)
        uses += active
        last[active] = token
        if leaving > 0:
            others = np.flatnonzero(resident & ~active)
            order = (uses[others] << 40) | (last[others] << 20) | others  # ties: last use, then id
            resident[others[np.argpartition(order, leaving - 1)[:leaving]]] = False
        resident |= misses if kept == missed else misses & (np.cumsum(misses) <= kept)
        hits += k - missed
        size += kept - leaving
    return hits


# The parts -------------------------------------------------------------------------------------


def as_bits(sets: NDArray[np.bool_]) -> Trace:
    """A trace in memory of packed active sets."""
    meta = {"signals": {"glu": {"encoding": "bits", "units": sets.shape[-1]}}}
    return load_trace({"glu": np.packbits(sets, axis=-1, bitorder="little"), "meta": meta})


def as_log8(scores: NDArray[np.float32]) -> Trace:
    """A trace in memory of 8-bit logarithms."""
    codes, largest = encode_log8(scores)
    meta = {"signals": {"glu": {"encoding": "log8"}}}
    return load_trace({"glu": codes, "glu.max": largest, "meta": meta})


def against_libcachesim(
    sets: NDArray[np.bool_], folder: Path, tables: dict[str, int], rounds: int
) -> list[Row]:
    """(a) lru over recorded sets; ``tables`` are those of libCacheSim."""
    requests = workload.requests(sets)
    file = folder / "requests.oracleGeneral.bin"
    requests.tofile(file)  # written just now, so it is in the page cache
    capacity = int(workload.FRACTION * sets.shape[-1] + 1e-9)
    lru, bits, plain = BUILTIN["lru"], as_bits(sets), load_trace({"glu": sets})
    contenders = {
        "dipsim, sets as bits": dipsim(bits, recorded(bits), lru),
        "dipsim, sets as bool": dipsim(plain, recorded(plain), lru),
    }
    if find_spec("libcachesim"):
        for name, hashpower in tables.items():
            contenders[name] = libcachesim("LRU", file, len(requests), capacity, hashpower)
    return measure(LRU, "access", len(requests), contenders, rounds)


@njit
def from_scores(rows, resident, k, choosing, sets):
    """Choose every token's units from float32."""
    keys, threshold = choosing.keys[0, : rows.shape[1]], choosing.threshold
    for r in range(rows.shape[0]):
        how = k, threshold[0], sets[r], keys, choosing.tied
        threshold[0] = top_k_weighed(rows[r], resident, np.float32(GAMMA), *how)


@njit
def from_codes(rows, resident, k, choosing, sets, shares):
    """Choose every token's units from 8-bit logarithms."""
    tables = choosing.tables
    for r in range(rows.shape[0]):
        masking.gamma_tables(GAMMA, tables)
        select_codes(rows[r], tables, resident, k, sets[r], choosing.counters, shares)


def selection(scores: NDArray[np.float32], rounds: int) -> list[Row]:
    """(b) choosing alone: gamma times the scores of absent units, the k best, as bits."""
    rows, units = scores[:, 0], scores.shape[-1]
    k = int(workload.ACTIVE * units + 1e-9)
    codes = encode_log8(scores)[0][:, 0]
    present = np.random.default_rng(workload.SEED).random(units) < workload.FRACTION
    factor = np.where(present, 1, GAMMA).astype(np.float32)
    resident = pack_sets(present)
    choosing, kept = new_choosing(len(resident)), np.empty(2, np.float32)
    sets = np.empty((len(rows), len(resident)), np.uint64)

    def in_float32() -> int:
        from_scores(rows, resident, k, choosing, sets)
        return int(np.bitwise_count(sets).sum())

    def in_log8() -> int:
        from_codes(codes, resident, k, choosing, sets, kept)
        return int(np.bitwise_count(sets).sum())

    def in_numpy() -> int:
        hits = 0
        for row in rows:
            keys = factor * row
            hits += int(np.count_nonzero(keys >= np.partition(keys, units - k)[units - k]))
        return hits

    contenders: dict[str, Prepare] = {
        "float32": lambda: in_float32,
        "log8": lambda: in_log8,
        "numpy": lambda: in_numpy,
    }
    return measure(CHOOSING, "score", scores.size, contenders, rounds)


def against_numpy(scores: NDArray[np.float32], rounds: int) -> list[Row]:
    """(c) dip-ca with lfu: selection, hits, policy."""
    units = scores.shape[-1]
    trace = load_trace({"glu": scores})
    method, capacity = dip_ca(trace), int(workload.FRACTION * units + 1e-9)
    contenders: dict[str, Prepare] = {
        "dipsim": dipsim(trace, method, BUILTIN["lfu"]),
        "numpy": lambda: lambda: numpy_dip_ca(scores[:, 0], method.groups[0].kept, capacity),
    }
    return measure(DIP_CA, "score", scores.size, contenders, rounds)


def policies(sets: NDArray[np.bool_], names: Iterable[str], rounds: int) -> list[Row]:
    """(d) several policies."""
    trace = as_bits(sets)
    method = recorded(trace)
    contenders = {name: dipsim(trace, method, BUILTIN[name]) for name in names}
    return measure("policies over recorded sets", "access", int(sets.sum()), contenders, rounds)


def users_own(sets: NDArray[np.bool_], rounds: int) -> list[Row]:
    """(e) a user's policy from a file, bounds checked, against the same policy built in."""
    trace = as_bits(sets)
    method = recorded(trace)
    contenders = {
        "lru, built in": dipsim(trace, method, BUILTIN["lru"]),
        "lru, user_lru.py": dipsim(trace, method, load_policy(USER_LRU)),
    }
    return measure(OWN, "access", int(sets.sum()), contenders, rounds)


def encodings(scores: NDArray[np.float32], rounds: int) -> list[Row]:
    """(f) dip-ca from each encoding of scores."""
    traces = {
        "float32": load_trace({"glu": scores}),
        "float16": load_trace({"glu": scores.astype(np.float16)}),
        "log8": as_log8(scores),
    }
    contenders = {
        name: dipsim(trace, dip_ca(trace), BUILTIN["lfu"]) for name, trace in traces.items()
    }
    return measure(ENCODINGS, "score", scores.size, contenders, rounds)


def threads(scores: NDArray[np.float32], rounds: int) -> list[Row]:
    """(g) one thread against two over several layers; the counts are the same.

    What a second thread is worth on this machine at this moment, hashing in two shows.
    """
    trace = load_trace({"glu": scores})
    contenders = {
        name: dipsim(trace, dip_ca(trace), BUILTIN["lfu"], count)
        for name, count in (("1 thread", 1), ("2 threads", 2))
    }
    part = f"{DIP_CA}, {trace.layers} layers"
    contenders |= hashing(scores.size)
    return measure(part, "score/byte", scores.size, contenders, rounds, one_core=False)


def hashing(size: int) -> dict[str, Prepare]:
    """Hash this many bytes with nothing shared, in one thread and in two."""
    buffers = [bytes(size // 16)] * 16

    def with_threads(count: int) -> Prepare:
        def run() -> int:
            with ThreadPoolExecutor(count) as pool:
                return len(set(pool.map(lambda buffer: sha256(buffer).digest(), buffers)))

        return lambda: run

    return {name: with_threads(count) for count, name in enumerate(HASHING, 1)}


def one_core_parts(
    tokens: int, units: int, names: Iterable[str], folder: Path, tables: dict[str, int] = TABLES
) -> list[Part]:
    """Parts (a) to (f); ``names`` are the policies of (d), ``tables`` those of (a)."""
    sets = workload.active_sets(tokens, units)
    scores = workload.scores(tokens, units)
    return [
        lambda rounds: against_libcachesim(sets, folder, tables, rounds),
        lambda rounds: selection(scores, rounds),
        lambda rounds: against_numpy(scores, rounds),
        lambda rounds: policies(sets, names, rounds),
        lambda rounds: users_own(sets, rounds),
        lambda rounds: encodings(scores, rounds),
    ]


def others(rows: list[Row]) -> dict[str, float]:
    """Figures with goals that depend on the machine too much to be held."""
    return turns.ratios(rows, SHOWN) | turns.rates(rows, RATES)


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; the text of an error if a ratio fell short."""
    given = history.options(__doc__).parse_args(arguments)
    tokens, units, rounds = workload.TOKENS, workload.UNITS, 7 if given.quick else 15
    names = QUICK_POLICIES if given.quick else ("lru", *(n for n in BUILTIN if n != "lru"))
    machine = this_machine()
    print(machine)
    overlap = workload.overlap(workload.active_sets(tokens))
    scores_overlap = workload.overlap(workload.largest_half(workload.scores(tokens)))
    print(
        f"{units} units, {tokens} tokens, {workload.ACTIVE:.0%} active, overlap {overlap:.3f} "
        f"(top half of the scores {scores_overlap:.3f}), cache {workload.FRACTION:.0%}\n"
        "x first: time as a multiple of the first line's. Hits: dipsim decides those of a token "
        "before it\nchanges the cache, libCacheSim changes it at every access: a few points apart."
    )
    if not find_spec("libcachesim"):
        print("libCacheSim is not installed (pip install libcachesim, Linux): left out")
    with tempfile.TemporaryDirectory() as folder:
        tables = {FITTED_TABLE: FITTED} if given.quick else TABLES
        parts = one_core_parts(tokens, units, names, Path(folder), tables)
        if machine.cores > 1:
            scores = workload.scores(tokens // 2, units, LAYERS)
            parts.append(lambda rounds: threads(scores, rounds))
        else:
            print("1 thread against 2: left out, this process may use one core only")
        return turns.run("bench_replay", given, parts, rounds, HELD, others)


if __name__ == "__main__":
    sys.exit(main())
