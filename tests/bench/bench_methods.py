"""A user's own method against the built-in one: ``python tests/bench/bench_methods.py``.

dip-ca, built in and as `user_dip_ca.py`, on the shipped trace. As bench_replay.py beside it:
contenders of a part take turns.
"""

import sys
from pathlib import Path

import history
import turns
from machine import this_machine
from turns import Part, Prepare, Ratio, Row, measure

from dipsim.run import replay
from dipsim.simulate import prepare

USER_DIP_CA = f"{Path(__file__).with_name('user_dip_ca.py')}:method"
TRACE, DENSITY, FRACTION = "smollm2-chat", 0.6, 0.6
POLICIES = ("lfu", "arc")
HELD = {
    f"user's own dip-ca, {policy} x built in": Ratio(f"dip-ca, {policy}", "user's own", "built in")
    for policy in POLICIES
}


def replayed(method: str, policy: str, tokens: str | None) -> Prepare:
    """A whole replay with costs of reads: a trace on disk -> Traffic."""
    run = prepare(
        TRACE,
        "snapdragon8",
        method=method,
        policy=policy,
        density=DENSITY,
        cache_fraction=FRACTION,
        tokens=tokens,
    )
    return lambda: lambda: int(replay(run, threads=1).hits.sum())


def part(policy: str, rounds: int, tokens: str | None = None) -> list[Row]:
    """With one policy; the first line is the built-in method."""
    contenders = {
        "built in": replayed("dip-ca", policy, tokens),
        "user's own": replayed(USER_DIP_CA, policy, tokens),
    }
    trace = prepare(TRACE, "snapdragon8", cache_fraction=FRACTION, tokens=tokens).trace
    each = sum(trace.signals[name].units for name in ("mlp_input", "glu"))
    items = trace.tokens * trace.layers * each
    return measure(f"dip-ca, {policy}", "score", items, contenders, rounds)


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; the text of an error if a ratio fell short."""
    given = history.options(__doc__).parse_args(arguments)
    print(this_machine())
    policies, rounds = (POLICIES[:1], 5) if given.quick else (POLICIES, 15)
    parts: list[Part] = [lambda rounds, policy=policy: part(policy, rounds) for policy in policies]
    return turns.run("bench_methods", given, parts, rounds, HELD)


if __name__ == "__main__":
    sys.exit(main())
