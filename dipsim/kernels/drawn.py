"""Seconds of a chain of steps under many draws of a device's numbers, side by side.

They are added up step by step, as `dipsim.timeline.closed` does.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored


class Taken(NamedTuple):
    """Seconds of each token in each step, float64[steps, tokens]."""

    reading: NDArray[np.float64]
    """Reading flash."""
    copied: NDArray[np.float64]
    """Copies from the page cache."""
    hit: NDArray[np.float64]
    miss: NDArray[np.float64]
    kv: NDArray[np.float64]
    reads: NDArray[np.float64]
    """Flash requests, no seconds: where there are none nothing hides."""


class Sums(NamedTuple):
    """Seconds of all tokens together in each step, float64[steps]."""

    reading: NDArray[np.float64]
    faults: NDArray[np.float64]
    """Reading flash for page faults, which is no part of ``reading``."""
    copied: NDArray[np.float64]
    weights: NDArray[np.float64]
    """Bringing weights."""
    kv: NDArray[np.float64]
    arithmetic: NDArray[np.float64]
    """Seconds of arithmetic beyond those of bringing weights."""
    management: NDArray[np.float64]
    per_layer: NDArray[np.float64]
    """The fixed cost of a layer, per token; so are the costs of choosing masks."""
    per_mask: NDArray[np.float64]
    per_score: NDArray[np.float64]


class Scales(NamedTuple):
    """Factors on the seconds of each kind of work, float64[columns]: one for each draw."""

    flash: NDArray[np.float64]
    faults: NDArray[np.float64]
    """On page faults of memory pressure."""
    copies: NDArray[np.float64]
    """On copying from the system's page cache."""
    weights: NDArray[np.float64]
    kv: NDArray[np.float64]
    arithmetic: NDArray[np.float64]
    """On what arithmetic takes beyond bringing weights."""
    management: NDArray[np.float64]
    per_layer: NDArray[np.float64]
    per_mask: NDArray[np.float64]
    per_score: NDArray[np.float64]


@stored(nogil=True, key=fingerprint())
def _add_up(sums, scales, tokens, hidden, total):
    """Add the seconds of all steps to ``total``, float64[columns] of zeros.

    Args:
        sums: `Sums`.
        scales: `Scales`.
        tokens: how many there are.
        hidden: float64[steps, columns] seconds that hide behind reads.
    """
    reading, faulted, copied, brought, keys, computed, managed, layer, mask, score = sums
    flash, faults, copies, weights, kv, arithmetic, management, per_layer, per_mask, per_score = (
        scales
    )
    for s in range(hidden.shape[0]):
        for c in range(total.shape[0]):
            added = total[c]
            added += reading[s] * flash[c] + faulted[s] * faults[c] + copied[s] * copies[c]
            added += brought[s] * weights[c] + keys[s] * kv[c]
            added += computed[s] * arithmetic[c]
            added += managed[s] * management[c]
            added += tokens * (
                layer[s] * per_layer[c] + mask[s] * per_mask[c] + score[s] * per_score[c]
            )
            total[c] = added - hidden[s, c]


@stored(nogil=True, key=fingerprint())
def _add_hidden(taken, flash, copies, weights, kv, overlap, hidden):
    """Add the seconds that hide behind reads to ``hidden``, float64[steps, columns] of zeros.

    Args:
        taken: `Taken`.
        flash: of `Scales`, as the next three.
        copies: float64[columns].
        weights: float64[columns].
        kv: float64[columns].
        overlap: float64[columns] overlap factors.
    """
    reading, copied, hit, miss, keys, reads = taken
    for s in range(reads.shape[0]):
        added = hidden[s]
        for t in range(reads.shape[1]):
            number = reads[s, t]
            if number > 0:
                behind = 1 - 1 / max(number, 1.0)
                f, p, h, m, k = reading[s, t], copied[s, t], hit[s, t], miss[s, t], keys[s, t]
                for c in range(added.shape[0]):
                    read = f * flash[c] + p * copies[c]
                    use = h * weights[c] + k * kv[c] + m * weights[c] * behind
                    added[c] += overlap[c] * (read if read < use else use)


def drawn_seconds(
    taken: Taken | None, sums: Sums, scales: Scales, overlap: NDArray[np.float64], tokens: int
) -> NDArray[np.float64]:
    """Return the seconds of all tokens and steps under each draw, float64[columns].

    Args:
        taken: what may hide behind reads; None where nothing does.
        overlap: float64[columns] overlap factors.
        tokens: how many there are.
    """
    hidden = np.zeros((len(sums.reading), len(overlap)))
    if taken is not None:
        factors = scales.flash, scales.copies, scales.weights, scales.kv
        _add_hidden(tuple(taken), *factors, overlap, hidden)
    total = np.zeros(len(overlap))
    _add_up(tuple(sums), tuple(scales), float(tokens), hidden, total)
    return total
