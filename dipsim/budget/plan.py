"""The budget of a run, planned once: what DRAM holds, and what is left for the caches."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.allocate import allocate_optimal
from dipsim.budget.divide import Budget, GroupSize, Static, divide
from dipsim.budget.growth import grow, tokens_held
from dipsim.errors import BudgetError, ModelError
from dipsim.flash.cost import Costs, Placement
from dipsim.flash.page_cache import Paging, page_size, pages_of
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Profile
from dipsim.methods import Method
from dipsim.model import ATTENTION, Layer, Model, Slice
from dipsim.policies import Policy
from dipsim.replay.active_sets import ActiveSets, largest_active
from dipsim.replay.prefetch import Guesses
from dipsim.systems import NOTHING, Beside
from dipsim.trace import Tokens
from dipsim.units import BYTES


def plan_budget(
    sets: ActiveSets,
    device: Profile,
    placement: Placement,
    policy: Policy,
    costs: Costs,
    guesses: Guesses | None,
    uses: Sequence[NDArray[np.int64]] | None,
    beside: Beside = NOTHING,
) -> Budget:
    """Divide the DRAM of a run.

    Args:
        costs: what reads cost; only an optimal division looks at them, as at the policy.
        uses: of `Contender.profile_uses`, likewise.
        beside: systems beside the weights, which take DRAM too.

    Raises:
        BudgetError: DRAM that does not hold what must be in it, or more than the device has.
        ModelError: a model that flash does not hold, or none where KV grows.
    """
    model, settings = placement.model, sets.settings
    _check_flash(device, model)
    groups = group_sizes(placement)
    context, kv = context_of(sets.tokens, model, settings.context), 0.0
    kv_buffer = kv_index = 0.0
    if beside.kv is not None:
        kv, kv_buffer = beside.kv.dram_bytes, beside.kv.buffer_bytes
        kv_index = beside.kv.index_bytes
    elif model is not None:
        kv = float(model.kv_bytes(context, settings.kv_bits))
    kv, kv_buffer = kv * beside.sequences, kv_buffer * beside.sequences
    static, shares = _static(model, placement.method, settings.compat == "authors")
    stated = sets.trace.dense_bytes  # refused if wrong, also where not used
    if "dense_bytes" in sets.trace.meta and (model is None or keeps_recorded_bytes(sets)):
        static = Static(dense_parts=float(stated.sum()), head=static.head, norms=static.norms)
        shares = _shares(stated)
    dram = settings.dram_bytes(None if model is None else model.total_bytes)
    cache = settings.cache_bytes()
    _check_capacity(device, dram, cache)
    staging = overhead = 0.0
    if dram is None and cache is None and settings.cache_fraction is None:
        dram, overhead = device.dram.available, device.runtime_overhead
        staging = _staging(sets, device, placement)
    budget = divide(
        static,
        groups,
        shares=shares,
        dram=dram,
        cache=cache,
        fraction=settings.cache_fraction,
        kv=kv,
        staging=staging,
        overhead=overhead,
        equal=settings.allocate == "equal",
        buffer=_buffer(sets, placement, guesses),
        kv_buffer=kv_buffer,
        kv_index=kv_index,
        aux=beside.aux_bytes,
    )
    _refuse_experts_outside(budget, placement)
    budget = replace(budget, beside=_beside(budget, sets, device, placement))
    if settings.io == "mmap":  # mapped weights lie in no cache but that of the pages
        budget = replace(budget, capacity=np.zeros_like(budget.capacity), streamed=0.0)
    if settings.allocate == "optimal":
        return allocate_optimal(budget, sets, placement, policy, costs=costs, profile_uses=uses)
    if settings.kv == "grow":
        return grown(budget, sets, placement, beside)
    return budget


def redivided(
    budget: Budget,
    placement: Placement,
    *,
    equal: bool,
    dram: float | None = None,
    cache: float | None = None,
    kv: float | None = None,
) -> Budget:
    """Return the budget with another size of DRAM, of the caches, or of KV, in bytes.

    Args:
        equal: whether every group has as many bytes, rather than an equal fraction of its units.
        cache: what the caches and the buffer of reads ahead may take together.

    Raises:
        BudgetError: KV and buffers alone exceed DRAM, or the buffer of reads ahead the cache.
    """
    again = divide(
        budget.static,
        group_sizes(placement),
        shares=budget.shares,
        dram=budget.dram if dram is None and cache is None else dram,
        cache=cache,
        kv=budget.kv if kv is None else kv,
        staging=budget.staging,
        overhead=budget.overhead,
        equal=equal,
        buffer=budget.buffer,
        kv_buffer=budget.kv_buffer,
        kv_index=budget.kv_index,
        aux=budget.aux,
    )
    return replace(again, start=budget.start, beside=budget.beside)


def plan_page_cache(
    device: Profile, placement: Placement, budget: Budget, io: str
) -> Paging | None:
    """Return the system's page cache of a run; None with direct reads.

    Raises:
        ProfileError: the profile does not say what a copy takes.
    """
    if io == "direct":
        return None
    page = page_size(device.flash)
    if io == "buffered":
        section = device.page_cache
        assert section is not None, "refused when the flash was looked up"
        size = _left(budget, device) if section.size is None else section.size
        static = np.zeros(len(placement.unit_bytes)), 0.0
        return Paging("buffered", page, size, section.bandwidth, None, math.inf, static, placement)
    fault = device.flash.fault
    assert fault is not None, "refused when the flash was looked up"
    if budget.dram is not None:
        size = budget.dram - budget.kv_in_all - budget.staging - budget.overhead
    else:  # a cache given directly leaves static weights resident
        size = budget.cache
        if budget.fits:  # so do their pages, of which a few are not full
            units = placement.method.units_in(len(placement.unit_bytes))
            size = max(size, page * float(pages_of(units * placement.strides(), page).sum()))
    static = _mapped_static(budget, len(placement.unit_bytes))
    in_order = speed_of(device.flash).sequential_bandwidth
    return Paging("mmap", page, size, 0.0, fault, in_order, static, placement)


def group_sizes(placement: Placement) -> list[GroupSize]:
    """Return the units of each group, and their bytes in every layer."""
    sizes = placement.unit_bytes
    units = placement.method.units_in(len(sizes))
    return [GroupSize(units[:, i], sizes[:, i]) for i in range(sizes.shape[1])]


def context_of(tokens: Tokens, model: Model | None, option: int | None) -> int:
    """Return the tokens the budget holds KV for: those of the option, else the longest sequence,
    at most the model's context."""
    if option is not None:
        return option
    longest = int(tokens.position.max()) + 1
    return longest if model is None or model.context is None else min(longest, model.context)


