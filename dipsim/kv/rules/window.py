"""Window: the newest positions stay (Beltagy et al., arXiv 2004.05150)."""

from dipsim.kv.rules.contract import Rule


def window() -> Rule:
    """Return the rule."""
    return Rule(
        "window",
        "keeps the newest positions",
        "Beltagy et al., 2020 (arXiv 2004.05150)",
        recent=lambda budget: budget,
    )
