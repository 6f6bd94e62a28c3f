"""Choosing the k best of a token's units, from keys in float32 or from 8-bit codes.

Ties go to the larger raw score, then to the lower id. Keys and raw scores are the same where no
unit is preferred.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.bits import bit, holds, list_few, ones, without_lowest
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored
from dipsim.kernels.vector import (
    LANES,
    count_weighed,
    fast_sums,
    plain_sums,
    reach,
    reach_weighed,
    tally,
    weigh,
)

_INFINITY_BITS = 0x7F800000  # of float32; every finite score has fewer
LARGEST_BITS = _INFINITY_BITS - 1
"""Bits of the largest finite float32."""
_WORDS_ADDED = 16
"""Words whose scores are added up in float32."""
_LEAST_ENERGY = 1e-30
"""Sum of squares below which float32 loses some of them."""
CODES = 256
_STEP = 3 << 16
"""Distance of the nearest cuts from the guess, as bits: 3/128 of an octave. From token to token the
cut of half of 17 920 scores moves by as much, and by less than three times that 97 times in 100."""
_LISTED = 256
"""Keys that are listed rather than counted once more."""
_ROUNDS_WITHOUT_TIES = 2
"""Rounds of narrowing a search after which ties are likely."""
COUNTERS = 2 * CODES * LANES
"""Counters that the choice from codes needs."""
VALUE, IF_RESIDENT, IF_ABSENT = 0, 1, 2
"""Rows of the tables of codes: the score a code stands for, and the key of a unit with that code
where it is resident and where it is not."""


# From keys in float32 ----------------------------------------------------------------------------


@register_jitable
def _count_at_least(bits: Any, cuts: Any) -> tuple[int, int, int, int]:
    """Count the keys that reach each of four cuts, in one pass."""
    a, b, c, d = np.int32(cuts[0]), np.int32(cuts[1]), np.int32(cuts[2]), np.int32(cuts[3])
    at_a = at_b = at_c = at_d = np.int32(0)
    for i in range(bits.shape[0]):
        key = bits[i]
        at_a = np.int32(at_a + np.int32(key >= a))
        at_b = np.int32(at_b + np.int32(key >= b))
        at_c = np.int32(at_c + np.int32(key >= c))
        at_d = np.int32(at_d + np.int32(key >= d))
    return np.int64(at_a), np.int64(at_b), np.int64(at_c), np.int64(at_d)


@register_jitable
def _keys_between(bits: Any, low: int, high: int) -> tuple[int, int]:
    """Return the least key >= low and the largest key < high."""
    low32, high32 = np.int32(low), np.int32(high)
    least, most = np.int32(_INFINITY_BITS), np.int32(0)
    for i in range(bits.shape[0]):
        above = bits[i] if bits[i] >= low32 else np.int32(_INFINITY_BITS)
        least = above if above < least else least
        below = bits[i] if bits[i] < high32 else np.int32(0)
        most = below if below > most else most
    return np.int64(least), np.int64(most)


@register_jitable
def _cuts_around(guess: int) -> tuple[int, int, int, int]:
    """Return the first cuts of a search, ascending."""
    near, far = _STEP, 3 * _STEP
    return guess - far, guess - near, guess + near, guess + far


@register_jitable
def _narrowed(
    cuts: Any, counts: Any, k: int, low: int, high: int, at_low: int, at_high: int
) -> tuple[int, int, int, int]:
    """Return the closest two of all cuts, old and new, that k lies between, and their counts."""
    for i in range(4):
        cut, count = cuts[i], counts[i]
        if low < cut < high and count >= k:
            low, at_low = cut, count
        elif low < cut < high:
            high, at_high = cut, count
    return low, high, at_low, at_high


@register_jitable
def _bracket(
    bits: Any, k: int, low: int, high: int, guess: int, enough: int
) -> tuple[int, int, int, int]:
    """Find two cuts, the lower of which at least k keys reach, the upper fewer.

    ``bits`` are non-negative float32 seen as int32, which sort alike. The search begins around
    ``guess``, the last token's cut, widens until it brackets k and then narrows by interpolation,
    every third time in fifths. Where that takes long, keys are probably tied, as those of 8-bit
    codes are: the cuts move on to keys.

    Args:
        low: a cut to begin with, which all keys reach; none reaches ``high``.
        guess: 0 for none.
        enough: keys between the cuts that are few enough.

    Returns:
        (low, high, at_low, at_high), the last two how many keys reach the cuts: at_low is k, or few
        enough are between, or all between are tied.
    """
    lowest, highest, step, rounds = low, high, np.int64(0), 0
    at_low, at_high = np.int64(bits.shape[0]), np.int64(0)
    if guess > 0:
        step = np.int64(_STEP)
    while high - low > 1 and at_low != k and at_low - at_high > enough:
        if step == _STEP:
            cuts = _cuts_around(guess)
            step *= 16
        elif step > 0 and high == highest and low + step < high:
            cuts = (low + step, low + 2 * step, low + 4 * step, low + 16 * step)
            step *= 64
        elif step > 0 and low == lowest and high - step > low:
            cuts = (high - 16 * step, high - 4 * step, high - 2 * step, high - step)
            step *= 64
        else:
            width, step = high - low, np.int64(0)
            rounds += 1
            if rounds % 3 == 0:
                middle, near, far = low + width // 2, width // 10, 3 * width // 10
            else:
                between = np.float64(at_low - at_high)
                middle = low + 1 + np.int64((width - 1) * ((at_low - k) / between))
                near = np.int64(width / np.sqrt(between))
                far = 4 * near
            cuts = (middle - far, middle - near, middle + near, middle + far)
        counts = _count_at_least(bits, cuts)
        low, high, at_low, at_high = _narrowed(cuts, counts, k, low, high, at_low, at_high)
        if rounds >= _ROUNDS_WITHOUT_TIES and at_low != k:
            low, most = _keys_between(bits, low, high)
            high = most + 1
    return low, high, at_low, at_high


@register_jitable
def _search(
    bits: Any, k: int, low: int, high: int, guess: int, enough: int
) -> tuple[int, int, int, int]:
    """Call `_bracket`: numba compiles it anew where a `stored` function calls it directly."""
    return _bracket(bits, k, low, high, guess, enough)


@register_jitable
def kth_largest(values: Any, k: int) -> Any:
    """Return the k-th largest of float32 values >= 0; k from 1 to their number.

    Those that reach it are the k largest, and what is tied with the last of them.
    """
    bits = values.view(np.int32)
    cut, _, _, _ = _search(bits, k, np.int64(0), np.int64(_INFINITY_BITS), np.int64(bits[0]), 0)
    least = np.float32(np.inf)
    for i in range(values.shape[0]):
        if bits[i] >= cut and values[i] < least:
            least = values[i]
    return least


@register_jitable
def _pack(bits: Any, low: int, high: int, words: Any, between: Any) -> int:
    """Set the bits of all units with keys >= high, and list those with keys from low to high."""
    count = 0
    for w in range(words.shape[0]):
        base = w * 64
        word = reach(bits, base, high)
        words[w] = word
        word ^= reach(bits, base, low)
        count = list_few(word, base, between, count)
    return count


@register_jitable
def _choose_among(
    listed: Any, values: Any, k: int, low: int, high: int, words: Any, scratch: Any
) -> tuple[int, int, int]:
    """Set the bits of those listed units with the k largest values, but for a tie with the last.

    Args:
        values: int32[units], from low to high.
        scratch: int32[listed], may begin where they do.
        listed: int64[listed], ascending; out: the tied ones.

    Returns:
        How many of the tied ones are to be chosen yet, how many they are, and the least value of
        all that are chosen, or some lower cut.
    """
    own = scratch[: listed.shape[0]]
    for i in range(own.shape[0]):
        own[i] = values[listed[i]]
    low, high, at_low, at_high = _bracket(own, k, low, high, np.int64(0), 0)
    least = low if at_low == k else high
    tied = 0
    for i in range(own.shape[0]):  # without branches, which nothing predicts
        unit, chosen = listed[i], np.uint64(own[i] >= least)
        words[unit >> 6] |= chosen << np.uint64(unit & 63)
        listed[tied] = unit
        tied += np.int64(own[i] >= low) - np.int64(chosen)
    return 0 if at_low == k else k - at_high, tied, low


@register_jitable
def _choose_listed(
    listed: Any, keys: Any, scores: Any, left: int, low: int, high: int, words: Any, scratch: Any
) -> int:
    """Set the bits of the ``left`` best of the listed units, and return the cut.

    Args:
        listed: int64[listed], overwritten.
        low: a cut that no key is below; none is above ``high``.
        keys: as of `top_k`, like ``scores`` and ``scratch``.
    """
    bits, raw, values = keys.view(np.int32), scores.view(np.int32), scratch.view(np.int32)
    count = listed.shape[0]
    if left > 0:
        left, count, low = _choose_among(listed, bits, left, low, high, words, values)
    if left > 0:
        ends = np.int64(0), np.int64(_INFINITY_BITS)
        left, count, _ = _choose_among(listed[:count], raw, left, *ends, words, values)
    for i in range(left):
        words[listed[i] >> 6] |= bit(listed[i])
    return low


@stored(nogil=True, key=fingerprint())
def top_k(keys, scores, k, guess, words, scratch, tied):
    """Write the units with the k largest keys to ``words``; ties: larger raw score, lower id.

    Args:
        keys: float32[units], >= 0.
        scores: float32[units], >= 0, the raw scores; the keys again where no unit is preferred.
        k: from 1 to units.
        guess: where to begin the search: the cut of the token before. It changes no result.
        words: uint64[words] out.
        scratch: float32[units], which may be the keys; overwritten.
        tied: int64[units + FEW], overwritten.

    Returns:
        The cut, as int64: all keys that are chosen reach it.
    """
    bits, none, all_bits = keys.view(np.int32), np.int64(0), np.int64(_INFINITY_BITS)
    low, high, at_low, at_high = _search(bits, k, none, all_bits, guess, _LISTED)
    if at_low == k:
        high, at_high = low, k
    count = _pack(bits, low, high, words, tied)
    return _choose_listed(tied[:count], keys, scores, k - at_high, low, high, words, scratch)


@register_jitable
def weigh_all(scores: Any, resident: Any, weight: Any, keys: Any) -> None:
    """Write the scores to ``keys``, weighed outside the set ``resident``; all float32."""
    # An array of factors, one for every unit, kept up to date as units come and go, was tried:
    # multiplying by it is no faster.
    for w in range(resident.shape[0]):
        weigh(scores, w * 64, resident[w], weight, keys)


@stored(nogil=True, key=fingerprint())
def top_k_weighed(scores, resident, weight, k, guess, words, keys, tied):
    """Choose as `top_k` does by scores that are weighed outside a set, and return the cut.

    The first cuts mostly do. Then keys are made as they are compared, and none is written down but
    those between the cuts.

    Args:
        scores: float32[units].
        resident: uint64[words], the set.
        weight: float32.
        keys: float32[units], overwritten; the others as of `top_k`.
    """
    units, bits = scores.shape[0], keys.view(np.int32)
    whole, behind = units >> 6, units >> 6 << 6
    if behind < units:
        weigh(scores, behind, resident[whole], weight, keys)
    cuts = _cuts_around(guess)
    a, b, c, d = count_weighed(scores, resident, weight, cuts, whole)
    last = _count_at_least(bits[behind:], cuts)
    counts = a + last[0], b + last[1], c + last[2], d + last[3]
    ends = np.int64(0), np.int64(_INFINITY_BITS), np.int64(units), np.int64(0)
    low, high, at_low, at_high = _narrowed(cuts, counts, k, *ends)
    if at_low != k and at_low - at_high > _LISTED:
        weigh_all(scores, resident, weight, keys)
        return top_k(keys, scores, k, guess, words, keys, tied)
    if at_low == k:
        high, at_high = low, k
    count = 0
    for w in range(words.shape[0]):
        if w < whole:
            word = reach_weighed(scores, w * 64, resident[w], weight, high)
            rest = word ^ reach_weighed(scores, w * 64, resident[w], weight, low)
        else:
            word = reach(bits, behind, high)
            rest = word ^ reach(bits, behind, low)
        words[w] = word
        count = list_few(rest, w * 64, tied, count)
    for i in range(count):
        unit = tied[i]
        keys[unit] = scores[unit] if holds(resident, unit) else weight * scores[unit]
    return _choose_listed(tied[:count], keys, scores, k - at_high, low, high, words, keys)


@stored(nogil=True, key=fingerprint())
def select_of(scores, k, sets, choosing, shares):
    """Write the units with the k largest scores of every row, and what they hold.

    Args:
        scores: float32[n, layers, units].
        sets: out uint64[n, layers, words].
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
    for i in range(counts.shape[0]):
        counts[i] = 0
    for w in range(resident.shape[0]):
        tally(codes, w * 64, resident[w], counts)
    for i in range(2 * CODES):
        count = counts[i]
        for lane in range(1, LANES):
            count += counts[lane * 2 * CODES + i]
        counts[i] = count


