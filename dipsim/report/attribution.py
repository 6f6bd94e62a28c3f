"""Report of `dipsim run --attribution`: what binds each layer, and what would be faster."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from dipsim.analysis.attribution import STEP, Attribution, Part
from dipsim.report.tables import Table, line
from dipsim.timeline.closed import RESOURCES
from dipsim.units import show_number

_NAMES = {
    "flash_bandwidth": "flash, all of its time",
    "flash_requests": "flash, time per request",
    "dram_bandwidth": "DRAM bandwidth",
    "dram_size": "DRAM given to the model",
    "cache_size": "cache given",
    "compute": "compute rate",
    "sync": "sync (1 % less)",
    "cache_copy": "copying into the cache",
}


def render(attribution: Attribution) -> RenderableType:
    """Return elasticities, the largest first; then which layers each resource binds."""
    elasticity = dict(attribution.elasticity)
    known = [(name, per_cent) for name, per_cent in elasticity.items() if per_cent is not None]
    rows = Table("1 % more of", "rate", right=(1,))
    for name, per_cent in sorted(known, key=lambda pair: -abs(pair[1])):
        rows.add_row(_NAMES[name], f"{_signed(per_cent)} %")
    unknown = [_NAMES[name] for name, per_cent in elasticity.items() if per_cent is None]
    parts: list[RenderableType] = [
        line(),
        line(f"what would be faster (changes of {STEP:.0%} either way)", style="bold"),
        rows,
    ]
    if unknown:
        parts.append(line(f"not known here: {', '.join(unknown)}", style="dim"))
    if not attribution.parts:
        return Group(*parts)
    title = "exposed time, ms per token"
    if attribution.contends:
        title += " (in closed form: as if nothing contended)"
    return Group(*parts, line(), line(title, style="bold"), _bound(attribution))


def _signed(per_cent: float) -> str:
    text = f"{per_cent:+.3f}"
    return text[1:] if float(text) == 0 else text


def _bound(attribution: Attribution) -> Table:
    """Return the layers that each resource binds, and what comes before and after them."""
    parts, layers = attribution.parts, attribution.layers
    shown = [name for name in RESOURCES if any(part.exposed[name] for part in parts)]
    rows = Table("bound by", "", *shown, right=tuple(range(2, 2 + len(shown))))
    groups: list[tuple[str, str, Sequence[Part]]] = [
        (resource, f"layers {_ranges([int(part.name) for part in bound])}", bound)
        for resource in RESOURCES
        if (bound := [part for part in layers if part.binding == resource])
    ]
    groups += [(part.binding, str(part.name), [part]) for part in parts if part not in layers]
    for resource, name, group in groups:
        rows.add_row(resource, name, *(_milliseconds(group, other) for other in shown))
    return rows


def _milliseconds(parts: Sequence[Part], resource: str) -> str:
    return show_number(1e3 * sum(part.exposed[resource] for part in parts))


def _ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``"0-2, 5"``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs)
