"""Division of a budget of positions between layers and heads."""

import math

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError, brief, not_taken

_EXACT = 1e-9
"""Slack for shares that are not exact in binary, in positions."""
_TAKES = "a number of positions, or a share such as 25%"


def mean_budget(given: float | str, tokens: int) -> float:
    """Return positions per layer and kv head, a fraction where a share does not come out even.

    Args:
        given: positions, ``1024``, or a share of the tokens, ``"25%"``.
        tokens: those of the prompt, or of the context where positions leave at every token.

    Raises:
        BudgetError: neither, or less than one position, or more than all of the tokens.
    """
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise BudgetError(not_taken("KV budget", given, _TAKES))
    text = str(given).strip()
    try:
        number = math.nan if "_" in text else float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BudgetError(f"KV budget {brief(given)!r}: give {_TAKES}")
    if not text.endswith("%"):
        if number < 1 or number != int(number):
            raise BudgetError(f"KV budget {text}: at least 1 position, a whole number, or a share")
        return number
    if not 0 < number <= 100:
        raise BudgetError(f"KV budget {text}: a share above 0% and at most 100%")
    return max(1.0, number / 100 * tokens)


def uniform(budget: float, layers: int) -> NDArray[np.int64]:
    """Return the same budget for every layer, int64[layers]."""
    return np.full(layers, int(budget + _EXACT), np.int64)


def pyramid(budget: float, layers: int, prompt: int, window: int, beta: float) -> NDArray[np.int64]:
    """Return budgets that fall from the first layer to the last, int64[layers].

    They average ``budget``; the last is ``budget / beta`` unless the first would exceed the prompt
    without its window (PyramidKV in kvpress, which falls back to uniform where this raises).

    Args:
        budget: mean positions per layer and kv head.
        prompt: tokens of the prompt.
        window: last queries that count, whose positions stay in every layer.
        beta: steepness.

    Raises:
        BudgetError: the last layer would hold less than its window.
    """
    least = budget / beta
    most = 2 * budget - least
    if most >= prompt - window:
        most = prompt - window
        least = 2 * budget - most
    if least > most + _EXACT:
        raise BudgetError(
            f"KV budget {budget:g}: no pyramid over a prompt of {prompt} tokens, whose first layer "
            f"would hold {most} positions, all but its window of {window}; give a budget of at "
            f"most {most}, a smaller window, or snapkv"
        )
    if not (prompt >= most >= least - _EXACT and least >= window - _EXACT):
        raise BudgetError(
            f"KV budget {budget:g}: no pyramid over a prompt of {prompt} tokens, as its last layer "
            f"would hold {least:g} positions and its window is {window}; give a larger budget, a "
            "smaller window or beta, or snapkv"
        )
    step = (most - least) / (layers - 1) if layers > 1 else 0.0
    return np.array([round(most - layer * step) for layer in range(layers)], np.int64)


def ada(scores: NDArray[np.float64], budget: int, safe: float) -> NDArray[np.bool_]:
    """Return the best positions of all heads together, bool[kv heads, positions] (AdaKV).

    Every head first keeps ``floor(safe * budget)`` of its own best, at least one unless ``safe`` is
    0; ``kv heads * budget`` are kept in all. Of tied positions the newer stay.

    Args:
        scores: float64[kv heads, positions].
        budget: mean positions per head.
    """
    heads, positions = scores.shape
    secured = min(budget, max(1, int(safe * budget))) if safe > 0 else 0
    ranked = np.argsort(scores, axis=1, kind="stable")
    safely = scores.copy()
    np.put_along_axis(safely, ranked[:, positions - secured :], np.inf, axis=1)
    # Position by position, so that of tied ones the newer come last whatever their head.
    order = np.argsort(safely.T.reshape(-1), kind="stable")
    kept = np.zeros(heads * positions, np.bool_)
    kept[order[max(0, heads * (positions - budget)) :]] = True
    return kept.reshape(positions, heads).T
