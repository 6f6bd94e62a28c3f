"""`dipsim run`."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


def _pairs(text: str | None, option: str) -> Any:
    """``"a=.5,b=.2"`` -> {"a": 0.5, "b": 0.2}; a gamma of ``".5"`` holds for every group."""
    if text is None:
        return None
    try:
        if "=" not in text and option == "--gamma":
            return {"*": float(text)}
        parts = [part.partition("=") for part in text.split(",")]
        names = [name.strip() for name, _, _ in parts]
        if len(set(names)) < len(names):
            raise ValueError
        return {name.strip(): float(value) for name, _, value in parts}
    except ValueError:
        raise DipsimError(
            f"{option} {text!r}: write name=number,name=number, e.g. mlp_input=.5,glu=.2"
        ) from None


@app.command()
def run(
    trace: Annotated[
        str | None, typer.Argument(help="an .npz file, a folder of shards, or a shipped name")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="device: a name or a YAML file")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="engine of the profile")] = None,
    model: Annotated[str | None, typer.Option(help="a preset, YAML, config.json or GGUF")] = None,
    bits: Annotated[float | None, typer.Option(help="bits per weight, scales included")] = None,
    context: Annotated[int | None, typer.Option(help="tokens of KV in the budget")] = None,
    kv_bits: Annotated[float | None, typer.Option(help="bits per key or value [16]")] = None,
    method: Annotated[str | None, typer.Option(help="see dipsim methods")] = None,
    density: Annotated[float | None, typer.Option(help="share of MLP weights kept [0.7]")] = None,
    group_density: Annotated[
        str | None, typer.Option(help="per group, e.g. mlp_input=.75,glu=.6")
    ] = None,
    split: Annotated[str | None, typer.Option(help="of dip: authors or equal")] = None,
    gamma: Annotated[
        str | None, typer.Option(help="of dip-ca: a number, or mlp_input=.5,glu=.2")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="see dipsim policies, or file.py:attribute [lfu]")
    ] = None,
    admission: Annotated[str | None, typer.Option(help="forced or ranked")] = None,
    static_from: Annotated[
        str | None, typer.Option(help="trace whose most used units static pins")
    ] = None,
    dram: Annotated[
        str | None, typer.Option(help="for weights and KV: 3.5GB, or 50% of the model")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="for the caches alone: 400MiB")] = None,
    cache_fraction: Annotated[
        float | None, typer.Option(help="share of the units the caches hold")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="in flash: column, bundle or expert")] = None,
    overlap: Annotated[
        str | None,
        typer.Option(help="paper-serial, paper-concurrent, serial or pipelined [pipelined]"),
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="decode tokens not measured [0]")] = None,
    reset: Annotated[str | None, typer.Option(help="empty caches: never or sequence")] = None,
    prefill: Annotated[
        str | None, typer.Option(help="prefill tokens: stream or cache [experts: cache]")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="a part of the trace, A:B")] = None,
    layers: Annotated[str | None, typer.Option(help="a part of the layers, A:B")] = None,
    sequence: Annotated[str | None, typer.Option(help="a part of the sequences, A:B")] = None,
    seed: Annotated[int | None, typer.Option(help="of every random draw [0]")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("-s", help="override the profile: flash.bandwidth=2GB/s", metavar="KEY=VALUE"),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="repeat the run of a result written with --json")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay TRACE on a device: tokens per second, bytes moved, where the time goes."""
    options = {
        "backend": backend,
        "bits": bits,
        "context": context,
        "kv_bits": kv_bits,
        "method": method,
        "density": density,
        "group_density": _pairs(group_density, "--group-density"),
        "split": split,
        "gamma": _pairs(gamma, "--gamma"),
        "policy": policy,
        "admission": admission,
        "static_from": static_from,
        "dram": dram,
        "cache": cache,
        "cache_fraction": cache_fraction,
        "layout": layout,
        "overlap": overlap,
        "warmup": warmup,
        "reset": reset,
        "prefill": prefill,
        "tokens": tokens,
        "layers": layers,
        "sequence": sequence,
        "seed": seed,
    }
    from dipsim.config import read_config
    from dipsim.hardware import load_profile

    source: Any = trace
    device: Any = profile
    geometry: Any = model
    if config is not None:
        saved = read_config(config)
        source = trace or saved.open_trace()
        device = profile or saved.profile
        geometry = model or saved.model
        options = saved.settings_with(options)
    if source is None:
        raise DipsimError("no trace: dipsim run TRACE --profile NAME (see dipsim run --help)")
    if device is None:
        from dipsim.hardware import profile_names

        raise DipsimError(f"no profile: add --profile with one of {', '.join(profile_names())}")
    device = load_profile(device, override or ())
    with Progress() as progress:
        from dipsim.simulate import simulate
        from dipsim.trace import load_trace

        opened = load_trace(source)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        result = simulate(opened, device, model=geometry, progress=progress, **options)
    from dipsim.report import hints, terminal

    for warning in hints.warnings(result):
        say(f"warning: {warning}")
    if as_json:
        for hint in hints.hints(result)[:2]:
            say(f"hint: {hint}")
        print_json(result.to_json())
    else:
        show(terminal.render(result))
