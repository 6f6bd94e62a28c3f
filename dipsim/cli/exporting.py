"""`dipsim export`: traces in other encodings, and parts of them."""

from dipsim.cli.app import Json, command
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import (
    Compression,
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
)


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
    compress: Compression = "auto",
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
            compress=compress,
            progress=progress,
        )
    show_written(written, as_json)
