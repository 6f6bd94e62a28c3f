"""The charts of a page below each other in one picture, by matplotlib."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dipsim.errors import DipsimError
from dipsim.report.page.model import Bars, Chart, Heat, Lines, Page, Series
from dipsim.report.pictures import COLOURS, Sheet, label, picture, series_style, set_heading

_WIDTH = 8.0
_LEGEND = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}


def draw(page: Page, sheet: Sheet) -> Any:
    """Draw every chart of a page that is shown first, one below the other.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: the page has no chart, or the file cannot be written.
    """
    charts = page.charts
    if not charts:
        raise DipsimError("nothing to draw: the report has no chart; --format html or md has texts")
    heights = [_height(chart) for chart in charts]
    with picture(sheet, _WIDTH, sum(heights) + 0.6) as figure:
        panels = figure.subplots(len(charts), 1, squeeze=False, height_ratios=heights).ravel()
        for chart, axes in zip(charts, panels, strict=True):
            axes.set_title(label(chart.title, 80))
            drawn: Callable[..., None] = _DRAW[type(chart)]
            drawn(axes, chart)
        set_heading(figure, page.title)
    return figure


def _height(chart: Chart) -> float:
    """Return the inches that suit a chart."""
    if isinstance(chart, Lines):
        return 3.0
    return 1.0 + 0.3 * len(chart.rows)


def _lines(axes: Any, chart: Lines) -> None:
    names = list(
        dict.fromkeys(x for series in chart.series for x in series.x if isinstance(x, str))
    )
    for i, series in enumerate(chart.series):
        style = series_style(i) | ({} if chart.joined else {"linestyle": ""})
        x = [names.index(at) if isinstance(at, str) else at for at in series.x]
        y = [np.nan if value is None else value for value in series.y]
        axes.errorbar(
            x, y, yerr=_sides(series), capsize=2, elinewidth=0.8, label=label(series.name), **style
        )
    if names:
        axes.set_xticks(range(len(names)), [label(name, 18) for name in names], rotation=20)
    axes.set(xlabel=label(chart.across, 60), ylabel=label(chart.up, 60))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(chart.series) > 1:
        axes.legend(**_LEGEND)


def _sides(series: Series) -> Any:
    """Return what intervals reach below and above the points; None without any."""
    if series.low is None or series.high is None:
        return None
    known = [
        (max(0.0, y - low), max(0.0, high - y)) if None not in (y, low, high) else (0.0, 0.0)  # type: ignore[operator]
        for y, low, high in zip(series.y, series.low, series.high, strict=True)
    ]
    return np.array(known).T


def _bars(axes: Any, chart: Bars) -> None:
    left = np.zeros(len(chart.rows))
    for i, (name, lengths) in enumerate(chart.parts.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.barh(range(len(chart.rows)), lengths, left=left, color=colour, label=label(name))
        left = left + np.asarray(lengths)
    axes.set_yticks(range(len(chart.rows)), [label(row) for row in chart.rows])
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set_xlabel(label(chart.across, 60))
    axes.legend(**_LEGEND)


def _heat(axes: Any, chart: Heat) -> None:
    values = np.array([[np.nan if v is None else v for v in row] for row in chart.values])
    image = axes.imshow(values, aspect="auto", cmap="cividis")
    beside = axes.inset_axes((1.02, 0, 0.02, 1))
    axes.figure.colorbar(image, cax=beside, label=label(chart.meaning, 40))
    step = -(-len(chart.columns) // 20)
    at = range(0, len(chart.columns), step)
    axes.set_xticks(at, [label(chart.columns[i], 12) for i in at])
    axes.set_yticks(range(len(chart.rows)), [label(row) for row in chart.rows])
    axes.set(xlabel=label(chart.across, 60), ylabel=label(chart.down, 60))


_DRAW: dict[type, Callable[..., None]] = {Lines: _lines, Bars: _bars, Heat: _heat}
