"""Questions asked of a result store: which cells match, which are best, a table over two axes."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dipsim.errors import DipsimError, brief, check_type
from dipsim.files import path_of
from dipsim.store import Store, StoredCell, StoredSweep
from dipsim.views import Listed

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS: dict[str, tuple[str, ...]] = {
    "tokens_per_second": ("tokens_per_second",),
    "tokens_per_second_low": ("tokens_per_second_interval", "low"),
    "tokens_per_second_high": ("tokens_per_second_interval", "high"),
    "hit_rate": ("hit_rate",),
    "unit_hit_rate": ("unit_hit_rate",),
    "flash_bytes_per_token": ("flash_bytes_per_token",),
    "flash_reads_per_token": ("flash_reads_per_token",),
    "dram_bytes_per_token": ("dram_bytes_per_token",),
    "latency_ms_mean": ("latency_ms", "mean"),
    "latency_ms_p50": ("latency_ms", "p50"),
    "latency_ms_p95": ("latency_ms", "p95"),
    "latency_ms_p99": ("latency_ms", "p99"),
    "ttft_ms": ("ttft_ms",),
    "cold_start_ms": ("cold_start_ms",),
    **{
        f"time_share_{name}": ("time_share", name)
        for name in ("flash", "dram", "compute", "sync", "management")
    },
    "energy_mj_per_token_low": ("energy_mj_per_token", "low"),
    "energy_mj_per_token_high": ("energy_mj_per_token", "high"),
    "budget_dram_bytes": ("budget", "dram"),
    "budget_kv_bytes": ("budget", "kv"),
    "budget_cache_bytes": ("budget", "cache"),
    "budget_cache_share": ("budget", "cache_fraction"),
    "measured_tokens": ("tokens",),
}
"""Columns of a table of cells, with their unit in the name, and where a cell's figures have them;
behind them stand those `OF_GROUPS`, e.g. ``energy_kept_glu``."""
OF_GROUPS = ("mass_kept", "energy_kept")
"""Figures of each group, whose name stands behind theirs."""
_LESS_IS_BETTER = ("latency_ms", "ttft_ms", "cold_start_ms", "flash_", "dram_bytes", "energy_mj")
"""Beginnings of figures of which the least is the best."""


@dataclass(frozen=True, repr=False)
class Results(Listed):
    """Cells of a store, of one sweep or of several, one after another."""

    report: ClassVar[str] = "results"

    store: Path
    sweeps: Sequence[StoredSweep]
    """The sweeps that the cells are of, with how far each is."""
    cells: list[StoredCell]

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of all sweeps."""
        return tuple(dict.fromkeys(axis for sweep in self.sweeps for axis in sweep.axes))

    def __repr__(self) -> str:
        names = brief(", ".join(sweep.name for sweep in self.sweeps), 80)
        return f"Results of {self.store}: {len(self.cells)} cells of {names or 'no sweep'}"


@dataclass(frozen=True)
class Pivot:
    """A figure over two axes."""

    row: str
    column: str
    figure: str
    columns: tuple[Any, ...]
    """Values of the column's axis."""
    rows: tuple[tuple[Any, tuple[Any, ...]], ...]
    """Value of the row's axis, and the figures by column; None where there is none."""


def load_results(
    store: str | os.PathLike[str],
    sweep: str | None = None,
    *,
    where: Mapping[str, Sequence[Any]] | None = None,
    failed: bool = False,
) -> Results:
    """Load cells of a store.

    Args:
        store: file of a sweep's store.
        sweep: name of the sweep; default: all.
        where: values of axes or options; cells that have one of each stay. Numbers may be texts.
        failed: only cells without figures.

    Raises:
        DipsimError: no store, no such sweep, or an option or a value that no cell has.
    """
    check_type("sweep", sweep, str, "the name of a sweep")
    path = path_of(store, "store")
    with Store.open(path) as opened:
        sweeps = opened.sweeps()
        names = [each.name for each in sweeps]
        if sweep is not None and sweep not in names:
            raise DipsimError(f"{store}: {_none_like('sweep', sweep, names)}")
        cells = opened.cells(sweep)
        asked = opened.cells(sweep, "failed") if failed else cells
    known = dict.fromkeys(name for cell in cells for name in (*cell.place, *cell.options))
    for name, wanted in (where or {}).items():
        if name not in known and cells:
            raise DipsimError(f"{store}: {_none_like('option', name, list(known))}")
        if cells and not any(_has(cell, name, wanted) for cell in cells):
            raise DipsimError(f"{store}: {_nowhere(cells, name, wanted)}")
    kept = [cell for cell in asked if all(_has(cell, *wanted) for wanted in (where or {}).items())]
    return Results(path, [each for each in sweeps if sweep in (None, each.name)], kept)


def results(store: str | os.PathLike[str], sweep: str | None = None) -> "DataFrame":
    """Return the cells of a store as a pandas DataFrame, a row for each.

    Columns are the sweep, the axes, the figures with their unit in the name (bytes, ms, shares from
    0 to 1), marks, why a cell failed, and the seconds it took.

    Args:
        store: file of a sweep's store.
        sweep: name of the sweep; default: all.

    Raises:
        DipsimError: no store, no such sweep, or pandas is not installed.
    """
    return load_results(store, sweep).to_frame()


