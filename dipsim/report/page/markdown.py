"""A page as Markdown: its sentences, tables and codes; charts stay with HTML and pictures."""

import re
from collections.abc import Iterator

from dipsim.errors import printable
from dipsim.report.page.model import Page, Section, Table, Tile

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&$])")


def render(page: Page) -> str:
    """Return the page as Markdown; no text of anybody's becomes a tag, a link or a heading."""
    parts = [f"# {plain(page.title)}", f"**{plain(page.answer)}**"]
    parts.append("\n".join(f"- {plain(each.label)}: {_figure(each)}" for each in page.tiles))
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join([*parts, plain(f"{page.footer}.")]) + "\n"


def plain(text: str) -> str:
    """Return a text of anybody's as Markdown that says just that."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _figure(tile: Tile) -> str:
    return plain(f"{tile.figure} ({tile.note})" if tile.note else tile.figure)


def _section(section: Section) -> Iterator[str]:
    """Yield the blocks of a section; one of charts alone has none."""
    if not (section.texts or section.tables or section.codes):
        return
    yield f"## {plain(section.name)}"
    yield from map(plain, section.texts)
    for table in section.tables:
        if table.title:
            yield f"### {plain(table.title)}"
        yield _table(table)
    for code in section.codes:
        yield f"### {plain(code.title)}"
        yield "\n".join(f"    {printable(line)}" for line in code.text.split("\n"))


def _table(table: Table) -> str:
    rules = ["---:" if i in table.numbers else "---" for i in range(len(table.heads))]
    rows = [table.heads, *([cell.text for cell in row] for row in table.rows)]
    lines = [f"| {' | '.join(map(plain, row))} |" for row in rows]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)
