"""Full: nothing ever leaves, the cache of a runtime without eviction."""

from dipsim.kv.rules.contract import Rule


def full() -> Rule:
    """Return the rule that keeps everything, whatever the budget."""
    return Rule("full", "keeps every position", recent=lambda budget: budget, evicts=False)