def figures_of(cell: StoredCell) -> dict[str, Any]:
    """Return the figures of a cell by column; none of a failed one."""
    if cell.figures is None:
        return {}
    figures = {name: at_path(cell.figures, path) for name, path in COLUMNS.items()}
    groups = cell.figures.get("groups")
    for group in groups if isinstance(groups, list) else ():
        for name in OF_GROUPS if isinstance(group, Mapping) else ():
            figures[f"{name}_{brief(group.get('name'), 40)}"] = group.get(name)
    return figures


def at_path(figures: Any, path: Iterable[str]) -> Any:
    """Return the figure at a path of keys; None where there is none."""
    for key in path:
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    return figures


def best(results: Results, figure: str, count: int) -> Results:
    """Return the best cells by a figure, the best first.

    Args:
        figure: a column; of times, bytes and energies the least is the best.
        count: most cells.

    Raises:
        DipsimError: no such figure, or no number of cells.
    """
    if count < 1:
        raise DipsimError(f"--best {figure}:{count}: 1 cell or more")
    check_columns(results, [figure])
    values = [(value_of(cell, figure), cell) for cell in results.cells]
    numbers = [(value, cell) for value, cell in values if isinstance(value, int | float)]
    least = figure.startswith(_LESS_IS_BETTER)
    ordered = sorted(numbers, key=lambda each: each[0], reverse=not least)
    return replace(results, cells=[cell for _, cell in ordered[:count]])


def pivot(results: Results, row: str, column: str, figure: str) -> Pivot:
    """Return a figure over two axes.

    Raises:
        DipsimError: no such axes or figure, or cells that differ in another axis as well.
    """
    for axis in (row, column):
        if axis not in results.axes:
            raise DipsimError(f"--pivot: {_none_like('axis', axis, results.axes)}")
    check_columns(results, [figure])
    slots: dict[Any, dict[Any, StoredCell]] = {}
    columns: dict[Any, None] = {}
    for cell in results.cells:
        line = slots.setdefault(_at(cell, row), {})
        place = _at(cell, column)
        columns[place] = None
        other = line.setdefault(place, cell)
        if other.key != cell.key:
            differ = [axis for axis in results.axes if _at(cell, axis) != _at(other, axis)]
            what = differ[0] if differ else "sweep"
            raise DipsimError(
                f"--pivot {row},{column}: cells differ in {', '.join(differ) or what} too: choose "
                f"one, e.g. {'--where' if differ else '--sweep'} {_example(cell, what)}"
            )
    return Pivot(
        row,
        column,
        figure,
        tuple(columns),
        tuple(
            (name, tuple(value_of(line[c], figure) if c in line else None for c in columns))
            for name, line in slots.items()
        ),
    )


def value_of(cell: StoredCell, column: str) -> Any:
    """Return what a cell has in a column: of an axis, a figure, or a path such as
    ``kv.mass_kept``."""
    if column in cell.place:
        return cell.place[column]
    figures = figures_of(cell)
    return figures[column] if column in figures else at_path(cell.figures, column.split("."))


def check_columns(results: Results, columns: Iterable[str]) -> None:
    """Refuse columns that no cell has.

    Raises:
        DipsimError: with the nearest that there is.
    """
    for column in columns:
        known = {*results.axes, *COLUMNS}
        if column in known or not results.cells:
            continue
        if all(value_of(cell, column) is None for cell in results.cells):
            names = dict.fromkeys(name for cell in results.cells for name in figures_of(cell))
            raise DipsimError(_none_like("figure", column, [*names, *known]))


def _has(cell: StoredCell, name: str, wanted: Sequence[Any]) -> bool:
    """Return whether a cell has one of some values of an axis or option."""
    value = _at(cell, name)
    return any(value == each or str(value) == str(each) or _equal(value, each) for each in wanted)


def _nowhere(cells: Sequence[StoredCell], name: str, wanted: Sequence[Any]) -> str:
    """Return that no cell has a value, and the values there are."""
    values = dict.fromkeys(str(_at(cell, name)) for cell in cells if _at(cell, name) is not None)
    given, there = brief(wanted[0] if wanted else "nothing", 60), brief(", ".join(values), 200)
    return f"no cell has {brief(name, 60)}={given}: there are {there or 'none'}"


def _at(cell: StoredCell, name: str) -> Any:
    """Return the value of an axis or option that a cell has."""
    return cell.place.get(name, cell.options.get(name))


def _equal(value: Any, wanted: Any) -> bool:
    """Return whether a number is that of a text."""
    try:
        return isinstance(value, int | float) and float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _example(cell: StoredCell, axis: str) -> str:
    return cell.sweep if axis == "sweep" else f"{axis}={_at(cell, axis)}"


def _none_like(what: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    listed = brief(", ".join(dict.fromkeys(known)), 200)
    meant = f"did you mean {close[0]}?" if close else f"there are {listed or 'none'}"
    return f"no {what} {brief(repr(name), 60)}: {meant}"
