"""The order in which units lie in flash when those used together shall lie together.

As in Neuralink (Wang et al., arXiv 2410.19274) a group's units become a chain in which neighbours
are used by the same tokens. Popular units come first, since what is missed together is mostly what
is used about as often; among equally popular units the next shares most tokens with the last
(kernels/coactivation.py). A chain by co-activation alone merges fewer reads (docs/layout.md).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.kernels import chain
from dipsim.methods import Method
from dipsim.trace import DECODE, Outline, Trace
from dipsim.trace.encoding import pack_sets, unpack_sets

LEAST = 8
"""Tokens to learn an order from; what fewer have in common is chance."""
MOST = 1024
"""Tokens that are looked at: their sets are held."""


def order_rows(trace: Outline, tokens: str | None) -> tuple[int, int]:
    """The rows (A, B) an order is learned from: "A:B", or up to the first half of the decode
    tokens.

    Raises:
        TraceError: not of that form, or outside the trace.
        MethodError: fewer than `LEAST` rows.
    """
    if tokens is None:
        decode = np.flatnonzero(trace.phase == DECODE)
        rows = 0, int(decode[len(decode) // 2 - 1]) + 1 if len(decode) > 1 else 0
    else:
        rows = trace.token_rows("order-from", tokens)
    if rows[1] - rows[0] < LEAST:
        what = "the first half of the decode tokens" if tokens is None else f"--order-from {tokens}"
        raise MethodError(
            f"--layout permuted learns its order from {what}, here {rows[1] - rows[0]}: "
            f"at least {LEAST} tokens; record more, or name others with --order-from A:B"
        )
    return rows


def learned_places(
    every_set: Callable[[Trace, Method], list[NDArray[np.uint64]]], trace: Trace, method: Method
) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: the place of each unit in address order.

    Args:
        every_set: chooses per group uint64[tokens, layers, words], the sets of all tokens.
        trace: what to learn from; of more than `MOST` tokens the first ones.

    Raises:
        MethodError: every token needs all units, so no order is better than another.
    """
    if all(group.choice == "all" for group in method.groups):
        raise MethodError(f"--layout permuted: {method.name} needs all units anyway; drop it")
    sets_of_group = every_set(trace.window(0, min(trace.tokens, MOST)), method)
    return [
        np.stack(
            [
                coactivation_places(
                    np.ascontiguousarray(sets[:, layer]), group.units, group.at(layer).units
                )
                for layer in range(trace.layers)
            ]
        )
        for group, sets in zip(method.groups, sets_of_group, strict=True)
    ]


def coactivation_places(
    sets: NDArray[np.uint64], units: int, own: int | None = None
) -> NDArray[np.int64]:
    """int64[units]: the place of each unit of one group in address order.

    Args:
        sets: uint64[tokens, words], the units each token used.
        units: of the group.
        own: of the layer, where it has fewer: those beyond lie behind.
    """
    places = np.arange(units)
    units = units if own is None else own
    if not units:
        return places
    used = unpack_sets(sets, units)
    popular = np.argsort(-used.sum(axis=0, dtype=np.int64), kind="stable")
    places[chain(pack_sets(np.ascontiguousarray(used.T)), popular)] = np.arange(units)
    return places
