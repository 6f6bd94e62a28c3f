"""`dipsim record`: a trace of a running model."""

from typing import Annotated

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.options import BOS_HELP, number
from dipsim.cli.output import say
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import Compression, Encodings, Out, encodings_of, names_of, show_written


@command(
    "Put a model in the loop (needs dipsim[torch])",
    'dipsim record my-model trace.npz --prompt "Why is the sky blue?" --generate 16',
)
def record(
    model: Annotated[
        str,
        typer.Argument(help="a Hugging Face folder, a GGUF file, or org/name", metavar="MODEL"),
    ],
    out: Out,
    prompt: Annotated[
        list[str] | None, typer.Option(help="to go on from", metavar="PROMPT")
    ] = None,
    generate: Annotated[
        int | None, number("tokens after every prompt, at most [64]", min=1, max=2**22)
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="prompts are a user's turns")] = False,
    temperature: Annotated[
        float | None, number("0 takes the likeliest token [0]", min=0, max=1000)
    ] = None,
    seed: Annotated[int | None, number("of every random draw [0]", min=0, max=2**40)] = None,
    text: Annotated[
        str | None, typer.Option(help="a file to read instead, UTF-8", metavar="FILE")
    ] = None,
    window: Annotated[
        int | None, number("tokens of the text in a sequence [512]", min=2, max=2**22)
    ] = None,
    bos: Annotated[
        str | None,
        typer.Option(help=f"{BOS_HELP} [auto]", metavar="auto|always|never"),
    ] = None,
    tokens: Annotated[int | None, number("of the text, at most [all]", min=1, max=2**32)] = None,
    signals: Annotated[
        str | None,
        typer.Option(
            help="e.g. mlp_input,attn_input,query,layer_io [mlp_input,glu; or expert]",
            metavar="NAME,...",
        ),
    ] = None,
    encoding: Encodings = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="of the trace; kept in it", metavar="NAME")
    ] = None,
    compress: Compression = "auto",
    as_json: Json = False,
) -> None:
    """Record a trace of a model that goes on from prompts, or reads a text."""
    from dipsim.lm.recording import record as run

    with Progress("recording", "tokens") as progress:
        try:
            trace = run(
                model,
                out,
                text=text,
                window=window,
                bos=bos,
                tokens=tokens,
                prompts=prompt or (),
                generate=generate,
                chat=chat,
                temperature=temperature,
                seed=seed,
                signals=names_of(signals),
                encodings=encodings_of(encoding),
                meta=None if license_ is None else {"license": license_},
                compress=compress,
                progress=progress,
            )
        except KeyboardInterrupt as stop:
            for note in getattr(stop, "__notes__", []):
                say(note)
            raise
    show_written(trace, as_json)
