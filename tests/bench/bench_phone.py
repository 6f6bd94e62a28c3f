"""A trace of Phi-3-Medium's size: time and anonymous memory of a dip-ca replay.

    python tests/bench/bench_phone.py [--tokens 512] [--folder DIR]

Draws 40 layers of 5120 + 17 920 scores a token (512 tokens: 0.94 GB of float16), each unit an AR(1)
process as in workload.py, and replays them with dip-ca and lfu in a process of its own, whose
RssAnon is watched (Linux). The first replay there compiles and is not timed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import workload
from bench_memory import watch
from machine import this_machine
from numpy.typing import NDArray

from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.replay import replay_policy
from dipsim.settings import Settings
from dipsim.trace import load_trace

LAYERS, UNITS = 40, {"mlp_input": 5_120, "glu": 17_920}
REPLAY = "import bench_phone; bench_phone.timed({!r})"


def draw(file: Path, tokens: int) -> None:
    """Write the trace as `np.savez` does, uncompressed."""
    rng = np.random.default_rng(workload.SEED)
    keep = np.float32(workload.CORRELATION)
    fresh = np.sqrt(1 - keep**2)
    logs: dict[str, NDArray[np.float32]] = {
        signal: rng.standard_normal((LAYERS, units), np.float32) for signal, units in UNITS.items()
    }
    rows = {
        signal: np.lib.format.open_memmap(
            file.with_suffix(f".{signal}.npy"), "w+", np.float16, (tokens, LAYERS, units)
        )
        for signal, units in UNITS.items()
    }
    for t in range(tokens):
        for signal, log in logs.items():
            rows[signal][t] = np.exp(log)
            log *= keep
            log += fresh * rng.standard_normal(log.shape, np.float32)
    np.savez(file, **rows)  # type: ignore[arg-type]


def timed(file: str) -> None:
    """Replay a few tokens, then all, and print how long that took."""
    trace = load_trace(file)
    method = build_method(trace, Settings(method="dip-ca"))
    units = np.array([list(UNITS.values())] * LAYERS)
    capacity = (workload.FRACTION * units).astype(np.int64)
    replay_policy(trace.window(0, 8), method, BUILTIN["lfu"], [capacity], threads=2)
    began = time.perf_counter()
    (traffic,) = replay_policy(trace, method, BUILTIN["lfu"], [capacity], threads=2)
    hits = traffic.hits.sum()
    seconds = time.perf_counter() - began
    scores = trace.tokens * units.sum()
    print(f"replay {seconds:.2f} s, {scores / seconds / 1e6:.0f} million scores/s, {hits} hits")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(this_machine(), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "phone.npz"
        draw(file, options.tokens)
        print(f"{file.stat().st_size / 1e9:.2f} GB, {options.tokens} tokens", flush=True)
        most, _ = watch([sys.executable, "-c", REPLAY.format(str(file))])
        print(f"at most {most:.0f} MB RssAnon")


if __name__ == "__main__":
    main()
