"""Steps of a token: how many bytes each reads from where, and at what rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import Profile
from dipsim.model import nearest_format
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.settings import Settings
from dipsim.timeline.closed import Step, each_of, is_paper
from dipsim.timeline.kv_tail import kv_tail
from dipsim.timeline.pressure import PAGE_FAULTS, Faults, faults_of
from dipsim.timeline.together import (
    kv_flops,
    kv_of_steps,
    kv_readers,
    tokens_of,
    units_used,
    weight_flops,
    with_arithmetic,
)
from dipsim.trace import PREFILL, Tokens

if TYPE_CHECKING:
    from dipsim.kv.plan import KvStep


@dataclass(frozen=True)
class Rates:
    """Speeds of a backend."""

    weights: float
    """Bytes per second at which weights are used."""
    dram: float
    """Bytes per second at which KV is read."""
    flops: float
    """FLOP per second; infinite in the paper's modes."""
    compute_bound: bool
    """True if ``weights`` is the kernel's limit rather than DRAM's."""
    used: tuple[str, ...]
    """Keys of the profile these rates rest on."""


def rates(run: Run) -> Rates:
    """Return how fast the backend of a run uses the model's weights."""
    return rates_of(run.device, run.settings, run.stored_as, run.bytes_per_weight)


def rates_of(
    device: Profile, settings: Settings, stored_as: str | None, bytes_per_weight: float
) -> Rates:
    """Return how fast a backend uses weights.

    A ``gemv`` entry for the format that they are stored in decides; where nothing says the format,
    the entry nearest in bits does. Without one it is the slower of DRAM and of 2 FLOP per weight.
    The paper's modes know only DRAM at its peak.

    Args:
        settings: ``backend`` and ``overlap`` are looked at.
        stored_as: the weight format; None where nothing says it.
        bytes_per_weight: stored bytes of a weight, scales included.
    """
    peak = device.dram.bandwidth
    if is_paper(settings.overlap):
        return Rates(peak, peak, np.inf, False, ("dram.bandwidth",))
    name, backend = device.backend(settings.backend)
    key = f"backends.{name}"
    dram = backend.dram_efficiency * peak
    entry = stored_as or nearest_format(8 * bytes_per_weight, backend.gemv)
    if entry is not None and entry in backend.gemv:
        gemv = backend.gemv[entry]
        used = "dram.bandwidth", f"{key}.dram_efficiency", f"{key}.gemv.{entry}"
        return Rates(gemv, dram, backend.compute, True, used)
    kernel = backend.compute * bytes_per_weight / 2
    used = "dram.bandwidth", f"{key}.dram_efficiency", f"{key}.compute"
    return Rates(min(dram, kernel), dram, backend.compute, kernel < dram, used)


