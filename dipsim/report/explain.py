"""Report of `dipsim explain`: what words mean that other reports print."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from dipsim.report.glossary import Entry
from dipsim.report.tables import Table, line


def render(entries: Sequence[Entry]) -> RenderableType:
    """Return what a word means: a line for each meaning, then its other names."""
    parts: list[RenderableType] = []
    for entry in entries:
        kind = "" if entry.kind == "word" else f" ({entry.kind})"
        parts.append(line(f"{entry.name}{kind}: {entry.meaning}"))
        if entry.also:
            parts.append(line(f"also: {', '.join(entry.also)}", style="dim"))
    return Group(*parts)


def table(entries: Sequence[Entry]) -> Table:
    """Return a line for each word."""
    rows = Table("word", "meaning")
    for entry in entries:
        rows.add_row(entry.name, entry.meaning)
    return rows
