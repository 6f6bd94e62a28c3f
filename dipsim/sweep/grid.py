"""Grid of a sweep: its axes, counted before they are expanded, and the cells that stay."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from dipsim.errors import DipsimError
from dipsim.views import shortened

Match = Mapping[str, Sequence[Any]]
"""Values of options, one of which each option must have; None is that of an option not given."""


@dataclass(frozen=True)
class Axis:
    """One option and its values; or several that change together, of equally many values."""

    names: tuple[str, ...]
    steps: tuple[tuple[Any, ...], ...]
    """For each step a value of each option."""


@dataclass(frozen=True)
class Rule:
    """Change of the cells that match."""

    when: Match
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """Options that all cells have, axes, and what becomes of single cells."""

    fixed: Mapping[str, Any]
    axes: tuple[Axis, ...]
    """The last one varies fastest."""
    where: tuple[Match, ...] = ()
    """Only cells that match one of these stay; without any, all."""
    exclude: tuple[Match, ...] = ()
    """Cells that match one of these go."""
    rules: tuple[Rule, ...] = ()
    """Changes of the cells that stay, in order."""

    __repr__ = shortened

    @property
    def names(self) -> tuple[str, ...]:
        """Options that vary, in the order of the axes."""
        return tuple(name for axis in self.axes for name in axis.names)

    @property
    def zipped(self) -> tuple[str, ...]:
        """Options that change together with others."""
        return tuple(name for axis in self.axes if len(axis.names) > 1 for name in axis.names)

    @property
    def size(self) -> int:
        """Cells of the whole grid, those included that go."""
        return math.prod(len(axis.steps) for axis in self.axes)

    def cells(self, limit: int) -> Iterator[dict[str, Any]]:
        """Yield the options of every cell that stays, without those that are None.

        Args:
            limit: most cells of the whole grid.

        Raises:
            DipsimError: the grid has more.
        """
        if self.size > limit:
            lengths = " x ".join(str(len(axis.steps)) for axis in self.axes)
            raise DipsimError(
                f"{self.size:,} cells ({lengths}), at most {limit:,}: take fewer values, or add "
                f"--limit {self.size}"
            )
        for steps in product(*(axis.steps for axis in self.axes)):
            varied = {
                name: value
                for axis, step in zip(self.axes, steps, strict=True)
                for name, value in zip(axis.names, step, strict=True)
            }
            cell = {**self.fixed, **varied}
            if self._stays(cell):
                for rule in self.rules:
                    if matches(cell, rule.when):
                        cell |= rule.changes
                yield {name: value for name, value in cell.items() if value is not None}

    def _stays(self, cell: Mapping[str, Any]) -> bool:
        wanted = not self.where or any(matches(cell, match) for match in self.where)
        return wanted and not any(matches(cell, match) for match in self.exclude)


def matches(cell: Mapping[str, Any], match: Match) -> bool:
    """Return whether every option of a match has one of its values."""
    return all(cell.get(name) in values for name, values in match.items())
