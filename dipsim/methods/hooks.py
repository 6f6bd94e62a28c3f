"""The hook of a user's own method, compiled, and the choice of masks around it.

A hook is compiled once, with array bounds checked, for all policies. Nothing of it is stored on
disk: its file may import helpers that nobody watches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba import types as nb
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.kernels.bits import SKIP, bit, unpack
from dipsim.kernels.cache import Choosing
from dipsim.kernels.frames import framed
from dipsim.kernels.topk import LARGEST_BITS, kept_shares, top_k
from dipsim.methods.contract import Group
from dipsim.methods.pruning import PruningMethod
from dipsim.plugins import cause_of

KIND, DETAIL = 0, 1
"""Columns of `Choosing.memory`: what may be wrong, and the unit or number that is."""
FINE, IN_HOOK, BAD_KEY, BAD_COUNT = 0, 1, 2, 3
"""Values of `KIND`: nothing; the hook runs, or failed; a key that is not finite and at least 0;
another number of units than k."""
RESIDENT, CHOSEN = 0, 1
"""Rows of `Choosing.flags`."""


class Hook(NamedTuple):
    """The compiled functions of a method."""

    choose: Callable[..., int]
    """Choice of masks that depend on what is resident, which a replay loop calls."""
    choose_rows: Callable[..., None]
    """Choice of blocks of rows, without a cache."""


def hook_of(method: PruningMethod) -> Hook:
    """Return the compiled functions of a method.

    Raises:
        MethodError: its hook does not compile, e.g. as it writes what it may only read.
    """
    function = method.rank or method.select
    assert function is not None, "a method has a hook"
    try:
        return _compiled(function, method.rank is not None, method.varies)
    except Exception as problem:  # whatever numba makes of the user's code
        name = "rank" if method.rank is not None else "select"
        if "Cannot modify readonly" in str(problem):
            raise MethodError(
                f"method {method.name}: {name} changes its inputs: scores and resident can only "
                "be read"
            ) from problem
        raise MethodError(
            f"method {method.name}: {name} does not compile: {type(problem).__name__}: "
            f"{cause_of(problem)}"
        ) from problem


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable[..., None], ranks: bool, varies: bool) -> Hook:
    scores = nb.Array(nb.float32, 1, "C", readonly=True)
    resident = nb.Array(nb.boolean, 1, "C", readonly=True)
    out = nb.Array(nb.float32 if ranks else nb.boolean, 1, "C")
    arguments = scores, nb.int64, resident, nb.float64[::1], out
    plain = getattr(function, "py_func", function)  # compiled anew where it is compiled already
    own = njit([arguments], boundscheck=True, nogil=True)(plain)
    pick = _ranking(own) if ranks else _selecting(own, varies)
    return Hook(_choose(pick), _choose_rows(pick))


def choose_rows(
    group: Group,
    choosing: Choosing,
    scores: NDArray[np.float32],
    actions: NDArray[np.uint8],
    resets: NDArray[np.bool_],
    sets: NDArray[np.uint64],
    shares: NDArray[np.float32],
    resident: NDArray[np.uint64] | None = None,
) -> None:
    """Write the units that every row uses, and what they hold.

    Args:
        group: of a method of a user's own.
        choosing: with a part for each layer.
        scores: float32[n, layers, units].
        sets: out uint64[n, layers, words].
        actions: [n] of `Block`; a row that is skipped leaves no trace in the state.
        resets: [n] of `Block`.
        shares: out float32[n, layers, 2], as of `kept_shares`.
        resident: uint64[n, layers, words]; None for nothing.

    Raises:
        MethodError: the hook fails, or breaks the contract.
    """
    assert group.custom is not None
    held = np.zeros_like(sets) if resident is None else resident
    choose = hook_of(group.custom).choose_rows
    try:
        choose(
            np.ascontiguousarray(scores),
            group.kept,
            actions,
            resets,
            held,
            framed(choosing),
            sets,
            shares,
        )
    except Exception as problem:
        layers = scores.shape[1]
        own = [group.signal] * layers, [group.kept] * layers
        failed = failure_of(group.custom.label, *own, choosing, problem)
        if failed is None:
            raise
        raise failed from problem


def failure_of(
    name: str, signals: Sequence[str], k: Sequence[int], choosing: Choosing, problem: Exception
) -> MethodError | None:
    """Return what went wrong in the hook of a method; None where it was not the hook.

    Args:
        name: of the method.
        signals: [parts].
        k: [parts].
    """
    wrong = np.flatnonzero(choosing.memory[:, KIND])
    if not len(wrong):
        return None
    p = int(wrong[0])
    kind, detail = (int(value) for value in choosing.memory[p, :2])
    method = f"method {name}"
    if kind == BAD_KEY:
        key = float(choosing.keys[0, detail])
        return MethodError(
            f"{method}: rank wrote the key {key:g} for unit {detail} of {signals[p]}: keys are "
            "finite numbers, 0 or more"
        )
    if kind == BAD_COUNT:
        return MethodError(
            f"{method}: select chose {detail} units of {signals[p]}, where k is {k[p]}: choose k "
            "of them, or declare varies=True"
        )
    return MethodError(
        f"{method}: its hook fails on {signals[p]} with {type(problem).__name__}: "
        f"{cause_of(problem)}"
    )


# Around a hook -----------------------------------------------------------------------------------


@register_jitable
def _odd_keys(keys: Any) -> int:
    """Count the keys that are negative, or -0, or not finite."""
    bits, count = keys.view(np.uint32), np.int32(0)
    for u in range(keys.shape[0]):
        count = np.int32(count + np.int32(bits[u] > np.uint32(LARGEST_BITS)))
    return int(count)


def _ranking(hook: Any) -> Any:
    @njit(nogil=True)
    def pick(scores: Any, k: int, words: Any, choosing: Any, p: int) -> None:
        """Write the units with the k largest keys to ``words``."""
        units, memory = scores.shape[0], choosing.memory
        state = choosing.own[choosing.own_at[p] : choosing.own_at[p + 1]]
        keys = choosing.keys[0, :units]
        for u in range(units):
            keys[u] = 0
        memory[p, KIND] = IN_HOOK
        hook(scores, k, choosing.flags[RESIDENT, :units], state, keys)
        memory[p, KIND] = FINE
        if _odd_keys(keys) > 0:
            for u in range(units):
                if keys[u] == 0:
                    keys[u] = 0  # -0 is 0 too
                elif not 0 <= keys[u] < np.inf:
                    memory[p, KIND], memory[p, DETAIL] = BAD_KEY, u
                    raise ValueError("a key that is not finite and at least 0")
        guess = choosing.threshold[p]
        choosing.threshold[p] = top_k(keys, scores, k, guess, words, keys, choosing.tied)

    return pick


def _selecting(hook: Any, varies: bool) -> Any:
    @njit(nogil=True)
    def pick(scores: Any, k: int, words: Any, choosing: Any, p: int) -> None:
        """Write the units that the hook chooses to ``words``."""
        units, memory = scores.shape[0], choosing.memory
        state = choosing.own[choosing.own_at[p] : choosing.own_at[p + 1]]
        chosen = choosing.flags[CHOSEN, :units]
        for u in range(units):
            chosen[u] = False
        memory[p, KIND] = IN_HOOK
        hook(scores, k, choosing.flags[RESIDENT, :units], state, chosen)
        memory[p, KIND] = FINE
        for w in range(words.shape[0]):
            words[w] = 0
        count = 0
        for u in range(units):
            if chosen[u]:
                words[u >> 6] |= bit(u)
                count += 1
        if count != k and not varies:
            memory[p, KIND], memory[p, DETAIL] = BAD_COUNT, count
            raise ValueError("another number of units than k")

    return pick


def _choose(pick: Any) -> Any:
    @njit(nogil=True)
    def choose(block: Any, parts: Any, cache: Any, r: int, layer: int, p: int, t: int) -> int:
        """Write the units that a token uses to the block's sets, and what they hold to its shares.

        A replay loop calls it (kernels/bind.py).
        """
        start, stop = parts.word[p], parts.word[p + 1]
        first, units, choosing = 64 * start, parts.units[p], cache.choosing
        words, held = block.sets[r, layer, start:stop], cache.resident[0, start:stop]
        scores, flags = block.scores[r, layer, first : first + units], choosing.flags[RESIDENT]
        unpack(held, flags, units)
        pick(scores, parts.k[p], words, choosing, p)
        kept_shares(scores, words, block.shares[r, p])
        return 0

    return choose


def _choose_rows(pick: Any) -> Any:
    @njit(nogil=True)
    def rows(
        scores: Any,
        k: int,
        actions: Any,
        resets: Any,
        resident: Any,
        choosing: Any,
        sets: Any,
        shares: Any,
    ) -> None:
        """Write the units that every row uses, as `choose_rows` tells."""
        own, flags = choosing.own, choosing.flags[RESIDENT]
        before = np.empty_like(own)
        for r in range(scores.shape[0]):
            if resets[r]:
                own[:] = choosing.own_fresh
            if actions[r] == SKIP:
                before[:] = own
            for layer in range(scores.shape[1]):
                row, words = scores[r, layer], sets[r, layer]
                unpack(resident[r, layer], flags, row.shape[0])
                pick(row, k, words, choosing, layer)
                kept_shares(row, words, shares[r, layer])
            if actions[r] == SKIP:
                own[:] = before

    return rows


def states_of(
    method: PruningMethod, units: int, k: int, signal: str, seeds: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return a fresh state for each of several seeds.

    Raises:
        MethodError: as `PruningMethod.new_state`.
    """
    return [method.new_state(units, k, seed, signal) for seed in seeds]
