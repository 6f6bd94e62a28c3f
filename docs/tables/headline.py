"""The DIP paper's headline, replayed: Phi-3-Medium in 54 % of its memory (docs/headline.md).

    python docs/tables/headline.py     prints the tables of docs/headline.md

The trace is the shipped SmolLM2 one, tiled to Phi-3-Medium's shape: layer l copies the real layer
at the same relative depth; unit u copies the time series of real unit u modulo their number, times
a fixed random factor within 2 % that keeps copies from tying. Token-to-token overlap and popularity
are therefore the real model's; nothing is known of Phi-3's own.
"""

import numpy as np

import dipsim
from dipsim.kernels.draws import splitmix64

MODEL = dipsim.load_model("phi-3-medium", bits=4)
SHARE = "54%"
COMMON = {"model": MODEL, "dram": SHARE, "context": 2048, "warmup": 32}
DEVICES = {"paper-a18": "paper-serial", "snapdragon8gen3": "serial"}


def tiled(tokens: int = 128) -> dipsim.Trace:
    """The shipped trace in Phi-3-Medium's shape, float16."""
    source = dipsim.load_trace("smollm2-chat").window(0, tokens)
    layers = np.linspace(0, source.layers - 1, MODEL.layers).round().astype(int)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"sequence": source.sequence}
    for name, units in (("mlp_input", MODEL.hidden), ("glu", MODEL.intermediate)):
        real = np.concatenate([rows[name] for _, _, rows in source.blocks({name: "scores"})])
        copies = np.arange(units) % real.shape[2]
        factor = rng.uniform(0.98, 1.02, units).astype(np.float32)
        wide = np.empty((tokens, MODEL.layers, units), np.float16)
        for layer, origin in enumerate(layers):
            wide[:, layer] = real[:, origin][:, copies] * factor
        arrays[name] = wide
    return dipsim.load_trace(arrays)


def fixed_rank(state, unit, token):  # type: ignore[no-untyped-def]
    """A rank that knows nothing of use: the same random units stay for ever."""
    return np.int64(splitmix64(np.uint64(unit)) >> np.uint64(1))


BLIND = dipsim.Policy("content-blind", rank=fixed_rank, admit="ranked")
CACHES = {
    "content-blind": {"policy": BLIND},
    "lfu": {"policy": "lfu"},
    "lfu, ranked": {"policy": "lfu", "admission": "ranked"},
    "opt": {"policy": "opt"},
}


def by_dram(trace: dipsim.Trace) -> list[str]:
    """Second reading: 46 % less DRAM. Rates against streaming the dense model through the same."""
    lines = [
        "| device | D | content-blind | lfu | lfu, ranked | opt | dip-ca, lfu "
        "| mass kept in / down | q* in / down |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for device, overlap in DEVICES.items():
        dense = dipsim.simulate(trace, device, method="dense", overlap=overlap, **COMMON)
        for density in (0.5, 0.6, 0.7):
            cells, shown = [], None
            for options in [*CACHES.values(), {"method": "dip-ca", "policy": "lfu"}]:
                settings = {"method": "dip", "density": density, "overlap": overlap, **COMMON}
                found = dipsim.simulate(trace, device, **{**settings, **options})
                shown = shown or found
                speedup = found.tokens_per_second / dense.tokens_per_second
                cells.append(f"{speedup:.2f} x ({found.hit_rate:.0%})")
            mass = " / ".join(f"{share:.3f}" for share in shown.mass_kept)
            limits = " / ".join(f"{share:.2f}" for share in shown.break_even[0])
            lines.append(f"| {device} | {density} | {' | '.join(cells)} | {mass} | {limits} |")
        lines.append(f"| {device} | dense | {dense.tokens_per_second:.3f} tok/s |" + " |" * 6)
    return lines


def by_active_memory(trace: dipsim.Trace) -> list[str]:
    """First reading: memory is what a token touches; everything active is resident."""
    mlp = MODEL.layers * 3 * MODEL.matrix_bytes("gate")
    static = MODEL.layers * MODEL.attention_bytes + MODEL.head_bytes + MODEL.kv_bytes(2048, 16)
    lines = ["| D | active memory | less than dense | mass kept in / down |", "|---|---|---|---|"]
    for density in (0.40, 0.5, 0.6, 0.7, 1.0):
        found = dipsim.simulate(
            trace, "paper-a18", method="dip", density=density, overlap="paper-serial", **COMMON
        )
        active = static + density * mlp
        mass = " / ".join(f"{share:.3f}" for share in found.mass_kept)
        less = 1 - active / (static + mlp)
        lines.append(f"| {density:g} | {active / 1e9:.2f} GB | {less:.0%} | {mass} |")
    return lines


def main() -> None:
    """Print both tables."""
    trace = tiled()
    print("\n".join([*by_active_memory(trace), "", *by_dram(trace)]))


if __name__ == "__main__":
    main()
