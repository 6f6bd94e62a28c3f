"""Budgets out of JSON: what DRAM holds, in a few parts for a bar, and line by line."""

from collections.abc import Mapping
from typing import Any

from dipsim.report.page.texts import number_of

_STATIC = {
    "attention": "attention",
    "norms": "norms",
    "lm_head": "head",
    "dense parts": "dense_parts",
    "scales": "scales",
    "predictors": "predictors",
}
_BUFFERS = {
    "KV read buffer": "kv_buffer",
    "states that wait": "aux",
    "staging": "staging",
    "runtime overhead": "runtime_overhead",
    "read-ahead buffer": "prefetch_buffer",
}
_LINES = {**_STATIC, "KV": "kv", **_BUFFERS, "cache": "cache"}
"""Key of each line, in the order of the bar."""
STREAMED = "streamed_static"
"""Key of the static weights that do not fit, and are read from flash for every token."""


def size_of(budget: Mapping[str, Any], key: str) -> float:
    """Return the bytes of a line; 0 where there is none."""
    return number_of(budget.get(key)) or 0.0


def lines_of(budget: Mapping[str, Any]) -> dict[str, float]:
    """Return the bytes of every line that takes some, streamed static weights among them."""
    sizes = {label: size_of(budget, key) for label, key in _LINES.items()}
    return {label: size for label, size in sizes.items() if size}


def parts_of(budget: Mapping[str, Any]) -> dict[str, float]:
    """Return the bytes of DRAM by what they hold, as far as they hold something."""
    static = sum(size_of(budget, key) for key in _STATIC.values())
    parts = {
        "static weights": max(0.0, static - size_of(budget, STREAMED)),
        "KV": size_of(budget, "kv"),
        "buffers": sum(size_of(budget, key) for key in _BUFFERS.values()),
        "cache": size_of(budget, "cache"),
    }
    return {label: size for label, size in parts.items() if size}
