"""Keys and values in fewer bits inside a running model: attention reads what was rounded.

A query sees the newest positions as its token has them in fp16, and older ones rounded, so a whole
text in one call gives what token by token with a real cache would; a prompt is no exception.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.kv.bits import KvFormat, Part
from dipsim.kv.rounding import check_rounds, rounded
from dipsim.lm.attention import Attend, attention_through
from dipsim.lm.skipping import without


@dataclass
class Rounding:
    """A model whose keys and values are rounded, and what that did to its attention.

    Args:
        format: how they are stored.
        first: token of each sequence from which on the error counts.
        measures: outputs are compared with those of what was not rounded, at twice the cost.
    """

    format: KvFormat
    first: int
    measures: bool
    _errors: list[float] = field(default_factory=list, repr=False)

    @property
    def output_error(self) -> float | None:
        """Mean over sequences and layers of sum |o' - o|^2 / sum |o|^2; None where it is not
        measured."""
        return float(np.mean(self._errors)) if self._errors else None

    def attend(
        self,
        attend: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        **given: Any,
    ) -> tuple[Tensor, Any]:
        """Attend to rounded keys and values; see `dipsim.lm.attention.Wrapper`.

        Raises:
            ModelError: a key cache, or heads with a logit of their own beside the positions.
        """
        if query.shape[2] != key.shape[2]:
            raise ModelError(
                "keys and values are rounded in whole texts: call the model with use_cache=False"
            )
        stored = _rounded(self.format.key, key), _rounded(self.format.value, value)
        if self.format.newest:
            outputs, weights = self._mixed(query, (key, value), stored, mask, given), None
        else:
            outputs, weights = attend(module, query, *stored, mask, **given)
        if self.measures:
            plain, _ = attend(module, query, key, value, mask, **given)
            rows = slice(self.first, None)
            change = (outputs[:, rows].double() - plain[:, rows].double()).square().sum((1, 2, 3))
            energy = plain[:, rows].double().square().sum((1, 2, 3))
            self._errors += (change / energy.clamp_min(1e-300)).tolist()
        return outputs, weights

    def _mixed(
        self,
        query: Tensor,
        plain: tuple[Tensor, Tensor],
        stored: tuple[Tensor, Tensor],
        mask: Tensor | None,
        given: dict[str, Any],
    ) -> Tensor:
        """Return outputs float[sequences, tokens, heads, dim] where each query has newest positions
        of its own in fp16."""
        if given.get("s_aux") is not None:
            raise ModelError(
                f"KV format {self.format.name}: heads with a logit of their own; take a format "
                "without newest positions in fp16, e.g. q8_0"
            )
        heads, tokens = query.shape[1:3]
        scaling, softcap = given.get("scaling"), given.get("softcap")
        factor = query.shape[3] ** -0.5 if scaling is None else float(scaling)
        old = [_old(part, tokens).to(query.device) for part in (self.format.key, self.format.value)]
        fresh, rough = (
            [_by_query_head(x.float(), heads) for x in pair] for pair in (plain, stored)
        )
        logits = factor * torch.where(
            old[0], query.float() @ rough[0].mT, query.float() @ fresh[0].mT
        )
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        nothing = torch.zeros(query.shape[0], tokens, dtype=torch.bool, device=query.device)
        weights = (logits + without(mask, nothing, logits.dtype)).softmax(-1)
        outputs = (weights * old[1]) @ rough[1] + (weights * ~old[1]) @ fresh[1]
        return outputs.transpose(1, 2).to(query.dtype).contiguous()


@contextmanager
def rounding(
    model: Any, format_: KvFormat, *, first: int = 0, measures: bool = True
) -> Iterator[Rounding]:
    """Round the keys and values of a model while the with-block lasts.

    ``with rounding(model, parse_format("kivi:bits=2")) as rounds: perplexity(model, windows)``

    Args:
        model: a model of transformers.
        format_: how keys and values are stored.
        first: as of `Rounding`.
        measures: as of `Rounding`.

    Raises:
        DipsimError: a format of broken bits, or attention that cannot be replaced.
    """
    check_rounds(format_)
    state = Rounding(format_, first, measures)
    with attention_through(model, state.attend):
        yield state


def _rounded(part: Part, vectors: Tensor) -> Tensor:
    """Round float[sequences, kv heads, tokens, dim], all positions of it."""
    by_token = vectors.detach().cpu().float().transpose(1, 2)
    rows = [rounded(part, each.reshape(each.shape[0], -1).numpy()) for each in by_token]
    stored = torch.from_numpy(np.stack(rows)).reshape(by_token.shape).transpose(1, 2)
    return stored.to(vectors)


def _old(part: Part, tokens: int) -> Tensor:
    """Return which positions are quantised when each token attends, bool[tokens, positions]."""
    quantised = torch.from_numpy(part.quantised(np.arange(1, tokens + 1)))
    return torch.arange(tokens) < quantised[:, None]


def _by_query_head(vectors: Tensor, heads: int) -> Tensor:
    return vectors.repeat_interleave(heads // vectors.shape[1], dim=1)
