"""The timing of a replay: latencies, the band of overlap, prefill, energy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import FIXED_COSTS
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import Chain, Heat, Times, is_paper
from dipsim.timeline.engine import Clock, Engine, clock_for
from dipsim.timeline.kv_tail import KV_FROM_FLASH, KvTail, kv_tail
from dipsim.timeline.prefill import Prefill, time_prefill
from dipsim.timeline.pressure import faults_of, paged_share
from dipsim.timeline.steps import (
    Rates,
    embedding_row_bytes,
    in_flight,
    kv_bytes,
    kv_step,
    rates,
    static_bytes,
    steps,
)
from dipsim.timeline.together import tokens_of
from dipsim.views import shortened

_PART = 2**14
"""Tokens whose steps are at hand in closed form."""


@dataclass(frozen=True)
class Timing:
    """Times of the measured tokens, and what follows from them."""

    times: Times
    rate: float
    """Tokens per second: measured tokens / their total time; of the authors' simulator the mean of
    the rates of the sequences."""
    rate_range: tuple[float, float]
    """Tokens per second with nothing (a = 0) and all (a = 1) of the flash time hidden."""
    dram_bytes: NDArray[np.float64]
    """[measured] static weights and KV read from DRAM per token, or decode step."""
    static_flash_bytes: float
    """Bytes per token of static weights that do not fit, of the embedding row, and of page faults
    (their mean); per decode step where that takes several tokens."""
    static_flash_reads: int
    """Reads per token of the same."""
    prefill: Prefill | None
    ttft: float | None
    """Seconds to the first token: mean over the prefill batches that a decode token follows."""
    cold_start: float | None
    """Seconds to bring static weights and what the caches start with from flash; None without a
    model."""
    energy: tuple[float, float] | None
    """Joules per token: bytes moved and idle power; the same plus the backend's active power.
    None unless the profile has all of these."""
    engine: Engine
    """The engine that was used."""
    thermal: tuple[float, float] | None
    """Tokens per second of a cold and of a hot device; None when the profile does not say."""
    rests_on: tuple[str, ...]
    """Keys of the profile the times and energies depend on."""
    extrapolated: bool
    """True if the embedding row, or a block of KV, is read outside the measured points."""

    __repr__ = shortened


class Rated(NamedTuple):
    """A rate, and what overlap leaves open of it, both as in `Timing`."""

    rate: float
    rate_range: tuple[float, float]


def time_traffic(run: Run, traffic: Traffic) -> Timing:
    """Time what a replay counted.

    Raises:
        ProfileError: the device should throttle, and the profile does not say how.
    """
    rate = rates(run)
    clock = clock_for(run, traffic, rate)
    overlap, factor = run.settings.overlap, run.backend.overlap_factor
    rows = np.flatnonzero(traffic.measured)
    times, rated = _rated(run, traffic, clock, rate)
    prefill = ttft = None
    if run.beside.sequences == 1:  # side by side, sequences have prompts that no trace holds
        prefill, ttft = time_prefill(
            run,
            traffic,
            rate,
            lambda firsts: clock.each_alone(steps(run, traffic, firsts, rate), len(firsts), factor),
        )
    thermal = None
    heat = run.device.thermal
    if heat is not None and not is_paper(overlap):
        hot = clock.at(Heat(0.0, heat.flash, heat.compute))
        cold_times, hot_times = (
            _times(run, traffic, each, rate, [factor])[0] for each in (clock.at(None), hot)
        )
        thermal = (
            _tokens_per_second(run, rows, cold_times),
            _tokens_per_second(run, rows, hot_times),
        )
    embedding = run.flash.pages(np.array([embedding_row_bytes(run)]))
    outside = bool(embedding[0]) and bool(run.flash.outside(embedding, in_flight(run))[0])
    tail = _tail(run, rows, rate)
    dram_bytes = kv_bytes(run, rows) + static_bytes(run, rows)
    flash_bytes = static_flash_bytes(run, traffic)
    return Timing(
        times=times,
        rate=rated.rate,
        rate_range=rated.rate_range,
        dram_bytes=dram_bytes,
        static_flash_bytes=flash_bytes,
        static_flash_reads=static_flash_reads(run, traffic),
        prefill=prefill,
        ttft=ttft,
        cold_start=cold_start(run),
        energy=_energy(run, traffic, times, dram_bytes, flash_bytes),
        engine=clock.engine,
        thermal=thermal,
        rests_on=_rests_on(run, rate),
        extrapolated=outside or (tail is not None and tail.extrapolated),
    )


def time_tokens(run: Run, traffic: Traffic) -> tuple[Times, float]:
    """Return the times of the measured tokens and their rate: `Timing.times` and `Timing.rate`.

    Raises:
        ProfileError: as `time_traffic`.
    """
    rate, rows = rates(run), np.flatnonzero(traffic.measured)
    clock = clock_for(run, traffic, rate)
    [times] = _times(run, traffic, clock, rate, [run.backend.overlap_factor])
    return times, _tokens_per_second(run, rows, times)


def rate_tokens(run: Run, traffic: Traffic) -> Rated:
    """Return the rate of the measured tokens and its range alone.

    Raises:
        ProfileError: as `time_traffic`.
    """
    rate = rates(run)
    return _rated(run, traffic, clock_for(run, traffic, rate), rate)[1]


def _rated(run: Run, traffic: Traffic, clock: Clock, rate: Rates) -> tuple[Times, Rated]:
    """Return the times of the measured tokens, and their rate with its range."""
    rows, usual = np.flatnonzero(traffic.measured), run.backend.overlap_factor
    ranges = run.settings.overlap in ("pipelined", "prefetch")
    factors = [usual, 0.0, 1.0] if ranges else [usual]
    times = _times(run, traffic, clock, rate, factors)
    found, *ends = (_tokens_per_second(run, rows, each) for each in times)
    none, full = ends or (found, found)
    return times[0], Rated(found, (none, full))


def _times(
    run: Run, traffic: Traffic, clock: Clock, rate: Rates, factors: Sequence[float]
) -> list[Times]:
    """Return the times of the measured tokens with each overlap factor.

    In closed form a part of the tokens is at hand at a time, so that their steps take less memory
    than their counts.
    """
    rows = np.flatnonzero(traffic.measured)
    size = _PART if clock.engine == "closed" else len(rows)
    parts = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        chain = Chain(steps(run, traffic, part, rate))
        parts.append([clock.times(chain, len(part), a) for a in factors])
    return [
        Times(
            np.concatenate([times.latency for times in of_factor]),
            np.concatenate([times.exposed for times in of_factor]),
        )
        for of_factor in zip(*parts, strict=True)
    ]


def static_flash_bytes(run: Run, traffic: Traffic) -> float:
    """Return the bytes per token of static weights that do not fit, of the embedding row, of page
    faults, and of keys and values in flash."""
    embedding = run.flash.pages(np.array([embedding_row_bytes(run)]))
    rows = np.flatnonzero(traffic.measured)
    faults = faults_of(run, traffic, rows, kv_bytes(run, rows))
    faulted = 0.0 if faults is None else float(faults.moved.mean())
    tail = _tail(run, rows, rates(run))
    kv = 0.0 if tail is None else float(tail.moved.sum(axis=1).mean())
    streamed = run.budget.streamed
    if run.beside.layers is not None:
        streamed *= float(static_bytes(run, rows).mean()) / run.budget.static.total
    return streamed + float(embedding[0] * tokens_of(run, rows).mean()) + faulted + kv


def static_flash_reads(run: Run, traffic: Traffic) -> int:
    """Return the reads per token of static weights that do not fit, of the embedding row, of page
    faults, and of keys and values in flash, as a whole number."""
    rows, rate = np.flatnonzero(traffic.measured), rates(run)
    one = steps(run, traffic, rows[:1], rate)
    reads = sum(
        int(step.reads[0]) for step in one if step.static and not step.place.endswith(KV_FROM_FLASH)
    )
    tail = _tail(run, rows, rate)
    reads += 0 if tail is None else round(float(tail.reads.sum(axis=1).mean()))
    faults = faults_of(run, traffic, rows, kv_bytes(run, rows))
    return reads if faults is None else reads + round(float(faults.number.mean()))


def _tail(run: Run, rows: NDArray[np.int64], rate: Rates) -> KvTail | None:
    """Return the keys and values that tokens read from flash; None where there are none."""
    step = kv_step(run, rows)
    return None if step is None else kv_tail(run, rows, step, rate.flops)


def cold_start(run: Run) -> float | None:
    """Return the seconds to bring static weights, and what the caches start with, from flash.

    Both are known beforehand, so they are read in order. Static weights that do not fit are no part
    of it: every token reads them. Prompt and first token come on top.

    Returns:
        None where no model says how large static weights are.
    """
    if run.model is None:
        return None
    resident = run.budget.static.total - run.budget.streamed
    if run.page_cache is not None:
        resident = min(resident, run.page_cache.static_room)
    return (resident + run.first_content) / run.flash.sequential_bandwidth


def _tokens_per_second(run: Run, rows: NDArray[np.int64], times: Times) -> float:
    """Return tokens per second; of the authors' simulator the mean over the sequences."""
    borders = np.flatnonzero(np.diff(run.tokens.sequence[rows])) + 1 if run.authors else ()
    sequences = []
    given = np.split(run.given(rows), borders)
    for latency, tokens in zip(np.split(times.latency, borders), given, strict=True):
        spent = float(latency.sum())
        sequences.append(int(tokens.sum()) / spent if spent else float("inf"))
    return float(np.mean(sequences))


