"""Figures, colours and markers that all pictures share; matplotlib loads with the first picture."""

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
RING = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "color": "k", "linestyle": ""}
"""Style of a ring around the point that answers a question."""
BESIDE = {"fontsize": 8, "title_fontsize": 8, "loc": "outside right upper"}
"""Style of a legend to the right of all panels."""


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

    Args:
        sheet: what it is drawn on.
        width: inches that suit what is drawn.
        height: inches that suit what is drawn.

    Raises:
        DipsimError: the file cannot be written.
    """
    from dipsim.report.figure import Picture

    size = sheet.size or (width, height)
    figure = Picture(figsize=size, dpi=sheet.dpi, layout="constrained")
    yield figure
    path = sheet.path
    if path is None:
        return
    try:
        with whole_file(path) as handle:
            figure.savefig(handle, format=path.suffix[1:], dpi=sheet.dpi)
    except OSError as problem:
        raise unwritable(f"--plot {path}", problem) from None


def plain(text: str) -> str:
    """Return a text of anybody's for a picture: no dollar sign makes a formula of it."""
    return printable(text).replace("$", r"\$")


def series_style(i: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the i-th series; from the ninth on markers are hollow."""
    again, i = divmod(i, len(COLOURS))
    style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[(i + 2 * again) % 8]}
    return style | {"markerfacecolor": "none"} if again else style


def finite_rates(rates: Sequence[float]) -> Sequence[float]:
    """Return tokens per second as they are, once all of them are known to be finite.

    Raises:
        DipsimError: one is infinite.
    """
    if not np.isfinite(rates).all():
        raise DipsimError("--plot: tokens that take no time have no rate to draw")
    return rates
