"""Headlines of the papers beside the weights on two phones (docs/beside-results.md): runs without a
model in the loop, of dense models whose weights have 4.5 bits."""

from typing import Any

import numpy as np

import dipsim
from dipsim import layers
from dipsim.kv.split import Recompute
from dipsim.layers import cost
from dipsim.model import Model
from dipsim.simulate import prepare
from dipsim.timeline.prefill import prompt_of
from dipsim.timeline.steps import rates
from dipsim.tokens import parse_pruning, prefill_flops

PHONES = ("snapdragon8", "oneplus15r")
DRAM = "6GB"
"""For weights and KV; a tail of the KV may lie in flash all the same."""
OFFLOADED = {"opt-6.7b": 1023, "phi-3-mini": 4095, "llama-3.2-3b": 8191}
"""Models whose KV lies in flash, and the positions before the token."""
PAPER_LINK, PAPER_COMPUTE = 32e9, 312e12
"""Data sheets of KVPR's machine: bytes/s of PCIe, FLOP/s of an A100."""
LLAMA_2 = {
    "layers": 32,
    "hidden": 4096,
    "intermediate": 11008,
    "heads": 32,
    "kv_heads": 32,
    "vocab": 32000,
}
PROMPT = 4096
PRUNED = {"lazy:at=9/19/28,rate=.3": "figure 4's", "lazy:at=6,rate=.69": "gives 2.34 x by FLOP"}
BUDGETS = ("5%", "10%", "20%")
LONG = 8192
SKIPPED = (0, 3, 6, 9)
LESS_DRAM = "3GB"
DEEP = {"depth": 1024, "context": 1040, "warmup": 1}
"""Of the runs that skip layers."""


def rate(result: Any) -> str:
    """Return tokens per second and their interval."""
    interval = result.interval
    return f"{result.tokens_per_second:.3g} ({interval.low:.3g}..{interval.high:.3g})"


def dense(phone: str, model: Any, depth: int, **options: Any) -> Any:
    """Run one token of a dense model behind so many positions."""
    how = {"method": "dense", "dram": DRAM, "depth": depth, "context": depth + 1, **options}
    return dipsim.simulate(None, phone, model=model, **how)


def kvpr() -> str:
    """Return the table of KVPR: by the formula, and where reading overlaps with computing."""
    lines = [
        "| model | machine | l/s | KV's time | KV in DRAM, tok/s | in flash | and computed again |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    opt = dipsim.load_model("opt-6.7b")
    share, gain = split(opt, 1024, PAPER_LINK, PAPER_COMPUTE, batch=32)
    lines.append(f"| opt-6.7b | A100, batch 32 | {share:.3f} | {gain:+.1%} | | | |")
    for name, depth in OFFLOADED.items():
        for phone in PHONES:
            kept = dense(phone, name, depth)
            run = kept.run
            share, gain = split(
                run.model, depth, run.flash.sequential_bandwidth, run.backend.compute
            )
            read, again = (
                dense(phone, name, depth, kv_dram="0%", **how)
                for how in ({}, {"kv_recompute": "auto"})
            )
            rates = " | ".join(map(rate, (kept, read, again)))
            lines.append(f"| {name} | {phone} | {share:.3f} | {gain:+.1%} | {rates} |")
    return "\n".join(lines)


def split(
    model: Model, positions: int, link: float, compute: float, **how: Any
) -> tuple[float, float]:
    """Return the best share that is computed again, and by how much the time of the KV changes."""
    parts = Recompute.of(model, link=link, compute=compute, **how)
    best = parts.positions(positions)
    return best / positions, parts.seconds(positions, best) / parts.seconds(positions, 0) - 1


def lazyllm() -> str:
    """Return the table of LazyLLM: seconds until Llama-2-7B has read a prompt."""
    lines = [
        f"| schedule | by FLOP | {' | '.join(f'{phone}, s' for phone in PHONES)} |",
        "|---|--:|" + "--:|" * len(PHONES),
    ]
    runs = {
        phone: prepare(None, phone, model=LLAMA_2, method="dense", prompt=PROMPT, dram=DRAM)
        for phone in PHONES
    }
    model = runs[PHONES[0]].model
    assert model is not None, "given"
    every = np.full(model.layers, PROMPT)
    whole = prefill_flops(model, every)
    for schedule in ("none", *PRUNED):
        left = every
        if schedule != "none":
            left = parse_pruning(schedule).prompt_tokens(PROMPT, model.layers)
        flops = prefill_flops(model, left)
        cells = []
        for run in runs.values():
            prompt = prompt_of(run, PROMPT)
            before, after = (
                float(prompt._replace(flops=prompt.flops - saved).seconds(rates(run)))
                for saved in (0.0, whole - flops)
            )
            cells.append(f"{after:.1f} ({before / after:.2f} x)")
        lines.append(f"| `{schedule}` | {whole / flops:.2f} x | {' | '.join(cells)} |")
    return "\n".join(lines)


def obcache() -> str:
    """Return the table of OBCache: Llama-3-8B behind 8191 positions."""
    lines = [
        f"| positions held | KV held, MB | KV read, MB/token | {' | '.join(PHONES)} |",
        "|---|--:|--:|" + "--:|" * len(PHONES),
    ]
    for budget in ("all", *BUDGETS):
        rule = {"kv_policy": "obcache:score=joint", "kv_budget": budget}
        runs = [
            dense(phone, "llama-3-8b", LONG - 1, **({} if budget == "all" else rule))
            for phone in PHONES
        ]
        kv, held = runs[0].kv, runs[0].budget.kv
        read = held if kv is None else kv["read_bytes_per_token"]
        lines.append(
            f"| {budget} | {held / 1e6:.1f} | {read / 1e6:.1f} | {' | '.join(map(rate, runs))} |"
        )
    return "\n".join(lines)


def dash() -> str:
    """Return the table of skipped layers: Llama-3-8B, all weights in DRAM and not all of them."""
    places = [(phone, dram) for phone in PHONES for dram in (DRAM, LESS_DRAM)]
    lines = [
        "| layers skipped | weights, MB/token | "
        + " | ".join(f"{phone}, {dram}" for phone, dram in places)
        + " |",
        "|--:|--:|" + "--:|" * len(places),
    ]
    trace = every_unit("llama-3-8b", 16)
    sizes = cost.LayerBytes.of(dipsim.load_model("llama-3-8b"))
    for count in SKIPPED:
        rule = f"unified:layers={count}"
        modes = layers.decide(rule, trace)[1:]
        weights = cost.weight_bytes(modes, sizes, "hole").mean() / 1e6
        how = {"skip_layers": rule, "skip_kv": "hole"} if count else {}
        cells = [
            rate(dipsim.simulate(trace, phone, method="dense", dram=dram, **DEEP, **how))
            for phone, dram in places
        ]
        lines.append(f"| {count} of 32 | {weights:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def every_unit(name: str, tokens: int) -> dipsim.Trace:
    """Return a trace of a dense model: every token uses every neuron."""
    model = dipsim.load_model(name)
    units = model.intermediate
    sets = np.full((tokens, model.layers, -(-units // 8)), 255, np.uint8)
    meta = {"model": name, "signals": {"glu": {"encoding": "bits", "units": units}}}
    return dipsim.load_trace({"glu": sets, "meta": meta})


def tables() -> dict[str, str]:
    """Return the tables, in Markdown."""
    return {"kvpr": kvpr(), "lazyllm": lazyllm(), "obcache": obcache(), "dash": dash()}
