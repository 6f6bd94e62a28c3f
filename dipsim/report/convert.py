"""Report on a trace that was written, for every command that writes one, and on what is read."""

import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType

from dipsim.report.tables import Table, line
from dipsim.trace import Trace
from dipsim.trace.logs import FORMATS
from dipsim.trace.logs.usage import HISTORY
from dipsim.units import BYTES


def render(trace: Trace) -> RenderableType:
    """Return a line about the trace, and the command to go on with."""
    signals = [f"{s.name} {s.units} ({s.encoding})" for s in trace.signals.values()]
    signals += [f"{name} ({array.describe()['encoding']})" for name, array in trace.arrays.items()]
    path = Path(trace.name)
    files = [path] if path.is_file() else list(path.iterdir())
    size = BYTES.show(sum(file.stat().st_size for file in files))
    about = f"{trace.tokens} tokens of {trace.layers} layers, {', '.join(signals)}; {size}"
    hint = f"hint: dipsim inspect {shlex.quote(trace.name)}"
    return Group(line(f"{trace.name}: {about}"), line(hint))


def render_uses(out: Path, counts: NDArray[np.int64]) -> RenderableType:
    """Return a line about the uses of experts that were written, and what takes them."""
    layers, experts = counts.shape
    about = f"{counts.sum()} uses in {layers} layers of {experts} experts"
    hint = f"hint: dipsim run TRACE --policy static --static-from {shlex.quote(str(out))}"
    return Group(line(f"{out}: {about}"), line(hint))


def formats_dict() -> list[dict[str, str]]:
    """Return the formats of routing logs as plain values."""
    listed = [{"name": f.name, "source": f.source, "form": f.form} for f in FORMATS]
    counts = "text: layer expert count, or IKU1: counts, for --static-from"
    return [*listed, {"name": HISTORY, "source": "colibri .coli_usage", "form": counts}]


def formats() -> RenderableType:
    """Return the table of the formats of routing logs."""
    table = Table("format", "source", "form", whole=[0])
    for row in formats_dict():
        table.add_row(*row.values())
    return table
