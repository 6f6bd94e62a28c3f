"""lattice: lines of JSON ``{layer_idx, token_idx, selected_ids, gate_weights}``."""

from pathlib import Path

from dipsim.trace.logs.contract import Ask, Format, Head, Log
from dipsim.trace.logs.keyed import keyed_log
from dipsim.trace.logs.lines import json_rows


def _recognises(head: Head) -> bool:
    return json_rows(head.text, "layer_idx", "token_idx", "selected_ids")


def _read(path: Path, ask: Ask) -> Log:
    return keyed_log(path, "token_idx", "layer_idx", "selected_ids", weights="gate_weights")


LATTICE = Format(
    "lattice",
    "lattice",
    "JSONL {layer_idx, token_idx, selected_ids, gate_weights}",
    _recognises,
    _read,
)
