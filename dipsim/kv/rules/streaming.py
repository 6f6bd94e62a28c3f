"""StreamingLLM: attention sinks and the newest positions stay (Xiao et al., ICLR 2024).

Positions keep the angles they were rotated by; the authors count anew inside the cache.
"""

from dipsim.kv.rules.contract import Rule, within


def streaming(sinks: int = 4) -> Rule:
    """Return the rule.

    Args:
        sinks: first positions that stay.
    """
    within("sinks", sinks, 0, 1 << 20)
    return Rule(
        "streaming",
        "keeps the first positions and the newest",
        "Xiao et al., ICLR 2024 (arXiv 2309.17453)",
        sinks=sinks,
        recent=lambda budget: max(budget - sinks, 1),
    )
