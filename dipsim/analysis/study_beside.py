"""Studies of what stands beside the weights: keys and values, pruned tokens, skipped layers, and
tokens that are decoded together.

Bytes and times of fixed budgets need no recorded vectors, so all of them run on any trace.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dipsim.batch import tokens_per_step, union_share
from dipsim.errors import MethodError, ModelError
from dipsim.methods import default_method
from dipsim.replay.active_sets import active_sets
from dipsim.result import Result
from dipsim.settings import concerning
from dipsim.sweep.point import Figures, Place, Point, figures_of
from dipsim.sweep.study import Ask, Study
from dipsim.timeline.prefill import prompt_of
from dipsim.timeline.steps import rates
from dipsim.tokens import NOTHING, parse_pruning, prefill_flops
from dipsim.trace import Trace

CACHES: dict[str, dict[str, Any]] = {
    "all, fp16": {},
    "q8_0": {"kv_quant": "q8_0"},
    "kivi, 2 bits": {"kv_quant": "kivi:bits=2"},
    "a quarter, tova": {"kv_policy": "tova", "kv_budget": "25%"},
    "a quarter, obcache joint": {"kv_policy": "obcache:score=joint", "kv_budget": "25%"},
    "half in flash": {"kv_dram": "50%"},
    "half in flash, some computed": {"kv_dram": "50%", "kv_recompute": "auto"},
}
"""KV caches that study kv compares, by what stays where."""
SHORTEST, USUAL = 1024, 8192
"""Positions before the token: the fewest, and the most of models that do not say their context."""
SCHEDULES = (
    "lazy:at=.3/.6/.9,rate=.3",
    "lazy:at=.3/.6/.9,rate=.5",
    "lazy:at=.5,rate=.7",
    "lazy:at=.2,rate=.7",
    "static:at=.2,rate=.7",
)
PROMPTS = (256, 512, 1024, 2048, 4096)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the layers that study skipping leaves out."""
WIDTHS = (1, 2, 3, 4, 5, 8)
"""Tokens that study batch decodes together."""
ACCEPTANCES = (0.6, 0.8)


def _own(trace: Trace) -> tuple[str, ...]:
    return (default_method(trace),)


# Keys and values ----------------------------------------------------------------------------------


