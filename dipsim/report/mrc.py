"""Report of `dipsim mrc`: hit rates against cache size, as tables, CSV and picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from dipsim.analysis.mrc import Curves
from dipsim.report.files import check_series, write_rows
from dipsim.report.pictures import (
    BESIDE,
    FAINT,
    Sheet,
    label,
    picture,
    series_style,
    set_heading,
    trace_name,
)
from dipsim.report.tables import Table, line

UNITS = {"shares": "share of units", "hit_rate": "share of units", "least_capacity": "units"}
UNITS |= dict.fromkeys(("groups", "layers"), "share of units")
"""Units of figures that `dipsim.report.envelope` does not know, or knows as others."""


def render(curves: Curves) -> RenderableType:
    """Return hit rates by cache size: those of all units, then those of each group."""
    names = list(curves.curves)
    titles = ["all units"]
    rates = [[curves.rates(name) for name in names]]
    if len(curves.method.groups) > 1:
        for i, group in enumerate(curves.method.groups):
            titles.append(group.signal)
            rates.append([curves.by_group(name)[:, i] for name in names])
    parts: list[RenderableType] = [
        line(f"{curves.trace}, {curves.method.name}: hits / accesses", style="bold")
    ]
    for title, columns in zip(titles, rates, strict=True):
        rows = Table("cache", *names, right=tuple(range(len(names) + 1)))
        for n, share in enumerate(curves.shares):
            rows.add_row(f"{share:.0%}", *(f"{column[n]:.1%}" for column in columns))
        parts += [line(), line(title, style="bold"), rows]
    exact = [
        f"{signal} from {least} of {len(rates) + least - 1} units"
        for signal, (least, rates) in curves.lru_exact().items()
    ]
    if exact:
        parts += [
            line(),
            line(
                f"lru at every capacity that holds each batch ({'; '.join(exact)}) comes from one "
                "pass: --json, --csv, --plot",
                style="dim",
            ),
        ]
    return Group(*parts)


def write_csv(curves: Curves, path: Path) -> None:
    """Write a row for each policy, layer, group and capacity.

    The rows of ``lru, one pass`` follow: every capacity that the one pass of lru is exact for.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, records(curves))


def records(curves: Curves) -> Iterator[dict[str, Any]]:
    """Yield the rows of `write_csv`."""
    groups = curves.method.groups

    def row(policy: str, layer: int, i: int, capacity: Any, hits: Any, accesses: Any) -> Any:
        return {
            "trace": curves.trace,
            "method": curves.method.name,
            "policy": policy,
            "layer": layer,
            "group": groups[i].signal,
            "units": groups[i].at(layer).units,
            "capacity": int(capacity),
            "hits": int(hits),
            "accesses": int(accesses),
        }

    for name, curve in curves.curves.items():
        for (n, layer, i), hits in np.ndenumerate(curve.hits):
            place = n, layer, i
            yield row(name, layer, i, curve.capacity[place], hits, curve.accesses[place])
    if curves.stack is None:
        return
    accesses = next(iter(curves.curves.values())).accesses[0]
    for (layer, i), least in np.ndenumerate(curves.stack.least):
        depths = curves.stack.depths[layer][i]
        for capacity in range(int(least), len(depths)):
            yield row("lru, one pass", layer, i, capacity, depths[capacity], accesses[layer, i])


def plot(curves: Curves, sheet: Sheet) -> Any:
    """Draw hit rate against cache size: a panel for all units, and one for each group.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: too many policies, or the file cannot be written.
    """
    names = list(curves.curves)
    check_series("policies", names)
    groups = [group.signal for group in curves.method.groups]
    titles = ["all units", *groups] if len(groups) > 1 else groups
    exact = curves.lru_exact()
    shares = [100 * share for share in curves.shares]
    every = 1 if len(shares) <= 10 else 4
    with picture(sheet, 3.6 * len(titles) + 2.6, 4) as figure:
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for panel, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            for i, name in enumerate(names):
                rates = curves.rates(name)
                if len(groups) > 1 and panel:
                    rates = curves.by_group(name)[:, panel - 1]
                style = series_style(i) | {"markevery": (i % every, every)}
                axes.plot(shares, 100 * rates, label=label(name), **style)
                if name == "lru" and title in exact:  # every capacity, from its one pass
                    least, all_rates = exact[title]
                    sizes = np.arange(least, least + len(all_rates))
                    across = 100 * sizes / sizes[-1]
                    axes.plot(across, 100 * all_rates, color=style["color"], linewidth=1)
            blind = "a cache blind to use"
            axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1, zorder=0, label=blind)
            axes.set(title=title, xlabel="units in the cache (%)", xlim=(0, 100), ylim=(0, 100))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("hits / accesses (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), title="policy", **BESIDE)
        what = f"{trace_name(curves.trace)} with {curves.method.name}"
        set_heading(figure, f"Hit rate against cache size: {what}")
    return figure
