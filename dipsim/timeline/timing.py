"""The timing of a replay: latencies, the band of overlap, prefill, energy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import ProfileError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import Profile
from dipsim.replay.traffic import Traffic
from dipsim.settings import Overlap
from dipsim.timeline.closed import Step, Times, is_paper
from dipsim.timeline.engine import Chain, Clock, Engine, clock_for
from dipsim.timeline.machine import Heat
from dipsim.timeline.steps import Rates, Workload, rates, steps
from dipsim.trace import DECODE, PREFILL


@dataclass(frozen=True)
class Prefill:
    """Prefill batches: tokens in all, accesses and hits (cached prefill only), seconds in all."""

    tokens: int
    accesses: int
    hits: int
    seconds: float


@dataclass(frozen=True)
class Timing:
    """When things happened, for the measured tokens."""

    times: Times
    rate: float
    """Tokens per second: measured tokens / their total time; of the authors' simulator the mean of
    the rates of the sequences."""
    rate_range: tuple[float, float]
    """Tokens per second with nothing (a = 0) and all (a = 1) of the flash time hidden."""
    dram_bytes: NDArray[np.float64]
    """[measured] static weights and KV read from DRAM per token."""
    static_flash_bytes: float
    """Per token: static weights that do not fit, and the embedding row."""
    static_flash_reads: int
    prefill: Prefill | None
    ttft: float | None
    """Seconds to the first token: mean over the prefill batches that a decode token follows."""
    energy: tuple[float, float] | None
    """Joules per token: bytes moved and idle power; the same plus the backend's active power.
    None unless the profile has all of these."""
    engine: Engine
    """That told the time."""
    thermal: tuple[float, float] | None
    """Tokens per second of a cold and of a hot device; None when the profile does not say."""
    rests_on: tuple[str, ...]
    """Keys of the profile the times and energies depend on."""
    extrapolated: bool
    """Whether the embedding row is read outside the measured points."""


def time_traffic(
    work: Workload,
    traffic: Traffic,
    device: Profile,
    backend_name: str,
    flash: FlashCost,
    overlap: Overlap,
    cached_prefill: bool = False,
    engine: Literal["auto", "closed", "events"] = "auto",
    sustained: bool = False,
) -> Timing:
    """Time a replay on one backend of a device.

    Args:
        cached_prefill: prefill batches went through the caches instead of being streamed.
        sustained: the device throttles once it has decoded for a while.

    Raises:
        ProfileError: it should throttle, and the profile does not say how.
    """
    _, backend = device.backend(backend_name)
    clock, chain, rate = clock_and_chain(
        work, traffic, device, backend_name, flash, overlap, engine, sustained
    )

    def timed(rows: NDArray[np.int64], a: float) -> Times:
        return clock.times(chain(rows), len(rows), a)

    rows = np.flatnonzero(traffic.measured)
    times = timed(rows, backend.overlap_factor)
    bounds = [times, times]
    if overlap in ("pipelined", "prefetch"):
        bounds = [timed(rows, 0.0), timed(rows, 1.0)]
    slow, fast = (_rate(work, rows, bound) for bound in bounds)
    embedding = flash.pages(np.array([work.embedding_row_bytes(overlap)]))
    one = steps(work, traffic, rows[:1], flash, rate, backend, overlap)
    static_reads = sum(int(step.reads[0]) for step in one if step.static)
    prefill, ttft = _prefill(
        work, traffic, flash, rate, lambda at: timed(at, backend.overlap_factor), cached_prefill
    )
    timing = Timing(
        times=times,
        rate=_rate(work, rows, times),
        rate_range=(slow, fast),
        dram_bytes=work.kv_bytes(rows) + work.budget.static.total,
        static_flash_bytes=work.budget.streamed + float(embedding[0]),
        static_flash_reads=static_reads,
        prefill=prefill,
        ttft=ttft,
        energy=None,
        engine=clock.engine,
        thermal=_thermal(work, device, clock, chain, rows, backend.overlap_factor),
        rests_on=_rests_on(rate, device, backend_name, overlap, sustained),
        extrapolated=bool(embedding[0]) and bool(flash.outside(embedding, 1)[0]),
    )
    return replace(timing, energy=_energy(work, traffic, device, backend_name, timing))


def clock_and_chain(
    work: Workload,
    traffic: Traffic,
    device: Profile,
    backend_name: str,
    flash: FlashCost,
    overlap: Overlap,
    engine: Literal["auto", "closed", "events"],
    sustained: bool,
) -> tuple[Clock, Chain, Rates]:
    """The clock of a run, the steps it times, and the rates at which they use weights.

    Raises:
        ProfileError: the device should throttle, and the profile does not say how.
    """
    _, backend = device.backend(backend_name)
    rate = rates(device, backend_name, backend, work.model, overlap)
    heat = _heat(device, sustained)
    clock = clock_for(engine, overlap, device, backend, rate, traffic, flash, heat)

    def chain(rows: NDArray[np.int64]) -> Iterable[Step]:
        return steps(work, traffic, rows, flash, rate, backend, overlap)

    return clock, chain, rate


def _rate(work: Workload, rows: NDArray[np.int64], times: Times) -> float:
    borders = np.flatnonzero(np.diff(work.trace.sequence[rows])) + 1 if work.authors else ()
    rates = []
    for latency in np.split(times.latency, borders):
        spent = float(latency.sum())
        rates.append(len(latency) / spent if spent else float("inf"))
    return float(np.mean(rates))


def _heat(device: Profile, sustained: bool) -> Heat | None:
    if not sustained:
        return None
    if device.thermal is None:
        raise ProfileError(
            f"--thermal sustained: profile {device.name} does not say how it throttles; give it "
            "thermal: {after, flash, compute}, e.g. -s thermal.after=60s -s thermal.flash=0.67"
        )
    return Heat(device.thermal.after, device.thermal.flash, device.thermal.compute)


def _thermal(
    work: Workload,
    device: Profile,
    clock: Clock,
    chain: Chain,
    rows: NDArray[np.int64],
    a: float,
) -> tuple[float, float] | None:
    """Tokens per second of a device that stays cold, and of one that is hot from the start."""
    heat = device.thermal
    if heat is None or is_paper(clock.overlap):
        return None
    hot = Heat(0.0, heat.flash, heat.compute)
    cold, throttled = (
        _rate(work, rows, clock.at(heat).times(chain(rows), len(rows), a)) for heat in (None, hot)
    )
    return cold, throttled


def _rests_on(
    rate: Rates, device: Profile, backend: str, overlap: Overlap, sustained: bool
) -> tuple[str, ...]:
    at = f"backends.{backend}"
    keys = [*rate.used, "flash.bandwidth", "flash.reads", "flash.align", "flash.lanes"]
    keys += [f"flash.fit.{name}" for name in ("t0", "bandwidth", "cap", "iops")]
    if not is_paper(overlap):
        keys += [f"{at}.sync", f"{at}.cache_copy"]
        keys.append("dram.background")
    if overlap in ("pipelined", "prefetch"):
        keys.append(f"{at}.overlap_factor")
    if device.thermal is not None and not is_paper(overlap):  # the rate of a hot device is told
        keys += ["thermal.flash", "thermal.compute"]
        keys += ["thermal.after"] if sustained else []
    if device.energy is not None and device.backend(backend)[1].active_power is not None:
        keys += ["energy.dram", "energy.flash", "energy.idle", f"{at}.active_power"]
    return tuple(keys)


def prefill_seconds(
    work: Workload,
    flash: FlashCost,
    rate: Rates,
    tokens: int,
    loaded: float | None = None,
    used: float | None = None,
) -> float:
    """A batch of prefill: flash in order, then the slower of DRAM and compute (DESIGN section 5).

    Args:
        loaded, used: bytes of units read from flash, and used; all of them unless given.
    """
    budget = work.budget
    loaded = budget.units_bytes if loaded is None else loaded
    used = budget.units_bytes if used is None else used
    # The authors count what is resident once, and what comes from flash once.
    resident = budget.static.total - budget.streamed
    weights = resident if work.authors else budget.static.total + used
    parameters = 0 if work.model is None else work.model.active_parameters
    flops = 0 if work.authors else 2 * parameters * tokens
    read = (loaded + budget.streamed) / flash.sequential_bandwidth
    return read + max(weights / rate.dram, flops / rate.flops)


def _prefill(
    work: Workload,
    traffic: Traffic,
    flash: FlashCost,
    rate: Rates,
    timed: Callable[[NDArray[np.int64]], Times],
    cached: bool,
) -> tuple[Prefill | None, float | None]:
    """Each prefill batch: flash in order, then the slower of DRAM and compute (DESIGN section 5).

    A streamed batch reads every matrix with pruned groups once, whole; a cached one its misses.
    """
    trace, budget = work.trace, work.budget
    prefill = trace.phase == PREFILL
    if not prefill.any():
        return None, None
    new = trace.begins_sequence()
    begins = np.flatnonzero(prefill & (new | ~np.roll(prefill, 1) | (np.arange(len(new)) == 0)))
    seconds, firsts = [], []
    for begin in begins:
        end = begin + 1
        while end < trace.tokens and prefill[end] and not new[end]:
            end += 1
        loaded = traffic.moved[end - 1].sum() if cached else budget.units_bytes
        used = budget.units_bytes
        if cached:
            used = float((traffic.active[end - 1] * work.unit_bytes).sum())
        tokens = int(end - begin)
        seconds.append(prefill_seconds(work, flash, rate, tokens, float(loaded), used))
        if work.authors:
            firsts.append(seconds[-1])
        elif end < trace.tokens and trace.phase[end] == DECODE and not new[end]:
            firsts.append(seconds[-1] + float(timed(np.array([end])).latency[0]))
    found = Prefill(
        tokens=int(prefill.sum()),
        accesses=int(traffic.active[prefill].sum(dtype=np.int64)),
        hits=int(traffic.hits[prefill].sum(dtype=np.int64)),
        seconds=float(sum(seconds)),
    )
    return found, float(np.mean(firsts)) if firsts else None


def _energy(
    work: Workload, traffic: Traffic, device: Profile, backend_name: str, timing: Timing
) -> tuple[float, float] | None:
    """Joules per token, low and high; None without energies per byte or the backend's power."""
    power = device.backend(backend_name)[1].active_power
    if device.energy is None or power is None:
        return None
    rows, size = traffic.measured, work.unit_bytes
    tokens = len(timing.times.latency)
    flash = traffic.all_moved[rows].sum() / tokens + timing.static_flash_bytes
    dram = timing.dram_bytes.mean() + (traffic.active[rows].sum(axis=0) * size).sum() / tokens
    seconds = float(timing.times.latency.mean())
    low = float(
        dram * device.energy.dram + flash * device.energy.flash + device.energy.idle * seconds
    )
    return low, low + power * seconds
