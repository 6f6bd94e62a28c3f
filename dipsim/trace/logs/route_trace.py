"""`route_trace v1` of BigMoeOnEdge: a phone's experts, with their bytes per layer.

A CSV with a preamble (experts and bytes per layer) and a row per token, layer and slot. Columns are
read by name: later versions append some. Prefill rows come layer by layer, decode rows token by
token; dense layers have no rows. A rejected guess is routed again at the same step. Weights may be
``nan``, which is unknown. A turn is a sequence.
"""

import math
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipsim.model import weight_format
from dipsim.trace.logs.contract import MOST_EXPERTS, MOST_LAYERS, Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import batches, id_array, lines, weight_array, whole, wrong

FIRST_LINE = "# route_trace v1"
TENSORS = 3
"""Tensors that an expert of a GGUF model lies in: gate, up and down, each read alone."""
_NEEDED = ("turn", "phase", "step", "layer", "expert")
_MOST_BYTES = 2**50


class _Preamble(NamedTuple):
    layers: int
    experts: int
    per_token: int
    model: str
    arch: str
    expert_bytes: dict[int, int]
    dense_bytes: dict[int, int]
    columns: list[str]


class _Slot(NamedTuple):
    """A row: one expert of a token in a layer."""

    number: int
    turn: int
    phase: int
    step: int
    layer: int
    slot: int | None
    expert: int
    weight: float


def _recognises(head: Head) -> bool:
    return re.match(r"# *route_trace", head.line) is not None


def _read(path: Path, ask: Ask) -> Log:
    numbered = lines(path)
    preamble = _preamble(path, numbered)
    stored_as = weight_format(preamble.model)
    return Log(
        _rows(path, numbered, preamble),
        experts=preamble.experts,
        meta={
            **({} if stored_as is None else {"weight_format": stored_as}),
            "source": f"route_trace v1 {path.name}: {preamble.model} ({preamble.arch})",
            "experts_per_token": preamble.per_token,
        },
        by_layer={"unit_bytes": {**preamble.expert_bytes}, "dense_bytes": {**preamble.dense_bytes}},
        tensors=TENSORS,
    )


def _preamble(path: Path, numbered: Iterator[tuple[int, str]]) -> _Preamble:
    number, first = next(numbered, (1, ""))
    if not first.startswith(FIRST_LINE):
        raise wrong(path, number, f"a route trace begins with {FIRST_LINE!r}")
    header: dict[str, str] = {}
    expert_bytes: dict[int, int] = {}
    dense_bytes: dict[int, int] = {}
    columns: list[str] = []
    for number, text in numbered:
        if not text.startswith("#"):
            columns = text.split(",")
            break
        pairs = dict(re.findall(r"(\w+)=(\S+)", text))
        if "layer" not in pairs:
            header |= pairs
            continue
        layer = _within(path, number, pairs["layer"], "layer", MOST_LAYERS - 1)
        if layer in expert_bytes:
            raise wrong(path, number, f"layer {layer} stands there twice")
        size, dense = (pairs.get(key, "0") for key in ("expert_bytes", "dense_bytes"))
        expert_bytes[layer] = _within(path, number, size, "expert_bytes", _MOST_BYTES)
        dense_bytes[layer] = _within(path, number, dense, "dense_bytes", _MOST_BYTES)
    if missing := [name for name in _NEEDED if name not in columns]:
        raise wrong(path, number, f"has no column {missing[0]}: it needs {', '.join(_NEEDED)}")
    if len(set(columns)) < len(columns):
        raise wrong(path, number, "a column stands there twice")
    layers = _within(path, number, header.get("n_layer", ""), "n_layer", MOST_LAYERS)
    experts = _within(path, number, header.get("n_expert", ""), "n_expert", MOST_EXPERTS)
    used = _within(path, number, header.get("n_expert_used", ""), "n_expert_used", experts)
    if min(layers, experts, used) == 0 or max(expert_bytes, default=0) >= layers:
        raise wrong(path, number, f"{layers} layers of {experts} experts, {used} used")
    model = Path(header.get("model", "unknown")).name[:80]
    arch = header.get("arch", "unknown")[:80]
    return _Preamble(layers, experts, used, model, arch, expert_bytes, dense_bytes, columns)


def _within(path: Path, number: int, text: str, what: str, most: int) -> int:
    value = whole(path, number, text, what)
    if value > most:
        raise wrong(path, number, f"{what} {value}: an integer from 0 to {most}")
    return value


def _slots(path: Path, numbered: Iterator[tuple[int, str]], preamble: _Preamble) -> Iterator[_Slot]:
    place = {name: i for i, name in enumerate(preamble.columns)}
    turn, phase, step, layer, expert = (place[name] for name in _NEEDED)
    slot, weight = place.get("slot"), place.get("weight")
    for number, text in numbered:
        fields = text.split(",")
        if len(fields) != len(place):
            raise wrong(path, number, f"{len(fields)} fields, there must be {len(place)}")
        yield _Slot(
            number,
            _within(path, number, fields[turn], "turn", 2**31 - 1),
            _within(path, number, fields[phase], "phase", 1),
            _within(path, number, fields[step], "step", 2**31 - 1),
            _within(path, number, fields[layer], "layer", preamble.layers - 1),
            None if slot is None else whole(path, number, fields[slot], "slot"),
            _within(path, number, fields[expert], "expert", preamble.experts - 1),
            math.nan if weight is None else _weight(path, number, fields[weight]),
        )


def _weight(path: Path, number: int, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.inf
    if weight < 0 or weight >= 1e30:
        raise wrong(path, number, f"weight {text[:40]!r}: a number >= 0, or nan for unknown")
    return weight


def _rows(path: Path, numbered: Iterator[tuple[int, str]], preamble: _Preamble) -> Iterator[Rows]:
    """Yield the cells, batched: the rows of one token in one layer."""

    def cells() -> Iterator[list[_Slot]]:
        for _, group in groupby(_slots(path, numbered, preamble), key=lambda row: row[1:5]):
            for cell in _cells(list(group)):
                if len(cell) != preamble.per_token:
                    what = f"{len(cell)} experts of step {cell[0].step} in layer {cell[0].layer}"
                    used = f"{preamble.per_token} are used: rows are missing"
                    raise wrong(path, cell[-1].number, f"{what}, {used}")
                yield cell

    def make(held: list[list[_Slot]]) -> Rows:
        first = [cell[0] for cell in held]
        numbers = [row.number for row in first]
        ids = id_array(path, [[row.expert for row in cell] for cell in held], numbers)
        weights = [[row.weight for row in cell] for cell in held]
        return Rows(
            np.array([row.step for row in first], np.int64),
            np.array([row.layer for row in first], np.int64),
            ids,
            weights=weight_array(path, weights, ids, numbers),
            phase=np.array([row.phase for row in first], np.uint8),
            sequence=np.array([row.turn for row in first], np.int64),
        )

    yield from batches(cells(), make)


def _cells(rows: list[_Slot]) -> Iterator[list[_Slot]]:
    """Cut rows of one token and layer where slots begin anew: a guess that was routed again."""
    start = 0
    for i in range(1, len(rows)):
        previous, slot = rows[i - 1].slot, rows[i].slot
        if slot is not None and previous is not None and slot <= previous:
            yield rows[start:i]
            start = i
    yield rows[start:]


ROUTE_TRACE = Format(
    "route_trace",
    "BigMoeOnEdge",
    "CSV with a preamble # route_trace v1",
    _recognises,
    _read,
)
