"""The command line: parse, call, print. The only place that imports typer, and that prints."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from dipsim.errors import DipsimError, printable

app = typer.Typer(
    name="dipsim",
    help="Replay activation traces of a language model through a phone's memory hierarchy.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Name = Annotated[str | None, typer.Argument(help="show one in full")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def main() -> None:
    """Entry point: exit 0 when done, 2 with one line on standard error for wrong input."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except DipsimError as problem:
        _fail(str(problem))
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # not a usage error of click: a bug
            raise
        _fail(problem.format_message())
    sys.exit(code or 0)


def _fail(message: str, code: int = 2) -> None:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    """One line on standard error, without what could steer a terminal."""
    print(f"dipsim: {printable(' '.join(message.split()))}", file=sys.stderr)


class _Console(Console):
    """A console that leaves a closed pipe to `_output`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def _output() -> Iterator[None]:
    """Around all that prints: a reader that has seen enough is no error, a full disk is one."""
    try:
        yield
        sys.stdout.flush()
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            _fail(f"cannot write the output: {problem.strerror}")


def _show(what: Any) -> None:
    with _output():
        _Console().print(what)


def _print_json(value: Any) -> None:
    with _output():
        print(value if isinstance(value, str) else json.dumps(value, indent=2))


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


class _Progress:
    """One line on standard error when a run takes longer than a second."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        self._timer = threading.Timer(1.0, self._say)
        self._timer.daemon = True
        self._said = False

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self._said and sys.stderr.isatty():
            self._say()

    def _say(self) -> None:
        self._said = True
        what = (
            f"replayed {self.done} of {self.total} tokens"
            if self.done
            else "preparing (the first run compiles its kernels, which takes some seconds)"
        )
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"dipsim: {what} ...".ljust(78), file=sys.stderr, end=end, flush=True)

    def __enter__(self) -> "_Progress":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._said and sys.stderr.isatty():
            print(" " * 78, file=sys.stderr, end="\r", flush=True)


@app.command()
def run(
    trace: Annotated[
        str | None, typer.Argument(help="an .npz file, or the name of a shipped trace")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="device: a name or a YAML file")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="engine of the profile")] = None,
    model: Annotated[str | None, typer.Option(help="model: a preset or a YAML file")] = None,
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
    layout: Annotated[str | None, typer.Option(help="in flash: column or bundle")] = None,
    overlap: Annotated[
        str | None,
        typer.Option(help="paper-serial, paper-concurrent, serial or pipelined [pipelined]"),
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="decode tokens not measured [0]")] = None,
    reset: Annotated[str | None, typer.Option(help="empty caches: never or sequence")] = None,
    prefill: Annotated[str | None, typer.Option(help="prefill tokens: stream or cache")] = None,
    tokens: Annotated[str | None, typer.Option(help="a part of the trace, A:B")] = None,
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
    with _Progress() as progress:
        from dipsim.simulate import simulate
        from dipsim.trace import load_trace

        opened = load_trace(source)
        for warning in opened.warnings:
            _say(f"warning: {warning}")
        result = simulate(opened, device, model=geometry, progress=progress, **options)
    from dipsim.report import hints, terminal

    for warning in hints.warnings(result):
        _say(f"warning: {warning}")
    if as_json:
        for hint in hints.hints(result)[:2]:
            _say(f"hint: {hint}")
        _print_json(result.to_json())
    else:
        _show(terminal.render(result))


@app.command()
def inspect(
    trace: Annotated[str, typer.Argument(help="an .npz file, or a shipped trace")],
    as_json: Json = False,
) -> None:
    """Show what TRACE holds."""
    from dipsim.analysis.overlap import token_overlap
    from dipsim.report import catalogue
    from dipsim.trace import load_trace

    with _Progress():
        opened = load_trace(trace)
        overlap = token_overlap(opened)
    for warning in opened.warnings:
        _say(f"warning: {warning}")
    if as_json:
        _print_json({**opened.describe(), "overlap": overlap})
    else:
        _show(catalogue.trace(opened, overlap))


@app.command()
def profiles(
    name: Name = None,
    schema: Annotated[bool, typer.Option("--schema", help="JSON Schema of a profile")] = False,
    as_json: Json = False,
) -> None:
    """List the shipped devices, or show one (or a file) with the source of every number."""
    from dipsim.hardware import load_profile, profile_names, profile_schema
    from dipsim.report import catalogue

    if schema:
        _print_json(profile_schema())
        return
    found = [load_profile(one) for one in ([name] if name else profile_names())]
    if as_json:
        dumps = [p.model_dump(mode="json", by_alias=True, exclude_none=True) for p in found]
        _print_json(dumps[0] if name else {p["name"]: p for p in dumps})
    else:
        _show(catalogue.profile(found[0]) if name else catalogue.profiles(found))


@app.command()
def models(name: Name = None, as_json: Json = False) -> None:
    """List the model presets, or show one (or a YAML file)."""
    from dipsim.model import load_model, model_names
    from dipsim.report import catalogue

    found = [load_model(one) for one in ([name] if name else model_names())]
    if as_json:
        dumps = {m.name: m.model_dump(mode="json", exclude_none=True) for m in found}
        _print_json(dumps[found[0].name] if name else dumps)
    else:
        _show(catalogue.model(found[0]) if name else catalogue.models(found))


@app.command()
def policies() -> None:
    """List the cache policies."""
    from dipsim.report import catalogue

    _show(catalogue.policies())


@app.command()
def methods() -> None:
    """List the sparsification methods."""
    from dipsim.report import catalogue

    _show(catalogue.methods())


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"dipsim {installed('dipsim')}")
        raise typer.Exit
