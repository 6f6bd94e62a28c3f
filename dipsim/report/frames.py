"""Rows of a result, for a table of its tokens or of its layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dipsim.errors import DipsimError
from dipsim.result import Result


def records(result: Result, which: str) -> Mapping[str, Any] | Iterator[dict[str, Any]]:
    """Return columns of ``tokens`` or rows of ``layers``, see `Result.to_frame`.

    Raises:
        DipsimError: neither of them.
    """
    if which == "tokens":
        return _of_tokens(result)
    if which == "layers":
        return _of_layers(result)
    raise DipsimError(f"to_frame({which!r}): give 'tokens' or 'layers'")


def _of_tokens(result: Result) -> dict[str, Any]:
    columns, tokens = result.per_token, result.run.trace.rows
    rows = columns.pop("token")
    return {
        "token": rows + result.run.trace.first,
        "sequence": tokens.sequence[rows],
        "position": tokens.position[rows],
        **columns,
    }


def _of_layers(result: Result) -> Iterator[dict[str, Any]]:
    traffic, columns = result.traffic, result.per_layer
    for layer, i in np.ndindex(columns["hits"].shape):
        place = layer, i
        hits, accesses = int(columns["hits"][place]), int(columns["accesses"][place])
        yield {
            "layer": result.run.trace.first_layer + layer,
            "group": traffic.groups[i],
            "units": int(result.layer_units[place]),
            "unit_bytes": float(result.unit_bytes[place]),
            "capacity": None if traffic.capacity is None else int(traffic.capacity[place]),
            "accesses": accesses,
            "hits": hits,
            "hit_rate": hits / accesses if accesses else 0.0,
            "flash_bytes_per_token": float(columns["flash_bytes_per_token"][place]),
            "flash_ms_per_token": float(columns["flash_ms_per_token"][place]),
        }
