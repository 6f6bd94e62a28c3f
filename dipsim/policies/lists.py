"""Queues of units, as doubly linked lists inside a policy's state.

A queue is a ring through an end node of its own: on the older side of the end node is the newest
unit, on the newer side the oldest. Node n has its links in ``state[2 * n]`` (older) and
``state[2 * n + 1]`` (newer). Nodes are units; where a unit is in two queues at once, the second one
has nodes of its own, ``shift`` higher.

`linked` lays a state out as: links; two more numbers per queue; ``per_unit`` numbers for every
unit; ``fields`` numbers of the policy, the last of which is the number of nodes.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

State = NDArray[Any]


def linked(
    nodes: int, queues: int, *, per_unit: int = 0, units: int = 0, fields: int = 1
) -> NDArray[np.int64]:
    """A state of empty queues. The i-th is called ``end(state, i)``.

    Args:
        per_unit: numbers for each of ``units``; `info` says where they begin.
    """
    state = np.zeros(2 * nodes + 4 * queues + per_unit * units + fields, np.int64)
    ends = np.arange(nodes, nodes + 2 * queues, 2)
    state[2 * ends] = state[2 * ends + 1] = ends
    state[2 * ends + 2] = -1  # the token at which nothing in it could leave
    state[-1] = nodes
    return state


@register_jitable(forceinline=True)
def end(state: State, i: int) -> int:
    """The i-th queue: its end node."""
    return state[-1] + 2 * i


@register_jitable(forceinline=True)
def info(state: State, queues: int) -> int:
    """Where the numbers per unit begin."""
    return 2 * state[-1] + 4 * queues


@register_jitable(forceinline=True)
def length(state: State, queue: int) -> int:
    """How many nodes a queue has."""
    return state[2 * queue + 3]


@register_jitable(forceinline=True)
def push(state: State, queue: int, node: int) -> None:
    """Put a node at the newest end."""
    newest = state[2 * queue]
    state[2 * node] = newest
    state[2 * node + 1] = queue
    state[2 * newest + 1] = node
    state[2 * queue] = node
    state[2 * queue + 3] += 1


@register_jitable(forceinline=True)
def unlink(state: State, queue: int, node: int) -> None:
    """Take a node out of its queue."""
    older, newer = state[2 * node], state[2 * node + 1]
    state[2 * older + 1] = newer
    state[2 * newer] = older
    state[2 * queue + 3] -= 1


@register_jitable(forceinline=True)
def renew(state: State, queue: int, node: int) -> None:
    """Move a node to the newest end of its queue."""
    older, newer = state[2 * node], state[2 * node + 1]
    state[2 * older + 1] = newer
    state[2 * newer] = older
    newest = state[2 * queue]
    state[2 * node] = newest
    state[2 * node + 1] = queue
    state[2 * newest + 1] = node
    state[2 * queue] = node


@register_jitable(forceinline=True)
def move(state: State, source: int, target: int, node: int) -> None:
    """Move a node to the newest end of another queue, where it may be found at once."""
    unlink(state, source, node)
    push(state, target, node)
    state[2 * target + 2] = -1


@register_jitable(forceinline=True)
def first(state: State, queue: int) -> int:
    """The oldest node, or the queue itself when it is empty."""
    return state[2 * queue + 1]


@register_jitable(forceinline=True)
def oldest(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The oldest unit that may leave, or -1; nodes are units.

    What is in use is passed over and goes to the newest end. A queue in which all are in use is
    looked through once a token.
    """
    node = state[2 * queue + 1]
    if node == queue or state[2 * queue + 2] == token:
        return -1
    begin = node
    while not evictable[node]:
        renew(state, queue, node)
        node = state[2 * queue + 1]
        if node == begin:
            state[2 * queue + 2] = token
            return -1
    return node


@register_jitable(forceinline=True)
def any_evictable(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> bool:
    """Whether anything in a queue may leave; changes no order."""
    if state[2 * queue + 2] == token:
        return False
    node = state[2 * queue + 1]
    while node != queue:
        if evictable[node]:
            return True
        node = state[2 * node + 1]
    if state[2 * queue + 3] > 0:
        state[2 * queue + 2] = token
    return False


@register_jitable(forceinline=True)
def remember(state: State, ghosts: int, unit: int, most: int) -> int:
    """Put a unit among at most ``most`` ghosts; returns the one forgotten for it, or -1."""
    forgotten = -1
    if length(state, ghosts) == most:
        forgotten = first(state, ghosts)
        unlink(state, ghosts, forgotten)
    push(state, ghosts, unit)
    return forgotten
