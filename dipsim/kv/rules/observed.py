"""Observed attention: the mean attention of all queries that saw a position, as kvpress has it."""

from dipsim.kv.rules.contract import Rule, attention_weight


def observed() -> Rule:
    """Return the rule."""
    return Rule(
        "observed",
        "keeps what got most attention per query that saw it",
        "kvpress, ObservedAttentionPress",
        contribution=attention_weight,
        per_query=True,
        when="prompt",
    )
