"""One answer of each kind that the Python interface gives, on small traces."""

from functools import cache
from typing import Any

import numpy as np

import dipsim
from tools.devices import PHONE
from tools.folder import MODEL

TOKENS, LAYERS, HIDDEN, NEURONS = 24, 2, 16, 32
READS = {
    **PHONE,
    "flash": {
        "lanes": 2,
        "reads": [
            {"size": "1 kB", "lanes": 2, "bandwidth": "100 MB/s"},
            {"size": "100 kB", "lanes": 2, "bandwidth": "1 GB/s"},
        ],
    },
}


def arrays() -> dict[str, Any]:
    """Return scores of mlp_input and glu, and the model they are from."""
    rng = np.random.default_rng(0)
    return {
        "mlp_input": rng.random((TOKENS, LAYERS, HIDDEN)).astype(np.float32),
        "glu": rng.random((TOKENS, LAYERS, NEURONS)).astype(np.float32),
        "sequence": np.repeat(np.arange(2, dtype=np.int32), TOKENS // 2),
        "meta": {"model": MODEL},
    }


@cache
def answers() -> dict[str, Any]:
    """Return an answer of each question, by the name of the function."""
    trace, half = dipsim.load_trace(arrays()), {"cache_fraction": 0.5}
    return {
        "simulate": dipsim.simulate(trace, READS, **half),
        "compare": dipsim.compare(trace, READS, ["lru", "opt"], cache_fraction=[0.5, 0.9]),
        "mrc": dipsim.mrc(trace, ["lru", "opt"], [0.5, 1.0]),
        "search max_loss": dipsim.search(trace, READS, max_loss=0.1, **half),
        "search target_rate": dipsim.search(trace, READS, target_rate=1.0),
        "search axes": dipsim.search(trace, READS, axes=("dram", "iops"), points=2),
        "study": dipsim.study("split", trace, READS, **half),
        "inspect": dipsim.inspect(trace),
        "plan": dipsim.plan("smollm2-135m", "snapdragon8", context=64, prompt=8, target_rate=1e6),
    }
