"""The contract between the replay engine and a cache policy (docs/writing-a-policy.md).

A policy states an order; the engine owns capacity, hits and bytes. All hooks are plain functions of
integers and arrays that numba can compile; units and tokens are integers.

For every batch of active units the engine calls, in this order:

1. ``touch(state, unit, token, hit)`` for every active unit, ascending: hits (``hit`` = 1), misses
   (0), also misses that will not fit. It changes ``state`` and returns nothing.
2. A policy that **ranks**: ``rank(state, unit, token)`` for every unit that may leave; the lowest
   leave together. Ties leave by older last use, then lower unit. It must not change ``state``.
   A **queue** policy instead, for every miss that is kept, ascending: ``evict(state, unit,
   evictable, token)`` when no slot is free, which returns a unit v with ``evictable[v]`` true
   (resident and not in use by this token), then ``leave(state, v)``; then ``insert(state, unit,
   token)``.

With ``future`` the engine keeps ``state[unit]`` = the next token that uses ``unit`` (2**62: never
again) for all units in use so far, before anything else is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import PolicyError

Admission = Literal["forced", "ranked", "never"]


def token_per_unit(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """The usual state: one number per unit, 0 at the start."""
    return np.zeros(units, np.int64)


def touch_nothing(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """For policies that do not care who is used."""


def leave_nothing(state: NDArray[Any], unit: int) -> None:
    """For queue policies without a memory of what left."""


@dataclass(frozen=True)
class Policy:
    """A cache policy.

    Args:
        name: as in reports.
        summary: one line on what leaves first.
        source: paper or origin.
        state: ``state(units, capacity, seed)`` -> int64 or float64 array, made once per (layer,
            group) and again at a reset; ``seed`` differs between layers and groups.
        admit: ``forced`` (a miss enters if there is room beside the set in use), ``ranked`` (the
            best of resident and active stay), ``never``.
        future: the engine provides next uses in ``state[:units]``.
        preload: starts with the units used most in a profile (`static`).

    Raises:
        PolicyError: hooks that do not fit together.
    """

    name: str
    summary: str = ""
    source: str = ""
    state: Callable[[int, int, int], NDArray[Any]] = token_per_unit
    touch: Callable[..., None] = touch_nothing
    rank: Callable[..., Any] | None = None
    evict: Callable[..., Any] | None = None
    insert: Callable[..., None] | None = None
    leave: Callable[..., None] = leave_nothing
    admit: Admission = "forced"
    future: bool = False
    preload: bool = False

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

    def new_state(self, units: int, capacity: int, seed: int) -> NDArray[Any]:
        """A fresh state.

        Raises:
            PolicyError: ``state`` fails, or returns anything but the array it should.
        """
        try:
            state = self.state(units, capacity, seed)
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
        if self.rank is not None:
            return {"rank": self.rank, "touch": self.touch}
        hooks = {"evict": self.evict, "insert": self.insert, "leave": self.leave}
        return {**{k: hook for k, hook in hooks.items() if hook is not None}, "touch": self.touch}
