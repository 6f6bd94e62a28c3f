"""Models of several kinds of layers: every total is the sum over their layers, worked out anew."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import ModelError
from dipsim.model import load_model

FLAT: dict[str, Any] = {
    "name": "mixed",
    "layers": 7,
    "hidden": 64,
    "intermediate": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocab": 100,
    "experts": 8,
    "experts_per_token": 2,
    "shared_intermediate": 48,
    "bits": 8,
}
KINDS: dict[str, Any] = {
    "dense": {"experts": None, "intermediate": 160},
    "local": {"window": 10, "kv_heads": 1},
    "state": {
        "attention": "state",
        "attention_parameters": 5000,
        "state_values": 300,
        "state_bits": 32,
    },
    "latent": {
        "attention": "latent",
        "attention_parameters": 3000,
        "kv_values": 24,
        "head_dim": 12,
        "value_dim": 8,
    },
    "mixer": {"experts": None, "intermediate": 0, "extra_parameters": 7},
    "mlp": {"attention": "none", "experts": None, "intermediate": 100},
}
NAMES = ["main", *KINDS]


def naive(names: list[str]) -> list[dict[str, Any]]:
    """Each layer's figures, by hand."""
    table = []
    for name in names:
        keys = {"window": None, "attention": "full", **FLAT, **KINDS.get(name, {})}
        heads, kv, dim = keys["heads"], keys["kv_heads"], keys["head_dim"]
        values = keys.get("value_dim", dim)
        mixer = 64 * (heads * dim + kv * dim + kv * values + heads * values)
        per_position, reach = kv * (dim + values), keys["window"] or 10**9
        if name in ("state", "mlp"):
            per_position, reach = 0, 0
        if name == "mlp":
            mixer = 0
        experts, width = keys["experts"], keys["intermediate"]
        mlp = 3 * 64 * width * (experts or 1)
        idle = 3 * 64 * width * 6 if experts else 0
        if experts:
            mlp += 8 * 64 + 3 * 64 * 48
        table.append(
            {
                "mixer": keys.get("attention_parameters", mixer),
                "mlp": mlp,
                "idle": idle,
                "extra": keys.get("extra_parameters", 0),
                "norms": 64 * ((name != "mlp") + (width > 0)),
                "kv": keys.get("kv_values", per_position),
                "reach": reach,
                "state": keys.get("state_values", 0) * keys.get("state_bits", 16) / 8,
                "states": keys.get("state_values", 0),
                "flops": 2 * heads * (dim + values),
            }
        )
    return table


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=7))
def test_totals_are_sums_over_the_layers(pattern: list[str]) -> None:
    model = load_model({**FLAT, "kinds": KINDS, "pattern": pattern})
    layers = naive([pattern[i % len(pattern)] for i in range(7)])
    weights = sum(each["mixer"] + each["mlp"] + each["extra"] for each in layers)
    norms = 64 + sum(each["norms"] for each in layers)
    assert model.parameters == weights + norms + 2 * 6400
    assert model.total_bytes == weights + 2 * norms + 2 * 6400
    assert model.active_parameters == model.parameters - sum(each["idle"] for each in layers)
    for many in (0, 1, 10, 11, 500):
        kept = [each["kv"] * min(many, each["reach"]) + each["state"] for each in layers]
        assert model.kv_bytes(many, 8) == sum(kept)
        pairs = [sum(min(n + 1, each["reach"]) for n in range(many)) for each in layers]
        flops = [
            each["flops"] * pair + 4 * each["states"] * many
            for each, pair in zip(layers, pairs, strict=True)
        ]
        assert model.attention_flops(many) == sum(flops)
        assert model.layer_attention_flops(many).tolist() == flops


def test_layers_that_use_keys_and_values_of_others_read_them_again() -> None:
    kinds = {"user": {"kv_values": 0}, "local": {"kv_values": 0, "window": 10}}
    model = load_model({**FLAT, "kinds": kinds, "pattern": ["main", "user", "local"]})
    one = 2 * 2 * 16
    assert model.kv_bytes(100, 8) == 3 * 100 * one
    assert model.kv_read_bytes(100, 8) == (5 * 100 + 2 * 10) * one
    by_layer = model.layer_kv_bytes(np.array([100.0]), 8)[:, 0]
    assert by_layer.tolist() == [100 * one, 100 * one, 10 * one] * 2 + [100 * one]
    assert model.decode_flops.tolist() == [4 * 4 * 16 / one] * 7


def test_a_part_of_the_layers_keeps_their_kinds() -> None:
    pattern = ["dense", "main", "local", "state", "main", "latent", "mlp"]
    model = load_model({**FLAT, "kinds": KINDS, "pattern": pattern})
    part = model.of_layers([2, 3, 5])
    assert part.kind_names == ("local", "state", "latent")
    assert part.whole is model
    assert part.kv_bytes(100, 8) == 10 * 32 + 300 * 4 + 24 * 100
    halves = model.of_layers([0, 1, 2]), model.of_layers([3, 4, 5, 6])
    outside = 2 * 6400 + 64
    assert sum(each.parameters - outside for each in halves) == model.parameters - outside
    assert model.of_layers(range(7)) is model


