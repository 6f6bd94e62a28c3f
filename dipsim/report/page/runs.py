"""The runs of a sweep together: what varies, which is the fastest, what all have in common."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dipsim.report.page.axes import Axis, constant, value_text, varying
from dipsim.report.page.entry import Ends, Entry


@dataclass(frozen=True)
class Runs:
    """Finished cells of a sweep."""

    entries: Sequence[Entry]
    asked: int
    """Number of cells that the sweep asked for, finished or not."""

    @cached_property
    def axes(self) -> list[Axis]:
        """Axes that vary."""
        return varying([entry.place for entry in self.entries])

    @cached_property
    def fixed(self) -> str:
        """Values of the axes that do not vary, as a text."""
        known = constant([entry.place for entry in self.entries])
        return ", ".join(f"{axis} {value_text(value)}" for axis, value in known.items())

    @cached_property
    def known(self) -> list[Entry]:
        """Cells that have figures."""
        return [entry for entry in self.entries if entry.ran]

    @cached_property
    def able(self) -> list[Entry]:
        """Those that a device can run and that have a rate, the fastest first."""
        able = [e for e in self.known if e.on_a_device and e.rate is not None]
        return sorted(able, key=lambda entry: -entry.speed)

    @property
    def best(self) -> Entry | None:
        """The fastest run that a device can make; None where there is none."""
        return self.able[0] if self.able else None

    @cached_property
    def marks(self) -> Counter[str]:
        """Number of runs that have each mark."""
        return Counter(mark for entry in self.known for mark in entry.marks)

    def own_marks(self, entry: Entry) -> list[str]:
        """Return the marks of a run that not all runs have."""
        return [mark for mark in entry.marks if self.marks[mark] < len(self.known)]

    @cached_property
    def level(self) -> float | None:
        """Share of true rates that the intervals hold; None unless every run has such a one."""
        levels = {entry.level for entry in self.known if entry.rate is not None}
        return levels.pop() if len(levels) == 1 else None

    def ends(self, entry: Entry) -> Ends | None:
        """Return the interval of a run's rate, or where not all have one, the band of overlap."""
        return entry.band if self.level is None else entry.interval

    @property
    def ends_meaning(self) -> str:
        """Name of what `ends` are the ends of."""
        if self.level is None:
            return "the band between no and full overlap of reading and use"
        return f"the interval that holds {self.level:.0%} of true rates"

    def named(self, entry: Entry, axes: Iterable[Axis] | None = None) -> str:
        """Return what tells a run from others: ``policy lru, dram 50%``.

        Args:
            entry: the run.
            axes: those to name it by; default: all that vary.
        """
        names = [axis.name for axis in (self.axes if axes is None else axes)]
        known = {name: entry.place.get(name) for name in names}
        return ", ".join(
            f"{name} {value_text(value)}" for name, value in known.items() if value is not None
        )

    def values(self, entry: Entry) -> str:
        """Return the values of the axes that vary: ``lru, 50%``."""
        known = (entry.place.get(axis.name) for axis in self.axes)
        return ", ".join(value_text(value) for value in known if value is not None) or "the run"
