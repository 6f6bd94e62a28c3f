"""Sparsification methods: one file per family. `BUILTIN` feeds the command line and the docs."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from dipsim.errors import MethodError
from dipsim.methods import masking, routing
from dipsim.methods.checks import check_cluster, check_model
from dipsim.methods.contract import Group, Method
from dipsim.methods.dense import dense
from dipsim.methods.dip import dip, dip_ca
from dipsim.methods.gate import cats, gate, up
from dipsim.methods.glu import glu, glu_oracle
from dipsim.methods.moe import moe
from dipsim.methods.predictor import predictor
from dipsim.methods.recorded import RECORDED_SIGNALS, recorded
from dipsim.methods.teal import teal
from dipsim.methods.thresholds import with_thresholds
from dipsim.model import Model
from dipsim.settings import TAKES, Settings
from dipsim.trace import Outline


class Entry(NamedTuple):
    """The function that builds a method, and one line on what the method does."""

    build: Callable[[Outline, Settings, Model | None], Method]
    summary: str
    signals: tuple[str, ...]
    """Signals it reads of a trace; none: any."""


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

__all__ = [
    "BUILTIN",
    "Group",
    "Method",
    "Settings",
    "build_method",
    "chooser_of",
    "default_method",
    "numbers_of",
]


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
        return "moe"
    if "glu" in holds and model is not None and not model.gated:
        return "glu-oracle"
    if "mlp_input" in holds and "glu" in holds:
        return "dip"
    if "glu" in holds:
        return "glu"
    raise MethodError(
        f"{trace.name} holds {', '.join(holds)}: no method fits by default; choose one of "
        "dipsim methods, or record mlp_input and glu"
    )


def build_method(trace: Outline, settings: Settings, model: Model | None = None) -> Method:
    """Return the method of the settings (default: `default_method`) made ready for a trace.

    Args:
        model: gives sizes that the trace does not (dense, predictor, teal, moe).

    Raises:
        MethodError: unknown name, missing signal, impossible density, gamma or rule; or a cluster
            of units that are not chosen one by one.
        ModelError: a model whose MLP does not have the units of the method.
    """
    routed = settings.routing is not None or settings.top_k is not None
    name = settings.method or (
        "moe" if routed and "expert" in trace.signals else default_method(trace, model)
    )
    if name not in BUILTIN:
        raise MethodError(f"no method {name!r}: use one of {', '.join(BUILTIN)}")
    method = BUILTIN[name].build(trace, settings, model)
    if settings.selection == "threshold":
        groups = with_thresholds(trace, settings.calibrate_tokens, name, method.groups)
        method = replace(method, groups=groups)
    if settings.calibrate_tokens is not None and not method.calibrated:
        more = ", or add --selection threshold" if name in TAKES["selection"] else ""
        raise MethodError(f"method {name} has no thresholds: drop --calibrate-tokens{more}")
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


def chooser_of(method: Method) -> Callable[..., None] | None:
    """Return the compiled function that chooses masks by what is resident.

    A replay loop is bound around it (`dipsim.kernels.bind`). None where sets are known beforehand.
    """
    if not method.cache_aware:
        return None
    choose: Callable[..., None] = routing.choose if method.groups[0].of_experts else masking.choose
    return choose


def numbers_of(group: Group) -> tuple[float, ...]:
    """Return a group's rule as its method's `chooser_of` reads it; nothing without a rule."""
    if group.rule is None:
        return ()
    return routing.numbers_of(group) if group.of_experts else masking.numbers_of(group)
