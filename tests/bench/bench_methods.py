"""A user's own method against the built-in one: ``python tests/bench/bench_methods.py``.

dip-ca, built in and as `user_dip_ca.py`, on the shipped trace. As bench_replay.py beside it:
contenders of a part take turns on one core, nothing is asserted.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_replay import Prepare, Row, measure, show

from dipsim.run import replay
from dipsim.simulate import prepare

USER_DIP_CA = f"{Path(__file__).with_name('user_dip_ca.py')}:method"
TRACE, DENSITY, FRACTION = "smollm2-chat", 0.6, 0.6
POLICIES = ("lfu", "arc")


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


def parts(policies: tuple[str, ...], rounds: int, tokens: str | None = None) -> Iterator[list[Row]]:
    """One part for each policy; the first line is the built-in method."""
    for policy in policies:
        contenders = {
            "built in": replayed("dip-ca", policy, tokens),
            "user's own": replayed(USER_DIP_CA, policy, tokens),
        }
        trace = prepare(TRACE, "snapdragon8", cache_fraction=FRACTION, tokens=tokens).trace
        each = sum(trace.signals[name].units for name in ("mlp_input", "glu"))
        items = trace.tokens * trace.layers * each
        yield measure(f"dip-ca, {policy}", "score", items, contenders, rounds)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and policies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    given = parser.parse_args(arguments)
    cpus: Any = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cpus:
        os.sched_setaffinity(0, {max(cpus)})
    rows: list[Row] = []
    for part in parts(POLICIES[:1] if given.quick else POLICIES, 5 if given.quick else 15):
        show(part)
        rows += part
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
