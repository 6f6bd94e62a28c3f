"""glm52-routing-trace-export/v2: one JSON object, mostly gzipped, with the rows of every layer.

``executed_topk`` holds the ids in the order of the router, ``executed_scores`` the scores by which
they were selected; ``conditional.prompts`` says which rows are of which prompt, and which of them
are prefill.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import id_array, weight_array, whole, whole_json
from dipsim.trace.tokens import DECODE, PREFILL

_SCHEMA = "glm52-routing-trace-export/"


def _recognises(head: Head) -> bool:
    return _SCHEMA in head.text[:4096] or ('"executed_topk"' in head.text and head.line[:1] == "{")


def _read(path: Path, ask: Ask) -> Log:
    trace = whole_json(path)
    layers = trace.get("layers") if isinstance(trace, dict) else None
    if not isinstance(layers, dict) or not layers or not all(map(str.isdecimal, layers)):
        raise TraceError(f"{path}: holds no layers by number, each with executed_topk")
    parts = []
    for name in sorted(layers, key=int):
        layer = layers[name]
        lists = layer.get("executed_topk") if isinstance(layer, dict) else None
        if not isinstance(lists, list) or not lists:
            raise TraceError(f"{path}: layer {brief(name, 20)} has no executed_topk")
        ids = id_array(path, lists)
        scores = layer.get("executed_scores")
        parts.append((int(name), ids, None if scores is None else weight_array(path, scores, ids)))
    counts = {len(ids) for _, ids, _ in parts}
    if len(counts) > 1:
        raise TraceError(f"{path}: layers have {sorted(counts)} rows: not of the same tokens")
    phase, sequence = _marks(path, trace, counts.pop())
    routing = trace.get("routing")
    experts = routing.get("n_expert_per_layer") if isinstance(routing, dict) else None
    log = Log(_rows(parts, phase, sequence))
    if experts is not None:
        log.experts = whole(path, None, experts, "n_expert_per_layer")
    return log


def _rows(
    parts: list[Any], phase: NDArray[np.uint8], sequence: NDArray[np.int64]
) -> Iterator[Rows]:
    token = np.arange(len(phase))
    for layer, ids, scores in parts:
        yield Rows(token, np.full(len(token), layer), ids, scores, phase=phase, sequence=sequence)


def _marks(
    path: Path, trace: Mapping[str, Any], rows: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return phase and sequence of every row, by the ranges of the prompts."""
    phase, sequence = np.full(rows, DECODE, np.uint8), np.zeros(rows, np.int64)
    conditional = trace.get("conditional")
    prompts = conditional.get("prompts", []) if isinstance(conditional, dict) else []
    if not isinstance(prompts, list) or not all(isinstance(prompt, dict) for prompt in prompts):
        raise TraceError(f"{path}: conditional.prompts: a list of objects")
    for i, prompt in enumerate(prompts):
        start, end = (whole(path, None, prompt.get(key), key) for key in ("start_row", "end_row"))
        prefill = whole(path, None, prompt.get("prefill_rows", 0), "prefill_rows")
        if not start + prefill <= end <= rows:
            raise TraceError(f"{path}: prompt {i}: rows {start} to {end} of {rows}")
        sequence[start:end] = i
        phase[start : start + prefill] = PREFILL
    return phase, sequence


GLM_EXPORT = Format(
    "glm_export",
    "glm52-routing-trace-export/v2",
    "JSON, gzipped: layers.<n>.executed_topk, .executed_scores",
    _recognises,
    _read,
)
