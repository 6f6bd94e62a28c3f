"""LIRS: keeps units by the distance between their last two uses, not by the age of the last one
(Jiang and Zhang, SIGMETRICS 2002).

Stack S orders units by last use. Most of the cache is for LIR units, whose distance is low; a share
``hir`` is for resident HIR units, which wait in queue Q and leave first. An HIR unit that is used
again while still in S becomes LIR, and the LIR at the bottom of S becomes HIR. Non-resident HIR
units stay in S; they also stand in a list of their own, oldest first. S has no bound, as in the
authors' program, so it holds at most every unit; ``stack`` bounds it to so many times the cache,
and the oldest non-resident units are forgotten.

``eager=1,stack=2`` does as libCacheSim 0.3.5 does, so that counts can be compared: S holds at most
twice the cache, and a hit on a resident HIR unit that S has forgotten demotes a LIR unit, for which
the front of Q leaves at once (``hit_RD_HIRinQ``). In the paper no unit leaves on a hit.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import end, first, info, length, linked, oldest, push, renew, unlink

QUEUES = 3
S, Q, GONE = range(3)
"""Queues: the stack, the resident HIR units, the non-resident ones. In S unit u is node units + u.
"""
OUT, LIR, HIR, GHOST = range(4)
"""Kinds of a unit. A GHOST is non-resident and always in S; an HIR unit may be in S."""
CAPACITY, LIR_LIMIT, COUNT, EAGER, LEAVING, MOST = -2, -3, -4, -5, -6, -7
"""Fields at the end of the state. COUNT is the number of LIR units, LEAVING that of units that have
to leave Q although there is room, MOST that of units that S may hold."""


def state(
    units: int, capacity: int, seed: int, hir: float = 0.01, stack: float = 0.0, eager: int = 0
) -> NDArray[np.int64]:
    """Return three queues, the kind of each unit, a flag for each unit in S, and the fields."""
    fresh = linked(2 * units, QUEUES, per_unit=2, units=units, fields=7)
    fresh[CAPACITY] = capacity
    fresh[LIR_LIMIT] = capacity - max(1, int(within("hir", hir, 0, 0.99) * capacity))
    times = within("stack", stack, 0, 1e6)
    fresh[MOST] = int(times * capacity) if times else units
    fresh[EAGER] = int(within("eager", eager, 0, 1))
    return fresh


@register_jitable(forceinline=True)
def remove_from_stack(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out of S; forget it if it is a ghost."""
    units, kind = state[-1] // 2, info(state, QUEUES)
    unlink(state, end(state, S), units + unit)
    state[kind + units + unit] = 0
    if state[kind + unit] == GHOST:
        unlink(state, end(state, GONE), unit)
        state[kind + unit] = OUT


@register_jitable(forceinline=True)
def prune(state: NDArray[np.int64]) -> None:
    """Take units off the bottom of S until a LIR unit lies there."""
    units, kind, stack = state[-1] // 2, info(state, QUEUES), end(state, S)
    node = first(state, stack)
    while node != stack and state[kind + node - units] != LIR:
        remove_from_stack(state, node - units)
        node = first(state, stack)


@register_jitable(forceinline=True)
def limit(state: NDArray[np.int64]) -> None:
    """Forget the oldest ghosts until S is no larger than its bound."""
    gone = end(state, GONE)
    while length(state, end(state, S)) > state[MOST] and length(state, gone) > 0:
        remove_from_stack(state, first(state, gone))


@register_jitable(forceinline=True)
def demote(state: NDArray[np.int64]) -> None:
    """Turn the LIR unit at the bottom of S into a resident HIR unit at the end of Q."""
    units, kind, queue = state[-1] // 2, info(state, QUEUES), end(state, Q)
    unit = first(state, end(state, S)) - units
    remove_from_stack(state, unit)
    state[kind + unit] = HIR
    push(state, queue, unit)
    state[2 * queue + 2] = -1  # it may leave at once
    state[COUNT] -= 1
    prune(state)


@register_jitable(forceinline=True)
def make_room_for_a_lir(state: NDArray[np.int64]) -> None:
    """Demote LIR units until one more fits their share."""
    while state[COUNT] + 1 > state[LIR_LIMIT] and state[COUNT] > 0:
        demote(state)


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move the unit to the top of S; an HIR unit that was still in S becomes LIR."""
    units, kind = state[-1] // 2, info(state, QUEUES)
    stack, queue = end(state, S), end(state, Q)
    in_stack = state[kind + units + unit]
    if in_stack:
        renew(state, stack, units + unit)
    if not hit:
        return
    if state[kind + unit] == LIR:
        prune(state)
    elif in_stack:
        unlink(state, queue, unit)
        state[kind + unit] = OUT
        make_room_for_a_lir(state)
        state[kind + unit] = LIR
        state[COUNT] += 1
        if not state[kind + units + unit]:  # with no LIR unit left, pruning took it out as well
            push(state, stack, units + unit)
            state[kind + units + unit] = 1
    else:
        renew(state, queue, unit)
        if state[EAGER] and state[COUNT] + 1 > state[LIR_LIMIT] and state[COUNT] > 0:
            demote(state)
            if length(state, queue) > state[CAPACITY] - state[LIR_LIMIT]:
                state[LEAVING] += 1
        push(state, stack, units + unit)
        state[kind + units + unit] = 1
        limit(state)


def expel(state: NDArray[np.int64], evictable: NDArray[np.bool_], token: int) -> int:
    """Return a unit that an eager demotion has pushed out of Q, or -1."""
    if state[LEAVING] == 0:
        return -1
    state[LEAVING] -= 1
    return oldest(state, end(state, Q), evictable, token)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Make the unit LIR if S remembers it or LIR units have room in their share, else HIR."""
    units, kind, stack = state[-1] // 2, info(state, QUEUES), end(state, S)
    if state[kind + unit] == GHOST:
        unlink(state, end(state, GONE), unit)
        state[kind + unit] = OUT
        make_room_for_a_lir(state)
        state[kind + unit] = LIR
        state[COUNT] += 1
    elif state[COUNT] + 1 <= state[LIR_LIMIT]:
        state[kind + unit] = LIR
        state[COUNT] += 1
    else:
        state[kind + unit] = HIR
        push(state, end(state, Q), unit)
    if not state[kind + units + unit]:
        push(state, stack, units + unit)
        state[kind + units + unit] = 1
    limit(state)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the front of Q or, if all of Q is in use, the lowest LIR unit of S that may leave."""
    units, kind, stack = state[-1] // 2, info(state, QUEUES), end(state, S)
    if state[kind + unit] == GHOST:
        make_room_for_a_lir(state)
    victim = oldest(state, end(state, Q), evictable, token)
    if victim >= 0:
        return victim
    node = first(state, stack)
    while node != stack:
        if state[kind + node - units] == LIR and evictable[node - units]:
            return node - units
        node = state[2 * node + 1]
    return -1


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Keep an HIR unit that is in S there as a ghost; forget any other unit."""
    units, kind = state[-1] // 2, info(state, QUEUES)
    if state[kind + unit] == LIR:
        state[kind + unit] = OUT
        remove_from_stack(state, unit)
        state[COUNT] -= 1
        prune(state)
        return
    unlink(state, end(state, Q), unit)
    state[kind + unit] = OUT
    if state[kind + units + unit]:
        state[kind + unit] = GHOST
        push(state, end(state, GONE), unit)
        limit(state)


LIRS = Policy(
    "lirs",
    "evicts by the distance of the last two uses",
    "Jiang and Zhang, SIGMETRICS 2002",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
    expel=expel,
)
