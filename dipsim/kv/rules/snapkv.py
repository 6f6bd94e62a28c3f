"""SnapKV: the prompt's last queries choose for good (Li et al., NeurIPS 2024)."""

from dipsim.kv.rules.contract import Pool, Rule, attention_weight, odd, one_of, within


def snapkv(window: int = 64, pool: Pool = "avg", kernel: int = 5) -> Rule:
    """Return the rule.

    Args:
        window: last queries of the prompt that count, whose own positions stay.
        pool: smoothing of the scores along positions: none, avg or max.
        kernel: neighbours that are pooled, odd.
    """
    within("window", window, 1, 1 << 20)
    one_of("pool", pool, "none", "avg", "max")
    odd("kernel", kernel)
    return Rule(
        "snapkv",
        "keeps what the prompt's last queries attend to, and their positions",
        "Li et al., NeurIPS 2024 (arXiv 2404.14469)",
        contribution=attention_weight,
        window=window,
        pool=pool,
        kernel=kernel,
        recent=lambda budget: window,
        when="prompt",
    )
