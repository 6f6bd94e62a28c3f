"""Methods and their groups: the units a signal chooses among, and the matrices that stay dense."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.methods.pruning import PruningMethod
from dipsim.methods.router import BY_SOFTMAX, Weighing
from dipsim.methods.rules import Rule
from dipsim.model import Matrix, Slice
from dipsim.settings import OPTIONS, Settings
from dipsim.trace import Outline
from dipsim.views import shortened

Choice = Literal["all", "sets", "top-k", "threshold", "predicted", "custom"]

COLUMN_OF_GATE_AND_UP = (Slice("gate", "column"), Slice("up", "column"))
COLUMN_OF_DOWN = (Slice("down", "column"),)
NEURON = (Slice("gate", "row"), Slice("up", "row"), Slice("down", "column"))
DEFAULT_DENSITY = 0.7
LEAST_DENSITY = 1e-9
"""Smallest density that is believed; 0 is, beside it."""
MEANING = {
    "mlp_input": "abs(x) of the MLP input",
    "gate": "abs(act(W_gate x))",
    "up": "abs(W_up x)",
    "glu": "abs(act(W_gate x) * (W_up x))",
    "attn_input": "abs of the input of q, k, v",
    "attn_output": "abs of the input of o",
    "expert": "the scores that the router selects by",
}


@dataclass(frozen=True)
class Group:
    """A group of units of one layer that share one cache partition and one mask.

    ``choice``: every unit; the trace's recorded ``sets``; the ``density`` best scores (top-k); the
    scores above the ``thresholds`` of the layers; the best of scores blurred by ``noise``, as a
    predictor of them would choose (predicted); or those that the hook of a user's own method
    chooses (custom). With a ``rule`` the choice depends on what is resident (cache-aware).
    """

    signal: str
    units: int
    slices: tuple[Slice, ...]
    choice: Choice
    density: float = 1.0
    gamma: float | None = None
    """gamma of the rules gamma and blend (masking.py)."""
    rule: Rule | None = None
    thresholds: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    """Standard deviation of the noise added to log-scores, per layer."""
    seed: int = 0
    """Seed of the noise, and of a user's own method."""
    chosen: int | None = None
    """k, where it is a number of its own (experts); of ``all`` without a trace, any k of them."""
    custom: PruningMethod | None = None
    """The user's own method that the group belongs to."""
    layer_units: tuple[int, ...] = ()
    """Units of each layer, where layers differ; empty where all have ``units``."""
    weighing: Weighing = BY_SOFTMAX
    """The rule by which weights of experts follow from their scores."""

    __repr__ = shortened

    @property
    def of_experts(self) -> bool:
        """True when a unit is a whole expert; the group then has no ``slices``."""
        return self.signal == "expert"

    @property
    def aware(self) -> bool:
        """True when its sets depend on what is resident."""
        return self.rule is not None or (self.custom is not None and self.custom.cache_aware)

    @property
    def kept(self) -> int:
        """k of the top-k, the units a token keeps: a share ``density`` of them,
        at least one, and all of them unless top-k."""
        if self.chosen is not None:
            return min(self.chosen, self.units)
        return min(max(1, math.floor(self.density * self.units + 1e-9)), self.units)

    def units_in(self, layers: int) -> NDArray[np.int64]:
        """Return the units of each layer, int64[layers]."""
        return np.array(self.layer_units or [self.units] * layers, np.int64)

    def in_layers(self, layers: Sequence[int]) -> "Group":
        """Return the group as layers have it that have equally many units."""
        if not self.layer_units:
            return self
        units = self.layer_units[layers[0]]
        thresholds, noise = self.thresholds, self.noise
        return replace(
            self,
            units=units,
            layer_units=(),
            thresholds=tuple(thresholds[layer] for layer in layers) if thresholds else (),
            noise=tuple(noise[layer] for layer in layers) if noise else (),
            weighing=self.weighing.in_layers(layers),
        )

    def at(self, layer: int) -> "Group":
        """Return the group as one layer has it."""
        return self.in_layers([layer])

    @property
    def masked(self) -> bool:
        """True when a token's units are chosen among more of them."""
        return self.choice != "all" or self.chosen is not None

    @property
    def varies(self) -> bool:
        """True when tokens keep different numbers of units."""
        if self.custom is not None:
            return self.custom.varies
        recorded = self.choice == "predicted" and self.density == 1
        return self.choice in ("sets", "threshold") or recorded