@register_jitable(forceinline=True)
def _reach_codes(codes: Any, start: int, resident: Any, least_absent: int, least_there: int) -> Any:
    """Return the word of units from ``start`` on whose code reaches the least of their kind."""
    word = np.uint64(0)
    if least_absent < CODES:
        word |= reach(codes, start, least_absent) & ~resident
    if least_there < CODES:
        word |= reach(codes, start, least_there) & resident
    return word


@stored(nogil=True, key=fingerprint(), fastmath={"reassoc", "contract"})
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
    # Walk down both lists of keys at once until k are chosen. Of a tie the larger raw score, which
    # is that of an absent unit, comes first, and equal raw scores go by id.
    absent, there, left = CODES - 1, CODES - 1, k
    take_absent = take_there = np.int64(0)
    while left > 0:
        # Plain numbers instead of branches: which list comes next is anyone's guess.
        at_absent, at_there = max(absent, 0), max(there, 0)
        key_absent = tables[IF_ABSENT, at_absent] if absent >= 0 else np.float32(-1)
        key_there = tables[IF_RESIDENT, at_there] if there >= 0 else np.float32(-1)
        equal, later = key_absent == key_there, np.int64(key_there > key_absent)
        take_there = later | np.int64(equal & (there >= absent))
        take_absent = (1 - later) & (1 - np.int64(equal & (there > absent)))
        alike = take_absent * counts[at_absent] + take_there * counts[CODES + at_there]
        if alike > left:
            break
        left -= alike
        absent -= take_absent
        there -= take_there
    mass = energy = kept_mass = kept_energy = 0.0
    for code in range(CODES):
        value = np.float64(tables[VALUE, code])
        at_absent, at_there = np.float64(counts[code]), np.float64(counts[CODES + code])
        kept = (at_absent if code > absent else 0.0) + (at_there if code > there else 0.0)
        mass += (at_absent + at_there) * value
        energy += (at_absent + at_there) * value * value
        kept_mass += kept * value
        kept_energy += kept * value * value
    if left > 0:
        value = np.float64(tables[VALUE, absent if take_absent else there])
        kept_mass += left * value
        kept_energy += left * value * value
    for w in range(words.shape[0]):
        word = _reach_codes(codes, w * 64, resident[w], absent + 1, there + 1)
        if left > 0:
            down_to = absent + 1 - take_absent, there + 1 - take_there
            alike_word = _reach_codes(codes, w * 64, resident[w], down_to[0], down_to[1]) & ~word
            rest = alike_word
            for _ in range(min(left, ones(alike_word))):
                rest = without_lowest(rest)
            left -= min(left, ones(alike_word))
            word |= alike_word ^ rest
        words[w] = word
    shares[0] = kept_mass / mass if mass > 0 else 1.0
    shares[1] = kept_energy / energy if energy > 0 else 1.0


