"""The replay of sets that are given, of anything that is loaded as units, through one cache."""

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.compiling import compiled_for
from dipsim.methods import Group, Method
from dipsim.policies import Policy
from dipsim.replay.cache import Counts, ReplayedCache
from dipsim.replay.contender import Contender
from dipsim.replay.replay import form_of, loop_for
from dipsim.replay.sets import NO_CODES, NO_SCORES, Sets
from dipsim.settings import Settings


def replay_given(
    what: str, sets: NDArray[np.uint64], units: int, policy: Policy, capacity: int, seed: int
) -> Counts:
    """Replay the sets of successive tokens through a cache that is empty at first; atomic access,
    admission as the policy has it.

    Args:
        what: a unit, for what progress says.
        sets: uint64[tokens, words].
        units: that there are.
        capacity: of the cache, in units.
        seed: of the policy's draws.

    Returns:
        Its hits, and which units each token missed.
    """
    method = Method(what, (Group(what, units, (), "sets"),))
    tokens = len(sets)
    every = np.ones(tokens, np.bool_)
    contender = Contender(policy, [capacity], Settings(), every)
    block = Sets(
        start=0,
        stop=tokens,
        actions=np.full(tokens, kernels.DECODE, np.uint8),
        resets=~every,
        sets=[np.ascontiguousarray(sets[:, None])],
        scores=[NO_SCORES],
        codes=[NO_CODES],
        follows=every,
        norms=[None],
    )
    cache = ReplayedCache(method, form_of(policy, "atomic"), [(0, 0)], [capacity], seed)
    with compiled_for(f"the replay of {what}s with {policy.name}"):
        loop = loop_for(method, policy, "atomic")
        (((counts,),),) = cache.feed([block], loop, contender.admission, missed=True)
    return counts
