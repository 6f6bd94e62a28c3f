"""Print the hit rates of policies on logs of experts (docs/policies.md), one global cache.

    python docs/tables/policies.py NAME=LOG [NAME=LOG ...]

A log is what `dipsim.load_trace` opens. Of policies that draw, the mean over 20 seeds.
"""

import sys
from typing import Any

import numpy as np

import dipsim

POLICIES = (
    *("lru", "lfu", "lfru", "lfru-sampled", "lfru-sampled:power=0", "least-stale", "lru-heat"),
    *("lru-throttled", "belady"),
)
SHARES = (0.05, 0.1, 0.2, 0.4)
SEEDS = 20


def hit_pct(trace: dipsim.Trace, policy: str, share: float, **more: Any) -> float:
    """Hits per hundred accesses of decode tokens, an expert of a token and layer being one."""
    stated = trace.signals["expert"].declared.get("unit_bytes")
    sized = {} if stated is not None else {"unit_bytes": "1 MB"}
    options: dict[str, Any] = {"policy": policy, "cache_fraction": share, "scope": "global"}
    figures = dipsim.simulate(trace, "snapdragon8", **options, **sized, **more).to_dict()
    return float(100 * figures["hits"] / figures["accesses"])


def main() -> None:
    """Print a table in Markdown."""
    print("| log | cache | " + " | ".join(f"`{policy}`" for policy in POLICIES) + " |")
    print("|---|---:|" + "---:|" * len(POLICIES))
    for given in sys.argv[1:]:
        name, _, path = given.partition("=")
        trace = dipsim.load_trace(path)
        for share in SHARES:
            cells = []
            for policy in POLICIES:
                seeds = range(SEEDS if policy.startswith("lfru-sampled") else 1)
                rates = [hit_pct(trace, policy, share, seed=seed) for seed in seeds]
                cells.append(f"{np.mean(rates):.1f}")
            print(f"| {name} | {share:.0%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