@stored(nogil=True, key=fingerprint())
def select_codes_of(codes, values, k, sets, shares):
    """Write the units with the k largest codes of every row, and what they hold.

    Args:
        codes: uint8[n, layers, units].
        sets: out uint64[n, layers, words].
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


@stored(nogil=True, key=fingerprint())
def kept_shares(scores, words, shares):
    """Write the share of the score mass, and of the energy (squares), that the set holds.

    Args:
        scores: float32[units].
        words: uint64[words], the set.
        shares: out float32[2]; 1 where all scores are 0.
    """
    whole = scores.shape[0] >> 6
    mass, energy, kept_mass, kept_energy = plain_sums(scores, words, whole, words.shape[0])
    for first in range(0, whole, _WORDS_ADDED):
        sums = fast_sums(scores, words, first, min(first + _WORDS_ADDED, whole))
        mass += sums[0]
        energy += sums[1]
        kept_mass += sums[2]
        kept_energy += sums[3]
    if not _LEAST_ENERGY < energy < np.inf:
        mass, energy, kept_mass, kept_energy = plain_sums(scores, words, 0, words.shape[0])
    shares[0] = kept_mass / mass if mass > 0 else 1.0
    shares[1] = kept_energy / energy if energy > 0 else 1.0


@stored(nogil=True, key=fingerprint())
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
        scores: float32[n, layers, units].
        sets: uint64[n, layers, words].
        norms: float32[layers, units] of the columns.
        errors: out float32[n, layers].
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