def keeps_recorded_bytes(sets: ActiveSets) -> bool:
    """Return whether bytes that a runtime recorded outrank the model's: unless --bits asks for
    those."""
    return sets.trace.states_bytes and sets.settings.bits is None


def _check_flash(device: Profile, model: Model | None) -> None:
    """Refuse a model that the flash does not hold."""
    stored, capacity = 0.0 if model is None else model.total_bytes, device.flash.capacity
    if capacity is not None and stored > capacity:
        raise ModelError(
            f"the model takes {BYTES.show(stored)}, flash of {device.name} holds "
            f"{BYTES.show(capacity)}: give fewer --bits or another device"
        )


def _refuse_experts_outside(budget: Budget, placement: Placement) -> None:
    """Refuse experts that do not fit where nothing says which of them a token needs.

    Raises:
        BudgetError: a dense run of a model with experts, without all of them in DRAM.
    """
    group, model = placement.method.groups[0], placement.model
    if group.choice != "all" or not group.of_experts or budget.fits or model is None:
        return
    raise BudgetError(
        f"model {model.name}: its experts take {BYTES.show(budget.units_bytes)}, DRAM has "
        f"{BYTES.show(budget.cache)} for them: experts need a trace of their routes (dipsim run "
        "TRACE), or DRAM for all of them"
    )


def _check_capacity(device: Profile, dram: float | None, cache: float | None) -> None:
    """Refuse more DRAM than the device has."""
    for option, size in (("--dram", dram), ("--cache", cache)):
        if size is not None and size > device.dram.capacity:
            raise BudgetError(
                f"{option} {BYTES.show(size)} exceeds the {BYTES.show(device.dram.capacity)} of "
                f"{device.name}: give less, or override dram.capacity with -s"
            )


