"""What `dipsim compare` prints: a table per budget, the fastest policy first."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.compare import Cell, Comparison
from dipsim.errors import printable
from dipsim.report.files import write_rows
from dipsim.report.run import table
from dipsim.units import BYTES


def render(found: Comparison) -> RenderableType:
    """Tables, verdicts, notes."""
    parts: list[RenderableType] = []
    for budget, cells in _by_budget(found):
        cache = BYTES.show(cells[0].result.budget.cache)
        parts += [Text(f"{budget}: {cache} of cache", style="bold"), _table(cells), Text()]
        judged = next((cell for cell in cells if _online(cell)), None)
        if judged is not None and judged.verdict is not None:
            parts += [Text(f"{printable(judged.policy)}: {judged.verdict.sentence}."), Text()]
    note = "band: rates with no and with full overlap. "
    if found.no_optimum is None:
        note += (
            "to opt: hit rate of the optimum less that of the policy, of units over all tokens; "
            "other adm.: what the other way to admit misses would change."
        )
    else:
        note += f"No distance to the optimum: {found.no_optimum}."
    parts.append(Text(note, style="dim"))
    marks = sorted({mark for cell in found.cells for mark in cell.result.marks})
    if marks:
        parts.append(Text(f"marks: {', '.join(marks)}"))
    return Group(*parts)


def _by_budget(found: Comparison) -> Iterator[tuple[str, list[Cell]]]:
    for budget, cells in groupby(found.cells, lambda cell: cell.budget):
        yield budget, list(cells)


def _online(cell: Cell) -> bool:
    """Whether a device could run the policy, and it keeps something."""
    return not {"clairvoyant", "preloaded"} & set(cell.result.marks) and cell.policy != "none"


def _table(cells: list[Cell]) -> Table:
    made = table(
        "policy", "hits", "to opt", "other adm.", "tok/s", "band", "flash", "reads",
        right=tuple(range(1, 8)),
    )  # fmt: skip
    for cell in cells:
        result, verdict = cell.result, cell.verdict
        slow, fast = result.timing.rate_range
        changed = None if verdict is None else verdict.admission
        made.add_row(
            printable(cell.policy),
            f"{result.hit_rate:.1%}",
            "-" if cell.to_optimum is None else f"{cell.to_optimum:.1%}",
            f"{verdict.gained / max(verdict.accesses, 1):+.1%}" if verdict and changed else "-",
            f"{result.tokens_per_second:.4g}",
            f"{slow:.4g}-{fast:.4g}",
            BYTES.show(result.flash_bytes_per_token),
            f"{result.flash_reads_per_token:.4g}",
        )
    return made


def write_csv(found: Comparison, path: Path) -> None:
    """A row per policy and budget.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, (_row(cell) for cell in found.cells))


def _row(cell: Cell) -> dict[str, Any]:
    row = cell.to_dict()
    slow, fast = row.pop("tokens_per_second_range")
    verdict = row.pop("verdict") or {}
    return {
        **row,
        "tokens_per_second_slow": slow,
        "tokens_per_second_fast": fast,
        **{name: verdict.get(name) for name in ("accesses", "misses", "unavoidable", "first_uses")},
        "marks": " ".join(row["marks"]),
    }
