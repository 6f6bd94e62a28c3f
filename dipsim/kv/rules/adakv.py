"""AdaKV: SnapKV with one budget for all heads of a layer (Feng et al., arXiv 2407.11550)."""

from dataclasses import replace

from dipsim.kv.rules.contract import Pool, Rule, within
from dipsim.kv.rules.snapkv import snapkv


def adakv(window: int = 64, pool: Pool = "avg", kernel: int = 5, safe: float = 0.2) -> Rule:
    """Return the rule.

    Args:
        window: as of `snapkv`.
        pool: as of `snapkv`.
        kernel: as of `snapkv`.
        safe: share of the mean budget that every head keeps of its own best.
    """
    within("safe", safe, 0, 1)
    return replace(
        snapkv(window, pool, kernel),
        name="adakv",
        summary="as snapkv, with the best positions of all heads of a layer together",
        source="Feng et al., 2024 (arXiv 2407.11550)",
        share="ada",
        safe=safe,
    )
