"""A store of a sweep in the explorer: its axes to choose by, its cells, and what repeats each."""

from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError, brief, printable
from dipsim.explore.asked import Asked, asked_of
from dipsim.explore.comparison import page_of_cells
from dipsim.report.page.axes import Axis, value_text, varying
from dipsim.report.page.entry import Entry
from dipsim.report.page.source import StoredRuns, read_store


class Study:
    """A sweep of a store, read anew whenever it is asked for: a sweep may go on.

    Args:
        path: the store.
        sweep: its name; needed where the store has several.

    Raises:
        DipsimError: as `read_store`.
    """

    def __init__(self, path: Path, sweep: str | None = None) -> None:
        self.path, self._sweep = path, sweep
        options = [entry.options for entry in self.runs().entries]
        self.traces = _texts(options, "trace")
        """Traces that cells name, in their order."""
        self.devices = _texts(options, "profile")
        """Devices that cells name, in their order."""

    def runs(self) -> StoredRuns:
        """Return the finished cells.

        Raises:
            DipsimError: as `read_store`.
        """
        return read_store(self.path, self._sweep)

    def shown(self) -> dict[str, Any]:
        """Return the sweep as plain values: its page, its axes, and each cell's place on them."""
        runs = self.runs()
        axes = varying([entry.place for entry in runs.entries])
        return {
            **page_of_cells(runs),
            "axes": [
                {
                    "name": printable(axis.name),
                    "words": printable(axis.words),
                    "values": list(map(printable, axis.texts())),
                }
                for axis in axes
            ],
            "cells": [self._cell(entry, axes) for entry in runs.entries],
        }

    def cell(self, number: int) -> dict[str, Any]:
        """Return the page of a cell as it is stored.

        Raises:
            DipsimError: no such cell, or as `read_store`.
        """
        runs = self.runs()
        if number >= len(runs.entries):
            raise DipsimError(f"cell {number}: the sweep has {len(runs.entries)}")
        entry = runs.entries[number]
        if not entry.ran:
            raise DipsimError(f"impossible: {brief(entry.why, 300)}")
        return page_of_cells(runs._replace(entries=[entry], asked=1))

    def _cell(self, entry: Entry, axes: list[Axis]) -> dict[str, Any]:
        place = [printable(value_text(entry.place.get(axis.name))) for axis in axes]
        try:
            asked: Asked | None = asked_of(entry.options, self.traces)
            cannot = ""
        except DipsimError as problem:
            asked, cannot = None, str(problem)
        return {
            "at": [axis.texts().index(value_text(entry.place.get(axis.name))) for axis in axes],
            "name": ", ".join(place),
            "why": "" if entry.ran else printable(entry.why),
            "asked": None if asked is None else asked.model_dump(),
            "cannot": cannot,
        }


def _texts(options: Any, name: str) -> list[str]:
    return list(
        dict.fromkeys(str(each[name]) for each in options if isinstance(each.get(name), str))
    )
