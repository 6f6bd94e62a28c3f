"""The contract between the replay engine and a cache policy (docs/writing-a-policy.md).

A policy states an order; the engine owns capacity, hits and bytes. All hooks are plain functions of
integers and arrays that numba can compile; units and tokens are integers.

For every batch of active units the engine calls, in this order:

1. ``touch(state, unit, token, hit)`` for every active unit, ascending: hits (``hit`` = 1), misses
   (0), also misses that will not fit. It changes ``state`` and returns nothing.
2. A policy that **ranks**: ``rank(state, unit, token)`` for every unit that may leave; the lowest
   leave together. Ties leave by older last use, then lower unit. It must not change ``state``.
   A **queue** policy instead: ``expel(state, evictable, token)``, if it has one, again and again
   until it returns -1: what it returns leaves although there is room. Then for every miss that is
   kept, ascending: ``evict(state, unit, evictable, token)`` when no room is left, which returns a
   unit v with ``evictable[v]`` true (resident and not in use by this batch), then ``leave(state,
   v)``; then ``insert(state, unit, token)``.

With sequential access every unit is a batch of its own, but a request makes room for itself only:
any resident unit may leave, also one that the same token has used.

With ``future`` the engine keeps ``state[unit]`` = the next token that uses ``unit`` (2**62: never
again) for all units in use so far, before anything else is called.

Where the cache starts with some units (``preload``, or a run's ``--warm-from``), each of them is
touched once before, as a miss at a negative token, and enters a queue; the least used comes first.

A guess that enters the cache ahead of its use (``--prefetch-into cache``) is to a queue policy a
request that missed, at a ``token`` of its own between two batches; a policy that ranks is not told,
and touches the guess with ``hit`` = 0 when it is first used.

In global scope one cache serves all layers and groups. ``unit`` then counts through all of them,
``token`` counts batches, and ``capacity`` is that of units of the mean size.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim import plugins
from dipsim.errors import PolicyError, brief

Admission = Literal["forced", "ranked", "never"]
_GIVEN = ("units", "capacity", "seed", "ticks")
"""Arguments of ``state`` that the engine passes; all others are parameters of the policy."""


def token_per_unit(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return the usual state, int64[units]: one number per unit, 0 at the start."""
    return np.zeros(units, np.int64)


