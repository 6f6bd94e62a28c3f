"""`dipsim import` and `dipsim export`: traces out of other files, and into other encodings."""

from typing import Annotated

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import (
    Encodings,
    Layers,
    Out,
    Sequences,
    SomeSignals,
    Tokens,
    TraceName,
    encodings_of,
    names_of,
    show_written,
    text_pairs,
)


@command(
    "Bring your own trace, device or policy",
    "dipsim import activations.npz trace.npz --map glu=acts --model model.yaml",
    name="import",
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help=".npy, .npz, .safetensors, a folder of them, or a route CSV", metavar="SRC"
        ),
    ],
    out: Out,
    name: Annotated[
        list[str] | None,
        typer.Option("--map", help="glu=acts, or glu=layers.*.acts", metavar="SIGNAL=ARRAY"),
    ] = None,
    encoding: Encodings = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="what the trace is from: as run --model; kept in it",
            metavar="NAME|FILE",
            autocompletion=completion.models,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a trace out of arrays or of a phone's log of experts."""
    from pathlib import Path

    from dipsim.trace.convert import import_ as make
    from dipsim.trace.convert import is_routes

    things = "bytes" if is_routes(Path(source)) else "tokens"
    with Progress("importing", things) as progress:
        trace = make(
            source,
            out,
            names=text_pairs(name, "--map", "glu=acts") or None,
            encodings=encodings_of(encoding),
            model=model,
            progress=progress,
        )
    show_written(trace, as_json)


@command(
    "Bring your own trace, device or policy",
    "dipsim export smollm2-chat small.npz --signals glu --tokens 0:64 --encoding glu=log8",
)
def export(
    trace: TraceName,
    out: Out,
    signals: SomeSignals = None,
    encoding: Encodings = None,
    tokens: Tokens = None,
    layers: Layers = None,
    sequence: Sequences = None,
    as_json: Json = False,
) -> None:
    """Write a trace, or a part of it, in other encodings."""
    from dipsim.trace.convert import export as write

    with Progress("writing", "tokens") as progress:
        written = write(
            trace,
            out,
            signals=names_of(signals),
            encodings=encodings_of(encoding),
            tokens=tokens,
            layers=layers,
            sequence=sequence,
            progress=progress,
        )
    show_written(written, as_json)
