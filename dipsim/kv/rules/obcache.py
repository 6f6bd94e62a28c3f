"""OBCache: how much the output changes without a value, a key, or both (arXiv 2510.07651).

Optimal brain damage applied to the cache: the squared change of a head's output o when v := 0
(exact), k := 0 (first order in z, the scaled logit), or both.
"""

from typing import Any

from dipsim.kv.rules.contract import Pool, Rule, odd, one_of, within


def value_change(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return a^2 |v|^2."""
    return weight * weight * value_square


def key_change(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return a^2 z^2 |v - o|^2."""
    shift = weight * logit
    return shift * shift * (value_square - 2 * value_output + output_square)


def joint_change(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return a^2 |v + z (v - o)|^2: both changes and twice their product."""
    apart = value_square - 2 * value_output + output_square
    product = value_square - value_output
    return weight * weight * (value_square + logit * (2 * product + logit * apart))


_CHANGES = {"value": value_change, "key": key_change, "joint": joint_change}


def obcache(
    score: str = "joint",
    gqa: str = "sum",
    window: int = 16,
    recent: int = 16,
    pool: Pool = "max",
    kernel: int = 7,
    sinks: int = 0,
    every: int = 1,
) -> Rule:
    """Return the rule.

    Args:
        score: what is taken away: value, key or joint.
        gqa: scores of query heads are added (``sum``, the paper's appendix), or their weights and
            logits are averaged first (``mean``).
        window: last queries of a prompt that count; 0 for all.
        recent: newest positions that stay.
        pool: smoothing of a prompt's scores along positions: none, avg or max.
        kernel: neighbours that are pooled, odd.
        sinks: first positions that stay.
        every: positions by which a head outgrows its budget before it is cut.
    """
    one_of("score", score, *_CHANGES)
    one_of("gqa", gqa, "sum", "mean")
    within("window", window, 0, 1 << 20)
    within("recent", recent, 0, 1 << 20)
    one_of("pool", pool, "none", "avg", "max")
    odd("kernel", kernel)
    within("sinks", sinks, 0, 1 << 20)
    within("every", every, 1, 1 << 20)
    return Rule(
        "obcache",
        f"keeps positions without whose {score} the output would change most",
        "ICML 2026 (arXiv 2510.07651)",
        contribution=_CHANGES[score],
        window=window,
        pool=pool,
        kernel=kernel,
        sinks=sinks,
        recent=lambda budget: recent,
        averaged=gqa == "mean",
        every=every,
        reads_values_twice=score != "value",
    )
