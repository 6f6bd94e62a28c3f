"""Speeds of a device that systems weigh."""

from typing import NamedTuple


class Speeds(NamedTuple):
    """Speeds that the split of reading and computing again weighs."""

    link: float
    """Bytes per second of reading flash in order."""
    compute: float
    """FLOP per second."""
