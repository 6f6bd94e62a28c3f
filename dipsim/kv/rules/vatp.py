"""VATP: accumulated attention times the size of the value (Guo et al., EMNLP 2024).

Rule and first positions are those of the authors' code with H2O.
"""

from dataclasses import replace
from typing import Any

from dipsim.kv.rules.contract import Rule
from dipsim.kv.rules.h2o import h2o


def weighted_size(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return a |v|_1."""
    return weight * value_size


def vatp(recent: float = 0.5, window: int = 0, sinks: int = 20, every: int = 1) -> Rule:
    """Return the rule.

    Args:
        recent: as of `h2o`.
        window: as of `h2o`.
        every: as of `h2o`.
        sinks: first positions that stay: their values are small, but they are needed.
    """
    return replace(
        h2o(recent, window, sinks, every),
        name="vatp",
        summary="as h2o, with attention weighted by the size of the value",
        source="Guo et al., EMNLP 2024 (arXiv 2406.12335)",
        contribution=weighted_size,
    )
