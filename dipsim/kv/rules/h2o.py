"""H2O: what got most attention so far and the newest stay (Zhang et al., NeurIPS 2023)."""

from dipsim.kv.rules.contract import Rule, attention_weight, within


def h2o(recent: float = 0.5, window: int = 0, sinks: int = 0, every: int = 1) -> Rule:
    """Return the rule.

    Args:
        recent: share of the budget that the newest positions take.
        window: last queries of a prompt that count; 0 for all, as in the paper.
        sinks: first positions that stay.
        every: positions by which a head outgrows its budget before it is cut.
    """
    within("recent", recent, 0, 1)
    within("window", window, 0, 1 << 20)
    within("sinks", sinks, 0, 1 << 20)
    within("every", every, 1, 1 << 20)
    return Rule(
        "h2o",
        "keeps what got most attention so far, and the newest",
        "Zhang et al., NeurIPS 2023 (arXiv 2306.14048)",
        contribution=attention_weight,
        window=window,
        sinks=sinks,
        recent=lambda budget: int(recent * budget + 1e-9),
        every=every,
    )
