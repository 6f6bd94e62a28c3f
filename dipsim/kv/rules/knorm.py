"""Knorm: long keys leave (Devoto et al., EMNLP 2024)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kv.rules.contract import Rule


def shortness(keys: NDArray[Any]) -> NDArray[Any]:
    """Return minus the length of each key, float[n, dim]."""
    shorter: NDArray[Any] = -np.sqrt((keys * keys).sum(axis=1))
    return shorter


def knorm() -> Rule:
    """Return the rule."""
    return Rule(
        "knorm",
        "keeps short keys; needs no attention weights",
        "Devoto et al., EMNLP 2024 (arXiv 2406.11430)",
        key_score=shortness,
        when="prompt",
    )
