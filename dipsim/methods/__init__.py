"""Sparsification methods: one file per family. `BUILTIN` feeds the command line and the docs."""

from collections.abc import Callable
from typing import NamedTuple

from dipsim.errors import MethodError
from dipsim.methods.contract import Group, Method, Wish
from dipsim.methods.dense import dense
from dipsim.methods.dip import dip, dip_ca
from dipsim.methods.glu import glu, glu_oracle
from dipsim.methods.recorded import RECORDED_SIGNALS, recorded
from dipsim.trace import Trace


class Entry(NamedTuple):
    """How a method is built, and one line on what it does."""

    build: Callable[[Trace, Wish, int | None], Method]
    summary: str
    signals: str


BUILTIN: dict[str, Entry] = {
    "dense": Entry(dense, "every weight, every token", "any"),
    "glu": Entry(glu, "dense gate and up; top-k columns of down", "glu"),
    "glu-oracle": Entry(glu_oracle, "top-k neurons, known beforehand (a bound)", "glu"),
    "dip": Entry(dip, "top-k inputs, then top-k neurons", "mlp_input, glu"),
    "dip-ca": Entry(dip_ca, "as dip, preferring what is in DRAM", "mlp_input, glu"),
    "recorded": Entry(recorded, "the sets the trace recorded", "any, as sets"),
}

__all__ = ["BUILTIN", "Group", "Method", "Wish", "build_method", "default_method"]


def default_method(trace: Trace) -> str:
    """The method for a trace when none is named: recorded, dip, or glu, by what it holds.

    Raises:
        MethodError: no method fits its signals.
    """
    holds = {name: signal.holds for name, signal in trace.signals.items()}
    if any(holds.get(name) == "sets" for name in RECORDED_SIGNALS):
        return "recorded"
    if "mlp_input" in holds and "glu" in holds:
        return "dip"
    if "glu" in holds:
        return "glu"
    raise MethodError(
        f"{trace.name} holds {', '.join(holds)}: no method fits; record mlp_input and glu, or sets"
    )


def build_method(
    name: str | None, trace: Trace, wish: Wish, intermediate: int | None = None
) -> Method:
    """The method ``name`` (default: `default_method`) made ready for a trace.

    Raises:
        MethodError: unknown name, missing signal, impossible density or gamma.
    """
    name = name or default_method(trace)
    if name not in BUILTIN:
        raise MethodError(f"no method {name!r}: use one of {', '.join(BUILTIN)}")
    return BUILTIN[name].build(trace, wish, intermediate)
