"""How much successive tokens share: the property that makes caching weights worthwhile."""

import numpy as np

from dipsim.active import active_sets
from dipsim.methods.contract import Choice, Group, Method
from dipsim.model import Slice
from dipsim.trace import Trace


def token_overlap(trace: Trace, density: float = 0.5) -> dict[str, float]:
    """Per signal, the mean share of a token's active units that the token before used too.

    Recorded sets count as they are; of scores the ``density`` largest count as active. Pairs that
    cross a sequence border are left out.
    """
    found = {}
    no_slices: tuple[Slice, ...] = ()
    for name, signal in trace.signals.items():
        choice: Choice = "sets" if signal.holds == "sets" else "top-k"
        method = Method("overlap", (Group(name, signal.units, no_slices, choice, density),))
        shared = active = 0
        previous = None
        for start, _, (sets,) in active_sets(trace, method):
            inside = np.diff(trace.sequence[max(start - 1, 0) : start + len(sets)]) == 0
            rows = sets if previous is None else np.concatenate([previous, sets])
            both = np.bitwise_count(rows[1:] & rows[:-1]).sum(axis=(1, 2), dtype=np.int64)
            size = np.bitwise_count(rows[1:]).sum(axis=(1, 2), dtype=np.int64)
            shared += int(both[inside].sum())
            active += int(size[inside].sum())
            previous = sets[-1:]
        if active:
            found[name] = shared / active
    return found
