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

In global scope one cache serves all layers and groups. ``unit`` then counts through all of them,
``token`` counts batches, and ``capacity`` is that of units of the mean size.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import PolicyError

Admission = Literal["forced", "ranked", "never"]
_GIVEN = ("units", "capacity", "seed", "ticks")
"""Arguments of ``state`` that the engine gives; all others are parameters of the policy."""


def token_per_unit(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """The usual state: one number per unit, 0 at the start."""
    return np.zeros(units, np.int64)


def touch_nothing(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """For policies that do not care who is used."""


@dataclass(frozen=True)
class Policy:
    """A cache policy.

    Args:
        name: as in reports.
        summary: one line on what leaves first.
        source: paper or origin.
        state: ``state(units, capacity, seed)`` -> int64 or float64 array, made once per cache and
            again at a reset; ``seed`` differs between caches. Further arguments with a default are
            parameters that a user may set (``name:key=value``); one named ``ticks`` receives by how
            much ``token`` grows from one token to the next (1, in global scope the batches of a
            token).
        admit: ``forced`` (a miss enters if there is room beside the set in use), ``ranked`` (the
            best of resident and active stay), ``never``.
        future: the engine provides next uses in ``state[:units]``.
        preload: starts with the units used most in a profile (`static`).
        blind: ``touch`` does not look at ``hit``, so one state serves caches of several sizes.
        sequential: the same policy in a form that is fast where units are requested one at a time;
            without it a policy that ranks looks at every resident unit to choose one.
        atomic_only: it is about the sets of whole tokens, so sequential access means nothing.
        given: the parameters that were set.

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

    @property
    def ranks(self) -> bool:
        """Whether it ranks; otherwise it keeps queues."""
        return self.rank is not None

    @property
    def parameters(self) -> dict[str, float]:
        """What ``state`` can be told by name, with the values it will be told."""
        arguments = inspect.signature(self.state).parameters
        own = {k: a.default for k, a in list(arguments.items())[3:] if k not in _GIVEN}
        return {**own, **dict(self.given)}

    @property
    def label(self) -> str:
        """The name with the parameters that were set."""
        said = ",".join(f"{key}={_short(value)}" for key, value in self.given)
        return f"{self.name}:{said}" if said else self.name

    def with_parameters(self, values: Mapping[str, float]) -> "Policy":
        """The policy with some of its parameters set.

        Raises:
            PolicyError: it has no such parameter, or a whole number was needed.
        """
        known, given = self.parameters, dict(self.given)
        for key, value in values.items():
            if key not in known:
                has = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
                raise PolicyError(f"policy {self.name}: no parameter {key!r}; {has}")
            if isinstance(known[key], bool) or not isinstance(known[key], int | float):
                raise PolicyError(
                    f"policy {self.name}: {key} cannot be set: its default {known[key]!r} in "
                    "`state` is not a number"
                )
            if isinstance(known[key], int) and value != int(value):
                raise PolicyError(f"policy {self.name}: {key} is a whole number, not {value:g}")
            given[key] = type(known[key])(value)
        other = None if self.sequential is None else self.sequential.with_parameters(values)
        return replace(self, given=tuple(given.items()), sequential=other)

    def new_state(self, units: int, capacity: int, seed: int, ticks: int = 1) -> NDArray[Any]:
        """A fresh state.

        Raises:
            PolicyError: ``state`` fails, or returns anything but the array it should.
        """
        told = dict(self.given)
        if "ticks" in inspect.signature(self.state).parameters:
            told["ticks"] = ticks
        try:
            state = self.state(units, capacity, seed, **told)
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
        """The functions that are compiled into the replay loop."""
        own = ("touch", "rank", "evict", "insert", "leave", "expel")
        return {name: hook for name in own if (hook := getattr(self, name)) is not None}


def _short(value: float) -> str:
    """A number as briefly as it can be written without loss."""
    brief = f"{value:g}"
    return brief if float(brief) == value else repr(value)


def within(name: str, value: float, low: float, high: float) -> float:
    """A parameter that lies between two bounds.

    Raises:
        PolicyError: it does not; the policy's name is added by `Policy.new_state`.
    """
    if not low <= value <= high:
        raise PolicyError(f"{name}={value:g}: from {low:g} to {high:g}")
    return value
