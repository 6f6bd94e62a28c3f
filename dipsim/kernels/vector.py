"""Sixty-four units at a time, in vector instructions that numba does not find by itself.

A vector of 64 comparisons is a word of 64 bits: processors have instructions for that, and LLVM
picks those of the processor that it compiles for. Each function has a plain twin, for the units
behind the last whole word, and for all of them where nothing is compiled. Arrays are contiguous:
numba compiles no call with others.
"""

from platform import machine
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.core import cgutils, config
from numba.extending import intrinsic, register_jitable

_WIDTH, _SUMS, _LANES = 64, 32, 16
LANES = 4
"""Counters of each code: units next to each other often have the same one, and adding to what was
just written has to wait."""
_BIT, _INT, _LONG = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()


def _contiguous(*arrays: Any) -> bool:
    return all(isinstance(array, nb.Array) and array.layout == "C" for array in arrays)


class _Builder:
    """Builder of vectors and of the addresses where they stand in memory."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def fill(self, value: Any, width: int) -> Any:
        """Return a vector of one value."""
        nothing = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
        first = self.builder.insert_element(nothing, value, ir.Constant(_INT, 0))
        everywhere = ir.Constant(ir.VectorType(_INT, width), [0] * width)
        return self.builder.shuffle_vector(first, nothing, everywhere)

    def address(self, kind: Any, array: Any, start: Any, element: Any, width: int) -> Any:
        """Return where a vector begins that is elements of an array, from ``start`` on."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        vector = ir.VectorType(element, width)
        return self.builder.bitcast(self.builder.gep(data, [start]), vector.as_pointer())

    def load(self, kind: Any, array: Any, start: Any, element: Any, width: int) -> Any:
        """Return elements of an array, from ``start`` on."""
        place = self.address(kind, array, start, element, width)
        return self.builder.load(place, align=kind.dtype.bitwidth // 8)

    def bits(self, word: Any) -> Any:
        """Return the bits of a word as a vector."""
        return self.builder.bitcast(word, ir.VectorType(_BIT, _WIDTH))

    def weighed_bits(self, score: Any, whole: Any, weight: Any) -> Any:
        """Return `weighed` as integers, which sort alike where they are >= 0."""
        key = self.weighed(score, whole, weight)
        return self.builder.bitcast(key, ir.VectorType(_INT, key.type.count))

    def weighed(self, score: Any, whole: Any, weight: Any) -> Any:
        """Return the elements where ``whole`` is true, elsewhere their products with a number."""
        product = self.builder.fmul(score, self.fill(weight, score.type.count))
        return self.builder.select(whole, score, product)

    def sum_of(self, lanes: Any) -> Any:
        """Return the sum of a vector's elements; their number is a power of two."""
        add = self.builder.add if isinstance(lanes.type.element, ir.IntType) else self.builder.fadd
        width = lanes.type.count
        while width > 1:
            width //= 2
            kind = ir.VectorType(_INT, width)
            low, high = (ir.Constant(kind, [*range(i, i + width)]) for i in (0, width))
            halves = [self.builder.shuffle_vector(lanes, lanes, half) for half in (low, high)]
            lanes = add(*halves)
        return self.builder.extract_element(lanes, ir.Constant(_INT, 0))


# Comparing ---------------------------------------------------------------------------------------


@register_jitable
def _reach_few(keys: Any, start: int, cut: int) -> Any:
    word = np.uint64(0)
    for b in range(min(_WIDTH, keys.shape[0] - start)):
        word |= np.uint64(keys[start + b] >= cut) << np.uint64(b)
    return word


@intrinsic
def _reach_all(typing: Any, keys: Any, start: Any, cut: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element, make = ir.IntType(keys.dtype.bitwidth), _Builder(context, builder)
        values = make.load(keys, args[0], args[1], element, _WIDTH)
        least = make.fill(builder.trunc(args[2], element), _WIDTH)
        compare = builder.icmp_signed if keys.dtype.signed else builder.icmp_unsigned
        return builder.bitcast(compare(">=", values, least), _LONG)

    return (nb.uint64(keys, nb.int64, nb.int64), generate) if _contiguous(keys) else None


# Depositing --------------------------------------------------------------------------------------

_SLOW = {"znver1", "znver2"}  # they have the instruction, but take hundreds of cycles for it
_DEPOSITS = (
    machine() in {"x86_64", "AMD64"}
    and llvm.get_host_cpu_features().get("bmi2", False)
    and llvm.get_host_cpu_name() not in _SLOW
)


@register_jitable
def _deposit_plainly(bits: Any, word: Any) -> Any:
    word_of_bits, place = np.uint64(0), np.uint64(0)
    while word:
        lowest = word & ~(word - np.uint64(1))
        if (bits >> place) & np.uint64(1) != 0:
            word_of_bits |= lowest
        place += np.uint64(1)
        word ^= lowest
    return word_of_bits


@intrinsic
def _deposit_at_once(typing: Any, bits: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_LONG, [_LONG, _LONG])
        deposit = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.bmi.pdep.64")
        return builder.call(deposit, args)

    return nb.uint64(nb.uint64, nb.uint64), generate


deposit = _deposit_at_once if _DEPOSITS and not config.DISABLE_JIT else _deposit_plainly
"""The word with the lowest bits of ``bits``, one after the other, where ``word`` has its ones:
``deposit(bits, word)``."""


# Weighing ----------------------------------------------------------------------------------------


@register_jitable
def _weigh_few(scores: Any, start: int, word: Any, weight: Any, keys: Any) -> None:
    for b in range(min(_WIDTH, scores.shape[0] - start)):
        whole = (word >> np.uint64(b)) & np.uint64(1) != 0
        keys[start + b] = scores[start + b] if whole else weight * scores[start + b]


@intrinsic
def _weigh_all(typing: Any, scores: Any, start: Any, word: Any, weight: Any, keys: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make = _Builder(context, builder)
        score = make.load(scores, args[0], args[1], _FLOAT, _WIDTH)
        key = make.weighed(score, make.bits(args[2]), args[3])
        builder.store(key, make.address(keys, args[4], args[1], _FLOAT, _WIDTH), align=4)
        return context.get_dummy_value()

    signature = nb.void(scores, nb.int64, nb.uint64, nb.float32, keys)
    return (signature, generate) if _contiguous(scores, keys) else None


@intrinsic
def reach_weighed(typing: Any, scores: Any, start: Any, word: Any, weight: Any, cut: Any) -> Any:
    """Return the word of the 64 units from ``start`` on: those whose weighed score is >= a cut.

    Args:
        scores: as of `weigh`, all units there, like ``start``, ``word`` and ``weight``.
        cut: bits of a float32 >= 0.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make = _Builder(context, builder)
        score, whole = make.load(scores, args[0], args[1], _FLOAT, _WIDTH), make.bits(args[2])
        least = make.fill(builder.trunc(args[4], _INT), _WIDTH)
        key = make.weighed_bits(score, whole, args[3])
        return builder.bitcast(builder.icmp_signed(">=", key, least), _LONG)

    signature = nb.uint64(scores, nb.int64, nb.uint64, nb.float32, nb.int64)
    return (signature, generate) if _contiguous(scores) else None


@intrinsic
def count_weighed(typing: Any, scores: Any, words: Any, weight: Any, cuts: Any, last: Any) -> Any:
    """Count the units whose weighed scores are >= each of four cuts, in one pass.

    Args:
        scores: float32[units].
        words: uint64[words], the set.
        weight: float32.
        cuts: bits of four float32 >= 0.
        last: words before this one are counted, all of whose units there are.

    Returns:
        Four int64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make, kind = _Builder(context, builder), ir.VectorType(_INT, _LANES)
        none, step = ir.Constant(kind, None), ir.Constant(_LONG, 1)
        totals = [cgutils.alloca_once_value(builder, none) for _ in range(4)]
        least = [
            make.fill(builder.trunc(cut, _INT), _LANES)
            for cut in cgutils.unpack_tuple(builder, args[3], 4)
        ]
        first = ir.Constant(_LONG, 0)
        with cgutils.for_range_slice(builder, first, args[4], step, _LONG) as (w, _):
            word = builder.load(make.address(words, args[1], w, _LONG, 1))
            whole = make.bits(builder.extract_element(word, ir.Constant(_INT, 0)))
            base = builder.mul(w, ir.Constant(_LONG, _WIDTH))
            for i in range(0, _WIDTH, _LANES):
                own = ir.Constant(ir.VectorType(_INT, _LANES), [*range(i, i + _LANES)])
                few = builder.shuffle_vector(whole, whole, own)
                place = builder.add(base, ir.Constant(_LONG, i))
                score = make.load(scores, args[0], place, _FLOAT, _LANES)
                key = make.weighed_bits(score, few, args[2])
                for total, cut in zip(totals, least, strict=True):
                    reached = builder.sext(builder.icmp_signed(">=", key, cut), kind)
                    builder.store(builder.sub(builder.load(total), reached), total)
        counts = [builder.zext(make.sum_of(builder.load(each)), _LONG) for each in totals]
        return context.make_tuple(builder, signature.return_type, counts)

    four = nb.UniTuple(nb.int64, 4)
    signature = four(scores, words, nb.float32, four, nb.int64)
    return (signature, generate) if _contiguous(scores, words) else None


if config.DISABLE_JIT:

    def _weighed_bits(score: Any, word: Any, unit: int, weight: Any) -> Any:
        whole = (word >> np.uint64(unit % _WIDTH)) & np.uint64(1) != 0
        return np.float32(score if whole else weight * score).view(np.int32)

    def reach_weighed(scores: Any, start: int, word: Any, weight: Any, cut: int) -> Any:  # noqa: D103
        keys = [_weighed_bits(scores[start + b], word, b, weight) for b in range(_WIDTH)]
        return _reach_few(np.array(keys), 0, cut)

    def count_weighed(scores: Any, words: Any, weight: Any, cuts: Any, last: int) -> Any:  # noqa: D103
        units = range(last * _WIDTH)
        keys = [_weighed_bits(scores[u], words[u // _WIDTH], u, weight) for u in units]
        return tuple(sum(int(key >= cut) for key in keys) for cut in cuts)


# Counting ----------------------------------------------------------------------------------------


@register_jitable
def _tally_few(codes: Any, start: int, word: Any, counts: Any) -> None:
    for b in range(min(_WIDTH, codes.shape[0] - start)):
        inside = np.int64((word >> np.uint64(b)) & np.uint64(1))
        counts[(b & (LANES - 1)) * 512 + inside * 256 + np.int64(codes[start + b])] += 1


@intrinsic
def _tally_all(typing: Any, codes: Any, start: Any, word: Any, counts: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make, short = _Builder(context, builder), ir.IntType(16)
        code = make.load(codes, args[0], args[1], ir.IntType(8), _WIDTH)
        code = builder.zext(code, ir.VectorType(short, _WIDTH))
        inside = builder.bitcast(args[2], ir.VectorType(_BIT, _WIDTH))
        more, none = (ir.Constant(ir.VectorType(short, _WIDTH), [n] * _WIDTH) for n in (256, 0))
        slots = builder.or_(code, builder.select(inside, more, none))
        one = ir.Constant(ir.VectorType(_LONG, 1), [1])
        for b in range(_WIDTH):
            slot = builder.zext(builder.extract_element(slots, ir.Constant(_INT, b)), _LONG)
            slot = builder.add(slot, ir.Constant(_LONG, b % LANES * 512))
            place = make.address(counts, args[3], slot, _LONG, 1)
            builder.store(builder.add(builder.load(place), one), place)
        return context.get_dummy_value()

    signature = nb.void(codes, nb.int64, nb.uint64, counts)
    return (signature, generate) if _contiguous(codes, counts) else None


# Adding ------------------------------------------------------------------------------------------


@register_jitable
def plain_sums(scores: Any, words: Any, first: int, last: int) -> tuple[float, float, float, float]:
    """Return the sums of `fast_sums`, as exactly as float64 gives them."""
    mass = energy = kept_mass = kept_energy = 0.0
    for u in range(first * _WIDTH, min(last * _WIDTH, scores.shape[0])):
        score = np.float64(scores[u])
        word = words[u // _WIDTH] >> np.uint64(u % _WIDTH)
        kept = np.float64(word & np.uint64(1)) * score
        mass += score
        energy += score * score
        kept_mass += kept
        kept_energy += kept * score
    return mass, energy, kept_mass, kept_energy


@intrinsic
def fast_sums(typing: Any, scores: Any, words: Any, first: Any, last: Any) -> Any:
    """Add the scores of whole words, their squares, and both again of the units in the set.

    Lanes of float32 add up: right to 1e-6 where squares neither overflow nor vanish, as long as
    the words are few.

    Args:
        scores: float32[units].
        words: uint64[words], the set.
        first: word to begin with.
        last: word to end before.

    Returns:
        Four float64.
    """
    pair = ("contract",)  # a product and its sum are one instruction

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make, none = _Builder(context, builder), ir.Constant(ir.VectorType(_FLOAT, _SUMS), None)
        totals = [cgutils.alloca_once_value(builder, none) for _ in range(4)]
        step = ir.Constant(_LONG, 1)
        with cgutils.for_range_slice(builder, args[2], args[3], step, _LONG) as (w, _):
            base = builder.mul(w, ir.Constant(_LONG, _WIDTH))
            halves = make.load(words, args[1], w, _LONG, 1)
            halves = builder.bitcast(halves, ir.VectorType(_INT, 2))
            for i in range(0, _WIDTH, _SUMS):
                half = builder.extract_element(halves, ir.Constant(_INT, i // 32))
                bits = [1 << (i % 32 + lane) for lane in range(_SUMS)]
                own = ir.Constant(ir.VectorType(_INT, _SUMS), bits)
                met = builder.and_(make.fill(half, _SUMS), own)
                unit = builder.add(base, ir.Constant(_LONG, i))
                score = make.load(scores, args[0], unit, _FLOAT, _SUMS)
                kept = builder.select(builder.icmp_unsigned("==", met, own), score, none)
                squares = [builder.fmul(score, each, flags=pair) for each in (score, kept)]
                for total, term in zip(totals, (score, squares[0], kept, squares[1]), strict=True):
                    builder.store(builder.fadd(builder.load(total), term, flags=pair), total)
        sums = []
        for total in totals:
            lanes = builder.fpext(builder.load(total), ir.VectorType(_DOUBLE, _SUMS))
            sums.append(make.sum_of(lanes))
        return context.make_tuple(builder, signature.return_type, sums)

    signature = nb.UniTuple(nb.float64, 4)(scores, words, nb.int64, nb.int64)
    return (signature, generate) if _contiguous(scores, words) else None


if config.DISABLE_JIT:
    _reach_all, _weigh_all, _tally_all = _reach_few, _weigh_few, _tally_few
    fast_sums = plain_sums


# All units of a word -----------------------------------------------------------------------------


@register_jitable(forceinline=True)
def reach(keys: Any, start: int, cut: int) -> Any:
    """Return the word of the 64 units from ``start`` on: those with a key >= cut.

    Args:
        keys: integers of 8, 32 or 64 bits.
        cut: one of their values.
    """
    if start + _WIDTH <= keys.shape[0]:
        return _reach_all(keys, start, cut)
    return _reach_few(keys, start, cut)


@register_jitable(forceinline=True)
def weigh(scores: Any, start: int, word: Any, weight: Any, keys: Any) -> None:
    """Write the scores of the 64 units from ``start`` on to ``keys``, weighed outside a set.

    Args:
        scores: float32[units].
        keys: float32[units].
        word: of the set.
        weight: float32.
    """
    if start + _WIDTH <= scores.shape[0]:
        _weigh_all(scores, start, word, weight, keys)
    else:
        _weigh_few(scores, start, word, weight, keys)


@register_jitable(forceinline=True)
def tally(codes: Any, start: int, word: Any, counts: Any) -> None:
    """Count the codes of the 64 units from ``start`` on.

    Args:
        codes: uint8[units].
        word: of a set.
        counts: int64[LANES, 512], flat: of codes outside the set, then of those inside.
    """
    if start + _WIDTH <= codes.shape[0]:
        _tally_all(codes, start, word, counts)
    else:
        _tally_few(codes, start, word, counts)
