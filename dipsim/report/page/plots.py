"""Charts as plotly's script draws them, in a page and in the explorer.

They hold data and the names of axes; colours of text and ground are the page's. Names may be
anybody's: plotly reads some tags in texts, so none is left in them.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from dipsim.errors import printable
from dipsim.report.page.model import Bars, Chart, Heat, Lines, Series
from dipsim.report.pictures import COLOURS, short
from dipsim.units import show_number

_SYMBOLS = ("circle", "square", "diamond", "triangle-down", "triangle-up", "cross", "star", "x")
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot", "solid", "dash")
_MOST_TEXTS = 14
"""Columns of a map up to which its fields show their values."""
_LONGEST = 32
"""Characters of a name beside a chart."""
_MOST_UPRIGHT, _UPRIGHT = 6, 14
"""Names below a chart that stand upright, and the characters of a line of theirs."""
MISSING = "a page needs plotly and Jinja2: pip install 'dipsim[report]'"


def plotted(chart: Chart) -> dict[str, Any]:
    """Return ``data`` and ``layout`` of a chart, plain values as plotly's script draws them."""
    drawn: dict[str, Any] = {Lines: _lines, Bars: _bars, Heat: _heat}[type(chart)](chart)  # type: ignore[operator]
    heading = {"title": {"text": plain(chart.title)}, "height": _height(chart)}
    return {**drawn, "layout": {**drawn["layout"], **heading}}


def _height(chart: Chart) -> int:
    """Return the pixels that suit a chart."""
    return 340 if isinstance(chart, Lines) else min(90 + 40 * len(chart.rows), 620)


def plain(text: str) -> str:
    """Return a text of anybody's for plotly: no tag and no template is left in it."""
    return escape(printable(text).replace("%{", "% {"), quote=False)


def _lines(chart: Lines) -> dict[str, Any]:
    traces = [_trace(chart, i, series) for i, series in enumerate(chart.series)]
    named = any(isinstance(x, str) for series in chart.series for x in series.x)
    x: dict[str, Any] = {"title": {"text": plain(chart.across)}, "automargin": True}
    x |= _categories(chart) if named else {"type": "linear"}
    y = {"title": {"text": plain(chart.up)}, "rangemode": "tozero", "automargin": True}
    return {"data": traces, "layout": {"xaxis": x, "yaxis": y, "hovermode": "closest"}}


def _categories(chart: Lines) -> dict[str, Any]:
    """Return an axis of names; a few stand upright, on several lines."""
    listed = (x for series in chart.series for x in series.x if isinstance(x, str))
    names = [short(name, _LONGEST) for name in dict.fromkeys(listed)]
    if len(names) > _MOST_UPRIGHT:
        return {"type": "category"}
    texts = ["<br>".join(map(plain, wrap(name, _UPRIGHT))) for name in names]
    return {
        "type": "category",
        "tickvals": list(map(plain, names)),
        "ticktext": texts,
        "tickangle": 0,
    }


def _trace(chart: Lines, i: int, series: Series) -> dict[str, Any]:
    """Return a line; series are told apart by colour, dashes and marker, so in grey too."""
    again, first = divmod(i, len(COLOURS))
    colour = COLOURS[first]
    name = plain(short(series.name, _LONGEST))
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if chart.joined else "markers",
        "name": name,
        "x": [plain(short(x, _LONGEST)) if isinstance(x, str) else x for x in series.x],
        "y": list(series.y),
        "line": {"color": colour, "dash": _DASHES[(first + 2 * again) % 8], "width": 2},
        "marker": {
            "color": colour,
            "symbol": f"{_SYMBOLS[first]}{'-open' * (again % 2)}",
            "size": 8,
        },
        "hovertext": [_hover(chart, series, k) for k in range(len(series.y))],
        "hoverinfo": "text",
    }
    if series.low is not None and series.high is not None:
        up, down = [], []
        for y, low, high in zip(series.y, series.low, series.high, strict=True):
            known = y is not None and low is not None and high is not None
            up.append(max(0.0, high - y) if known else 0.0)  # type: ignore[operator]
            down.append(max(0.0, y - low) if known else 0.0)  # type: ignore[operator]
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
        trace["error_y"] = {**bars, "thickness": 1, "width": 3, "color": colour}
    return trace


def _hover(chart: Lines, series: Series, k: int) -> str:
    """Return what is said of a point."""
    x, y = series.x[k], series.y[k]
    across = x if isinstance(x, str) else show_number(x)
    lines = [series.name, f"{chart.across}: {across}" if chart.across else str(across)]
    lines.append(f"{chart.up}: {'-' if y is None else show_number(y)}")
    if series.low is not None and series.high is not None:
        low, high = series.low[k], series.high[k]
        if low is not None and high is not None:
            lines.append(f"from {show_number(low, 3)} to {show_number(high, 3)}")
    lines += [series.notes[k]] if series.notes and series.notes[k] else []
    return "<br>".join(map(plain, lines))


def _bars(chart: Bars) -> dict[str, Any]:
    rows = [plain(short(row, _LONGEST)) for row in chart.rows]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(short(name, _LONGEST)),
            "x": list(lengths),
            "y": list(range(len(rows))),
            "marker": {"color": COLOURS[i % len(COLOURS)]},
            "hovertext": [
                plain(f"{row}, {name}: {show_number(length)} {chart.across}")
                for row, length in zip(chart.rows, lengths, strict=True)
            ],
            "hoverinfo": "text",
        }
        for i, (name, lengths) in enumerate(chart.parts.items())
    ]
    y = _ticks(rows) | {"autorange": "reversed"}
    x = {"title": {"text": plain(chart.across)}, "automargin": True}
    return {"data": traces, "layout": {"barmode": "stack", "xaxis": x, "yaxis": y, "bargap": 0.25}}


def _heat(chart: Heat) -> dict[str, Any]:
    columns, rows = (
        [plain(short(name, _LONGEST)) for name in names] for names in (chart.columns, chart.rows)
    )
    texts = [["" if v is None else show_number(v, 3) for v in row] for row in chart.values]
    hover = [
        [
            plain(f"{chart.across} {column}, {chart.down} {row}: {text or '-'} {chart.meaning}")
            for column, text in zip(chart.columns, line, strict=True)
        ]
        for row, line in zip(chart.rows, texts, strict=True)
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "z": [list(row) for row in chart.values],
        "hovertext": hover,
        "hoverinfo": "text",
        "colorscale": "Cividis",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": plain(chart.meaning), "side": "right", "font": {"size": 13}},
            "thickness": 12,
        },
    }
    if len(columns) <= _MOST_TEXTS:
        trace |= {"text": texts, "texttemplate": "%{text}"}
    x = _ticks(columns) | {"title": {"text": plain(chart.across)}}
    y = _ticks(rows) | {"title": {"text": plain(chart.down)}, "autorange": "reversed"}
    return {"data": [trace], "layout": {"xaxis": x, "yaxis": y}}


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of names; of many, every second, or third ..., is written."""
    step = -(-len(names) // 40)
    at = list(range(0, len(names), step))
    return {"tickvals": at, "ticktext": [names[i] for i in at], "automargin": True}