def _static(
    model: Model | None, method: Method, authors: bool
) -> tuple[Static, NDArray[np.float64] | None]:
    """Return the weights every token reads, and the layers' shares of them as `Budget` has them;
    the authors' simulator leaves norms out."""
    if model is None:
        return Static(), None
    slices = [slice_ for group in method.groups for slice_ in group.slices]

    def attention(layer: Layer) -> float:
        pruned = {slice_.matrix for slice_ in _of_layer(layer, slices)} & set(ATTENTION)
        return layer.attention_bytes - sum(layer.matrix_bytes(matrix) for matrix in pruned)

    def dense(layer: Layer) -> float:
        kept = [matrix for matrix in method.dense if matrix in layer.matrices]
        if any(group.of_experts for group in method.groups) and layer.experts is None:
            kept = [*layer.matrices]
        parts = layer.static_mlp_bytes + sum(layer.matrix_bytes(matrix) for matrix in kept)
        return parts + layer.extra_bytes

    def scales(layer: Layer) -> float:
        return layer.static_scale_bytes(_of_layer(layer, slices))

    predictors = method.predictor_weights * model.bytes_per_weight
    static = Static(
        attention=model.in_layers(attention),
        norms=0.0 if authors else model.norm_bytes,
        head=model.head_bytes,
        dense_parts=model.in_layers(dense) + model.other_bytes,
        scales=model.in_layers(scales),
        predictors=model.layers * predictors,
    )
    every = model.by_recorded(
        lambda layer: attention(layer) + dense(layer) + scales(layer) + predictors
    )
    return static, _shares(every)


def _of_layer(layer: Layer, slices: Iterable[Slice]) -> list[Slice]:
    """Return the slices of a method that a layer has: none of heads where none attend."""
    return [each for each in slices if layer.heads_attend or each.matrix not in ATTENTION]


def _shares(sizes: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return each layer's share of bytes, float64[layers]; None where all have as many."""
    whole = float(sizes.sum())
    return None if not whole or (sizes == sizes[0]).all() else sizes / whole


def _staging(sets: ActiveSets, device: Profile, placement: Placement) -> float:
    """Return bytes of the buffer that reads go through: of the largest set of any one group."""
    if sets.settings.io == "mmap":  # pages are mapped, not copied
        return 0.0
    if device.staging is not None:
        return device.staging
    return float((largest_active(sets) * placement.unit_bytes).max())


def _beside(budget: Budget, sets: ActiveSets, device: Profile, placement: Placement) -> float:
    """Return bytes of overhead and staging that the budget does not count.

    Staging may take a pass over the trace: it is left out where DRAM has room for any.
    """
    if budget.overhead or budget.staging:
        return 0.0
    units = placement.method.units_in(len(placement.unit_bytes))
    most = float((units * placement.unit_bytes).max()) if device.staging is None else device.staging
    taken = budget.total + device.runtime_overhead
    if taken + most <= device.dram.available:
        return device.runtime_overhead
    return device.runtime_overhead + _staging(sets, device, placement)


def _buffer(sets: ActiveSets, placement: Placement, guesses: Guesses | None) -> float:
    """Return bytes for reads ahead: units of the layers that are guessed at a time, as many as a
    token needs or is guessed; 0 where guesses enter the caches."""
    if sets.settings.overlap != "prefetch" or sets.settings.prefetch_into == "cache":
        return 0.0
    layers = min(sets.settings.prefetch_depth or 1, sets.trace.layers)
    largest = largest_active(sets) * placement.unit_bytes
    needed = float(largest.sum(axis=1).max())
    if guesses is not None:
        needed = max(needed, guesses.room(placement.unit_bytes))
    return layers * needed


def grown(budget: Budget, sets: ActiveSets, placement: Placement, beside: Beside) -> Budget:
    """Return the budget with what KV takes from the caches as it grows.

    Args:
        beside: systems beside the weights; what their KV holds is what grows.
    """
    model, settings = placement.model, sets.settings
    if model is None:
        raise ModelError(
            f"--kv grow: {sets.trace.name} does not say which model it is from, so the size of its "
            "KV is not known; pass --model NAME or FILE"
        )
    context = context_of(sets.tokens, model, settings.context)
    held = tokens_held(sets.tokens, sets.rows[0], context)
    kv_cache = beside.kv
    if kv_cache is None:
        kv_bytes = np.asarray(model.kv_bytes(held, settings.kv_bits))
    else:
        kv_bytes = kv_cache.held_bytes(sets.source, held)
    kv_bytes = kv_bytes * beside.sequences
    equal = settings.allocate == "equal"
    return grow(
        kv_bytes, lambda kv: redivided(budget, placement, equal=equal, kv=kv), settings.scope
    )


def _left(budget: Budget, device: Profile) -> float:
    """Return bytes of the DRAM an app may use that a run did not ask for."""
    asked = budget.dram
    if asked is None:
        asked = budget.cache + budget.static.total + budget.kv_in_all
    return max(0.0, device.dram.available - asked)


def _mapped_static(budget: Budget, layers: int) -> tuple[NDArray[np.float64], float]:
    """Return bytes of static weights that are used in each layer, float64[layers], and behind the
    last one."""
    static = budget.static
    if budget.dram is None:
        return np.zeros(layers), 0.0
    last = static.head + static.norms / (2 * layers + 1)
    return budget.by_layer(static.total - last, layers), last
