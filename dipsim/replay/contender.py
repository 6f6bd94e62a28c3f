"""A contender of a replay: a policy with its capacities, and what it cannot do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import MethodError, PolicyError, TraceError
from dipsim.flash.cost import Costs
from dipsim.methods import Method
from dipsim.policies import Admission, Policy
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.prefetch import Guesses
from dipsim.settings import Access, Settings
from dipsim.trace import Tokens

_OF_THE_AUTHORS = ("lru", "lfu", "belady", "none")
_ADMISSION = {"forced": kernels.FORCED, "ranked": kernels.RANKED, "never": kernels.NEVER}


@dataclass(frozen=True, eq=False)
class CapacityByRow:
    """Capacities that change from row to row."""

    each: NDArray[Any]
    """[n, layers, groups] in units, or in global scope [n] in bytes."""
    row: NDArray[np.int64]
    """[tokens] which of the n holds; the rows of a batch have the same."""

    def of(self, place: tuple[int, int] | None) -> NDArray[np.float64]:
        """[tokens] of one cache; ``place`` is its layer and group, in global scope None."""
        sizes: NDArray[Any] = self.each if place is None else self.each[:, place[0], place[1]]
        return sizes[self.row].astype(np.float64)

    @property
    def least(self) -> NDArray[Any]:
        """The smallest of every cache."""
        least: NDArray[Any] = self.each.min(axis=0)
        return least


Capacity = NDArray[np.int64] | float | CapacityByRow
"""int64[layers, groups] in units; in global scope bytes; or one that changes from row to row."""


@dataclass(frozen=True)
class Contender:
    """A policy, the capacities it is replayed with, and what is counted of it."""

    policy: Policy
    capacities: Sequence[Capacity]
    settings: Settings
    """``admission``, ``access``, ``scope``, ``seed`` and ``compat`` are looked at."""
    measured: NDArray[np.bool_]
    """[tokens], see `measured_rows`."""
    unit_bytes: NDArray[np.float64] | None = None
    """float64[layers, groups], needed in global scope."""
    costs: Costs | None = None
    """Per layer and group, what reads cost; None books no costs."""
    profile_uses: Sequence[NDArray[np.int64]] | None = None
    """Per group int64[layers, units], uses of which caches start with the most used. None takes
    for a preloaded policy those of the warm-up tokens, or without warm-up of the whole trace; for
    any other, caches start empty."""
    warmup: int = 0
    """Decode tokens that such a profile may look at; 0 for all."""
    guesses: Guesses | None = None
    """Guesses that are read ahead; None for nothing."""
    keep_missed: bool = False
    """Hand on which units were missed, `Traffic.missed`."""
    optional: bool = False
    """Left out where there turn out to be too many accesses, see `replay_policies`."""

    @property
    def changing(self) -> bool:
        """True if a capacity changes from row to row."""
        return any(isinstance(capacity, CapacityByRow) for capacity in self.capacities)

    @property
    def guesses_enter(self) -> bool:
        """True if guesses enter the caches."""
        return self.guesses is not None and self.guesses.guard is not None

    @property
    def admission(self) -> int:
        """Admission of misses: kernels.FORCED, RANKED or NEVER.

        Raises:
            PolicyError: an admission the policy does not have.
        """
        policy, settings = self.policy, self.settings
        wanted: Admission = settings.admission or policy.admit
        if settings.access == "sequential" and wanted == "ranked":
            raise PolicyError(
                f"policy {policy.name} with ranked admission: with --access sequential every miss "
                "enters; use --admission forced"
            )
        if wanted != policy.admit and (policy.admit == "never" or policy.rank is None):
            raise PolicyError(
                f"policy {policy.name} admits {policy.admit}: --admission {wanted} is for policies "
                "that rank"
            )
        return _ADMISSION[wanted]

    @property
    def needs_profile(self) -> bool:
        """True if uses must be counted before its first row."""
        return self.policy.preload and self.profile_uses is None

    @property
    def loaded(self) -> Sequence[NDArray[np.int64]] | None:
        """Uses of which the caches start with the most used; None where they start empty."""
        return self.profile_uses if self.policy.preload or self.settings.warm_from else None

    @property
    def waits(self) -> bool:
        """True if all sets must be known before its first row."""
        return self.policy.future or self.needs_profile


def check_contender(sets: ActiveSets, contender: Contender) -> None:
    """Refuse what a policy cannot do with some sets.

    Raises:
        MethodError: a clairvoyant policy with a method whose sets depend on the cache.
        PolicyError: admission, access, scope or changes of capacity the policy cannot do.
    """
    policy, settings, method = contender.policy, contender.settings, sets.method
    if contender.changing:
        _check_changing(policy, settings.access)
    if settings.access == "sequential" and policy.atomic_only:
        raise PolicyError(
            f"policy {policy.name} is about the sets of whole tokens: --access sequential has no "
            "meaning for it"
        )
    if settings.scope == "global" and policy.future and policy.admit == "ranked":
        raise PolicyError(
            f"policy {policy.name} is the optimum of one cache per layer and group: with --scope "
            "global use belady"
        )
    masked = any(group.aware and not group.of_experts for group in method.groups)
    if settings.scope == "global" and method.cache_aware and sets.steps is not None:
        raise MethodError(
            f"method {method.name} chooses for all tokens of a step on one state, which a global "
            "cache does not have: use --scope layer, or a step of one token"
        )
    if settings.scope == "global" and masked and sets.prefill == "cache":
        raise MethodError(
            f"method {method.name} chooses a batch of prefill on one state, which a global cache "
            "does not have: use --prefill stream, or --scope layer"
        )
    if contender.guesses_enter:
        _check_entering(contender, method)
    elif contender.guesses is not None and (settings.access, settings.scope) != ("atomic", "layer"):
        raise MethodError(
            "--overlap prefetch guesses the set of a layer's group: use --access atomic and "
            "--scope layer; or --prefetch-into cache, which knows --scope global"
        )
    if settings.compat == "authors" and policy.name not in _OF_THE_AUTHORS:
        raise PolicyError(
            f"policy {policy.name}: the authors' simulator (--compat authors) does not have it; "
            f"use one of {', '.join(_OF_THE_AUTHORS)}"
        )
    if policy.future and method.cache_aware:
        raise MethodError(
            f"policy {policy.name} must know future sets, but those of {method.name} depend on the "
            "cache: there is no policy-independent optimum; use dip, or an online policy"
        )
    if contender.loaded is not None:
        _check_loaded(policy)
    _ = contender.admission


def _check_loaded(policy: Policy) -> None:
    """Refuse what cannot start with units that nothing has used yet."""
    if policy.future:
        raise PolicyError(
            f"--warm-from with policy {policy.name}: it knows the next use of nothing that was not "
            "used before; use an online policy, or drop --warm-from"
        )
    if policy.admit == "never" and not policy.preload:
        raise PolicyError(
            f"--warm-from with policy {policy.name}: nothing would ever leave; use static, with "
            "--static-from"
        )


_WITHOUT_GUESSES = ("lfru-sampled",)
"""Policies whose caches guesses do not enter."""


def _check_entering(contender: Contender, method: Method) -> None:
    """Refuse caches that guesses cannot enter."""
    policy = contender.policy
    if contender.settings.access != "atomic":
        raise MethodError(
            "--prefetch-into cache guesses the set of a layer's group: use --access atomic"
        )
    if method.cache_aware:
        raise MethodError(
            f"--prefetch-into cache with method {method.name}: what it chooses depends on what the "
            "cache holds, which depends on the guesses; use --prefetch-into buffer"
        )
    if policy.name in _WITHOUT_GUESSES:
        raise PolicyError(
            f"--prefetch-into cache with policy {policy.name}: what it draws beside guesses is not "
            "checked against a twin; use lfru, or --prefetch-into buffer"
        )
    if policy.future:
        raise PolicyError(
            f"--prefetch-into cache with policy {policy.name}, which knows what comes: guesses are "
            "for a policy that does not, e.g. lru; or use --prefetch-into buffer"
        )


def _check_changing(policy: Policy, access: Access) -> None:
    """Refuse what cannot live in a cache whose capacity changes."""
    if access == "sequential":
        raise PolicyError(
            "--kv grow with --access sequential: caches shrink before the batch of a token, and "
            "sequential access has none; use --access atomic, or --kv fixed"
        )
    if not policy.ranks:
        raise PolicyError(
            f"--kv grow with policy {policy.name}: it keeps queues made for one capacity; use a "
            "policy that ranks, e.g. lru, lfu or lfu-decay, or --kv fixed"
        )
    if policy.preload:
        raise PolicyError(
            f"--kv grow with policy {policy.name}: what it pins could leave and not come back; "
            "use a policy that loads what is missed, e.g. lfu, or --kv fixed"
        )


def measured_rows(
    name: str, tokens: Tokens, warmup: int, unmeasured: Sequence[tuple[int, int]] = ()
) -> NDArray[np.bool_]:
    """[tokens] decode tokens behind the warm-up, less the ``unmeasured`` rows.

    Args:
        name: of the trace, for messages.

    Raises:
        TraceError: there are none.
    """
    decode = tokens.decode
    total = int(decode.sum())
    if total == 0:
        raise TraceError(f"{name} holds no decode tokens (phase 1): there is nothing to time")
    if warmup < 0 or warmup >= total:
        raise TraceError(
            f"warm-up of {warmup} tokens out of {total} decode tokens: at least one must remain "
            f"to be measured; use --warmup 0 to {total - 1}"
        )
    measured: NDArray[np.bool_] = decode & (np.cumsum(decode) > warmup)
    for rows in unmeasured:
        measured[slice(*rows)] = False
    if not measured.any():
        raise TraceError(
            f"{name}: thresholds or an order are learned from all tokens that would be "
            "measured; give fewer --calibrate-tokens or --order-from"
        )
    return measured
