"""A model of three layers on a slow device, and scores of two sequences with prompts."""

from typing import Any

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS = 12, 20, 3
UNITS = {"mlp_input": HIDDEN, "glu": INTERMEDIATE}
UNIT_BYTES = {"mlp_input": 2 * INTERMEDIATE, "glu": HIDDEN}
"""One byte a weight: a column of gate and of up, a column of down."""
MODEL: dict[str, Any] = {
    "name": "small",
    "layers": LAYERS,
    "hidden": HIDDEN,
    "intermediate": INTERMEDIATE,
    "heads": 1,
    "kv_heads": 1,
    "vocab": 16,
    "tied_embeddings": True,
    "bits": 8,
}
POINTS = [(16, 1.0), (64, 1.4), (256, 3.0)]
"""Bytes of a read, and the seconds it takes."""
DEVICE: dict[str, Any] = {
    "name": "slow",
    "dram": {"capacity": "1 MB", "bandwidth": "1 kB/s"},
    "flash": {
        "align": "16 B",
        "reads": [{"size": f"{s} B", "lanes": 1, "bandwidth": f"{s / t} B/s"} for s, t in POINTS],
    },
    "backends": {"cpu": {"overlap_factor": 0.5, "per_layer": "0.1 s", "per_mask": "0.1 s"}},
}


def scores(seed: int, tokens: int) -> dict[str, Any]:
    """Return lasting scores of two sequences that begin with a prompt of two tokens."""
    rng = np.random.default_rng(seed)
    half = tokens // 2
    arrays: dict[str, Any] = {"meta": {"model": MODEL}}
    for name, units in UNITS.items():
        steady = rng.random((1, LAYERS, units)) + 0.7 * rng.random((tokens, LAYERS, units))
        arrays[name] = steady.astype(np.float32)
    arrays["sequence"] = (np.arange(tokens) >= half).astype(np.int32)
    arrays["phase"] = (np.arange(tokens) % half >= 2).astype(np.uint8)
    return arrays
