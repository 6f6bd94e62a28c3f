"""CriticalKV: SnapKV, half of it weighed by projected values (Feng et al., arXiv 2502.03805)."""

from dataclasses import replace

from dipsim.kv.rules.contract import Pool, Rule, within
from dipsim.kv.rules.snapkv import snapkv


def criticalkv(window: int = 64, pool: Pool = "avg", kernel: int = 5, first: float = 0.5) -> Rule:
    """Return the rule.

    Args:
        window: as of `snapkv`.
        pool: as of `snapkv`.
        kernel: as of `snapkv`.
        first: share of the budget that is chosen as by SnapKV; the rest goes to the highest
            (mean weight + 1e-4) |W_o v|_1, W_o the output projection.
    """
    within("first", first, 0, 1)
    return replace(
        snapkv(window, pool, kernel),
        name="criticalkv",
        summary="as snapkv, the second half by weight times the size of the projected value",
        source="Feng et al., 2025 (arXiv 2502.03805)",
        first_stage=first,
    )
