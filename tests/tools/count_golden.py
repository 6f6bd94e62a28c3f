"""Count hits of a trace with the naive twins: golden counts for a file that has none yet.

    PYTHONPATH=tests python -m tools.count_golden TRACE.npz OUT.json
        [--settings SRC.json] [--processes N]

Signals mlp_input and glu, the same density and the same fraction of units for both groups, atomic
access, layer scope, no reset, no warm-up; every row is a decode token. Scores are float16 or
float32, or log8 (uint8 with an array `<signal>.max`). OUT holds per setting `args` and `expect`.
Uses the twins and numpy only, nothing of dipsim.
"""

import argparse
import json
import os
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naive.replay import capacity, kept_units, replay, top_k

SIGNALS = ("mlp_input", "glu")

# name: density, capacity fraction, gamma (None: plain top-k), ranked admission asked for, policy
SETTINGS: dict[str, tuple[float, float, float | None, bool, str]] = {
    "lru": (0.5, 0.6, None, False, "lru"),
    "fifo": (0.5, 0.6, None, False, "fifo"),
    "lfu": (0.5, 0.6, None, False, "lfu"),
    "belady": (0.5, 0.6, None, False, "belady"),
    "opt": (0.5, 0.6, None, False, "opt"),
    "lru-small": (0.5, 0.3, None, False, "lru"),
    "lru-ranked": (0.5, 0.6, None, True, "lru"),
    "lfu-ranked": (0.5, 0.6, None, True, "lfu"),
    "lfu-ranked-small": (0.5, 0.3, None, True, "lfu"),
    "opt-small": (0.5, 0.3, None, False, "opt"),
    "zero": (0.5, 0.0, None, False, "lru"),
    "lfu-big": (0.5, 0.8, None, False, "lfu"),
    "dipca-lru": (0.5, 0.6, 0.5, False, "lru"),
    "dipca-lfu": (0.5, 0.6, 0.2, False, "lfu"),
    "dipca-lfu-75": (0.5, 0.75, 0.5, False, "lfu"),
}
ARGS = ("density", "fraction", "gamma", "ranked", "policy")

Args = dict[str, Any]
Job = tuple[int, int, NDArray[np.float32], list[Args]]


def read_scores(path: Path) -> list[NDArray[np.float32]]:
    """Return the scores of each signal, float32[tokens, layers, units]."""
    table = np.array([0.0] + [2.0 ** ((q - 255) / 20) for q in range(1, 256)]).astype(np.float32)
    scores = []
    with np.load(path, allow_pickle=False) as arrays:
        for signal in SIGNALS:
            stored = arrays[signal]
            if f"{signal}.max" in arrays.files and stored.dtype == np.uint8:
                scores.append(table[stored])
            elif stored.dtype in (np.float16, np.float32):
                scores.append(stored.astype(np.float32))
            else:
                raise SystemExit(f"{path}: {signal} is {stored.dtype}, not scores or log8")
    return scores


def count(job: Job) -> tuple[int, list[tuple[int, int]]]:
    """Replay one (layer, group) in every setting; return the group and (hits, accesses) of each."""
    layer, group, scores, settings = job
    rows = [[float(score) for score in row] for row in scores]
    units = len(rows[0])
    plain: dict[int, list[set[int]]] = {}  # k -> the sets of plain top-k, which settings share
    counts = []
    for args in settings:
        k = kept_units(args["density"], units)
        if args["gamma"] is None and k not in plain:
            plain[k] = [set(top_k(row, k)) for row in rows]
        done = replay(
            rows if args["gamma"] is not None else plain[k],
            units,
            capacity(args["fraction"], units),
            args["policy"],
            admission="ranked" if args["ranked"] else None,
            k=k,
            gamma=args["gamma"],
            layer=layer,
            group=group,
        )
        counts.append((sum(row.hits for row in done), sum(row.active for row in done)))
    return group, counts


def expected(
    args: Args, units: list[int], counts: Iterable[tuple[int, tuple[int, int]]]
) -> dict[str, Any]:
    """Return the totals of one setting from the (group, (hits, accesses)) of all its replays."""
    groups: list[dict[str, Any]] = [
        {
            "signal": signal,
            "units": n,
            "k": kept_units(args["density"], n),
            "capacity": capacity(args["fraction"], n),
            "hits": 0,
            "accesses": 0,
        }
        for signal, n in zip(SIGNALS, units, strict=True)
    ]
    for group, (hits, accesses) in counts:
        groups[group]["hits"] += hits
        groups[group]["accesses"] += accesses
    hits = sum(group["hits"] for group in groups)
    return {"hits": hits, "accesses": sum(group["accesses"] for group in groups), "groups": groups}


def main() -> None:
    """Read the command line, count layers in parallel, write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trace", type=Path, metavar="TRACE.npz")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--settings", type=Path, metavar="SRC.json", help="take its args instead")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args()

    if options.settings:
        source = json.loads(options.settings.read_text())
        settings = {name: setting["args"] for name, setting in source.items()}
    else:
        settings = {n: dict(zip(ARGS, values, strict=True)) for n, values in SETTINGS.items()}
    scores = read_scores(options.trace)
    jobs: list[Job] = [
        (layer, group, signal[:, layer], list(settings.values()))
        for layer in range(scores[0].shape[1])
        for group, signal in enumerate(scores)
    ]
    with Pool(options.processes) as pool:
        done = pool.map(count, jobs, chunksize=1)

    units = [signal.shape[2] for signal in scores]
    golden = {
        name: {
            "args": args,
            "expect": expected(args, units, [(group, counts[i]) for group, counts in done]),
        }
        for i, (name, args) in enumerate(settings.items())
    }
    options.out.write_text(json.dumps(golden, indent=1))


if __name__ == "__main__":
    main()
