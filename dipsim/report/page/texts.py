"""Texts and scales that the pages of runs and of sweeps share."""

from collections.abc import Iterable
from typing import Any

from dipsim.units import show_number

RESOURCES = ("flash", "dram", "compute", "sync", "management")
"""Resources in the order of their bars."""
RESOURCE_NAMES = {"dram": "DRAM", "sync": "fixed costs"}
"""Names of resources that are no words."""


def rate_text(rate: float | None) -> str:
    """Return tokens per second as text; of tokens that take no time ``unlimited``."""
    return "unlimited" if rate is None else show_number(rate, 3)


def interval_text(low: float, high: float, level: float) -> str:
    """Return an interval as text: ``90% between 30.1 and 55.2``."""
    return f"{level:.0%} between {show_number(low, 3)} and {show_number(high, 3)}"


def share_text(share: float | None, digits: int = 1) -> str:
    """Return a share in per cent; a dash for None."""
    return "-" if share is None else f"{share:.{digits}%}"


def byte_scale(sizes: Iterable[float]) -> tuple[str, float]:
    """Return a unit for some numbers of bytes, and its bytes."""
    most = max(sizes, default=0.0)
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((unit, scale) for unit, scale in units if most >= scale), ("B", 1.0))


def number_of(value: Any) -> float | None:
    """Return a number out of an untrusted file; None for what is no finite one from 0 on."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and 0 <= value <= 1e30 else None


def sentence(text: str) -> str:
    """Return a clause as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."
