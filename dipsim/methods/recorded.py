"""recorded: active sets that a model really used (ReLU sparsity, a predictor, a runtime's log)."""

from dipsim.errors import MethodError, TraceError
from dipsim.methods.contract import (
    COLUMN_OF_DOWN,
    COLUMN_OF_GATE_AND_UP,
    NEURON,
    Group,
    Method,
    check_settings,
)
from dipsim.model import MATRICES, Model, Slice
from dipsim.settings import Settings
from dipsim.trace import Outline
from dipsim.trace.outline import SignalOutline

RECORDED_SIGNALS = ("mlp_input", "gate", "up", "glu", "expert")
"""Signals whose recorded sets select weights of the MLP, in the order a layer computes them."""


def recorded(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Return one group per recorded signal, in the order a layer computes them.

    ``meta.signals.<signal>.slices`` says which matrices a unit spans. Without it ``mlp_input``
    spans columns of gate and up; ``gate`` and ``up`` a whole neuron; ``glu`` a whole neuron, or
    the column of down alone when ``mlp_input`` was recorded too; ``expert`` a whole expert.

    Raises:
        MethodError: no recorded sets, or an option that only makes sense for scores.
        TraceError: ``slices`` that are none.
    """
    signals = [trace.signals[name] for name in RECORDED_SIGNALS if name in trace.signals]
    signals = [
        signal
        for signal in signals
        if signal.holds == "sets" or (signal.name == "expert" and trace.has_routes)
    ]
    if not signals:
        raise MethodError(
            "method recorded needs active sets (bool, bits or sparse, or expert.used) of "
            f"{', '.join(RECORDED_SIGNALS)}, which {trace.name} does not hold"
        )
    names = {signal.name for signal in signals}
    if settings.density is not None or settings.group_density or settings.gamma or settings.split:
        raise MethodError("recorded sets are fixed: drop --density, --group-density, --gamma")
    check_settings("recorded", settings, ())
    if names == {"expert"}:
        return Method("recorded", (Group("expert", signals[0].units, (), "sets"),))
    if "expert" in names:
        raise MethodError(
            f"{trace.name} records experts and {', '.join(names - {'expert'})}: which weights "
            "overlap is not known; keep one of them (dipsim export --signals expert)"
        )
    groups = tuple(
        Group(signal.name, signal.units, _slices(trace, signal, names), "sets")
        for signal in signals
    )
    covered = [slice_.matrix for group in groups for slice_ in group.slices]
    twice = sorted({matrix for matrix in covered if covered.count(matrix) > 1})
    if twice:
        raise MethodError(
            f"{trace.name}: matrix {twice[0]} belongs to more than one recorded signal: "
            "say meta.signals.<signal>.slices"
        )
    return Method("recorded", groups, dense=tuple(m for m in MATRICES if m not in covered))


def _slices(trace: Outline, signal: SignalOutline, names: set[str]) -> tuple[Slice, ...]:
    """Return the slices of one unit, as declared or by the rule of `recorded`."""
    declared = signal.declared.get("slices")
    over_inputs = signal.name == "mlp_input"
    if declared is None:
        if over_inputs:
            return COLUMN_OF_GATE_AND_UP
        return COLUMN_OF_DOWN if "mlp_input" in names else NEURON
    known = {s.matrix: s for s in (COLUMN_OF_GATE_AND_UP if over_inputs else NEURON)}
    if not isinstance(declared, list) or not declared or not set(map(str, declared)) <= set(known):
        raise TraceError(
            f"{trace.name}: slices of {signal.name} are {declared!r}; "
            f"allowed is a list out of {', '.join(known)}"
        )
    return tuple(slice_ for matrix, slice_ in known.items() if matrix in declared)
