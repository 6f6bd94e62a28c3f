"""Layers that have fewer units than others (``meta.signals.<signal>.layer_units``).

Laws: units that no layer has change no figure; a layer without units changes no count; and layers
of different numbers of units do what each does alone, in a trace of its own width.
"""

from typing import Any

import numpy as np
import pytest

from dipsim import simulate
from dipsim.result import Result

TOKENS, WIDTHS, PADDED = 24, (70, 20, 0, 130), 200
EXPERTS, PADDED_EXPERTS = (8, 0, 8, 4), 70
CALIBRATED = {"calibrate_tokens": "0:6"}
METHODS: dict[str, dict[str, Any]] = {
    "recorded": {"method": "recorded"},
    "glu": {"method": "glu", "density": 0.8},
    "glu-oracle": {"method": "glu-oracle", "policy": "lru"},
    "dip": {"method": "dip", "policy": "arc"},
    "dip-ca": {"method": "dip-ca"},
    "dip-ca blend": {"method": "dip-ca", "masking": "blend:fixed_top_n=.1", "gamma": 0.5},
    "dip-ca approximate": {"method": "dip-ca", "masking": "approximate:top_m=.9,counts=.2"},
    "threshold": {"method": "dip", "selection": "threshold", **CALIBRATED},
    "cats": {"method": "cats", "density": 0.7, **CALIBRATED},
    "predictor": {"method": "predictor", "policy": "lru", "predictor_rank": 2},
    "teal": {"method": "teal", "split": "equal", **CALIBRATED},
    "moe": {"method": "moe", "policy": "lfu"},
    "moe cache-prior": {"method": "moe", "routing": "cache-prior"},
}
SLOW = ("dip-ca blend", "dip-ca approximate", "cats", "predictor", "teal", "glu")
OPTIONS: dict[str, dict[str, Any]] = {
    "fraction": {"cache_fraction": 0.5},
    "equal": {"cache": "9kB", "allocate": "equal"},
    "optimal": {"cache": "9kB", "allocate": "optimal"},
    "global": {"cache_fraction": 0.5, "scope": "global"},
    "sequential": {"cache_fraction": 0.5, "access": "sequential", "policy": "sieve"},
    "static": {"cache_fraction": 0.4, "policy": "static"},
    "belady": {"cache_fraction": 0.4, "policy": "belady"},
    "all": {"cache_fraction": 1.0},
    "permuted": {"cache_fraction": 0.4, "layout": "permuted"},
    "ahead": {"cache_fraction": 0.8, "prefetch": "previous"},
    "buffered": {"cache_fraction": 0.4, "io": "buffered"},
}
RUNS = [
    pytest.param(method, option, marks=pytest.mark.slow if slow else [])
    for method in METHODS
    for option in OPTIONS
    if not {"policy", "access"} & {*OPTIONS[option]} or method in ("recorded", "glu-oracle", "moe")
    for slow in [method in SLOW or (option != "fraction" and method not in ("recorded", "moe"))]
]
PHONE: dict[str, Any] = {
    "name": "phone",
    "dram": {"capacity": "1 GB", "bandwidth": "10 GB/s"},
    "flash": {"align": "64 B", "lanes": 2, "bandwidth": "1 MB/s"},
    "page_cache": {"bandwidth": "1 GB/s", "size": "4 kB"},
    "backends": {"cpu": {"per_layer": "1 us", "per_mask": "1 us", "per_score": "1 us"}},
}


def drawn(units: int, seed: int, layers: int) -> np.ndarray:
    """Return float32[TOKENS, layers, units] scores, some units popular and some absent."""
    rng = np.random.default_rng(seed)
    popular = rng.gamma(0.5, size=(layers, units))
    scores = rng.gamma(2.0, size=(TOKENS, layers, units)) * popular
    return np.round(scores, 3).astype(np.float32)