def touch_nothing(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Do nothing: the hook of policies that ignore uses."""


@dataclass(frozen=True)
class Policy:
    """A cache policy: which units stay in DRAM.

    Args:
        name: name in reports and on the command line.
        summary: one line on what leaves first.
        source: paper or origin.
        state: ``state(units, capacity, seed)`` -> int64 or float64 array of one dimension, made
            once per cache and again at a reset; ``seed`` differs between caches. Further arguments
            with a default are parameters that a user may set (``name:key=value``). An argument
            named ``ticks`` receives by how much ``token`` grows from one token to the next: 1, or
            in global scope the number of batches of a token; to a queue policy twice as many where
            guesses enter.
        touch: called for every active unit; the text of this module describes all hooks.
        rank: the rank of a unit; the lowest leaves first. Excludes ``evict`` and ``insert``.
        evict: the unit that leaves a full cache.
        insert: called for a unit that enters.
        leave: called for a unit that leaves.
        expel: a unit that leaves although there is room, or -1.
        admit: ``forced`` (a miss enters if there is room beside the set in use), ``ranked`` (the
            best of resident and active units stay), ``never`` (nothing enters).
        future: the engine keeps the next use of each unit in ``state[:units]``.
        preload: the cache starts with the units used most in a profile (policies `static` and
            `pinned`); a parameter named ``share`` says how much of it they may fill.
        blind: ``touch`` does not look at ``hit``, so one state serves caches of several sizes.
        sequential: the same policy in a form that is fast where units are requested one at a time.
            Without it a policy that ranks looks at every resident unit to choose one.
        atomic_only: the policy is about the sets of whole tokens, so sequential access has no
            meaning for it.
        given: the parameters that a user has set, as (key, value).

    Raises:
        PolicyError: hooks that do not fit together.
    """

    name: str
    summary: str = ""
    source: str = ""
    state: Callable[..., NDArray[Any]] = token_per_unit
    touch: Callable[..., None] = touch_nothing
    rank: Callable[..., Any] | None = None
    evict: Callable[..., Any] | None = None
    insert: Callable[..., None] | None = None
    leave: Callable[..., None] | None = None
    expel: Callable[..., Any] | None = None
    admit: Admission = "forced"
    future: bool = False
    preload: bool = False
    blind: bool = False
    sequential: "Policy | None" = field(default=None, repr=False)
    atomic_only: bool = False
    given: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        queue = self.evict is not None and self.insert is not None
        half = (self.evict is None) != (self.insert is None)
        if half or queue == (self.rank is not None):
            raise PolicyError(
                f"policy {self.name}: give either rank, or evict and insert (docs/writing-a-policy)"
            )
        if self.admit not in ("forced", "ranked", "never") or (queue and self.admit != "forced"):
            raise PolicyError(
                f"policy {self.name}: admit is {self.admit!r}; allowed: forced, and with rank also "
                "ranked or never"
            )

    def __repr__(self) -> str:
        return f"Policy {brief(self.label, 60)}: {brief(self.summary or self.admit, 100)}"

    @property
    def ranks(self) -> bool:
        """True for a policy that ranks units, False for one that keeps queues."""
        return self.rank is not None

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters of ``state`` that a user may set, with the values they have."""
        arguments = inspect.signature(self.state).parameters
        defaults = {k: a.default for k, a in list(arguments.items())[3:] if k not in _GIVEN}
        return {**defaults, **dict(self.given)}

    @property
    def loaded_share(self) -> float:
        """Share of the cache that is loaded before the first token, where any is."""
        return self.parameters.get("share", 1.0) if self.preload else 1.0

    @property
    def label(self) -> str:
        """The name, followed by the parameters that were set: ``name:key=value``."""
        return plugins.label(self.name, self.given)

    def with_parameters(self, values: Mapping[str, float]) -> "Policy":
        """Return the policy with some of its parameters set.

        Raises:
            PolicyError: the policy has no such parameter, or the parameter is a whole number and
                the value is not.
        """
        what = f"policy {self.name}"
        given = plugins.with_values(what, self.parameters, self.given, values, PolicyError)
        queue = None if self.sequential is None else self.sequential.with_parameters(values)
        return replace(self, given=given, sequential=queue)

    def new_state(self, units: int, capacity: int, seed: int, ticks: int = 1) -> NDArray[Any]:
        """Return a fresh state: a contiguous int64 or float64 array of one dimension.

        Raises:
            PolicyError: ``state`` fails, or returns another kind of array.
        """
        arguments = dict(self.given)
        if "ticks" in inspect.signature(self.state).parameters:
            arguments["ticks"] = ticks
        try:
            state = self.state(units, capacity, seed, **arguments)
        except PolicyError as problem:
            raise PolicyError(f"policy {self.name}: {problem}") from None
        except Exception as problem:
            raise PolicyError(
                f"policy {self.name}: state fails with {type(problem).__name__}: {problem}"
            ) from problem
        short = self.future and isinstance(state, np.ndarray) and state.size < units
        if (
            not isinstance(state, np.ndarray)
            or state.dtype not in (np.int64, np.float64)
            or state.ndim != 1
            or short
        ):
            least = f", at least {units} long with future" if self.future else ""
            raise PolicyError(
                f"policy {self.name}: state must return an int64 or float64 array of one "
                f"dimension{least}"
            )
        return np.ascontiguousarray(state)

    @property
    def hooks(self) -> dict[str, Callable[..., Any]]:
        """The functions that are compiled into the replay loop, by name."""
        names = ("touch", "rank", "evict", "insert", "leave", "expel")
        return {name: hook for name in names if (hook := getattr(self, name)) is not None}


def within(name: str, value: float, low: float, high: float) -> float:
    """Return a parameter after checking that it lies between two bounds, both included.

    Raises:
        PolicyError: it lies outside; `Policy.new_state` adds the policy's name.
    """
    if not low <= value <= high:
        raise PolicyError(f"{name}={value:g}: from {low:g} to {high:g}")
    return value
