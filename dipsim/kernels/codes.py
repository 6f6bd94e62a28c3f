"""Choosing the k best scores of a token from 8-bit logarithms, without decoding them.

A code stands for one of 256 values (encoding.py), ascending. Cache-aware keys take 512 values at
most, so counting codes replaces the search for the cut. The choice is that of `select` with the
decoded scores.
"""

from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

from dipsim.trace.encoding import LOG8_TABLE as TABLE

CODES = 256
_LANES = 4
"""Counters of each code: units next to each other often have the same one, and adding to what was
just written has to wait."""
COUNTERS = 2 * CODES * _LANES


@register_jitable
def _count(codes: Any, resident: Any, counts: Any) -> None:
    """How often each code occurs: absent units in ``counts[:256]``, residents behind them."""
    units = codes.shape[0]
    for i in range(COUNTERS):
        counts[i] = 0
    for w in range(resident.shape[0]):
        word, base = resident[w], w * 64
        whole = min(64, units - base)
        for b in range(whole):
            at = np.int64(codes[base + b]) + np.int64((word >> np.uint64(b)) & np.uint64(1)) * CODES
            counts[(b & (_LANES - 1)) * 2 * CODES + at] += 1
    for i in range(2 * CODES):
        for lane in range(1, _LANES):
            counts[i] += counts[lane * 2 * CODES + i]


@register_jitable
def _pack(codes: Any, resident: Any, least_absent: int, least_resident: int, words: Any) -> None:
    """Set the bits of units whose code reaches the least of their kind."""
    low, high = np.int32(least_absent), np.int32(least_resident)
    units = codes.shape[0]
    for w in range(words.shape[0]):
        base, absent, there = w * 64, np.uint64(0), np.uint64(0)
        for b in range(min(64, units - base)):
            code = np.int32(codes[base + b])
            absent |= np.uint64(code >= low) << np.uint64(b)
            there |= np.uint64(code >= high) << np.uint64(b)
        words[w] = (absent & ~resident[w]) | (there & resident[w])


@njit(cache=True, nogil=True)
def select_codes(codes, gamma, resident, k, words, counts, shares):
    """Write the k best of TABLE[code], times gamma where a unit is not resident, to ``words``.

    Args:
        codes: uint8[units]; gamma: float32.
        resident: uint64[words]; counts: int64[COUNTERS] scratch.
        shares: out float32[2], of the score mass and of the energy that is kept.
    """
    _count(codes, resident, counts)
    mass = energy = kept_mass = kept_energy = 0.0
    for code in range(CODES):
        both = np.float64(counts[code] + counts[CODES + code])
        value = np.float64(TABLE[code])
        mass += both * value
        energy += both * value * value
    # Walk down both lists of keys at once until k are chosen; of a tie the larger raw score, which
    # is that of an absent unit, comes first, and equal raw scores go by id.
    absent, there, left = CODES - 1, CODES - 1, k
    tied = partial_absent = partial_there = False
    while left > 0:
        key_absent = TABLE[absent] * gamma if absent >= 0 else np.float32(-1)
        key_there = TABLE[there] if there >= 0 else np.float32(-1)
        tied = key_absent == key_there and absent == there
        take_there = tied or key_there > key_absent or (key_there == key_absent and there > absent)
        take_absent = tied or not take_there
        code = there if take_there else absent
        here = (counts[absent] if take_absent else 0) + (counts[CODES + there] if take_there else 0)
        value = np.float64(TABLE[code])
        taken = np.float64(min(here, left))
        kept_mass += taken * value
        kept_energy += taken * value * value
        if here > left:
            partial_absent, partial_there = take_absent, take_there
            break
        left -= here
        absent -= 1 if take_absent else 0
        there -= 1 if take_there else 0
    _pack(codes, resident, absent + 1, there + 1, words)
    if partial_absent or partial_there:
        code = there if partial_there else absent
        u = 0
        while left > 0:
            is_there = (resident[u >> 6] >> np.uint64(u & 63)) & np.uint64(1) != 0
            if codes[u] == code and (partial_there if is_there else partial_absent):
                words[u >> 6] |= np.uint64(1) << np.uint64(u & 63)
                left -= 1
            u += 1
    shares[0] = kept_mass / mass if mass > 0 else 1.0
    shares[1] = kept_energy / energy if energy > 0 else 1.0


@njit(cache=True, nogil=True)
def select_codes_of(codes, k, sets, shares):
    """`select_codes` without preference for a block.

    Args:
        codes: uint8[n, layers, units]; sets: out uint64[n, layers, words].
        shares: out float32[n, layers, 2].
    """
    counts = np.empty(COUNTERS, np.int64)
    nothing = np.zeros(sets.shape[2], np.uint64)
    for r in range(codes.shape[0]):
        for layer in range(codes.shape[1]):
            row, words, kept = codes[r, layer], sets[r, layer], shares[r, layer]
            select_codes(row, np.float32(1), nothing, k, words, counts, kept)