def test_a_part_of_layers_with_a_window_keeps_it_where_it_was() -> None:
    every = {k: v for k, v in FLAT.items() if not k.startswith(("experts", "shared"))}
    model = load_model({**every, "window": 10, "window_every": 2})
    assert model.layer_windows.tolist() == [10, np.inf] * 3 + [10]
    assert model.of_layers([1, 2]).layer_windows.tolist() == [np.inf, 10]
    assert model.model_copy(update={"window": 5}).layer_windows[0] == 5


def test_units_of_every_layer() -> None:
    model = load_model({**FLAT, "kinds": KINDS, "pattern": ["dense", "main", "state", "mlp"]})
    assert model.layer_units("expert").tolist() == [0, 8, 8, 0, 0, 8, 8]
    assert model.layer_units("glu").tolist() == [160, 0, 0, 100, 160, 0, 0]
    assert model.layer_units("attn_output").tolist() == [64, 64, 0, 0, 64, 64, 0]


def test_parts_are_stored_each_in_its_way() -> None:
    quant = {"format": "q4_0", "bits": 4, "group": 32}
    parts = {"down": quant, "attention": 6, "norm": 32, "head": 5, "embedding": 3, "other": 1}
    parts |= {"router": 32, "shared": 2}
    beside = {"other_parameters": 800, "extra_parameters": 40, "per_layer_embedding": 16}
    model = load_model({**FLAT, **beside, "parts": parts})
    attention = 64 * (64 + 32 + 32 + 64) * 6 / 8
    expert = 2 * 64 * 32 + 64 * 32 * 4.5 / 8
    layer = attention + 8 * expert + 8 * 64 * 4 + 3 * 64 * 48 * 2 / 8 + 40 / 8
    table = 100 * 7 * 16
    assert model.mlp_bytes == expert
    assert model.embedding_row_bytes == (64 + 7 * 16) * 3 / 8
    whole = 7 * layer + 15 * 64 * 4 + 6400 * 5 / 8 + (6400 + table) * 3 / 8 + 100
    assert model.total_bytes == pytest.approx(whole, rel=1e-12)
    assert model.parameters == load_model(FLAT).parameters + table + 800 + 7 * 40
    assert model.active_parameters == load_model(FLAT).active_parameters + 800 + 7 * 40
    assert load_model(model, 4).total_bytes < load_model(model, 8).total_bytes
    assert not load_model(model, 4).parts
    given = {**FLAT, "kinds": {"dense": {**KINDS["dense"], "parts": {"up": 16}}}}
    model = load_model({**given, "pattern": ["dense", "main"]})
    assert model.stack[0].mlp_bytes == 64 * 160 * 4
    assert model.mlp_bytes == 64 * 32 * 3
    assert load_model(model, 8).stack[0].mlp_bytes == 64 * 160 * 3


def test_an_embedding_of_its_own_width() -> None:
    model = load_model(
        {**FLAT, "embedding_dim": 10, "per_layer_embedding": 4, "per_layer_vocab": 5}
    )
    assert model.embedding_parameters == 1000
    assert model.per_layer_parameters == 5 * 7 * 4
    assert model.embedding_row_bytes == 10 + 7 * 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kinds": KINDS}, "kinds need a pattern"),
        ({"pattern": ["main", "odd"]}, "pattern names the kind odd: give main"),
        ({"pattern": []}, "pattern names 0 layers"),
        ({"pattern": ["main"] * 8}, "pattern names 8 layers, there are 7"),
        ({"pattern": ["main"], "window": 3, "window_every": 2}, "window_every or pattern"),
        ({"kinds": {"main": {}}, "pattern": ["main"]}, "'main' is the kind"),
        ({"kinds": {"a": {"hidden": 3}}, "pattern": ["a"]}, "kinds.a: hidden is the model's"),
        ({"kinds": {"a": {"odd": 3}}, "pattern": ["a"]}, "kinds.a: unknown key 'odd'"),
        ({"kinds": {"a": {"heads": -1}}, "pattern": ["a"]}, "kinds.a: heads"),
        ({"kinds": {"a": {"heads": None}}, "pattern": ["a"]}, "heads is missing"),
        ({"kinds": {"a": 5}, "pattern": ["a"]}, "kinds.a"),
        ({"attention": "state"}, "attention state needs attention_parameters"),
        ({"attention": "latent", "attention_parameters": 1}, "latent needs kv_values"),
        ({"attention": "window"}, "attention window needs a window"),
        ({"attention": "odd"}, "attention"),
        ({"intermediate": 0}, "experts have a width"),
        ({"parts": {"odd": 3}}, "parts"),
        ({"parts": {"up": 0}}, "parts"),
        ({"layers": 2**16, "per_layer_embedding": 2**26}, "are believable"),
    ],
    ids=str,
)
def test_kinds_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as problem:
        load_model({**FLAT, **change})
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
