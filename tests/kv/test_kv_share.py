"""How budgets are shared: the worked numbers of PyramidKV, shares of AdaKV, texts of budgets."""

import numpy as np
import pytest

from dipsim.errors import BudgetError
from dipsim.kv.share import ada, mean_budget, pyramid, uniform


def test_a_pyramid_is_that_of_the_reference():
    """8 192 tokens, a fifth of them kept, 32 layers."""
    budget = mean_budget("20%", 8192)
    budgets = pyramid(budget, 32, 8192, 64, 20)
    assert budgets[:2].tolist() == [3195, 3094]
    assert budgets[-1] == 82
    assert budgets.sum() == 52_429
    assert uniform(budget, 32).sum() == 52_416


def test_a_wide_pyramid_stops_at_the_prompt_without_its_window():
    budgets = pyramid(600, 5, 1000, 64, 20)
    assert budgets.tolist() == [936, 768, 600, 432, 264]


def test_the_least_budget_of_a_pyramid():
    assert pyramid(1280, 4, 8192, 64, 20)[-1] == 64
    with pytest.raises(BudgetError, match=r"63\.95 positions and its window is 64"):
        pyramid(1279, 4, 8192, 64, 20)
    assert pyramid(1300, 1, 8192, 64, 20).tolist() == [2535]


def test_heads_share_what_is_best_of_all():
    scores = np.array([[9.0, 8, 7, 6, 5, 4], [3.0, 2, 1, 0, 0, 0]])
    assert ada(scores, 3, 0).tolist() == [[True] * 6, [False] * 6]
    assert ada(scores, 3, 0.4).sum(axis=1).tolist() == [5, 1]  # floor(1.2) = 1 is safe
    assert ada(scores, 3, 0.7).sum(axis=1).tolist() == [4, 2]
    assert ada(scores, 3, 1).sum(axis=1).tolist() == [3, 3]
    assert ada(scores, 3, 1)[1].tolist() == [True, True, True, False, False, False]


def test_of_tied_positions_the_newer_stay():
    assert ada(np.zeros((2, 4)), 2, 0).tolist() == [[False, False, True, True]] * 2


def test_budgets_are_positions_or_shares():
    assert [mean_budget(given, 1000) for given in (128, "128", "25%", "12.55%")] == [
        128,
        128,
        250,
        125.5,
    ]
    assert mean_budget("0.01%", 1000) == 1
    assert uniform(125.5, 3).tolist() == [125] * 3
    assert uniform(0.29 * 100, 1).tolist() == [29]  # 28.999999999999996 in binary
