"""Interval of a rate: how far it may be off, from what the profile's numbers are worth.

Numbers are drawn within their spreads, and each draw is a column: the tokens are timed once more in
closed form, with all columns side by side. Where only events tell the rate, it is taken to move as
the closed form does. Counts stay as they are, so the budget's numbers are not drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import (
    FIXED_COSTS,
    RULES,
    is_known_share,
    measured_rules,
    spread_of,
    spreads_of,
)
from dipsim.kernels.drawn import Scales, Sums, Taken, drawn_seconds
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import Chain, is_paper
from dipsim.timeline.prefill import prompts_of
from dipsim.timeline.pressure import PAGE_FAULTS, paged_share
from dipsim.timeline.steps import rates, steps
from dipsim.timeline.timing import Rated, Timing
from dipsim.timeline.together import tokens_of

LEVEL = 0.9
"""Share of true rates that the interval is to hold."""
DRAWS = 300
"""Times that all numbers are drawn together."""
TOKENS = 64
"""Most tokens that are timed, evenly spaced among the measured ones."""
MOST_TO_MEASURE = 3
"""Most numbers that are named as worth measuring."""
LEAST_WIDENING = 0.01
"""Relative width of the interval of one number below which it is not worth measuring."""
_FAULT = "flash.fault.seconds"
_ENDS = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
_SIGMAS = NormalDist().inv_cdf(_ENDS[1])
"""Standard deviations from the middle to an end of a spread."""
_LEVELS = np.append((np.arange(DRAWS) + 0.5) / DRAWS, _ENDS)
"""Shares of a number's values that lie below those drawn: one in each of `DRAWS` equally likely
parts, then the ends of its spread."""
_SPREADS = np.array([NormalDist().inv_cdf(level) for level in _LEVELS]) / _SIGMAS
"""The same as multiples of the spread."""
Columns = NDArray[np.float64]
"""[columns] all numbers drawn together `DRAWS` times; then, for each number, the two ends of its
spread with all others as the profile has them; last, all as it has them."""


class ToMeasure(NamedTuple):
    """A number of the profile that is worth measuring."""

    key: str
    low: float
    """Least tokens per second if this number alone were uncertain."""
    high: float
    """Most of them."""


@dataclass(frozen=True)
class RateInterval:
    """The interval of a rate, in tokens per second."""

    low: float
    high: float
    level: float
    """Share of true rates that it is to hold."""
    first_to_measure: tuple[ToMeasure, ...]
    """Numbers that widen it most, the widest first."""
    unmeasured: str | None
    """A sentence where no phone was measured with the method of the run."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``run --json`` prints them."""
        return {
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "first_to_measure": [number._asdict() for number in self.first_to_measure],
            "unmeasured": self.unmeasured,
        }


def rate_interval(run: Run, traffic: Traffic, timing: Timing | Rated) -> RateInterval | None:
    """Return the interval of a run's rate; the rates with no and with full overlap lie in it.

    Returns:
        None in the paper's modes, whose device is what its numbers say, and where tokens take no
        time.
    """
    if is_paper(run.settings.overlap) or not np.isfinite(timing.rate):
        return None
    drawn = _draw(run, traffic)
    seconds = _seconds(run, traffic, drawn.numbers)
    if not seconds[-1] > 0:
        return None
    reached = timing.rate * seconds[-1] / seconds
    together, alone = reached[:DRAWS] * drawn.rules, reached[DRAWS:-1].reshape(-1, 2)
    low, high = np.quantile(together, _ENDS, method="hazen")
    slow, fast = timing.rate_range
    return RateInterval(
        low=min(float(low), slow),
        high=max(float(high), fast),
        level=LEVEL,
        first_to_measure=_first(dict(zip(drawn.numbers, alone, strict=True))),
        unmeasured=_unmeasured(run),
    )


def prompt_range(run: Run, traffic: Traffic) -> tuple[float, float]:
    """Return the ends of the interval of a run's prompts as factors on their seconds, at most and
    at least 1; (1, 1) in the paper's modes."""
    if is_paper(run.settings.overlap):
        return 1.0, 1.0
    rng, device, rate = np.random.default_rng(run.settings.seed), run.device, rates(run)
    backend, prompt = f"backends.{run.settings.backend}", prompts_of(run, traffic)
    keys = [f"{backend}.{name}" for name in ("dram_efficiency", "compute", "per_layer")]
    spreads = spreads_of(device, [_flash_key(run), "dram.bandwidth", *keys])
    flash, peak, efficiency, compute, per_layer = (
        _factors(spread)[:DRAWS][rng.permutation(DRAWS)] for spread in spreads.values()
    )
    known = None if np.any(prompt.read) else measured_rules(device, f"{backend}.compute")
    rules = _factors(RULES if known is None else known)[:DRAWS][rng.permutation(DRAWS)]
    dram = np.sum(prompt.dram / rate.dram) / (peak * efficiency)
    drawn = np.sum(prompt.read) / flash + prompt.fixed * np.size(prompt.read) * per_layer
    drawn = drawn + np.maximum(dram, np.sum(prompt.flops / rate.flops) / compute)
    low, high = np.quantile(drawn * rules, _ENDS, method="hazen") / np.sum(prompt.seconds(rate))
    return min(float(low), 1.0), max(float(high), 1.0)


