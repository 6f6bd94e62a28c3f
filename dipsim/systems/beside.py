"""All that stands beside the weights of a run, worked out once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import ModelError
from dipsim.model import Model
from dipsim.settings import Settings, concerning
from dipsim.systems.speeds import Speeds
from dipsim.trace import Outline

if TYPE_CHECKING:
    from dipsim.systems.kv import KvCache
    from dipsim.systems.layers import SkippedLayers
    from dipsim.systems.tokens import PrunedTokens
    from dipsim.tokens import Pruned
    from dipsim.trace.steps import DecodeSteps


class Beside(NamedTuple):
    """Systems of a run; None for each that is not asked for."""

    kv: "KvCache | None" = None
    tokens: "PrunedTokens | None" = None
    layers: "SkippedLayers | None" = None
    steps: "DecodeSteps | None" = None

    @property
    def sequences(self) -> int:
        """Sequences whose keys and values are held at once."""
        return 1 if self.steps is None else self.steps.sequences

    @property
    def layer_runs(self) -> NDArray[np.bool_] | None:
        """[tokens, layers] whether a token uses a layer's units; None where all do."""
        return None if self.layers is None else self.layers.mlp_runs

    @property
    def aux_bytes(self) -> float:
        """Bytes of DRAM for hidden states that wait."""
        return 0.0 if self.tokens is None else self.tokens.aux_bytes


NOTHING = Beside()
"""Weights alone."""


class Decided(NamedTuple):
    """Decisions of a model that ran; None where a trace says them, or a rule follows from it."""

    modes: NDArray[np.uint8] | None = None
    """[tokens, layers] modes in which tokens ran layers."""
    work: "Sequence[Pruned] | None" = None
    """The tokens that layers saw, sequence by sequence."""


UNDECIDED = Decided()
_OF_WHOLE_LAYERS = ("prune_tokens", "skip_layers", "skip_kv")


def plan_beside(
    trace: Outline,
    model: Model | None,
    settings: Settings,
    context: int,
    speeds: Speeds,
    decided: Decided = UNDECIDED,
) -> Beside:
    """Work out the systems that the settings ask for.

    Args:
        context: tokens the budget holds KV for.
        speeds: of reading flash in order, and of computing.
        decided: of the tokens of the trace, where a model ran.

    Raises:
        ModelError: layers of several kinds, of which the systems know one.
        DipsimError: options that no such system can have, in one line.
    """
    if all(getattr(settings, name) is None for name in concerning("beside", "steps")):
        return NOTHING
    if model is not None:
        _refuse_kinds(model, settings)
    from dipsim.systems.kv import plan_kv
    from dipsim.systems.layers import plan_layers
    from dipsim.systems.steps import plan_steps
    from dipsim.systems.tokens import plan_tokens

    tokens = plan_tokens(trace, model, settings, decided.work)
    layers = plan_layers(trace, model, settings, decided.modes)
    running = decided.modes is not None
    kv = plan_kv(trace, model, settings, context, speeds, tokens, layers, running)
    return Beside(kv, tokens, layers, plan_steps(trace, settings))


def _refuse_kinds(model: Model, settings: Settings) -> None:
    """Refuse systems that take all layers for alike where they are not.

    Raises:
        ModelError: keys and values, or whole layers, of several kinds.
    """
    asked = [name for name in concerning("beside") if getattr(settings, name) is not None]
    whole = [name for name in asked if name in _OF_WHOLE_LAYERS]
    if not asked or (model.alike if whole else model.heads_alike):
        return
    option = f"--{(whole or asked)[0].replace('_', '-')}"
    what = "layers" if whole else "keys and values"
    kinds = ", ".join(dict.fromkeys(model.kind_names))
    raise ModelError(
        f"{option}: model {model.name} has {what} of its own kinds ({kinds}): such systems are for "
        "transformers whose layers differ in windows at most, and traces of all layers; drop it"
    )
