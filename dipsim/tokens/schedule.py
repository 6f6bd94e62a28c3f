"""Schedules of token pruning: the rule, behind which layers it cuts, and at which rates.

``lazy:at=.3/.6/.9,rate=.3`` cuts 30 % of the tokens behind 30, 60 and 90 % of the layers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError, brief, check_text

Rule = Literal["lazy", "static", "random"]
_EXAMPLE = "lazy:at=.3/.6/.9,rate=.3"
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "lazy": {"at": ".3/.6/.9", "rate": ".3"},  # figure 4 of the paper
    "static": {"at": ".2", "rate": ".3"},
    "random": {"rate": ".3", "seed": "0"},
}


@dataclass(frozen=True)
class Pruning:
    """A schedule of token pruning; make one with `parse_pruning`."""

    rule: Rule
    """``lazy`` cuts at every step, and a token may come back; ``static`` and ``random`` cut the
    prompt for good, by attention or by chance before the first layer."""
    at: tuple[float, ...]
    """Places, ascending: a share of the depth below 1, or from 1 on a number of layers."""
    rates: tuple[float, ...]
    """Share of the active tokens that leaves at each place."""
    seed: int = 0

    def __str__(self) -> str:
        parts = {"at": self.at, "rate": self.rates} if self.at != (0.0,) else {"rate": self.rates}
        text = ",".join(f"{key}={'/'.join(f'{x:g}' for x in xs)}" for key, xs in parts.items())
        return f"{self.rule}:{text}" + (f",seed={self.seed}" if self.rule == "random" else "")

    @property
    def for_good(self) -> bool:
        """True if a token that leaves never comes back."""
        return self.rule != "lazy"

    def cuts(self, layers: int) -> dict[int, float]:
        """Return the rate at each place of a model: the number of layers before it -> rate.

        Raises:
            MethodError: two places behind the same layer, or one that is not inside the model.
        """
        places = [math.floor(x * layers + 1e-9) if x < 1 else int(x) for x in self.at]
        inside = all(0 < place < layers for place in places) or self.rule == "random"
        if not inside or len(set(places)) < len(places):
            raise MethodError(
                f"token pruning {self} of {layers} layers cuts behind layers "
                f"{', '.join(map(str, places))}: give places that differ, from 1 to {layers - 1}"
            )
        return dict(zip(places, self.rates, strict=True))

    def shares(self, layers: int) -> NDArray[np.float64]:
        """Return the share of a long prompt's tokens that each layer computes, float64[layers]."""
        cuts = self.cuts(layers)
        left = [1 - cuts.get(layer, 0.0) for layer in range(layers)]
        return np.asarray(np.cumprod(left), np.float64)

    def fits(self, layers: int) -> bool:
        """Return whether a model has a layer of its own behind each place."""
        try:
            self.cuts(layers)
        except MethodError:
            return False
        return True

    def prompt_tokens(self, tokens: int, layers: int) -> NDArray[np.int64]:
        """Return how many tokens of a prompt each layer computes, int64[layers]."""
        cuts, active = self.cuts(layers), tokens
        counts = np.empty(layers, np.int64)
        for layer in range(layers):
            active -= cut_size(active, cuts.get(layer, 0.0))
            counts[layer] = active
        return counts


NOTHING = Pruning("lazy", (), ())
"""The schedule that prunes nothing."""


def cut_size(active: int, rate: float) -> int:
    """Return how many of the active tokens leave: int(rate x (active - 1)), as the last one stays.

    A product that falls short of a whole number by rounding counts as that number.
    """
    return math.floor(rate * (active - 1) + 1e-9) if active else 0


def parse_pruning(text: str) -> Pruning:
    """Read ``RULE:at=PLACE/PLACE,rate=RATE/RATE``; one rate is that of all places.

    Raises:
        MethodError: an unknown rule or parameter, or numbers out of range, in one line.
    """
    check_text("token pruning", text, f"a text such as {_EXAMPLE}")
    rule, _, rest = text.partition(":")
    if rule not in _DEFAULTS:
        known = ", ".join(get_args(Rule))
        raise MethodError(f"no token pruning {brief(rule)!r}: use {known}, as in {_EXAMPLE}")
    given: dict[str, str] = {}
    for pair in rest.split(",") if rest else ():
        key, equals, value = pair.partition("=")
        if key.strip() not in _DEFAULTS[rule] or not equals:
            known = ", ".join(_DEFAULTS[rule])
            raise MethodError(
                f"token pruning {brief(text)!r}: {rule} takes {known}, as in {_EXAMPLE}"
            )
        if key.strip() in given:
            raise MethodError(
                f"token pruning {brief(text)!r}: {key.strip()} is given twice; give it once"
            )
        given[key.strip()] = value
    return _checked(text, rule, {**_DEFAULTS[rule], **given})


def _checked(text: str, rule: str, given: Mapping[str, str]) -> Pruning:
    """Return the schedule of texts that are numbers in range.

    Raises:
        MethodError: they are not.
    """
    at, rates = _numbers(text, given.get("at", "0")), _numbers(text, given["rate"])
    seed = _numbers(text, given.get("seed", "0"))[0]
    if len(rates) == 1:
        rates *= len(at)
    placed = rule == "random" or all(0 < x < 1 or (x.is_integer() and x >= 1) for x in at)
    if not placed or sorted(at) != list(at) or len(rates) != len(at):
        raise MethodError(
            f"token pruning {brief(text)!r}: at takes ascending shares of the depth below 1, or "
            f"numbers of layers, and rate one for all or one for each, as in {_EXAMPLE}"
        )
    if not all(0 <= rate < 1 for rate in rates) or not (seed.is_integer() and 0 <= seed < 2**63):
        raise MethodError(
            f"token pruning {brief(text)!r}: a rate is a share from 0 to below 1, a seed a whole "
            "number from 0 on"
        )
    return Pruning(next(r for r in get_args(Rule) if r == rule), at, rates, int(seed))


def _numbers(text: str, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in value.split("/"))
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise MethodError(
            f"token pruning {brief(text)!r}: {brief(value)!r} is no list of numbers, as in "
            f"{_EXAMPLE}"
        ) from None
    return numbers
