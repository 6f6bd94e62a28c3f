"""Hooks that move units in a buffer, until it has run full often, against the naive twin.

A replay evicts and inserts in turns; here several leave, or enter, one after another.
"""

import numpy as np
import pytest

from dipsim.policies import BUILTIN
from naive import policies

UNITS = 13


@pytest.mark.parametrize(
    ("name", "twin"), [("clock", policies.Clock), ("sieve", policies.Sieve)], ids=["clock", "sieve"]
)
@pytest.mark.parametrize("hits", [0.0, 0.1, 0.6], ids="hits {}".format)
def test_the_same_units_leave(name: str, twin: type[policies.Queue], hits: float) -> None:
    rng = np.random.default_rng(11)
    hooks, state = BUILTIN[name].hooks, BUILTIN[name].new_state(UNITS, 5, 0)
    slow, held, entered = twin(5), list[int](), 0  # type: ignore[call-arg]
    for t in range(1500):
        for unit in held:
            if rng.random() < hits:
                hooks["touch"](state, unit, t, 1)
                slow.touch(unit, t, hit=True)
        in_use = rng.permutation(held)[: rng.integers(0, max(1, len(held) - 2))].tolist()
        evictable = np.array([u in held and u not in in_use for u in range(UNITS)])
        for _ in range(min(rng.integers(0, 3), np.count_nonzero(evictable))):
            out = int(hooks["evict"](state, 0, evictable, t))
            assert out == slow.evict(0, np.flatnonzero(evictable).tolist(), t)
            hooks["leave"](state, out)
            slow.leave(out)
            held.remove(out)
            evictable[out] = False
        for unit in rng.permutation(UNITS)[: rng.integers(0, 3)].tolist():
            if unit not in held:
                hooks["insert"](state, unit, t)
                slow.insert(unit, t)
                held.append(unit)
                entered += 1
    assert entered > 50 * UNITS
