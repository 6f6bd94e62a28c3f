"""MER: lines of JSON ``{token, layer, experts, cache_hit, predicted}``.

``cache_hit`` says what their cache held, prefetched experts included, and is left out.
"""

from pathlib import Path

from dipsim.trace.logs.contract import Ask, Format, Head, Log
from dipsim.trace.logs.keyed import keyed_log
from dipsim.trace.logs.lines import json_rows


def _recognises(head: Head) -> bool:
    return json_rows(head.text, "token", "layer", "experts")


def _read(path: Path, ask: Ask) -> Log:
    return keyed_log(path, "token", "layer", "experts", guesses="predicted", phase="phase")


MER = Format(
    "mer", "MER", "JSONL {token, layer, experts, cache_hit, predicted}", _recognises, _read
)
