"""Cache-aware routing of experts: which of them a token uses, given what is in DRAM.

z are the router's logits of one token, p = softmax(z), k how many experts it uses. A logit of
minus infinity is no candidate. Rules take the k largest keys; ties go to the larger logit, then to
the lower id. They act while decoding; a token of the prompt is routed plainly.

    plain            z
    cache-prior      z + lambda m [resident or among the J best],  m = .99 m + .01 (max z - min z)
                     (arXiv 2412.00099; m starts with the first token's range)
    max-rank         the J best, then resident experts among the M best, then the others
    drop-cold        z, less those of the k best that are not resident and have p < F / k
    reuse-distance   z + (z_1 - z_k) (1 - d / max d),  d = tokens since the expert was last used
                     (CECAR; taken as the prediction of the next use; never used: no bonus)
"""

from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

from dipsim.kernels.bits import bit, holds
from dipsim.kernels.fingerprint import stamp
from dipsim.kernels.masking import PLAIN

CACHE_PRIOR, MAX_RANK, DROP_COLD, REUSE_DISTANCE = 10, 11, 12, 13
"""Rules, beside masking.PLAIN."""
LAMBDA, TOP_J, TOP_M, FACTOR = 0, 1, 2, 3
"""What the ``numbers`` of a part hold: lambda, J, M, F."""
MEAN, STARTED = 0, 1
"""What ``memory`` holds: m, and whether there was a token yet."""


@register_jitable
def _best(keys: Any, z: Any, words: Any) -> int:
    """The candidate outside ``words`` with the largest key; -1 if there is none."""
    found = -1
    for u in range(z.shape[0]):
        if z[u] == -np.inf or holds(words, u):
            continue
        if found < 0 or keys[u] > keys[found] or (keys[u] == keys[found] and z[u] > z[found]):
            found = u
    return found


@register_jitable
def _take(keys: Any, z: Any, k: int, words: Any) -> int:
    """Add candidates to ``words``, the largest key first, until k more are in; the last of them."""
    last = -1
    for _ in range(k):
        found = _best(keys, z, words)
        if found < 0:
            break
        words[found >> 6] |= bit(found)
        last = found
    return last


@register_jitable
def _clear(words: Any) -> None:
    for w in range(words.shape[0]):
        words[w] = 0


@register_jitable
def _cache_prior(weight, top, z, resident, memory, keys, words):
    low = high = z[_best(z, z, words)]
    for u in range(z.shape[0]):
        if z[u] != -np.inf:
            low, high = min(low, z[u]), max(high, z[u])
    span = np.float64(high) - np.float64(low)
    memory[MEAN] = 0.99 * memory[MEAN] + 0.01 * span if memory[STARTED] > 0 else span
    memory[STARTED] = 1
    _take(z, z, top, words)
    for u in range(z.shape[0]):
        likely = holds(resident, u) or holds(words, u)
        keys[u] = z[u] + (weight * memory[MEAN] if likely else 0.0)
    _clear(words)


@register_jitable
def _max_rank(top, most, k, z, resident, keys, words):
    """Keys by class: 2 for the J best, 1 for resident experts among the M best, else 0."""
    for u in range(z.shape[0]):
        keys[u] = 0
    for rank in range(max(top, most)):
        found = _best(z, z, words)
        if found < 0:
            break
        words[found >> 6] |= bit(found)
        if rank < top:
            keys[found] = 2
        elif holds(resident, found):
            keys[found] = 1
    _clear(words)


@register_jitable
def _reuse_distance(k, z, last, t, keys, words):
    first, kth = _best(z, z, words), _take(z, z, k, words)
    _clear(words)
    farthest = 0
    for u in range(z.shape[0]):
        if last[u] >= 0:
            farthest = max(farthest, t - last[u])
    for u in range(z.shape[0]):
        keys[u] = z[u]
        if last[u] >= 0:
            bonus = np.float64(z[first]) - np.float64(z[kth])
            keys[u] = z[u] + bonus * (1.0 - (t - last[u]) / farthest)


@register_jitable
def _drop_cold(factor, k, z, resident, words):
    """Take experts out of the k best."""
    first = _best(z, z, words)
    _take(z, z, k, words)
    total = 0.0
    for u in range(z.shape[0]):
        if holds(words, u):
            total += np.exp(np.float64(z[u]) - np.float64(z[first]))
    for u in range(z.shape[0]):
        if holds(words, u) and not holds(resident, u):
            share = np.exp(np.float64(z[u]) - np.float64(z[first])) / total
            if share < factor / k:
                words[u >> 6] &= ~bit(u)


@register_jitable
def _shares(z, words, shares):
    """Share of the routing weight, and of its squares, that the chosen experts hold."""
    largest = np.float64(-np.inf)
    for u in range(z.shape[0]):
        largest = max(largest, np.float64(z[u]))
    mass = energy = kept_mass = kept_energy = 0.0
    for u in range(z.shape[0]):
        weight = np.exp(np.float64(z[u]) - largest) if z[u] != -np.inf else 0.0
        mass += weight
        energy += weight * weight
        if holds(words, u):
            kept_mass += weight
            kept_energy += weight * weight
    shares[0] = kept_mass / mass if mass > 0 else np.nan  # nothing to route
    shares[1] = kept_energy / energy if energy > 0 else np.nan


def _route(fingerprint):
    @njit(cache=True, nogil=True)
    def route(rule, numbers, k, z, resident, last, t, memory, keys, words, shares):
        """Write the experts a token uses to ``words``, and what they hold to ``shares``.

        Args:
            rule: masking.PLAIN or one of the rules here; numbers: float64[6] of it.
            z: float32[units], minus infinity where a unit is no candidate.
            last: int64[units] token of the last use, -1 for none; t: this token.
            memory: float64[2] of the layer; updated. keys: float64[units] scratch.
            shares: out float32[2].
        """
        fingerprint
        _clear(words)
        some = _best(z, z, words) >= 0
        if some and rule == DROP_COLD:
            _drop_cold(numbers[FACTOR], k, z, resident, words)
        elif some:
            if rule == CACHE_PRIOR:
                top = min(np.int64(numbers[TOP_J]), k)
                _cache_prior(numbers[LAMBDA], top, z, resident, memory, keys, words)
            elif rule == MAX_RANK:
                top = min(np.int64(numbers[TOP_J]), k)
                _max_rank(top, np.int64(numbers[TOP_M]), k, z, resident, keys, words)
            elif rule == REUSE_DISTANCE:
                _reuse_distance(k, z, last, t, keys, words)
            else:
                for u in range(z.shape[0]):
                    keys[u] = z[u]
            _take(keys, z, k, words)
        _shares(z, words, shares)

    return route


route = _route(stamp())


def route_plainly(z: Any, k: int, sets: Any, shares: Any) -> None:
    """`route` without a rule for a block.

    Args:
        z: float32[n, layers, units]; sets: out uint64[n, layers, words].
        shares: out float32[n, layers, 2].
    """
    numbers, memory, keys = np.zeros(6), np.zeros(3), np.empty(z.shape[2])
    last = np.empty(0, np.int64)
    for r, layer in np.ndindex(*z.shape[:2]):
        words, kept = sets[r, layer], shares[r, layer]
        route(PLAIN, numbers, k, z[r, layer], words, last, 0, memory, keys, words, kept)
