"""Parameters of the built-in policies."""

from typing import Any

PARAMETERS: dict[str, Any] = {
    "lfu-decay": {"half_life": 3.0},
    "lru-k": {"k": 3},
    "lfru": {"power": 2.0},
    "lfru-sampled": {"sample": 3, "power": 0.0},
    "lru-heat": {"uses": 3, "window": 4},
    "pinned": {"share": 0.3},
    "lru-throttled": {"misses": 3, "window": 5},
    "window": {"window": 2},
    "slru": {"segments": 2},
    "2q": {"inner": 0.5, "ghost": 1.0},
    "clock": {"bits": 2},
    "s3fifo": {"small": 0.3, "ghost": 0.5, "threshold": 1},
    "w-tinylfu": {"window": 0.2, "protected": 0.5, "sample": 2},
    "lirs": {"hir": 0.3, "stack": 1.5},
}
"""A second setting of every policy that has parameters."""
