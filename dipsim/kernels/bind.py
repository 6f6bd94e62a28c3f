"""Compiling what a policy does to a cache, and the loop that calls it.

The loops are compiled once for all policies and methods. They call a policy's functions, and a
method's choice of masks, by their addresses, a few times for each batch.
"""

import inspect
import types
from collections.abc import Callable
from contextlib import nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.core import config
from numba.core.errors import NumbaError
from numba.extending import register_jitable

from dipsim.kernels import batch, queued
from dipsim.kernels.cache import DRAWS, Block, Cache, Parts
from dipsim.kernels.elementwise import places_reached
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.frames import address_of, framed
from dipsim.kernels.guesses import send_ranked
from dipsim.kernels.queued import replay_queued
from dipsim.kernels.ranked import draw_misses, fit, replay_ranked, share_ranks
from dipsim.kernels.stored import stored

Replay = Callable[[Block, int, int, int], None]
"""Replays a block in one cache: (block, layer of the inputs, token of the first row, admission)."""
_INTEGERS = {
    "choose": 4,
    "fit": 7,
    "share": 6,
    "draw": 4,
    "foresee": 3,
    "use": 3,
    "rank": 3,
    "turn": 5,
    "send": 5,
    "send one by one": 3,
}
"""Number of integers that each kind of function takes behind block, parts and cache. A ``turn`` is
what a batch does to the cache of a queue, and stands in ``use``; what sends guesses into it one by
one stands in ``send``."""


class Functions(NamedTuple):
    """Addresses of what a loop, or what it calls, calls; 0 where there is nothing to call."""

    choose: int = 0
    """Chooses the mask of a row by what is resident."""
    forget: int = 0
    remember: int = 0
    """Empty the memory of what chooses masks, and note a batch in it."""
    foresee: int = 0
    """Tells a policy the next uses of a batch."""
    use: int = 0
    """Books the uses of a batch; for a queue, does all that a batch does to the cache."""
    rank: int = 0
    """Ranks the units that may leave."""
    fit: int = 0
    """Lets units leave."""
    share: int = 0
    """Ranks them once for several capacities."""
    draw: int = 0
    """Draws which misses become resident."""
    send: int = 0
    """Lets guesses enter."""


def _insert_nothing(state, unit, token):
    pass


def _leave_nothing(state, unit):
    pass


def _expel_nothing(state, evictable, token):
    return -1


_DEFAULTS = {"insert": _insert_nothing, "leave": _leave_nothing, "expel": _expel_nothing}


