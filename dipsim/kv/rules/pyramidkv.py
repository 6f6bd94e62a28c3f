"""PyramidKV: SnapKV with larger budgets for lower layers (Cai et al., arXiv 2406.02069)."""

from dataclasses import replace

from dipsim.kv.rules.contract import Pool, Rule, within
from dipsim.kv.rules.snapkv import snapkv


def pyramidkv(window: int = 64, pool: Pool = "avg", kernel: int = 5, beta: float = 20.0) -> Rule:
    """Return the rule.

    Args:
        window: as of `snapkv`.
        pool: as of `snapkv`.
        kernel: as of `snapkv`.
        beta: steepness of the pyramid; the least budget is about the mean one divided by it.
    """
    within("beta", beta, 1, 1000)
    return replace(
        snapkv(window, pool, kernel),
        name="pyramidkv",
        summary="as snapkv, with larger budgets for lower layers",
        source="Cai et al., 2024 (arXiv 2406.02069)",
        share="pyramid",
        beta=beta,
    )
