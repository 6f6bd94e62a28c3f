"""`dipsim plan`: what a model will do on a device, and how to run it."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.inputs import given_only, load_device, open_trace
from dipsim.cli.options import CalibrationOption, Override, ProfileOption, draws
from dipsim.cli.output import print_report, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError

Sized = Annotated[
    str | None,
    typer.Option(help="what the system leaves to an app [as the profile says]", metavar="SIZE"),
]


@command(
    "Replay a trace on a device",
    "dipsim plan llama-3.2-1b -p snapdragon8gen3",
    "dipsim plan llama-3-8b -p snapdragon8gen3 --dram 4GB --target-rate 5",
)
@draws
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="a preset, GGUF, config.json or YAML",
            metavar="MODEL",
            autocompletion=completion.models,
        ),
    ],
    profile: ProfileOption = None,
    trace: Annotated[
        str | None,
        typer.Option(
            help="scores or routes of the model", metavar="TRACE", autocompletion=completion.traces
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="a trace of another model: one of this is drawn after it",
            metavar="TRACE",
            autocompletion=completion.traces,
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="positions of KV [4096]", metavar="NUMBER")
    ] = None,
    prompt: Annotated[
        int | None, typer.Option(help="tokens before the first one [128]", metavar="NUMBER")
    ] = None,
    target_rate: Annotated[
        float | None, typer.Option(help="tokens per second that are wanted", metavar="NUMBER")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="most that leaving weights out may lose: .02 of the energy; of perplexity with "
            "--calibration; takes some seconds more",
            metavar="NUMBER",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    backend: Annotated[
        str | None, typer.Option(help="of the profile [the first]", metavar="NAME")
    ] = None,
    weight_format: Annotated[
        str | None, typer.Option(help="of the weights, e.g. q4_0 [the model's]", metavar="NAME")
    ] = None,
    bits: Annotated[
        float | None, typer.Option(help="a weight [the model's]", metavar="NUMBER")
    ] = None,
    kv_bits: Annotated[
        float | None, typer.Option(help="of a key or value [16]", metavar="NUMBER")
    ] = None,
    dram: Sized = None,
    override: Override = None,
    as_json: Json = False,
    picture: Any = None,
) -> None:
    """Say whether MODEL fits a device, what it does there, and how else to run it."""
    device = load_device(profile, override)
    given: dict[str, Any] = {
        "like": like,
        "context": context,
        "prompt": prompt,
        "target_rate": target_rate,
        "max_loss": max_loss,
        "calibration": calibration,
        "backend": backend,
        "weight_format": weight_format,
        "bits": bits,
        "kv_bits": kv_bits,
        "dram": None if dram is None else _bytes(dram),
    }
    with Progress("planning"):
        from dipsim.planning import plan as make
        from dipsim.report import plan as report

        opened = None if trace is None else open_trace(trace)
        answer = make(model, device, trace=opened, **given_only(given))
        if picture is not None:
            report.plot(answer, picture)
    if as_json:
        print_report(answer.to_dict(), trace=opened, profiles=[device], units=report.UNITS)
        return
    words = ["--model", model, "-p", str(profile)]
    for text in override or ():
        words += ["-s", text]
    words += [] if dram is None else ["-s", f"dram.available={dram}"]
    show(report.render(answer, trace, words))


def _bytes(text: str) -> float:
    """Return a size.

    Raises:
        DipsimError: it is none.
    """
    from dipsim.units import BYTES

    try:
        return BYTES.parse(text)
    except ValueError as problem:
        raise DipsimError(f"--dram {problem}") from None
