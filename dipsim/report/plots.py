"""Pictures. matplotlib is loaded when the first one is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.analysis.compare import Comparison
from dipsim.analysis.inspection import SignalReport
from dipsim.analysis.mrc import Curves
from dipsim.errors import DipsimError
from dipsim.files import whole_file
from dipsim.report.files import check_series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's, told apart by colour-blind readers; with markers and dashes also in grey."""
MARKERS = "osD^vPXd"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-")


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
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


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


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
    with _figure(path, 4.2 * len(titles) + 0.6, 4) as figure:
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        at = [100 * share for share in found.shares]
        every = 1 if len(at) <= 10 else 4
        for panel, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            for i, name in enumerate(names):
                rates = found.rates(name)
                if len(groups) > 1 and panel:
                    rates = found.by_group(name)[:, panel - 1]
                style = _style(i) | {"markevery": (i % every, every), "markersize": 5}
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
    with _figure(path, 9, 1.6 + 0.34 * len(rows)) as figure:
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
    with _figure(path, 9, 7) as figure:
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
