"""KV eviction replayed on vectors, as SmolLM2-135M has them: speed, processor time and memory.

    python tests/bench/bench_kv.py [--tokens 4096] [--budget 1024] [--json FILE]

Draws queries, keys and values of 30 layers in float32 and replays h2o, layer by layer on all cores,
in a process of its own, whose RssAnon is watched (Linux). A decision is a position that leaves a kv
head; attention over what is held, and over all to tell what is lost, is part of it. The first
replay there compiles and is not timed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import history
import numpy as np
import workload
from bench_memory import watch
from machine import this_machine

from dipsim.kernels.kv_heads import NEVER
from dipsim.kv.replay import replay

LAYERS, HEADS, KV_HEADS, DIM = 30, 9, 3, 64
REPLAY = "import bench_kv; bench_kv.timed({}, {}, {!r})"


def timed(tokens: int, budget: int, file: str) -> None:
    """Replay a few tokens, then all, and write what that took."""
    draw = np.random.default_rng(workload.SEED)
    query, key, value = (
        draw.standard_normal((tokens, LAYERS, heads * DIM), np.float32)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    replay("h2o", 4, query[:8], key[:8], value[:8], head_dim=DIM)
    wall, cpu = time.perf_counter(), time.process_time()
    replayed = replay("h2o", budget, query, key, value, head_dim=DIM)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    decisions = int((replayed.left != NEVER).sum())
    figures = {"decisions": decisions, "wall, s": wall, "processor, s": cpu}
    Path(file).write_text(json.dumps({**figures, "decisions/s and core": decisions / cpu}))


def measure(tokens: int, budget: int) -> dict[str, float]:
    """What a replay takes, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        most, _ = watch([sys.executable, "-c", REPLAY.format(tokens, budget, str(file))])
        figures: dict[str, float] = json.loads(file.read_text())
        return {**figures, "memory, MB": most}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    machine = this_machine()
    print(machine)
    print(f"h2o, {options.budget} of {options.tokens} tokens in {LAYERS} layers", flush=True)
    figures = measure(options.tokens, options.budget)
    for name, figure in figures.items():
        print(f"  {name:22}{figure:14,.0f}")
    if options.json:
        history.write(options.json, machine, figures=figures)


if __name__ == "__main__":
    main()