class Loop:
    """The replay loop of a policy, with a method's choice of masks where that looks at the cache.

    Args:
        hooks: ``touch`` and ``rank``; or ``touch``, ``evict`` and ``insert``, and perhaps
            ``leave`` and ``expel``.
        sequential: units are requested one at a time.
        checked: array bounds of the hooks are checked: of a user's policy.
        keep: the policy's machine code is stored on disk. A user's file may import helpers that
            nobody watches, so none of its code is kept.
        choosers: the compiled functions that choose masks by what is resident, from scores and
            from codes: ``choose(block, parts, cache, row, layer, part, batch)``, which returns 0.
            None where the masks are given.
    """

    def __init__(
        self,
        hooks: dict[str, Callable[..., Any]],
        *,
        sequential: bool,
        checked: bool,
        keep: bool,
        choosers: tuple[Any, Any] | None = None,
    ) -> None:
        self._choosers, self._sequential = choosers, sequential
        hooks = {role: getattr(hook, "py_func", hook) for role, hook in hooks.items()}  # of njit
        self._ranked = "rank" in hooks and not sequential
        reached = places_reached(hooks["touch"])
        bound = {
            role: register_jitable(boundscheck=checked and (role != "touch" or reached is None))(
                hook
            )
            for role, hook in {**_DEFAULTS, **hooks}.items()
        }
        bound["reached"] = reached
        use = batch.use if reached is None else batch.use_at_once
        names = [f"{role} {hook.__module__} {hook.__qualname__}" for role, hook in hooks.items()]
        homes = {Path(inspect.getfile(hook)).parent for hook in hooks.values()}
        self._key = fingerprint(homes, *names) if keep else None
        of = sha256("\n".join(names).encode()).hexdigest()[:16]
        if self._ranked:
            templates = {"use": use, "rank": batch.rank_units}
        else:
            bound["victim"] = queued.victim_of_rank if "rank" in hooks else queued.victim_of_queue
            bound |= {"make_room": queued.make_room, "let_go": queued.let_go, "use": use}
            for role in ("victim", "make_room", "let_go", "use"):
                bound[role] = register_jitable(_with_globals(bound[role], bound, of))
            turn = queued.request_units if sequential else queued.take_batch
            templates = {"turn": turn, "send one by one": queued.send_queued}
        self._functions = {role: _with_globals(each, bound, of) for role, each in templates.items()}
        self._kept_alive: list[Any] = []
        self._addresses: dict[Any, Functions] = {}
        self._compiling = Lock()  # the caches of several threads ask for the same functions

    def of(self, parts: Parts, cache: Cache) -> Replay:
        """Return the loop over one cache, compiled."""
        own = plain = framed(cache)  # the cache as the policy sees it, and as the loop does
        if cache.state.dtype != np.int64 and not config.DISABLE_JIT:
            # To the loop a state is so many words, of any kind.
            words = {"state": cache.state.view(np.int64), "fresh": cache.fresh.view(np.int64)}
            plain = framed(cache._replace(**words))
        places = framed(parts)
        options = len(cache.capacity) > 1, bool(cache.numbers[DRAWS])

        def replay(block: Block, layer: int, first: int, admission: int) -> None:
            rows = framed(block)
            given = len(block.codes) > 0, len(block.uses) > 0, len(block.guessed) > 0
            with self._compiling:
                functions = self._addresses_for(rows, places, plain, own, (*options, *given))
            arguments = rows, layer, first, admission, places, plain, functions
            if self._ranked:
                replay_ranked(*arguments)
            else:
                replay_queued(*arguments, int(self._sequential))

        return replay

    def _addresses_for(
        self, block: Any, parts: Any, cache: Any, own: Any, options: tuple[bool, ...]
    ) -> Functions:
        """Compile what the loop calls.

        Args:
            cache: the cache as the loop sees it.
            own: the cache as the policy sees it.
            options: whether there are several capacities, misses are drawn, scores are codes,
                next uses are known, and guesses enter.
        """
        several, draws, coded, foresees, sends = options
        key = options, None if config.DISABLE_JIT else own._numba_type_
        if key in self._addresses:
            return self._addresses[key]
        at: dict[str, int] = {}
        if self._choosers is not None:
            at["choose"] = _address(self._choosers[coded], "choose", block, parts, cache)
            at["forget"] = address_of(batch.forget, cache)
            at["remember"] = address_of(batch.remember, parts, cache, 0)
        if self._ranked:
            at["fit"] = _address(fit, "fit", block, parts, cache)
        if several:
            at["share"] = _address(share_ranks, "share", block, parts, cache)
        if foresees:
            at["foresee"] = _address(batch.foresee, "foresee", block, parts, own)
        if draws:
            at["draw"] = _address(draw_misses, "draw", block, parts, cache)
        if sends and self._ranked:
            at["send"] = _address(send_ranked, "send", block, parts, cache)
        names = {"turn": "use", "send one by one": "send"}
        for role, function in self._functions.items():
            name = names.get(role, role)
            if name != "send" or sends:
                at[name] = self._compiled(function, role, block, parts, own)
        self._addresses[key] = Functions(**at)
        return self._addresses[key]

    def _compiled(self, function: Callable[..., Any], role: str, *frames: Any) -> int:
        """Compile a function of the policy, and return its address.

        References are not counted, which takes time, unless a hook of a user's own allocates.
        """
        if self._key is not None:
            compiled = stored(_nrt=False, key=self._key)(function)
            self._kept_alive.append(compiled)
            return _address(compiled, role, *frames)
        for counts in (False, True):
            compiled = njit(_nrt=counts)(function)
            self._kept_alive.append(compiled)
            with suppress(NumbaError) if not counts else nullcontext():
                return _address(compiled, role, *frames)
        raise AssertionError("the last one is compiled, or says why not")


def _address(compiled: Any, role: str, *frames: Any) -> int:
    return address_of(compiled, *frames, *(0,) * _INTEGERS[role])


def _with_globals(function: Any, names: dict[str, Any], of: str) -> Any:
    """Return a copy of a function with further names in its globals.

    Args:
        of: what it is a copy for. Stored machine code of two copies would be mixed up if they had
            one name.
    """
    copy = types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__
    )
    copy.__module__, copy.__qualname__ = function.__module__, f"{function.__qualname__}_{of}"
    return copy
