"""One spelling for all that mean the same, so that a run has one key however it is written."""

import re
from collections.abc import Mapping
from typing import Any

from dipsim.units import BYTES, parse_share

_MEANT = {"batch": 1, "depth": 0, "masking": "gamma", "selection": "top-k", "kv_recompute": "none"}
"""Values that options have which are not given."""
_SIZES = ("dram", "cache", "kv_dram", "kv_budget")
"""Options whose texts are sizes, or shares."""
_NAMES = ("static_from", "warm_from", "order_from")
"""Options whose texts are names."""
_DRAFTS = {"cost": 0.0, "seed": 0.0}
"""Parameters of drafts that do not say otherwise."""


def alike(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of settings, equal for those that are spelt otherwise alone."""
    return {name: _spelt(name, value) for name, value in settings.items()}


def _spelt(name: str, value: Any) -> Any:
    value = _MEANT.get(name) if value is None else value
    if not isinstance(value, str) or name in _NAMES or ".py:" in value:
        return value
    if name in _SIZES and (size := _size(value)) is not None:
        return size
    parts = [part.strip() for part in re.split("[:,]", value)]
    pairs = {key: text for key, equals, text in (part.partition("=") for part in parts) if equals}
    if len(pairs) + sum("=" not in part for part in parts) < len(parts):
        return value  # a key is there twice
    given = {key.strip(): _number(text) for key, text in pairs.items()}
    if name == "speculate":
        given = {**_DRAFTS, **given}
    words = [_number(part) for part in parts if "=" not in part]
    return [words, given] if given else words


def _size(text: str) -> tuple[str, float] | None:
    """Return a share or bytes as a number; None for another text, or one that will be refused."""
    try:
        share = parse_share(text)
        return ("bytes", BYTES.parse(text)) if share is None else ("share", share)
    except ValueError:
        return None


def _number(text: str) -> float | str:
    """Return the number that a text is, else the text without the spaces around it."""
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        return text
