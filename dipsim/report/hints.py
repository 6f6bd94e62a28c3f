"""The hint on what to try next, and warnings about figures, the weightiest first."""

from dipsim.analysis.baseline import Standing
from dipsim.analysis.verdict import LEAST_SHARE
from dipsim.marks import kept, replaced
from dipsim.result import Result
from dipsim.units import BYTES, show_gain, show_number

INPUT_ENERGY = 0.997
"""Share of plain top-k's energy below which cache-aware masking hurts at the input stage."""

_ROUNDING = 1e-9
"""Share by which two sums of the same bytes may differ."""

LEAST_ENERGY = 0.5
"""Share of the energy of the scores below which no method of the papers goes."""


def warnings(result: Result) -> list[str]:
    """Return what makes the figures of a run less than a user may think."""
    texts = []
    sizes = result.traffic.capacity
    empty = [
        name
        for name, capacity, units in zip(
            result.traffic.groups,
            () if sizes is None else sizes.T,
            result.layer_units.T,
            strict=False,
        )
        if not capacity[units > 0].all() and result.policy != "none"
    ]
    if empty:
        texts.append(f"caches of {', '.join(empty)} hold no unit (C = 0): every access misses")
    if result.plain_kept is not None and "mlp_input" in result.traffic.groups:
        group = result.traffic.groups.index("mlp_input")
        ratio = result.energy_kept[group] / result.plain_kept[group, 1]
        if ratio < INPUT_ENERGY:
            texts.append(
                f"mlp_input keeps {ratio:.4f} of the energy plain top-k keeps; below "
                f"{INPUT_ENERGY} perplexity rises steeply: {_gentler(result)}"
            )
    texts += [
        f"{group['name']} keeps {group['energy_kept']:.0%} of the energy of its scores: no model "
        "is known to work with so little"
        for group in result.groups()
        if group["energy_kept"] < LEAST_ENERGY
    ]
    texts += [*replaced(result.run), *kept(result.run)]
    if "over-available" in result.marks:
        texts.append(
            "more DRAM than the device leaves to an app (dram.available): a real one may kill the "
            "app or swap"
        )
    texts += _unread_kv(result)
    if result.run.kv is not None and result.run.kv.why_no_recompute is not None:
        texts.append(f"--kv-recompute auto: {result.run.kv.why_no_recompute}")
    if "part" in result.marks:
        layers = result.config["settings"]["layers"]
        texts.append(f"layers {layers} alone: rates and bytes are those of a part of the model")
    if result.config["settings"].get("layout") == "row":
        texts.append(
            "layout row stores no column alone, so every group that holds columns is read whole "
            "whenever it misses anything: store columns together (--layout column or bundle)"
        )
    if result.config["settings"].get("io") == "buffered" and not result.page_cache:
        texts.append(
            "no DRAM is left for the page cache, so --io buffered reads everything from flash: "
            "give less --dram, or -s page_cache.size=1GB"
        )
    warned = ("none", "lru")  # analysis.cliff warns of lru before the run
    if sizes is None and not result.hits and result.budget.cache and result.policy not in warned:
        texts.append(
            "one global cache hits nothing: by the time a unit comes round again, the other layers "
            "have pushed it out; give more DRAM, or --scope layer"
        )
    if result.budget.streamed:
        texts.append(
            f"{BYTES.show(result.budget.streamed)} of static weights do not fit and are read "
            "from flash for every token"
        )
    return texts


def hint(result: Result, standing: Standing) -> str | None:
    """Return what to try next: a change that was tried and is faster, with its gain; else a command
    that would tell more, without a promise. None where neither is known.

    Where dense is faster the report begins with that, so it is no hint.
    """
    best = standing.best_trial
    if best is not None and best.rate >= result.tokens_per_second * (1 + LEAST_SHARE):
        gain = show_gain(best.rate / result.tokens_per_second)
        return f"{best.option} gives {show_number(best.rate, 3)} tok/s ({gain})"
    if result.fits:
        return "to see a cache at work, give it less: --dram 50% or --cache-fraction 0.6"
    if result.config["settings"].get("io") == "mmap":
        return "to see what page faults cost: --io direct"
    others = result.policy not in ("opt", "belady", "none") and not result.run.without_trace
    if others and not result.run.method.cache_aware:
        return "to see what other policies do: dipsim compare"
    if result.method == "dip-ca":
        return "to see what preferring the cache costs and gains: dipsim study gamma"
    return None


def _unread_kv(result: Result) -> list[str]:
    """Return a warning where the KV of ``--context`` is of more tokens than any token reads, or
    that of the budget, of fewer."""
    run = result.run
    deepest, context = int(run.tokens.position.max()), run.settings.context
    if run.model is None or run.kv_read != "grows":
        return []
    if run.kv is None:
        held = float(run.model.kv_bytes(deepest, run.settings.kv_bits))
    else:
        held = float(run.kv.held_bytes(run.sets.source, run.tokens.position).max())
    read = held * run.beside.sequences
    if read > run.budget.kv * (1 + _ROUNDING):
        return [
            f"tokens read up to {BYTES.show(read)} of KV, the budget holds "
            f"{BYTES.show(run.budget.kv)}: --context {deepest + 1} holds all of it"
        ]
    if context is None or context <= deepest + 2 or run.kv is not None:
        return []
    depth = (run.settings.depth or 0) + context - 1 - deepest
    return [
        f"KV of {context} tokens is in the budget, tokens read at most {deepest}: "
        f"--depth {depth} reads more"
    ]


def _gentler(result: Result) -> str:
    """Return advice on how to prefer less what is in DRAM."""
    if result.method != "dip-ca":
        return "prefer less what is in DRAM"
    masking = result.config["settings"].get("masking") or "gamma"
    if masking.startswith("approximate"):
        return "lower top_m, or use the rule gamma"
    if masking.startswith("blend"):
        return "raise its gamma (blend needs one near 1), or use the rule gamma"
    return "raise its gamma, e.g. --gamma mlp_input=.5,glu=.2"
