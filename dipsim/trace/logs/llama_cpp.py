"""llama.cpp's moe-trace: CSV ``layer,expert`` in the order of execution, without a token."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dipsim.trace.logs.contract import Ask, Format, Head, Ints, Log
from dipsim.trace.logs.lines import batches, lines, whole, wrong
from dipsim.trace.logs.stream import looks_like_pairs, stream_log

_TITLE = re.compile(r"layer\s*,\s*expert")
_JUDGED = 200  # lines
_PAIR = re.compile(r"(\d{1,9})\s*,\s*(\d{1,9})", re.ASCII)


def _recognises(head: Head) -> bool:
    rows = [line.strip() for line in head.text.splitlines()[:_JUDGED]]
    titled = bool(rows) and _TITLE.fullmatch(rows[0]) is not None
    pairs = [_PAIR.fullmatch(row) for row in rows[titled:]]
    if not all(pairs) or not (pairs or titled):
        return False
    numbers = [(int(pair[1]), int(pair[2])) for pair in pairs if pair]
    return titled or looks_like_pairs(np.array(numbers, np.int64))


def _read(path: Path, ask: Ask) -> Log:
    return stream_log(path, _pairs(path), ask)


def _pairs(path: Path) -> Iterator[Ints]:
    def rows() -> Iterator[tuple[int, int]]:
        for number, line in lines(path):
            match = _PAIR.fullmatch(line)
            if match is None and number == 1 and _TITLE.fullmatch(line):
                continue
            if match is None:
                raise wrong(path, number, "a row is: layer,expert")
            yield whole(path, number, match[1], "layer"), whole(path, number, match[2], "expert")

    yield from batches(rows(), lambda held: np.array(held, np.int64))


LLAMA_CPP = Format(
    "llama_cpp",
    "llama.cpp moe-trace",
    "CSV layer,expert, no token: cut by --top-k",
    _recognises,
    _read,
)
