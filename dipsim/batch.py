"""Several tokens at once, of a batch or of drafts: what they need together, what they give.

A step over w tokens reads each weight once that any of them needs, so what counts is the union of
their active sets. It undoes sparsity: eight tokens of half the units need nearly all.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError, brief

_EXAMPLE = "--speculate draft=4,accept=.8"
_MOST = {"draft": 2.0**22, "accept": 1.0, "cost": 1e6, "seed": 2.0**32}
"""Keys of ``--speculate``, and the largest value of each; the least is 0."""
_WHOLE = ("draft", "seed")


class Speculation(NamedTuple):
    """Speculative decoding: a step drafts tokens and verifies them, with one of its own."""

    draft: int
    """Tokens that are drafted."""
    accept: float
    """Probability that a draft is accepted, 0 to 1."""
    cost: float = 0.0
    """Time of drafting a token, as a share of that of a token decoded alone."""
    seed: int = 0
    """Seed of what is accepted."""

    def given(self, steps: int, draws: np.random.Generator) -> NDArray[np.int64]:
        """Return the tokens that each of so many steps gives, int64[steps], as drawn."""
        if self.accept >= 1:
            return np.full(steps, self.draft + 1)
        until_rejected = draws.geometric(1 - self.accept, steps)  # the rejected one counts
        given: NDArray[np.int64] = np.minimum(until_rejected, self.draft + 1)
        return given


def parse_speculation(text: str) -> Speculation:
    """Read ``"draft=4,accept=.8"``, with ``cost=`` and ``seed=`` if given.

    Raises:
        DipsimError: an unknown key, no number of drafts or no acceptance, or a value out of range.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        key, _, number = (each.strip() for each in part.partition("="))
        if key not in _MOST:
            raise DipsimError(
                f"--speculate: no key {brief(key)!r}; its keys are {', '.join(_MOST)}, e.g. "
                f"{_EXAMPLE}"
            )
        if key in values:
            raise DipsimError(f"--speculate: {key} stands there twice")
        values[key] = _value(key, number)
    for key in ("draft", "accept"):
        if key not in values:
            raise DipsimError(f"--speculate {brief(text)} needs {key}=, e.g. {_EXAMPLE}")
    whole = {key: int(value) for key, value in values.items() if key in _WHOLE}
    return Speculation(**{**values, **whole})  # type: ignore[arg-type]


def _value(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    kind = "a whole number" if key in _WHOLE else "a number"
    if not 0 <= value <= _MOST[key] or (key in _WHOLE and value != int(value)):
        raise DipsimError(
            f"--speculate: {key}={brief(text) or '?'}: {kind} from 0 to {_MOST[key]:.0f}"
        )
    return value


def tokens_per_step(draft: int, acceptance: float) -> float:
    """Return the mean tokens that a step of speculative decoding gives.

    The drafts are accepted up to the first that is rejected, each with the same probability, and
    one token of the model's own follows (Leviathan et al., arXiv 2211.17192, equation 1).

    Args:
        draft: tokens that are drafted, at least 0.
        acceptance: probability that a draft is accepted, 0 to 1.

    Raises:
        DipsimError: numbers outside these ranges.
    """
    if draft < 0 or not 0 <= acceptance <= 1:
        raise DipsimError(
            f"drafts {draft}, acceptance {acceptance:g}: give 0 or more drafts, and a probability "
            "from 0 to 1"
        )
    return float(sum(acceptance**accepted for accepted in range(draft + 1)))


def unions(sets: NDArray[Any], width: int, sequence: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the union of the active sets of every ``width`` successive tokens.

    Args:
        sets: bits [tokens, layers, words], of any unsigned type.
        width: tokens that are used together.
        sequence: int[tokens]; tokens of different sequences are not used together.

    Returns:
        bits [windows, layers, words]; the window that begins at each token and has ``width``.

    Raises:
        DipsimError: a width below 1, or no sequence that long.
    """
    first = len(sets) - width + 1
    begins = np.arange(max(first, 0))
    if sequence is not None and width > 1:
        begins = begins[sequence[begins] == sequence[begins + width - 1]]
    if width < 1 or not len(begins):
        raise DipsimError(
            f"batches of {width} tokens: give 1 to {len(sets)}, as many as follow one another"
        )
    union = sets[begins].copy()
    for later in range(1, width):
        union |= sets[begins + later]
    return union


def union_share(
    sets: NDArray[Any], units: int, width: int, sequence: NDArray[Any] | None = None
) -> float:
    """Return the mean share of units that ``width`` successive tokens need together.

    Args:
        sets: as of `unions`.
        width: as of `unions`.
        sequence: as of `unions`.
        units: of each set.

    Raises:
        DipsimError: as `unions`.
    """
    union = unions(sets, width, sequence)
    return float(np.bitwise_count(union).sum(dtype=np.int64) / (units * union[..., 0].size))
