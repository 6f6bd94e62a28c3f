"""Report of `dipsim run`: the answer on one screen, all figures with ``--details``, the result as
JSON, and a picture of how long tokens take."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType

from dipsim.analysis.attribution import Attribution
from dipsim.analysis.baseline import Baseline, Standing
from dipsim.analysis.calibration import Bounds
from dipsim.analysis.verdict import LEAST_SHARE
from dipsim.report import attribution as attribution_report
from dipsim.report.details import figure_rows, perplexity, sections
from dipsim.report.details import legend as legend_of
from dipsim.report.files import write_rows
from dipsim.report.frames import records
from dipsim.report.hints import hint
from dipsim.report.pictures import COLOURS, Sheet, picture, set_heading, short, trace_name
from dipsim.report.summary import beside_rows, between
from dipsim.report.tables import Table, line
from dipsim.result import Result
from dipsim.timeline.closed import RESOURCES
from dipsim.units import BANDWIDTH, BYTES, show_gain, show_number

MOST_BARS = 200
"""Bars in a picture; more tokens than that share bars."""


def render(
    result: Result,
    standing: Standing,
    bounds: Bounds | None = None,
    attribution: Attribution | None = None,
    hidden_warnings: int = 0,
) -> RenderableType:
    """Return the run on one screen: the answer, the main figures, marks and a hint.

    Args:
        result: the run.
        standing: what it is held against.
        bounds: perplexity read off a calibration.
        attribution: what binds each layer, and what would be faster.
        hidden_warnings: warnings that were not printed.
    """
    parts = [*_answer(result, standing)]
    rows = Table("", "")
    for label, text in _overview(result, standing, bounds):
        rows.add_row(label, text)
    parts.append(rows)
    more = f" (and warnings: {hidden_warnings})" if hidden_warnings else ""
    parts.append(line(f"more: --details{more}; words: dipsim explain WORD", style="dim"))
    return Group(*parts, *_last(result, standing, attribution))


def render_details(
    result: Result,
    standing: Standing,
    bounds: Bounds | None = None,
    attribution: Attribution | None = None,
) -> RenderableType:
    """Return everything that is known of a run, and what the words mean; for arguments see
    `render`."""
    parts = [*_answer(result, standing)]
    verdict = standing.verdict
    if verdict is not None and verdict.misses and not result.fits:
        first, *more = verdict.lines
        parts += [line(), line(f"{result.policy}: {first}"), *map(line, more)]
    tables = sections(result, [*figure_rows(result), *_beside(result, standing)], bounds)
    for title, table in tables.items():
        parts += [line(), line(title, style="bold"), table]
    parts.append(line())
    if result.marks:
        parts.append(line(f"marks: {', '.join(result.marks)}"))
    if result.estimates:
        parts.append(line(f"estimated: {', '.join(result.estimates)}", style="dim"))
    parts += _last(result, standing, attribution)
    words = [*result.marks, *(word for table in tables.values() for word in table.words)]
    return Group(*parts, line(), line("words", style="bold"), legend_of(words))


def to_dict(
    result: Result,
    standing: Standing,
    bounds: Bounds | None = None,
    attribution: Attribution | None = None,
    layers: bool = False,
) -> dict[str, Any]:
    """Return the object that ``run --json`` prints; for arguments see `render`.

    Args:
        layers: add the figures of every layer and group, as ``--details`` does.
    """
    verdict = standing.verdict
    keys = {
        **result.to_dict(),
        "verdict": None if verdict is None else verdict.to_dict(),
        **standing.to_dict(),
    }
    if bounds is not None:
        keys["perplexity"] = bounds._asdict()
    if attribution is not None:
        keys["attribution"] = attribution.to_dict()
    if layers:
        keys["per_layer"] = list(records(result, "layers"))
    return keys


def _answer(result: Result, standing: Standing) -> list[RenderableType]:
    """Return the run in a sentence; where dense is faster, that first."""
    slower = dense_is_faster(result, standing)
    warning = [] if slower is None else [line(slower, style="bold")]
    return [*warning, line(result.verdict, style="bold" if slower is None else "")]


def _last(
    result: Result, standing: Standing, attribution: Attribution | None
) -> list[RenderableType]:
    """Return the hint, and what was attributed."""
    text = hint(result, standing)
    parts: list[RenderableType] = [] if text is None else [line(f"hint: {text}", style="cyan")]
    if attribution is not None:
        parts.append(attribution_report.render(attribution))
    return parts


def dense_is_faster(result: Result, standing: Standing) -> str | None:
    """Return that dense is faster, with the figure that decides it; None if it is not."""
    own, dense, method = standing.own, standing.dense, result.method
    if dense is None or dense.rate <= own.rate * (1 + LEAST_SHARE):
        return None
    rates = f"{show_number(dense.rate, 3)} against {show_number(own.rate, 3)} tok/s"
    excess = {name: own.exposed[name] - dense.exposed[name] for name in RESOURCES}
    decides = max(excess, key=lambda name: excess[name])
    if decides == "flash":
        because = (
            f"it reads {_reading(dense)} in order, {method} {_reading(own)} in reads of "
            f"{BYTES.show(own.flash_bytes / max(own.flash_reads, 1))}"
        )
    else:
        causes = {
            "sync": "waiting for layers and masks (fixed costs)",
            "management": "copying misses into the cache",
        }
        took, total = 1e3 * own.exposed[decides], 1e3 * sum(own.exposed.values())
        because = (
            f"{causes.get(decides, 'using weights and KV')} takes {show_number(took, 3)} of "
            f"{method}'s {show_number(total, 3)} ms a token"
        )
    return f"dense is faster, {rates} in the same DRAM: {because}."


def _reading(baseline: Baseline) -> str:
    """Return the bytes a token, and how fast they are read."""
    size, seconds = baseline.flash_bytes, baseline.flash_seconds
    rate = f" at {BANDWIDTH.show(size / seconds)}" if seconds else ""
    return f"{BYTES.show(size)} a token{rate}"


def _rate(result: Result) -> str:
    """Return the rate, its interval, and the number of the profile that would narrow it most."""
    rate, interval = f"{show_number(result.tokens_per_second)} tok/s", result.interval
    if interval is None:
        return rate
    first = [number.key for number in interval.first_to_measure[:1]]
    own = f"backends.{result.run.settings.backend}."
    measure = [f"; measure {key.removeprefix(own)} first" for key in first]
    return f"{rate}, {between(interval)}{''.join(measure)}"


def _overview(result: Result, standing: Standing, bounds: Bounds | None) -> list[tuple[str, str]]:
    """Return the figures that matter most as (label, text)."""
    rows = [("rate", _rate(result))]
    if result.timing.thermal is not None:
        rows.append(("hot device", f"{show_number(result.timing.thermal[1])} tok/s"))
    mean, _, p95, p99 = map(show_number, result.latency_ms.values())
    each = "token" if result.step is None else "step"
    rows += [("latency", f"{mean} ms a {each}, p95 {p95} ms, p99 {p99} ms")]
    rows += _beside(result, standing)
    useful = BYTES.show(result.flash_useful_bytes_per_token)
    rows += [
        ("hits", f"{result.hit_rate:.1%} of the bytes, {result.unit_hit_rate:.1%} of the units"),
        (
            "flash",
            f"{BYTES.show(result.flash_bytes_per_token)} a token in "
            f"{show_number(result.flash_reads_per_token, 3)} reads, {useful} useful",
        ),
        ("budget", _budget(result)),
    ]
    rows += beside_rows(result)
    shares = sorted(result.time_share.items(), key=lambda share: -share[1])
    rows.append(("time", ", ".join(f"{name} {share:.1%}" for name, share in shares if share > 0)))
    known = dict(result.summary())
    rows += [(name, known[name]) for name in ("read ahead", "prefill") if name in known]
    rows += [] if bounds is None else [("perplexity", perplexity(bounds))]
    return [*rows, ("marks", ", ".join(result.marks) or "none")]


def _budget(result: Result) -> str:
    """Return the division of DRAM in a line."""
    budget = result.budget
    beside_kv = budget.kv_in_all - budget.kv
    parts = {
        "static": budget.static.total - budget.streamed,
        "KV": budget.kv,
        "KV index": budget.kv_index,
        "buffers": budget.staging + budget.overhead + budget.buffer + beside_kv - budget.kv_index,
    }
    before = "".join(f"{BYTES.show(size)} {name}, " for name, size in parts.items() if size > 0)
    text = f"{before}{BYTES.show(budget.cache)} cache, {budget.fraction:.0%} of units"
    return text if result.page_cache is None else f"{before}{BYTES.show(result.page_cache)} pages"


def _beside(result: Result, standing: Standing) -> list[tuple[str, str]]:
    """Return what the run is held against as (label, text)."""
    rows = []
    for label, where, baseline in (
        ("dense", " in as much DRAM", standing.dense),
        ("no cache", "", standing.no_cache),
    ):
        if baseline is not None:
            rate = f"{show_number(baseline.rate, 3)} tok/s{where}"
            rows.append((label, f"{rate}; {_compared(standing.times(baseline))}"))
    optimum, verdict = standing.optimum, standing.verdict
    if optimum is not None and verdict is not None and verdict.misses and not result.fits:
        text = f"{show_number(optimum.rate, 3)} tok/s; {_compared(standing.times(optimum))}"
        share = verdict.policys_time or 0.0
        if share >= LEAST_SHARE:
            text += f"; {share:.0%} of the time is the policy's"
        rows.append(("optimum", text))
    return rows


def _compared(times: float) -> str:
    """Return how a run compares with one whose rate it has so many times over."""
    if abs(times - 1) < LEAST_SHARE:
        return "this run is as fast"
    if times > 1:
        return f"this run: {show_gain(times)}"
    gain = show_gain(1 / times if times else math.inf)
    return f"{gain} over this run" if gain.endswith("%") else f"{gain} this run"


def what_ran(result: Result) -> str:
    """Return what a run was: ``smollm2-chat with dip-ca and lfu on paper-a18``."""
    names = trace_name(result.run.trace.name), result.method, short(result.policy)
    return "{} with {} and {} on {}".format(*names, short(result.run.device.name))


def write_csv(result: Result, path: Path) -> None:
    """Write a row for each measured token: what ran, then `Result.per_token`.

    Raises:
        DipsimError: the file cannot be written.
    """
    run, columns = result.run, result.per_token
    axes = {
        "trace": run.trace.name,
        "profile": run.device.name,
        "method": result.method,
        "policy": result.policy,
    }
    write_rows(
        path,
        (
            {**axes, **{name: values[i].item() for name, values in columns.items()}}
            for i in range(len(columns["token"]))
        ),
    )


def plot(result: Result, sheet: Sheet) -> Any:
    """Draw how long each measured token takes, stacked by what the token waits for.

    Of more than `MOST_BARS` tokens, bars are means of several, and a line marks the slowest one.

    Args:
        result: the run.
        sheet: what it is drawn on.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: the file cannot be written.
    """
    longest = float(result.timing.times.latency.max())
    unit, per_second = ("s", 1.0) if longest >= 10 else ("ms", 1e3)
    exposed = per_second * result.timing.times.exposed
    tokens, size = len(exposed), math.ceil(len(exposed) / MOST_BARS)
    edges = np.append(np.arange(0, tokens, size), tokens)
    bars, total = means_of(exposed, size), exposed.sum()
    with picture(sheet, 9, 4) as figure:
        axes = figure.subplots()
        below = np.zeros(len(bars))
        for i, name in enumerate(RESOURCES):
            if not bars[:, i].any():
                continue
            label = f"{name} {exposed[:, i].sum() / total:.1%}"
            top = below + bars[:, i]
            axes.stairs(top, edges, baseline=below, fill=True, color=COLOURS[i], label=label)
            below = top
        if size > 1:
            slowest = np.maximum.reduceat(per_second * result.timing.times.latency, edges[:-1])
            axes.stairs(slowest, edges, baseline=None, color="k", linewidth=0.8, label="slowest")
        each = "measured token" if result.step is None else "measured step"
        across = each if size == 1 else f"{each} (bars: means of {size})"
        axes.set(xlabel=across, ylabel=f"latency ({unit})", xlim=(0, tokens))
        axes.set_ylim(0, 1.05 * per_second * longest or 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, axis="y")
        handles, labels = axes.get_legend_handles_labels()
        if handles:  # above, as bars fill the panel
            above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False}
            axes.legend(handles, labels, title="exposed time", ncols=len(labels), **above)
        set_heading(figure, f"Latency of each token: {what_ran(result)}")
    return figure


def means_of(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return [bars, ...] means of ``size`` rows each; the last bar may have fewer rows."""
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    sums = np.add.reduceat(values, starts, axis=0)
    means: NDArray[np.float64] = (sums.T / counts).T
    return means
