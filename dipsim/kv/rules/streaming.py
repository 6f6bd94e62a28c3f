"""StreamingLLM: attention sinks and the newest positions stay (Xiao et al., ICLR 2024).

Positions keep the angles they were rotated by, or count anew inside the cache, as the authors have
it (section 3.2).
"""

from dipsim.kv.rules.contract import Rule, one_of, within


def streaming(sinks: int = 4, rerotate: str = "no") -> Rule:
    """Return the rule.

    Args:
        sinks: first positions that stay.
        rerotate: ``yes``, positions count anew inside the cache; ``no``, they stay those of the
            text.
    """
    within("sinks", sinks, 0, 1 << 20)
    one_of("rerotate", rerotate, "no", "yes")
    return Rule(
        "streaming",
        "keeps the first positions and the newest",
        "Xiao et al., ICLR 2024 (arXiv 2309.17453)",
        sinks=sinks,
        recent=lambda budget: max(budget - sinks, 1),
        rerotates=rerotate == "yes",
    )
