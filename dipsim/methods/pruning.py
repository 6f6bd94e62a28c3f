"""The contract between dipsim and a method of a user's own (docs/writing-a-method.md).

A method says which units a token needs. It names its groups, each the columns or neurons of a
layer that one signal chooses among, and gives one hook, a plain function that numba compiles. For
every token, layer and group it is called with

    scores    float32[units] >= 0, the signal of this token, on the scale of the recording
    k         int, the units to keep: the density of the group times its units, at least 1
    resident  bool[units], True for units in DRAM when the token begins; all False unless the
              method is ``cache_aware``
    state     float64[...], the method's own for this layer and group; kept from token to token

and, last, an array to write:

``rank(scores, k, resident, state, keys)`` writes a key, finite and at least 0, for every unit to
``keys``, float32[units]; the k largest are kept (ties: larger score, then lower unit).

``select(scores, k, resident, state, chosen)`` sets ``chosen``, bool[units] and False at first, for
the units that are kept: k of them, or with ``varies`` any number.

``scores`` and ``resident`` cannot be written; array bounds are checked. Rows of a prompt that
streams through are chosen without a trace in ``state``; ``state`` begins anew when the cache is
emptied.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import plugins
from dipsim.errors import MethodError, brief
from dipsim.model import MATRICES, Matrix, Slice

_USUAL: dict[str, tuple[Matrix, ...]] = {
    "attn_input": ("q", "k", "v"),
    "attn_output": ("o",),
    "mlp_input": ("gate", "up"),
    "gate": ("up", "down"),
    "up": ("gate", "down"),
    "glu": ("down",),
}
"""Matrices whose slices a unit of each signal usually is; signals in the order a layer needs."""
_OF_NEURONS = ("gate", "up", "glu")
_GIVEN_TO_STATE = ("units", "k", "seed", "signal")
"""Arguments of ``state`` that dipsim passes; all others are parameters."""


def no_state(units: int, k: int, seed: int) -> NDArray[np.float64]:
    """Return the usual state: nothing."""
    return np.zeros(0)


@dataclass(frozen=True)
class UnitGroup:
    """Units of each layer that one signal chooses among.

    Args:
        signal: mlp_input, glu, gate, up, attn_input or attn_output.
        matrices: those that a unit is a slice of; by default gate and up of mlp_input, down of
            glu, up and down of gate, gate and down of up, q, k and v of attn_input, o of
            attn_output. Of a neuron (glu, gate, up) it is a row of gate and up, a column of down;
            of an input a column.

    Raises:
        MethodError: another signal, or matrices that it does not span.
    """

    signal: str
    matrices: tuple[Matrix, ...] = ()

    def __post_init__(self) -> None:
        if self.signal not in _USUAL:
            raise MethodError(
                f"unit group {self.signal!r}: the signal is one of {', '.join(_USUAL)}"
            )
        matrices = tuple(self.matrices) or _USUAL[self.signal]
        allowed = MATRICES if self.signal in _OF_NEURONS else _USUAL[self.signal]
        if not set(matrices) <= set(allowed) or len(set(matrices)) < len(matrices):
            raise MethodError(
                f"unit group {self.signal}: matrices {matrices} are not some of "
                f"{', '.join(allowed)}, each once"
            )
        object.__setattr__(self, "matrices", matrices)

    @property
    def usual(self) -> bool:
        """True if its units are slices of the matrices that its signal enters or leaves."""
        return self.signal in _OF_NEURONS or self.matrices == _USUAL[self.signal]

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Slices that one unit consists of."""
        rows = self.signal in _OF_NEURONS
        return tuple(
            Slice(matrix, "row" if rows and matrix != "down" else "column")
            for matrix in self.matrices
        )


