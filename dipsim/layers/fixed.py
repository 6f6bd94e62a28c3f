"""Schedules that skip the same layers for every token, and how many layers a share is."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import brief
from dipsim.layers.contract import SHARE_SLACK, WHOLE, LayerError, Schedule
from dipsim.trace import Tokens
from dipsim.trace.decisions import FULL, PARTIAL, SKIP


@dataclass(frozen=True)
class FixedLayers(Schedule):
    """Skips some layers, and runs others partially, whatever the token."""

    skipped: frozenset[int]
    full: int
    partial: frozenset[int] = frozenset()

    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], one mode for all."""
        mode = SKIP if layer in self.skipped else PARTIAL if layer in self.partial else FULL
        return np.full(len(rows), WHOLE[mode], np.uint8)


def count_of(rule: str, layers: str, share: float, known: int) -> int:
    """Return the number of layers that ``layers=6`` or ``share=.2`` stand for.

    Args:
        rule: its name, for messages.
        layers: a number as text; empty: the share counts.
        share: of the layers.
        known: layers of the model.

    Raises:
        LayerError: no number, or more layers than there are.
    """
    count = int(share * known + SHARE_SLACK) if not layers else _whole(rule, layers, layers)
    if count > known:
        raise LayerError(
            f"layer rule {rule}: layers={layers}, the model has {known}: give at most so many"
        )
    return count


def listed(rule: str, layers: str, known: int) -> frozenset[int]:
    """Return the layers that a text such as ``21-29`` or ``3+7+9`` names, from 0.

    Raises:
        LayerError: not of that form, a layer that there is not, or one twice.
    """
    numbers: list[int] = []
    for part in layers.split("+"):
        first, dash, last = part.partition("-")
        start = _whole(rule, layers, first)
        end = _whole(rule, layers, last) if dash else start
        if start > end or end >= known:
            raise LayerError(
                f"layer rule {rule}: layers={layers}: layers are 0 to {known - 1}, the lower first"
            )
        numbers += range(start, end + 1)
    if len(set(numbers)) < len(numbers):
        raise LayerError(f"layer rule {rule}: layers={layers}: a layer is given twice")
    return frozenset(numbers)


def evenly_spread(count: int, known: int) -> Collection[int]:
    """Return ``count`` of ``known`` layers, the middle one of each of as many equal stretches."""
    return [(2 * i + 1) * known // (2 * count) for i in range(count)]


def _whole(rule: str, layers: str, part: str) -> int:
    if not (part.isascii() and part.isdigit() and len(part) < 6):
        raise LayerError(
            f"layer rule {rule}: layers={brief(layers)}: give a number of layers, or for drop some "
            "of them as 21-29 or 3+7+9"
        )
    return int(part)