def _caches(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    model = ask.model_of(method, context=None)
    if model is None:
        raise ModelError(f"{ask.trace.name} names no model, so no size of KV: pass --model")
    longest = model.context or USUAL
    depths = [SHORTEST << i for i in range(8) if SHORTEST << i <= longest] or [longest]
    for name, options in CACHES.items():
        for depth in depths:
            yield ask.point({"kv": name, "depth": depth}, method, depth=depth, **options)


def _of_cache(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield one cell, with what the KV cache holds and moves."""
    kv = result.kv
    read = float(np.mean(result.timing.dram_bytes)) - result.budget.static.total
    read /= result.tokens_per_step
    figures = {
        "kv_held_bytes": result.budget.kv,
        "kv_read_bytes_per_token": read if kv is None else kv["read_bytes_per_token"],
        "kv_flash_bytes_per_token": 0.0 if kv is None else kv["flash_bytes_per_token"],
    }
    yield {}, {**figures_of(result), **figures}


# Tokens -------------------------------------------------------------------------------------------


def _one(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    yield ask.point({}, method)


def _of_schedules(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield a cell for each schedule that the model has layers for, and each length of a prompt.

    Raises:
        ModelError: no model says what a prompt computes.
    """
    run = result.run
    if run.model is None:
        raise ModelError(f"{run.trace.name} names no model to prefill a prompt: pass --model")
    rate, layers = rates(run), run.model.layers
    for text in ("none", *SCHEDULES):
        pruning = NOTHING if text == "none" else parse_pruning(text)
        if not pruning.fits(layers):
            continue
        for prompt in PROMPTS:
            whole = prompt_of(run, prompt)
            counts = pruning.prompt_tokens(prompt, layers)
            every = np.full(layers, prompt)
            saved = prefill_flops(run.model, every) - prefill_flops(run.model, counts)
            left = whole._replace(flops=whole.flops - saved)
            seconds, before = float(left.seconds(rate)), float(whole.seconds(rate))
            yield (
                {"schedule": text, "prompt": prompt},
                {
                    **figures_of(result),
                    "prefill_ms": 1e3 * seconds,
                    "speed_up": before / seconds,
                    "tokens_computed": float(counts.sum() / (prompt * layers)),
                },
            )


# Layers -------------------------------------------------------------------------------------------


def _skipping(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    for kv in ("project", "hole"):
        for share in SHARES:
            options = {"skip_layers": f"unified:share={share:g}", "skip_kv": kv}
            yield ask.point({"skip_kv": kv, "skipped": share}, method, **options)


# Tokens together ----------------------------------------------------------------------------------


def _of_batches(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield a cell for each width, with the units that so many successive tokens need together.

    Raises:
        MethodError: the sets depend on the cache.
    """
    run = result.run
    if run.method.cache_aware:
        raise MethodError(
            f"study batch: the sets of {run.method.name} depend on the cache; name another method"
        )
    blocks = [sets for _, _, sets in active_sets(run.trace, run.method)]
    decode, sequence = run.tokens.decode, run.tokens.sequence
    groups = [np.concatenate([block[i] for block in blocks])[decode] for i in range(len(blocks[0]))]
    bytes_of = run.unit_bytes.sum(axis=0) * [group.units for group in run.method.groups]
    for width in WIDTHS:
        shares = [
            union_share(sets, group.units, width, sequence[decode])
            for sets, group in zip(groups, run.method.groups, strict=True)
        ]
        step = run.budget.static.total + float(np.dot(shares, bytes_of))
        given = {a: tokens_per_step(width - 1, a) for a in ACCEPTANCES}
        yield (
            {"width": width},
            {
                **figures_of(result),
                "units_needed": float(np.dot(shares, bytes_of) / bytes_of.sum()),
                "weights_per_step": step,
                "weights_per_token": step / width,
                **{f"weights_per_token_at_{a:g}": step / each for a, each in given.items()},
            },
        )


STUDIES = (
    Study(
        "kv",
        "KV that is evicted, quantised or in flash, against the positions before a token",
        axes=("kv", "depth"),
        figures=(
            *("tokens_per_second", "kv_held_bytes", "kv_read_bytes_per_token"),
            "kv_flash_bytes_per_token",
        ),
        points=_caches,
        x="depth",
        series="kv",
        grid=True,
        methods=_own,
        budget={},
        profiles=("snapdragon8",),
        varies=(
            *("depth", "kv_policy", "kv_budget", "kv_fetch", "kv_quant", "kv_dram"),
            "kv_recompute",
        ),
        read=_of_cache,
        note="Budgets are exact whatever a rule's scores say; which positions stay, and what that "
        "costs in perplexity, needs a model: docs/beside.md.",
    ),
    Study(
        "tokens",
        "prompts whose tokens leave later layers, against their length",
        axes=("schedule", "prompt"),
        figures=("prefill_ms", "speed_up", "tokens_computed"),
        points=_one,
        x="prompt",
        series="schedule",
        grid=True,
        methods=_own,
        profiles=("snapdragon8",),
        read=_of_schedules,
        note="How many tokens a schedule leaves does not depend on the text; which ones, and how "
        "many come back while decoding, does: docs/beside.md.",
    ),
    Study(
        "skipping",
        "layers left out at equal distances, and what becomes of their KV",
        axes=("skip_kv", "skipped"),
        figures=("tokens_per_second", "flash_bytes_per_token", "dram_bytes_per_token", "hit_rate"),
        points=_skipping,
        x="skipped",
        series="skip_kv",
        grid=True,
        methods=_own,
        budget={"dram": "60%"},
        profiles=("snapdragon8",),
        varies=("skip_layers", "skip_kv"),
    ),
    Study(
        "batch",
        "successive tokens decoded together, as drafts are: the weights that they need",
        axes=("width",),
        figures=(
            *("units_needed", "weights_per_step", "weights_per_token"),
            *(f"weights_per_token_at_{a:g}" for a in ACCEPTANCES),
        ),
        points=_one,
        x="width",
        methods=_own,
        varies=concerning("beside", "steps"),
        read=_of_batches,
        note="per token: if every draft is accepted, and with .6, .8 of them; those of the model "
        "that drafts are left out.",
    ),
)
"""In the order in which they are listed."""
