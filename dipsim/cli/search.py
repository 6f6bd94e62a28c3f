"""`dipsim search`: the highest rate at a loss, the least hardware for a rate, contours of rates."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.options import (
    BUDGET,
    HOW,
    POLICY,
    WHAT,
    WHERE,
    CalibrationOption,
    Csv,
    ModelOption,
    Override,
    Plot,
    ProfileOption,
    takes,
)
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.cli.run import load_device
from dipsim.errors import DipsimError


@app.command()
@takes(POLICY, BUDGET, WHAT, HOW, WHERE)
def search(
    trace: Annotated[str, typer.Argument(help="an .npz file, a folder of shards, or a name")],
    profile: ProfileOption = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="see dipsim methods; with --calibration repeat it", metavar="NAME"),
    ] = None,
    max_loss: Annotated[
        str | None, typer.Option(help="of energy: .02, or mlp_input=.003,glu=.1; see --calibration")
    ] = None,
    calibration: CalibrationOption = None,
    target_rate: Annotated[float | None, typer.Option(help="tokens per second")] = None,
    least: Annotated[
        str | None, typer.Option(help="of dram, flash-bandwidth or iops for the rate [dram]")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="rates over two: dram,flash-bandwidth or iops")
    ] = None,
    points: Annotated[int | None, typer.Option(help="of each axis [6]")] = None,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Search TRACE: the highest rate at --max-loss, the --least for --target-rate, or --axes."""
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    questions = {"--max-loss": max_loss, "--target-rate": target_rate, "--axes": axes}
    asked = _one_of(questions)
    _belongs({"--calibration": calibration, "--method twice": (method or [])[1:] or None},
             "--max-loss", asked)  # fmt: skip
    _belongs({"--least": least}, "--target-rate", asked)
    _belongs({"--points": points}, "--axes", asked)
    device = load_device(profile, override)
    with Progress("compared", "runs") as progress:
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        options = {name: value for name, value in options.items() if value is not None}
        options |= {"model": model, "progress": progress}
        if asked != "--max-loss":
            options["method"] = method[0] if method else None
        found: Any
        if max_loss is not None:
            found = _rate(opened, device, max_loss, calibration, method, options)
        elif target_rate is not None:
            found = _least(opened, device, target_rate, least or "dram", options)
        else:
            found = _contours(opened, device, str(axes), 6 if points is None else points, options)
        from dipsim.report import hints
        from dipsim.report import search as report

        if picture is not None:
            report.plot(found, opened.name, picture)
        if table is not None:
            report.write_csv(found, table)
    result = getattr(found, "result", None)
    for text in hints.warnings(result) if result is not None else ():
        say(f"warning: {text}")
    if as_json:
        print_json(found.to_dict())
    else:
        show(report.render(found))


def _rate(
    trace: Any,
    device: Any,
    max_loss: str,
    calibration: str | None,
    methods: list[str] | None,
    options: dict[str, Any],
) -> Any:
    for name in ("density", "group_density"):
        if name in options:
            option = f"--{name.replace('_', '-')}"
            raise DipsimError(f"{option} is what --max-loss searches: drop one of them")
    from dipsim.analysis.calibration import load_calibration, refuse_other_weights
    from dipsim.analysis.loss import Allowed
    from dipsim.analysis.search import search_rate

    refuse_other_weights(options, "--max-loss")
    if len(set(methods or ())) < len(methods or ()):
        raise DipsimError("--method: one is named twice; name each once")
    loaded = None if calibration is None else load_calibration(calibration)
    allowed = Allowed(_losses(max_loss, loaded is not None), loaded)
    return search_rate(trace, device, allowed, methods or [None], **options)


def _least(trace: Any, device: Any, target: float, what: str, options: dict[str, Any]) -> Any:
    from dipsim.analysis.least import search_least

    if not 0 < target < math.inf:
        raise DipsimError(f"--target-rate {target:g}: tokens per second, more than 0")
    axis: Any = what  # checked there
    return search_least(trace, device, axis, target, **options)


def _contours(trace: Any, device: Any, axes: str, points: int, options: dict[str, Any]) -> Any:
    from dipsim.analysis.contours import contours

    names: Any = tuple(name.strip() for name in axes.split(","))
    if len(names) != 2:
        raise DipsimError(f"--axes {axes}: name two, e.g. dram,flash-bandwidth")
    if not 2 <= points <= 50:
        raise DipsimError(f"--points {points}: of each axis, from 2 to 50")
    return contours(trace, device, names, points, **options)


def _losses(text: str, perplexity: bool) -> float | Mapping[str, float]:
    """``.02`` or ``mlp_input=.003,glu=.1``; of perplexity one number.

    Raises:
        DipsimError: it is neither.
    """
    allowed = "a perplexity above dense, 0 or more" if perplexity else (
        "a share of the energy from 0 to 1, e.g. .02, or mlp_input=.003,glu=.1"
    )  # fmt: skip
    most = math.inf if perplexity else 1.0
    pairs = [part.partition("=") for part in text.split(",")]
    named = "=" in text and not perplexity
    names = [name.strip() for name, _, _ in pairs]
    try:
        numbers = [float(value) for _, _, value in pairs] if named else [float(text)]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number <= most and math.isfinite(number) for number in numbers) or (
        named and len(set(names)) < len(names)
    ):
        raise DipsimError(f"--max-loss {text!r}: write {allowed}")
    return dict(zip(names, numbers, strict=True)) if named else numbers[0]


def _one_of(questions: Mapping[str, Any]) -> str:
    """The question that is asked.

    Raises:
        DipsimError: none, or several.
    """
    asked = [name for name, value in questions.items() if value is not None]
    if len(asked) != 1:
        what = " and ".join(asked) or "nothing to search for"
        raise DipsimError(f"{what}: give one of {', '.join(questions)}")
    return asked[0]


def _belongs(given: Mapping[str, Any], to: str, asked: str) -> None:
    """Refuse an option of another question."""
    for name, value in given.items():
        if value is not None and asked != to:
            raise DipsimError(f"{name} goes with {to}, not with {asked}: drop it")