def _first(alone: Mapping[str, NDArray[np.float64]]) -> tuple[ToMeasure, ...]:
    """Return the numbers that widen the rate most, from the rates at the ends of their spreads."""
    numbers = [
        ToMeasure(key, float(ends.min()), float(ends.max()))
        for key, ends in alone.items()
        if ends.max() > ends.min() * (1 + LEAST_WIDENING)
    ]
    return tuple(sorted(numbers, key=lambda each: each.low / each.high)[:MOST_TO_MEASURE])


def _unmeasured(run: Run) -> str | None:
    """Return that no phone was measured with the method, or with several tokens a step; None for
    dense models and experts, token by token."""
    plain = all(group.of_experts or group.choice == "all" for group in run.method.groups)
    what = [] if plain else [run.method.name]
    what += [] if run.steps is None else ["several tokens a step"]
    if not what:
        return None
    return (
        f"no phone was measured with {' and '.join(what)}: the interval holds what the device's "
        "numbers leave open, not what an engine for it may cost"
    )


# Draws --------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """Numbers of the profile, drawn."""

    numbers: Mapping[str, Columns]
    """Factors on the numbers; of the overlap factor the values themselves."""
    rules: NDArray[np.float64]
    """[draws] factors on the rate."""


def _draw(run: Run, traffic: Traffic) -> _Drawn:
    """Draw the numbers that the rate of a run rests on, each through all its `_LEVELS`."""
    rng, device = np.random.default_rng(run.settings.seed), run.device
    spreads = spreads_of(device, _keys(run))
    values = {key: _factors(spread) for key, spread in spreads.items()}
    usual = dict.fromkeys(values, 1.0)
    factor = f"backends.{run.settings.backend}.overlap_factor"
    values[factor] = _overlaps(run, factor)
    usual[factor] = run.backend.overlap_factor
    numbers = {}
    for place, (key, drawn) in enumerate(values.items()):
        columns = np.full(DRAWS + 2 * len(values) + 1, usual[key])
        columns[:DRAWS] = drawn[rng.permutation(DRAWS)]
        columns[DRAWS + 2 * place :][:2] = drawn[DRAWS:]
        numbers[key] = columns
    rules = _factors(_rules(run, traffic))
    return _Drawn(numbers, rules[rng.permutation(DRAWS)])


def _rules(run: Run, traffic: Traffic) -> float:
    """Return the spread of the rules: narrower than `RULES` only for runs as those that an engine
    was measured with, all weights in DRAM and nothing left out."""
    resident = not traffic.flash_seconds[traffic.measured].any()
    known = measured_rules(run.device, rates(run).used[-1])
    return RULES if known is None or not resident or _unmeasured(run) else known


def _keys(run: Run) -> list[str]:
    """Return the keys of the numbers that times are in proportion to."""
    backend, io = f"backends.{run.settings.backend}", run.settings.io
    keys = [_FAULT if io == "mmap" else _flash_key(run), *rates(run).used]
    keys += [f"{backend}.{name}" for name in (*FIXED_COSTS, "cache_copy")]
    if _pages(run):
        keys.append(_FAULT)
    if _computes_more(run):
        keys.append(f"{backend}.compute")
    return [*keys, "page_cache.bandwidth"] if io == "buffered" else keys


def _computes_more(run: Run) -> bool:
    """Return whether arithmetic may take more than bringing the weights of a token does."""
    again = run.kv is not None and run.kv.plan.recompute is not None
    return run.steps is not None or run.beside.tokens is not None or again


def _pages(run: Run) -> bool:
    """Return whether memory pressure costs page faults whose time the profile states."""
    stated = run.settings.io != "mmap" and run.device.flash.fault is not None
    return stated and paged_share(run) > 0


def _flash_key(run: Run) -> str:
    """Return the key of the numbers that say how fast the flash is."""
    flash = run.device.flash
    form = "bandwidth" if flash.bandwidth is not None else "reads" if flash.reads else "fit"
    return f"flash.{form}"


@cache
def _factors(spread: float) -> NDArray[np.float64]:
    """Return lognormal factors on a number, float64[levels]: nine of ten lie within a factor of
    1 + spread."""
    factors: NDArray[np.float64] = np.exp(_SPREADS * np.log1p(spread))
    return factors


