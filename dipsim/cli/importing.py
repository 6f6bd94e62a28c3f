"""`dipsim import`: traces out of routing logs and arrays of other programs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OF_LOGS
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import (
    Compression,
    Encodings,
    check_out,
    encodings_of,
    show_written,
    text_pairs,
)
from dipsim.errors import DipsimError


def _asked(text: str, metavar: str | None = None, *flags: str) -> Any:
    """Return an option on what a routing log leaves open."""
    return typer.Option(*flags, help=text, metavar=metavar, rich_help_panel=OF_LOGS)


@command(
    "Bring your own trace, device or policy",
    "dipsim import log.jsonl trace.npz",
    name="import",
)
def import_(
    source: Annotated[
        str | None,
        typer.Argument(
            help="a routing log (--list), .npy, .npz, .safetensors, or a folder", metavar="SRC"
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Argument(help="an .npz file, or a new folder of shards", metavar="OUT"),
    ] = None,
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
    list_: Annotated[
        bool | None, typer.Option("--list", help="print the formats of logs that are read")
    ] = None,
    format_: Annotated[
        str | None, _asked("one of --list [told by the contents]", "NAME", "--format")
    ] = None,
    layers_are: Annotated[
        str | None,
        _asked("its layers are the model's, or moe: those with experts", "model|moe"),
    ] = None,
    top_k: Annotated[int | None, _asked("experts a token uses in a layer", "NUMBER")] = None,
    decode_only: Annotated[
        bool | None, _asked("leave out tokens of prompts", None, "--decode-only")
    ] = None,
    rank_order: Annotated[
        bool | None, _asked("its ids are ranked, the best first", None, "--rank-order")
    ] = None,
    experts: Annotated[int | None, _asked("experts of a layer", "NUMBER")] = None,
    layers: Annotated[int | None, _asked("layers, of ids without a shape", "NUMBER")] = None,
    layers_first: Annotated[
        bool | None, _asked("its arrays are [layers, tokens, k]", None, "--layers-first")
    ] = None,
    unit_bytes: Annotated[str | None, _asked("size of an expert", "BYTES")] = None,
    compress: Compression = "auto",
    as_json: Json = False,
) -> None:
    """Make a trace out of a routing log, or of arrays."""
    if list_:
        _show_formats(as_json)
        return
    if source is None or out is None:
        missing = "SRC and OUT" if source is None else "OUT"
        raise DipsimError(f"no {missing}: dipsim import LOG TRACE.npz; --list prints the formats")
    from dipsim.trace.convert import import_ as make
    from dipsim.trace.logs.usage import HISTORY, holds_uses

    check_out(out)
    if format_ == HISTORY and not holds_uses(Path(source)):
        raise DipsimError(f"{source}: is no expert history of colibri, as --format {format_} says")
    if format_ in (None, HISTORY) and holds_uses(Path(source)):
        _import_uses(Path(source), Path(out), as_json)
        return
    with Progress("importing", "tokens") as progress:
        trace = make(
            source,
            out,
            format=format_,
            names=text_pairs(name, "--map", "glu=acts") or None,
            encodings=encodings_of(encoding),
            model=model,
            layers_are=layers_are,
            top_k=top_k,
            decode_only=bool(decode_only),
            rank_order=bool(rank_order),
            experts=experts,
            layers=layers,
            layers_first=bool(layers_first),
            unit_bytes=unit_bytes,
            compress=compress,
            progress=progress,
        )
    show_written(trace, as_json)


def _import_uses(source: Path, out: Path, as_json: bool) -> None:
    """Import an expert history, which is no trace."""
    from dipsim.report import convert as report
    from dipsim.trace.logs.usage import import_uses

    counts = import_uses(source, out)
    layers, experts = counts.shape
    if as_json:
        print_report({"layers": layers, "experts": experts, "uses": int(counts.sum())})
        return
    say("holds uses of experts without an order, no trace: --policy static takes them")
    show(report.render_uses(out, counts))


def _show_formats(as_json: bool) -> None:
    from dipsim.report import convert as report

    if as_json:
        print_report({"formats": report.formats_dict()})
    else:
        show(report.formats())
