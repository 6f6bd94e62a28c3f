"""Layers that tokens skip: what that leaves of their weights, and of their keys and values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError, MethodError
from dipsim.layers import decide
from dipsim.layers.contract import WHOLE
from dipsim.layers.cost import SkipKv, parts_of, positions_missing, positions_read
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline, Trace
from dipsim.trace.decisions import FULL, PARTIAL, SKIP


@dataclass(frozen=True)
class SkippedLayers:
    """Modes in which tokens run layers; prompts run them all."""

    rule: str
    """The rule, with its parameters."""
    modes: NDArray[np.uint8]
    """[tokens, layers] attention + 4 x MLP, each 0 skip, 1 partial, 2 full."""
    skip_kv: SkipKv
    partial: float
    """Share of its bytes that a layer in partial precision reads."""
    positions: NDArray[np.int64]
    """[tokens, layers] earlier positions whose keys and values a token may read."""
    missing: NDArray[np.int64]
    """[tokens, layers] positions, up to a token's own, of which a layer has no keys and values."""

    @property
    def mlp_share(self) -> NDArray[np.float64] | None:
        """[tokens, layers] share of its bytes that a layer's MLP reads; None where that is all of
        them, or nothing."""
        mlp = parts_of(self.modes)[1]
        return np.where(mlp == PARTIAL, self.partial, 1.0) if (mlp == PARTIAL).any() else None

    @property
    def attention_runs(self) -> NDArray[np.bool_]:
        """[tokens, layers] whether a token uses a layer's attention."""
        runs: NDArray[np.bool_] = parts_of(self.modes)[0] != SKIP
        return runs

    @property
    def mlp_runs(self) -> NDArray[np.bool_]:
        """[tokens, layers] whether a token uses a layer's MLP."""
        runs: NDArray[np.bool_] = parts_of(self.modes)[1] != SKIP
        return runs

    def shares(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the shares of their bytes that attention and MLP of each layer read, float64[rows,
        layers] each."""
        share = np.array([0.0, self.partial, 1.0])
        attention, mlp = parts_of(self.modes[rows])
        return share[attention], share[mlp]

    def counts(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return the mean layers that a token skips whole, and runs in part."""
        modes = self.modes[rows]
        skipped = (modes == WHOLE[SKIP]).sum(axis=1)
        partial = (np.stack(parts_of(modes)) == PARTIAL).any(axis=0).sum(axis=1)
        return {"skipped": float(skipped.mean()), "partial": float(partial.mean())}


def plan_layers(
    trace: Outline,
    model: Model | None,
    settings: Settings,
    decided: NDArray[np.uint8] | None = None,
) -> SkippedLayers | None:
    """Decide which layers each token skips; None where all run.

    Args:
        model: its weights, of which a layer in partial precision reads fewer bits.
        decided: modes in which a model ran, uint8[tokens, layers]; None where the rule decides.

    Raises:
        DipsimError: an unknown rule, or a trace without what it reads.
    """
    if settings.skip_layers is None:
        return None
    if settings.scope == "global":
        raise BudgetError(
            f"--skip-layers {settings.skip_layers} and --scope global: a token that skips a layer "
            "skips its caches, which needs --scope layer; drop one of them"
        )
    if decided is None:
        if not isinstance(trace, Trace):
            raise MethodError(
                "--skip-layers needs a trace, token by token: dipsim run TRACE (a rule that looks "
                "at states one recorded with --signals layer_io)"
            )
        decided = decide(settings.skip_layers, trace)
    modes = decided.copy()
    modes[~trace.rows.decode] = WHOLE[FULL]
    skip_kv: SkipKv = settings.skip_kv or "project"
    in_part = bool((np.stack(parts_of(modes)) == PARTIAL).any())
    if in_part and settings.io != "direct":
        raise BudgetError(
            f"--skip-layers {settings.skip_layers} runs layers in part, and --io {settings.io} "
            "reads pages of whole ones: use --io direct"
        )
    if settings.partial_bits is not None and not in_part:
        raise BudgetError(
            f"--partial-bits {settings.partial_bits:g}: {settings.skip_layers} runs no layer in "
            "part; drop it, or give e.g. similarity:share=.1,partial=.2"
        )
    return SkippedLayers(
        rule=settings.skip_layers,
        modes=modes,
        skip_kv=skip_kv,
        partial=_partial(model, settings.partial_bits) if in_part else 1.0,
        positions=np.maximum(positions_read(modes, trace.rows, skip_kv) - 1, 0),
        missing=positions_missing(modes, trace.rows, skip_kv),
    )


def _partial(model: Model | None, given: float | None) -> float:
    """Return the share of its bytes that a layer of so many bits per weight reads."""
    stored = 4.5 if model is None else 8 * model.bytes_per_weight
    bits = 2.5 if given is None else given
    if bits > stored:
        raise BudgetError(
            f"--partial-bits {bits:g}: the weights have {stored:g} bits; give at most so many"
        )
    return bits / stored
