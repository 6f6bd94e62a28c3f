"""Options of the commands that read or write trace files, and what they print of a new one."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.output import print_report, say, show
from dipsim.errors import DipsimError

if TYPE_CHECKING:
    from dipsim.trace import Trace
    from dipsim.trace.archive import Compress
else:
    Compress = str  # older versions of typer know no literals


def check_out(out: str) -> str:
    """Return a path a trace can be written to: a file, or a folder that the writer will make.

    Raises:
        DipsimError: nothing can be written there; what stands there, the writer judges.
    """
    from dipsim.report.files import check_file
    from dipsim.trace.trace import SUFFIX

    if out.endswith(SUFFIX) or not os.path.lexists(out):
        check_file(out)
    return out


TRACE = typer.Argument(
    help="an .npz file, a folder of shards, or a shipped name",
    metavar="TRACE",
    autocompletion=completion.traces,
)
TraceName = Annotated[str, TRACE]
Out = Annotated[
    str,
    typer.Argument(
        help="an .npz file, or a new folder of shards", metavar="OUT", callback=check_out
    ),
]
Encodings = Annotated[
    list[str] | None,
    typer.Option(
        help="float16, float32, log8, bool, bits, sparse; of expert prob, of vectors int8",
        metavar="SIGNAL=ENCODING,...",
    ),
]
Compression = Annotated[
    Compress,
    typer.Option(
        "--compress",
        help="deflate arrays; auto: where it saves more than 30 % [auto]",
        metavar="auto|always|never",
    ),
]
SomeSignals = Annotated[
    str | None,
    typer.Option(help="some of its signals, e.g. mlp_input,glu [all]", metavar="NAME,..."),
]
Tokens = Annotated[str | None, typer.Option(help="a part of the tokens [all]", metavar="A:B")]
Layers = Annotated[str | None, typer.Option(help="a part of the layers [all]", metavar="A:B")]
Sequences = Annotated[str | None, typer.Option(help="a part of the sequences [all]", metavar="A:B")]


def names_of(signals: str | None) -> tuple[str, ...] | None:
    """Read ``"mlp_input,glu"`` as ``("mlp_input", "glu")``; None stays None."""
    return None if signals is None else tuple(signals.split(","))


def encodings_of(given: list[str] | None) -> dict[str, Any]:
    """Return encodings by signal; whoever writes the trace checks their names.

    Raises:
        DipsimError: not written as SIGNAL=ENCODING.
    """
    listed = [part for text in given or () for part in text.split(",")]
    return text_pairs(listed, "--encoding", "glu=log8")


def text_pairs(given: list[str] | None, option: str, example: str) -> dict[str, str]:
    """Read ``["glu=log8"]`` as ``{"glu": "log8"}``.

    Raises:
        DipsimError: not of that form.
    """
    pairs = [text.partition("=") for text in given or []]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise DipsimError(f"{option} {key + equals!r}: write it as {option} {example}")
    return {key: value for key, _, value in pairs}


def show_written(trace: "Trace", as_json: bool) -> None:
    """Print what was changed, then the trace that was written."""
    from dipsim.report import convert as report

    for note in trace.warnings:
        say(note)
    if as_json:
        print_report(trace.describe(), trace=trace)
    else:
        show(report.render(trace))