def kv_bytes(run: Run, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the bytes of keys and values that each token, or decode step, reads in all layers,
    float64[rows]."""
    if run.model is None:
        return np.zeros(len(rows))
    step = kv_step(run, rows)
    if step is not None:
        total: NDArray[np.float64] = step.read.sum(axis=1)
        return total
    positions, starts = _kv_positions(run, rows)
    read: NDArray[np.float64] = run.model.kv_read_bytes(positions, run.settings.kv_bits)
    return read if run.steps is None else np.add.reduceat(read, starts)


def _kv_positions(
    run: Run, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the positions that `kv_readers` read keys and values of, float64[readers], and where
    those of each row begin."""
    readers, starts = kv_readers(run, rows)
    positions = run.tokens.position[readers].astype(np.float64)
    if run.kv_read == "context":
        positions[:] = run.context
    elif run.kv_read == "average":
        positions = _average_positions(run.tokens)[readers]
    return positions, starts


def kv_step(run: Run, rows: NDArray[np.int64]) -> "KvStep | None":
    """Return what tokens move of keys and values, layer by layer; None where all positions lie in
    DRAM, so that `kv_bytes` says all.

    Args:
        rows: int64[rows], tokens; of decode steps of several, the last of each.
    """
    if run.kv is None:
        return None
    readers, starts = kv_readers(run, rows)
    before = run.tokens.position[readers]
    if run.kv_read == "context":
        before = np.full(len(readers), run.context)
    read = run.kv.step(run.sets.source[readers], before)
    return read if run.steps is None else kv_of_steps(run, rows, starts, read)


def _average_positions(tokens: Tokens) -> NDArray[np.float64]:
    """Return the mean positions of the tokens' sequences, float64[tokens]: half the sum of the rows
    of the prompt and of all rows."""
    number = np.cumsum(tokens.begins_sequence()) - 1
    prompt = np.bincount(number, weights=tokens.phase == PREFILL)
    average: NDArray[np.float64] = ((prompt + np.bincount(number)) / 2)[number]
    return average


def embedding_row_bytes(run: Run) -> float:
    """Return the bytes of a token's embedding, read from flash; 0 in the paper's modes."""
    paper = is_paper(run.settings.overlap)
    return 0.0 if run.model is None or paper else run.model.embedding_row_bytes


def steps(run: Run, traffic: Traffic, rows: NDArray[np.int64], rate: Rates) -> Iterator[Step]:
    """Yield the steps of the tokens ``rows``, in the order a token takes them.

    First comes what memory pressure took. Per layer come weights and KV that every token reads,
    then the groups of the method; behind the last layer comes the head. Each layer, and the head,
    pays the backend's fixed cost; a group that a mask chooses from, what choosing takes. A decode
    step of several tokens takes them together; behind its head comes what drafting takes.
    """
    layers = len(run.unit_bytes)
    nothing, many = np.zeros(len(rows)), tokens_of(run, rows)
    read = kv_bytes(run, rows)
    faults = faults_of(run, traffic, rows, read)
    if faults is not None:
        yield _fault_step(faults, nothing)
    if embedding_row_bytes(run):
        yield _embedding_step(run, many)
    moved = kv_step(run, rows)
    tail = None if moved is None else kv_tail(run, rows, moved, rate.flops)
    kv = _kv_by_layer(run, rows, layers) if moved is None else [*moved.read.T]
    per_layer, of_head = _static_sizes(run)
    static = _layer_steps(run, rate, per_layer, nothing)
    head = _static_step(run, rate, of_head, nothing)
    last = [_with_kv(run, rate, head, of_head, nothing, rows)]
    used = _group_steps(run, traffic, rows, rate)
    waits = nothing
    if tail is not None:  # a head takes as long as that of the token before, which hides it
        last, waits = tail.hidden_behind(last, 0, run.settings.overlap)
    for layer in range(layers):
        if tail is not None:
            yield from tail.steps(layer, waits)
        size = float(per_layer[layer])
        whole = [_with_kv(run, rate, static[layer], size, kv[layer], rows, layer), *used[layer]]
        left = [*_left_of_layer(run, rows, layer, whole)]
        left += _revived_step(run, rows, rate, layer, left)
        if tail is not None and layer + 1 < layers:
            left, waits = tail.hidden_behind(left, layer + 1, run.settings.overlap)
        yield from left
    yield from last
    if run.draft_seconds:
        yield _drafting_step(run, nothing)


def _static_sizes(run: Run) -> tuple[NDArray[np.float64], float]:
    """Return the bytes of static weights of each layer, float64[layers], and of the head with the
    norm before it."""
    static, layers = run.budget.static, run.unit_bytes.shape[0]
    final_norm = static.norms / (2 * layers + 1)
    in_layers = static.total - static.head - final_norm
    return run.budget.by_layer(in_layers, layers), static.head + final_norm


def _layer_steps(
    run: Run, rate: Rates, sizes: NDArray[np.float64], nothing: NDArray[np.float64]
) -> list[Step]:
    """Return the step of each layer's static weights, and of those of layers that have no place of
    their own in the trace; ``nothing`` is zeros[rows]."""
    many = np.ones(len(sizes), np.int64) if run.model is None else run.model.layers_each
    alike = {size: _static_step(run, rate, size, nothing) for size in dict.fromkeys(sizes.tolist())}
    return [
        alike[size]._replace(sync=run.backend.per_layer * each)
        for size, each in zip(sizes.tolist(), many.tolist(), strict=True)
    ]


def _kv_by_layer(run: Run, rows: NDArray[np.int64], layers: int) -> list[NDArray[np.float64]]:
    """Return the bytes of keys and values that each layer reads, float64[rows] each."""
    if run.model is None:
        return [np.zeros(len(rows))] * layers
    positions, starts = _kv_positions(run, rows)
    read = run.model.layer_kv_bytes(positions, run.settings.kv_bits)
    return [*(read if run.steps is None else np.add.reduceat(read, starts, axis=1))]


def static_bytes(run: Run, rows: NDArray[np.int64]) -> Any:
    """Return the bytes of static weights that each token uses, float64[rows], or those of all where
    no layer is left out."""
    static, skipped = run.budget.static, run.beside.layers
    if skipped is None:
        return static.total
    per_layer, of_head = _static_sizes(run)
    used = np.full(len(rows), of_head)
    for layer in range(run.unit_bytes.shape[0]):
        used += per_layer[layer] * _static_share(run, rows, layer)
    return used


def _static_share(run: Run, rows: NDArray[np.int64], layer: int) -> NDArray[np.float64]:
    """Return the share of a layer's static weights that each token uses, float64[rows]."""
    skipped = run.beside.layers
    assert skipped is not None, "some layers are left out"
    attention, mlp = (share[:, layer] for share in skipped.shares(rows))
    parts = run.static_parts(skipped.skip_kv)
    share: NDArray[np.float64] = (
        parts.attention * attention + parts.mlp * mlp + parts.projection * (attention == 0)
    )
    return share


def _left_of_layer(
    run: Run, rows: NDArray[np.int64], layer: int, whole: Sequence[Step]
) -> Iterator[Step]:
    """Yield what is left of a layer's steps where tokens skip it, or run it in part.

    Args:
        whole: the static step, then those of the groups.
    """
    skipped = run.beside.layers
    if skipped is None:
        yield from whole
        return
    attention, mlp = (share[:, layer] for share in skipped.shares(rows))
    static, *groups = whole
    runs, masks = np.maximum(attention, mlp) > 0, (mlp > 0).astype(np.float64)
    left = _static_share(run, rows, layer)
    yield _scaled(static, left)._replace(sync=runs.astype(np.float64) * static.sync)
    for step in groups:  # a token that skips the layer used no unit of it
        yield step._replace(sync=masks * step.sync)


def _scaled(step: Step, share: NDArray[np.float64]) -> Step:
    """Return a static step that uses and reads a share of its bytes."""
    return step._replace(
        flash=step.flash * share,
        hit=step.hit * share,
        miss=step.miss * share,
        reads=np.ceil(step.reads * share),
        moved=step.moved * share,
    )


def _revived_step(
    run: Run, rows: NDArray[np.int64], rate: Rates, layer: int, before: Sequence[Step]
) -> list[Step]:
    """Return the step in which a layer computes tokens that come back, where any do: what their
    arithmetic takes beyond bringing the layer's weights, which they share.

    Args:
        before: steps of the layer.
    """
    pruned = run.beside.tokens
    if pruned is None:
        return []
    flops = 2.0 * pruned.model.layer_parameters * pruned.computed[rows, layer]
    weights = sum((step.hit + step.miss for step in before), np.zeros(len(rows)))
    beyond = np.maximum(flops / rate.flops - weights, 0.0) * (pruned.computed[rows, layer] > 1)
    if not beyond.any():
        return []
    nothing = np.zeros(len(rows))
    place = f"layer {layer} tokens that come back"
    idle = Step(nothing, nothing, nothing, nothing, nothing, static=True, place=place)
    return [idle._replace(hit=beyond, arithmetic=beyond)]


def _fault_step(faults: Faults, nothing: NDArray[np.float64]) -> Step:
    """Return the step of the token's page faults; ``nothing`` is zeros[tokens]."""
    return Step(
        flash=faults.seconds,
        hit=nothing,
        miss=nothing,
        kv=nothing,
        reads=faults.number,
        static=True,
        moved=faults.moved,
        place=PAGE_FAULTS,
    )


def _embedding_step(run: Run, many: NDArray[np.int64]) -> Step:
    """Return the step of the embedding rows of ``many`` tokens, int64[rows], one read each."""
    pages = run.flash.pages(np.array([embedding_row_bytes(run)]))
    nothing = np.zeros(len(many))
    return Step(
        flash=many * run.flash.seconds(pages, in_flight(run)),
        hit=nothing,
        miss=nothing,
        kv=nothing,
        reads=nothing + many,
        static=True,
        moved=many * pages,
        place="embedding",
    )


def in_flight(run: Run) -> int:
    """Return the reads of embedding rows that are in flight together."""
    return 1 if run.steps is None else run.steps.width


def _drafting_step(run: Run, nothing: NDArray[np.float64]) -> Step:
    """Return the step in which a model drafts the tokens of a decode step."""
    drafting = nothing + run.draft_seconds
    return Step(
        flash=nothing,
        hit=drafting,
        miss=nothing,
        kv=nothing,
        reads=nothing,
        static=True,
        arithmetic=drafting,
        place="drafting",
    )


def _static_step(run: Run, rate: Rates, size: float, nothing: NDArray[np.float64]) -> Step:
    """Return the step of ``size`` bytes of weights that every token uses; ``nothing`` is
    zeros[rows].

    The share that does not fit in DRAM comes from flash, in order.
    """
    static, flash = run.budget.static, run.flash
    streamed = run.budget.streamed / static.total if static.total else 0.0
    loaded = size * streamed
    return Step(
        flash=nothing + loaded / flash.sequential_bandwidth,
        hit=nothing + (size - loaded) / rate.weights,
        miss=nothing + loaded / rate.weights,
        kv=nothing,
        reads=nothing + flash.reads_in_order(loaded),
        sync=run.backend.per_layer,
        static=True,
        moved=nothing + loaded,
    )


def _with_kv(
    run: Run,
    rate: Rates,
    step: Step,
    size: float,
    kv: NDArray[np.float64],
    rows: NDArray[np.int64],
    layer: int | None = None,
) -> Step:
    """Return a static step of ``size`` bytes, which also reads keys and values.

    Args:
        kv: their bytes, float64[rows].
        rows: tokens, or the last of each decode step.
        layer: of the trace; None is the head.
    """
    place = "head" if layer is None else f"layer {layer} attention"
    step = step._replace(kv=kv / rate.dram, place=place)
    if run.steps is None:
        return step
    flops = weight_flops(run, tokens_of(run, rows) * size)
    if layer is not None:
        flops = flops + kv_flops(run, rows, kv, layer)
    return with_arithmetic(step, flops / rate.flops)


def _group_steps(
    run: Run, traffic: Traffic, rows: NDArray[np.int64], rate: Rates
) -> list[list[Step]]:
    """Return the steps of each group of each layer: its misses from flash, its weights used.

    Of a decode step, every token's mask is chosen.
    """
    layers, groups = run.unit_bytes.shape
    work = _work_of_groups(run, traffic, rows, rate)
    masks: list[Any] = [
        run.backend.mask_seconds(units) if group.masked and units else 0.0
        for of_layer in run.method.units_in(layers).tolist()
        for group, units in zip(run.method.groups, of_layer, strict=True)
    ]
    if traffic.own is not None:
        masks = [tokens_of(run, rows) * mask for mask in masks]
    places = [f"layer {layer} {group}" for layer in range(layers) for group in traffic.groups]
    opens = [group == 0 for group in range(groups)]
    labelled = zip(each_of(work), masks, places, opens * layers, strict=True)
    every = [
        step._replace(sync=mask, place=place, opens_layer=first)
        for step, mask, place, first in labelled
    ]
    return [every[first : first + groups] for first in range(0, len(every), groups)]


def _work_of_groups(run: Run, traffic: Traffic, rows: NDArray[np.int64], rate: Rates) -> Step:
    """Return the work of the groups of all layers as one step, whose fields are [groups of all
    layers, rows]."""

    def by_group(counts: NDArray[Any]) -> NDArray[np.float64]:
        picked = counts[rows].reshape(len(rows), -1).T
        return np.ascontiguousarray(picked, np.float64)

    size = run.unit_bytes.reshape(-1, 1)
    if run.byte_share is not None:
        groups = run.unit_bytes.shape[1]
        size = size * np.repeat(run.byte_share[rows].T, groups, axis=0)
    active, hits = by_group(traffic.active), by_group(traffic.hits)
    copied = by_group(traffic.kept) * size
    if traffic.ahead is not None and traffic.ahead.enters:
        copied += by_group(traffic.ahead.issued) * size  # guesses enter as admitted misses do
    step = Step(
        flash=by_group(traffic.flash_seconds),
        hit=hits * size / rate.weights,
        miss=(active - hits) * size / rate.weights,
        kv=np.broadcast_to(np.zeros(len(rows)), hits.shape),
        reads=by_group(traffic.reads),
        management=copied / run.backend.cache_copy,
        moved=by_group(traffic.moved),
        copied=copied,
    )
    if traffic.ahead is not None:
        early, moved = traffic.ahead.flash_seconds, traffic.ahead.moved
        step = step._replace(ahead=by_group(early), ahead_moved=by_group(moved))
    if traffic.own is None:
        return step
    used = units_used(run, traffic.own, rows).reshape(len(rows), -1).T * size
    return with_arithmetic(step, weight_flops(run, used) / rate.flops)
