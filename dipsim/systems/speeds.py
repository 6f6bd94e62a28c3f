"""Speeds of a device that systems weigh."""

from typing import NamedTuple


class Speeds(NamedTuple):
    """What the split of reading and computing again weighs."""

    link: float
    """Bytes per second of reading flash in order."""
    compute: float
    """FLOP per second."""
