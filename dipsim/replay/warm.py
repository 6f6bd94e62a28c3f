"""What a cache starts with: units chosen by their uses elsewhere, and a policy told of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import PolicyError
from dipsim.kernels import Parts
from dipsim.policies import Policy


def most_used(
    parts: Parts,
    places: Sequence[tuple[int, int]],
    uses: Sequence[NDArray[np.int64]],
    capacity: float,
) -> NDArray[np.int64]:
    """Return the most used units that fit, most used first, ties to the lower id.

    Args:
        places: (layer, group) of each part.
        uses: per group int64[layers, units].
        capacity: in the units of `Parts.size`.
    """
    ids = np.concatenate(
        [64 * parts.word[p] + np.arange(parts.units[p]) for p in range(len(places))]
    )
    counts = np.concatenate(
        [
            uses[group][layer][:units]
            for (layer, group), units in zip(places, parts.units, strict=True)
        ]
    )
    sizes = np.repeat(parts.size, parts.units)
    order = np.argsort(-counts, kind="stable")
    fitting = int((np.cumsum(sizes[order]) <= capacity + 1e-6).sum())
    chosen: NDArray[np.int64] = ids[order[:fitting]]
    return chosen


def note_loaded(
    policy: Policy, state: NDArray[np.int64], parts: Parts, units: NDArray[np.int64]
) -> None:
    """Tell a policy, in its state, of the units that its cache starts with.

    Each is a miss of the token before the first, the least used first, and enters at once.

    Args:
        units: the most used first.

    Raises:
        PolicyError: a function of the policy fails.
    """
    before = parts.of_word[units >> 6] - len(parts.units)  # the batch of its part, a token earlier
    for unit, token in zip(units[::-1].tolist(), before[::-1].tolist(), strict=True):
        try:
            policy.touch(state, unit, token, 0)
            if policy.insert is not None:
                policy.insert(state, unit, token)
        except Exception as problem:
            what = f"{type(problem).__name__}: {problem}"
            raise PolicyError(f"policy {policy.name}: its functions fail with {what}") from problem
