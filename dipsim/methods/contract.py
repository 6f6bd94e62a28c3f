"""What a method is: its groups of units, the signal that chooses them, and what stays dense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dipsim.errors import MethodError
from dipsim.model import Matrix, Slice
from dipsim.trace import Trace

Choice = Literal["all", "sets", "top-k"]

COLUMN_OF_GATE_AND_UP = (Slice("gate", "column"), Slice("up", "column"))
COLUMN_OF_DOWN = (Slice("down", "column"),)
NEURON = (Slice("gate", "row"), Slice("up", "row"), Slice("down", "column"))
DEFAULT_DENSITY = 0.7


@dataclass(frozen=True)
class Group:
    """Units of one layer that share one cache partition and one mask.

    ``choice``: every unit, the trace's recorded sets, or the ``density`` best scores. With
    ``gamma`` the scores of units that are not resident are multiplied by it (cache-aware).
    """

    signal: str
    units: int
    slices: tuple[Slice, ...]
    choice: Choice
    density: float = 1.0
    gamma: float | None = None

    @property
    def of_experts(self) -> bool:
        """Whether a unit is a whole expert; it then has no ``slices``."""
        return self.signal == "expert"

    @property
    def kept(self) -> int:
        """k of the top-k: units a token keeps (DESIGN section 5); all of them unless top-k."""
        return max(1, math.floor(self.density * self.units + 1e-9))


@dataclass(frozen=True)
class Method:
    """A method made ready for one trace: its groups in the order a layer needs them."""

    name: str
    groups: tuple[Group, ...]
    dense: tuple[Matrix, ...] = ()
    """Matrices that are read whole for every token and stay in DRAM."""
    density: float | None = None
    """Mean density of the three MLP matrices; None for recorded sets."""

    @property
    def cache_aware(self) -> bool:
        """Whether the sets depend on what is resident."""
        return any(group.gamma is not None for group in self.groups)

    @property
    def open_loop(self) -> bool:
        """Whether pruning should have changed the recorded activations but could not."""
        return any(group.choice == "top-k" for group in self.groups)


@dataclass(frozen=True)
class Wish:
    """What the user asked of a method; None and empty mean the method's own defaults."""

    density: float | None = None
    group_density: Mapping[str, float] = field(default_factory=dict)
    gamma: Mapping[str, float] = field(default_factory=dict)
    """Per group; the key ``*`` stands for every group."""
    split: str | None = None


def scores(trace: Trace, signal: str, method: str) -> int:
    """Units of a signal that must be there as scores.

    Raises:
        MethodError: the trace lacks it, or holds sets only; says how to record it.
    """
    found = trace.signals.get(signal)
    meaning = {
        "mlp_input": "abs(x) of the MLP input",
        "glu": "abs(act(W_gate x) * (W_up x))",
    }[signal]
    if found is None or not found.scored:
        what = "holds as sets only" if found is not None else "does not hold"
        raise MethodError(
            f"method {method} needs the scores of signal {signal}, which {trace.name} "
            f"{what}: record {meaning} per token and layer as {signal}[tokens, layers, units]"
        )
    return found.units


def check_wish(method: str, wish: Wish, signals: tuple[str, ...], *, gamma: bool = False) -> None:
    """Refuse what a method cannot use.

    Raises:
        MethodError: a density outside 0..1, an unknown group, gamma or split where none applies.
    """
    densities = {"density": wish.density} if wish.density is not None else {}
    for what, value in [*densities.items(), *wish.group_density.items()]:
        if value is not None and not 0 <= value <= 1:
            raise MethodError(f"{what} {value:g}: the share that is kept, from 0 to 1")
    for name, value in wish.gamma.items():
        if not 0 <= value <= 1:
            which = "" if name == "*" else f"{name}="
            raise MethodError(f"gamma {which}{value:g}: from 0 to 1 (1 is plain top-k)")
    for given in (*wish.group_density, *(name for name in wish.gamma if name != "*")):
        if given not in signals:
            groups = ", ".join(signals) or "none with a density"
            raise MethodError(f"method {method} has no group {given!r}: its groups are {groups}")
    if wish.gamma and not gamma:
        raise MethodError(f"method {method} is not cache-aware: drop --gamma or use dip-ca")
    if wish.density is not None and wish.group_density:
        raise MethodError("give either --density or --group-density, not both")
    if wish.group_density and set(wish.group_density) != set(signals):
        raise MethodError(f"--group-density needs all groups of {method}: {', '.join(signals)}")
    if wish.split is not None and not method.startswith("dip"):
        raise MethodError(f"--split is for dip and dip-ca, not for {method}")


def infeasible(method: str, density: float, least: float) -> MethodError:
    """The error for a density that the dense parts of a method already exceed."""
    return MethodError(
        f"method {method} cannot reach density {density:g}: its dense parts alone need "
        f"{least:.4g}; give --density {math.ceil(least * 1000) / 1000:g} or more"
    )
