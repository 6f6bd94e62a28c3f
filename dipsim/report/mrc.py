"""What `dipsim mrc` prints and writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.mrc import Curves
from dipsim.errors import printable
from dipsim.report.files import write_rows
from dipsim.report.run import table


def render(found: Curves) -> RenderableType:
    """Hit rates by cache size: of all units, then of each group."""
    names = list(found.curves)
    titles = ["all units"]
    rates = [[found.rates(name) for name in names]]
    if len(found.method.groups) > 1:
        for i, group in enumerate(found.method.groups):
            titles.append(group.signal)
            rates.append([found.by_group(name)[:, i] for name in names])
    parts: list[RenderableType] = [
        Text(f"{printable(found.trace)}, {found.method.name}: hits / accesses", style="bold")
    ]
    for title, columns in zip(titles, rates, strict=True):
        made = table("cache", *map(printable, names), right=tuple(range(len(names) + 1)))
        for n, share in enumerate(found.shares):
            made.add_row(f"{share:.0%}", *(f"{column[n]:.1%}" for column in columns))
        parts += [Text(), Text(title, style="bold"), made]
    exact = [
        f"{signal} from {least} of {len(rates) + least - 1} units"
        for signal, (least, rates) in found.lru_exact().items()
    ]
    if exact:
        parts += [
            Text(),
            Text(
                f"lru at every capacity that holds each batch ({'; '.join(exact)}) comes from one "
                "pass: --json, --csv, --plot",
                style="dim",
            ),
        ]
    return Group(*parts)


def write_csv(found: Curves, path: Path) -> None:
    """A row per policy, layer, group and capacity; lru also at every capacity of its one pass.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, _rows(found))


def _rows(found: Curves) -> Iterator[dict[str, Any]]:
    groups = found.method.groups

    def row(policy: str, layer: int, i: int, capacity: Any, hits: Any, accesses: Any) -> Any:
        return {
            "policy": policy,
            "layer": layer,
            "group": groups[i].signal,
            "units": groups[i].units,
            "capacity": int(capacity),
            "hits": int(hits),
            "accesses": int(accesses),
        }

    for name, at in found.curves.items():
        for (n, layer, i), hits in np.ndenumerate(at.hits):
            place = n, layer, i
            yield row(name, layer, i, at.capacity[place], hits, at.accesses[place])
    if found.stack is None:
        return
    accesses = next(iter(found.curves.values())).accesses[0]
    for (layer, i), least in np.ndenumerate(found.stack.least):
        depths = found.stack.depths[layer][i]
        for capacity in range(int(least), len(depths)):
            yield row("lru, one pass", layer, i, capacity, depths[capacity], accesses[layer, i])
