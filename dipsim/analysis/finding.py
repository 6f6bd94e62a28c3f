"""Findings of a check of a profile: errors for impossible numbers, doubts for unusual ones."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dipsim.hardware import Profile


class Finding(NamedTuple):
    """A number that cannot be right, or one that is seldom so."""

    key: str
    """Its dotted key."""
    fault: str
    """Sentence on what is wrong, and what is usual."""
    certain: bool
    """True where it is impossible, or missing."""

    def __str__(self) -> str:
        return f"{self.key}: {self.fault}"


Law = Callable[[Profile], Iterator[Finding]]
"""Yields what is wrong with a profile in one respect."""


def error(key: str, fault: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(key, fault, True)


def doubt(key: str, fault: str) -> Finding:
    """Return a finding to look at again."""
    return Finding(key, fault, False)
