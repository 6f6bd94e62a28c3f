"""route_sim: lines of JSON ``{t, layer, experts, phase}``."""

from pathlib import Path

from dipsim.trace.logs.contract import Ask, Format, Head, Log
from dipsim.trace.logs.keyed import keyed_log
from dipsim.trace.logs.lines import json_rows


def _recognises(head: Head) -> bool:
    return json_rows(head.text, "t", "layer", "experts")


def _read(path: Path, ask: Ask) -> Log:
    return keyed_log(path, "t", "layer", "experts", phase="phase")


ROUTE_SIM = Format("route_sim", "route_sim", "JSONL {t, layer, experts, phase}", _recognises, _read)
