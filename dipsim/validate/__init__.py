"""Validation: predictions of published measurements, and their errors.

Every case is predicted with parameters that were fitted on other cases (`judge`); a phone's own
routes are replayed and judged token by token (`judge_routes`).
"""

import re

from dipsim.validate.cases import Cases, load_cases
from dipsim.validate.error_bars import MAPPED, MEMORY, STREAMING, Bar
from dipsim.validate.judge import GroupResult, Judged, Validation, judge
from dipsim.validate.routes import RoutesResult, judge_routes

__all__ = [
    "Cases",
    "GroupResult",
    "Judged",
    "RoutesResult",
    "Validation",
    "bars_of",
    "judge",
    "judge_routes",
    "load_cases",
]
_LONGEST = 60


def bars_of(validation: Validation) -> list[Bar]:
    """Return an error bar for every class with a case that others predict."""
    bars = []
    for name in (STREAMING, MAPPED):
        result = validation.group(name)
        if result is not None and result.counted:
            bars.append(_bar(name, result, result.group.measured_on))
    memory = validation.group(MEMORY)
    for key, result in memory.by_key().items() if memory is not None else ():
        names = dict.fromkeys(re.split(r"[,(]", case.device)[0].strip() for case in result.cases)
        devices = ", ".join(names)
        measured_on = devices if len(devices) <= _LONGEST else f"{len(names)} devices"
        bars.append(_bar(f"{MEMORY}: {key}", result, measured_on))
    return bars


def _bar(name: str, result: GroupResult, measured_on: str) -> Bar:
    """Return the bar of a class, rounded so that the file is the same on every processor."""
    off = result.median()
    assert off is not None
    return Bar.model_validate(
        {
            "class": name,
            "median": max(0.001, round(off, 3)),
            "kind": "factor" if result.group.factor else "error",
            "cases": len(result.counted),
            "measured_on": measured_on,
        }
    )
