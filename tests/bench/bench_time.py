"""How many tokens a second the two engines of time go through, on one core.

    python tests/bench/bench_time.py [--quick] [--json FILE]

A chain of 32 layers with two groups each: static weights and KV, then two groups that read, use,
synchronise and copy; 97 steps a token. DRAM is short: the flash, the use of weights, copies and
other programs get into each other's way in every step. With reads ahead, guesses for the next layer
are under way, too, and what one step leaves behind reaches into the next. Counted is the processor
time of this process, the best of some rounds, so that it holds on a machine that is busy with other
things. The yardsticks are a process of SimPy that waits once a step, and one sum of numpy a step.
"""

import sys
import time
from collections.abc import Callable, Iterator

import history
import numpy as np
import simpy
from machine import this_machine

from dipsim.timeline.closed import Machine, Step, token_times
from dipsim.timeline.events import simulate_events

LAYERS, GROUPS, SEED = 32, 2, 20_250_614
SHARED = Machine(dram=40e9, background=2e9, weights=42e9, kv=44e9, compute_bound=True)
"""Weights alone want 42 GB/s, the flash 3 and others 2, of 40 GB/s."""
FREE = SHARED._replace(dram=1e12)
YARDSTICKS = {
    "events, DRAM shared": "SimPy waits",
    "events, nothing shared": "SimPy waits",
    "events, DRAM shared, reads ahead": "SimPy waits",
    "closed form": "numpy adds",
}
"""What each engine is compared with."""
QUICK, FULL = (256, 2_000, 3), (1_024, 20_000, 5)
"""Tokens that the engines go through, those of the closed form, and rounds."""


def chain(tokens: int, ahead: bool = False) -> list[Step]:
    """The steps of a token, every one of them different."""
    rng = np.random.default_rng(SEED)
    nothing, found = np.zeros(tokens), []

    def about(seconds: float) -> np.ndarray:
        return seconds * rng.uniform(0.5, 1.5, tokens)

    for layer in range(LAYERS):
        place = f"layer {layer} attention"
        kv = about(2e-5)
        found.append(Step(nothing, about(1e-4), nothing, kv, nothing, static=True, place=place))
        for group in range(GROUPS):
            flash, copied = about(1e-4), about(8e4)
            early = about(5e-5) if ahead else nothing
            step = Step(
                flash=flash,
                hit=about(1e-4),
                miss=about(3e-5),
                kv=nothing,
                reads=nothing + 8,
                sync=1e-5,
                management=copied / 8e9,
                moved=3e9 * flash,
                copied=copied,
                ahead=early,
                ahead_moved=3e9 * early,
                place=f"layer {layer} {group}",
                opens_layer=group == 0,
            )
            found.append(step)
    found.append(Step(nothing, nothing + 2e-4, nothing, nothing, nothing, static=True))
    return found


def speed(tokens: int, work: Callable[[], object], rounds: int) -> float:
    """Tokens a second of processor time, in the best of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return tokens / min(taken)


def measure(simulated: int, added_up: int, rounds: int) -> dict[str, float]:
    """Tokens a second of every contender."""
    few, early, many = chain(simulated), chain(simulated, ahead=True), chain(added_up)
    found = {}
    for name, steps, machine in (
        ("events, DRAM shared", few, SHARED),
        ("events, nothing shared", few, FREE),
        ("events, DRAM shared, reads ahead", early, SHARED),
    ):

        def happen(steps: list[Step] = steps, machine: Machine = machine) -> object:
            return simulate_events(steps, simulated, "pipelined", 0.45, machine)

        found[name] = speed(simulated, happen, rounds)
    found["closed form"] = speed(
        added_up, lambda: token_times(many, added_up, "pipelined", 0.45, True), rounds
    )
    found["SimPy waits"] = speed(simulated, lambda: wait(simulated * len(few)), rounds)
    found["numpy adds"] = speed(added_up, lambda: sum(step.flash for step in many), rounds)
    return found


def wait(times: int) -> None:
    """Let a process of SimPy wait again and again."""
    env = simpy.Environment()

    def waiting() -> Iterator[simpy.Event]:
        for _ in range(times):
            yield env.timeout(1)

    env.process(waiting())
    env.run()


def ratios(found: dict[str, float]) -> history.Ratios:
    """Speeds as multiples of those of the yardsticks."""
    return {f"{name} x {other}": found[name] / found[other] for name, other in YARDSTICKS.items()}


def show(found: dict[str, float]) -> None:
    """Print the speeds, and how many times as fast as shared events each is."""
    first = found["events, DRAM shared"]
    print(f"{LAYERS} layers x {GROUPS} groups, one core{'tokens/s':>19}{'x first':>10}")
    for name, rate in found.items():
        print(f"  {name:34}{rate:11,.0f}{rate / first:10.2f}")


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; the text of an error if a ratio fell short."""
    given = history.options(__doc__).parse_args(arguments)
    print(this_machine())
    simulated, added_up, rounds = QUICK if given.quick else FULL
    found = measure(simulated, added_up, 3 * rounds if given.record else rounds)
    show(found)

    def again(_: object) -> history.Ratios:
        once_more = measure(simulated, added_up, 3 * rounds)
        show(once_more)
        return ratios(once_more)

    rates = {f"{name}, tokens/s": rate for name, rate in found.items()}
    return history.finish("bench_time", given, ratios(found), again, figures=rates)


if __name__ == "__main__":
    sys.exit(main())
