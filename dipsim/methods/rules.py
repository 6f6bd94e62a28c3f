"""Rules with parameters, written ``NAME`` or ``NAME:key=value,key=value``, as policies are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dipsim.errors import MethodError


class Parameter(NamedTuple):
    """Default and bounds of a parameter; a default of None must be given, or is worked out."""

    default: float | None
    low: float = 0.0
    high: float = 1.0
    whole: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule by name, with the values of its parameters (None: to be worked out)."""

    name: str
    values: Mapping[str, float | None]

    def __getitem__(self, key: str) -> float:
        return self.values.get(key) or 0.0

    def __hash__(self) -> int:
        return hash((self.name, *sorted(self.values.items(), key=str)))


def parse_rule(option: str, text: str, known: Mapping[str, Mapping[str, Parameter]]) -> Rule:
    """Turn ``"approximate:top_m=.9"`` into a `Rule`.

    Args:
        option: the option it was given by, for messages.
        text: what was given.
        known: parameters of every rule, by the rule's name.

    Raises:
        MethodError: an unknown rule or parameter, or a value outside its bounds.
    """
    name, colon, rest = text.partition(":")
    if name not in known:
        raise MethodError(f"{option} {text!r}: use one of {', '.join(known)}")
    parameters = known[name]
    values = {key: parameter.default for key, parameter in parameters.items()}
    given: set[str] = set()
    for pair in rest.split(",") if colon else ():
        key, _, number = (part.strip() for part in pair.partition("="))
        if key not in parameters:
            names = ", ".join(parameters)
            allowed = f"its parameters are {names}" if names else "it has no parameters"
            raise MethodError(f"{option} {name}: no parameter {key!r}; {allowed}")
        if key in given:
            raise MethodError(f"{option} {name}: {key} stands there twice")
        given.add(key)
        values[key] = _value(f"{option} {name}", key, number, parameters[key])
    return Rule(name, values)


def _value(where: str, key: str, text: str, parameter: Parameter) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    low, high = parameter.low, parameter.high
    is_whole = math.isfinite(value) and value == int(value)
    if not (low <= value <= high and (is_whole or not parameter.whole)):
        kind = "a whole number" if parameter.whole else "a number"
        raise MethodError(f"{where}: {key}={text or '?'}: {kind} from {low:g} to {high:g}")
    return value
