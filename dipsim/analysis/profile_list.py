"""Profiles sorted and chosen by their figures: ``--sort`` and ``--where`` of `dipsim profiles`."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import numpy as np

from dipsim.errors import DipsimError, brief
from dipsim.flash.read_time import speed_of
from dipsim.hardware import SMALL_READ, Kind, Profile, kinds_of
from dipsim.units import BANDWIDTH, BYTES, RATE, Dimension, parse_share

Value = float | tuple[str, ...]
"""A number in base units, or texts of which any may be meant."""
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_EQUAL = 1e-9
"""Relative difference up to which two quantities are the same."""
_CONDITION = re.compile(r"\s*([\w.-]+)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)


class Key(NamedTuple):
    """A figure of profiles that they can be sorted and chosen by."""

    meaning: str
    value: Callable[[Profile], Value]
    dimension: Dimension | None = None
    """Dimension of a quantity that has a unit."""
    example: str = "50%"


def flash_bandwidth(profile: Profile) -> float:
    """Return the bandwidth of the largest read in bytes per second, all lanes busy."""
    return speed_of(profile.flash).sequential_bandwidth


def flash_iops(profile: Profile) -> float:
    """Return how many reads of 4 KiB the flash does in a second, all lanes busy."""
    speed, lanes = speed_of(profile.flash), profile.flash.lanes
    return 1 / float(speed.seconds(np.array([SMALL_READ]), lanes)[0])


def kind_share(profile: Profile, kind: Kind) -> float:
    """Return the share of a profile's numbers that are of a kind."""
    counts = kinds_of(profile)
    return counts[kind] / max(sum(counts.values()), 1)


def _units(profile: Profile) -> tuple[str, ...]:
    """Return the names of the backends, and the units that they begin with."""
    return tuple({name for each in profile.backends for name in (each, each.partition("-")[0])})


def _engines(profile: Profile) -> tuple[str, ...]:
    return tuple(backend.engine or "" for backend in profile.backends.values())


_KINDS: Mapping[Kind, str] = {
    "measured": "measured",
    "fitted": "fitted to published runs",
    "vendor": "the vendor's",
    "estimate": "estimates",
}
KEYS: Mapping[str, Key] = {
    "name": Key("its name", lambda profile: (profile.name,), example="snapdragon"),
    "dram": Key("size of DRAM", lambda profile: profile.dram.capacity, BYTES),
    "available": Key("DRAM that an app may use", lambda profile: profile.dram.available, BYTES),
    "bandwidth": Key("peak of DRAM", lambda profile: profile.dram.bandwidth, BANDWIDTH),
    "flash": Key("bandwidth of its largest read", flash_bandwidth, BANDWIDTH, "2 GB/s"),
    "iops": Key("reads of 4 KiB a second", flash_iops, RATE),
    "backend": Key("a backend, or its unit", _units, example="npu"),
    "engine": Key("a word of an engine's name", _engines, example="llama.cpp"),
    **{
        kind: Key(f"share of its numbers that are {meaning}", partial(kind_share, kind=kind))
        for kind, meaning in _KINDS.items()
    },
}
"""Figures and names by which profiles are sorted and chosen."""


class Condition(NamedTuple):
    """A condition of ``--where`` on a profile, e.g. ``dram>=8GB``."""

    text: str
    holds: Callable[[Profile], bool]


def parse_where(texts: Iterable[str]) -> list[Condition]:
    """Read conditions, several to a text with commas.

    Raises:
        DipsimError: a key, operator or value that is none.
    """
    return [_condition(part.strip()) for text in texts for part in text.split(",")]


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise DipsimError(
            f"--where {brief(text)!r}: write KEY, one of {' '.join(_COMPARED)}, and a value, e.g. "
            f"dram>=8GB; keys are {', '.join(KEYS)}"
        )
    key, sign, value = match[1], match[2].replace("==", "="), match[3]
    figure = _key(key, "--where")
    if key in ("name", "backend", "engine"):
        return Condition(text, _of_texts(text, key, sign, value))
    wanted, compare = _number(text, figure, value), _COMPARED[sign]

    def holds(profile: Profile) -> bool:
        own = figure.value(profile)
        assert isinstance(own, float | int)
        same = abs(own - wanted) <= _EQUAL * max(abs(own), abs(wanted))
        return compare(wanted if same else own, wanted)

    return Condition(text, holds)


def _of_texts(text: str, key: str, sign: str, value: str) -> Callable[[Profile], bool]:
    """Return a condition on texts: ``=`` asks for one that is the value, or holds it."""
    if sign not in ("=", "!="):
        raise DipsimError(
            f"--where {brief(text)!r}: {key} is a text: use = or !=, e.g. {key}={KEYS[key].example}"
        )
    wanted = value.casefold()

    def holds(profile: Profile) -> bool:
        own = KEYS[key].value(profile)
        assert isinstance(own, tuple)
        folded = [each.casefold() for each in own]
        found = wanted in folded if key == "backend" else any(wanted in each for each in folded)
        return found == (sign == "=")

    return holds


def _number(text: str, key: Key, value: str) -> float:
    """Return the number of a condition in base units; of shares, 50% and .5 alike."""
    try:
        if key.dimension is not None:
            return key.dimension.parse(value)
        share = parse_share(value)
        number = float(value) if share is None else share
        if not 0 <= number <= 1:
            raise ValueError
    except ValueError as problem:
        why = str(problem) if key.dimension is not None else "a share is 0% to 100%, e.g. 50%"
        raise DipsimError(f"--where {brief(text)!r}: {why}") from None
    return number


def _key(name: str, option: str) -> Key:
    if name not in KEYS:
        close = get_close_matches(name, KEYS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DipsimError(f"{option}: no key {brief(name)!r}: {hint}use {', '.join(KEYS)}")
    return KEYS[name]


def select(
    profiles: Sequence[Profile], where: Iterable[str] = (), sort: str | None = None
) -> list[Profile]:
    """Return the profiles that meet all conditions, sorted by a figure: numbers from the largest
    down, texts from A to Z, backends by their number.

    Args:
        where: conditions such as ``dram>=8GB``.
        sort: one of `KEYS`; by default the order stays.

    Raises:
        DipsimError: a condition or key that is none.
    """
    conditions = parse_where(where)
    figure = None if sort is None else _key(sort, "--sort")
    chosen = [each for each in profiles if all(one.holds(each) for one in conditions)]
    if figure is None:
        return chosen
    if sort == "backend":
        return sorted(chosen, key=lambda profile: -len(profile.backends))
    if sort in ("name", "engine"):
        return sorted(chosen, key=figure.value)
    return sorted(chosen, key=figure.value, reverse=True)
