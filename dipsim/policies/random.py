"""Random replacement: a fresh, reproducible rank for every unit and token."""

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.draws import splitmix64
from dipsim.policies.contract import Policy


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return the seed, which the engine derives from (seed of the run, layer, group)."""
    return np.array([seed], np.int64)


def rank(state: NDArray[np.int64], unit: int, token: int) -> np.int64:
    """Return the hash of (seed, token, unit), which a test's slow twin can repeat."""
    h = splitmix64(np.uint64(state[0]) ^ np.uint64(token))
    return np.int64(splitmix64(h ^ np.uint64(unit)) >> np.uint64(1))


# Sequential access, one unit at a time: resident units in slots, of which one is drawn.


def slots(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return seed, number of draws, number of resident units; unit per slot; slot per unit."""
    return np.concatenate([[seed, 0, 0], np.zeros(2 * units, np.int64)]).astype(np.int64)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into the first free slot."""
    held, units = state[2], (len(state) - 3) // 2
    state[3 + held] = unit
    state[3 + units + unit] = held
    state[2] = held + 1


def evict(
    state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int
) -> np.int64:
    """Draw slots until one holds a unit that may leave."""
    while True:
        state[1] += 1
        h = splitmix64(np.uint64(state[0]) ^ np.uint64(state[1]))
        victim = state[3 + np.int64(h % np.uint64(state[2]))]
        if evictable[victim]:
            return victim


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Move the unit of the last slot into the slot that becomes free."""
    units = (len(state) - 3) // 2
    state[2] -= 1
    place, other = state[3 + units + unit], state[3 + state[2]]
    state[3 + place] = other
    state[3 + units + other] = place


RANDOM = Policy(
    "random",
    "evicts at random (seeded)",
    "baseline",
    state=state,
    rank=rank,
    blind=True,
    sequential=Policy("random", state=slots, insert=insert, evict=evict, leave=leave),
)
