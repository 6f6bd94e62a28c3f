"""`dipsim search`: the highest rate at a loss, the least hardware for a rate, contours of rates."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, app
from dipsim.cli.inputs import given_only, load_device, open_trace
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
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName
from dipsim.errors import DipsimError


@app.command()
@takes(POLICY, BUDGET, WHAT, HOW, WHERE)
def search(
    trace: TraceName,
    profile: ProfileOption = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="see dipsim methods; with --calibration repeat it",
            metavar="NAME",
            autocompletion=completion.methods,
        ),
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
    question = _one_of({"--max-loss": max_loss, "--target-rate": target_rate, "--axes": axes})
    again = (method or [])[1:] or None
    _belongs({"--calibration": calibration, "--method twice": again}, "--max-loss", question)
    _belongs({"--least": least}, "--target-rate", question)
    _belongs({"--points": points}, "--axes", question)
    device = load_device(profile, override)
    with Progress("comparing", "runs") as progress:
        from dipsim.report import hints
        from dipsim.report import search as report

        opened = open_trace(trace)
        options = {**given_only(options), "model": model, "progress": progress}
        if question != "--max-loss":
            options["method"] = method[0] if method else None
        answer: Any
        if max_loss is not None:
            answer = _search_rate(opened, device, max_loss, calibration, method, options)
        elif target_rate is not None:
            answer = _search_least(opened, device, target_rate, least or "dram", options)
        else:
            answer = _contours(opened, device, str(axes), 6 if points is None else points, options)
        if picture is not None:
            report.plot(answer, opened.name, picture)
        if table is not None:
            report.write_csv(answer, table)
    result = getattr(answer, "result", None)
    for warning in hints.warnings(result) if result is not None else ():
        say(f"warning: {warning}")
    if as_json:
        print_json(answer.to_dict())
    else:
        show(report.render(answer))


def _one_of(questions: Mapping[str, Any]) -> str:
    """Return the question that is asked.

    Raises:
        DipsimError: no question is asked, or several are.
    """
    asked = list(given_only(dict(questions)))
    if len(asked) != 1:
        given = " and ".join(asked) or "nothing to search for"
        raise DipsimError(f"{given}: give one of {', '.join(questions)}")
    return asked[0]


def _belongs(given: Mapping[str, Any], to: str, question: str) -> None:
    """Refuse options that belong to another question."""
    for name, value in given.items():
        if value is not None and question != to:
            raise DipsimError(f"{name} goes with {to}, not with {question}: drop it")


def _search_rate(
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


def _search_least(trace: Any, device: Any, target: float, what: str, options: Any) -> Any:
    from dipsim.analysis.least import search_least

    if not 1e-9 <= target <= 1e15:
        raise DipsimError(f"--target-rate {target:g}: tokens per second, from 1e-9 to 1e15")
    axis: Any = what  # search_least checks it
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
    """Return the loss in ``.02``, or the losses by stage in ``mlp_input=.003,glu=.1``.

    Args:
        text: as the user wrote it.
        perplexity: whether the loss is one of perplexity, which is one number.

    Raises:
        DipsimError: not of that form.
    """
    allowed = "a perplexity above dense, 0 or more" if perplexity else (
        "a share of the energy from 0 to 1, e.g. .02, or mlp_input=.003,glu=.1"
    )  # fmt: skip
    most = math.inf if perplexity else 1.0
    pairs = [part.partition("=") for part in text.split(",")]
    named = "=" in text and not perplexity
    names = [name.strip() for name, _, _ in pairs]
    try:
        losses = [float(value) for _, _, value in pairs] if named else [float(text)]
    except ValueError:
        losses = [math.nan]
    if not all(0 <= loss <= most and math.isfinite(loss) for loss in losses) or (
        named and len(set(names)) < len(names)
    ):
        raise DipsimError(f"--max-loss {text!r}: write {allowed}")
    return dict(zip(names, losses, strict=True)) if named else losses[0]
