"""Commands that read and make traces."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError

if TYPE_CHECKING:
    from dipsim.trace import Trace

Encodings = Annotated[
    list[str] | None,
    typer.Option(
        help="float16, float32, log8, bool, bits or sparse; may repeat", metavar="SIGNAL=ENCODING"
    ),
]


@app.command()
def inspect(
    trace: Annotated[str, typer.Argument(help="an .npz file, or a shipped trace")],
    as_json: Json = False,
) -> None:
    """Show what TRACE holds."""
    from dipsim.analysis.overlap import token_overlap
    from dipsim.report import catalogue
    from dipsim.trace import load_trace

    with Progress():
        opened = load_trace(trace)
        overlap = token_overlap(opened)
    for warning in opened.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json({**opened.describe(), "overlap": overlap})
    else:
        show(catalogue.trace(opened, overlap))


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="an .npz file, or a new folder of shards")],
    like: Annotated[str, typer.Option(help="the trace to fit")] = "smollm2-chat",
    model: Annotated[str | None, typer.Option(help="its geometry [that of --like]")] = None,
    tokens: Annotated[int | None, typer.Option(help="how many [as --like]")] = None,
    signals: Annotated[str | None, typer.Option(help="some of its signals, e.g. mlp_input")] = None,
    encoding: Encodings = None,
    seed: Annotated[int, typer.Option(help="of every random draw", min=0)] = 0,
    iid: Annotated[
        bool, typer.Option("--iid", help="independent scores: every policy then hits C/N")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a trace of any geometry that caches and masks as a real one does."""
    from dipsim.synth import synthesize

    if iid:
        say("warning: --iid makes every policy hit C/N; no real model behaves so: for checks only")
    with Progress("drawn") as progress:
        made = synthesize(
            out,
            like,
            model=model,
            tokens=tokens,
            signals=None if signals is None else tuple(signals.split(",")),
            encodings=encodings_of(encoding),
            seed=seed,
            iid=iid,
            progress=progress,
        )
    _written(made, as_json)


def encodings_of(given: list[str] | None) -> dict[str, Any]:
    """``["glu=log8"]`` -> {"glu": "log8"}.

    Raises:
        DipsimError: not of that form.
    """
    pairs = [text.partition("=") for text in given or []]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise DipsimError(f"--encoding {wrong[0]!r}: write SIGNAL=ENCODING, e.g. glu=log8")
    return {key: encoding for key, _, encoding in pairs}


def _written(made: "Trace", as_json: bool) -> None:
    """What was written, and what to do with it."""
    from dipsim.report import catalogue

    if as_json:
        print_json(made.describe())
    else:
        show(catalogue.written(made))
