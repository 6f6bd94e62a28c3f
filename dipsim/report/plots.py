"""Pictures. matplotlib is loaded when the first one is drawn."""

import os
from pathlib import Path

import numpy as np

from dipsim.analysis.inspection import SignalReport
from dipsim.errors import DipsimError
from dipsim.files import whole_file

FORMATS = (".png", ".svg", ".pdf")


def check_path(path: str | os.PathLike[str]) -> Path:
    """A path a picture can be written to.

    Raises:
        DipsimError: another suffix, or no such folder.
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        raise DipsimError(f"--plot {target}: give a file that ends in {', '.join(FORMATS)}")
    if not target.resolve().parent.is_dir():
        raise DipsimError(f"--plot {target}: no such folder")
    return target


def inspection(reports: dict[str, SignalReport], title: str, path: Path) -> None:
    """Four panels: overlap, popularity, hit rates, convergence; written whole.

    Raises:
        DipsimError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
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
    try:
        with whole_file(path) as handle:
            figure.savefig(handle, format=path.suffix[1:], dpi=120)
    except OSError as problem:
        raise DipsimError(f"--plot {path}: cannot be written ({problem.strerror})") from None
