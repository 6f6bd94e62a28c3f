"""The last line of the terminal, rewritten in place: it shows what is true now, then goes."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from dipsim.errors import printable


class StatusLine:
    """A line below all that was printed; it is gone while anything else is printed.

    It fits the terminal, as a carriage return goes back one row only. It takes no escape codes, so
    that it works where those are not known. Until a terminal is named nothing is shown.
    """

    def __init__(self) -> None:
        self._terminal: TextIO | None = None
        self._lock = threading.RLock()
        self._shown = ""
        self._begins_a_line = True

    @property
    def visible(self) -> bool:
        """True where there is a terminal to show the line on."""
        return self._terminal is not None

    @contextmanager
    def on(self, stream: TextIO) -> Iterator[None]:
        """Show the line on a stream, if that is a terminal, until the end of the block."""
        self._terminal = stream if stream.isatty() else None
        self._begins_a_line = True
        try:
            yield
        finally:
            self.clear()
            self._terminal = None

    def show(self, text: str) -> None:
        """Replace the line by a text, cut to the terminal; not in the midst of a line of others."""
        with self._lock:
            if self._terminal is None or not self._begins_a_line:
                return
            text = printable(text)
            encoding = self._terminal.encoding or "ascii"
            text = text.encode(encoding, "replace").decode(encoding)
            room = _columns(self._terminal) - 1  # what fills the last column may wrap
            shown = set_cell_size(text, min(cell_len(text), room))
            if shown != self._shown:
                cells = max(cell_len(shown), cell_len(self._shown))
                self._put("\r" + set_cell_size(shown, min(cells, room)))
                self._shown = shown

    def clear(self) -> None:
        """Remove the line."""
        with self._lock:
            if self._terminal is not None and self._shown:
                room = _columns(self._terminal) - 1
                self._put("\r" + " " * min(cell_len(self._shown), room) + "\r")
                self._shown = ""

    @contextmanager
    def away(self, text: str) -> Iterator[None]:
        """Remove the line until a text of others is printed."""
        with self._lock:
            self.clear()
            yield
            if text:
                self._begins_a_line = text.endswith("\n")

    def _put(self, text: str) -> None:
        assert self._terminal is not None, "a line is shown on a terminal only"
        with suppress(OSError):  # a terminal that is gone
            self._terminal.write(text)
            self._terminal.flush()


def _columns(terminal: TextIO) -> int:
    """Return how wide a terminal is now; where it does not know, what the environment says."""
    with suppress(OSError):
        columns = os.get_terminal_size(terminal.fileno()).columns
        if columns > 0:
            return columns
    return shutil.get_terminal_size().columns


STATUS = StatusLine()
"""The line of this program: all that prints goes through `guarded_streams`, which removes it."""
