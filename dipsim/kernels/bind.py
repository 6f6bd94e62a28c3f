"""Compiling a replay loop around a policy's plain functions."""

import hashlib
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.extending import register_jitable

from dipsim.kernels.loops import replay_queued, replay_ranked

_KERNELS = Path(__file__).parent


def _ranked_template(stamp):
    def replay(block, layer, first, capacity, admission, k, gamma, cache, requests):
        stamp  # part of numba's key for stored code: see `bind`
        replay_ranked(
            block, layer, first, capacity, admission, k, gamma, cache, requests, touch, rank
        )

    return replay


def _queued_template(stamp):
    def replay(block, layer, first, capacity, admission, k, gamma, cache, requests):
        stamp  # part of numba's key for stored code: see `bind`
        replay_queued(
            block, layer, first, capacity, k, gamma, cache, requests, touch, evict, insert, leave
        )

    return replay


def bind(hooks: dict[str, Callable[..., Any]], *, keep: bool) -> Callable[..., None]:
    """Compile the replay loop around a policy's plain functions.

    The loop is a copy of a template whose globals hold the hooks, so it is written once and still
    runs as if written for the policy. With ``keep`` the machine code is stored on disk. numba
    renews it only when the file of the template changes, so a hash of all kernels and policies is
    a closure variable of the template, which makes it part of numba's key. A user's file may
    import helpers nobody watches, so its loop is not kept. Its array bounds are checked, which
    costs little as long as the loops read fields of the cache once, outside: where a call may
    raise, numba counts a reference at every field that is read, which triples the time.

    Args:
        hooks: ``touch`` and ``rank``; or ``touch``, ``evict``, ``insert`` and ``leave``.
    """
    template = _ranked_template if "rank" in hooks else _queued_template
    stamp = ""
    if keep:
        digest = hashlib.sha256()
        for role, hook in sorted(hooks.items()):
            digest.update(f"{role} {hook.__module__} {hook.__qualname__}\n".encode())
        homes = {Path(inspect.getfile(hook)).parent for hook in hooks.values()}
        for file in sorted(f for home in homes | {_KERNELS} for f in home.glob("*.py")):
            digest.update(file.read_bytes())
        stamp = digest.hexdigest()
    bare = template(stamp)
    checked = register_jitable(boundscheck=not keep)
    compiled = {name: checked(hook) for name, hook in hooks.items()}
    replay = types.FunctionType(
        bare.__code__, {**globals(), **compiled}, bare.__name__, None, bare.__closure__
    )
    replay.__module__, replay.__qualname__ = __name__, bare.__qualname__
    return njit(cache=keep, nogil=True)(replay)