@dataclass(frozen=True)
class PruningMethod:
    """A sparsification method of a user's own: which units a token needs.

    Args:
        name: name in reports.
        groups: `UnitGroup` each, or the signal of one with its usual matrices; in the order a
            layer needs them. MLP matrices that none spans stay dense, in DRAM.
        summary: one line on what is kept.
        source: paper or origin.
        rank: hook that gives every unit a key, as the text of this module describes.
        select: hook that chooses units by itself, in place of ``rank``.
        state: ``state(units, k, seed)`` -> float64 array of one dimension, made once per layer and
            group and again at a reset; ``seed`` differs between them. An argument named ``signal``
            receives the group's; further ones with a default are parameters that a user may set
            (``file.py:name:key=value``).
        split: ``split(density)`` -> share of the units that each group keeps at MLP density D. By
            default all keep the same share, so that the mean of the MLP's three matrices, dense
            ones at 1, is D.
        cache_aware: the hook looks at ``resident``; then there is no optimum (opt, belady).
        varies: ``select`` may keep any number of units, not k.
        given: the parameters that a user has set, as (key, value).

    Raises:
        MethodError: hooks or groups that do not fit together.
    """

    name: str
    groups: tuple[UnitGroup | str, ...]
    summary: str = ""
    source: str = ""
    rank: Callable[..., None] | None = None
    select: Callable[..., None] | None = None
    state: Callable[..., NDArray[np.float64]] = no_state
    split: Callable[[float], Sequence[float]] | None = None
    cache_aware: bool = True
    varies: bool = False
    given: plugins.Given = field(default=())

    def __post_init__(self) -> None:
        plugins.check_name("method", self.name, MethodError)
        groups = (self.groups,) if isinstance(self.groups, str | UnitGroup) else self.groups
        own = tuple(UnitGroup(each) if isinstance(each, str) else each for each in groups)
        object.__setattr__(self, "groups", own)
        if (self.rank is None) == (self.select is None) or (self.varies and self.rank):
            raise MethodError(
                f"method {self.name}: give either rank or select, and varies with select only "
                "(docs/writing-a-method)"
            )
        matrices = [matrix for group in own for matrix in group.matrices]
        twice = sorted({matrix for matrix in matrices if matrices.count(matrix) > 1})
        signals = [group.signal for group in own]
        if not own or twice or len(set(signals)) < len(signals):
            what = f"matrix {twice[0]} belongs to two groups" if twice else "give groups, each once"
            raise MethodError(f"method {self.name}: {what}; its groups are {signals}")

    def __repr__(self) -> str:
        signals = ", ".join(self.signals)
        return f"Method {brief(self.label, 60)} of {signals}: {brief(self.summary or '-', 100)}"

    @property
    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """The groups, each as a `UnitGroup`."""
        return tuple(group for group in self.groups if isinstance(group, UnitGroup))

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals of the groups."""
        return tuple(group.signal for group in self.unit_groups)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of ``state`` that a user may set, with the values they have."""
        arguments = list(inspect.signature(self.state).parameters.items())[3:]
        defaults = {
            name: argument.default for name, argument in arguments if name not in _GIVEN_TO_STATE
        }
        return {**defaults, **dict(self.given)}

    @cached_property
    def _told_signal(self) -> bool:
        return "signal" in inspect.signature(self.state).parameters

    @property
    def label(self) -> str:
        """The name, followed by the parameters that were set: ``name:key=value``."""
        return plugins.label(self.name, self.given)

    def with_parameters(self, values: Mapping[str, float]) -> "PruningMethod":
        """Return the method with some of its parameters set.

        Raises:
            MethodError: the method has no such parameter, or the parameter is a whole number and
                the value is not.
        """
        what = f"method {self.name}"
        given = plugins.with_values(what, self.parameters, self.given, values, MethodError)
        return replace(self, given=given)

    def new_state(self, units: int, k: int, seed: int, signal: str) -> NDArray[np.float64]:
        """Return a fresh state for one layer and group: a float64 array of one dimension.

        Raises:
            MethodError: ``state`` fails, or returns something else.
        """
        arguments: dict[str, Any] = dict(self.given)
        if self._told_signal:
            arguments["signal"] = signal
        try:
            state = self.state(units, k, seed, **arguments)
        except Exception as problem:  # the user's code: show whatever it raises
            raise MethodError(
                f"method {self.name}: state fails with {type(problem).__name__}: {problem}"
            ) from problem
        if not isinstance(state, np.ndarray) or state.dtype != np.float64 or state.ndim != 1:
            raise MethodError(
                f"method {self.name}: state must return a float64 array of one dimension"
            )
        return np.ascontiguousarray(state)

    def densities(self, density: float) -> tuple[float, ...] | None:
        """Return the share that each group keeps at MLP density D; None without ``split``.

        Raises:
            MethodError: ``split`` fails, or returns something else.
        """
        if self.split is None:
            return None
        try:
            shares = tuple(map(float, self.split(density)))
        except Exception as problem:  # the user's code: show whatever it raises
            raise MethodError(
                f"method {self.name}: split fails with {type(problem).__name__}: {problem}"
            ) from problem
        good = all(math.isfinite(share) and 0 <= share <= 1 for share in shares)
        if len(shares) != len(self.groups) or not good:
            raise MethodError(
                f"method {self.name}: split({density:g}) returns {shares}: a share from 0 to 1 "
                f"for each group, {', '.join(self.signals)}"
            )
        return shares
