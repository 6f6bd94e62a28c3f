"""Which engine tells the time: the closed form, or discrete events where things meet."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.flash.cost import FlashCost
from dipsim.hardware import Backend, Profile
from dipsim.replay.traffic import Traffic
from dipsim.settings import Overlap
from dipsim.timeline.closed import Step, Times, is_paper, token_times
from dipsim.timeline.machine import Heat, Machine
from dipsim.timeline.steps import Rates

if TYPE_CHECKING:  # simpy loads when events happen
    from dipsim.timeline.events import Timeline

Engine = Literal["closed", "events"]
Chain = Callable[[NDArray[np.int64]], Iterable[Step]]
"""The steps of the tokens with these rows."""


@dataclass(frozen=True)
class Clock:
    """Tells how long tokens take: steps in, `Times` out."""

    engine: Engine
    overlap: Overlap
    machine: Machine
    """With its heat, unless the device stays cold."""

    def at(self, heat: Heat | None) -> "Clock":
        """The same clock on a device with this heat, or on a cold one."""
        return replace(self, machine=self.machine._replace(heat=heat))

    def times(self, chain: Iterable[Step], tokens: int, a: float) -> Times:
        """Time the steps of ``tokens`` tokens with overlap factor ``a``."""
        if self.engine == "events":
            return self.timeline(chain, tokens, a, 0).times
        heat, kernel = self.machine.heat, self.machine.compute_bound
        if heat is not None and not is_paper(self.overlap):  # hot throughout: see clock_for
            chain = (hot_step(step, heat, kernel) for step in chain)
        return token_times(chain, tokens, self.overlap, a, kernel)

    def timeline(self, chain: Iterable[Step], tokens: int, a: float, spans_of: int) -> "Timeline":
        """The same as discrete events, with the spans of the first ``spans_of`` tokens."""
        from dipsim.timeline.events import simulate_events

        return simulate_events(chain, tokens, self.overlap, a, self.machine, spans_of)


def hot_step(step: Step, heat: Heat, compute_bound: bool) -> Step:
    """A step on a device that is hot from its beginning to its end."""
    kernels = heat.compute if compute_bound else 1.0
    return step._replace(
        flash=step.flash / heat.flash, hit=step.hit / kernels, miss=step.miss / kernels
    )


def clock_for(
    wanted: Literal["auto", "closed", "events"],
    overlap: Overlap,
    device: Profile,
    backend: Backend,
    rate: Rates,
    traffic: Traffic,
    flash: FlashCost,
    heat: Heat | None,
) -> Clock:
    """The clock of a run; ``auto`` takes the closed form where nothing gets into another's way.

    Args:
        heat: of a device that may get hot; None of one that stays cold.
    """
    machine = Machine(
        dram=device.dram.bandwidth,
        background=device.dram.background,
        weights=rate.weights,
        kv=rate.dram,
        compute_bound=rate.compute_bound,
        heat=heat,
    )
    engine: Engine = "closed" if wanted == "auto" else wanted
    if wanted == "auto" and not is_paper(overlap):
        meets = overlap == "prefetch" or heat is not None
        if meets or _contends(machine, overlap, backend, traffic, flash):
            engine = "events"
    return Clock(engine, overlap, machine)


def _contends(
    machine: Machine, overlap: Overlap, backend: Backend, traffic: Traffic, flash: FlashCost
) -> bool:
    """Whether DRAM may be asked for more than it has."""
    rows = traffic.measured
    seconds, moved = traffic.flash_seconds[rows], traffic.moved[rows]
    read = seconds > 0
    fastest = float((moved[read] / seconds[read]).max(initial=flash.sequential_bandwidth))
    used = max(machine.weights, machine.kv)
    copied = 2 * backend.cache_copy if np.isfinite(backend.cache_copy) else 0.0
    together = used + fastest if overlap == "pipelined" and backend.overlap_factor > 0 else 0.0
    return machine.background + max(used, fastest, copied, together) > machine.dram