def _overlaps(run: Run, key: str) -> NDArray[np.float64]:
    """Return values of the overlap factor, float64[levels]: any share, unless something is known
    of it."""
    if not is_known_share(run.device, key):
        return _LEVELS
    drawn = run.backend.overlap_factor + spread_of(run.device, key) * _SPREADS
    return np.clip(drawn, 0.0, 1.0)


# Times --------------------------------------------------------------------------------------------


def _scales(run: Run, numbers: Mapping[str, Columns]) -> Scales:
    """Return the factors on times that follow from the factors on numbers."""
    rate, backend, prefix = rates(run), run.backend, f"backends.{run.settings.backend}"
    peak, efficiency, kernel = (numbers[key] for key in rate.used)
    flash = next(numbers[key] for key in numbers if key.startswith("flash."))
    dram = peak * np.minimum(efficiency, 1 / backend.dram_efficiency)  # a share is at most 1
    weights = 1 / kernel
    if rate.used[-1] == f"{prefix}.compute":
        computed = kernel * (rate.flops * run.bytes_per_weight / 2)
        weights = rate.weights / np.minimum(dram * rate.dram, computed)
    reading = flash if run.settings.io == "mmap" else 1 / flash  # a fault is a time already
    return Scales(
        flash=reading,
        faults=numbers[_FAULT] if _pages(run) else reading,
        copies=1 / numbers.get("page_cache.bandwidth", np.ones_like(peak)),
        weights=weights,
        arithmetic=1 / numbers.get(f"{prefix}.compute", np.ones_like(peak)),
        kv=1 / dram,
        management=1 / numbers[f"{prefix}.cache_copy"],
        per_layer=numbers[f"{prefix}.per_layer"],
        per_mask=numbers[f"{prefix}.per_mask"],
        per_score=numbers[f"{prefix}.per_score"],
    )


def _seconds(run: Run, traffic: Traffic, numbers: Mapping[str, Columns]) -> Columns:
    """Return the seconds of up to `TOKENS` measured tokens together, one for each column."""
    measured = np.flatnonzero(traffic.measured)
    spaced = np.linspace(0, len(measured) - 1, min(len(measured), TOKENS))
    rows = measured[spaced.round().astype(np.int64)]
    chain = Chain(steps(run, traffic, rows, rates(run)))
    step = chain.stacked(slice(0, len(rows)))
    copied = np.zeros_like(step.flash)
    copied[[not each.static for each in chain]] = _copies(run, traffic, rows)
    reading = step.flash + step.ahead - copied
    faults = np.array([each.place == PAGE_FAULTS for each in chain])
    of_flash, brought = reading.sum(axis=1), step.hit + step.miss - step.arithmetic
    sums = Sums(
        reading=np.where(faults, 0.0, of_flash),
        faults=np.where(faults, of_flash, 0.0),
        copied=copied.sum(axis=1),
        weights=brought.sum(axis=1),
        kv=step.kv.sum(axis=1),
        arithmetic=step.arithmetic.sum(axis=1),
        management=step.management.sum(axis=1),
        **_fixed(run, chain, float(tokens_of(run, rows).mean())),
    )
    taken = Taken(reading, copied, step.hit, step.miss, step.kv, step.reads)
    overlap = numbers[f"backends.{run.settings.backend}.overlap_factor"]
    hides = run.settings.overlap != "serial"
    return drawn_seconds(taken if hides else None, sums, _scales(run, numbers), overlap, len(rows))


def _fixed(run: Run, chain: Chain, masks: float) -> dict[str, NDArray[np.float64]]:
    """Return the mean fixed costs of each step, float64[steps] seconds: those of a layer, or of
    choosing so many masks."""
    sync = np.array([_mean(step.sync) for step in chain])
    chosen = run.backend.per_mask * masks
    once = np.array([_mean(np.minimum(chosen, step.sync)) for step in chain])
    static = np.array([step.static for step in chain])
    return {
        "per_layer": np.where(static, sync, 0.0),
        "per_mask": np.where(static, 0.0, once),
        "per_score": np.where(static, 0.0, sync - once),
    }


def _mean(seconds: NDArray[np.float64] | float) -> float:
    return float(seconds.mean()) if isinstance(seconds, np.ndarray) else float(seconds)


def _copies(run: Run, traffic: Traffic, rows: NDArray[np.int64]) -> NDArray[np.float64] | float:
    """Return the seconds of copies from the page cache, float64[groups of all layers, rows]; 0
    without one."""
    if traffic.copied is None or run.page_cache is None:
        return 0.0
    copied = traffic.copied[rows] * run.unit_bytes / run.page_cache.copy
    return copied.reshape(len(rows), -1).T
