"""`dipsim import` and `dipsim export`: traces out of other files, and into other encodings."""

from typing import Annotated

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, app
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
from dipsim.errors import DipsimError


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help=".npy, .npz, .safetensors, a folder of them, or a route CSV")
    ],
    out: Out,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="glu=acts, or glu=layers.*.acts; may repeat", metavar="SIGNAL=ARRAY"
        ),
    ] = None,
    encoding: Encodings = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="what the trace is from: as run --model; kept in it",
            autocompletion=completion.models,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a trace out of arrays or of a phone's log of experts."""
    from pathlib import Path

    from dipsim.model import load_model
    from dipsim.trace import load_trace
    from dipsim.trace.convert import import_arrays, import_routes, is_routes

    meta = {}
    if model is not None:
        meta["model"] = load_model(model).model_dump(mode="json", exclude_unset=True)
    notes: list[str] = []
    routes = is_routes(Path(source))
    with Progress("importing", "bytes" if routes else "tokens") as progress:
        if routes:
            if name or encoding:
                raise DipsimError("--map and --encoding are for arrays: a route CSV has neither")
            import_routes(source, out, meta=meta, progress=progress)
        else:
            names = text_pairs(name, "--map", "glu=acts") or None
            encodings = encodings_of(encoding)
            notes = import_arrays(
                source, out, names=names, encodings=encodings, meta=meta, progress=progress
            )
        trace = load_trace(Path(out))
    show_written(trace, notes, as_json)


@app.command()
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
    from pathlib import Path

    from dipsim.trace import load_trace
    from dipsim.trace.convert import export_trace

    with Progress("writing", "tokens") as progress:
        lost = export_trace(
            load_trace(trace).part(tokens, layers, sequence),
            out,
            signals=names_of(signals),
            encodings=encodings_of(encoding),
            progress=progress,
        )
        written = load_trace(Path(out))
    show_written(written, lost, as_json)