@dataclass(frozen=True)
class Method:
    """A method made ready for one trace: its groups in the order a layer needs them."""

    name: str
    groups: tuple[Group, ...]
    dense: tuple[Matrix, ...] = ()
    """Matrices that are read whole for every token and stay in DRAM."""
    density: float | None = None
    """Mean density of the matrices it prunes; None for recorded sets and experts."""
    predictor_weights: int = 0
    """Weights of one layer's predictor, which the model has not; they stay in DRAM."""
    as_recorded: bool = False
    """True when the sets are those the model itself used."""
    among_recorded: bool = False
    """True when a rule could choose among the recorded experts only, not among all."""

    __repr__ = shortened

    def units_in(self, layers: int) -> NDArray[np.int64]:
        """Return the units of each group of each layer, int64[layers, groups]."""
        return np.stack([group.units_in(layers) for group in self.groups], axis=1)

    @property
    def cache_aware(self) -> bool:
        """True when the sets depend on what is resident."""
        return any(group.aware for group in self.groups)

    @property
    def custom(self) -> PruningMethod | None:
        """The method of a user's own that it was made of; None for a built-in one."""
        return self.groups[0].custom

    @property
    def open_loop(self) -> bool:
        """True when pruning should have changed the recorded activations but could not."""
        chosen = any(group.choice not in ("all", "sets") for group in self.groups)
        return chosen and not self.as_recorded

    @property
    def calibrated(self) -> bool:
        """True when it rests on thresholds from calibration tokens."""
        return any(group.choice == "threshold" for group in self.groups)


def scores(trace: Outline, signal: str, method: str) -> int:
    """Return the number of units of a signal that a method needs as scores.

    Raises:
        MethodError: the trace lacks it, or holds sets only; says how to record it.
    """
    recorded = trace.signals.get(signal)
    if recorded is None or not recorded.scored:
        what = "holds as sets only" if recorded is not None else "does not hold"
        raise MethodError(
            f"method {method} needs the scores of signal {signal}, which {trace.name} {what}: "
            f"record {MEANING[signal]} per token and layer as {signal}[tokens, layers, units]"
        )
    return recorded.units


def check_settings(method: str, settings: Settings, signals: tuple[str, ...]) -> None:
    """Refuse options that a method cannot use.

    Args:
        signals: signals of the groups that have a density.

    Raises:
        MethodError: a density outside 0..1, an unknown group, an option where none applies.
    """
    densities = {"density": settings.density} if settings.density is not None else {}
    for what, value in [*densities.items(), *settings.group_density.items()]:
        if value != 0 and not LEAST_DENSITY <= value <= 1:
            raise MethodError(
                f"{what} {value:g}: the share that is kept, from 0 to 1 (if not 0, at least "
                f"{LEAST_DENSITY:g})"
            )
    for name, value in settings.gamma.items():
        if not 0 <= value <= 1:
            which = "" if name == "*" else f"{name}="
            raise MethodError(f"gamma {which}{value:g}: from 0 to 1 (1 is plain top-k)")
    for given in (*settings.group_density, *(name for name in settings.gamma if name != "*")):
        if given not in signals:
            groups = ", ".join(signals) or "none with a density"
            raise MethodError(f"method {method} has no group {given!r}: its groups are {groups}")
    if settings.density is not None and settings.group_density:
        raise MethodError("give either --density or --group-density, not both")
    if settings.group_density and set(settings.group_density) != set(signals):
        raise MethodError(f"--group-density needs all groups of {method}: {', '.join(signals)}")
    for option in OPTIONS.values():
        if not option.methods or option.own_check or method in option.methods:
            continue
        if getattr(settings, option.name) != option.default:
            raise MethodError(
                f"{option.flag} is for {', '.join(option.methods)}, not for {method}: drop it"
            )


class InfeasibleError(MethodError):
    """A density that the dense parts of a method already exceed."""

    def __init__(self, method: str, density: float, least: float) -> None:
        super().__init__(
            f"method {method} cannot reach density {density:g}: its dense parts alone need "
            f"{least:.4g}; give --density {math.ceil(least * 1000) / 1000:g} or more"
        )
