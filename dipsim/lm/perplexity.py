"""Perplexity of a model on a text."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dipsim.errors import ModelError

_AT_ONCE = 1024
"""Tokens per call; more do not run faster on a processor, and logits take memory."""


class Perplexity(NamedTuple):
    """Perplexity of a text: exp(mean loss), the mean loss in nats, the predicted tokens."""

    value: float
    loss: float
    tokens: int


def perplexity(
    model: nn.Module,
    windows: NDArray[np.int64],
    progress: Callable[[int, int], None] | None = None,
    *,
    prompt: int = 1,
) -> Perplexity:
    """Return the teacher-forced perplexity; each window is a sequence that begins with a prompt.

    Args:
        model: a causal language model.
        windows: int64[n, window] token ids.
        progress: called with (tokens done, tokens).
        prompt: tokens of each window that are given, at least 1; those behind it are judged.

    Raises:
        ModelError: the model's output is not finite.
    """
    total, count = 0.0, 0
    batch = max(1, _AT_ONCE // windows.shape[1])
    device = next(model.parameters()).device
    with torch.no_grad():
        for start in range(0, len(windows), batch):
            ids = torch.from_numpy(windows[start : start + batch]).to(device)
            logits = model(input_ids=ids, use_cache=False).logits[:, prompt - 1 : -1].float()
            judged = ids[:, prompt:]
            loss = nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), judged.reshape(-1), reduction="sum"
            )
            total += float(loss)
            count += judged.numel()
            if progress is not None:
                progress(min(start + batch, len(windows)) * windows.shape[1], windows.size)
    mean = total / count
    if not math.isfinite(mean):
        raise ModelError(
            f"{type(model).__name__}: its loss on this text is {mean}; its weights may be damaged"
        )
    return Perplexity(math.exp(min(mean, 700.0)), mean, count)
