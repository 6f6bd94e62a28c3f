"""Cache-aware masking: which units of a group a token uses, given what is in DRAM.

DIP-CA (Federici et al., MLSys 2025, arXiv 2412.01380, cache-aware masking, and the authors' code).
s are the raw scores of one token, R the units resident before it, k how many are chosen. All rules
take the k largest keys; ties go to the larger raw score, then to the lower id.

    gamma         s' = s               if resident
                  s' = gamma s         otherwise
    blend         s' = gamma s / max s + (1 - gamma) [resident]
    approximate   in this order until k are chosen, each by falling s:
                  resident units among the k best, resident units among the m best,
                  other units among the k best

    warm_up       gamma_t = 1 - (1 - gamma) (1 - gamma^(t / 4)),  t = 0, 1, ... since the start
    fixed_top_n   the n largest raw scores are chosen before anything else
    counts        approximate by (1 - w) s / max s + w c / max c,  c = how often a unit was chosen

`select` (select.py) is the rule gamma with nothing else, for which factors are kept up to date.
"""

from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

from dipsim.kernels.bits import holds
from dipsim.kernels.fingerprint import stamp
from dipsim.kernels.topk import LARGEST_BITS, choose

PLAIN, GAMMA, BLEND, APPROXIMATE = 0, 1, 2, 3
"""Rules; ``PLAIN`` is the rule gamma that `select` serves."""
GAMMA_OF, WARM_UP, FIXED, TOP_M, COUNTS, RULE = range(6)
"""What the ``numbers`` of a part hold: gamma, whether it warms up, n, m, w; and the rule."""


@register_jitable
def gamma_at(gamma: float, t: int) -> float:
    """gamma_t: 1 (plain top-k) at the start, gamma in the end."""
    return 1.0 - (1.0 - gamma) * (1.0 - gamma ** (t / 4.0))


@register_jitable
def _largest(values: Any) -> float:
    largest = 0.0
    for value in values:
        largest = max(largest, np.float64(value))
    return largest


@register_jitable
def _gamma_keys(scores: Any, resident: Any, gamma: float, keys: Any) -> None:
    weight = np.float32(gamma)
    for u in range(scores.shape[0]):
        keys[u] = scores[u] if holds(resident, u) else weight * scores[u]


@register_jitable
def _blend_keys(scores: Any, resident: Any, gamma: float, keys: Any) -> None:
    largest = _largest(scores)
    for u in range(scores.shape[0]):
        share = scores[u] / largest if largest > 0 else 0.0
        keys[u] = np.float32(gamma * share + (1.0 - gamma) * holds(resident, u))


@register_jitable
def _count_keys(scores: Any, uses: Any, weight: float, keys: Any) -> None:
    largest, most = _largest(scores), _largest(uses)
    for u in range(scores.shape[0]):
        share = scores[u] / largest if largest > 0 else 0.0
        used = uses[u] / most if most > 0 else 0.0
        keys[u] = np.float32((1.0 - weight) * share + weight * used)


@register_jitable
def _put_first(first: Any, keys: Any) -> None:
    """Give the units of a set keys that nothing exceeds."""
    bits = keys.view(np.int32)
    for u in range(keys.shape[0]):
        if holds(first, u):
            bits[u] = LARGEST_BITS


@register_jitable
def _approximate(scores, resident, k, m, guess, words, scratch):
    """Write the choice of the rule approximate to ``words``; ``scratch`` holds what it goes by
    (order) and what is chosen already (fixed)."""
    keys, order, tied, fixed, among_k, among_m = scratch
    units, left = order.shape[0], k
    for u in range(units):
        left -= holds(fixed, u)
    for chosen, count in ((among_k, k), (among_m, m)):
        for u in range(units):
            keys[u] = order[u]
        choose(keys, scores, count, guess, chosen, tied)
    pool = 0
    for w in range(words.shape[0]):
        words[w] = among_m[w] & resident[w] & ~fixed[w]  # (2) and (3): those among k come first
        among_k[w] &= ~resident[w] & ~fixed[w]  # (4)
    for u in range(units):
        pool += holds(words, u)
    from_pool = pool > left
    count = left if from_pool else left - pool
    bits, raw = keys.view(np.int32), order.view(np.int32)
    candidates = words if from_pool else among_k
    for u in range(units):
        bits[u] = min(raw[u] + 1, LARGEST_BITS) if holds(candidates, u) else 0
    if count > 0:
        choose(keys, scores, count, guess, among_m, tied)
    for w in range(words.shape[0]):
        more = among_m[w] if count > 0 else np.uint64(0)
        words[w] = fixed[w] | (more if from_pool else words[w] | more)


def _mask(fingerprint):
    @njit(cache=True, nogil=True)
    def mask(rule, numbers, k, scores, resident, of, words, guess, scratch):
        """Write the units a token uses to ``words``.

        Args:
            rule: GAMMA, BLEND or APPROXIMATE; numbers: float64[6] of it.
            scores: float32[units] >= 0; resident: uint64[words].
            of: how often each unit was chosen (int64[units]), and t, since the start.
            guess: int64[1] where the last selection cut, to start from; updated.
            scratch: keys, order (float32[units]), tied (int64[units]) and three sets.
        """
        fingerprint
        (uses, t), (keys, order, tied, fixed, _, _) = of, scratch
        units = scores.shape[0]
        for w in range(words.shape[0]):
            fixed[w] = 0
        n = min(np.int64(numbers[FIXED]), k)
        if n > 0:
            for u in range(units):
                keys[u] = scores[u]
            choose(keys, scores, n, guess[0], fixed, tied)
        if rule == APPROXIMATE:
            if numbers[COUNTS] > 0:
                _count_keys(scores, uses, numbers[COUNTS], order)
            else:
                for u in range(units):
                    order[u] = scores[u]
            m = np.int64(numbers[TOP_M])
            _approximate(scores, resident, k, m, guess[0], words, scratch)
            return
        gamma = numbers[GAMMA_OF]
        if numbers[WARM_UP] > 0:
            gamma = gamma_at(gamma, t)
        if rule == BLEND:
            _blend_keys(scores, resident, gamma, keys)
        else:
            _gamma_keys(scores, resident, gamma, keys)
        _put_first(fixed, keys)
        guess[0] = choose(keys, scores, k, guess[0], words, tied)

    return mask


mask = _mask(stamp())