def trace(
    method: str, widths: tuple[int, ...], layers: tuple[int, ...], width: int | None = None
) -> dict[str, Any]:
    """Return a trace of some layers, each as wide as ``widths`` says.

    Args:
        layers: of ``widths``.
        width: of the arrays; None is the widest of these layers, without ``layer_units``.
    """
    own = [widths[layer] for layer in layers]
    wide = max(own) if width is None else width
    names = {"moe": ("expert",), "recorded": ("glu",)}.get(method.split()[0])
    names = names or ("mlp_input", "gate", "glu")
    arrays: dict[str, Any] = {}
    for seed, name in enumerate(names):
        rows = np.zeros((TOKENS, len(layers), wide), np.float32)
        for i, layer in enumerate(layers):
            if own[i]:
                rows[:, i, : own[i]] = drawn(own[i], 10 * seed + layer, 1)[:, 0]
        if name == "expert":
            rows[..., :] = np.where(rows > 0, 4 * rows - 3, 0)
        arrays[name] = rows > 0.5 if method == "recorded" else rows
    declared: dict[str, Any] = {"unit_bytes": 100}
    if width is not None:
        declared["layer_units"] = own
    signals = {name: dict(declared) for name in names}
    phase = (np.arange(TOKENS) >= 4).astype(np.uint8)
    meta = {"signals": signals, "experts_per_token": 2}
    return {**arrays, "phase": phase, "meta": meta}


def run(method: str, option: str, given: dict[str, Any]) -> Result:
    options = {**METHODS[method], **OPTIONS[option]}
    if METHODS[method].get("policy") and OPTIONS[option].get("policy"):
        options["policy"] = OPTIONS[option]["policy"]
    if method.startswith("dip-ca") and option == "belady":
        options["policy"] = "lru"
    return simulate(given, PHONE, **options)


def widths_of(method: str) -> tuple[tuple[int, ...], int]:
    return (EXPERTS, PADDED_EXPERTS) if method.startswith("moe") else (WIDTHS, PADDED)


def figures(result: Result) -> dict[str, Any]:
    found = result.figures()
    for group in found["groups"]:
        group.pop("layer_units", None)
    return found


@pytest.mark.parametrize(("method", "option"), RUNS)
def test_units_that_no_layer_has_change_no_figure(method: str, option: str) -> None:
    widths, padded = widths_of(method)
    layers = tuple(np.flatnonzero(np.array(widths) == max(widths)).tolist()) * 2
    plain = run(method, option, trace(method, widths, layers))
    wide = run(method, option, trace(method, widths, layers, padded))
    assert figures(wide) == figures(plain)
    assert plain.accesses > 0


@pytest.mark.parametrize(("method", "option"), RUNS)
def test_a_layer_without_units_changes_no_count(method: str, option: str) -> None:
    widths, _ = widths_of(method)
    layers = (0, 3, 0)
    empty = (*layers, widths.index(0))
    without = run(method, option, trace(method, widths, layers, max(widths)))
    beside = run(method, option, trace(method, widths, empty, max(widths)))
    for name in ("accesses", "hits", "flash_bytes_per_token", "flash_reads_per_token", "hit_rate"):
        assert getattr(beside, name) == getattr(without, name), name
    assert (beside.traffic.active[:, :3] == without.traffic.active).all()
    assert (beside.traffic.hits[:, :3] == without.traffic.hits).all()
    assert not beside.traffic.active[:, 3].any()
    assert beside.mass_kept == pytest.approx(without.mass_kept, rel=1e-6)
    assert beside.budget.units_bytes == without.budget.units_bytes
    if beside.traffic.capacity is not None:
        assert (beside.traffic.capacity[3] == 0).all()
        assert (beside.traffic.capacity[:3] == without.traffic.capacity).all()


ALONE = [
    each
    for each in RUNS
    if each.values[0] != "predictor"  # its size, and so its density, follow from the widest layer
    and each.values[1] in ("fraction", "sequential", "static", "belady", "all", "permuted")
]


@pytest.mark.parametrize(("method", "option"), ALONE)
def test_layers_do_what_each_does_alone(method: str, option: str) -> None:
    widths, _ = widths_of(method)
    every = tuple(range(4))
    together = run(method, option, trace(method, widths, every, max(widths)))
    for layer in every:
        if not widths[layer]:
            assert not together.traffic.active[:, layer].any()
            continue
        alone = run(method, option, trace(method, widths, (layer,)))
        for name in ("active", "hits", "kept", "moved", "reads", "mass", "energy"):
            one = getattr(alone.traffic, name)[:, 0]
            assert np.array_equal(getattr(together.traffic, name)[:, layer], one), name
        assert together.traffic.capacity is not None
        assert alone.traffic.capacity is not None
        assert (together.traffic.capacity[layer] == alone.traffic.capacity[0]).all()
