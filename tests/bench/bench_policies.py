"""Every policy against libCacheSim's, curves, capacities and threads:
``python tests/bench/bench_policies.py``.

As bench_replay.py beside it: contenders of a part take turns.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import bench_replay
import history
import numpy as np
import turns
import workload
from bench_replay import FITTED, LAYERS, as_bits, recorded
from machine import this_machine
from numpy.typing import NDArray
from turns import Part, Prepare, Ratio, Row, measure

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
QUICK = ("lru", "sieve")
"""Of ``--quick``."""
CAPACITIES = tuple(i / 10 for i in range(3, 11))
"""Shares of the units, of the part that compares one pass with eight calls."""
HELD = {
    f"{name}{comma} x libCacheSim": Ratio(name, access, "libCacheSim")
    for name in COUNTERPARTS
    for access, comma in (("atomic", ""), ("sequential", ", sequential"))
} | {
    "lru curve x one replay": Ratio("lru curve", "every capacity", "one replay"),
    "lfu at 8 capacities x 8 calls": Ratio("lfu at 8 capacities", "one pass", "eight calls"),
    "lru at 8 capacities x 8 calls": Ratio("lru at 8 capacities", "one pass", "eight calls"),
}


def counterparts(sets: NDArray[np.bool_], folder: Path, names: tuple[str, ...]) -> list[Part]:
    """(a) every policy that libCacheSim has too."""
    requests = workload.requests(sets)
    file = folder / "policies.oracleGeneral.bin"
    requests.tofile(file)
    return [lambda rounds, name=name: counterpart(sets, file, name, rounds) for name in names]


def counterpart(sets: NDArray[np.bool_], file: Path, name: str, rounds: int) -> list[Row]:
    """One policy: dipsim in both accesses, then libCacheSim over the requests in a file."""
    trace = as_bits(sets)
    method, capacity = recorded(trace), int(workload.FRACTION * sets.shape[-1] + 1e-9)
    accesses = int(sets.sum())
    contenders: dict[str, Prepare] = {
        "atomic": bench_replay.dipsim(trace, method, BUILTIN[name]),
        "sequential": bench_replay.dipsim(trace, method, BUILTIN[name], access="sequential"),
    }
    if find_spec("libcachesim"):
        contenders["libCacheSim"] = bench_replay.libcachesim(
            COUNTERPARTS[name], file, accesses, capacity, FITTED
        )
    return measure(name, "access", accesses, contenders, rounds)


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
    """(d) one thread against two, several layers, and hashing in as many."""
    trace = as_bits(sets)
    method = recorded(trace)
    contenders = {
        f"{count} thread{'s' * (count > 1)}": bench_replay.dipsim(
            trace, method, BUILTIN[name], count
        )
        for count in (1, 2)
    }
    part, accesses = f"{name}, {sets.shape[1]} layers", int(sets.sum())
    contenders |= bench_replay.hashing(accesses)
    return measure(part, "access/byte", accesses, contenders, rounds, one_core=False)


def one_core_parts(tokens: int, units: int, folder: Path, names: tuple[str, ...]) -> list[Part]:
    """Parts (a) to (c)."""
    sets = workload.active_sets(tokens, units)
    return [
        *counterparts(sets, folder, names),
        lambda rounds: curve(sets, rounds),
        *(lambda rounds, name=name: capacities(sets, name, rounds) for name in ("lfu", "lru")),
    ]


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; the text of an error if a ratio fell short."""
    given = history.options(__doc__).parse_args(arguments)
    names, rounds = (QUICK, 3) if given.quick else (tuple(COUNTERPARTS), 9)
    machine = this_machine()
    print(machine)
    with tempfile.TemporaryDirectory() as folder:
        parts = one_core_parts(workload.TOKENS, workload.UNITS, Path(folder), names)
        if machine.cores > 1:
            sets = workload.active_sets(workload.TOKENS, workload.UNITS, LAYERS)
            parts.append(lambda rounds: threads(sets, "lru", rounds))
        return turns.run("bench_policies", given, parts, rounds, HELD)


if __name__ == "__main__":
    sys.exit(main())
