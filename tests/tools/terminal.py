"""A terminal for tests: what stands on its screen after what was printed."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

from rich.cells import cell_len

COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Terminal(StringIO):
    """A stream that says it is a terminal, as wide as the environment's COLUMNS."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("not of the system")


def screen(printed: str, columns: int) -> list[str]:
    """Return the rows of a terminal without colours and blanks at the end.

    A carriage return goes to the start of the row, and what is longer than a row goes on in the
    next, as on any terminal. Other characters that steer are refused.
    """
    rows, column = [""], 0
    for char in COLOUR.sub("", printed):
        if char == "\r":
            column = 0
        elif char == "\n":
            rows.append("")
            column = 0
        else:
            assert char.isprintable(), repr(char)
            if column + cell_len(char) > columns:
                rows.append("")
                column = 0
            rows[-1] = rows[-1][:column].ljust(column) + char + rows[-1][column + 1 :]
            column += 1
    return "\n".join(row.rstrip() for row in rows).rstrip("\n").split("\n")


def printed_on_terminal(code: str, words: list[str], columns: int, folder: Path) -> str:
    """Return what a program of Python prints on a terminal of its own."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=inner, stdout=inner, stderr=inner, cwd=folder
    ):
        os.close(inner)
        pieces = []
        while piece := _read(outer):
            pieces.append(piece)
    os.close(outer)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 2**16)
    except OSError:  # Linux says so when nobody has the other end open any more
        return b""
