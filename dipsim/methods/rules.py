"""Rules that choose by what is in DRAM: ``--masking`` of dip-ca, ``--routing`` of experts.

Written ``NAME`` or ``NAME:key=value,key=value``, like policies. The rules themselves, equation by
equation, are `dipsim.kernels.masking` and `dipsim.kernels.routing`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dipsim.errors import MethodError


class Parameter(NamedTuple):
    """What a parameter may be; a default of None must be given, or is worked out."""

    default: float | None
    low: float = 0.0
    high: float = 1.0
    whole: bool = False


FIXED_TOP_N = {"fixed_top_n": Parameter(0.0)}
MASKING: dict[str, dict[str, Parameter]] = {
    "gamma": {**FIXED_TOP_N, "warm_up": Parameter(0, whole=True)},
    "blend": {**FIXED_TOP_N, "warm_up": Parameter(0, whole=True)},
    "approximate": {**FIXED_TOP_N, "top_m": Parameter(None), "counts": Parameter(0.0)},
}
_MANY = 65_536
ROUTING: dict[str, dict[str, Parameter]] = {
    "plain": {},
    "cache-prior": {"lambda": Parameter(0.2, 0, 1e6), "top_j": Parameter(2, 0, _MANY, True)},
    "max-rank": {
        "top_j": Parameter(1, 0, _MANY, True),
        "max_rank": Parameter(None, 1, _MANY, True),
    },
    "drop-cold": {"factor": Parameter(0.5)},
    "reuse-distance": {},
}


@dataclass(frozen=True)
class Rule:
    """A rule by name, with the values of its parameters (None: to be worked out)."""

    name: str
    values: Mapping[str, float | None]

    def __getitem__(self, key: str) -> float:
        return self.values.get(key) or 0.0

    def __hash__(self) -> int:
        return hash((self.name, *sorted(self.values.items(), key=str)))


def parse_rule(option: str, said: str, known: Mapping[str, Mapping[str, Parameter]]) -> Rule:
    """``"approximate:top_m=.9"`` -> a `Rule`.

    Raises:
        MethodError: an unknown rule or parameter, or a value outside its bounds.
    """
    name, colon, rest = said.partition(":")
    if name not in known:
        raise MethodError(f"{option} {said!r}: use one of {', '.join(known)}")
    has = known[name]
    values: dict[str, float | None] = {key: at.default for key, at in has.items()}
    given: set[str] = set()
    for pair in rest.split(",") if colon else ():
        key, _, text = (part.strip() for part in pair.partition("="))
        if key not in has:
            may = f"its parameters are {', '.join(has)}" if has else "it has no parameters"
            raise MethodError(f"{option} {name}: no parameter {key!r}; {may}")
        if key in given:
            raise MethodError(f"{option} {name}: {key} stands there twice")
        given.add(key)
        values[key] = _value(f"{option} {name}", key, text, has[key])
    return Rule(name, values)


def _value(where: str, key: str, text: str, at: Parameter) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = not at.whole or (math.isfinite(value) and value == int(value))
    if not (at.low <= value <= at.high and whole):
        kind = "a whole number" if at.whole else "a number"
        raise MethodError(f"{where}: {key}={text or '?'}: {kind} from {at.low:g} to {at.high:g}")
    return value
