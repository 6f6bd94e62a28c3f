"""imp: a JSON list, bare or under ``trace``, ``entries`` or ``data``, perhaps with ``top_k``.

Its records are ``[layer, expert, ...]``, in the order of execution, or one flat stream of numbers
with a stride of k + 1. No record names a token: one ends where the layers begin anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError
from dipsim.trace.logs.contract import Ask, Format, Head, Ints, Log, Rows
from dipsim.trace.logs.contract import ask as asked
from dipsim.trace.logs.lines import BATCH, id_array, whole, whole_json

_KEYS = ("trace", "entries", "data")


def _recognises(head: Head) -> bool:
    text = "".join(head.text.split())
    if text.startswith("[[") and text[2:3].isdecimal():
        return True
    listed = any(f'"{key}":[' in text[:4096] for key in _KEYS)
    return (text.startswith("{") and listed and '"shape"' not in text) or (
        text.startswith("[") and text[1:2].isdecimal()
    )


def _read(path: Path, ask: Ask) -> Log:
    value = whole_json(path)
    k = ask.top_k
    if isinstance(value, dict):
        stated = value.get("top_k")
        k = k if stated is None else whole(path, None, stated, "top_k")
        value = next((value[key] for key in _KEYS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list) or not value:
        raise TraceError(f"{path}: holds no list of records [layer, expert, ...]")
    return Log(_rows(_records(path, value, k)))


def _records(path: Path, value: list[Any], k: int | None) -> Ints:
    """Return the records, int64[n, 1 + k]."""
    if isinstance(value[0], list):
        return id_array(path, value)
    if k is None:
        raise asked(path, "its numbers stand in one flat stream", "--top-k")
    if len(value) % (k + 1):
        raise TraceError(f"{path}: {len(value)} numbers are no records of a layer and {k} experts")
    return id_array(path, [value]).reshape(-1, k + 1)


def _rows(records: Ints) -> Iterator[Rows]:
    layer = records[:, 0]
    token = np.cumsum(np.append(False, np.diff(layer) <= 0))
    for start in range(0, len(records), BATCH):
        part = slice(start, start + BATCH)
        yield Rows(token[part], layer[part], records[part, 1:])


IMP = Format("imp", "imp", "JSON list of [layer, experts ...], or flat", _recognises, _read)
