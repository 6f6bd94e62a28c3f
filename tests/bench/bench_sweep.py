"""What a sweep costs: ``python tests/bench/bench_sweep.py``.

* Overhead: processor time of a sweep per cell, beyond the same runs by `dipsim.sweep.many`, which
  prepare, replay and time them, and of which all figures are asked; and beyond `dipsim.simulate`.
* Sharing: 20 budgets on five devices beside the same on one; processor time. First the devices
  differ in DRAM alone, then in everything, so that each prices its reads.
* Workers: two processes beside one on 200 cells of equal cost, by the clock; beside it what two
  processes reach that hash. On busy cores this says nothing.
* Dask: the same cells on two of its workers, which are there already, beside two processes, which
  are started for the sweep, in turns.
"""

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import history
from distributed import LocalCluster
from machine import this_machine

import dipsim
from dipsim.hardware import load_profile
from dipsim.sweep.many import many
from dipsim.sweep.point import Point
from dipsim.trace import load_trace

TRACE = "smollm2-chat"
DEVICES = ["snapdragon8", "paper-a18", "oneplus15r", "apple-a18", "tensor-g4"]
DRAM = [f"dram.bandwidth={10 * i}GB/s" for i in range(2, 7)]
SHARES = [round(0.05 * i, 2) for i in range(1, 21)]
GRID = {"trace": TRACE, "profile": "snapdragon8", "cache_fraction": SHARES}
SPAWN = get_context("spawn")


def processor(work: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a processor."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def clock(work: Callable[[], Any], rounds: int) -> float:
    """Least seconds by the clock."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def swept(folder: Path, workers: int | None = None, dask: str | None = None, **grid: Any) -> None:
    """Run a sweep into a store of its own."""
    store = folder / "s.db"
    for file in folder.iterdir():
        file.unlink()
    dipsim.sweep({**GRID, **grid}, store, workers=workers, dask=dask)


def by_many(**options: Any) -> None:
    """Make the runs of the grid and ask for all their figures."""
    trace, device = load_trace(TRACE).kept(), load_profile("snapdragon8")
    points = [Point({}, trace, device, {**options, "cache_fraction": share}) for share in SHARES]
    many(points, read=lambda result, *_: [({}, result.figures())], threads=1)


def by_simulate(**options: Any) -> None:
    """Make each run alone."""
    trace, device = load_trace(TRACE).kept(), load_profile("snapdragon8")
    for share in SHARES:
        dipsim.simulate(trace, device, threads=1, cache_fraction=share, **options).figures()


def hashed(size: int) -> str:
    """Hash so many MB."""
    block, digest = bytes(2**20), hashlib.sha256()
    for _ in range(size):
        digest.update(block)
    return digest.hexdigest()


def hash_all(workers: int, pieces: int = 16, size: int = 128) -> None:
    """Hash pieces in processes that are already there."""
    with ProcessPoolExecutor(workers, mp_context=SPAWN) as pool:
        list(pool.map(hashed, [1] * workers))
        list(pool.map(hashed, [size] * pieces))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-workers", action="store_true", help="leave out what needs idle cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args(arguments)
    machine = this_machine()
    print(machine)
    figures: dict[str, float] = {}

    def note(label: str, value: float) -> None:
        figures[label] = value
        print(f"{label:50} {value:8.2f}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for options in ({"method": "dip", "policy": "lru"}, {"method": "dip-ca", "policy": "lfu"}):
            what = "{method}, {policy}".format(**options)
            swept(folder, **options)  # compiles
            own = processor(lambda o=options: swept(folder, **o), given.rounds)
            together = processor(lambda o=options: by_many(**o), given.rounds)
            alone = processor(lambda o=options: by_simulate(**o), given.rounds)
            cells = len(SHARES)
            each = {
                "a cell of a sweep": own / cells,
                "the same by many": together / cells,
                "the same by simulate": alone / cells,
                "overhead beyond many": (own - together) / cells,
            }
            for label, seconds in each.items():
                note(f"{what}: {label}, ms", 1e3 * seconds)
            for label, more in (
                ("five devices that differ in DRAM", {"overrides": DRAM}),
                ("five devices", {"profile": DEVICES}),
            ):
                five = processor(lambda o=options, m=more: swept(folder, **o, **m), given.rounds)
                note(f"{what}: {label} x one", five / own)
        if not given.no_workers:
            equal = {"method": "dip-ca", "policy": "lfu"}
            equal["cache_fraction"] = [round(0.3 + 0.002 * i, 3) for i in range(200)]
            one, two = (clock(lambda n=n: swept(folder, n, **equal), given.rounds) for n in (1, 2))
            note("200 cells, one worker, s", one)
            note("200 cells, two workers x one", one / two)
            with LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster:
                at = cluster.scheduler_address
                swept(folder, dask=at, **equal)  # loads what is compiled
                turns = [
                    (
                        clock(lambda: swept(folder, 2, **equal), 1),
                        clock(lambda: swept(folder, dask=at, **equal), 1),
                    )
                    for _ in range(given.rounds)
                ]
            processes, dask = map(min, zip(*turns, strict=True))
            note("200 cells, two processes, ms a cell", 1e3 * processes / 200)
            note("200 cells, two workers of Dask, ms a cell", 1e3 * dask / 200)
            one, two = (clock(lambda n=n: hash_all(n), given.rounds) for n in (1, 2))
            note("hashing, two processes x one", one / two)
    if given.json:
        history.write(given.json, machine, figures=figures)


if __name__ == "__main__":
    sys.exit(main())
