"""Sparsification methods: one file per family. `BUILTIN` feeds the command line and the docs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dipsim import plugins
from dipsim.errors import MethodError, not_taken
from dipsim.kernels.topk import kth_largest
from dipsim.methods import masking, routing
from dipsim.methods.checks import check_cluster, check_model
from dipsim.methods.contract import Group, Method
from dipsim.methods.custom import custom
from dipsim.methods.dense import dense
from dipsim.methods.dip import dip, dip_ca
from dipsim.methods.gate import cats, gate, up
from dipsim.methods.glu import glu, glu_oracle
from dipsim.methods.hooks import hook_of
from dipsim.methods.moe import moe
from dipsim.methods.predictor import predictor
from dipsim.methods.pruning import PruningMethod, UnitGroup
from dipsim.methods.recorded import RECORDED_SIGNALS, recorded
from dipsim.methods.router import selection_known
from dipsim.methods.teal import teal
from dipsim.methods.thresholds import with_thresholds
from dipsim.model import SIGNALS, Model
from dipsim.settings import OWN, TAKES, Settings
from dipsim.trace import Outline


class Entry(NamedTuple):
    """The function that builds a method, and one line on what the method does."""

    build: Callable[[Outline, Settings, Model | None], Method]
    summary: str
    signals: tuple[str, ...]
    """Signals that it reads of a trace; empty where any will do."""


BUILTIN: dict[str, Entry] = {
    "dense": Entry(dense, "every weight, every token", ()),
    "glu": Entry(glu, "dense gate and up; top-k columns of down", ("glu",)),
    "glu-oracle": Entry(glu_oracle, "top-k neurons, known beforehand (a bound)", ("glu",)),
    "gate": Entry(gate, "dense gate; its top-k neurons of up and down", ("gate",)),
    "up": Entry(up, "dense up; its top-k neurons of gate and down", ("up",)),
    "cats": Entry(cats, "as gate, by a threshold per layer", ("gate",)),
    "predictor": Entry(predictor, "neurons a small network guesses beforehand", ("glu",)),
    "teal": Entry(
        teal,
        "inputs above thresholds, attention's too",
        ("attn_input", "attn_output", "mlp_input", "glu"),
    ),
    "dip": Entry(dip, "top-k inputs, then top-k neurons", ("mlp_input", "glu")),
    "dip-ca": Entry(dip_ca, "as dip, preferring what is in DRAM", ("mlp_input", "glu")),
    "recorded": Entry(recorded, "the sets the trace recorded", ()),
    "moe": Entry(moe, "the router's experts, or preferring those in DRAM", ("expert",)),
}

_KIND = plugins.Kind("method", PruningMethod, MethodError, BUILTIN, "mine.py:method:gamma=.5")

__all__ = [
    "BUILTIN",
    "Group",
    "Method",
    "PruningMethod",
    "Settings",
    "UnitGroup",
    "build_method",
    "choosers_of",
    "default_method",
    "kind_of",
    "kth_largest",
    "label_of",
    "load_method",
    "load_methods",
    "name_of",
    "numbers_of",
    "runs_file",
    "signals_of",
]


def load_method(given: str | PruningMethod) -> str | PruningMethod:
    """Return a built-in method's name, or the method of a user's own: as it is, or that of
    ``file.py:attribute``, perhaps with parameters (``mine.py:method:gamma=.5``).

    Raises:
        MethodError: unknown name, no such file or attribute, a file that fails, an attribute that
            is not a `PruningMethod`, or parameters that the method does not have.
    """
    if isinstance(given, str):
        name, _ = plugins.name_and_parameters(given)
        parameters = plugins.parse_parameters(_KIND, given)
        if name in BUILTIN and parameters:
            raise MethodError(
                f"method {given!r}: {name} has options, not parameters (see dipsim run --help)"
            )
        if name in BUILTIN:
            return name
        method: PruningMethod = plugins.load(_KIND, name)
        given = method.with_parameters(parameters) if parameters else method
    if not isinstance(given, PruningMethod):
        takes = "a name, file.py:attribute, or a PruningMethod"
        raise MethodError(not_taken("method", given, takes))
    if given.name in BUILTIN:
        raise MethodError(f"method {given.name}: a built-in one is called so; rename yours")
    return given


def load_methods(given: Sequence[str | PruningMethod]) -> list[str | PruningMethod]:
    """Return several methods, in the order given; reports tell them apart by their labels.

    Raises:
        MethodError: as `load_method`, or two methods have the same label.
    """
    methods = [load_method(method) for method in given]
    plugins.refuse_same(_KIND, [label_of(method) for method in methods])
    return methods


def label_of(given: str | PruningMethod) -> str:
    """Return what reports call a method; of a text that names none, the text.

    Raises:
        MethodError: as `load_method`, of a text that names a file.
    """
    if isinstance(given, str) and runs_file(given):
        given = load_method(given)
    return given if isinstance(given, str) else given.label


def name_of(given: str | PruningMethod | None) -> str | None:
    """Return what the settings call a method: its label, where it is an object."""
    return given.label if isinstance(given, PruningMethod) else given


def runs_file(given: str) -> bool:
    """Return whether `load_method` runs a file for this text."""
    return plugins.runs_file(_KIND, given)


def kind_of(given: str | PruningMethod) -> str:
    """Return the name by which options list the methods that take them.

    It is a built-in method's own name, or the one that stands for all methods of users.
    """
    return OWN if not isinstance(given, str) or runs_file(given) else given


def signals_of(given: str | PruningMethod) -> tuple[str, ...]:
    """Return the signals that a method reads of a trace; empty where any will do.

    Raises:
        MethodError: as `load_method`.
    """
    method = load_method(given)
    return BUILTIN[method].signals if isinstance(method, str) else method.signals


def default_method(trace: Outline, model: Model | None = None) -> str:
    """Return the name of the method for a trace when none is given.

    The first of recorded, moe, dip and glu whose signals the trace holds; for a plain MLP, whose
    product no gate foretells, glu-oracle instead of dip and glu.

    Raises:
        MethodError: no method fits its signals.
    """
    holds = {name: signal.holds for name, signal in trace.signals.items()}
    if any(holds.get(name) == "sets" for name in RECORDED_SIGNALS):
        return "recorded"
    if "expert" in holds:
        return "moe" if selection_known(trace) or not trace.has_routes else "recorded"
    if "glu" in holds and model is not None and not model.gated:
        return "glu-oracle"
    if "mlp_input" in holds and "glu" in holds:
        return "dip"
    if "glu" in holds:
        return "glu"
    if not holds:  # vectors and decisions alone: what they choose stands beside all weights
        return "dense"
    held = ", ".join(holds)
    raise MethodError(
        f"{trace.name} holds {held}: no method fits by default; choose one of "
        "dipsim methods, or record mlp_input and glu"
    )


def build_method(
    trace: Outline,
    settings: Settings,
    model: Model | None = None,
    given: str | PruningMethod | None = None,
) -> Method:
    """Return a method made ready for a trace.

    Args:
        given: the method, where it is an object; by default that of the settings, and without one
            `default_method`.
        model: gives sizes that the trace does not (dense, predictor, teal, moe).

    Raises:
        MethodError: unknown name, missing signal, impossible density, gamma or rule; or a cluster
            of units that are not chosen one by one.
        ModelError: a model whose MLP does not have the units of the method.
    """
    routed = settings.routing is not None or settings.top_k is not None
    name = given or settings.method
    if name is None:
        name = "moe" if routed and "expert" in trace.signals else default_method(trace, model)
    known = load_method(name)
    if isinstance(known, PruningMethod):
        method = custom(known, trace, settings, model)
    else:
        method = BUILTIN[known].build(trace, settings, model)
    if settings.selection == "threshold":
        groups = with_thresholds(trace, settings.calibrate_tokens, method.name, method.groups)
        method = replace(method, groups=groups)
    if settings.calibrate_tokens is not None and not method.calibrated:
        more = ", or add --selection threshold" if method.name in TAKES["selection"] else ""
        raise MethodError(f"method {method.name} has no thresholds: drop --calibrate-tokens{more}")
    method = _with_layer_units(method, trace, model)
    if settings.cluster > 1:
        check_cluster(trace, method, settings)
    if settings.io == "mmap" and method.cache_aware:
        raise MethodError(
            f"method {method.name} prefers what its cache holds; with --io mmap there is "
            "none to look into: use dip, or --io buffered"
        )
    if model is not None:
        check_model(model, method)
    return method


def _with_layer_units(method: Method, trace: Outline, model: Model | None) -> Method:
    """Return the method whose groups know where layers have fewer units than others: as the trace
    says, or of a signal that it does not hold, the model."""
    groups = []
    for group in method.groups:
        signal = trace.signals.get(group.signal)
        if signal is not None and signal.units == group.units:  # dense counts no clusters
            counts = trace.layer_units(group.signal)
        elif model is not None and group.signal in SIGNALS:
            counts = model.recorded_units(group.signal)
            group = replace(group, units=int(counts.max()) or group.units)
            counts = counts if counts.any() else np.array([group.units])
        else:
            counts = np.array([group.units])
        each = tuple(counts.tolist()) if (counts != group.units).any() else ()
        groups.append(replace(group, layer_units=each) if each else group)
    return replace(method, groups=tuple(groups))


def choosers_of(method: Method) -> tuple[Any, Any] | None:
    """Return the compiled functions that choose masks by what is resident: from scores, and from
    codes of log8.

    A replay loop calls them (`dipsim.kernels.Loop`). None where sets are known beforehand.
    """
    if not method.cache_aware:
        return None
    if method.custom is not None:
        return (hook_of(method.custom).choose,) * 2
    (rule,) = {group.rule.name: group.rule for group in method.groups if group.rule}.values()
    return (routing.choose,) * 2 if method.groups[0].of_experts else masking.choosers_of(rule)


def numbers_of(group: Group, layer: int) -> tuple[float, ...]:
    """Return a group's rule in a layer as its method's `choosers_of` read it; nothing without."""
    if group.rule is None:
        return ()
    own = group.at(layer)  # shares of its units are of those that the layer has
    if group.of_experts:
        return (*routing.numbers_of(own), *group.weighing.numbers(layer))
    return masking.numbers_of(own)
