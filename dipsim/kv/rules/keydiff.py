"""KeyDiff: the keys most like the mean key leave (Park et al., arXiv 2504.15364)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kv.rules.contract import Rule, within


def unlike_mean(keys: NDArray[Any]) -> NDArray[Any]:
    """Return minus the cosine of each key, float[n, dim], and the mean of the unit keys."""
    lengths = np.sqrt((keys * keys).sum(axis=1))
    lengths = np.maximum(lengths, np.float32(1e-12))
    anchor = (keys / lengths.reshape(-1, 1)).sum(axis=0)
    anchor = anchor / np.maximum(np.sqrt((anchor * anchor).sum()), np.float32(1e-12))
    unlike: NDArray[Any] = -(keys * anchor).sum(axis=1) / lengths
    return unlike


def keydiff(every: int = 128) -> Rule:
    """Return the rule.

    Args:
        every: positions that come before a head is cut, as its prompt is, block by block.
    """
    within("every", every, 1, 1 << 20)
    return Rule(
        "keydiff",
        "keeps keys unlike the mean key; needs no attention weights",
        "Park et al., 2025 (arXiv 2504.15364)",
        key_score=unlike_mean,
        every=every,
    )
