"""LFRU, least frequently and recently used: the unit with the lowest count / age leaves first.

The score of a unit is ``uses / (1 + age) ** power``: its uses so far, streamed misses and those
before it last left among them, over the tokens since its last use. With ``power=1``, the default,
that is count over age; a higher one acts more like recency. ``power=0`` is the count alone, and of
units used as often the longest unused leaves.

`lfru` looks at every unit that may leave. `lfru-sampled` draws ``sample`` of them by the run's
seed, with replacement, and the lowest of these leaves, as in Redis (redis.io, key eviction): what
an engine does that cannot look at all. With ``sample=32,power=0`` it gives the hits that the engine
warp publishes for its LFRU (docs/policies.md).
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.draws import splitmix64
from dipsim.policies.contract import Policy, within


def state(
    units: int, capacity: int, seed: int, power: float = 1.0, ticks: int = 1
) -> NDArray[np.float64]:
    """Return the uses and the last use of each unit, then the power and the batches of a token."""
    fresh = np.zeros(2 * units + 2)
    fresh[-2:] = within("power", power, 0, 8), ticks
    return fresh


def touch(state: NDArray[np.float64], unit: int, token: int, hit: int) -> None:
    """Count a use, resident or not, and record it as the last."""
    state[2 * unit] += 1.0
    state[2 * unit + 1] = token


@register_jitable(forceinline=True)
def score(uses: Any, age: Any, power: Any) -> Any:
    """Return count over age, of an age in tokens."""
    return uses / (1.0 + age) ** power


def rank(state: NDArray[np.float64], unit: int, token: int) -> Any:
    """Return the score at ``token``, so that the lowest leaves first."""
    return score(state[2 * unit], (token - state[2 * unit + 1]) / state[-1], state[-2])


LFRU = Policy(
    "lfru",
    "evicts the lowest count / age of its last use",
    "named as that of the engine warp",
    state=state,
    touch=touch,
    rank=rank,
    blind=True,
)

# Sampled: resident units in slots, of which some are drawn. The state holds the uses and the last
# use of each unit, the slot of each unit, the unit of each slot, and seven numbers.

_SLOTS, _DRAWS, _HIGH, _LOW, _SAMPLE, _POWER, _TICKS = range(-7, 0)
_HALF = 2**32 - 1


def slots(
    units: int, capacity: int, seed: int, sample: int = 32, power: float = 1.0, ticks: int = 1
) -> NDArray[np.float64]:
    """Return a state of no slots; the seed is kept in halves, which a float holds exactly."""
    fresh = np.zeros(4 * units + 7)
    size, exponent = within("sample", sample, 1, 2**16), within("power", power, 0, 8)
    fresh[_HIGH:] = (seed >> 32) & _HALF, seed & _HALF, size, exponent, ticks
    return fresh


def insert(state: NDArray[np.float64], unit: int, token: int) -> None:
    """Put the unit into the first free slot."""
    units, held = (len(state) - 7) // 4, np.int64(state[_SLOTS])
    state[2 * units + unit] = held
    state[3 * units + held] = unit
    state[_SLOTS] = held + 1


def evict(state: NDArray[np.float64], unit: int, evictable: NDArray[np.bool_], token: int) -> Any:
    """Return the unit with the lowest (score, last use, id) of those drawn; slots whose unit may
    not leave are drawn anew."""
    units, held, draws = (len(state) - 7) // 4, np.uint64(state[_SLOTS]), np.uint64(state[_DRAWS])
    seed = (np.uint64(state[_HIGH]) << np.uint64(32)) | np.uint64(state[_LOW])
    best, lowest, oldest, drawn = np.int64(-1), 0.0, 0.0, 0
    while drawn < state[_SAMPLE]:
        draws += np.uint64(1)
        slot = np.int64(splitmix64(seed ^ draws) % held)
        other = np.int64(state[3 * units + slot])
        if not evictable[other]:
            continue
        drawn += 1
        last = state[2 * other + 1]
        own = score(state[2 * other], (token - last) / state[_TICKS], state[_POWER])
        first = best < 0 or own < lowest
        tied = own == lowest and (last < oldest or (last == oldest and other < best))
        if first or tied:
            best, lowest, oldest = other, own, last
    state[_DRAWS] = draws
    return best


def leave(state: NDArray[np.float64], unit: int) -> None:
    """Move the unit of the last slot into the slot that becomes free."""
    units = (len(state) - 7) // 4
    last = np.int64(state[_SLOTS]) - 1
    slot, other = np.int64(state[2 * units + unit]), np.int64(state[3 * units + last])
    state[3 * units + slot] = other
    state[2 * units + other] = slot
    state[_SLOTS] = last


LFRU_SAMPLED = Policy(
    "lfru-sampled",
    "evicts the lowest count / age of some drawn at random (seeded)",
    "as lfru; sampled as in Redis",
    state=slots,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
