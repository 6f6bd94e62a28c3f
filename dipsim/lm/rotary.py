"""RoPE's frequencies of a model, for rules of eviction that count positions anew."""

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipsim.errors import ModelError

_PROBE = 8  # positions that the rotation is checked at


def rotary_frequencies(model: Any) -> NDArray[np.float64]:
    """Return the radians per position by which numbers d and d + head_dim / 2 of keys are turned,
    float64[head_dim / 2].

    The rotation is checked by itself: no layer runs, so nothing that watches the model sees it.

    Args:
        model: a causal language model of transformers.

    Raises:
        ModelError: keys are not turned so, in every layer and by as much at any length.
    """
    try:
        rotary = model.get_decoder().rotary_emb
        frequencies: Tensor = rotary.inv_freq.detach().cpu().double()
        by_length = rotary.rope_type in ("dynamic", "longrope")
        everywhere = all(getattr(model.config, "no_rope_layers", None) or [True])
        plain = everywhere and not by_length and _turns_halves(model, rotary, frequencies)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # parts of another shape or name
        plain = False
    if not plain:
        raise ModelError(
            f"{type(model).__name__}: RoPE does not turn halves of its keys (d with d + head_dim / "
            "2), alike in all layers and at any length, as rerotate=yes needs; take rerotate=no"
        )
    angles: NDArray[np.float64] = frequencies.numpy()
    return angles


def _turns_halves(model: Any, rotary: Any, frequencies: Tensor) -> bool:
    """Return whether keys of whole heads turn by these frequencies, number d with d + dim / 2."""
    config = model.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    positions = torch.arange(_PROBE)
    keys = torch.randn(1, 1, _PROBE, dim, generator=torch.Generator().manual_seed(0))
    given = keys.to(rotary.inv_freq.device)
    cosine, sine = rotary(given, position_ids=positions[None].to(given.device))
    rotate = sys.modules[type(model).__module__].apply_rotary_pos_emb
    _, turned = rotate(given, given, cosine, sine)
    angles = positions[:, None] * frequencies
    one, other = keys.double().chunk(2, dim=-1)
    expected = torch.cat(
        [one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()],
        dim=-1,
    )
    return torch.allclose(turned.cpu().double(), expected, atol=1e-4)
