"""Every policy against libCacheSim's, curves, capacities and threads:
``python tests/bench/bench_policies.py``.

As bench_replay.py beside it: contenders of a part take turns on one core, nothing is asserted.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench_replay
import numpy as np
import workload
from bench_replay import FITTED, LAYERS, Prepare, Row, as_bits, measure, recorded, show
from numpy.typing import NDArray

from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import measured_rows
from dipsim.replay.curves import lru_stack
from dipsim.replay.replay import replay_policy
from dipsim.settings import Settings

COUNTERPARTS = {
    "lru": "LRU",
    "fifo": "FIFO",
    "random": "Random",
    "lfu-resident": "LFU",
    "slru": "SLRU",
    "2q": "TwoQ",
    "arc": "ARC",
    "clock": "Clock",
    "sieve": "Sieve",
    "s3fifo": "S3FIFO",
    "w-tinylfu": "WTinyLFU",
    "lirs": "LIRS",
    "belady": "Belady",
}
"""What libCacheSim calls the same policy."""
CAPACITIES = tuple(i / 10 for i in range(3, 11))
"""Shares of the units, of the part that compares one pass with eight calls."""


def counterparts(
    sets: NDArray[np.bool_], folder: Path, rounds: int, names: tuple[str, ...]
) -> Iterator[list[Row]]:
    """(a) every policy that libCacheSim has too: dipsim in both accesses, then libCacheSim."""
    requests = workload.requests(sets)
    file = folder / "policies.oracleGeneral.bin"
    requests.tofile(file)
    capacity = int(workload.FRACTION * sets.shape[-1] + 1e-9)
    trace = as_bits(sets)
    method = recorded(trace)
    for name in names:
        contenders: dict[str, Prepare] = {
            "atomic": bench_replay.dipsim(trace, method, BUILTIN[name]),
            "sequential": bench_replay.dipsim(trace, method, BUILTIN[name], access="sequential"),
        }
        if find_spec("libcachesim"):
            contenders["libCacheSim"] = bench_replay.libcachesim(
                COUNTERPARTS[name], file, len(requests), capacity, FITTED
            )
        yield measure(name, "access", len(requests), contenders, rounds)


def curve(sets: NDArray[np.bool_], rounds: int) -> list[Row]:
    """(b) one replay of lru against its hits at every capacity. Both give hits at 60 %."""
    trace = as_bits(sets)
    method, units = recorded(trace), sets.shape[-1]
    capacity = np.array([[int(workload.FRACTION * units + 1e-9)]])

    def stack() -> int:
        sets = ActiveSets(trace, method, Settings())
        measured = measured_rows(trace.name, trace.rows, 0)
        return int(lru_stack(sets, measured).hits(capacity).sum())

    contenders: dict[str, Prepare] = {
        "one replay": bench_replay.dipsim(trace, method, BUILTIN["lru"]),
        "every capacity": lambda: stack,
    }
    return measure("lru curve", "access", int(sets.sum()), contenders, rounds)


def capacities(sets: NDArray[np.bool_], name: str, rounds: int) -> list[Row]:
    """(c) eight calls against eight capacities in one pass."""
    trace = as_bits(sets)
    method, units = recorded(trace), sets.shape[-1]
    each = [np.array([[int(share * units + 1e-9)]]) for share in CAPACITIES]

    def together() -> int:
        found = replay_policy(trace, method, BUILTIN[name], each, threads=1)
        return sum(int(traffic.hits.sum()) for traffic in found)

    def apart() -> int:
        policy = BUILTIN[name]
        found = [replay_policy(trace, method, policy, [size], threads=1)[0] for size in each]
        return sum(int(traffic.hits.sum()) for traffic in found)

    contenders: dict[str, Prepare] = {"eight calls": lambda: apart, "one pass": lambda: together}
    part = f"{name} at 8 capacities"
    return measure(part, "access", 8 * int(sets.sum()), contenders, rounds)


def threads(sets: NDArray[np.bool_], name: str, rounds: int) -> list[Row]:
    """(d) one thread against two, several layers."""
    trace = as_bits(sets)
    method = recorded(trace)
    contenders = {
        f"{count} thread": bench_replay.dipsim(trace, method, BUILTIN[name], count)
        for count in (1, 2)
    }
    part = f"{name}, {sets.shape[1]} layers"
    return measure(part, "access", int(sets.sum()), contenders, rounds)


def one_core_parts(
    tokens: int, units: int, folder: Path, rounds: int, names: tuple[str, ...]
) -> Iterator[list[Row]]:
    """Parts (a) to (c), one after the other."""
    sets = workload.active_sets(tokens, units)
    yield from counterparts(sets, folder, rounds, names)
    yield curve(sets, rounds)
    for name in ("lfu", "lru"):
        yield capacities(sets, name, rounds)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tokens, rounds, policies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    given = parser.parse_args(arguments)
    tokens, rounds = (32, 3) if given.quick else (workload.TOKENS, 9)
    names = ("lru", "sieve") if given.quick else tuple(COUNTERPARTS)
    rows: list[Row] = []
    pinned = hasattr(os, "sched_setaffinity")
    cpus: Any = os.sched_getaffinity(0) if pinned else set()
    if pinned:
        os.sched_setaffinity(0, {max(cpus)})
    with tempfile.TemporaryDirectory() as folder:
        for part in one_core_parts(tokens, workload.UNITS, Path(folder), rounds, names):
            show(part)
            rows += part
    if pinned:
        os.sched_setaffinity(0, cpus)
    if not pinned or len(cpus) > 1:
        sets = workload.active_sets(tokens, workload.UNITS, LAYERS)
        for part in (threads(sets, "lru", rounds), bench_replay.hashing(rounds)):
            show(part)
            rows += part
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
