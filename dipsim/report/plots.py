"""Pictures. matplotlib is loaded when the first one is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.analysis.compare import Comparison
from dipsim.analysis.contours import Contours
from dipsim.analysis.inspect import SignalReport
from dipsim.analysis.least import Least
from dipsim.analysis.mrc import Curves
from dipsim.analysis.search import Frontier
from dipsim.errors import DipsimError
from dipsim.files import whole_file
from dipsim.report.files import check_series
from dipsim.sweep.vary import Axis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's, told apart by colour-blind readers; with markers and dashes also in grey."""
MARKERS = "osD^vPXd"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-")


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure that is written, whole, when it is drawn.

    Raises:
        DipsimError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    try:
        with whole_file(path) as handle:
            figure.savefig(handle, format=path.suffix[1:], dpi=120)
    except OSError as problem:
        raise DipsimError(f"--plot {path}: cannot be written ({problem.strerror})") from None


def series_style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th series; from the ninth on markers are hollow."""
    again, i = divmod(i, len(COLOURS))
    style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[(i + 2 * again) % 8]}
    return style | {"markerfacecolor": "none"} if again else style


def curves(found: Curves, path: Path) -> None:
    """Hit rate against cache size: all units, and each group.

    Raises:
        DipsimError: too many policies, or the file cannot be written.
    """
    names = list(found.curves)
    check_series("policies", names)
    groups = [group.signal for group in found.method.groups]
    titles = ["all units", *groups] if len(groups) > 1 else groups
    exact = found.lru_exact()
    with picture(path, 4.2 * len(titles) + 0.6, 4) as figure:
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        at = [100 * share for share in found.shares]
        every = 1 if len(at) <= 10 else 4
        for panel, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            for i, name in enumerate(names):
                rates = found.rates(name)
                if len(groups) > 1 and panel:
                    rates = found.by_group(name)[:, panel - 1]
                style = series_style(i) | {"markevery": (i % every, every), "markersize": 5}
                axes.plot(at, 100 * rates, label=name, **style)
                if name == "lru" and title in exact:  # every capacity, from its one pass
                    least, all_rates = exact[title]
                    sizes = np.arange(least, least + len(all_rates))
                    across = 100 * sizes / sizes[-1]
                    axes.plot(across, 100 * all_rates, color=style["color"], linewidth=1)
            blind = "a cache blind to use"
            axes.plot([0, 100], [0, 100], color="0.7", linewidth=1, zorder=0, label=blind)
            axes.set(title=title, xlabel="units in the cache (%)", xlim=(0, 100), ylim=(0, 100))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("hits / accesses (%)")
        panels[0].legend(fontsize=8)
        figure.suptitle(f"{found.trace}, {found.method.name}")


def comparison(found: Comparison, title: str, path: Path) -> None:
    """Tokens per second and hit rate of every policy, a series for each budget.

    Raises:
        DipsimError: too many budgets, or the file cannot be written.
    """
    series = {b: list(cells) for b, cells in groupby(found.cells, lambda cell: cell.budget)}
    budgets = list(series)
    check_series("budgets", budgets)
    fastest = series[budgets[-1]]
    rows = {cell.policy: row for row, cell in enumerate(reversed(fastest))}
    spread = 0.5 / max(len(budgets), 2)
    with picture(path, 9, 1.6 + 0.34 * len(rows)) as figure:
        rate, hits = figure.subplots(1, 2, sharey=True)
        for i, budget in enumerate(budgets):
            cells = series[budget]
            at = [rows[cell.policy] + spread * (len(budgets) - 1 - 2 * i) / 2 for cell in cells]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": ""}
            middle = np.array([cell.result.tokens_per_second for cell in cells])
            band = np.array([cell.result.timing.rate_range for cell in cells])
            sides = np.maximum(np.stack([middle - band[:, 0], band[:, 1] - middle]), 0)
            rate.errorbar(middle, at, xerr=sides, capsize=2, label=budget, **style)
            hits.plot([100 * cell.result.hit_rate for cell in cells], at, **style)
        rate.set_yticks(list(rows.values()), list(rows))
        most = max(cell.result.timing.rate_range[1] for cell in found.cells)
        if not np.isfinite(most):
            raise DipsimError("--plot: tokens that take no time have no rate to draw")
        rate.set(xlabel="tokens per second (bar: overlap none to full)", xlim=(0, 1.05 * most))
        hits.set(xlabel="active bytes found in DRAM (%)", xlim=(-3, 103))
        figure.legend(*rate.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
        for axes in (rate, hits):
            axes.grid(alpha=0.3, axis="x")
        figure.suptitle(title)


def inspection(reports: dict[str, SignalReport], title: str, path: Path) -> None:
    """Four panels: overlap, popularity, hit rates, convergence; written whole.

    Raises:
        DipsimError: the file cannot be written.
    """
    with picture(path, 9, 7) as figure:
        _draw_inspection(figure, reports, title)


def _draw_inspection(figure: Any, reports: dict[str, SignalReport], title: str) -> None:
    (overlap, popular), (hits, settled) = figure.subplots(2, 2)
    for i, (name, report) in enumerate(reports.items()):
        colour, found = f"C{i}", report.activity
        at = [100 * (found.active if density == 1 else density) for density in found.overlap]
        overlap.plot(at, [100 * share for share in found.overlap.values()], "o-", label=name)
        lorenz = found.lorenz()
        share = np.linspace(0, 100, len(lorenz))
        popular.plot(share, 100 * lorenz, color=colour, label=f"{name}, Gini {found.gini:.2f}")
        for policy, style, curve in (("opt", "--", report.opt), ("lru", "-", report.lru)):
            hits.plot(
                [100 * share for share in curve],
                [100 * rate for rate in curve.values()],
                style,
                marker="o",
                color=colour,
                label=f"{name}, {policy}",
            )
        if report.convergence is not None:
            grown = report.convergence.prefixes
            settled.plot(list(grown), [100 * rate for rate in grown.values()], "o-", label=name)
            low, high = report.convergence.interval
            settled.axhspan(100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
    for axes in (overlap, popular):
        axes.plot([0, 100], [0, 100], ":", color="grey", label="units alike, tokens independent")
    panels = (
        (
            overlap,
            "overlap of successive tokens",
            "active units (%)",
            "used by the token before (%)",
        ),
        (popular, "popularity", "most used units (%)", "share of all uses (%)"),
        (hits, "hit rate", "units in the cache (%)", "hits / accesses (%)"),
        (settled, "lru hit rate, and 90 % interval", "decode tokens", "hits / accesses (%)"),
    )
    for axes, name, across, up in panels:
        axes.set(title=name, xlabel=across, ylabel=up)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.suptitle(title)


def frontier(found: Frontier, title: str, path: Path) -> None:
    """Rate against loss of the points that were run, and the Pareto front.

    A colour for each method and first gamma, a marker for each other gamma. Points that lose more
    than three times what they may are counted, not drawn.

    Raises:
        DipsimError: too many methods and gammas, no point to draw, or the file cannot be written.
    """
    limit = found.allowed.limit
    known = [at for at in found.points if np.isfinite([at.loss, at.figures.rate]).all()]
    shown = [at for at in known if at.loss <= 3 * limit] or known
    if not shown:
        raise DipsimError("--plot: no point has both a loss and a rate that are known")
    series = list(dict.fromkeys(at.series for at in shown))
    heads = list(dict.fromkeys((method, gamma[:1]) for method, gamma in series))
    tails = list(dict.fromkeys(gamma[1:] for _, gamma in series))
    check_series("methods and gammas", heads)
    check_series("gammas", tails)
    with picture(path, 8, 5) as figure:
        axes = figure.subplots()
        for method, gamma in series:
            points = [at for at in shown if at.series == (method, gamma)]
            head, tail = heads.index((method, gamma[:1])), tails.index(gamma[1:])
            axes.plot(
                [at.loss for at in points],
                [at.figures.rate for at in points],
                linestyle="",
                color=COLOURS[head],
                marker=MARKERS[tail if len(tails) > 1 else head],
                markersize=5,
                label=" ".join([method, "/".join(f"{value:g}" for value in gamma)]).strip(),
            )
        front = [at for at in found.front() if at in shown]
        steps = [at.loss for at in front], [at.figures.rate for at in front]
        style = {"where": "post", "color": "0.5", "linewidth": 1, "zorder": 0}
        axes.step(*steps, label="Pareto front", **style)
        axes.axvline(limit, color="0.5", linestyle=":", label="what may be lost")
        if found.best is not None:
            axes.plot(found.best.loss, found.best.figures.rate, label="answer", **_RING)
        beyond = len(found.points) - len(shown)
        more = f"\n(not shown, as they lose more: {beyond})" if beyond else ""
        axes.set(xlabel=found.allowed.meaning + more, ylabel="tokens per second")
        axes.grid(alpha=0.3)
        stages = "/".join(next((at.gamma for at in shown if at.gamma), {}))
        heading = f"gamma of {stages}" if stages else None
        figure.legend(title=heading, fontsize=8, title_fontsize=8, loc="outside right upper")
        figure.suptitle(title)


def least(found: Least, title: str, path: Path) -> None:
    """Rate of every value that was run.

    Raises:
        DipsimError: a rate is infinite, or the file cannot be written.
    """
    rates = _finite([trial.figures.rate for trial in found.trials])
    with picture(path, 7, 4.5) as figure:
        axes = figure.subplots()
        at, label = _scaled(found.what, [trial.value for trial in found.trials])
        axes.plot(at, rates, **series_style(0))
        axes.axhline(found.target, color="0.5", linestyle=":", label="wanted")
        if found.found is not None:
            place = found.trials.index(found.found)
            axes.plot(at[place], rates[place], label="least", **_RING)
        axes.set(xlabel=label, ylabel="tokens per second", xscale=_scale(found.what))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        axes.set_title(title)


def contours(found: Contours, title: str, path: Path) -> None:
    """Lines of equal tokens per second; the dots were run.

    Raises:
        DipsimError: a rate is infinite, or the file cannot be written.
    """
    rates = np.array([_finite(row) for row in found.rates]).T
    (across, under), (up, beside) = map(_scaled, found.axes, found.values)
    with picture(path, 7, 5) as figure:
        axes = figure.subplots()
        axes.plot(*np.meshgrid(across, up), ".", color="0.6", markersize=4, clip_on=False)
        levels = _levels(float(rates.min()), float(rates.max()))
        if levels:  # in logarithms, as rates span decades
            lines = axes.contour(
                across, up, np.log(rates), np.log(levels), colors=COLOURS[0], linewidths=1.2
            )
            axes.clabel(lines, fontsize=9, fmt=lambda level: f"{np.exp(level):.4g}")
        axes.set(xlabel=under, xscale=_scale(found.axes[0]))
        axes.set(ylabel=beside, yscale=_scale(found.axes[1]))
        for axis, name, at in (
            (axes.xaxis, found.axes[0], across),
            (axes.yaxis, found.axes[1], up),
        ):
            if name != "dram":
                at = at[:: -(-len(at) // 8)]
                axis.set_ticks(at, [f"{value:.3g}" for value in at])
                axis.set_ticks([], minor=True)
        axes.set_title(f"{title}: tokens per second")


def _levels(low: float, high: float) -> list[float]:
    """About ten round rates between two."""
    from matplotlib.ticker import MaxNLocator

    found = list(MaxNLocator(10).tick_values(low, high))
    if high > 5 * low > 0:
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))))
        found = [step * 10.0**decade for decade in decades for step in (1, 1.5, 2, 3, 5, 7)]
    return [float(level) for level in found if low < level < high]


_RING = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "color": "k", "linestyle": ""}


def _finite(rates: list[float]) -> list[float]:
    if not np.isfinite(rates).all():
        raise DipsimError("--plot: tokens that take no time have no rate to draw")
    return rates


def _scale(axis: Axis) -> str:
    return "linear" if axis == "dram" else "log"


def _scaled(axis: Axis, values: list[float]) -> tuple[list[float], str]:
    """Values in a handy unit, and the label of their axis."""
    if axis == "flash-bandwidth":
        return values, "flash bandwidth (times the profile's)"
    if axis == "iops":
        return [value / 1e3 for value in values], "smallest reads per second (thousands)"
    unit, size = ("GB", 1e9) if values[-1] >= 1e9 else ("MB", 1e6)
    return [value / size for value in values], f"DRAM ({unit})"
