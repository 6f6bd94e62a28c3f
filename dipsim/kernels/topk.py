"""Choosing the k best scores of a token, cache-aware or not.

What is compiled here uses nothing outside this file, so numba's stored code is renewed with it.
"""

from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

_INFINITY_BITS = 0x7F800000  # of float32; every finite score has fewer
LARGEST_BITS = _INFINITY_BITS - 1
"""Of the largest finite float32."""


@register_jitable
def _count_at_least(bits: Any, cut: int) -> int:
    cut32 = np.int32(cut)
    count = np.int32(0)
    for i in range(bits.shape[0]):
        count = np.int32(count + np.int32(bits[i] >= cut32))
    return np.int64(count)


@register_jitable
def _find_cut(bits: Any, k: int, guess: int) -> tuple[int, int]:
    """The largest cut with at least k keys >= it, and how many keys are > it or >= it.

    ``bits`` are non-negative float32 seen as int32, which sort alike. Returns (cut, reached):
    when ``reached == k`` all keys >= cut are the k best; otherwise keys == cut are tied and
    ``reached`` counts those above. The search starts at ``guess``, the last token's cut, widens
    until it brackets k and then narrows by interpolation, with a bisection every third step.
    """
    low, high = np.int64(0), np.int64(_INFINITY_BITS)
    above_low, above_high = np.int64(bits.shape[0]), np.int64(0)
    if above_low == k:
        return low, k
    middle = min(max(guess, np.int64(1)), high - 1)
    step = np.int64(1) << 17
    rounds = 0
    while high - low > 1:
        count = _count_at_least(bits, middle)
        if count == k:
            return middle, k
        if count > k:
            low, above_low = middle, count
        else:
            high, above_high = middle, count
        if step > 0 and high == _INFINITY_BITS:
            middle = min(low + step, high - 1)
            step *= 4
        elif step > 0 and low == 0:
            middle = max(high - step, np.int64(1))
            step *= 4
        else:
            step = np.int64(0)
            rounds += 1
            if rounds % 3 == 0:
                middle = (low + high) // 2
            else:
                share = (above_low - k) / (above_low - above_high)
                middle = low + np.int64((high - low) * share)
        middle = min(max(middle, low + 1), high - 1)
    return low, above_high


@register_jitable
def _pack_at_least(bits: Any, cut: int, words: Any) -> None:
    """Set the bit of every key >= cut."""
    cut32 = np.int32(cut)
    units = bits.shape[0]
    for w in range(words.shape[0]):
        word = np.uint64(0)
        base = w * 64
        for b in range(min(64, units - base)):
            word |= np.uint64(bits[base + b] >= cut32) << np.uint64(b)
        words[w] = word


@register_jitable
def _settle_ties(
    keys: Any, raw: Any, cut: int, room: int, words: Any, scratch: Any, tied: Any
) -> None:
    """Give the last ``room`` places to units whose key equals the cut: larger raw score first,
    then lower id. ``raw`` and ``keys`` are the same array when nothing is cache-aware."""
    count = 0
    for u in range(keys.shape[0]):
        if keys[u] == cut:
            tied[count] = u
            count += 1
    scores = scratch.view(np.int32)[:count]  # the keys are no longer needed
    for i in range(count):
        scores[i] = raw[tied[i]]
    best, reached = _find_cut(scores, room, np.int64(scores[0]))
    equal = 0 if reached == room else room - reached
    for i in range(count):
        if scores[i] > best or (scores[i] == best and (reached == room or equal > 0)):
            equal -= 1 if scores[i] == best else 0
            words[tied[i] >> 6] |= np.uint64(1) << np.uint64(tied[i] & 63)


@register_jitable
def choose(keys, scores, k, guess, words, tied):
    """Write the k largest keys (float32[units], >= 0; overwritten) to ``words``; ties go to the
    larger raw score, then to the lower id. Returns where it cut; ``guess`` is where to begin."""
    bits, raw = keys.view(np.int32), scores.view(np.int32)
    cut, reached = _find_cut(bits, k, guess)
    if reached == k:
        _pack_at_least(bits, cut, words)
    else:
        _pack_at_least(bits, cut + 1, words)
        _settle_ties(bits, raw, cut, k - reached, words, keys, tied)
    return cut


@njit(cache=True, nogil=True)
def select(scores, factor, aware, k, words, threshold, scratch, tied):
    """Write the k best of factor * score (float32) to ``words``; ties: larger raw score, lower id.

    Args:
        scores: float32[units], >= 0; factor: float32[units], looked at if ``aware``.
        threshold: int64[1], where the last selection cut, to start from; updated.
        scratch: float32[units]; tied: int64[units]; both overwritten.
    """
    raw = scores.view(np.int32)
    keys = raw
    if aware:
        for u in range(scores.shape[0]):
            scratch[u] = scores[u] * factor[u]
        keys = scratch.view(np.int32)
    cut, reached = _find_cut(keys, k, threshold[0])
    threshold[0] = cut
    if reached == k:
        _pack_at_least(keys, cut, words)
    else:
        _pack_at_least(keys, cut + 1, words)
        _settle_ties(keys, raw, cut, k - reached, words, scratch, tied)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def kept_shares(scores, words, shares):
    """Share of the score mass, and of the energy (squares), that the chosen units hold."""
    mass = energy = kept_mass = kept_energy = 0.0
    for w in range(words.shape[0]):
        word = words[w]
        base = w * 64
        for b in range(min(64, scores.shape[0] - base)):
            score = np.float64(scores[base + b])
            kept = np.float64((word >> np.uint64(b)) & np.uint64(1)) * score
            mass += score
            energy += score * score
            kept_mass += kept
            kept_energy += kept * score
    shares[0] = kept_mass / mass if mass > 0 else 1.0
    shares[1] = kept_energy / energy if energy > 0 else 1.0


@njit(cache=True, nogil=True)
def select_of(scores, k, sets, threshold, scratch, tied, shares):
    """`select` without preference, and `kept_shares`, for a block.

    Args:
        scores: float32[n, layers, units]; sets: out uint64[n, layers, words].
        shares: out float32[n, layers, 2].
    """
    for r in range(scores.shape[0]):
        for layer in range(scores.shape[1]):
            row, words = scores[r, layer], sets[r, layer]
            select(row, scratch, False, k, words, threshold, scratch, tied)
            kept_shares(row, words, shares[r, layer])


@njit(cache=True, nogil=True)
def shares_of(scores, sets, shares):
    """`kept_shares` for a block; shapes as in `select_of`."""
    for r in range(scores.shape[0]):
        for layer in range(scores.shape[1]):
            kept_shares(scores[r, layer], sets[r, layer], shares[r, layer])


@njit(cache=True, nogil=True)
def errors_of(scores, sets, norms, errors):
    """Relative error of what a matrix puts out when the columns outside the sets are left out.

    The root of the share of sum (score * norm)^2 that is dropped: exact for orthogonal columns.

    Args:
        scores: float32[n, layers, units]; sets: uint64[n, layers, words].
        norms: float32[layers, units] of the columns; errors: out float32[n, layers].
    """
    for r in range(scores.shape[0]):
        for layer in range(scores.shape[1]):
            total = dropped = 0.0
            for u in range(scores.shape[2]):
                part = np.float64(scores[r, layer, u]) * norms[layer, u]
                total += part * part
                if not (sets[r, layer, u >> 6] >> np.uint64(u & 63)) & np.uint64(1):
                    dropped += part * part
            errors[r, layer] = np.sqrt(dropped / total) if total > 0 else 0.0
