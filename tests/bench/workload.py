"""The standard workload of the benchmarks: one layer wide enough for a 7B model, half of it active.

Everything is drawn from a fixed seed, so every machine replays the same sets and scores.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

UNITS, TOKENS = 17_920, 192
ACTIVE = 0.5
"""Share of the units a token uses."""
OVERLAP = 0.77
"""Share of a token's units that the next token uses again."""
FRACTION = 0.6
"""Share of the units the cache holds."""
SEED = 20_250_614

CORRELATION = float(np.sin(np.pi * (OVERLAP - 0.5)))
"""Between the log-scores of a unit at two tokens: two normal variables of correlation r are both
above the median with probability 1/4 + arcsin(r) / (2 pi), so the upper halves overlap by
1/2 + arcsin(r) / pi."""


def active_sets(
    tokens: int = TOKENS, units: int = UNITS, layers: int = 1, seed: int = SEED
) -> NDArray[np.bool_]:
    """bool[tokens, layers, units]: each token drops 23 % of its units and adds as many others."""
    rng = np.random.default_rng(seed)
    size = round(ACTIVE * units)
    changed = size - round(OVERLAP * size)
    sets = np.zeros((tokens, layers, units), np.bool_)
    for layer in range(layers):
        now = np.zeros(units, np.bool_)
        now[rng.choice(units, size, replace=False)] = True
        for token in range(tokens):
            sets[token, layer] = now
            leaving = rng.choice(np.flatnonzero(now), changed, replace=False)
            coming = rng.choice(np.flatnonzero(~now), changed, replace=False)
            now[leaving], now[coming] = False, True
    return sets


def scores(
    tokens: int = TOKENS, units: int = UNITS, layers: int = 1, seed: int = SEED
) -> NDArray[np.float32]:
    """float32[tokens, layers, units]: log-normal, each unit an AR(1) process of its own."""
    rng = np.random.default_rng(seed)
    fresh = np.sqrt(1 - CORRELATION**2)
    log = rng.standard_normal((layers, units))
    rows = np.empty((tokens, layers, units), np.float32)
    for token in range(tokens):
        rows[token] = np.exp(log)
        log = CORRELATION * log + fresh * rng.standard_normal((layers, units))
    return rows


def overlap(sets: NDArray[np.bool_]) -> float:
    """Mean share of a token's units that the next token uses again."""
    return float((sets[1:] & sets[:-1]).sum() / sets[:-1].sum())


def largest_half(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The sets plain top-k keeps of scores at the workload's density."""
    kept = round(ACTIVE * rows.shape[-1])
    cut = np.partition(rows, -kept, axis=-1)[..., -kept, None]
    return np.asarray(rows >= cut)


def requests(sets: NDArray[np.bool_]) -> NDArray[Any]:
    """One layer's sets as libCacheSim's oracleGeneral records, units ascending within a token;
    each says which request of its unit comes next, -1 if none."""
    record = [("time", "<u4"), ("unit", "<u8"), ("size", "<u4"), ("next", "<i8")]
    token, unit = np.nonzero(sets[:, 0])
    rows = np.zeros(len(token), record)
    rows["time"], rows["unit"], rows["size"], rows["next"] = token, unit, 1, -1
    by_unit = np.argsort(unit, kind="stable")
    same = unit[by_unit[1:]] == unit[by_unit[:-1]]
    rows["next"][by_unit[:-1][same]] = by_unit[1:][same]
    return rows
