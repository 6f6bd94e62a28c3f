"""`dipsim synth`: a trace of any geometry."""

from typing import Annotated

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.output import say
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import (
    Compression,
    Encodings,
    Out,
    SomeSignals,
    encodings_of,
    names_of,
    show_written,
)


@command(
    "Bring your own trace, device or policy",
    "dipsim synth large.npz --model llama-3-8b --tokens 8 --signals glu",
)
def synth(
    out: Out,
    like: Annotated[
        str,
        typer.Option(help="the trace to fit", metavar="TRACE", autocompletion=completion.traces),
    ] = "smollm2-chat",
    model: Annotated[
        str | None,
        typer.Option(
            help="its geometry [that of --like]",
            metavar="NAME|FILE",
            autocompletion=completion.models,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="how many [as --like]", metavar="NUMBER", min=1, max=2**22),
    ] = None,
    signals: SomeSignals = None,
    encoding: Encodings = None,
    seed: Annotated[
        int, typer.Option(help="of every random draw", metavar="NUMBER", min=0, max=2**40)
    ] = 0,
    iid: Annotated[
        bool, typer.Option("--iid", help="independent scores: every policy then hits C/N")
    ] = False,
    compress: Compression = "auto",
    as_json: Json = False,
) -> None:
    """Make a trace of any geometry that caches and masks as a real one does."""
    from dipsim.trace.synth import synth as draw

    if iid:
        say("warning: --iid makes every policy hit C/N; no real model behaves so: for checks only")
    with Progress("drawing", "tokens") as progress:
        trace = draw(
            out,
            like,
            model=model,
            tokens=tokens,
            signals=names_of(signals),
            encodings=encodings_of(encoding),
            seed=seed,
            iid=iid,
            compress=compress,
            progress=progress,
        )
    show_written(trace, as_json)
