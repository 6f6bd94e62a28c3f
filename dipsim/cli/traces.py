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
Out = Annotated[str, typer.Argument(help="an .npz file, or a new folder of shards")]
Tokens = Annotated[str | None, typer.Option(help="a part of the tokens, A:B")]
Layers = Annotated[str | None, typer.Option(help="a part of the layers, A:B")]
Sequences = Annotated[str | None, typer.Option(help="a part of the sequences, A:B")]


@app.command()
def inspect(
    trace: Annotated[str, typer.Argument(help="an .npz file, a folder of shards, or a name")],
    tokens: Tokens = None,
    layers: Layers = None,
    sequence: Sequences = None,
    plot: Annotated[str | None, typer.Option(help="draw it: a .png, .svg or .pdf file")] = None,
    as_json: Json = False,
) -> None:
    """Show what TRACE holds, how it caches, and whether it is long enough."""
    from dipsim.analysis.inspect import inspect_trace
    from dipsim.report import files
    from dipsim.report import inspect as inspection
    from dipsim.trace import load_trace

    picture = files.check_plot(plot)
    with Progress():
        opened = load_trace(trace).part(tokens, layers, sequence)
        reports = inspect_trace(opened)
        if picture is not None:
            inspection.plot(reports, opened.name, picture)
    for warning in opened.warnings:
        say(f"warning: {warning}")
    if as_json:
        found = {name: report.to_dict() for name, report in reports.items()}
        print_json({**opened.describe(), "inspection": found})
    else:
        show(inspection.render(opened, reports))


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
        str | None, typer.Option(help="what the trace is from: as run --model; kept in it")
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
    with Progress("imported") as progress:
        if is_routes(Path(source)):
            if name or encoding:
                raise DipsimError("--map and --encoding are for arrays: a route CSV has neither")
            import_routes(source, out, meta=meta, progress=progress)
        else:
            names = pairs_of(name, "--map", "glu=acts") or None
            encodings = pairs_of(encoding, "--encoding", "glu=log8")
            notes = import_arrays(
                source, out, names=names, encodings=encodings, meta=meta, progress=progress
            )
        made = load_trace(Path(out))
    written(made, notes, as_json)


@app.command()
def export(
    trace: Annotated[str, typer.Argument(help="an .npz file, a folder of shards, or a name")],
    out: Out,
    signals: Annotated[str | None, typer.Option(help="some of its signals, e.g. mlp_input")] = None,
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

    with Progress("written") as progress:
        lost = export_trace(
            load_trace(trace).part(tokens, layers, sequence),
            out,
            signals=None if signals is None else tuple(signals.split(",")),
            encodings=pairs_of(encoding, "--encoding", "glu=log8"),
            progress=progress,
        )
        made = load_trace(Path(out))
    written(made, lost, as_json)


@app.command()
def synth(
    out: Out,
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
    from dipsim.trace.synth import synthesize

    if iid:
        say("warning: --iid makes every policy hit C/N; no real model behaves so: for checks only")
    with Progress("drawn") as progress:
        made = synthesize(
            out,
            like,
            model=model,
            tokens=tokens,
            signals=None if signals is None else tuple(signals.split(",")),
            encodings=pairs_of(encoding, "--encoding", "glu=log8"),
            seed=seed,
            iid=iid,
            progress=progress,
        )
    written(made, [], as_json)


def pairs_of(given: list[str] | None, option: str, example: str) -> dict[str, Any]:
    """``["glu=log8"]`` -> {"glu": "log8"}.

    Raises:
        DipsimError: not of that form.
    """
    pairs = [text.partition("=") for text in given or []]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise DipsimError(f"{option} {key + equals!r}: write it as {option} {example}")
    return {key: value for key, _, value in pairs}


def written(made: "Trace", notes: list[str], as_json: bool) -> None:
    """What was written, and what to do with it."""
    from dipsim.report import convert

    for note in notes:
        say(note)
    if as_json:
        print_json(made.describe())
    else:
        show(convert.render(made))
