"""What `dipsim run --attribution` prints: what binds each layer, and what would be faster."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.attribution import STEP, Attribution, Part
from dipsim.report.run import table
from dipsim.timeline.closed import RESOURCES

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


def render(found: Attribution) -> RenderableType:
    """Elasticities, the largest first; then which layers each resource binds."""
    sizes = dict(found.elasticity)
    known = [(name, size) for name, size in sizes.items() if size is not None]
    made = table("1 % more of", "rate", right=(1,))
    for name, size in sorted(known, key=lambda at: -abs(at[1])):
        made.add_row(_NAMES[name], f"{_signed(size)} %")
    unknown = [_NAMES[name] for name, size in sizes.items() if size is None]
    parts: list[RenderableType] = [
        Text(),
        Text(f"what would be faster (changes of {STEP:.0%} either way)", style="bold"),
        made,
    ]
    if unknown:
        parts.append(Text(f"not known here: {', '.join(unknown)}", style="dim"))
    if not found.parts:
        return Group(*parts)
    title = "exposed time, ms per token"
    if found.contends:
        title += " (in closed form: as if nothing contended)"
    return Group(*parts, Text(), Text(title, style="bold"), _bound(found))


def _signed(size: float) -> str:
    text = f"{size:+.3f}"
    return text[1:] if float(text) == 0 else text


def _bound(found: Attribution) -> Table:
    """The layers that each resource binds, and what comes before and after them."""
    shown = [at for at in RESOURCES if any(part.exposed[at] for part in found.parts)]
    made = table("bound by", "", *shown, right=tuple(range(2, 2 + len(shown))))
    rows = [
        (resource, f"layers {_ranges([int(part.name) for part in bound])}", bound)
        for resource in RESOURCES
        if (bound := [part for part in found.layers if part.binding == resource])
    ]
    rows += [
        (part.binding, str(part.name), [part]) for part in found.parts if part not in found.layers
    ]
    for resource, name, some in rows:
        made.add_row(resource, name, *(_ms(some, at) for at in shown))
    return made


def _ms(parts: Sequence[Part], resource: str) -> str:
    return f"{1e3 * sum(part.exposed[resource] for part in parts):.4g}"


def _ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``"0-2, 5"``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs)
