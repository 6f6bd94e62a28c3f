"""The table of formats: one row each. A file is of the first format that recognises it."""

from pathlib import Path

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.arrays import ARRAYS
from dipsim.trace.logs.colibri import COLIBRI
from dipsim.trace.logs.commitmoe import COMMITMOE
from dipsim.trace.logs.contract import Format, Head
from dipsim.trace.logs.flame import FLAME
from dipsim.trace.logs.glm_export import GLM_EXPORT
from dipsim.trace.logs.imp import IMP
from dipsim.trace.logs.kimi_pairs import KIMI_PAIRS
from dipsim.trace.logs.lattice import LATTICE
from dipsim.trace.logs.llama_cpp import LLAMA_CPP
from dipsim.trace.logs.megatron import MEGATRON
from dipsim.trace.logs.mer import MER
from dipsim.trace.logs.q4rt import Q4RT
from dipsim.trace.logs.responses import RESPONSES
from dipsim.trace.logs.route_sim import ROUTE_SIM
from dipsim.trace.logs.route_trace import ROUTE_TRACE
from dipsim.trace.logs.waste import WASTE
from dipsim.trace.logs.waste_dump import WASTE_DUMP

FORMATS: tuple[Format, ...] = (
    ROUTE_TRACE,
    Q4RT,
    ARRAYS,
    COMMITMOE,
    FLAME,
    WASTE,
    LATTICE,
    MER,
    ROUTE_SIM,
    MEGATRON,
    GLM_EXPORT,
    RESPONSES,
    IMP,
    COLIBRI,
    WASTE_DUMP,
    LLAMA_CPP,
    KIMI_PAIRS,
)


def recognised(path: Path) -> Format | None:
    """Return the format of a file or folder, by what it holds; None for none."""
    head = Head(path)
    return next((format_ for format_ in FORMATS if format_.recognises(head)), None)


def format_named(name: str) -> Format:
    """Return a format by its name.

    Raises:
        TraceError: there is none of that name.
    """
    for format_ in FORMATS:
        if format_.name == name:
            return format_
    known = ", ".join(format_.name for format_ in FORMATS)
    raise TraceError(f"--format {brief(name, 40)}: use one of {known}")
