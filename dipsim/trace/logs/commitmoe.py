"""commitmoe: safetensors with a row for every prompt, decoded token and layer.

A file has ``top_indices`` [rows, k], ``prompt_idx``, ``tok`` and ``layer`` [rows], and perhaps
``logits`` [rows, experts]. A data set has the logits in files of their own, ``logits/layer=NN``
beside ``labels``; of a folder all files with ``top_indices`` are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError
from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.npz import Member, evenly
from dipsim.trace.sources import open_arrays

_IDS, _MARKS, _LOGITS = "top_indices", ("prompt_idx", "tok", "layer"), "logits"
_SUFFIX = ".safetensors"
_BLOCK = 2**15


def _recognises(head: Head) -> bool:
    return any(_holds_ids(path) for path in _files(head)[:1])


def _files(head: Head) -> list[Path]:
    if head.is_folder:
        inner = head.path / "labels" if "labels" in head.names else head.path
        return [inner / name for name in Head(inner).names if name.endswith(_SUFFIX)]
    return [head.path] if head.path.suffix == _SUFFIX else []


def _holds_ids(path: Path) -> bool:
    try:
        return {_IDS, *_MARKS} <= set(open_arrays(path))
    except TraceError:
        return False


def _read(path: Path, ask: Ask) -> Log:
    files = _files(Head(path))
    if not files:
        raise TraceError(f"{path}: holds no {_SUFFIX} file with {_IDS}")
    log = Log(iter(()))
    log.rows = _rows(files, log)
    return log


def _rows(files: list[Path], log: Log) -> Iterator[Rows]:
    for file in files:
        arrays = open_arrays(file)
        count = _checked(file, arrays)
        names = [_IDS, *_MARKS, *([_LOGITS] if _LOGITS in arrays else [])]
        if _LOGITS in arrays:
            log.experts = arrays[_LOGITS].shape[1]
        streams = [arrays[name].rows(0, evenly(count, _BLOCK)) for name in names]
        for ids, prompt, token, layer, *logits in zip(*streams, strict=True):
            yield _chunk(file, ids, prompt, token, layer, logits[0] if logits else None)


def _chunk(file: Path, ids: Any, prompt: Any, token: Any, layer: Any, logits: Any) -> Rows:
    wide = ids.astype(np.int64)
    weights = None
    if logits is not None:
        if wide.max(initial=0) >= logits.shape[1] or wide.min(initial=0) < 0:
            raise TraceError(f"{file}: an expert beyond its {logits.shape[1]} logits")
        weights = np.take_along_axis(logits.astype(np.float32), wide, axis=1)
    return Rows(
        token.astype(np.int64),
        layer.astype(np.int64),
        wide,
        weights=weights,
        sequence=prompt.astype(np.int64),
    )


def _checked(file: Path, arrays: Mapping[str, Member]) -> int:
    """Return the rows of a file, on which its arrays agree.

    Raises:
        TraceError: one is missing, of another length, or holds no integers.
    """
    for name in (_IDS, *_MARKS):
        if name not in arrays:
            raise TraceError(f"{file}: has no {name}")
        axes = 2 if name == _IDS else 1
        if arrays[name].dtype.kind not in "iu" or len(arrays[name].shape) != axes:
            raise TraceError(f"{file}: {name} must be integers with {axes} axes")
    if _LOGITS in arrays and len(arrays[_LOGITS].shape) != 2:
        raise TraceError(f"{file}: {_LOGITS} must be [rows, experts]")
    counts = {member.shape[0] for key, member in arrays.items() if key in (_IDS, *_MARKS, _LOGITS)}
    if len(counts) > 1:
        raise TraceError(f"{file}: its arrays have {sorted(counts)} rows")
    return counts.pop()


COMMITMOE = Format(
    "commitmoe",
    "commitmoe",
    "safetensors: top_indices, prompt_idx, tok, layer",
    _recognises,
    _read,
)
