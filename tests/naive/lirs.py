"""LIRS as its authors' program replays a list of requests, one at a time, with a stack S that has
no bound (Jiang and Zhang, SIGMETRICS 2002). Nothing here comes from dipsim, nor from the queue form
of naive/policies.py, whose hooks follow dipsim's contract.
"""

from collections.abc import Iterable


def lirs_hits(requests: Iterable[int], capacity: int, hir: float) -> int:
    """Return how many requests hit.

    Args:
        requests: units, in the order in which they are asked for.
        capacity: units that fit, at least 3.
        hir: share of the cache for resident HIR units, of which there is at least one.
    """
    places = max(1, int(hir * capacity))  # of resident HIR units
    stack: list[int] = []  # S, the latest use last
    queue: list[int] = []  # Q, the resident HIR units; the first leaves
    lir: set[int] = set()
    hits = 0
    for unit in requests:
        resident, remembered = unit in lir or unit in queue, unit in stack
        free = capacity - len(lir) - len(queue)
        hits += resident
        if unit in queue:
            queue.remove(unit)
        elif not resident and free == 0:
            queue.pop(0)
        if remembered:
            stack.remove(unit)
        stack.append(unit)
        if not resident and not remembered and free > places:
            lir.add(unit)
        elif unit not in lir and remembered:
            lowest = next(low for low in stack if low in lir)
            lir.remove(lowest)
            lir.add(unit)
            queue.append(lowest)
        elif unit not in lir:
            queue.append(unit)
        while stack[0] not in lir:
            stack.pop(0)
    return hits
