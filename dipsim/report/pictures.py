"""Figures, colours and markers that all pictures share; matplotlib loads with the first picture."""

import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import DipsimError, printable
from dipsim.files import unwritable, whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's, told apart by colour-blind readers; with markers and dashes also in grey."""
MARKERS = "osD^vPXd"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-")
FAINT = "0.6"
"""Colour of lines that only guide the eye."""
BESIDE = {"loc": "outside right upper"}
"""Place of a legend to the right of all panels."""
LEAST_SIZE, MOST_SIZE = 2.0, 40.0
"""Inches of a side."""
LEAST_DPI, MOST_DPI = 20, 1200
MOST_DOTS = 100e6
"""Dots of a picture, each of four bytes in memory."""
_LENGTHS = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "figure.titlesize": 11.0,
    "legend.fontsize": 8.0,
    "legend.title_fontsize": 8.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "axes.labelpad": 4.0,
    "axes.titlepad": 6.0,
    "xtick.major.pad": 3.5,
    "ytick.major.pad": 3.5,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2.0,
    "ytick.minor.size": 2.0,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
    "patch.linewidth": 1.0,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}
"""Sizes, in points, of all that does not grow with the sheet; the last two are in inches."""


@dataclass(frozen=True)
class Sheet:
    """Paper that a picture is drawn on."""

    path: Path | None = None
    """File, whose suffix is the format; None where the figure itself is what is wanted."""
    size: tuple[float, float] | None = None
    """Width and height in inches; None for those that suit what is drawn."""
    dpi: int = 120
    """Dots per inch of a PNG."""


@contextmanager
def picture(sheet: Sheet, width: float, height: float) -> Iterator[Any]:
    """Yield a matplotlib figure to draw in, and write it whole afterwards, if to a file.

    On a sheet that is smaller than suits, texts, lines and markers are smaller too, so that
    nothing overlaps.

    Args:
        sheet: what it is drawn on.
        width: inches that suit what is drawn.
        height: inches that suit what is drawn.

    Raises:
        DipsimError: the file cannot be written.
    """
    from matplotlib import rc_context

    from dipsim.report.figure import Picture

    size = sheet.size or (width, height)
    scale = min(1.0, size[0] / width, size[1] / height)
    styles: Any = {name: scale * length for name, length in _LENGTHS.items()}
    styles["text.hinting"] = "none"  # hinted, small letters become too wide
    with rc_context(styles), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters the font lacks become boxes
        figure = Picture(figsize=size, dpi=sheet.dpi, layout="constrained")
        yield figure
        for axes in figure.axes:  # ticks that are made later keep these sizes
            axes.tick_params(labelsize=scale * _LENGTHS["xtick.labelsize"])
        if sheet.path is None or any(axes.texts for axes in figure.axes):
            figure.draw_without_rendering()
            _drop_crowded_labels(figure)
        if sheet.path is None:
            return
        try:
            with whole_file(sheet.path) as handle:
                figure.savefig(handle, format=sheet.path.suffix[1:], dpi=sheet.dpi)
        except OSError as problem:
            raise unwritable(f"--plot {sheet.path}", problem) from None


def _drop_crowded_labels(figure: Any) -> None:
    """Remove labels of contours that leave their panel or lie on another one."""
    for axes in figure.axes:
        room = axes.get_window_extent()
        kept: list[Any] = []
        for text in list(axes.texts):
            box = text.get_window_extent()
            inside = room.contains(box.x0, box.y0) and room.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in kept):
                kept.append(box)
            else:
                text.remove()


def check_size(size: tuple[float, float] | None, dpi: int | None) -> None:
    """Refuse sheets that nobody prints, or that would fill the memory.

    Args:
        size: width and height in inches, or None.
        dpi: dots per inch, or None.

    Raises:
        DipsimError: too small, too large, or too many dots.
    """
    if dpi is not None and not LEAST_DPI <= dpi <= MOST_DPI:
        raise DipsimError(f"--dpi {dpi}: give dots per inch, from {LEAST_DPI} to {MOST_DPI}")
    if size is None:
        return
    shown = "x".join(f"{side:g}" for side in size)
    if not all(LEAST_SIZE <= side <= MOST_SIZE for side in size):
        raise DipsimError(
            f"--size {shown}: give width x height, each from {LEAST_SIZE:g} to {MOST_SIZE:g} inches"
        )
    dots = size[0] * size[1] * (dpi or Sheet.dpi) ** 2
    if dots > MOST_DOTS:
        raise DipsimError(
            f"--size {shown} with --dpi {dpi or Sheet.dpi}: {dots / 1e6:.0f} million dots, at most "
            f"{MOST_DOTS / 1e6:.0f} million; take less of one"
        )


# Texts --------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Return a text of anybody's for a picture: no dollar sign makes a formula of it."""
    return printable(text).replace("$", r"\$")


def short(text: str, most: int = 30) -> str:
    """Return a text as it is; of a long one the middle is left out."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2) + 1 :]}"


def label(text: str, most: int = 30) -> str:
    """Return a name of anybody's for a picture, `short` and `plain`."""
    return plain(short(text, most))


def trace_name(name: str) -> str:
    """Return a trace's name without its folder and suffix, `short`: ``t`` of ``/traces/t.npz``."""
    return short(os.path.basename(name.rstrip(os.sep)).removesuffix(".npz") or name)


def set_heading(figure: Any, text: str) -> None:
    """Write a heading over all panels, beside what legend there is.

    Args:
        figure: the matplotlib figure, whose legend is made.
        text: the heading, whoever wrote it; its lines fold where the figure is too narrow.
    """
    legends = sum(legend.get_window_extent().width for legend in figure.legends)
    room = 0.97 - legends / figure.bbox.width
    parts = [plain(line) for line in text.split("\n")]
    heading = figure.suptitle("", x=0.01 + room / 2)
    for characters in range(max(12, *map(len, parts)), 10, -2):
        lines = [textwrap.fill(line, characters, break_long_words=False) for line in parts]
        heading.set_text("\n".join(lines))
        if heading.get_window_extent().width <= 0.96 * room * figure.bbox.width:
            return


# Series and axes ----------------------------------------------------------------------------------


def series_style(i: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the i-th series; from the ninth on markers are hollow."""
    again, i = divmod(i, len(COLOURS))
    style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[(i + 2 * again) % 8]}
    return style | {"markerfacecolor": "none"} if again else style


def ring() -> dict[str, Any]:
    """Return the style of a ring around the point that answers a question."""
    from matplotlib import rcParams

    return {
        "marker": "o",
        "markersize": 2.6 * rcParams["lines.markersize"],
        "markerfacecolor": "none",
        "color": "k",
        "linestyle": "",
    }


def scale_by_ratio(axis: Any, low: float, high: float) -> None:
    """Scale an axis in logarithms, with a few round numbers along it.

    Args:
        axis: ``axes.xaxis`` or ``axes.yaxis``.
        low: the least value that is drawn, above 0.
        high: the largest.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    steps = (1, 2, 5) if high < 1e3 * low else (1,)
    axis.set_major_locator(MaxNLocator(5) if high < 6 * low else LogLocator(subs=steps, numticks=9))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def finite_rates(rates: Sequence[float]) -> Sequence[float]:
    """Return tokens per second as they are, once all of them are known to be finite.

    Raises:
        DipsimError: one is infinite.
    """
    if not np.isfinite(rates).all():
        raise DipsimError("--plot: tokens that take no time have no rate to draw")
    return rates
