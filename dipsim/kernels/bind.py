"""Compiling a replay loop around a policy's plain functions."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.errors import NumbaError
from numba.extending import register_jitable

from dipsim.kernels.batch import chosen, given
from dipsim.kernels.fingerprint import stamp
from dipsim.kernels.queued import lowest_resident, replay_queued, replay_sequential
from dipsim.kernels.ranked import fit_one, fit_several, new_size, replay_ranked, same_size

# The templates. `touch`, `rank` and so on are bound as their globals; the fingerprint is part of
# numba's key for stored code (fingerprint.py).


def _ranked(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        replay_ranked(
            block, layer, first, admission, parts, cache, touch, rank, fit_one, choose, resize
        )

    return replay


def _ranked_several(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        replay_ranked(
            block, layer, first, admission, parts, cache, touch, rank, fit_several, choose, resize
        )

    return replay


def _queued(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        replay_queued(
            block,
            layer,
            first,
            admission,
            parts,
            cache,
            touch,
            victim,
            insert,
            leave,
            expel,
            choose,
        )

    return replay


def _sequential(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        replay_sequential(
            block,
            layer,
            first,
            admission,
            parts,
            cache,
            touch,
            victim,
            insert,
            leave,
            expel,
            choose,
        )

    return replay


def _victim_of_queue(state, unit, evictable, cache, token):
    return evict(state, unit, evictable, token)


def _victim_of_rank(state, unit, evictable, cache, token):
    return lowest_resident(state, evictable, cache, token, rank)


def _insert_nothing(state, unit, token):
    pass


def _leave_nothing(state, unit):
    pass


def _expel_nothing(state, evictable, token):
    return -1


_DEFAULTS = {"insert": _insert_nothing, "leave": _leave_nothing, "expel": _expel_nothing}


def bind(
    hooks: dict[str, Callable[..., Any]],
    *,
    sequential: bool,
    several: bool,
    aware: bool,
    keep: bool,
    changing: bool = False,
) -> Callable[..., None]:
    """Compile the replay loop around a policy's plain functions.

    The loop is a copy of a template whose globals hold the hooks, so it is written once and still
    runs as if written for the policy. With ``keep`` the machine code is stored on disk. A user's
    file may import helpers nobody watches, so its loop is not kept; its array bounds are checked.
    References are not counted, which would take most of the time, unless a hook allocates.

    Args:
        hooks: ``touch`` and ``rank``; or ``touch``, ``evict`` and ``insert``, and perhaps
            ``leave`` and ``expel``.
        sequential: units are requested one at a time.
        several: a cache of a policy that ranks may hold several capacities.
        aware: masks depend on what is resident. Other loops do without the rules, which take
            seconds to compile.
        changing: the capacity changes from row to row; of one cache of a policy that ranks.
    """
    ranks = "rank" in hooks
    atomic = (_ranked_several if several else _ranked) if ranks else _queued
    template = _sequential if sequential else atomic
    homes = {Path(inspect.getfile(hook)).parent for hook in hooks.values()}
    names = [f"{role} {hook.__module__} {hook.__qualname__}" for role, hook in hooks.items()]
    names += ["aware"] * aware + ["changing"] * changing
    fingerprint = stamp(homes, *names) if keep else ""
    checked = register_jitable(boundscheck=not keep, forceinline=True)
    compiled = {role: checked(hook) for role, hook in {**_DEFAULTS, **hooks}.items()}
    victim = _with_globals(_victim_of_rank if ranks else _victim_of_queue, compiled)
    compiled["victim"] = register_jitable(forceinline=True)(victim)
    compiled["choose"] = chosen if aware else given
    compiled["resize"] = new_size if changing else same_size
    replay = _with_globals(template(fingerprint), compiled)
    if keep:
        return njit(cache=True, nogil=True, _nrt=False)(replay)
    return _counting_if_it_must(replay)


def _counting_if_it_must(replay: Callable[..., None]) -> Callable[..., None]:
    """Compiled without counting references; with it where that cannot be, as hooks allocate."""
    loops = [njit(nogil=True, _nrt=counts)(replay) for counts in (False, True)]

    def run(*arguments: Any) -> None:
        first, last = loops[0], loops[-1]
        try:
            first(*arguments)
        except NumbaError:  # at compilation, so nothing has run
            if first is last:
                raise
            loops[:] = [last]
            last(*arguments)

    return run


def _with_globals(function: Any, names: dict[str, Any]) -> Any:
    """A copy of a function to which the names are global."""
    made = types.FunctionType(
        function.__code__, {**globals(), **names}, function.__name__, None, function.__closure__
    )
    made.__module__, made.__qualname__ = __name__, function.__qualname__
    return made
