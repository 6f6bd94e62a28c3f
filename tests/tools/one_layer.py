"""A model of one layer and eight neurons on a slow device: all its times are worked out by hand.

One weight is one byte: attention 64 B, norms 24 B, lm_head (tied) 64 B make 152 B of static
weights. A neuron (row of gate, row of up, column of down) is 12 B, the KV of a position 16 B.
"""

from typing import Any

import numpy as np

TINY: dict[str, Any] = {
    "name": "tiny",
    "layers": 1,
    "hidden": 4,
    "intermediate": 8,
    "heads": 1,
    "kv_heads": 1,
    "vocab": 16,
    "tied_embeddings": True,
    "bits": 8,
}
STATIC, NEURON, KV = 152, 12, 16
BANDWIDTHS: dict[str, Any] = {
    "name": "slow",
    "dram": {"capacity": "1 kB", "bandwidth": "100 B/s"},
    "flash": {"bandwidth": "10 B/s"},
}
DEVICE: dict[str, Any] = {**BANDWIDTHS, "compute": "unlimited"}
SETS = [{0, 1}, {0, 1}, {1, 2}]  # with room for two, lru: 2 misses; 2 hits; 1 hit, 1 miss


def device(**backend: object) -> dict[str, Any]:
    """Return the slow device with one backend instead of unlimited compute."""
    return {**BANDWIDTHS, "backends": {"cpu": backend}}


def trace(sets: list[set[int]], **marks: object) -> dict[str, Any]:
    """Return recorded sets of neurons, one of each token."""
    glu = np.zeros((len(sets), 1, 8), np.bool_)
    for token, active in enumerate(sets):
        glu[token, 0, sorted(active)] = True
    return {"glu": glu, "meta": {"model": TINY}, **marks}
