"""Kinds of layers and their pattern, out of the keys of every layer in order."""

from collections import Counter
from typing import Any

Keys = tuple[tuple[str, Any], ...]
_INHERITED = ("heads", "kv_heads", "head_dim", "value_dim")
"""Keys that mean nothing to a layer that does not have them."""


def stacked(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of the main kind of layers, the other kinds, and the pattern.

    The main kind is the most frequent of those with experts, else of those with an MLP, else of
    all; the first of several.
    """
    keys = [tuple(sorted(_stated(layer).items())) for layer in layers]
    counts = Counter(keys)
    main = max(counts, key=lambda kind: (_rank(dict(kind)), counts[kind]))
    names = _names(list(counts), main)
    geometry = dict(main)
    for name in _INHERITED:  # of heads that only other kinds have
        found = [dict(kind)[name] for kind in counts if name in dict(kind)]
        if name not in geometry and found and "heads" not in dict(main):
            geometry[name] = found[0]
    if len(names) > 1:
        geometry["kinds"] = {
            names[kind]: _differences(geometry, dict(kind)) for kind in counts if kind != main
        }
        geometry["pattern"] = _shortest([names[kind] for kind in keys])
    return geometry


def _stated(layer: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that differ from what a layer has when they are absent."""
    usual = {"extra_parameters": 0, "shared_intermediate": 0, "gated": True, "attention": "full"}
    usual["norms"] = (layer.get("attention") != "none") + (layer["intermediate"] > 0)
    return {
        key: value
        for key, value in layer.items()
        if value is not None and usual.get(key, object()) != value
    }


def _rank(kind: dict[str, Any]) -> tuple[bool, bool]:
    return "experts" in kind, kind["intermediate"] > 0


def _differences(main: dict[str, Any], kind: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a kind that differ from the main one's; None for those it lacks."""
    found = {}
    for key in sorted({*main, *kind}):
        lacks = key not in kind and key in _INHERITED and "heads" not in kind
        if not lacks and main.get(key) != kind.get(key):
            found[key] = kind.get(key)
    if found.get("experts", 0) is None:
        found.pop("experts_per_token", None)
        found.pop("shared_intermediate", None)
    return found


def _mixer(kind: dict[str, Any]) -> str:
    named = {"window": "local", "none": "unmixed", "full": "global"}
    mixer = kind.get("attention", "full")
    return "hybrid" if mixer != "state" and "state_values" in kind else named.get(mixer, mixer)


def _mlp(kind: dict[str, Any]) -> str:
    if "experts" in kind:
        return "experts"
    return "dense" if kind["intermediate"] else "bare"


def _names(kinds: list[Keys], main: Keys) -> dict[Keys, str]:
    """Return a name for every kind, by what it differs in from the main one."""
    named: dict[Keys, str] = {main: "main"}
    own = dict(main)
    for each in kinds:
        kind = dict(each)
        parts = [of(kind) for of in (_mlp, _mixer) if of(kind) != of(own)]
        name = base = "-".join(parts) or "other"
        number = 2
        while name in named.values():
            name, number = f"{base}-{number}", number + 1
        named.setdefault(each, name)
    return named


def _shortest(names: list[str]) -> list[str]:
    """Return the shortest list that repeats to the given one."""
    for period in range(1, min(len(names), 64)):
        if all(name == names[i % period] for i, name in enumerate(names)):
            return names[:period]
    return names
