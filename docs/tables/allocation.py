"""Print what dividing the cache by curves gains (docs/comparing.md).

    python docs/tables/allocation.py [TRACE]

The cache is divided by the first half of the decode tokens and judged on the other half.
"""

import sys
from typing import Any

import numpy as np

import dipsim

PROFILES = ("snapdragon8", "apple-a18", "paper-a18")
FRACTIONS = (0.4, 0.6, 0.8)


def row(trace: dipsim.Trace, profile: str, fraction: float, **options: Any) -> list[str]:
    """Flash time and rate of both divisions, on the held-out half."""
    held_out = int((trace.phase == 1).sum()) // 2
    runs = [
        dipsim.simulate(trace, profile, cache_fraction=fraction, warmup=held_out, **options, **how)
        for how in ({}, {"allocate": "optimal"})
    ]
    flash = [float(run.traffic.flash_seconds[run.traffic.measured].sum()) for run in runs]
    milliseconds = [1e3 * seconds / run.tokens for seconds, run in zip(flash, runs, strict=True)]
    capacity = runs[1].traffic.capacity
    assert capacity is not None
    units = np.array(runs[1].traffic.units)
    shares = "/".join(f"{100 * share:.0f}" for share in (capacity / units).mean(axis=0))
    even, optimal = (run.tokens_per_second for run in runs)
    return [
        profile,
        f"{fraction:.0%}",
        *(f"{ms:.1f}" for ms in milliseconds),
        f"{milliseconds[1] / milliseconds[0] - 1:+.0%}",
        f"{even:.2f}",
        f"{optimal:.2f}",
        f"{optimal / even - 1:+.0%}",
        shares,
    ]


def main() -> None:
    """Print a table in Markdown."""
    trace = dipsim.load_trace(sys.argv[1] if len(sys.argv) > 1 else "smollm2-chat")
    head = [
        "device",
        "cache",
        "flash even",
        "optimal",
        "",
        "tok/s even",
        "optimal",
        "",
        "input/down %",
    ]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for profile in PROFILES:
        for fraction in FRACTIONS:
            print("| " + " | ".join(row(trace, profile, fraction)) + " |")


if __name__ == "__main__":
    main()