def _rests_on(run: Run, rate: Rates) -> tuple[str, ...]:
    """Return the keys of the profile that the times and energies depend on."""
    overlap, device, backend = run.settings.overlap, run.device, f"backends.{run.settings.backend}"
    keys = [*rate.used, *([f"{backend}.compute"] if run.steps is not None else [])]
    keys += ["flash.bandwidth", "flash.reads", "flash.iops", "flash.align"]
    keys += ["flash.lanes", *(f"flash.fit.{name}" for name in ("t0", "bandwidth", "cap", "iops"))]
    if not is_paper(overlap):
        keys += [f"{backend}.{name}" for name in FIXED_COSTS]
        keys.append(f"{backend}.cache_copy")
        keys.append("dram.background")
    if overlap in ("pipelined", "prefetch"):
        keys.append(f"{backend}.overlap_factor")
    if device.thermal is not None and not is_paper(overlap):  # the rate of a hot device is told
        keys += ["thermal.flash", "thermal.compute"]
        keys += ["thermal.after"] if run.settings.thermal == "sustained" else []
    if paged_share(run):
        keys += ["dram.available", "flash.fault.seconds", "flash.fault.page"]
    if device.energy is not None and run.backend.active_power is not None:
        keys += ["energy.dram", "energy.flash", "energy.idle", f"{backend}.active_power"]
    return tuple(keys)


def _energy(
    run: Run,
    traffic: Traffic,
    times: Times,
    dram_bytes: NDArray[np.float64],
    static_flash_bytes: float,
) -> tuple[float, float] | None:
    """Return the joules per token, without and with the backend's active power; None where the
    profile has no energies or no such power."""
    power, energy = run.backend.active_power, run.device.energy
    if energy is None or power is None:
        return None
    rows = traffic.measured
    tokens, given = len(times.latency), run.tokens_per_step(rows)
    flash = traffic.all_moved[rows].sum() / tokens + static_flash_bytes
    used = run.unit_bytes_of(traffic.active, rows) / tokens
    dram = dram_bytes.mean() + used
    seconds = float(times.latency.mean())
    low = float(dram * energy.dram + flash * energy.flash + energy.idle * seconds)
    return low / given, (low + power * seconds) / given
