"""Token pruning in the loop: decoder layers run on the rows that a step needs (LazyLLM).

A layer computes the active tokens that it has not computed in an earlier step, from the hidden
states that wait before it. They attend to the active tokens at or before their position, whose keys
and values a cache keeps by position.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.tokens import NOTHING, Depths, Pruned, Pruning, Selection, account, parse_pruning

_PROBE = 8  # tokens that the layers are checked on


class _PositionCache:
    """Keys and values of a sequence by position; stands in for a cache of transformers."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows = self.active = torch.empty(0, dtype=torch.int64)

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [1, kv heads, rows, head dim]; return those of the active."""
        if layer not in self._stored:
            shape = (*keys.shape[:2], self._tokens, keys.shape[3])
            self._stored[layer] = keys.new_zeros(shape), values.new_zeros(shape)
        stored_keys, stored_values = self._stored[layer]
        stored_keys[:, :, self.rows] = keys
        stored_values[:, :, self.rows] = values
        return stored_keys[:, :, self.active], stored_values[:, :, self.active]


class PrunedSequence:
    """One sequence through a model whose tokens are pruned; call it with its prompt, then with the
    tokens that follow. Made by `prune_tokens`."""

    def __init__(self, model: Any, pruning: Pruning, tokens: int) -> None:
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        self._blocks = self._decoder.layers
        self._selection = Selection(pruning, len(self._blocks))
        self._depths = Depths(tokens)
        self._cache = _PositionCache(tokens)
        named = inspect.signature(self._blocks[0].forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
        weight = self._head.weight
        self._states = weight.new_zeros(tokens, weight.shape[1])
        self._attention = weight.new_zeros(0)
        self._tokens = 0
        self._prompt = 0
        self._kept: list[NDArray[np.uint8]] = []

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self._prompt

    @property
    def kept(self) -> NDArray[np.uint8]:
        """Active sets so far, uint8[steps, layers, bytes], for `dipsim.tokens.account`."""
        return np.stack(self._kept)

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Run a step and return the logits of its last token, float[vocab].

        Args:
            ids: int64[tokens], the prompt at first, then one token at a time.

        Raises:
            ModelError: more tokens than the sequence was made for, or several after the prompt.
        """
        first, end = self._tokens, self._tokens + len(ids)
        if end > len(self._states) or (first and len(ids) != 1) or not len(ids):
            raise ModelError(
                f"{len(ids)} tokens after {first}: give a prompt, then one token at a time, "
                f"{len(self._states)} in all"
            )
        self._tokens, self._prompt = end, self._prompt or end
        self._states[first:end] = self._decoder.embed_tokens(ids)
        positions = torch.arange(end, device=ids.device)[None]
        rotation = self._decoder.rotary_emb(self._states[None, :end], position_ids=positions)
        active = self._selection.begin(first, end)
        flags = np.zeros((len(self._blocks), 8 * -(-len(self._states) // 8)), np.uint8)
        for layer, block in enumerate(self._blocks):
            active = self._selection.prune(layer, active, lambda: self._attention.cpu().numpy())
            flags[layer, active] = 1
            self._run(layer, block, active, rotation)
        self._kept.append(np.packbits(flags, axis=1, bitorder="little"))
        logits: Tensor = self._head(self._decoder.norm(self._states[None, end - 1]))[0]
        return logits

    def _run(
        self, layer: int, block: nn.Module, active: NDArray[np.int64], rotation: tuple[Tensor, ...]
    ) -> None:
        """Compute the active tokens that wait before a layer."""
        pending = self._depths.pending(active, layer)
        rows, seen = (torch.from_numpy(x).to(self._states.device) for x in (pending, active))
        self._cache.rows, self._cache.active = rows, seen
        least = torch.finfo(self._states.dtype).min
        mask = (seen[None, :] > rows[:, None]).to(self._states.dtype) * least
        self._states[rows] = block(
            self._states[None, rows],
            attention_mask=mask[None, None],
            position_ids=rows[None],
            position_embeddings=tuple(part[:, rows] for part in rotation),
            **{self._cache_argument: self._cache},
        )[0]
        self._depths.advance(pending, layer)

    @contextmanager
    def noting_attention(self) -> Iterator[None]:
        """Keep the attention of the last token in the layers that the schedule cuts behind."""

        def note(module: nn.Module, given: Any, output: tuple[Tensor, Tensor]) -> None:
            self._attention = output[1][0, :, -1].float().mean(0)

        hooks = [
            self._blocks[layer - 1].self_attn.register_forward_hook(note)
            for layer in self._selection.cuts
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def prune_tokens(model: Any, pruning: str | Pruning, tokens: int) -> Iterator[PrunedSequence]:
    """Run one sequence through a model whose tokens are pruned, until the with-block ends.

    ``with prune_tokens(model, "lazy:at=.5,rate=.3", 640) as sequence: sequence(prompt)``

    Args:
        model: a causal language model of transformers whose layers attend to all positions.
        pruning: a schedule, or its text (`dipsim.tokens.parse_pruning`).
        tokens: most tokens that the sequence will have.

    Raises:
        ModelError: layers with a window, or that cannot be run one by one.
        MethodError: a schedule that does not fit the model.
    """
    schedule = parse_pruning(pruning) if isinstance(pruning, str) else pruning
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others keep their attention to themselves
    try:
        _check_layers(model)
        sequence = PrunedSequence(model, schedule, tokens)
        with sequence.noting_attention():
            yield sequence
    finally:
        model.set_attn_implementation(implementation)


def _check_layers(model: Any) -> None:
    """Check that layers run one by one compute what the model does.

    Raises:
        ModelError: they do not, or attend to a window only, which a few tokens would not show.
    """
    name, config = type(model).__name__, model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None))
    if windowed:
        raise ModelError(f"{name}: its layers attend to a window; prune tokens of one without")
    ids = torch.arange(_PROBE, device=next(model.parameters()).device)
    try:
        pruned = PrunedSequence(model, NOTHING, _PROBE)
        pruned(ids[:-1])
        logits = pruned(ids[-1:])
        with torch.no_grad():
            expected = model(input_ids=ids[None], use_cache=False).logits[0, -1]
        same = torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except (AttributeError, TypeError, ValueError, RuntimeError):  # parts of another shape or name
        same = False
    if not same:
        raise ModelError(
            f"{name}: its layers, run one by one, do not give what it gives; tokens are pruned in "
            "models built as Llama is"
        )


class PrunedPerplexity(NamedTuple):
    """Perplexity of the tokens after a prompt, and the work of a pruned model."""

    value: float
    loss: float
    """Mean loss in nats."""
    tokens: int
    """Tokens that were predicted."""
    prefill: float
    """Share of the (prompt token, layer) pairs that prefill computes."""
    computed: float
    """Share of these pairs that are computed in the end."""
    revived: float
    """Tokens revived per decoded token and layer."""
    read: float
    """Keys and values that decode steps read, as a share of those of the dense model."""
    work: tuple[Pruned, ...]
    """Tokens that layers saw and computed, window by window; the last one is among them, which
    predicts nothing that is judged, so that the shares above leave it out."""


def pruned_perplexity(
    model: Any, windows: NDArray[np.int64], prompt: int, pruning: str | Pruning
) -> PrunedPerplexity:
    """Return the teacher-forced perplexity of what follows the prompt of each window.

    Args:
        model: as of `prune_tokens`.
        windows: int64[n, window] token ids; each is a sequence.
        prompt: tokens of its prompt, whose last one predicts the first that is judged.

    Raises:
        ModelError, MethodError: as of `prune_tokens`; a prompt that leaves nothing to predict.
    """
    window = windows.shape[1]
    if not 1 <= prompt < window:
        raise ModelError(f"a prompt of {prompt} tokens: give 1 to {window - 1}, less than a window")
    losses: list[float] = []
    works: list[Pruned] = []
    shares = []
    device = next(model.parameters()).device
    for ids in torch.from_numpy(windows).to(device):
        with prune_tokens(model, pruning, window) as sequence:
            given = 0
            for end in range(prompt, window):
                logits = sequence(ids[given:end]).float()
                losses.append(float(nn.functional.cross_entropy(logits, ids[end])))
                given = end
            shares.append(shares_of(account(sequence.kept, prompt), prompt))
            sequence(ids[given:])
            works.append(account(sequence.kept, prompt))
    loss = float(np.mean(losses))
    value = math.exp(min(loss, 700.0))
    prefill, computed, revived, read = np.mean(shares, axis=0).tolist()
    return PrunedPerplexity(
        value, loss, len(losses), prefill, computed, revived, read, tuple(works)
    )


def shares_of(work: Pruned, prompt: int) -> tuple[float, float, float, float]:
    """Return the shares of `PrunedPerplexity`, from ``prefill`` on, after a prompt of so many
    tokens."""
    steps, layers = work.active.shape
    prefill = work.computed[0].mean() / prompt
    new = layers * (steps - 1)  # decoded tokens, each computed whole in its own step
    computed = (work.computed.sum() - new) / (layers * prompt)
    dense = layers * (prompt + np.arange(steps - 1)).sum()
    read = (work.active - work.computed)[1:].sum() / max(dense, 1)
    revived = float(work.revived.mean()) if steps > 1 else 0.0
    return float(prefill), float(computed), revived, float(read)
