"""Choosing the k best of a token's units, from keys in float32 or from 8-bit codes.

Ties go to the larger raw score, then to the lower id. Keys and raw scores are the same where no
unit is preferred. What is compiled here uses nothing outside this file, so numba's stored code is
renewed with it.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.stored import stored

_INFINITY_BITS = 0x7F800000  # of float32; every finite score has fewer
LARGEST_BITS = _INFINITY_BITS - 1
"""Bits of the largest finite float32."""
CODES = 256
_ROUNDS_WITHOUT_TIES = 2
"""Rounds of narrowing a search after which ties are likely."""
_LANES = 4
"""Counters of each code: units next to each other often have the same one, and adding to what was
just written has to wait."""
COUNTERS = 2 * CODES * _LANES
"""Counters that the choice from codes needs."""
VALUE, IF_RESIDENT, IF_ABSENT = 0, 1, 2
"""Rows of the tables of codes: the score a code stands for, and the key of a unit with that code
where it is resident and where it is not."""


# From keys in float32 ----------------------------------------------------------------------------


@register_jitable
def _count_at_least(bits: Any, cut: int) -> int:
    cut32 = np.int32(cut)
    count = np.int32(0)
    for i in range(bits.shape[0]):
        count = np.int32(count + np.int32(bits[i] >= cut32))
    return np.int64(count)


@register_jitable
def _least_from(bits: Any, cut: int) -> int:
    """Return the least key >= cut."""
    cut32, least = np.int32(cut), np.int32(_INFINITY_BITS)
    for i in range(bits.shape[0]):
        key = bits[i] if bits[i] >= cut32 else np.int32(_INFINITY_BITS)
        least = key if key < least else least
    return np.int64(least)


@register_jitable
def _most_below(bits: Any, cut: int) -> int:
    """Return the largest key < cut."""
    cut32, most = np.int32(cut), np.int32(0)
    for i in range(bits.shape[0]):
        key = bits[i] if bits[i] < cut32 else np.int32(0)
        most = key if key > most else most
    return np.int64(most)


@register_jitable
def _find_cut(bits: Any, k: int, guess: int) -> tuple[int, int]:
    """Find the largest cut with at least k keys >= it, and how many keys are > it or >= it.

    ``bits`` are non-negative float32 seen as int32, which sort alike. Returns (cut, reached):
    when ``reached == k`` all keys >= cut are the k best; otherwise keys == cut are tied and
    ``reached`` counts those above. The search starts at ``guess``, the last token's cut, widens
    until it brackets k and then narrows by interpolation, with a bisection every third step. Where
    that takes long, keys are probably tied, as those of 8-bit codes are: bounds move on to keys.
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
            if rounds >= _ROUNDS_WITHOUT_TIES:
                low = _least_from(bits, middle)
        else:
            high, above_high = middle, count
            if rounds >= _ROUNDS_WITHOUT_TIES:
                high = _most_below(bits, middle) + 1
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
def kth_largest(values: Any, k: int) -> Any:
    """Return the k-th largest of float32 values >= 0; k from 1 to their number.

    Those that reach it are the k largest, and what is tied with the last of them.
    """
    bits = values.view(np.int32)
    cut, _ = _find_cut(bits, k, np.int64(bits[0]))
    least = np.float32(np.inf)
    for i in range(values.shape[0]):
        if bits[i] >= cut and values[i] < least:
            least = values[i]
    return least


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
    then lower id. ``scratch`` may be the memory of the keys."""
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


@stored(nogil=True)
def top_k(keys, scores, k, guess, words, scratch, tied):
    """Write the units with the k largest keys to ``words``; ties: larger raw score, lower id.

    Args:
        keys: float32[units], >= 0.
        scores: float32[units], >= 0, the raw scores; the keys again where no unit is preferred.
        k: from 1 to units.
        guess: where to begin the search: the cut of the token before. It changes no result.
        words: uint64[words] out.
        scratch: float32[units], which may be the keys; overwritten.
        tied: int64[units], overwritten.

    Returns:
        The cut, as int64: the bits of the least key that is chosen.
    """
    bits, raw = keys.view(np.int32), scores.view(np.int32)
    cut, reached = _find_cut(bits, k, guess)
    if reached == k:
        _pack_at_least(bits, cut, words)
    else:
        _pack_at_least(bits, cut + 1, words)
        _settle_ties(bits, raw, cut, k - reached, words, scratch, tied)
    return cut


@stored(nogil=True)
def select_of(scores, k, sets, choosing, shares):
    """Write the units with the k largest scores of every row, and what they hold.

    Args:
        scores: float32[n, layers, units]; sets: out uint64[n, layers, words].
        choosing: a `Choosing`, scratch.
        shares: out float32[n, layers, 2], as of `kept_shares`.
    """
    threshold, scratch, tied = choosing.threshold, choosing.keys[0], choosing.tied
    for r in range(scores.shape[0]):
        for layer in range(scores.shape[1]):
            row, words = scores[r, layer], sets[r, layer]
            threshold[0] = top_k(row, row, k, threshold[0], words, scratch, tied)
            kept_shares(row, words, shares[r, layer])


# From 8-bit codes --------------------------------------------------------------------------------


@register_jitable
def _count_codes(codes: Any, resident: Any, counts: Any) -> None:
    """Count how often each code occurs: absent units in ``counts[:256]``, residents behind."""
    units = codes.shape[0]
    for i in range(COUNTERS):
        counts[i] = 0
    for w in range(resident.shape[0]):
        word, base = resident[w], w * 64
        width = min(64, units - base)
        for b in range(width):
            slot = np.int64(codes[base + b])
            slot += np.int64((word >> np.uint64(b)) & np.uint64(1)) * CODES
            counts[(b & (_LANES - 1)) * 2 * CODES + slot] += 1
    for i in range(2 * CODES):
        for lane in range(1, _LANES):
            counts[i] += counts[lane * 2 * CODES + i]


@register_jitable
def _pack_codes(
    codes: Any, resident: Any, least_absent: int, least_resident: int, words: Any
) -> None:
    """Set the bits of units whose code reaches the least of their kind."""
    low, high = np.int32(least_absent), np.int32(least_resident)
    units = codes.shape[0]
    for w in range(words.shape[0]):
        base, if_absent, if_resident = w * 64, np.uint64(0), np.uint64(0)
        for b in range(min(64, units - base)):
            code = np.int32(codes[base + b])
            if_absent |= np.uint64(code >= low) << np.uint64(b)
            if_resident |= np.uint64(code >= high) << np.uint64(b)
        words[w] = (if_absent & ~resident[w]) | (if_resident & resident[w])


@stored(nogil=True)
def select_codes(codes, tables, resident, k, words, counts, shares):
    """Write the k best of the units to ``words``, as `top_k` does with what the codes stand for.

    Keys take 512 values at most, so counting the codes replaces the search for the cut.

    Args:
        codes: uint8[units].
        tables: float32[3, 256], `VALUE`, `IF_RESIDENT` and `IF_ABSENT`, each ascending.
        resident: uint64[words].
        k: from 1 to units.
        words: uint64[words] out.
        counts: int64[COUNTERS], overwritten.
        shares: out float32[2], as of `kept_shares`.
    """
    _count_codes(codes, resident, counts)
    mass = energy = kept_mass = kept_energy = 0.0
    for code in range(CODES):
        both = np.float64(counts[code] + counts[CODES + code])
        value = np.float64(tables[VALUE, code])
        mass += both * value
        energy += both * value * value
    # Walk down both lists of keys at once until k are chosen. Of a tie the larger raw score, which
    # is that of an absent unit, comes first, and equal raw scores go by id.
    absent, there, left = CODES - 1, CODES - 1, k
    tied = partial_absent = partial_there = False
    while left > 0:
        key_absent = tables[IF_ABSENT, absent] if absent >= 0 else np.float32(-1)
        key_there = tables[IF_RESIDENT, there] if there >= 0 else np.float32(-1)
        tied = key_absent == key_there and absent == there
        take_there = tied or key_there > key_absent or (key_there == key_absent and there > absent)
        take_absent = tied or not take_there
        code = there if take_there else absent
        alike = counts[absent] if take_absent else 0
        alike += counts[CODES + there] if take_there else 0
        value = np.float64(tables[VALUE, code])
        taken = np.float64(min(alike, left))
        kept_mass += taken * value
        kept_energy += taken * value * value
        if alike > left:
            partial_absent, partial_there = take_absent, take_there
            break
        left -= alike
        absent -= 1 if take_absent else 0
        there -= 1 if take_there else 0
    _pack_codes(codes, resident, absent + 1, there + 1, words)
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


@stored(nogil=True)
def select_codes_of(codes, values, k, sets, shares):
    """Write the units with the k largest codes of every row, and what they hold.

    Args:
        codes: uint8[n, layers, units]; sets: out uint64[n, layers, words].
        values: float32[256], the score that each code stands for, ascending.
        shares: out float32[n, layers, 2], as of `kept_shares`.
    """
    counts, tables = np.empty(COUNTERS, np.int64), np.empty((3, CODES), np.float32)
    for code in range(CODES):
        for row in range(3):
            tables[row, code] = values[code]
    nothing = np.zeros(sets.shape[2], np.uint64)
    for r in range(codes.shape[0]):
        for layer in range(codes.shape[1]):
            row, words, kept = codes[r, layer], sets[r, layer], shares[r, layer]
            select_codes(row, tables, nothing, k, words, counts, kept)


# What a choice keeps -----------------------------------------------------------------------------


@stored(nogil=True, fastmath={"reassoc", "contract"})
def kept_shares(scores, words, shares):
    """Write the share of the score mass, and of the energy (squares), that the set holds.

    Args:
        scores: float32[units]; words: uint64[words], the set.
        shares: out float32[2]; 1 where all scores are 0.
    """
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


@stored(nogil=True)
def shares_of(scores, sets, shares):
    """Write `kept_shares` of every row; shapes as in `select_of`."""
    for r in range(scores.shape[0]):
        for layer in range(scores.shape[1]):
            kept_shares(scores[r, layer], sets[r, layer], shares[r, layer])


@stored(nogil=True)
def errors_of(scores, sets, norms, errors):
    """Write the relative error of a matrix's output without the columns outside the sets.

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
