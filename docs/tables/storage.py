"""Print the table of docs/trace-format.md: what stored and deflated traces take, and how long a
pass over them lasts.

    python docs/tables/storage.py [--quick]

Scores and sets are drawn: scores log-normal, sets of units of which some are popular, 30 % and 5 %
active. A pass reads every value once, as a replay does; its time is that of the processor, the best
of some rounds, with the file in the page cache.
"""

import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

import dipsim

TOKENS, LAYERS, UNITS = 64, 8, 14_336
ROUNDS = 5
SIGNALS = {
    "float16": ("scores", 0.3), "float32": ("scores", 0.3), "log8": ("scores", 0.3),
    "bits, 30 %": ("sets", 0.3), "bool, 30 %": ("sets", 0.3), "sparse, 30 %": ("sets", 0.3),
    "bits, 5 %": ("sets", 0.05), "sparse, 5 %": ("sets", 0.05),
}  # fmt: skip


def drawn(holds: str, active: float, tokens: int) -> np.ndarray:
    """Return [tokens, LAYERS, UNITS] float32 scores or bool sets."""
    rng = np.random.default_rng(1)
    shape = (tokens, LAYERS, UNITS)
    if holds == "scores":
        return np.exp(rng.standard_normal(shape, np.float32))
    popular = rng.beta(0.6, 0.6 * (1 / active - 1), (LAYERS, UNITS)).astype(np.float32)
    return rng.random(shape, np.float32) < popular


def pass_seconds(path: Path, holds: str, rounds: int = ROUNDS) -> float:
    """Return the seconds of one pass over the signal glu of a trace."""
    taken = []
    for _ in range(rounds):
        trace = dipsim.load_trace(path)
        start = time.process_time()
        for _ in trace.blocks({"glu": "values" if holds == "scores" else "sets"}):
            pass
        taken.append(time.process_time() - start)
    return min(taken)


def measured(name: str, folder: Path, tokens: int = TOKENS, rounds: int = ROUNDS) -> list[float]:
    """Return what an encoding takes: MB stored and deflated, seconds of a pass over each, and 1
    where ``auto`` deflates."""
    holds, active = SIGNALS[name]
    values = drawn(holds, active, tokens)
    figures: dict[str, tuple[float, float]] = {}
    ways: tuple[Literal["never", "always", "auto"], ...] = ("never", "always", "auto")
    for compress in ways:
        path = folder / f"{compress}.npz"
        encodings: dict[str, Any] = {"glu": name.split(",")[0]}
        with dipsim.TraceWriter(path, encodings=encodings, compress=compress) as out:
            out.append({"glu": values})
        figures[compress] = path.stat().st_size / 1e6, pass_seconds(path, holds, rounds)
    with zipfile.ZipFile(folder / "auto.npz") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    deflated = float(largest.compress_type == zipfile.ZIP_DEFLATED)
    stored, packed = figures["never"], figures["always"]
    return [stored[0], packed[0], stored[1], packed[1], deflated]


def table(tokens: int = TOKENS) -> str:
    """Return the table, in Markdown."""
    rows = [
        "| encoding | stored | deflated | saved | a pass takes, stored : deflated | `auto` |",
        "|---|---|---|---|---|---|",
    ]
    for name in SIGNALS:
        with tempfile.TemporaryDirectory() as folder:
            stored, packed, mapped, inflated, deflates = measured(name, Path(folder), tokens)
        rows.append(
            f"| {name} | {stored:.1f} MB | {packed:.1f} MB | {1 - packed / stored:.0%} | "
            f"1 : {inflated / mapped:.1f} | {'deflates' if deflates else 'stores'} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(8 if "--quick" in sys.argv[1:] else TOKENS))
