"""Laws that every policy must obey: `dipsim policies --check` tests them on a user's file.

They hold for every built-in policy, as the tests check. A fault is one sentence that says what the
policy did and what the contract asks for.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import PolicyError
from dipsim.methods import Group, Method
from dipsim.policies import BUILTIN, Policy
from dipsim.replay.replay import replay_policy
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace

TOKENS, LAYERS, UNITS = 60, 2, 130
Law = Callable[[Policy], Iterator[str]]


def check_policy(policy: Policy) -> list[str]:
    """Test all laws on small random sets from a fixed seed; return the faults, a sentence each.

    The first broken law ends the check, as does a fault that stops the replay: a wrong victim,
    memory out of range, a function that does not compile.
    """
    try:
        for law in LAWS:
            faults = list(law(policy))
            if faults:
                return faults
    except PolicyError as problem:
        return [_sentence(str(problem))]
    return []


def _sentence(problem: str) -> str:
    """Return an engine's error as a fault of the policy."""
    if "IndexError" in problem or "out of bounds" in problem:
        return f"touches memory out of range: {problem}"
    if "evict returned" in problem or "expel returned" in problem:
        return f"evicts the wrong unit: {problem}"
    return problem


def _sets(seed: int = 1, tokens: int = TOKENS, share: float = 0.35) -> NDArray[np.bool_]:
    """Draw bool[tokens, layers, units]: some units are popular, successive sets are alike."""
    rng = np.random.default_rng(seed)
    popular = rng.random((LAYERS, UNITS)) ** 2
    sets = np.empty((tokens, LAYERS, UNITS), np.bool_)
    now = rng.random((LAYERS, UNITS)) < 2 * share * popular
    for token in range(tokens):
        fresh = rng.random((LAYERS, UNITS)) < 2 * share * popular
        now = np.where(rng.random((LAYERS, UNITS)) < 0.5, now, fresh)
        sets[token] = now
    return sets


def _trace(sets: NDArray[np.bool_]) -> Trace:
    return load_trace({"glu": sets})


def _replayed(
    policy: Policy,
    sets: NDArray[np.bool_],
    capacity: int,
    threads: int | None = None,
    **options: Any,
) -> Traffic:
    """Return the counts of a replay; the options are fields of `Settings`."""
    each = np.full((LAYERS, 1), capacity, np.int64)
    settings = Settings(**options)
    return replay_policy(_trace(sets), _method(), policy, [each], settings, threads=threads)[0]


def _method() -> Method:
    return Method("recorded", (Group("glu", UNITS, (), "sets"),))


def _plans(policy: Policy) -> Iterator[dict[str, Any]]:
    """Yield every combination of access and admission that the policy can run with."""
    yield {}
    if policy.ranks and policy.admit != "never":
        yield {"admission": "forced"}
        yield {"admission": "ranked"}
    if not policy.atomic_only and not policy.future and policy.admit != "never":
        yield {"access": "sequential", "admission": "forced" if policy.ranks else None}


def _counts_add_up(policy: Policy) -> Iterator[str]:
    """At every capacity the engine accepts each victim, and hits and kept misses are bounded."""
    sets = _sets()
    for plan in _plans(policy):
        for capacity in (0, 1, 7, 40, 60, 100, UNITS):
            traffic = _replayed(policy, sets, capacity, **plan)
            if (traffic.hits > traffic.active).any() or (traffic.kept > traffic.misses).any():
                yield f"counts do not add up with {capacity} units ({plan or 'as usual'})"


def _deterministic(policy: Policy) -> Iterator[str]:
    """The same seed gives the same counts, whatever the threads and blocks."""
    sets = _sets()
    first = _replayed(policy, sets, 60, threads=1).hits
    for plan in ({"threads": 1}, {"threads": 2}):
        again = _replayed(policy, sets, 60, **plan).hits
        if (first != again).any():
            token = int(np.flatnonzero((first != again).any(axis=(1, 2)))[0])
            yield (
                f"is not deterministic: two runs with the same seed differ from token {token} on; "
                "draw from a hash of `seed`, `token` and `unit` (see policies/random.py)"
            )
            return


def _state_is_fresh(policy: Policy) -> Iterator[str]:
    """`state` depends on its arguments alone and returns a new array each time."""
    first, second = (policy.new_state(UNITS, 60, 7) for _ in range(2))
    if first.shape != second.shape or not np.array_equal(first, second):
        yield "is not deterministic: `state` returns something else when it is called again"
    elif np.shares_memory(first, second):
        yield "`state` returns the same array twice: make a new one for every cache"


def _compulsory(policy: Policy) -> Iterator[str]:
    """A cache that holds everything misses each unit once."""
    if policy.admit == "never" or policy.preload or policy.expel is not None:
        return
    sets = _sets()
    expected = int(sets.any(axis=0).sum())
    for plan in _plans(policy):
        misses = int(_replayed(policy, sets, UNITS, **plan).misses.sum())
        if misses != expected:
            yield (
                f"misses {misses} units in a cache that holds all {UNITS}: {expected} first uses "
                f"are expected ({plan or 'as usual'})"
            )


def _small_caches_agree(policy: Policy) -> Iterator[str]:
    """Under forced admission, a cache no larger than any set leaves no choice of hits."""
    if policy.admit == "never" or policy.preload or policy.expel is not None:
        return
    sets = _sets()
    capacity = int(sets.sum(axis=2).min())
    plan: dict[str, Any] = {"admission": "forced"} if policy.ranks else {}
    same = _replayed(BUILTIN["lru"], sets, capacity).hits
    if (_replayed(policy, sets, capacity, **plan).hits != same).any():
        yield (
            "hits otherwise than lru where the set in use fills the cache and nothing is left to "
            "choose: `rank`, `touch` or `leave` must not change what the engine owns"
        )


def _bounded_by_opt(policy: Policy) -> Iterator[str]:
    """No policy that starts empty hits more than the optimum."""
    if policy.preload:
        return
    sets = _sets()
    for capacity in (20, 50, 80):
        best = int(_replayed(BUILTIN["opt"], sets, capacity).hits.sum())
        hits = int(_replayed(policy, sets, capacity).hits.sum())
        if hits > best:
            yield f"hits {hits} of {capacity} units' accesses, the optimum only {best}"


def _rank_only_looks(policy: Policy) -> Iterator[str]:
    """`rank` does not change `state`."""
    if policy.rank is None:
        return
    from numba import njit

    probe, state = njit(boundscheck=True)(policy.rank), policy.new_state(UNITS, 60, 7)
    before = state.copy()
    for unit in range(UNITS):
        probe(state, unit, 5)
    if not np.array_equal(before, state):
        yield "`rank` changes `state`: it may only look, `touch` is where things change"


def _blind_is_true(policy: Policy) -> Iterator[str]:
    """Several capacities in one pass of a `blind` policy give the hits that each gives alone."""
    trace = _trace(_sets())
    sizes = [np.full((LAYERS, 1), capacity, np.int64) for capacity in (30, 60, 90)]
    together = replay_policy(trace, _method(), policy, sizes)
    for size, shared in zip(sizes, together, strict=True):
        alone = replay_policy(trace, _method(), replace(policy, blind=False), [size])[0]
        if (alone.hits != shared.hits).any():
            yield "is `blind` and yet looks at `hit`: capacities that share a state differ"
            return


LAWS: tuple[Law, ...] = (
    _state_is_fresh,
    _counts_add_up,
    _deterministic,
    _rank_only_looks,
    _compulsory,
    _small_caches_agree,
    _bounded_by_opt,
    _blind_is_true,
)
"""All laws in the order of testing; the first that is broken ends the check."""
