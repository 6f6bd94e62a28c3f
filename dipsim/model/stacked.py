"""Layers as a file lists them, one by one, put into kinds and a pattern."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dipsim.model.stack import MAIN

_LONGEST = 64
"""Longest pattern that is looked for: a search of all lengths takes the square of the layers."""


def in_kinds(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the geometry of layers in the form `load_model` takes: the keys of the main kind, the
    others as ``kinds`` and ``pattern``.

    The main kind is the most frequent of those with experts, else of those with an MLP.

    Args:
        layers: the keys of each layer; a key that is missing, or None, has its default.
    """
    plain = [{key: value for key, value in each.items() if value is not None} for each in layers]
    names = [repr(sorted(each.items(), key=lambda item: item[0])) for each in plain]
    of = dict(zip(names, plain, strict=True))
    count = Counter(names)
    best = max(count, key=lambda name: (*_rank(of[name]), count[name]))
    main = of[best]
    kinds: dict[str, dict[str, Any]] = {}
    called = {best: MAIN}
    for name in count:
        if name == best:
            continue
        keys = sorted(set(of[name]) | set(main))
        label = _label(of[name], main)
        same = sum(other == label or other.startswith(f"{label}-") for other in kinds)
        called[name] = label if not same else f"{label}-{same + 1}"
        kinds[called[name]] = {
            key: of[name].get(key) for key in keys if of[name].get(key) != main.get(key)
        }
    geometry: dict[str, Any] = {"layers": len(layers), **main}
    if kinds:
        geometry |= {"kinds": kinds, "pattern": _shortest([called[name] for name in names])}
    return geometry


def _rank(layer: Mapping[str, Any]) -> tuple[bool, bool]:
    return "experts" in layer, bool(layer["intermediate"])


def _label(layer: Mapping[str, Any], main: Mapping[str, Any]) -> str:
    """Return a name for a kind of layer: what it is, and the main kind is not."""
    words = []
    if "experts" in main and "experts" not in layer and layer["intermediate"]:
        words.append("dense")
    if _mixer(layer) != _mixer(main):
        words.append({"none": "mlp"}.get(_mixer(layer), _mixer(layer)))
    elif not layer["intermediate"] and main["intermediate"]:
        words.append("mixer")
    if layer.get("kv_values") == 0 != main.get("kv_values"):
        words.append("shared-kv")
    return "-".join(words) or "other"


def _mixer(layer: Mapping[str, Any]) -> str:
    return str(layer.get("attention") or ("window" if "window" in layer else "full"))


def _shortest(names: list[str]) -> list[str]:
    """Return the shortest list that repeats to the names."""
    for length in range(1, min(len(names), _LONGEST)):
        if all(name == names[i % length] for i, name in enumerate(names)):
            return names[:length]
    return names
