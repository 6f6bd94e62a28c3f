"""Rates of a run against the size of its memory, beside dense and the optimum."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dipsim.errors import DipsimError
from dipsim.hardware import Profile
from dipsim.replay.replay import Progress
from dipsim.report.page.model import Lines, Panel, Section, Series
from dipsim.result import Result, finite
from dipsim.sweep.many import many
from dipsim.sweep.methods import options_of
from dipsim.sweep.point import Figures, Place, Point
from dipsim.trace import Trace
from dipsim.units import parse_share

_PERCENT = {"dram": range(10, 121, 10), "cache_fraction": range(0, 101, 10)}
"""Sizes of which rates are worked out, in per cent."""
_AXES = {
    "dram": ("DRAM", "DRAM (% of the model's bytes)"),
    "cache_fraction": ("the caches", "caches (% of the units)"),
}
_POINT = "this run"
SECTION = "Rate against memory"


@dataclass(frozen=True)
class Curve:
    """Lines of rates against the size of the memory."""

    across: str
    series: tuple[Series, ...]

    def with_point(self, size: Any, rate: float | None) -> "Curve":
        """Return the curve with the run itself as a point; without its size as it is."""
        at = parse_share(size) if isinstance(size, str) else size
        if at is None or rate is None:
            return self
        point = Series(_POINT, [round(100 * at, 6)], [rate])
        return replace(self, series=(*self.series, point))

    @property
    def section(self) -> Section:
        """The chart, as a section of a page."""
        name, label = _AXES[self.across]
        chart = Lines(f"Rate against {name}", label, "tokens/s", self.series)
        return Section(SECTION, panels=[Panel({"": chart})])


def curve_of(
    trace: Trace,
    device: Profile,
    options: Mapping[str, Any],
    across: str,
    progress: Progress | None = None,
) -> Curve:
    """Return rates of a run, of the optimum on its sets, and of dense.

    Sizes that are impossible are left out, and so are lines without any.

    Args:
        trace: what is replayed.
        device: where.
        options: of the run, without the size of its memory.
        across: ``dram`` or ``cache_fraction``, the size that varies.
        progress: called as work is done.
    """
    policy = options.get("policy", "lfu")
    runs = {f"{options.get('method', 'these sets')}, {policy}": options}
    if policy not in ("opt", "none"):
        runs["with the optimum"] = {**options, "policy": "opt", "admission": None}
    if options.get("method") != "dense":
        runs["dense"] = options_of("dense", trace, {**options, "layout": None}, {"cluster": None})
    points = [
        Point({"line": name, "at": percent}, trace, device, _sized(chosen, across, percent))
        for name, chosen in runs.items()
        for percent in _PERCENT[across]
    ]

    def rate(result: Result) -> list[tuple[Place, Figures]]:
        if progress is not None:
            progress(0, 1)
        return [({}, {"rate": finite(result.tokens_per_second)})]

    try:
        cells = many(points, read=rate, tolerated=(DipsimError,), progress=progress)
    except DipsimError:
        return Curve(across, ())
    known = [cell for cell in cells if cell.figures is not None]
    series = []
    for name in runs:
        own = [cell for cell in known if cell.place["line"] == name]
        if own:
            x = [float(cell.place["at"]) for cell in own]
            series.append(Series(name, x, [cell.value("rate") for cell in own]))
    return Curve(across, tuple(series))


def _sized(options: Mapping[str, Any], across: str, percent: int) -> dict[str, Any]:
    size: Any = f"{percent}%" if across == "dram" else percent / 100
    return {name: value for name, value in options.items() if value is not None} | {across: size}


def marked(panel: dict[str, Any]) -> dict[str, Any]:
    """Return the panel of a curve, as plain values, with the run itself as a ring."""
    for chart in panel["charts"].values():
        for trace in chart["data"]:
            if trace["name"] == _POINT:
                ring = {"symbol": "circle-open", "size": 17, "line": {"width": 3}}
                trace |= {"mode": "markers", "marker": {"color": "#000000", **ring}}
    return panel
