"""`dipsim explain`: what the words mean that reports print."""

from typing import Annotated

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.output import print_report, show
from dipsim.errors import DipsimError, brief


@command(
    "Look up what there is",
    "dipsim explain",
    "dipsim explain open-loop",
)
def explain(
    word: Annotated[
        list[str] | None, typer.Argument(help="a word, mark or key [all]", metavar="WORD")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a word means that a report prints: a column, a row, a mark, a key of --json."""
    from dipsim.report import explain as report
    from dipsim.report import glossary

    if not word:
        known = glossary.everything()
        if as_json:
            print_report({"words": [entry.to_dict() for entry in known]})
        else:
            show(report.table(known))
        return
    asked = " ".join(word)
    meant = glossary.meanings(asked)
    if not meant:
        near = glossary.nearest(asked)
        like = f"did you mean {', '.join(near)}? " if near else ""
        raise DipsimError(
            f"{brief(repr(asked))} is no word of the glossary: {like}dipsim explain lists all"
        )
    if as_json:
        print_report({"words": [entry.to_dict() for entry in meant]})
    else:
        show(report.render(meant))
