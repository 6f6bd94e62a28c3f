"""Opening a trace: dipsim's own, or a routing log, which is converted on the way."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dipsim.errors import TraceError
from dipsim.trace.logs import Ask, Format, recognised
from dipsim.trace.logs.convert import import_log
from dipsim.trace.opening import open_trace
from dipsim.trace.trace import SUFFIX, Trace


def load_trace(given: str | os.PathLike[str] | Mapping[str, Any] | Trace) -> Trace:
    """Open a trace by its path, by the name of a shipped one, or from arrays in memory.

    A routing log of a format that ``dipsim import --list`` shows is read as a trace, where it
    leaves nothing open; the copy that is made of it goes when the program ends.

    Args:
        given: ``"t.npz"``, ``"log.jsonl"``, ``"smollm2-chat"``, or ``{"glu": abs_glu, ...}`` with
            the arrays of docs/trace-format.md (``meta`` may be a dict).

    Raises:
        TraceError: missing, unreadable or hostile file; arrays that make no trace; a log that
            leaves something open.
    """
    if not isinstance(given, str | os.PathLike):
        return open_trace(given)
    path = Path(given)
    format_ = recognised(path) if os.path.exists(path) else None
    return open_trace(given) if format_ is None else _open_log(path, str(given), format_)


def _open_log(path: Path, name: str, format_: Format) -> Trace:
    """Convert a log and open what came of it, under the log's name."""
    state = os.stat(path)
    copy = _converted(str(path.absolute()), format_, state.st_mtime_ns, state.st_size)
    trace = open_trace(copy.path)
    notes = tuple(f"{name}: {note}" for note in copy.notes)
    signals = {key: replace(signal, trace=name) for key, signal in trace.signals.items()}
    warnings = (*trace.warnings, *notes)
    return replace(trace, name=name, paths=(path,), signals=signals, warnings=warnings)


class _Copy:
    """A converted log in a folder that goes when the program ends."""

    def __init__(self, path: Path, format_: Format) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dipsim-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / f"trace{SUFFIX}"
        try:
            self.notes = import_log(path, self.path, format_, Ask())
        except TraceError as problem:
            self._folder.cleanup()
            text = str(problem)
            way = f"; with dipsim import {path} t{SUFFIX}" if ": give --" in text else ""
            raise TraceError(text + way) from None


@cache
def _converted(path: str, format_: Format, modified: int, size: int) -> _Copy:
    return _Copy(Path(path), format_)
