"""waste, warp: lines of JSON ``{"tok": n, "layers": [[ids], ...]}``, a token each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import (
    batches,
    field_of,
    id_array,
    json_rows,
    objects,
    whole,
    wrong,
)

_BATCH = 1024


def _recognises(head: Head) -> bool:
    return json_rows(head.text, "tok", "layers")


def _read(path: Path, ask: Ask) -> Log:
    notes: list[str] = []
    return Log(_rows(path, notes), notes=notes)


def _rows(path: Path, notes: list[str]) -> Iterator[Rows]:
    yield from batches(objects(path, notes), lambda held: _batch(path, held), _BATCH)


def _batch(path: Path, held: list[tuple[int, Mapping[str, Any]]]) -> Rows:
    numbers: list[int] = []
    tokens: list[int] = []
    layers: list[int] = []
    lists: list[Any] = []
    for number, row in held:
        token = whole(path, number, field_of(path, number, row, "tok"), "tok")
        of_layers = field_of(path, number, row, "layers")
        if not isinstance(of_layers, list) or not of_layers:
            raise wrong(path, number, "layers: a list of ids for every layer")
        count = len(of_layers)
        numbers += [number] * count
        tokens += [token] * count
        layers += range(count)
        lists += of_layers
    return Rows(np.array(tokens), np.array(layers), id_array(path, lists, numbers))


WASTE = Format("waste", "waste, warp", 'JSONL {"tok", "layers": [[ids], ...]}', _recognises, _read)
