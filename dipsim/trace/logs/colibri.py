"""colibri's ROUTE_TRACE: lines ``<call> <row> <layer> <expert>:<gate> ...``.

The rows of one call are one batch. A call is that of one layer's experts, or of all layers; a
forward pass ends where the layers begin anew. A pass of several rows is a prompt's.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import batches, id_array, lines, weight_array, whole, wrong
from dipsim.trace.tokens import DECODE, PREFILL

_LINE = re.compile(r"(\d{1,15})\s+(\d{1,9})\s+(\d{1,9})((?:\s+\d{1,9}:\S{1,40})+)", re.ASCII)


class _Row(NamedTuple):
    number: int
    call: int
    row: int
    layer: int
    experts: list[int]
    gates: list[float]


def _recognises(head: Head) -> bool:
    return _LINE.fullmatch(head.line) is not None


def _read(path: Path, ask: Ask) -> Log:
    return Log(batches(_placed(path), lambda held: _rows(path, held)))


def _parsed(path: Path) -> Iterator[_Row]:
    for number, line in lines(path):
        match = _LINE.fullmatch(line)
        if match is None:
            raise wrong(path, number, "a row is: call row layer expert:gate ...")
        pairs = [pair.split(":") for pair in match[4].split()]
        try:
            gates = [float(gate) for _, gate in pairs]
        except ValueError:
            raise wrong(path, number, "a gate is a number") from None
        call, row, layer = (whole(path, number, match[i], "call") for i in (1, 2, 3))
        yield _Row(number, call, row, layer, [int(expert) for expert, _ in pairs], gates)


def _placed(path: Path) -> Iterator[tuple[int, int, int, _Row]]:
    """Yield the sequence, the token and the phase of every row, with the row.

    A forward pass is held until it ends, since the size of its batch decides what it is.
    """
    token = sequence = 0
    phase = PREFILL
    for rows in _passes(path):
        count = max(row.row for row in rows) + 1
        if count > 1 and phase == DECODE:  # another prompt
            sequence, token = sequence + 1, 0
        phase = PREFILL if count > 1 else DECODE
        for row in rows:
            yield sequence, token + row.row, phase, row
        token += count


def _passes(path: Path) -> Iterator[list[_Row]]:
    """Yield the rows of every forward pass."""
    held: list[_Row] = []
    calls_span_layers: bool | None = None
    for _, group in groupby(_parsed(path), key=lambda row: row.call):
        rows = list(group)
        layers = [row.layer for row in rows]
        if len(set(layers)) > 1:
            calls_span_layers = True
        if held and (calls_span_layers or layers[0] <= held[-1].layer):
            yield held
            held = []
        held += rows
    if held:
        yield held


def _rows(path: Path, held: list[tuple[int, int, int, _Row]]) -> Rows:
    numbers = [row.number for *_, row in held]
    ids = id_array(path, [row.experts for *_, row in held], numbers)
    return Rows(
        np.array([token for _, token, _, _ in held], np.int64),
        np.array([row.layer for *_, row in held], np.int64),
        ids,
        weights=weight_array(path, [row.gates for *_, row in held], ids, numbers),
        phase=np.array([phase for _, _, phase, _ in held], np.uint8),
        sequence=np.array([sequence for sequence, *_ in held], np.int64),
    )


COLIBRI = Format(
    "colibri",
    "colibri ROUTE_TRACE",
    "text: call row layer expert:gate ...",
    _recognises,
    _read,
)
