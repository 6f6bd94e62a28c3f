"""Models: published parameter counts, bytes of every slice, where scales lie, what is refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import ModelError
from dipsim.model import DEFAULT_BITS, Model, Slice, load_model

# Independent of dipsim: the model cards and config.json files of the four models.
PARAMETERS = {
    "phi-3-medium": 13_960_238_080,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
}
KV_BYTES = {  # of one position, 16 bits: 2 x layers x key-value heads x head size x 2 bytes
    "phi-3-medium": 2 * 40 * 10 * 128 * 2,
    "llama-3-8b": 2 * 32 * 8 * 128 * 2,
    "mistral-7b": 2 * 32 * 8 * 128 * 2,
    "smollm2-135m": 2 * 30 * 3 * 64 * 2,
}
GEOMETRY = {
    "layers": 2,
    "hidden": 64,
    "intermediate": 160,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocab": 100,
}
QUANT = {"format": "q4_0", "bits": 4, "group": 32, "scale_bytes": 2}
GATE_AND_UP_COLUMN = (Slice("gate", "column"), Slice("up", "column"))
DOWN_COLUMN = (Slice("down", "column"),)
SLICES = [Slice(m, p) for m in ("gate", "up", "down") for p in ("row", "column")]


TINY: dict[str, Any] = {
    "layers": 2,
    "hidden": 8,
    "intermediate": 10,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 4,
    "vocab": 100,
}


def quantised(**change: Any) -> Model:
    return load_model({**GEOMETRY, "quant": {**QUANT, **change}})


def refusal(given: Any, bits: float | None = None) -> str:
    """The one line a model is refused with."""
    with pytest.raises(ModelError) as problem:
        load_model(given, bits)
    message = str(problem.value)
    assert message
    assert "\n" not in message
    return message


# Presets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    assert model.parameters == PARAMETERS[name]
    assert model.sources


@pytest.mark.parametrize(
    ("name", "bits", "entering", "leaving"),
    [
        ("phi-3-medium", 4, 17920, 2560),
        ("llama-3-8b", 4, 14336, 2048),
        ("smollm2-135m", 5, 1920, 360),
    ],
)
def test_bytes_of_a_column(name: str, bits: float, entering: int, leaving: int) -> None:
    model = load_model(name, bits)
    assert model.slice_bytes(GATE_AND_UP_COLUMN) == entering
    assert model.slice_bytes(DOWN_COLUMN) == leaving
    assert model.static_scale_bytes((*GATE_AND_UP_COLUMN, *DOWN_COLUMN)) == 0


@pytest.mark.parametrize("name", KV_BYTES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_bytes_of_keys_and_values(name: str, bits: float) -> None:
    assert load_model(name).kv_bytes(1, bits) == KV_BYTES[name] * bits / 16


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 4, 5])
def test_layers_with_a_window_keep_no_more_than_its_positions(layers: int, every: int) -> None:
    model = load_model({**GEOMETRY, "layers": layers, "window": 10, "window_every": every})
    positions = np.array([0, 1, 9, 10, 11, 1000])
    one = 2 * model.kv_heads * model.head_dim * 8 / 8
    expected = [
        sum(one * (min(n, 10) if layer % every == 0 else n) for layer in range(layers))
        for n in positions.tolist()
    ]
    assert model.kv_bytes(positions, 8).tolist() == expected


# Experts, and MLPs without a gate -----------------------------------------------------------------


def test_a_model_of_experts_by_hand() -> None:
    moe = {"experts": 4, "experts_per_token": 2, "shared_intermediate": 6}
    model = load_model({**TINY, **moe, "bits": 8})
    expert, router, shared = 3 * 8 * 10, 4 * 8, 3 * 8 * 6
    assert (model.mlp_bytes, model.static_mlp_bytes) == (expert, router + shared)
    attention, norms, embeddings = 2 * 8 * 4 * (2 + 1), 5 * 8, 2 * 100 * 8
    weights = 2 * (attention + 4 * expert + router + shared) + embeddings
    assert model.parameters == weights + norms
    assert model.total_bytes == weights + 2 * norms


def test_a_plain_mlp_has_two_matrices() -> None:
    model = load_model({**TINY, "gated": False, "bits": 8})
    assert model.matrices == ("up", "down")
    assert model.mlp_bytes == 2 * 8 * 10
    neuron = (Slice("gate", "row"), Slice("up", "row"), Slice("down", "column"))
    assert model.slice_bytes(neuron) == 2 * 8


# Totals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_at_16_bits_the_model_takes_two_bytes_a_parameter(name: str) -> None:
    assert load_model(name, 16).total_bytes == 2 * PARAMETERS[name]


def test_norms_stay_at_16_bits() -> None:
    model = load_model(GEOMETRY, 4)
    norms = model.norm_parameters
    assert (norms, model.norm_bytes) == ((2 * 2 + 1) * 64, 2 * norms)
    assert model.total_bytes == (model.parameters - norms) / 2 + 2 * norms


def test_a_tied_embedding_counts_once_and_is_in_dram_already() -> None:
    tied = load_model({**GEOMETRY, "tied_embeddings": True}, 8)
    apart = load_model({**GEOMETRY, "tied_embeddings": False}, 8)
    assert apart.parameters - tied.parameters == 100 * 64
    assert apart.total_bytes - tied.total_bytes == 100 * 64
    assert apart.head_bytes == tied.head_bytes == 100 * 64
    assert (tied.embedding_row_bytes, apart.embedding_row_bytes) == (0, 64)


def test_bits_are_4_5_unless_said() -> None:
    assert load_model(GEOMETRY).bits == DEFAULT_BITS == 4.5
    assert load_model({**GEOMETRY, "bits": 6}).bits == 6


def test_the_option_takes_the_place_of_all_storage() -> None:
    model = load_model({**GEOMETRY, "quant": QUANT}, 6)
    assert (model.bits, model.quant) == (6, None)
    assert load_model({**GEOMETRY, "bits": 8}, 6).bits == 6


def test_head_dim_is_hidden_over_heads_unless_said() -> None:
    without = {key: value for key, value in GEOMETRY.items() if key != "head_dim"}
    assert load_model(without).head_dim == 16
    assert load_model({**without, "head_dim": 80}).head_dim == 80


# Scales -------------------------------------------------------------------------------------------


def units_of(slice_: Slice) -> int:
    """How many slices a matrix has: gate and up map hidden to intermediate, down maps back."""
    inputs, outputs = (160, 64) if slice_.matrix == "down" else (64, 160)
    return inputs if slice_.part == "column" else outputs


@pytest.mark.parametrize("axis", ["in", "out", "channel"])
@pytest.mark.parametrize("slice_", SLICES, ids=lambda s: f"{s.matrix}-{s.part}")
def test_slices_and_the_scales_left_behind_make_the_matrix(axis: str, slice_: Slice) -> None:
    model = quantised(axis=axis, zero_bytes=1)
    loaded = model.slice_bytes([slice_]) * units_of(slice_)
    left = model.static_scale_bytes([slice_])
    assert loaded + left == pytest.approx(model.matrix_bytes(slice_.matrix), rel=1e-12)


@pytest.mark.parametrize(
    ("axis", "part", "scales_of_a_slice", "scales_left"),
    [
        ("out", "column", 160 / 32 * 2, 0),
        ("out", "row", 0, 64 * 160 / 32 * 2),
        ("in", "row", 64 / 32 * 2, 0),
        ("in", "column", 0, 64 * 160 / 32 * 2),
        ("channel", "row", 0, 160 * 2),
        ("channel", "column", 0, 160 * 2),
    ],
)
def test_scales_travel_with_what_they_lie_along(
    axis: str, part: Any, scales_of_a_slice: float, scales_left: float
) -> None:
    model = quantised(axis=axis)
    weights = {"column": 160, "row": 64}[part] * 4 / 8
    slice_ = [Slice("gate", part)]
    assert model.slice_bytes(slice_) == weights + scales_of_a_slice
    assert model.static_scale_bytes(slice_) == scales_left


def test_zero_points_take_bytes_as_scales_do() -> None:
    column = [Slice("down", "column")]
    assert quantised(axis="out").slice_bytes(column) == 64 / 2 + 2 * 2
    assert quantised(axis="out", zero_bytes=1).slice_bytes(column) == 64 / 2 + 2 * 3


def test_scales_lie_along_the_input_unless_said() -> None:
    assert quantised().static_scale_bytes(DOWN_COLUMN) == 64 * 160 / 32 * 2


def test_a_unit_of_several_slices_is_their_sum() -> None:
    for model in (quantised(axis="out"), quantised(axis="in"), load_model(GEOMETRY)):
        bundle = (Slice("gate", "row"), Slice("up", "row"), Slice("down", "column"))
        assert model.slice_bytes(bundle) == sum(model.slice_bytes([s]) for s in bundle)
        assert model.static_scale_bytes(bundle) == sum(
            model.static_scale_bytes([s]) for s in bundle
        )
    assert load_model(GEOMETRY).slice_bytes([]) == 0


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.sampled_from(["in", "out", "channel"]),
    st.integers(1, 256),
    st.floats(1, 16),
)
def test_the_whole_is_never_less_than_its_weights(
    hidden: int, intermediate: int, axis: str, group: int, bits: float
) -> None:
    quant = {"format": "q", "bits": bits, "axis": axis, "group": group}
    model = load_model({**GEOMETRY, "hidden": hidden, "intermediate": intermediate, "quant": quant})
    matrices = sum(model.matrix_bytes(matrix) for matrix in ("gate", "up", "down"))
    assert matrices >= 3 * hidden * intermediate * bits / 8 * (1 - 1e-12)
    layers = model.layers * (matrices + model.attention_bytes)
    assert model.total_bytes == pytest.approx(layers + 2 * model.head_bytes + model.norm_bytes)
    assert model.bytes_per_weight == model.matrix_bytes("gate") / (hidden * intermediate)


# Loading ------------------------------------------------------------------------------------------


def test_a_mapping_a_file_and_a_model_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", **GEOMETRY, "quant": QUANT}))
    model = load_model(file)
    assert model.name == "mine"
    assert load_model(str(file)) == model
    assert load_model({"name": "mine", **GEOMETRY, "quant": QUANT}) == model
    assert load_model(model) == model
    assert load_model(model.model_dump(mode="json", exclude_unset=True)) == model


def test_a_mapping_with_only_a_name_is_a_preset() -> None:
    assert load_model({"name": "llama-3-8b"}) == load_model("llama-3-8b")
    assert load_model({"name": "llama-3-8b", "bits": 5}) == load_model("llama-3-8b", 5)
    assert load_model({"name": "llama-3-8b", "bits": 5}, 6).bits == 6


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_model(GEOMETRY).layers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant": QUANT, "bits": 4}, "give bits or quant, not both"),
        ({"depth": 2}, "unknown key 'depth'"),
        ({"quant": {**QUANT, "blocks": 2}}, "unknown key 'quant.blocks'"),
        ({"quant": {"format": "q4_0"}}, "quant.bits is missing"),
        ({"quant": {**QUANT, "axis": "sideways"}}, "quant.axis"),
        ({"quant": {**QUANT, "group": 0}}, "quant.group"),
        ({"quant": {**QUANT, "scale_bytes": -1}}, "quant.scale_bytes"),
        ({"quant": "q4_0"}, "quant"),
        ({"layers": 0}, "layers"),
        ({"hidden": -64}, "hidden"),
        ({"hidden": 10**12}, "hidden"),
        ({"hidden": 64.0}, "hidden"),
        ({"intermediate": "160"}, "intermediate"),
        ({"vocab": None}, "vocab"),
        ({"heads": True}, "heads"),
        ({"heads": 0}, "heads"),
        ({"kv_heads": 8}, "kv_heads 8 exceeds heads 4"),
        ({"context": 0}, "context"),
        ({"bits": 0}, "bits"),
        ({"bits": 64}, "bits"),
        ({"bits": -4}, "bits"),
        ({"bits": math.nan}, "bits"),
        ({"bits": math.inf}, "bits"),
        ({"bits": "four"}, "bits"),
        ({"bits": True}, "bits"),
        ({"tied_embeddings": "perhaps"}, "tied_embeddings"),
        ({"name": 5}, "name"),
    ],
    ids=str,
)
def test_refused_with_the_key_and_the_reason(change: Mapping[str, Any], said: str) -> None:
    assert said in refusal({**GEOMETRY, **change})


@pytest.mark.parametrize("key", ["layers", "hidden", "intermediate", "heads", "kv_heads", "vocab"])
def test_a_missing_key_is_named(key: str) -> None:
    assert f"{key} is missing: add it" in refusal({k: v for k, v in GEOMETRY.items() if k != key})


@pytest.mark.parametrize("bits", [0, -1, 33, math.nan, math.inf])
def test_impossible_bits_are_refused(bits: float) -> None:
    assert "bits" in refusal("llama-3-8b", bits)


@pytest.mark.parametrize("given", ["llama-4", {"name": "llama-4"}, "no/such/file.yaml", "a\0b"])
def test_an_unknown_name_lists_the_known_ones(given: Any) -> None:
    message = refusal(given)
    assert all(name in message for name in PARAMETERS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- layers: 2\n", "expected a mapping"),
        ("layers: 2\nlayers: 3\n", "stands there twice"),
        ("layers: !!python/object/apply:os.getcwd []\n", "tag"),
        ("layers: 2\n", "hidden is missing"),
        ("layers: [\n", "YAML"),
    ],
)
def test_files_that_are_no_geometry_are_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    message = refusal(file)
    assert str(file) in message
    assert said in message
