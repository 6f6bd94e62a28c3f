"""TOVA: what the last query attends to least leaves (Oren et al., EMNLP 2024).

Heads are averaged, so a layer holds one set; that of each kv head apart is an option.
"""

from dipsim.kv.rules.contract import Rule, attention_weight, one_of


def tova(heads: str = "layer") -> Rule:
    """Return the rule.

    Args:
        heads: ``layer``, one set for a layer, by the mean over its heads; or ``kv``, a set for
            each kv head.
    """
    one_of("heads", heads, "layer", "kv")
    return Rule(
        "tova",
        "keeps what the last query attends to, and the last position",
        "Oren et al., EMNLP 2024 (arXiv 2401.06104)",
        contribution=attention_weight,
        memory=0.0,
        window=1,
        recent=lambda budget: 1,
        joined=heads == "layer",
    )
