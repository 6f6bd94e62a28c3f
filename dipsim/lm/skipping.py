"""Layer skipping in the loop: a running model whose tokens skip layers, as a rule decides.

Where a token skips a layer, its output is replaced by its input times a factor from calibration:
``where(skip, gain * input, output)``. All layers are computed for all tokens, so no time is saved;
what the model then says is exact. What other tokens see of a skipped layer's keys and values:

    project   those that the layer projects of the token's state all the same
    hole      nothing
    copy      those that the layer below used (the first layer has none below: it projects)
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.layers import Calibration, LayerError, LayerRule, Schedule, load_rule
from dipsim.layers.contract import COSINE, WHOLE
from dipsim.layers.cost import SKIP_KV, SkipKv
from dipsim.layers.recorded import Recorded
from dipsim.lm.attention import Attend, attention_through, layer_of_modules
from dipsim.lm.calls import call_of
from dipsim.lm.layer_io import cosine_and_gain, input_of, output_of
from dipsim.lm.record import record_arrays
from dipsim.lm.structure import Structure, find_structure
from dipsim.trace import DECODE, Tokens
from dipsim.trace.decisions import FULL, PARTIAL, SKIP
from dipsim.views import shortened

_AT_ONCE = 1024
"""Tokens of calibration per call of the model."""
_GAIN = COSINE + 1  # of the six figures of layer_io, the gain of the whole layer


def skip_layers(
    model: nn.Module,
    rule: str | LayerRule,
    calibrate: "NDArray[np.int64] | LayerStates",
    *,
    skip_kv: SkipKv = "project",
    factors: bool = True,
    prompt: int = 0,
    tell: Callable[[int, NDArray[np.bool_]], None] | None = None,
) -> "Skipping":
    """Let the tokens of a model skip layers while a with-block lasts.

    ``with skip_layers(model, "similarity:share=.2", windows) as skipping: model(ids)``

    Args:
        model: a causal language model of transformers.
        rule: as `dipsim.layers.load_rule` takes it.
        calibrate: int64[n, window] token ids, each window a sequence, or their `layer_states`.
            Influence, thresholds and factors come from them, so they should not be judged.
        skip_kv: keys and values that other tokens see where one skipped.
        factors: multiply the input of a skipped layer by the layer's mean gain; False: by 1.
        prompt: first tokens of each sequence, which run all layers.
        tell: called with each layer and which tokens of the call, bool[n], skip it.

    Raises:
        DipsimError: a rule that does not run in the loop, an unknown architecture, or attention
            that cannot be changed (``hole`` and ``copy``).
    """
    loaded = check_rule(rule)
    if skip_kv not in SKIP_KV:
        raise LayerError(f"skip-kv {skip_kv!r}: give one of {', '.join(SKIP_KV)}")
    states = calibrate if isinstance(calibrate, LayerStates) else layer_states(model, calibrate)
    schedule = loaded.fit(states.calibration)
    if skip_kv != "project" and not schedule.ahead:
        raise LayerError(
            f"skip-kv {skip_kv} with layer rule {loaded.name}: its decisions are known only when "
            "the layer has run: take project"
        )
    gain = states.mean_gain(schedule.full)
    used = gain if factors else np.ones_like(gain)
    return Skipping(model, states.structure, schedule, used, skip_kv, prompt, tell)


def check_rule(rule: str | LayerRule) -> LayerRule:
    """Return a rule after checking that it runs in the loop.

    Raises:
        LayerError: it does not, or is none.
    """
    loaded = load_rule(rule)
    if isinstance(loaded, Recorded) or getattr(loaded, "partial", False):
        raise LayerError(
            f"layer rule {loaded.name}: recorded and partial modes do not run in the loop: take "
            "drop, unified, skipdecode, early-exit, or similarity without partial"
        )
    return loaded


@dataclass(frozen=True)
class LayerStates:
    """Moves of the states of some tokens by the layers of a model; see `layer_states`."""

    structure: Structure
    calibration: Calibration
    """The tokens, with cos(input, output) of each layer."""
    gain: NDArray[np.float32]
    """float32[tokens, layers] <input, output> / <input, input>."""

    __repr__ = shortened

    def mean_gain(self, full: int) -> NDArray[np.float64]:
        """Return the mean gain of each layer, float64[layers], over the tokens that may skip it."""
        others = ~self.calibration.exempt(full)
        mean: NDArray[np.float64] = self.gain[others if others.any() else slice(None)].mean(
            axis=0, dtype=np.float64
        )
        return mean


def layer_states(model: nn.Module, windows: NDArray[np.int64]) -> LayerStates:
    """Run a model on windows of a text and return what rules are fitted to.

    Args:
        model: a causal language model of transformers.
        windows: int64[n, window] token ids, each window a sequence.

    Raises:
        DipsimError: an unknown architecture.
    """
    structure = find_structure(model)
    batch = max(1, _AT_ONCE // windows.shape[1])
    io = np.concatenate(
        [
            record_arrays(
                model, torch.from_numpy(windows[start : start + batch]), ["layer_io"], structure
            )["layer_io"]
            for start in range(0, len(windows), batch)
        ]
    )
    rows = _whole_sequences(*windows.shape)
    cosine = np.ascontiguousarray(io[..., COSINE])
    return LayerStates(structure, Calibration(len(structure.blocks), rows, cosine), io[..., _GAIN])


def _whole_sequences(sequences: int, tokens: int) -> Tokens:
    """Return the tokens of as many sequences, one after another."""
    sequence = np.repeat(np.arange(sequences, dtype=np.int32), tokens)
    return Tokens.of(np.full(len(sequence), DECODE, np.uint8), sequence)


class Skipping:
    """Hooks of a model whose tokens skip layers; see `skip_layers`.

    Attributes:
        schedule: the rule that was fitted.
        gain: float64[layers] that inputs of skipped layers are multiplied by.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        schedule: Schedule,
        gain: NDArray[np.float64],
        skip_kv: SkipKv,
        prompt: int = 0,
        tell: Callable[[int, NDArray[np.bool_]], None] | None = None,
    ) -> None:
        self.schedule, self.gain, self._tell = schedule, gain, tell
        self._full = max(schedule.full, prompt)
        self._model, self._structure, self._skip_kv = model, structure, skip_kv
        self._layer_of = layer_of_modules(structure.blocks)
        self._hooks = ExitStack()
        self._skipped = self._decided = 0
        self._below: tuple[Tensor, Tensor] | None = None

    @property
    def share(self) -> float:
        """Share of (token, layer) that was skipped so far."""
        return self._skipped / max(1, self._decided)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._hooks.close)
            if self._skip_kv != "project":
                self._hooks.enter_context(attention_through(self._model, self._attend))
            decoder = self._structure.decoder
            handles = [decoder.register_forward_pre_hook(self._begin, with_kwargs=True)]
            for layer, block in enumerate(self._structure.blocks):
                handles.append(
                    block.register_forward_pre_hook(
                        lambda module, args, layer=layer: self._ahead(layer)
                    )
                )
                handles.append(
                    block.register_forward_hook(
                        lambda module, args, given, output, layer=layer: self._replaced(
                            layer, input_of(args, given), output
                        ),
                        with_kwargs=True,
                    )
                )
            for handle in handles:
                self._hooks.callback(handle.remove)
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._hooks.close()

    def _begin(self, decoder: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        call = call_of(args, given)
        if call.follows:
            raise ModelError(
                "layers are skipped in whole texts: call the model without a KV cache, "
                "use_cache=False"
            )
        self._shape = (call.sequences, call.tokens)
        self._rows = _whole_sequences(*self._shape)
        self._cosine = np.zeros((len(self._rows), len(self._structure.blocks)), np.float32)
        self._below = None

    def _ahead(self, layer: int) -> None:
        """Decide before the layer runs, where the schedule can."""
        if self.schedule.ahead:
            self._skip = self._decide(layer)

    def _decide(self, layer: int) -> Tensor:
        """Return which tokens skip the layer, bool[sequences, tokens]."""
        modes = self.schedule.layer(layer, self._rows, self._cosine)
        modes = np.where(self._rows.position < self._full, WHOLE[FULL], modes)
        assert not (modes == WHOLE[PARTIAL]).any(), "refused beforehand"
        skip = modes == WHOLE[SKIP]
        self._skipped += int(skip.sum())
        self._decided += skip.size
        if self._tell is not None:
            self._tell(layer, skip)
        return torch.from_numpy(skip.reshape(self._shape))

    def _replaced(self, layer: int, x: Tensor, output: Any) -> Any:
        y = output_of(output)
        cosine, _ = cosine_and_gain(x.detach().float(), y.detach().float())
        self._cosine[:, layer] = cosine.cpu().numpy().ravel()
        skip = self._skip if self.schedule.ahead else self._decide(layer)
        scaled = (x * float(self.gain[layer])).to(y.dtype)
        replaced = torch.where(skip.to(y.device)[..., None], scaled, y)
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    def _attend(
        self,
        attend: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        **given: Any,
    ) -> tuple[Tensor, Any]:
        """Attend to what is there of the keys and values of tokens that skip the layer."""
        if module not in self._layer_of:
            return attend(module, query, key, value, mask, **given)
        skip = self._skip.to(key.device)
        if self._skip_kv == "hole":
            mask = without(mask, skip, query.dtype)
        else:
            if self._below is not None:
                taken = skip[:, None, :, None]
                key = torch.where(taken, self._below[0], key)
                value = torch.where(taken, self._below[1], value)
            self._below = key, value
        return attend(module, query, key, value, mask, **given)


def without(mask: Tensor | None, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an additive mask that hides some positions, each but from itself.

    Args:
        mask: bool (True: seen) or additive, [sequences or 1, heads or 1, tokens, tokens]; None: a
            token sees itself and all before it.
        hidden: bool[sequences, tokens].
        dtype: of the result.
    """
    tokens = hidden.shape[1]
    least = torch.finfo(dtype).min
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=hidden.device).tril()[None, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, least)
    itself = torch.eye(tokens, dtype=torch.bool, device=hidden.device)
    return mask.masked_fill(hidden[:, None, None, :] & ~itself, least)
