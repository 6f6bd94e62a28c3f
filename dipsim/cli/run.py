"""`dipsim run`."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.options import (
    BUDGET,
    HOW,
    KV,
    METHOD,
    POLICY,
    WHAT,
    WHERE,
    CalibrationOption,
    ModelOption,
    Override,
    ProfileOption,
    TraceArgument,
    takes,
)
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


@app.command()
@takes(METHOD, POLICY, BUDGET, KV, WHAT, HOW, WHERE)
def run(
    trace: TraceArgument = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    override: Override = None,
    config: Annotated[
        str | None, typer.Option(help="repeat the run of a result written with --json")
    ] = None,
    calibration: CalibrationOption = None,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="what binds each layer; what would be faster")
    ] = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Replay TRACE on a device: tokens per second, bytes moved, where the time goes."""
    source, device, geometry, options = _asked(config, trace, profile, model, options)
    device = load_device(device, override)
    known = _calibration(calibration, options)
    with Progress() as progress:
        from dipsim.analysis import cliff, verdict
        from dipsim.analysis.allowed import energy_of
        from dipsim.simulate import prepare, run_all
        from dipsim.trace import load_trace

        opened = load_trace(source)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        job = prepare(opened, device, model=geometry, **options)
        if known is not None:
            stages = [group.signal for group in job.work.method.groups]
            name = None if job.work.model is None else job.work.model.name
            known.check(job.work.method.name, stages, name)
        falls = cliff.cliff_warning(job)
        if falls is not None:
            say(f"warning: {falls}")
        result = run_all([job], progress)[0]
        judged = verdict.verdict_of(job, result.traffic)
        bounds = None if known is None else known.bounds(result.method, energy_of(result))
        attributed = _attributed(job, result) if attribution else None
    from dipsim.report import hints, search, terminal

    for warning in hints.warnings(result):
        say(f"warning: {warning}")
    if as_json:
        for hint in hints.hints(result)[:2]:
            say(f"hint: {hint}")
        from dipsim.bars import bar_dict, bar_of

        more = bar_dict(result, bar_of(result))
        if bounds is not None:
            more["perplexity"] = bounds._asdict()
        if attributed is not None:
            more["attribution"] = attributed.to_dict()
        print_json({**result.to_dict(), "verdict": judged and judged.to_dict(), **more})
    else:
        rows = [] if bounds is None else [search.perplexity_row(bounds)]
        show(terminal.render(result, judged, rows))
        if attributed is not None:
            _show_attribution(attributed)


def _asked(
    config: str | None,
    trace: str | None,
    profile: str | None,
    model: str | None,
    options: dict[str, Any],
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Trace, device, model and options: those given, else those of a saved run.

    Raises:
        DipsimError: no trace, or a file that holds no run.
    """
    if config is not None:
        from dipsim.config import read_config

        saved = read_config(config)
        source = trace or saved.open_trace()
        options = saved.settings_with(options)
        return source, profile or saved.profile, model or saved.model, options
    if trace is None:
        raise DipsimError("no trace: dipsim run TRACE --profile NAME (see dipsim run --help)")
    return trace, profile, model, options


def _attributed(job: Any, result: Any) -> Any:
    """Where the time of a run goes."""
    from dipsim.analysis.attribution import attribute

    return attribute(job, result)


def _show_attribution(found: Any) -> None:
    from dipsim.report.attribution import render

    show(render(found))


def _calibration(path: str | None, options: dict[str, Any]) -> Any:
    """The calibration of a file; None without one."""
    if path is None:
        return None
    from dipsim.analysis.calibration import load_calibration, refuse_other_weights

    refuse_other_weights(options, "--calibration")
    return load_calibration(path)


def load_device(given: Any, override: list[str] | None) -> Any:
    """The profile, with what was overridden.

    Raises:
        DipsimError: none was named, or it is wrong.
    """
    from dipsim.hardware import load_profile, profile_names

    if given is None:
        raise DipsimError(f"no profile: add --profile with one of {', '.join(profile_names())}")
    return load_profile(given, override or ())
