"""Report on a trace that was written, for every command that writes one."""

import shlex
from pathlib import Path

from rich.console import Group, RenderableType

from dipsim.report.tables import line
from dipsim.trace import Trace
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
