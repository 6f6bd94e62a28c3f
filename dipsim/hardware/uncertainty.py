"""Spreads of a profile's numbers: how far from the truth one of its kind may be.

The constants are a judgement that measurements calibrate (docs/validation.md). Those of kinds stand
here, those of measured numbers with what measures them.
"""

import math
from collections.abc import Iterable, Mapping

from dipsim.hardware.profile import Kind, Profile, Source

SPREADS: Mapping[Kind, float] = {"measured": 0.15, "vendor": 0.2, "fitted": 0.45, "estimate": 0.6}
"""Spread of a number by the kind of its source, where the source states none: nine of ten lie
within a factor of 1 + spread. A measured number is of another device of the same name, a vendor's
is a peak, a fitted one is of other models on the device, an estimate has the right order."""
RULES = 0.25
"""Spread of the rules that make a rate of the numbers: two runs of one configuration differ by 6 %
on a phone, up to 33 % elsewhere."""


LEAST_RULES = 0.1
"""Least spread of the rules for an engine that was measured on the device: two runs of one
configuration differ by 6 % on a phone."""
_NINE_OF_TEN = 2.44
"""Quotient of the error below which nine of ten lie and the median of all, of normal ones."""


def measured_rules(profile: Profile, key: str) -> float | None:
    """Return the spread of the rules that make a rate of an engine's number ``key``, where it was
    measured on the device; None where it was not.

    It is how far off models were that were left out of the measurement, at least `LEAST_RULES`.
    """
    source = profile.source(key)
    if source is None or source.kind != "measured" or source.left_out is None:
        return None
    return max(LEAST_RULES, math.expm1(_NINE_OF_TEN * math.log1p(source.left_out)))


def spread_of(profile: Profile, key: str) -> float:
    """Return the spread of a number: nine of ten such numbers lie within a factor of 1 + spread.

    It is the one that the number's source states, else that of its kind; a number without a source
    is worth an estimate. A section, such as ``flash.fit``, is worth as much as its worst number.
    """
    return spreads_of(profile, [key])[key]


def spreads_of(profile: Profile, keys: Iterable[str]) -> dict[str, float]:
    """Return the spreads of several numbers, by their keys; see `spread_of`."""
    numbers = [number for number, _ in profile.numbers()]
    inside = {key: [number for number in numbers if number.startswith(f"{key}.")] for key in keys}
    return {
        key: max(_worth(profile.source(number)) for number in some or [key])
        for key, some in inside.items()
    }


def kinds_of(profile: Profile) -> dict[Kind, int]:
    """Return how many of a profile's numbers are of each kind; one without a source is an
    estimate."""
    counts: dict[Kind, int] = dict.fromkeys(SPREADS, 0)
    for key, _ in profile.numbers():
        source = profile.source(key)
        counts["estimate" if source is None else source.kind] += 1
    return counts


def is_known_share(profile: Profile, key: str) -> bool:
    """Return whether anything is known of a share; if not, it may be any from 0 to 1."""
    source = profile.source(key)
    return source is not None and (source.kind != "estimate" or source.spread is not None)


def _worth(source: Source | None) -> float:
    """Return the spread of a number with this source."""
    if source is None:
        return SPREADS["estimate"]
    return SPREADS[source.kind] if source.spread is None else source.spread
