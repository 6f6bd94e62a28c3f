"""Presets: every model in the folder against the parameter count its authors published."""

import re

import pytest

from dipsim import files
from dipsim.errors import ModelError
from dipsim.model import DEFAULT_BITS, load_model, model_names
from dipsim.model.load import FOLDER, SUFFIX
from tools.paths import DOCS

# Independent of dipsim: totals of the published safetensors files.
PUBLISHED = {
    "gemma-2-2b": 2_614_341_888,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "olmoe-1b-7b": 6_919_161_856,
    "opt-6.7b": 6_658_473_984,
    "phi-3-medium": 13_960_238_080,
    "phi-3-mini": 3_821_079_552,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-30b-a3b": 30_532_122_624,
    "smollm2-135m": 134_515_008,
}
# What a preset does not count, by hand.
LEFT_OUT = {
    "gemma-2-2b": 26 * 2 * 2304,  # two more norms per layer
    "olmoe-1b-7b": 16 * 2 * 2048,  # norms of queries and keys
    "opt-6.7b": (  # positions; biases of q, k, v, o, up, down; biases of all norms
        (2048 + 2) * 4096 + 32 * (4 * 4096 + 16384 + 4096) + (2 * 32 + 1) * 4096
    ),
    "qwen2.5-7b": 28 * (28 + 4 + 4) * 128,  # biases of q, k and v
    "qwen3-30b-a3b": 48 * 2 * 128,  # norms of queries and keys
}


def test_every_preset_has_a_published_count() -> None:
    assert set(model_names()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_agree_with_the_published_count(name: str) -> None:
    model = load_model(name)
    assert model.parameters == pytest.approx(PUBLISHED[name], rel=0.01)
    assert model.parameters + LEFT_OUT.get(name, 0) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_complete(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    assert model.context is not None
    stated = files.read_yaml(files.shipped(FOLDER) / f"{name}{SUFFIX}", ModelError)
    assert {"head_dim", "tied_embeddings", "activation"} <= set(stated)
    assert not {"bits", "quant"} & set(stated)  # storage is the user's choice


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_says_where_its_numbers_are_from(name: str) -> None:
    sources = load_model(name).sources
    assert re.fullmatch(r"config\.json of [\w.-]+/[\w.-]+", sources["geometry"])
    assert sources["parameters"].startswith(f"{PUBLISHED[name]:,} (")


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_at_the_usual_bits_are_plausible(name: str) -> None:
    model = load_model(name, DEFAULT_BITS)
    assert model.total_bytes == pytest.approx(PUBLISHED[name] * DEFAULT_BITS / 8, rel=0.01)


def test_the_page_has_every_preset_with_both_counts() -> None:
    rows = re.findall(
        r"^\| `([\w.-]+)` \| ([\d,]+) \| ([\d,]+) \| (.+?) \|",
        (DOCS / "models.md").read_text(),
        re.M,
    )
    assert [row[0] for row in rows] == model_names()
    for name, computed, published, origin in rows:
        model = load_model(name)
        assert (computed, published) == (f"{model.parameters:,}", f"{PUBLISHED[name]:,}")
        assert f"config.json of {origin}" == model.sources["geometry"]
