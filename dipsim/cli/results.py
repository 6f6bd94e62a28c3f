"""`dipsim results`: cells of a store, as a table or a file."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.options import Csv
from dipsim.cli.output import print_report, show
from dipsim.errors import DipsimError
from dipsim.lists import split_names


def _file(flag: str, suffix: str) -> Any:
    """Return an option that names a file of rows."""
    text = f"write the rows: a {suffix} file"
    return typer.Option(flag, help=text, metavar="FILE", rich_help_panel=OUTPUT)


@command(
    "Replay a trace on a device",
    "dipsim results budgets.db --best tokens_per_second:5",
    "dipsim results budgets.db --pivot policy,cache_fraction,hit_rate --csv hits.csv",
)
def results(
    store: Annotated[str, typer.Argument(help="store of a sweep, a .db file", metavar="FILE")],
    sweep: Annotated[
        str | None, typer.Option(help="cells of this one [all]", metavar="NAME")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="values of an axis, with commas: policy=lru,lfu", metavar="KEY=VALUE"),
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(help="the best by a figure: tokens_per_second:5", metavar="FIGURE[:NUMBER]"),
    ] = None,
    pivot: Annotated[
        str | None,
        typer.Option(help="a figure over two axes", metavar="ROW,COLUMN,FIGURE"),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="cells that failed, and why")] = False,
    columns: Annotated[
        list[str] | None, typer.Option(help="figures, with commas", metavar="NAME,...")
    ] = None,
    csv: Csv = None,
    parquet: Annotated[str | None, _file("--parquet", ".parquet")] = None,
    markdown: Annotated[str | None, _file("--markdown", ".md")] = None,
    as_json: Json = False,
) -> None:
    """List the cells of a store: filtered, the best of them, or a figure over two axes."""
    from dipsim.analysis import results as analysis
    from dipsim.report import files
    from dipsim.report import results as report

    table = files.check_csv(csv)
    page = files.check_text("--markdown", markdown, ".md")
    arrow = files.check_text("--parquet", parquet, ".parquet")
    if arrow is not None:
        report.check_parquet()
    figures = split_names(columns or ())
    found = analysis.load_results(store, sweep, where=_where(where or ()), failed=failed)
    analysis.check_columns(found, figures)
    if best is not None:
        found = analysis.best(found, *_best(best))
    over = analysis.pivot(found, *_three(pivot)) if pivot is not None else None
    rows = report.records(found, figures) if over is None else report.pivot_records(over)
    if table is not None:
        files.write_rows(table, rows)
    if page is not None:
        files.write_text("--markdown", page, report.markdown(rows))
    if arrow is not None:
        report.write_parquet(rows, arrow)
    if as_json:
        sweeps = [each.__dict__ for each in found.sweeps]
        print_report({"sweeps": sweeps, "rows": rows}, units=report.units(found, over))
    elif over is not None:
        show(report.render_pivot(over))
    else:
        show(report.render_failed(found) if failed else report.render(found, figures))


def _where(texts: list[str] | tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values of ``key=value`` texts, of which several with commas, by key.

    Raises:
        DipsimError: not of that form.
    """
    wanted: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise DipsimError(f"--where {text}: write key=value, e.g. policy=lru")
        wanted.setdefault(key, []).extend((value, *split_names([value])))
    return wanted


def _best(text: str) -> tuple[str, int]:
    """Read ``"hit_rate:5"``; without a number, 10.

    Raises:
        DipsimError: not a number.
    """
    figure, colon, count = text.partition(":")
    try:
        return figure, int(count) if colon else 10
    except ValueError:
        raise DipsimError(f"--best {text}: write FIGURE:NUMBER, e.g. hit_rate:5") from None


def _three(text: str) -> tuple[str, str, str]:
    """Read ``"policy,cache_fraction,hit_rate"``.

    Raises:
        DipsimError: not three names.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 3:
        raise DipsimError(
            f"--pivot {text}: name two axes and a figure, e.g. policy,cache_fraction,hit_rate"
        )
    return names[0], names[1], names[2]
