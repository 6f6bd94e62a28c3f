"""The pipeline: `prepare` works a `Run` out, `replay` counts its `Traffic`, `time_traffic` gives
the `Timing`, and a `Result` holds all three."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from dipsim.batch import parse_speculation
from dipsim.budget.plan import context_of, plan_budget, plan_page_cache
from dipsim.errors import BudgetError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import Overrides, Profile, load_profile
from dipsim.keywords import RunOptions, lists_options
from dipsim.methods import PruningMethod, build_method, name_of
from dipsim.model import Model
from dipsim.policies import Policy, load_policy
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import measured_rows
from dipsim.replay.prefetch import find_guesses
from dipsim.replay.replay import Progress
from dipsim.resolve import (
    Input,
    count_profile,
    find_flash,
    find_model,
    learned_rows,
    place_units,
    trace_of,
    with_units_of,
)
from dipsim.result import Result
from dipsim.run import Run, replay
from dipsim.settings import Settings, make_settings
from dipsim.systems import UNDECIDED, Decided, Speeds, plan_beside
from dipsim.timeline.timing import rate_tokens, time_traffic
from dipsim.trace import Outline, Trace

SEMANTICS = 2
"""Version of what a run means: raised whenever the same input gives other figures on purpose, so
that no result store hands out figures of before."""


@lists_options
def simulate(
    trace: Input | Trace | None,
    profile: Input | Profile,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Replay a trace on a device.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`; None for a dense ``model``
            without one, at ``depth`` and behind a ``prompt``.
        profile: path, name of a shipped profile, mapping, or a `Profile`.
        threads: caches replayed at a time; results do not depend on it.
        progress: called with (tokens done, tokens).
        options: e.g. ``method="dip-ca", density=0.7, dram="50%"`` (of the model's bytes), or
            ``dram=3.5e9`` (bytes).

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    options = settle_kv(trace, profile, options)
    run = prepare(trace, profile, **options)
    traffic = replay(run, progress, threads=threads)  # hits, misses, and what their reads cost
    timing = time_traffic(run, traffic)  # in closed form, or by discrete events (``engine``)
    return Result(run, traffic, timing)


KV_SHARES = ("100%", "75%", "50%", "25%", "0%")
"""Shares of the KV in DRAM that ``kv_dram="auto"`` tries."""


def settle_kv(trace: Input | Outline | None, profile: Input | Profile, options: Any) -> Any:
    """Return the options of a run in which what KV asks for as ``auto`` is settled by replays.

    ``kv_dram``: the fastest of `KV_SHARES`; of equal rates the larger share. ``kv_recompute``: as
    many positions as KVPR computes again, or none where that is faster, since reading hides.

    Raises:
        DipsimError: anything wrong with the input, in one line; no share fits in DRAM.
    """
    if _is_auto(options, "kv_dram"):
        options = _fastest(trace, profile, options, "kv_dram", KV_SHARES)
    if _is_auto(options, "kv_recompute"):
        kv = prepare(trace, profile, **options).kv
        if kv is not None and kv.why_no_recompute is None:
            options = _fastest(trace, profile, options, "kv_recompute", ("none", "auto"))
    return options


def _is_auto(options: Any, name: str) -> bool:
    return isinstance(options.get(name), str) and options[name] == "auto"


def _fastest(
    trace: Input | Outline | None,
    profile: Input | Profile,
    options: Any,
    name: str,
    values: Sequence[str],
) -> Any:
    """Return the options with the value of one that is fastest, of equal ones the first."""
    best, fastest, problem = None, -1.0, None
    for value in values:
        given = {**options, name: value}
        try:
            run = prepare(trace, profile, **given)
            rate = rate_tokens(run, replay(run)).rate
        except BudgetError as refused:
            problem = refused
            continue
        if rate > fastest * (1 + 1e-9):
            best, fastest = given, rate
    if best is None:
        assert problem is not None, "every value was refused"
        raise problem
    return best


def prepare(
    trace: Input | Outline | None,
    profile: Input | Profile,
    *,
    model: Input | Model | None = None,
    method: str | PruningMethod | None = None,
    policy: str | Policy | None = None,
    overrides: Overrides = (),
    decided: Decided = UNDECIDED,
    **options: Any,
) -> Run:
    """Work a run out: what is replayed, with which caches, on what device.

    Args:
        trace: as of `simulate`; or the `Outline` of a model in the loop (`dipsim.lm`).
        model: preset, YAML file, geometry or `Model`; default: the model that the trace names.
        method: name, ``file.py:attribute`` or an object; default: `default_method` of the trace.
        policy: name, ``file.py:attribute`` or an object; default: lfu.
        overrides: of the profile, as ``-s`` on the command line.
        decided: tokens and layers that a model in the loop left out.
        options: fields of `Settings`.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    # What is asked, and of which device
    settings = _settings(options, method, policy)
    device = load_profile(profile, overrides)
    backend, _ = device.backend(settings.backend)
    cache_policy = load_policy(settings.policy if policy is None else policy)
    # The units that tokens need: known beforehand, or chosen in the replay, by what is in DRAM
    opened = trace_of(trace, model, settings)
    if settings.prompt is not None and settings.context is None and isinstance(opened, Trace):
        settings = settings.model_copy(update={"context": settings.prompt})  # it stands beside
    parts = settings.tokens, settings.layers, settings.sequence
    part = opened.clustered(settings.cluster).part(*parts).deeper(settings.depth or 0)
    measured_rows(part.name, part.rows, settings.warmup)  # refuses a run of nothing to measure
    geometry = find_model(part, model, settings)
    part = with_units_of(part, geometry)
    ready = build_method(part, settings, geometry, method)
    resolved = {"method": settings.method or ready.name, "backend": backend}
    context = context_of(part.rows, geometry, settings.context)
    engine, flash = device.backend(settings.backend)[1], FlashCost(find_flash(device, settings.io))
    speeds = Speeds(flash.sequential_bandwidth, engine.compute)
    beside = plan_beside(part, geometry, settings, context, speeds, decided)
    settled = settings.model_copy(update=resolved)
    sets = ActiveSets(part, ready, settled, beside.layer_runs, beside.steps)
    # Where the units lie in flash, what reading them costs, and what DRAM holds
    placement = place_units(sets, geometry, by_option=model is not None)
    costs = placement.costs(flash)
    guesses = find_guesses(sets)
    uses = count_profile(sets, geometry, cache_policy)
    budget = plan_budget(sets, device, placement, cache_policy, costs, guesses, uses, beside)
    run = Run(
        sets=sets,
        device=device,
        model=geometry,
        model_given=model is not None,
        policy=cache_policy,
        placement=placement,
        flash=flash,
        costs=costs,
        guesses=guesses,
        profile_uses=uses,
        budget=budget,
        context=context,
        page_cache=plan_page_cache(device, placement, budget, settings.io),
        unmeasured=learned_rows(sets),
        kv_read=settings.kv_read,
        beside=beside,
    )
    return _with_drafting(run)


def _with_drafting(run: Run) -> Run:
    """Return the run with the seconds that drafting takes a step, where it is counted: shares of
    those of a token decoded alone, which a replay without drafts tells."""
    text = run.settings.speculate
    drafts = None if text is None or run.steps is None else parse_speculation(text)
    if drafts is None or not drafts.cost:
        return run
    sets = ActiveSets(run.trace, run.method, run.settings)
    alone = replace(run, sets=sets, beside=run.beside._replace(steps=None))
    rate = rate_tokens(alone, replay(alone)).rate
    return replace(run, draft_seconds=drafts.draft * drafts.cost / rate)


def _settings(
    options: Mapping[str, Any], method: str | PruningMethod | None, policy: str | Policy | None
) -> Settings:
    """Return the settings, in which the labels stand for a method and a policy that are objects."""
    label = policy.label if isinstance(policy, Policy) else policy
    return make_settings({**options, "method": name_of(method), "policy": label})
