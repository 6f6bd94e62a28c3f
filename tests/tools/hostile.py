"""Damaged copies of a good file: what every reader must refuse in one line, or read."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from dipsim.errors import DipsimError

_TELLING = (b"\x00", b"\xff", b"\xff\xff\xff\x7f", b"\x80", b"-1", b"nan", b"9" * 30, b"\n", b",")


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` copies: bits flipped, runs overwritten, cut, inserted, repeated or removed."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(damaged) + 1)
            run = rng.choice((1, 1, 4, 16, 100))
            kind = rng.randrange(6)
            if kind == 0 and at < len(damaged):
                damaged[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                damaged[at : at + run] = rng.randbytes(run)
            elif kind == 2:
                del damaged[at:]
            elif kind == 3:
                damaged[at:at] = rng.choice(_TELLING)
            elif kind == 4:
                damaged[at:at] = damaged[at : at + run]
            else:
                del damaged[at : at + run]
        yield bytes(damaged)


def read_or_refused(read: Callable[[Path], object], path: Path, data: bytes, count: int) -> int:
    """How many of ``count`` damaged copies of ``data`` were read; the others were refused.

    Anything but a `DipsimError` of one short line escapes.
    """
    read_well = 0
    for damaged in mutations(data, count):
        path.write_bytes(damaged)
        read_well += one_line(read, path)
    return read_well


def one_line(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file was read; if not, a `DipsimError` of one short line said why."""
    try:
        read(path)
    except DipsimError as problem:
        message = str(problem)
        assert "\n" not in message
        assert len(message) < 1000
        return False
    return True
