"""Queues of nodes inside a policy's state, from the oldest to the newest.

A queue is a circular buffer to which nodes are only appended, and each node keeps the position of
its entry. To take a node out is to change that position: the entry that no longer is a node's own
is passed over when its turn comes. So nothing is linked, and buffers are read and written in order.

Nodes are units; where a unit is in two queues at once, the second one has nodes of its own,
``shift`` higher. A node is in one queue at a time: `place` tells in which.

`linked` lays a state out as: the position of each node, or below 0; six numbers of each queue;
``per_unit`` numbers for every unit; the buffers; ``fields`` numbers of the policy, of which the last
is the number of nodes.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

State = NDArray[Any]
OUT = -1
"""Position of a node that is in no queue; a policy may write others below 0."""
HEAD, TAIL, IDLE, LENGTH, BUFFER, MASK = range(6)
"""Numbers of a queue: the positions of its oldest entry and behind its newest; the last token at
which nothing in it could leave; how many nodes it has; where in the state its buffer begins, and
the places of the buffer less one, which are a power of 2."""
_QUEUE = 48
"""A position is the number of its queue, shifted by this, plus the count of entries before it."""


def linked(
    nodes: int, queues: int, *, per_unit: int = 0, units: int = 0, fields: int = 1
) -> NDArray[np.int64]:
    """Return a state of empty queues. The i-th is called ``end(state, i)``.

    Args:
        nodes: places in the queues; one per unit, or more where a unit is in two queues.
        queues: number of queues.
        per_unit: numbers kept for each of ``units``; `info` says where they begin.
        units: number of units, all of which one queue may hold; if 0, of nodes.
        fields: numbers at the end of the state; the policy owns all but the last.
    """
    places = 1 << max(1, (3 * (units or nodes) - 1) // 2).bit_length()
    buffers = nodes + 6 * queues + per_unit * units
    state = np.zeros(buffers + queues * places + fields, np.int64)
    state[:nodes] = OUT
    each = np.arange(queues)
    table = state[nodes : nodes + 6 * queues].reshape(queues, 6)
    table[:, HEAD] = table[:, TAIL] = each << _QUEUE
    table[:, IDLE], table[:, MASK] = -1, places - 1
    table[:, BUFFER] = buffers + places * each
    state[-1] = nodes
    return state


@register_jitable(forceinline=True)
def end(state: State, i: int) -> int:
    """Return the i-th queue, which is named by the index of its first number."""
    return state[-1] + 6 * i


@register_jitable(forceinline=True)
def info(state: State, queues: int) -> int:
    """Return the index in ``state`` at which the numbers per unit begin."""
    return state[-1] + 6 * queues


@register_jitable(forceinline=True)
def length(state: State, queue: int) -> int:
    """Return the number of nodes in a queue."""
    return state[queue + LENGTH]


@register_jitable(forceinline=True)
def place(state: State, node: int) -> int:
    """Return the number of the queue that a node is in, below 0 when it is in none."""
    return state[node] >> _QUEUE


@register_jitable
def tidy(state: State, queue: int) -> int:
    """Remove the entries of a buffer that are no longer a node's own; returns the new tail."""
    head, tail, buffer, mask = (
        state[queue],
        state[queue + TAIL],
        state[queue + BUFFER],
        state[queue + MASK],
    )
    kept = head
    for position in range(head, tail):
        node = state[buffer + (position & mask)]
        if state[node] == position:
            state[buffer + (kept & mask)] = node
            state[node] = kept
            kept += 1
    return kept


@register_jitable(forceinline=True)
def renew(state: State, queue: int, node: int) -> None:
    """Move a node to the newest end of its queue."""
    tail = state[queue + TAIL]
    if tail - state[queue + HEAD] > state[queue + MASK]:
        tail = tidy(state, queue)
    state[state[queue + BUFFER] + (tail & state[queue + MASK])] = node
    state[node] = tail
    state[queue + TAIL] = tail + 1


@register_jitable(forceinline=True)
def push(state: State, queue: int, node: int) -> None:
    """Put a node at the newest end."""
    renew(state, queue, node)
    state[queue + LENGTH] += 1


@register_jitable(forceinline=True)
def unlink(state: State, queue: int, node: int) -> None:
    """Take a node out of its queue."""
    state[node] = OUT
    state[queue + LENGTH] -= 1


@register_jitable(forceinline=True)
def move(state: State, source: int, target: int, node: int) -> None:
    """Move a node to the newest end of another queue, which `oldest` then looks through again."""
    state[source + LENGTH] -= 1
    push(state, target, node)
    state[target + IDLE] = -1


@register_jitable(forceinline=True)
def first(state: State, queue: int) -> int:
    """Return the oldest node, or the queue itself when it is empty."""
    if state[queue + LENGTH] == 0:
        return queue
    head, buffer, mask = state[queue], state[queue + BUFFER], state[queue + MASK]
    node = state[buffer + (head & mask)]
    while state[node] != head:
        head += 1
        node = state[buffer + (head & mask)]
    state[queue + HEAD] = head
    return node


@register_jitable(forceinline=True)
def oldest(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit that may leave, or -1. Nodes must be units.

    Units in use are passed over and move to the newest end. A queue in which all units are in use
    is looked through once per token.
    """
    if state[queue + LENGTH] == 0 or state[queue + IDLE] == token:
        return -1
    node = begin = first(state, queue)
    while not evictable[node]:
        state[queue + HEAD] += 1
        renew(state, queue, node)
        node = first(state, queue)
        if node == begin:
            state[queue + IDLE] = token
            return -1
    return node


@register_jitable(forceinline=True)
def at(state: State, queue: int, position: int) -> int:
    """Return the node of the entry at a position of a queue, or -1 where the node has left it."""
    node = state[state[queue + BUFFER] + (position & state[queue + MASK])]
    return node if state[node] == position else -1


@register_jitable(forceinline=True)
def any_evictable(state: State, queue: int, evictable: NDArray[np.bool_], token: int) -> bool:
    """Return True if any unit in a queue may leave, without changing its order."""
    if state[queue + IDLE] == token:
        return False
    for position in range(state[queue + HEAD], state[queue + TAIL]):
        node = at(state, queue, position)
        if node >= 0 and evictable[node]:
            return True
    if state[queue + LENGTH] > 0:
        state[queue + IDLE] = token
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
