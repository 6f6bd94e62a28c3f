"""Checks of a trace's values: scores are finite and, but for a router's, not negative."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.lists import several
from dipsim.trace.encoding import Encoding

_INFINITY_BITS = 0x7F800000  # float32 infinity as uint32; NaN and every sign bit give more
_ROW_BYTES = 256 * 2**20  # one token of one signal: far above any real model


def check_scores(
    scores: NDArray[np.float32], trace: str, signal: str, first: tuple[int, int]
) -> None:
    """Refuse scores that are NaN, infinite or negative, and turn -0.0 to 0, in place.

    Kernels compare scores by their bits, so a -0.0 would count as large. The scores of `expert`
    may be negative, and minus infinity where an expert is no candidate.

    Args:
        scores: float32[tokens, layers, units], plain and writeable.
        first: token and layer of the first row, for the message.

    Raises:
        TraceError: names the first bad score.
    """
    if scores.view(np.uint32).max(initial=0) < _INFINITY_BITS:  # finite, no sign bits
        return
    signed = signal == "expert"
    bad = ~np.isfinite(scores)
    if signed:
        bad &= scores != -np.inf
    else:
        bad |= scores < 0
    if bad.any():
        token, layer, unit = (int(i) for i in np.argwhere(bad)[0])
        raise TraceError(
            f"{trace}: signal {signal}: score {scores[token, layer, unit]} at token "
            f"{first[0] + token}, layer {first[1] + layer}, unit {unit}; scores are finite"
            + ("" if signed else f" and >= 0: save np.abs({signal})")
        )
    if not signed:
        np.abs(scores, out=scores)


def check_router(
    values: NDArray[Any], what: str, encoding: Any, *, prefix: str = "meta.signals.expert."
) -> None:
    """Refuse router scores that are something else than they are taken for.

    Args:
        values: float[tokens, layers, experts], some tokens from the beginning.
        what: the signal, for error messages.
        encoding: ``prob``, ``logits``, or None: taken for logits, but judged by the content.
        prefix: of the key that says the encoding.

    Raises:
        TraceError: logits said to be probabilities; or weights, in 0..1 and of a sum of at most
            about 1, that are not said to be any.
    """
    if not values.size or not np.isfinite(values).all():
        return  # which whoever reads all values tells
    least, sums = values.min(), values.sum(axis=-1, dtype=np.float64)
    if encoding == "prob" and least < 0:
        raise TraceError(
            f"{what} holds {least:g}, and probabilities are never negative: drop "
            f"{prefix}encoding = 'prob' for logits"
        )
    alone = values.shape[-1] == 1  # of one expert nothing is chosen
    if encoding is not None or alone or least < 0 or not 0 < sums.max() <= _LARGEST_SUM:
        return
    chosen = ""
    if (values == 0).any():
        chosen = (
            "; of the chosen experts only, with 0 for the others, sets with scores "
            "(dipsim import --encoding expert=sparse, or dipsim.TraceWriter with encodings="
            "{'expert': 'sparse'}: append {'expert': w > 0, 'expert.scores': w})"
        )
    raise TraceError(
        f"{what} holds weights (0 to 1, at most 1 in all), not logits: save the router's logits, "
        f"or probabilities of all experts with {prefix}encoding = 'prob' (import: --encoding "
        f"expert=prob; 'logits' if they are some all the same){chosen}"
    )


JUDGED_TOKENS = 256
"""Tokens from the beginning by which a router's scores are judged."""
_LARGEST_SUM = 1.01
"""Sum of probabilities, rounded to 16 bits."""


def check_not_negative(values: NDArray[np.floating[Any]], what: str) -> None:
    """Refuse norms or scales that are not finite and >= 0.

    Raises:
        TraceError: names ``what`` they are.
    """
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise TraceError(f"{what} must be finite and >= 0")


def check_written(signal: str, values: NDArray[Any], encoding: Encoding) -> None:
    """Refuse scores that must not be written, or that an encoding cannot hold.

    Raises:
        TraceError: says which encoding can.
    """
    largest = _largest_of_plain(values)
    if largest is None:
        if signal == "expert":  # minus infinity is no candidate
            values = np.where(values == -np.inf, 0, values)
        if not np.isfinite(values).all() or (signal != "expert" and (values < 0).any()):
            raise TraceError(
                f"signal {signal}: scores must be finite and >= 0: append absolute values"
            )
        largest = np.abs(values).max(initial=0)
    if encoding == "float16" and largest > np.finfo(np.float16).max:
        raise TraceError(f"signal {signal}: scores above 65504 do not fit float16: use float32")
    if largest > np.finfo(np.float32).max:
        raise TraceError(f"signal {signal}: scores above 3.4e38 do not fit float32: scale them")
    if encoding == "log8" and values.min(initial=0) < 0:
        raise TraceError(f"signal {signal}: log8 cannot hold negative scores: use float16")


def any_negative(values: NDArray[np.floating[Any]]) -> bool:
    """Tell whether any number is below 0; NaN and -0.0 are not."""
    return _largest_of_plain(values) is None and bool((values < 0).any())


def _largest_of_plain(values: NDArray[np.floating[Any]]) -> Any:
    """Return the largest of numbers that are finite and have no sign; None if some are not.

    Bits of such floats are in the order of their values, and integers are compared many at a time.
    """
    if values.itemsize > 8:  # no integer is as wide
        return None
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    largest = bits.max(initial=0)
    if largest >= np.array(np.inf, values.dtype).view(bits.dtype):  # NaN, a sign: above infinity
        return None
    return largest.view(values.dtype)


def plain_array(name: str, values: Any) -> NDArray[Any]:
    """Return values as an array of numbers, little-endian and in C order.

    Raises:
        TraceError: Python objects, structures, or lists of unequal lengths.
    """
    try:
        array = np.asarray(values, order="C")
    except (TypeError, ValueError, RuntimeError) as problem:
        raise TraceError(f"array {name!r}: {str(problem).splitlines()[0]}") from None
    if array.dtype.hasobject or array.dtype.names is not None:
        raise TraceError(f"array {name!r} holds Python objects: give numbers")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def check_believable(what: str, layers: int, units: int) -> None:
    """Refuse a shape that no model has.

    Raises:
        TraceError: names ``what`` has it.
    """
    if units <= 0 or layers * units * 4 > _ROW_BYTES:
        raise TraceError(f"{what} has {layers} x {units} units a token: not believable")


def names_of(signals: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of some signals; a text is one name, None stays None.

    Raises:
        TraceError: no texts, or none at all.
    """
    if signals is None:
        return None
    names = several(signals)
    if not names or not all(isinstance(name, str) for name in names):
        raise TraceError(
            f"signals {brief(repr(signals), 60)}: give names, e.g. ['mlp_input', 'glu']"
        )
    return tuple(names)
