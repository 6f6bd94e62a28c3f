"""colibri's expert history (`.coli_usage`): how often each expert was used, without an order.

Text has lines ``layer expert count`` and headers ``-1 layers experts``, ``-2 version engine``. The
binary form is the magic ``IKU1``, uint32 layers and experts, then uint32[layers][experts].
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import TraceError, brief
from dipsim.trace.archive import pack
from dipsim.trace.logs.contract import MOST_EXPERTS, MOST_LAYERS, Head
from dipsim.trace.logs.lines import gzipped, lines, wrong
from dipsim.trace.npz import open_npz
from dipsim.trace.outline import Outline
from dipsim.trace.trace import SUFFIX

HISTORY = "usage"
"""Name that ``--format`` takes."""
_MAGIC = b"IKU1"
_MOST = 2**24
_VERSION = 1


def is_usage(head: Head) -> bool:
    """Return whether a file is an expert history."""
    if head.data[:4] == _MAGIC:
        return True
    first = [line.split() for line in head.text.splitlines()[:3] if line.strip()]
    return bool(first) and all(len(words) == 3 and all(map(_is_int, words)) for words in first)


def read_usage(path: Path) -> NDArray[np.int64]:
    """Return how often each expert was used, int64[layers, experts].

    Raises:
        TraceError: damaged, or numbers that no model has.
    """
    if Head(path).data[:4] == _MAGIC:
        return _binary(path)
    layers = experts = 0
    counts: dict[tuple[int, int], int] = {}
    for number, (layer, expert, count) in _triples(path):
        if layer == -1:
            layers, experts = expert, count
        elif layer == -2 and expert > _VERSION:
            raise wrong(path, number, f"version {expert} of the history; {_VERSION} is read")
        elif layer >= 0:
            if expert < 0 or expert >= MOST_EXPERTS or layer >= MOST_LAYERS or count < 0:
                raise wrong(path, number, "a row is: layer expert count, from 0 on")
            counts[layer, expert] = counts.get((layer, expert), 0) + count
    if not counts:
        raise TraceError(f"{path}: no expert was used: nothing to learn from")
    shape = max(layer for layer, _ in counts) + 1, max(expert for _, expert in counts) + 1
    if layers and not (shape[0] <= layers + 1 and shape[1] <= experts):
        raise TraceError(
            f"{path}: says {layers} layers of {experts} experts and has rows of layer "
            f"{shape[0] - 1}, expert {shape[1] - 1}"
        )
    rows, columns = (max(shape[0], layers), experts) if layers else shape
    _believable(path, rows, columns)
    table = np.zeros((rows, columns), np.int64)
    for place, count in counts.items():
        table[place] = count
    return table


def _triples(path: Path) -> Iterator[tuple[int, tuple[int, int, int]]]:
    for number, line in lines(path):
        words = line.split()
        if len(words) != 3 or not all(map(_is_int, words)):
            raise wrong(path, number, "a row is: layer expert count")
        layer, expert, count = map(int, words)
        if count >= 2**32:
            raise wrong(path, number, f"a count of {count}")
        yield number, (layer, expert, count)


def _is_int(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and len(word) < 18


def _binary(path: Path) -> NDArray[np.int64]:
    if gzipped(path):
        raise TraceError(f"{path}: is gzipped: gunzip it first")
    size = os.path.getsize(path)
    try:
        header = np.fromfile(path, "<u4", 3)
        layers, experts = (int(n) for n in header[1:]) if len(header) == 3 else (0, 0)
        _believable(path, layers, experts)
        if size != 12 + 4 * layers * experts:
            raise TraceError(
                f"{path}: {size} bytes are not those of {layers} layers of {experts} experts"
            )
        counts = np.fromfile(path, "<u4", layers * experts, offset=12)
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({problem.strerror})") from None
    return counts.astype(np.int64).reshape(layers, experts)


def _believable(path: Path, layers: int, experts: int) -> None:
    if not (0 < layers <= MOST_LAYERS and 0 < experts <= MOST_EXPERTS) or layers * experts > _MOST:
        raise TraceError(f"{path}: {layers} layers of {experts} experts: not believable")


# As a file of dipsim ------------------------------------------------------------------------------

_ARRAY = "expert.uses"


def import_uses(source: Path, out: Path) -> NDArray[np.int64]:
    """Write an expert history as an `.npz` with ``expert.uses``, which ``--static-from`` takes.

    Returns:
        int64[layers, experts].

    Raises:
        TraceError: a damaged history, or a path that cannot be written.
    """
    files.refuse_same(out, [source])
    if out.suffix != SUFFIX:
        raise TraceError(f"{out}: uses of experts are one file: give a name that ends in {SUFFIX}")
    counts = read_usage(source)
    try:
        with files.whole_file(out) as handle:
            pack(handle, {_ARRAY: counts})
    except OSError as problem:
        raise files.unwritable(out, problem, TraceError) from None
    return counts


def holds_uses(path: Path) -> bool:
    """Return whether a file is an expert history, or one that was imported."""
    if is_usage(Head(path)):
        return True
    try:
        return path.suffix == SUFFIX and os.path.isfile(path) and _ARRAY in open_npz(path)
    except TraceError:
        return False


def uses_for(option: str, path: Path, trace: Outline, experts: int) -> NDArray[np.int64]:
    """Return the uses in a file for the layers of a trace, int64[layers, experts].

    A history counts all layers of a model; where a trace has those with experts alone, they are
    found by their numbers in ``meta.layer_numbers``, or as the layers with any use.

    Raises:
        TraceError: not the layers or experts of the trace.
    """
    if path.suffix == SUFFIX:
        counts = open_npz(path)[_ARRAY].whole()
        good = counts.dtype == np.int64 and counts.ndim == 2 and counts.size and counts.min() >= 0
        if not good:
            raise TraceError(f"{path}: {_ARRAY} must be int64 [layers, experts], none below 0")
    else:
        counts = read_usage(path)
    rows = _rows_of(trace, counts)
    if rows is None or counts.shape[1] > experts:
        raise TraceError(
            f"{option} {path}: uses of {counts.shape[1]} experts in layers "
            f"{brief(np.flatnonzero(counts.any(axis=1)).tolist(), 60)} of {len(counts)}; "
            f"{trace.name} has {trace.recorded_layers} layers of {experts}: give those of the same "
            "model"
        )
    counts = counts[rows]
    padded = np.zeros((len(counts), experts), np.int64)
    padded[:, : counts.shape[1]] = counts
    return padded[trace.first_layer : trace.first_layer + trace.layers]


def _rows_of(trace: Outline, counts: NDArray[np.int64]) -> list[int] | None:
    """Return the rows of a history that are the layers of a trace; None where it cannot be told.

    Rows with uses must be among them, so that none of another model is taken.
    """
    used, layers = np.flatnonzero(counts.any(axis=1)).tolist(), trace.recorded_layers
    numbers = trace.meta.get("layer_numbers")
    if isinstance(numbers, list) and len(numbers) == layers:
        rows = [n for n in numbers if isinstance(n, int) and 0 <= n < len(counts)]
    elif len(used) == layers:
        rows = used
    else:
        rows = [*range(layers)] if len(counts) >= layers else []
    return rows if len(rows) == layers and used and set(used) <= set(rows) else None
