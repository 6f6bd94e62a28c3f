"""`dipsim run`: one replay on one device."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import load_device
from dipsim.cli.options import (
    BUDGET,
    HOW,
    KV,
    METHOD,
    POLICY,
    PROMPT,
    WHAT,
    WHERE,
    CalibrationOption,
    Csv,
    ModelOption,
    Override,
    ProfileOption,
    TraceArgument,
    draws,
    takes,
)
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError

TrustFiles = Annotated[
    bool, typer.Option("--trust-files", "--trust-policy", help="run files that --config names")
]


@command(
    "Replay a trace on a device",
    "dipsim run smollm2-chat -p snapdragon8 --dram 60%",
    "dipsim run smollm2-chat -p paper-a18 --method dip-ca --gamma mlp_input=.5,glu=.2 "
    "--cache-fraction .6 --plot latency.png",
    "dipsim run --model llama-3.2-1b -p snapdragon8 --method dense --depth 512",
)
@takes(METHOD, POLICY, BUDGET, KV, WHAT, HOW, WHERE, PROMPT)
@draws
def run(
    trace: TraceArgument = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    override: Override = None,
    config: Annotated[
        str | None,
        typer.Option(help="repeat the run of a result written with --json", metavar="FILE"),
    ] = None,
    trust_files: TrustFiles = False,
    calibration: CalibrationOption = None,
    attribution: Annotated[
        bool,
        typer.Option(
            "--attribution",
            help="what binds each layer; what would be faster",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="every figure, budget, groups, and what words mean",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    timeline: Annotated[
        str | None,
        typer.Option(
            help="what happened when: a .json file for ui.perfetto.dev",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    timeline_tokens: Annotated[
        int | None,
        typer.Option(
            help="of the timeline, from the first measured one [8]",
            metavar="NUMBER",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **options: Any,
) -> None:
    """Replay TRACE on a device: tokens per second, bytes moved, where the time goes."""
    from dipsim.report import files

    timeline_file = files.check_timeline(timeline, timeline_tokens)
    table = files.check_csv(csv)
    given = trace, profile, model, options
    source, device, geometry, options = _inputs(config, trust_files, *given)
    device = load_device(device, override)
    known = _calibration(calibration, options)
    warned = _Warnings(every=details or as_json)
    with Progress("replaying", "tokens") as progress:
        from dipsim.analysis.baseline import replay_held
        from dipsim.analysis.loss import energy_of

        opened, run = _prepared(source, device, geometry, options, known, attribution, warned)
        result, standing = replay_held(run, progress)
        bounds = None if known is None else known.bounds(result.method, energy_of(result))
        attributed = _attributed(result) if attribution else None
    if timeline_file is not None:
        _write_timeline(result, timeline_tokens or 8, timeline_file)
    from dipsim.report import hints
    from dipsim.report import run as report

    if picture is not None:
        report.plot(result, picture)
    if table is not None:
        report.write_csv(result, table)
    remarks = () if opened is None else opened.warnings
    for warning in [*hints.warnings(result), *remarks]:
        warned.warn(warning)
    if as_json:
        hint = hints.hint(result, standing)
        if hint is not None:
            say(f"hint: {hint}")
        print_report(
            report.to_dict(result, standing, bounds, attributed, layers=details),
            result.config["settings"],
            trace=result.run.trace,
            profiles=[result.run.device],
        )
    elif details:
        show(report.render_details(result, standing, bounds, attributed))
    else:
        show(report.render(result, standing, bounds, attributed, warned.hidden))


class _Warnings:
    """Warnings of a run, the weightiest first: every one, or the first alone.

    Args:
        every: say every one.
    """

    def __init__(self, every: bool) -> None:
        self._every, self._said, self.hidden = every, False, 0

    def warn(self, text: str) -> None:
        """Say a warning, or count it as hidden."""
        if self._said and not self._every:
            self.hidden += 1
            return
        self._said = True
        say(f"warning: {text}")


def _inputs(
    config: str | None,
    trust_files: bool,
    trace: str | None,
    profile: str | None,
    model: str | None,
    options: dict[str, Any],
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return trace, device, model and options: those given, else those of a saved run.

    Raises:
        DipsimError: neither trace nor model; a file that holds no run, or whose policy or method
            nobody trusts.
    """
    if config is not None:
        from dipsim.repeat import read_config

        saved = read_config(config)
        options = saved.settings_with(options, trust_files=trust_files)
        source = trace if trace is not None else saved.open_trace()
        return source, profile or saved.profile, model or saved.model, options
    if trust_files:
        raise DipsimError("--trust-files is for the policy or method of a --config: drop it")
    if trace is None and model is None:
        raise DipsimError(
            "no trace: dipsim run TRACE --profile NAME (see dipsim run --help); a dense model runs "
            "without one: --model NAME --method dense"
        )
    return trace, profile, model, options


def _calibration(path: str | None, options: dict[str, Any]) -> Any:
    """Return the calibration of a file; None without one."""
    if path is None:
        return None
    from dipsim.analysis.calibration import load_calibration, refuse_other_weights

    refuse_other_weights(options, "--calibration")
    return load_calibration(path)


def _prepared(
    source: Any,
    device: Any,
    geometry: Any,
    options: dict[str, Any],
    known: Any,
    attribution: bool,
    warned: _Warnings,
) -> tuple[Any, Any]:
    """Return the trace, if any, and the run worked out, with all errors raised before the replay.

    Args:
        known: a calibration, or None.
        attribution: whether the run's time will be attributed.
        warned: takes the warnings of a run that is paged, or that will hit nothing.
    """
    from dipsim.analysis import cliff
    from dipsim.simulate import prepare, settle_kv
    from dipsim.timeline.pressure import pressure_warning
    from dipsim.trace import load_trace

    opened = None if source is None else load_trace(source)
    options = settle_kv(opened, device, {**options, "model": geometry})
    run = prepare(opened, device, **options)
    if known is not None:
        stages = [group.signal for group in run.method.groups]
        name = None if run.model is None else run.model.name
        known.check(run.method.name, stages, name)
    if attribution:
        from dipsim.analysis.attribution import check_attribution

        check_attribution(run)
    if opened is not None and (attribution or cliff.falls(run)):
        run.sets.hold_if_small()
    for warning in (pressure_warning(run), cliff.cliff_warning(run, cliff.find_cliff(run))):
        if warning is not None:
            warned.warn(warning)
    return opened, run


def _attributed(result: Any) -> Any:
    from dipsim.analysis.attribution import attribute

    return attribute(result)


def _write_timeline(result: Any, tokens: int, path: Path) -> None:
    """Write what happened in the first tokens.

    A warning says so where the figures of the run leave out what the timeline shows.
    """
    from dipsim.report import perfetto
    from dipsim.report.run import what_ran
    from dipsim.timeline.excerpt import excerpt, stretch
    from dipsim.units import show_number

    shown = excerpt(result.run, result.traffic, tokens)
    longer = stretch(shown, result.timing.times.latency)
    if abs(longer - 1) > 1e-6:
        say(
            f"warning: tokens of the timeline take {show_number(longer)} times as long as those of "
            "the figures: the closed form knows no contention; use --engine events"
        )
    perfetto.write(shown, what_ran(result), path)
