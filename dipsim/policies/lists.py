"""Queues of units, as doubly linked lists inside a policy's state.

A queue is a ring through an end node of its own: on the older side of the end node is the newest
unit, on the newer side the oldest. Node n has its links in ``state[2 * n]`` (older) and
``state[2 * n + 1]`` (newer). Nodes are units; where a unit is in two queues at once, the second one
has nodes of its own, ``shift`` higher.

`linked` lays a state out as: the links; per queue the links of its end node, the last token at
which nothing in it could leave, and its length; ``per_unit`` numbers for every unit; ``fields``
numbers of the policy, the last of which is the number of nodes.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.flags import INDEX

State = NDArray[Any]


def linked(
    nodes: int, queues: int, *, per_unit: int = 0, units: int = 0, fields: int = 1
) -> NDArray[np.int64]:
    """Return a state of empty queues. The i-th is called ``end(state, i)``.

    Args:
        nodes: places in the queues; one per unit, or more where a unit is in two queues.
        queues: number of queues.
        per_unit: numbers kept for each of ``units``; `info` says where they begin.
        units: number of units.
        fields: numbers at the end of the state; the policy owns all but the last.
    """
    state = np.zeros(2 * nodes + 4 * queues + per_unit * units + fields, np.int64)
    ends = np.arange(nodes, nodes + 2 * queues, 2)
    state[2 * ends] = state[2 * ends + 1] = ends
    state[2 * ends + 2] = -1  # the token at which nothing in it could leave
    state[-1] = nodes
    return state


@register_jitable(forceinline=True)
def end(state: State, i: int) -> int:
    """Return the i-th queue, which is named by its end node."""
    return (state[-1] + 2 * i) & INDEX


@register_jitable(forceinline=True)
def info(state: State, queues: int) -> int:
    """Return the index in ``state`` at which the numbers per unit begin."""
    return (2 * state[-1] + 4 * queues) & INDEX


@register_jitable(forceinline=True)
def length(state: State, queue: int) -> int:
    """Return the number of nodes in a queue."""
    return state[2 * queue + 3]


@register_jitable(forceinline=True)
def push(state: State, queue: int, node: int) -> None:
    """Put a node at the newest end."""
    newest = state[2 * queue] & INDEX
    state[2 * node] = newest
    state[2 * node + 1] = queue
    state[2 * newest + 1] = node
    state[2 * queue] = node
    state[2 * queue + 3] += 1


@register_jitable(forceinline=True)
def unlink(state: State, queue: int, node: int) -> None:
    """Take a node out of its queue."""
    older, newer = state[2 * node] & INDEX, state[2 * node + 1] & INDEX
    state[2 * older + 1] = newer
    state[2 * newer] = older
    state[2 * queue + 3] -= 1


@register_jitable(forceinline=True)
def renew(state: State, queue: int, node: int) -> None:
    """Move a node to the newest end of its queue."""
    older, newer = state[2 * node] & INDEX, state[2 * node + 1] & INDEX
    state[2 * older + 1] = newer
    state[2 * newer] = older
    newest = state[2 * queue] & INDEX
    state[2 * node] = newest
    state[2 * node + 1] = queue
    state[2 * newest + 1] = node
    state[2 * queue] = node


@register_jitable(forceinline=True)
def move(state: State, source: int, target: int, node: int) -> None:
    """Move a node to the newest end of another queue, which `oldest` then looks through again."""
    unlink(state, source, node)
    push(state, target, node)
    state[2 * target + 2] = -1


@register_jitable(forceinline=True)
def raise_to(state: State, lower: int, upper: int, node: int, most: int) -> int:
    """Move a node from one queue to another, which hands its oldest down if it has ``most``.

    Returns the node handed down, or -1. `oldest` then looks through both queues again.
    """
    if state[2 * upper + 3] < most:
        move(state, lower, upper, node)
        return -1
    renew(state, upper, node)  # the lengths stay: to count up and down again takes long
    down = state[2 * upper + 1] & INDEX
    renew(state, lower, down)
    state[2 * lower + 2] = state[2 * upper + 2] = -1
    return down


@register_jitable(forceinline=True)
def first(state: State, queue: int) -> int:
    """Return the oldest node, or the queue itself when it is empty."""
    return state[2 * queue + 1] & INDEX


@register_jitable(forceinline=True)
def oldest(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit that may leave, or -1. Nodes must be units.

    Units in use are passed over and move to the newest end. A queue in which all units are in use
    is looked through once per token.
    """
    node = state[2 * queue + 1] & INDEX
    if node == queue or state[2 * queue + 2] == token:
        return -1
    begin = node
    while not evictable[node]:
        renew(state, queue, node)
        node = state[2 * queue + 1] & INDEX
        if node == begin:
            state[2 * queue + 2] = token
            return -1
    return node


@register_jitable(forceinline=True)
def any_evictable(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> bool:
    """Return True if any unit in a queue may leave, without changing its order."""
    if state[2 * queue + 2] == token:
        return False
    node = state[2 * queue + 1] & INDEX
    while node != queue:
        if evictable[node]:
            return True
        node = state[2 * node + 1] & INDEX
    if state[2 * queue + 3] > 0:
        state[2 * queue + 2] = token
    return False


@register_jitable(forceinline=True)
def remember(state: State, ghosts: int, unit: int, most: int) -> int:
    """Put a unit among at most ``most`` ghosts; return the ghost forgotten for it, or -1."""
    forgotten = -1
    if length(state, ghosts) == most:
        forgotten = first(state, ghosts)
        unlink(state, ghosts, forgotten)
    push(state, ghosts, unit)
    return forgotten


@register_jitable(forceinline=True)
def note_time(state: State, newest: int, count: int, token: int) -> None:
    """Put a token before the ``count`` times, newest first, that begin at ``state[newest]``; the
    oldest is forgotten."""
    for i in range(newest + count - 1, newest, -1):
        state[i] = state[i - 1]
    state[newest] = token
