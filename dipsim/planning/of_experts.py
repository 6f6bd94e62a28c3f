"""Ways of mixtures of experts: how many are cached, by which policy, with how many lanes."""

from collections.abc import Iterator
from dataclasses import replace

from dipsim.errors import DipsimError
from dipsim.model import Model
from dipsim.planning.of_any import NOT_KNOWN, narrower, narrower_why
from dipsim.planning.question import Figures, Question, Span, figures_of
from dipsim.planning.room import Room
from dipsim.planning.way import Way
from dipsim.timeline.interval import rate_interval
from dipsim.timeline.timing import rate_tokens
from dipsim.units import BYTES
from dipsim.validate.cases import Case
from dipsim.validate.streaming import streamed_run

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the room for experts that are tried, and beyond it `BEYOND`."""
BEYOND = 1.25
POLICIES = ("lru", "lfu")
LANES = (1, 2, 4, 8)


def cached(question: Question, room: Room) -> list[Way]:
    """Return the model with caches of experts of several sizes, each with the faster policy, and
    the best of them with other numbers of lanes.

    The largest cache takes more than the system leaves, so that it shows what paging costs.
    """
    assert question.trace is not None, "checked by who asks"
    plain = question.run(question.trace)
    beside = plain.budget.static.total + room.kv + room.overhead + room.staging
    left = room.available - beside
    ways = []
    for share in (*SHARES, BEYOND):
        size = min(share * left, plain.budget.units_bytes)
        if size <= 0:
            continue
        tried = [way for policy in POLICIES for way in _cached(question, size, policy)]
        if tried:
            ways.append(max(tried, key=_rate))
    if ways:
        best = max(ways, key=_rate)
        ways += [way for lanes in LANES for way in _with_lanes(question, best, lanes)]
    return ways


def _rate(way: Way) -> float:
    return way.figures.rate.value


def _cached(question: Question, size: float, policy: str) -> Iterator[Way]:
    options = {"cache": f"{size / 2**20:.0f}MiB", "policy": policy, "scope": "global"}
    try:
        result = question.run(question.trace, **options)
    except DipsimError:
        return
    slots, experts = result.budget.capacity.sum(), result.layer_units.sum()
    yield Way(
        name=f"{BYTES.show(size)}, {policy}",
        why=f"{slots:.0f} of {experts:.0f} experts in DRAM: {result.hit_rate:.0%} of the bytes hit",
        options=options,
        figures=figures_of(result),
    )


def _with_lanes(question: Question, best: Way, lanes: int) -> Iterator[Way]:
    flash = question.device.flash
    if lanes == flash.lanes:
        return
    device = question.device.model_copy(update={"flash": flash.model_copy(update={"lanes": lanes})})
    result = question.run(question.trace, device=device, **best.options)
    figures = figures_of(result)
    if figures.rate.value > best.figures.rate.value * 1.01:
        yield Way(
            name=f"{best.name}, {lanes} lanes",
            why=f"{lanes} reads in flight for {flash.lanes}",
            options={**best.options, "s": f"flash.lanes={lanes}"},
            figures=figures,
        )


# Without routes -----------------------------------------------------------------------------------


def unrouted(question: Question, room: Room, share: float | None = None) -> Figures:
    """Return the figures of a mixture whose routes are not known.

    Experts are taken to be used all alike, so that as large a share of them hits as is in DRAM:
    real routes use some more than others, and hit more.

    Args:
        share: of the experts in DRAM; default: as many as fit.

    Raises:
        DipsimError: it cannot be run so.
    """
    model, device = question.model, question.device
    share = share_of_experts(question, room) if share is None else share
    if share == 1:
        result = question.run(model=model.as_read(), cache_fraction=1.0)
        return figures_of(result)._replace(ttft=None, prompt=0, energy=None, dram=room.taken)
    used = float(model.mlp_bytes) * (model.experts_per_token or 0) * _layers_of_experts(model)
    flash = used * (1 - share)
    cached = share * _experts(model)
    case = Case(id="plan", depth=question.context, flash_bytes=flash, cache_bytes=cached)
    backend, _ = device.backend(question.options.get("backend"))
    ready = streamed_run(case, device, backend, model)
    if isinstance(ready, str):
        raise DipsimError(f"{model.name}: {ready}")
    run, traffic = ready
    timing = rate_tokens(run, traffic)
    interval = rate_interval(run, traffic, timing)
    low, high = (timing.rate, timing.rate) if interval is None else (interval.low, interval.high)
    keys = () if interval is None else tuple(each.key for each in interval.first_to_measure)
    dram = min(room.taken - _experts(model) + cached, room.available)
    rate = Span(timing.rate, low, high)
    return Figures(rate, None, 0, None, dram, flash, keys, ("uniform-routes",))


def share_of_experts(question: Question, room: Room) -> float:
    """Return the share of a mixture's experts that fits in DRAM beside all else."""
    experts = _experts(question.model)
    beside = room.taken - experts
    return min(1.0, max(0.0, (room.available - beside) / experts))


def _experts(model: Model) -> float:
    """Return the bytes of all experts of a mixture."""
    return float(model.mlp_bytes) * (model.experts or 0) * _layers_of_experts(model)


def _layers_of_experts(model: Model) -> int:
    return sum(layer.experts is not None for layer in model.stack)


def bounds(question: Question, room: Room) -> tuple[float, float] | None:
    """Return the rates of a mixture with no expert in DRAM, and with all of them, on a device
    whose DRAM held them; None where it cannot be run so."""
    large = 2 * max(room.taken, question.device.dram.capacity)
    roomy = question.on(capacity=large, available=large)
    try:
        none = unrouted(question, room, 0.0)
        every = unrouted(roomy, room, 1.0)
    except DipsimError:
        return None
    return none.rate.value, every.rate.value


def narrower_unrouted(question: Question, room: Room) -> Iterator[Way]:
    """Yield a mixture whose routes are not known in each narrower format."""
    for name, form, bits in narrower(question):
        stored = question.model.stored_at(bits, form)
        options = {**question.options, "backend": name}
        asked = replace(question, model=stored, options=options)
        own = replace(room, weights=stored.total_bytes - stored.embedding_bytes)
        try:
            figures = unrouted(asked, own)
        except DipsimError:
            continue
        share = share_of_experts(asked, own)
        fit = "all" if share == 1 else f"{share:.0%} of the"
        yield Way(
            name=f"{form} on {name}",
            why=f"{narrower_why(question, bits)}: {fit} experts fit",
            options={"weight_format": form, "bits": bits, "backend": name},
            figures=figures,
            loss=NOT_KNOWN,
            assumed="" if share == 1 else "experts used all alike",
        )
