"""The clock of a run: the closed form, or discrete events where things get in each other's way."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from dipsim.errors import ProfileError
from dipsim.hardware import Profile
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.settings import Overlap
from dipsim.timeline.closed import Heat, Machine, Seconds, Step, Times, is_paper, token_times
from dipsim.timeline.pressure import page_fault, paged_share
from dipsim.timeline.steps import Rates

if TYPE_CHECKING:  # simpy loads when events happen
    from dipsim.timeline.events import Timeline

Engine = Literal["closed", "events"]


@dataclass(frozen=True)
class Clock:
    """A clock of tokens: steps in, `Times` out."""

    engine: Engine
    overlap: Overlap
    machine: Machine
    """With its heat, unless the device stays cold."""
    depth: int = 1
    """Layers between a guess and what it is for."""

    def at(self, heat: Heat | None) -> "Clock":
        """Return the same clock on a device with this heat, or on a cold one."""
        return replace(self, machine=self.machine._replace(heat=heat))

    def times(self, chain: Iterable[Step], tokens: int, a: float) -> Times:
        """Time the steps of ``tokens`` tokens with overlap factor ``a``."""
        if self.engine == "events":
            return self.timeline(chain, tokens, a, 0).times
        heat, throttled = self.machine.heat, self.machine.throttled
        if heat is not None and not is_paper(self.overlap):  # hot throughout: see clock_for
            chain = (hot_step(step, heat, throttled) for step in chain)
        return token_times(chain, tokens, self.overlap, a, self.machine.compute_bound)

    def each_alone(self, chain: Iterable[Step], tokens: int, a: float) -> Seconds:
        """Return the latency of each token as if it were the only one, seconds, float64[tokens].

        In closed form it always is; as events tokens get in each other's way. ``a`` is the overlap
        factor.
        """
        if self.engine == "closed":
            return self.times(chain, tokens, a).latency
        steps = list(chain)
        alone = [
            self.times([step.of_tokens(slice(token, token + 1)) for step in steps], 1, a)
            for token in range(tokens)
        ]
        return np.array([times.latency[0] for times in alone])

    def timeline(self, chain: Iterable[Step], tokens: int, a: float, spans_of: int) -> "Timeline":
        """Return the same as discrete events, with the spans of the first ``spans_of`` tokens."""
        from dipsim.timeline.events import simulate_events

        how = self.overlap, a, self.machine
        return simulate_events(chain, tokens, *how, spans_of, self.depth)


def hot_step(step: Step, heat: Heat, throttled: bool) -> Step:
    """Return the step on a device that is hot from its beginning to its end.

    Args:
        throttled: whether heat slows the use of weights, see `Machine`.
    """
    kernels = heat.compute if throttled else 1.0
    return step._replace(
        flash=step.flash / heat.flash,
        hit=step.hit / kernels,
        miss=step.miss / kernels,
        arithmetic=step.arithmetic / kernels,
    )


def clock_for(run: Run, traffic: Traffic, rate: Rates) -> Clock:
    """Return the clock of a run; ``auto`` is the closed form where nothing is in another's way.

    Raises:
        ProfileError: the device should throttle, and the profile does not say how.
    """
    wanted, overlap = run.settings.engine, run.settings.overlap
    heat = _heat(run.device) if run.settings.thermal == "sustained" else None
    machine = Machine(
        dram=run.device.dram.bandwidth,
        background=run.device.dram.background,
        weights=rate.weights,
        kv=rate.dram,
        compute_bound=rate.compute_bound,
        heat=heat,
        cpu=run.device.backend(run.settings.backend)[0].startswith("cpu"),
    )
    engine: Engine = "closed" if wanted == "auto" else wanted
    if wanted == "auto" and not is_paper(overlap):
        meets = overlap == "prefetch" or heat is not None
        if meets or _contends(machine, run, traffic):
            engine = "events"
    return Clock(engine, overlap, machine, run.settings.prefetch_depth or 1)


def _heat(device: Profile) -> Heat:
    """Return how a device throttles."""
    if device.thermal is None:
        raise ProfileError(
            f"--thermal sustained: profile {device.name} does not say how it throttles; give it "
            "thermal: {after, flash, compute}, e.g. -s thermal.after=60s -s thermal.flash=0.67"
        )
    return Heat(device.thermal.after, device.thermal.flash, device.thermal.compute)


def _contends(machine: Machine, run: Run, traffic: Traffic) -> bool:
    """Return whether DRAM may be asked for more than it has."""
    rows, backend, flash = traffic.measured, run.backend, run.flash
    seconds, moved = traffic.flash_seconds[rows], traffic.moved[rows]
    read = seconds > 0
    fastest = float((moved[read] / seconds[read]).max(initial=flash.sequential_bandwidth))
    if run.kv is not None and run.kv.missed is not None:
        blocks = run.kv.missed.reads(np.flatnonzero(rows), flash)
        read = blocks.seconds > 0
        fastest = float((blocks.moved[read] / blocks.seconds[read]).max(initial=fastest))
    if paged_share(run):
        page, fault = page_fault(run)
        fastest = max(fastest, page / fault)
    used = max(machine.weights, machine.kv)
    copied = 2 * backend.cache_copy if np.isfinite(backend.cache_copy) else 0.0
    hides = run.settings.overlap == "pipelined" and backend.overlap_factor > 0
    together = used + fastest if hides else 0.0
    if run.kv is not None and run.kv.plan.resident is not None and run.settings.overlap != "serial":
        together = max(together, max(used, copied) + flash.sequential_bandwidth)
    return machine.background + max(used, fastest, copied, together) > machine.dram
