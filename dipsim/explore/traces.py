"""Traces that the app offers: opened once, read anew when their files change."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dipsim.errors import DipsimError, brief
from dipsim.trace import Trace, load_trace

_MOST = 4
"""Traces that are kept open, each of which may hold its arrays in memory."""


class KnownTrace(NamedTuple):
    """A trace, and the state of its files as it was opened."""

    trace: Trace
    state: Any
    """Equal as long as the files are the same; None where one is gone."""


class Traces:
    """Traces by the names that requests use.

    Args:
        sources: paths or shipped names, by name.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)
        self._opened: dict[str, KnownTrace] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> KnownTrace:
        """Return a trace whose arrays stay in memory; one whose files changed is opened anew.

        Raises:
            DipsimError: unknown, gone, or no trace any more.
        """
        if name not in self.sources:
            raise DipsimError(f"trace {brief(name)!r}: use one of {', '.join(self.sources)}")
        with self._lock:
            return self._open(name)

    def _open(self, name: str) -> KnownTrace:
        known = self._opened.pop(name, None)
        if known is None or known.state is None or known.state != _state(known.trace.paths):
            trace = load_trace(self.sources[name])
            state = _state(trace.paths)
            known = KnownTrace(trace.kept(), state)
        self._opened[name] = known
        while len(self._opened) > _MOST:
            self._opened.pop(next(iter(self._opened)))
        return known


def _state(paths: tuple[Path, ...]) -> Any:
    """Return what tells the contents of files from earlier ones; None where one is gone."""
    try:
        files = [(path, os.stat(path)) for path in paths]
    except OSError:
        return None
    return tuple((path, file.st_mtime_ns, file.st_size, file.st_ino) for path, file in files)
