"""Megatron's RouterTracer: lines of JSON, a record per step, block, layer and rank.

A record holds the experts of all tokens of a batch, ``top_indices``. The router's logits of all
experts may lie in ``logits_rank<r>.bin`` beside it, as bfloat16; those of the experts used become
the weights. Ranks hold different tokens of one step. Layers of ``mtp`` blocks follow the decoder's.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.contract import MOST_LAYERS, Ask, Format, Head, Log, Rows
from dipsim.trace.logs.keyed import PHASES
from dipsim.trace.logs.lines import field_of, id_array, json_rows, objects, whole, wrong
from dipsim.trace.tokens import DECODE, PREFILL

_MOST_TOKENS = 2**20
_MTP = MOST_LAYERS // 2
"""Number of the first layer of an ``mtp`` block, behind all of the decoder's."""


def _recognises(head: Head) -> bool:
    return json_rows(head.text, "step", "layer", "top_indices")


def _read(path: Path, ask: Ask) -> Log:
    log = Log(iter(()))
    log.rows = _rows(path, log)
    return log


def _rows(path: Path, log: Log) -> Iterator[Rows]:
    """Yield the tokens of each record; a step's ranks are numbered one after the other."""
    begins: dict[tuple[int, int], int] = {}
    next_token = 0
    for number, record in objects(path, log.notes):
        step, layer = (whole(path, number, record.get(key), key) for key in ("step", "layer"))
        rank = whole(path, number, record.get("rank", 0), "rank")
        if record.get("block") == "mtp":
            layer += _MTP + whole(path, number, record.get("mtp_idx", 0), "mtp_idx")
        lists = field_of(path, number, record, "top_indices")
        if not isinstance(lists, list) or not 0 < len(lists) <= _MOST_TOKENS:
            raise wrong(path, number, f"top_indices: 1 to {_MOST_TOKENS} lists of experts")
        count = record.get("num_tokens", len(lists))
        if count != len(lists):
            raise wrong(path, number, f"num_tokens {brief(count, 20)} and {len(lists)} lists")
        ids = id_array(path, lists, [number] * len(lists))
        if (step, rank) not in begins:
            if len(begins) > 2**16:  # steps far behind are done
                begins = {key: begin for key, begin in begins.items() if key[0] >= step - 1}
            begins[step, rank] = next_token
            next_token += len(lists)
        token = begins[step, rank] + np.arange(len(lists))
        logits = _logits(path, number, record, rank, len(lists))
        if logits is not None:
            log.experts = logits.shape[1]
        yield Rows(
            token,
            np.full(len(lists), layer),
            ids,
            weights=None if logits is None else _of_experts(logits, ids),
            phase=_phase(record, len(lists)),
        )


def _phase(record: Mapping[str, Any], tokens: int) -> int:
    stage = str(record.get("stage", "")).lower()
    if stage in PHASES:
        return PHASES[stage]
    return PREFILL if tokens > 1 else DECODE


def _logits(
    path: Path, number: int, record: Mapping[str, Any], rank: int, tokens: int
) -> NDArray[np.float32] | None:
    """Return the logits of a record, float32[tokens, experts]; None where it has none."""
    if "logit_offset" not in record:
        return None
    offset, size = (whole(path, number, record.get(k), k) for k in ("logit_offset", "logit_bytes"))
    shape: Any = record.get("logit_shape")
    good = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not good or shape[0] != tokens or not 0 < shape[1] < 2**16 or size != 2 * tokens * shape[1]:
        raise wrong(path, number, f"logit_shape {brief(shape, 40)} and {size} logit_bytes disagree")
    beside = path.with_name(f"logits_rank{rank}.bin")
    try:
        if not os.path.isfile(beside) or os.path.getsize(beside) < offset + size:
            raise TraceError(f"{beside}: missing or cut short: {path.name} reads logits from it")
        raw = np.fromfile(beside, np.uint16, tokens * shape[1], offset=offset)
    except OSError as problem:
        raise TraceError(f"{beside}: cannot be read ({problem.strerror})") from None
    widened = (raw.astype(np.uint32) << 16).view(np.float32)
    return widened.reshape(shape)


def _of_experts(logits: NDArray[np.float32], ids: Any) -> NDArray[np.float32]:
    """Return the logits of the experts used; unknown ones of ids beyond them, which are refused."""
    if ids.max() >= logits.shape[1]:
        return np.full(ids.shape, np.nan, np.float32)
    return np.take_along_axis(logits, np.maximum(ids, 0), axis=1)


MEGATRON = Format(
    "megatron",
    "Megatron RouterTracer",
    "JSONL: step, layer, rank, top_indices; logits beside it",
    _recognises,
    _read,
)
