"""Compiling a replay loop around a policy's plain functions and a method's choice of masks."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.errors import NumbaError
from numba.extending import register_jitable

from dipsim.kernels.batch import given
from dipsim.kernels.cache import Hooks
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.queued import lowest_resident, replay_queued, replay_sequential
from dipsim.kernels.ranked import fit_one, fit_several, new_size, replay_ranked, same_size
from dipsim.kernels.stored import stored

# The templates. `touch`, `rank` and so on are bound as their globals; the fingerprint is part of
# numba's key for stored code (fingerprint.py).


def _ranked(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        hooks = Hooks(touch, choose, rank)
        replay_ranked(block, (layer, first), admission, parts, cache, hooks, fit, resize)

    return replay


def _queued(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        hooks = Hooks(touch, choose, None, victim, insert, leave, expel)
        replay_queued(block, (layer, first), cache, parts, hooks)

    return replay


def _sequential(fingerprint):
    def replay(block, layer, first, admission, parts, cache):
        fingerprint
        hooks = Hooks(touch, choose, None, victim, insert, leave, expel)
        replay_sequential(block, (layer, first), admission, cache, parts, hooks)

    return replay


def _victim_of_queue(state, unit, evictable, cache, token):
    return evict(state, unit, evictable, token)


def _victim_of_rank(state, unit, evictable, cache, token):
    return lowest_resident(state, evictable, cache, token, rank)


def _chosen(block, parts, choosing, resident, last, place, t):
    # numba stores no loop that holds a compiled function as a value, only one that calls it
    compiled(block, parts, choosing, resident, last, place, t)


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
    checked: bool,
    keep: bool,
    choose: Callable[..., None] | None = None,
    changing: bool = False,
) -> Callable[..., None]:
    """Compile the replay loop around a policy's plain functions.

    The loop is a copy of a template whose globals hold the hooks, so it is written once and still
    runs as if written for the policy. With ``keep`` the machine code is stored on disk. A user's
    file may import helpers nobody watches, so no loop with code of it is kept. References are not
    counted, which would take most of the time, unless a hook allocates.

    Args:
        hooks: ``touch`` and ``rank``; or ``touch``, ``evict`` and ``insert``, and perhaps
            ``leave`` and ``expel``.
        sequential: units are requested one at a time.
        several: a cache of a policy that ranks may hold several capacities.
        checked: array bounds of the hooks are checked: of a user's policy.
        keep: the machine code is stored on disk.
        choose: the compiled function that chooses masks by what is resident, called as `given` is;
            None where the masks are given. It is compiled once for all policies.
        changing: the capacity changes from row to row; of one cache of a policy that ranks.
    """
    ranks = "rank" in hooks
    template = _sequential if sequential else _ranked if ranks else _queued
    several = several and template is _ranked
    sources = dict(hooks)
    if choose is not None:
        sources["choose"] = getattr(choose, "py_func", choose)
    homes = {Path(inspect.getfile(source)).parent for source in sources.values()}
    names = [f"{role} {hook.__module__} {hook.__qualname__}" for role, hook in sources.items()]
    names += ["several"] * several + ["changing"] * changing
    inlined = register_jitable(boundscheck=checked, forceinline=True)
    bound = {role: inlined(hook) for role, hook in {**_DEFAULTS, **hooks}.items()}
    victim = _with_globals(_victim_of_rank if ranks else _victim_of_queue, bound)
    bound["victim"] = register_jitable(forceinline=True)(victim)
    mask = given if choose is None else _with_globals(_chosen, {"compiled": choose})
    bound["choose"] = register_jitable(forceinline=True)(mask)
    bound["fit"] = fit_several if several else fit_one
    bound["resize"] = new_size if changing else same_size
    replay = _with_globals(template(fingerprint(homes, *names) if keep else ""), bound)
    if keep:
        return stored(nogil=True, _nrt=False)(replay)
    return _counting_if_it_must(replay)


def _counting_if_it_must(replay: Callable[..., None]) -> Callable[..., None]:
    """Compile without counting references; with it where that cannot be, as hooks allocate."""
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
    """Return a copy of a function to which the names are global."""
    copy = types.FunctionType(
        function.__code__, {**globals(), **names}, function.__name__, None, function.__closure__
    )
    copy.__module__, copy.__qualname__ = __name__, function.__qualname__
    return copy
