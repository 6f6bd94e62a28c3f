"""Report of `dipsim compare`: policies by budget, the fastest first, as tables, CSV, picture."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from dipsim.analysis.compare import FIGURES, Comparison
from dipsim.report.files import check_series, write_rows
from dipsim.report.pictures import COLOURS, MARKERS, Sheet, finite_rates, picture, plain
from dipsim.report.tables import Table, line, marks_of, number
from dipsim.sweep.point import Cell
from dipsim.units import BYTES


def render(comparison: Comparison) -> RenderableType:
    """Return a table and a verdict for each budget, then notes and marks."""
    parts: list[RenderableType] = []
    for budget, cells in _by_budget(comparison).items():
        cache = BYTES.show(cells[0].number("cache_bytes"))
        parts += [line(f"{budget}: {cache} of cache", style="bold"), _table(cells), line()]
        best = next((cell for cell in cells if _runs_on_a_device(cell)), None)
        verdict = None if best is None else best.value("verdict")
        if best is not None and verdict is not None:
            parts += [line(f"{best.place['policy']}: {verdict.sentence}."), line()]
    note = "band: rates with no and with full overlap. "
    if comparison.no_optimum is None:
        note += (
            "to opt: hit rate of the optimum less that of the policy, of units over all tokens; "
            "other adm.: what the other way to admit misses would change."
        )
    else:
        note += f"No distance to the optimum: {comparison.no_optimum}."
    parts.append(line(note, style="dim"))
    return Group(*parts, *marks_of(cell.marks for cell in comparison.cells))


def _by_budget(comparison: Comparison) -> dict[str, list[Cell]]:
    groups = groupby(comparison.cells, lambda cell: cell.place["budget"])
    return {budget: list(cells) for budget, cells in groups}


def _runs_on_a_device(cell: Cell) -> bool:
    """Tell whether the policy keeps something and knows neither the future nor the whole trace."""
    known = {"clairvoyant", "preloaded"} & set(cell.marks)
    return not known and cell.place["policy"] != "none"


def _table(cells: list[Cell]) -> Table:
    rows = Table(
        "policy", "hits", "to opt", "other adm.", "tok/s", "band", "flash", "reads",
        right=tuple(range(1, 8)),
    )  # fmt: skip
    for cell in cells:
        verdict = cell.value("verdict")
        slow, fast = cell.band
        changed = None if verdict is None else verdict.admission
        rows.add_row(
            cell.place["policy"],
            f"{cell.value('hit_rate'):.1%}",
            number(cell.value("to_optimum"), "{:.1%}"),
            f"{verdict.gained / max(verdict.accesses, 1):+.1%}" if verdict and changed else "-",
            f"{cell.rate:.4g}",
            f"{slow:.4g}-{fast:.4g}",
            BYTES.show(cell.value("flash_bytes_per_token")),
            f"{cell.value('flash_reads_per_token'):.4g}",
        )
    return rows


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row for each policy and budget.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, (_row(cell) for cell in comparison.cells))


def _row(cell: Cell) -> dict[str, Any]:
    row = cell.to_dict(FIGURES)
    slow, fast = row.pop("tokens_per_second_range")
    verdict = row.pop("verdict") or {}
    return {
        **row,
        "tokens_per_second_slow": slow,
        "tokens_per_second_fast": fast,
        **{name: verdict.get(name) for name in ("accesses", "misses", "unavoidable", "first_uses")},
        "marks": " ".join(row["marks"]),
    }


def plot(comparison: Comparison, title: str, sheet: Sheet) -> Any:
    """Draw tokens per second and hit rate of every policy, a series for each budget.

    Policies stand one below the other, the fastest at the last budget on top.

    Raises:
        DipsimError: too many budgets, a rate is infinite, or the file cannot be written.
    """
    series = _by_budget(comparison)
    budgets = list(series)
    check_series("budgets", budgets)
    fastest = finite_rates([cell.band[1] for cell in comparison.cells])
    rows = {cell.place["policy"]: row for row, cell in enumerate(reversed(series[budgets[-1]]))}
    spread = 0.5 / max(len(budgets), 2)
    with picture(sheet, 9, 1.6 + 0.34 * len(rows)) as figure:
        rate, hits = figure.subplots(1, 2, sharey=True)
        for i, (budget, cells) in enumerate(series.items()):
            offset = spread * (len(budgets) - 1 - 2 * i) / 2
            heights = [rows[cell.place["policy"]] + offset for cell in cells]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": ""}
            middle = np.array([cell.rate for cell in cells])
            band = np.array([cell.band for cell in cells])
            sides = np.maximum(np.stack([middle - band[:, 0], band[:, 1] - middle]), 0)
            rate.errorbar(middle, heights, xerr=sides, capsize=2, label=plain(budget), **style)
            hits.plot([100 * cell.value("hit_rate") for cell in cells], heights, **style)
        rate.set_yticks(list(rows.values()), [plain(name) for name in rows])
        across = "tokens per second (bar: overlap none to full)"
        rate.set(xlabel=across, xlim=(0, 1.05 * max(fastest)))
        hits.set(xlabel="active bytes found in DRAM (%)", xlim=(-3, 103))
        figure.legend(*rate.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
        for axes in (rate, hits):
            axes.grid(alpha=0.3, axis="x")
        figure.suptitle(plain(title))
    return figure
