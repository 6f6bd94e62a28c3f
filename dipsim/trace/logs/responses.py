"""Responses of serving engines: JSON with base64 of the ids, [tokens, layers, k].

vLLM packs a `.npy` file, SGLang plain int32 without a shape, others ``{data, shape}`` with a type
or a start. A response is a sequence; of several in a file each has a line, or is in a list.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.arrays import layers_first, rows_of
from dipsim.trace.logs.contract import MOST_PER_TOKEN, Ask, Format, Head, Log, Rows
from dipsim.trace.logs.contract import ask as asked
from dipsim.trace.logs.lines import lines, parsed, whole_json, wrong
from dipsim.trace.npz import Array, read_npy
from dipsim.trace.tokens import DECODE, PREFILL

_IDS, _PROMPT = ("routed_experts", "experts"), "prompt_routed_experts"
_DEEPEST = 8
_MAGIC = b"\x93NUMPY"
_BY_SIZE = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


def _recognises(head: Head) -> bool:
    text = head.text.lstrip()
    if not text.startswith(("{", "[")):
        return False
    packed = '"data"' in text and '"shape"' in text
    return any(f'"{key}"' in text for key in (_IDS[0], _PROMPT)) or packed


def _read(path: Path, ask: Ask) -> Log:
    log = Log(iter(()))
    log.rows = _rows(path, ask, log)
    return log


def _rows(path: Path, ask: Ask, log: Log) -> Iterator[Rows]:
    sequence = 0
    for number, response in _responses(path):
        for found in _holders(response, 0):
            yield from _sequence(path, number, found, response, ask, log, sequence)
            sequence += 1
    if not sequence:
        raise TraceError(f"{path}: holds no {_IDS[0]}")


def _responses(path: Path) -> Iterator[tuple[int | None, Any]]:
    """Yield what a file holds: one value of JSON, or one a line."""
    numbered = lines(path)
    number, first = next(numbered, (1, ""))
    try:
        value = parsed(path, number, first)
    except TraceError:
        yield None, whole_json(path)
        return
    yield number, value
    for number, text in numbered:
        yield number, parsed(path, number, text)


def _holders(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that hold ids, wherever they lie in a response."""
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        if any(value.get(key) is not None for key in _IDS) or {"data", "shape"} <= set(value):
            yield value
            return
        for inner in value.values():
            yield from _holders(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _holders(inner, depth + 1)


def _sequence(
    path: Path,
    number: int | None,
    holder: Mapping[str, Any],
    response: Any,
    ask: Ask,
    log: Log,
    sequence: int,
) -> Iterator[Rows]:
    """Yield the rows of one response: its prompt, where it is told apart, and the rest."""
    packed = next((holder[key] for key in _IDS if holder.get(key) is not None), holder)
    ids = _unpacked(path, number, packed, holder, ask)
    prompt = _looked_up(response, holder, _PROMPT)
    start = _start(path, number, packed, holder)
    if prompt is not None:
        before = _unpacked(path, number, prompt, holder, ask)
        yield rows_of(before, 0, PREFILL, sequence)
        yield rows_of(ids, len(before), DECODE, sequence)
        return
    if start:
        log.notes.append(f"positions 0 to {start - 1} have no rows: their prefix was cached")
    tokens = _looked_up(response, holder, "prompt_tokens")
    before_decode = max(0, tokens - start) if type(tokens) is int else 0
    if before_decode:
        yield rows_of(ids[:before_decode], start, PREFILL, sequence)
    if len(ids) > before_decode:
        yield rows_of(ids[before_decode:], start + before_decode, DECODE, sequence)


def _looked_up(response: Any, holder: Mapping[str, Any], key: str) -> Any:
    """Return an entry of the holder, or else of the response or its usage."""
    for place in (holder, response, *_parts(response)):
        if isinstance(place, dict) and place.get(key) is not None:
            return place[key]
    return None


def _parts(response: Any) -> tuple[Any, ...]:
    if not isinstance(response, dict):
        return ()
    return response.get("usage"), response.get("meta_info")


def _start(path: Path, number: int | None, packed: Any, holder: Mapping[str, Any]) -> int:
    own = packed.get("start") if isinstance(packed, dict) else None
    start = own if own is not None else holder.get("routed_experts_start_len", 0)
    if type(start) is not int or not 0 <= start < 2**31:
        raise wrong(path, number, f"start {brief(repr(start), 40)}: a position from 0 on")
    return start


def _unpacked(
    path: Path, number: int | None, packed: Any, holder: Mapping[str, Any], ask: Ask
) -> Array:
    """Return ids as int[tokens, layers, k]."""
    ids = _ids(path, number, packed, holder, ask)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or not 0 < ids.shape[2] <= MOST_PER_TOKEN:
        raise wrong(path, number, f"ids {ids.dtype}{list(ids.shape)}: ints [tokens, layers, k]")
    return ids.swapaxes(0, 1) if layers_first(path, ids.shape, ask) else ids


def _ids(path: Path, number: int | None, packed: Any, holder: Mapping[str, Any], ask: Ask) -> Array:
    if isinstance(packed, list):
        try:
            return np.array(packed)
        except ValueError:
            raise wrong(path, number, "ids are lists of unequal lengths") from None
    shape: Any = None
    kind: Any = None
    if isinstance(packed, dict):
        shape, kind, packed = packed.get("shape"), packed.get("dtype"), packed.get("data")
    shape = holder.get("shape") if shape is None else shape
    if isinstance(packed, list):
        return _shaped(path, number, np.array(packed).reshape(-1), shape, ask)
    if not isinstance(packed, str):
        raise wrong(path, number, f"ids are {brief(repr(packed), 40)}: base64 is read")
    try:
        data = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise wrong(path, number, "ids are no base64") from None
    if data[: len(_MAGIC)] == _MAGIC:
        where = path if number is None else f"{path}: line {number}"
        return read_npy(data, f"{where}: ids")
    return _shaped(path, number, _flat(path, number, data, shape, kind), shape, ask)


def _flat(path: Path, number: int | None, data: bytes, shape: Any, kind: Any) -> Array:
    """Return the integers in some bytes: of the type that is named, or that the shape tells."""
    if kind is not None:
        name = str(kind).rpartition(".")[2]
        if name not in ("uint8", "int8", "int16", "uint16", "int32", "int64"):
            raise wrong(path, number, f"ids of the type {brief(kind, 40)}: integers are read")
        dtype = np.dtype(name)
    else:
        count = _count(shape)
        size = len(data) // count if count and len(data) % count == 0 else 4
        dtype = np.dtype(_BY_SIZE.get(size, np.int32))
    if len(data) % dtype.itemsize:
        raise wrong(path, number, f"{len(data)} bytes are no {dtype} ids")
    return np.frombuffer(data, dtype)


def _count(shape: Any) -> int:
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        return 0
    return int(np.prod(shape, dtype=object))


def _shaped(path: Path, number: int | None, flat: Array, shape: Any, ask: Ask) -> Array:
    if shape is not None:
        if _count(shape) != flat.size:
            raise wrong(path, number, f"shape {brief(shape, 40)} and {flat.size} ids differ")
        return flat.reshape(shape)
    if ask.layers is None or ask.top_k is None:
        raise asked(
            path,
            f"its {flat.size} ids have no shape",
            "--layers and --top-k, or the --model it is from",
        )
    if flat.size % (ask.layers * ask.top_k):
        raise wrong(
            path, number, f"{flat.size} ids are no rows of {ask.layers} layers of {ask.top_k}"
        )
    return flat.reshape(-1, ask.layers, ask.top_k)


RESPONSES = Format(
    "responses",
    "vLLM, SGLang, LightLLM, verifiers, tunix",
    "JSON, JSONL: base64 of ids, {data, shape}",
    _recognises,
    _read,
)
