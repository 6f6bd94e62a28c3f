"""Arrays of ids, int [tokens, layers, k] or [layers, tokens, k], as serving engines return them.

vLLM returns the experts of a prompt apart from those of what was generated; the last token of a
text has no row, as it was never an input.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.contract import ask as asked
from dipsim.trace.npz import Array, Member, evenly
from dipsim.trace.signal import SIGNALS
from dipsim.trace.sources import SUFFIXES, open_arrays
from dipsim.trace.tokens import DECODE, PREFILL
from dipsim.trace.vectors import VECTORS

_FEW_LAYERS = 200
"""Layers of a log that are believed where there are fewer tokens."""
_BLOCK_BYTES = 8 * 2**20
_VALUES = {*SIGNALS, *VECTORS, "layer_mode", "kept"} - {"expert"}
"""Arrays of a trace by name, which hold no ids."""


def _recognises(head: Head) -> bool:
    if head.path.suffix not in SUFFIXES or head.is_folder:
        return False
    try:
        return bool(_of_ids(open_arrays(head.path), None))
    except TraceError:
        return False


def _of_ids(arrays: Mapping[str, Member], name: str | None) -> dict[str, Member]:
    """Return the arrays of ids of a file: integers with three axes, the last one short."""
    if "meta" in arrays or any(name.endswith(".indptr") for name in arrays):
        return {}  # a trace
    return {
        key: member
        for key, member in arrays.items()
        if name == key
        or (
            (name is None and key not in _VALUES)
            and member.dtype.kind in "iu"
            and len(member.shape) == 3
            and member.shape[2] <= 64
        )
    }


def _read(path: Path, ask: Ask) -> Log:
    arrays = open_arrays(path)
    found = _of_ids(arrays, ask.names)
    if not found:
        what = "no ids of experts" if ask.names is None else f"no ids {brief(ask.names)!r}"
        listed = brief(", ".join(f"{k} {m.dtype}{list(m.shape)}" for k, m in arrays.items()), 200)
        raise TraceError(
            f"{path}: holds {what} (has {listed}): integers [tokens, layers, k] are read"
        )
    parts = sorted(found.items(), key=lambda part: "prompt" not in part[0])
    prompts = [name for name, _ in parts if "prompt" in name]
    if len(parts) > 1 and not (len(parts) == 2 and len(prompts) == 1):
        raise asked(path, f"holds {brief(', '.join(found), 200)}", "the one by --map expert=NAME")
    log = Log(_rows(path, parts, ask))
    tokens, layers = parts[0][1].shape[:2]
    if layers > tokens and ask.layers is None and not ask.layers_first:
        log.notes.append(f"ids {list(parts[0][1].shape)} are read as [tokens, layers, k]")
    return log


def _rows(path: Path, parts: list[tuple[str, Member]], ask: Ask) -> Iterator[Rows]:
    token = 0
    for name, member in parts:
        phase = PREFILL if "prompt" in name else DECODE
        first = layers_first(path, member.shape, ask)
        row_bytes = int(np.prod(member.shape[1:], dtype=object)) * 8
        block = max(1, _BLOCK_BYTES // max(row_bytes, 1))
        if first:
            yield from _by_layer(member, token, phase)
            token += member.shape[1]
            continue
        for ids in member.rows(0, evenly(member.shape[0], block)):
            yield rows_of(ids, token, phase)
            token += len(ids)


def rows_of(ids: Array, token: int, phase: int, sequence: int = 0) -> Rows:
    """Return the rows of int[tokens, layers, k], token after token.

    Args:
        token: number of the first one.
    """
    tokens, layers, k = ids.shape
    return Rows(
        np.repeat(np.arange(token, token + tokens), layers),
        np.tile(np.arange(layers), tokens),
        wide(ids).reshape(-1, k),
        phase=phase,
        sequence=np.full(tokens * layers, sequence),
    )


def wide(ids: Array) -> Array:
    """Return ids as int64; what is too large for it becomes the largest."""
    if ids.dtype == np.uint64:
        return np.minimum(ids, 2**62).astype(np.int64)
    return ids.astype(np.int64)


def _by_layer(member: Member, token: int, phase: int) -> Iterator[Rows]:
    for layer, ids in enumerate(member.rows(0, evenly(member.shape[0], 1))):
        tokens = np.arange(token, token + ids.shape[1])
        yield Rows(tokens, np.full(len(tokens), layer), wide(ids[0]), phase=phase)


def layers_first(path: Path, shape: tuple[int, ...], ask: Ask) -> bool:
    """Return whether the first axis of three is that of the layers.

    Raises:
        TraceError: it cannot be told, and the user did not say.
    """
    tokens, layers = (shape[1], shape[0]) if ask.layers_first else shape[:2]
    if ask.layers not in (None, layers):
        if ask.layers != tokens or ask.layers_first:
            raise TraceError(
                f"{path}: its ids have shape {list(shape)}, and --layers or the model says "
                f"{ask.layers} layers with experts"
            )
        return True
    if ask.layers is None and not ask.layers_first and layers > _FEW_LAYERS >= tokens:
        raise asked(
            path,
            f"its ids have shape {list(shape)}: [tokens, layers, k], or [layers, tokens, k]?",
            f"--layers-first, or --layers {layers}",
        )
    return ask.layers_first


ARRAYS = Format(
    "arrays",
    "vLLM, and whatever saves arrays",
    ".npy, .npz, .safetensors: int [tokens, layers, k]",
    _recognises,
    _read,
)
