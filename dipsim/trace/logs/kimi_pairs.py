"""kimi-k3-in-c: int32 pairs of a layer and an expert, in the order of execution."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dipsim.errors import TraceError
from dipsim.trace.logs.contract import Ask, Format, Head, Ints, Log
from dipsim.trace.logs.lines import gzipped, opened
from dipsim.trace.logs.stream import looks_like_pairs, stream_log

_PAIR = 8
_BLOCK = 2**19


def _recognises(head: Head) -> bool:
    """Return whether the bytes look like pairs."""
    data = head.data[: len(head.data) // _PAIR * _PAIR]
    if len(data) < 2 * _PAIR or b"\0" not in data or os.path.getsize(head.path) % _PAIR:
        return False
    return looks_like_pairs(np.frombuffer(data, "<i4").reshape(-1, 2).astype(np.int64))


def _read(path: Path, ask: Ask) -> Log:
    if gzipped(path):
        raise TraceError(f"{path}: is gzipped: gunzip it first")
    return stream_log(path, _pairs(path), ask)


def _pairs(path: Path) -> Iterator[Ints]:
    with opened(path) as file:
        while data := file.read(_BLOCK):
            if len(data) % _PAIR:
                raise TraceError(f"{path}: ends within a pair: cut short, copy it again")
            pairs = np.frombuffer(data, "<i4").reshape(-1, 2).astype(np.int64)
            if pairs.min() < 0:
                raise TraceError(f"{path}: holds a negative layer or expert: no pairs")
            yield pairs


KIMI_PAIRS = Format(
    "kimi_pairs",
    "kimi-k3-in-c",
    "binary int32 pairs (layer, expert), no token: cut by --top-k",
    _recognises,
    _read,
)
