"""Formats of keys and values: their bytes, against a twin that moves positions one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import DipsimError
from dipsim.kv.bits import BUILTIN, FP16, Part, parse_format, plain
from dipsim.model import load_model
from naive.kv_bytes import Store

LLAMA = load_model("llama-3-8b")
WIDTH = LLAMA.kv_heads * LLAMA.head_dim


def megabytes(text: str, positions: int = 8192) -> float:
    return LLAMA.layers * float(parse_format(text).bytes(positions, WIDTH)) / 1e6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp16", 1073.7),
        ("kivi:bits=2", 215.0),
        ("kivi:bits=4", 347.1),
        ("q8_0", 570.4),
        ("q4_0", 302.0),
    ],
)
def test_bytes_of_llama_3_8b_at_8192_positions(text: str, expected: float) -> None:
    assert round(megabytes(text), 1) == expected


@pytest.mark.parametrize(
    ("text", "bits"),
    [("kivi:bits=2", 3.0), ("kivi:bits=4", 5.0), ("q8_0", 8.5), ("q4_0", 4.5), ("fp16", 16.0)],
)
def test_bits_per_element_with_scales(text: str, bits: float) -> None:
    assert parse_format(text).position_bytes(WIDTH) * 8 / (2 * WIDTH) == bits


@pytest.mark.parametrize(("bits", "ratio"), [(2, 5.00), (4, 3.09)])
def test_the_ratio_of_kivi_to_fp16(bits: int, ratio: float) -> None:
    assert round(megabytes("fp16") / megabytes(f"kivi:bits={bits}"), 2) == pytest.approx(
        ratio, abs=0.006
    )


@pytest.mark.parametrize(
    ("name", "ratio", "bytes_per_position", "gb_4k", "gb_32k"),
    [
        ("smollm2-135m", 0.333, 23_040, 0.094, 0.755),
        ("llama-3.2-1b", 0.25, 32_768, 0.134, 1.07),
        ("llama-3.2-3b", 0.333, 114_688, 0.470, 3.76),
        ("gemma-2-2b", 0.444, 106_496, 0.436, 3.49),
        ("phi-3-mini", 1, 393_216, 1.61, 12.9),
        ("olmoe-1b-7b", 1, 131_072, 0.537, 4.29),
        ("llama-3-8b", 0.25, 131_072, 0.537, 4.29),
    ],
)
def test_fp16_of_presets(
    name: str, ratio: float, bytes_per_position: int, gb_4k: float, gb_32k: float
) -> None:
    model = load_model(name)
    width = model.kv_heads * model.head_dim
    assert round(width / model.hidden, 3) == ratio
    one, short, long = model.layers * FP16.bytes(np.array([1, 4096, 32768]), width)
    assert one == bytes_per_position
    assert short / 1e9 == pytest.approx(gb_4k, rel=0.005)
    assert long / 1e9 == pytest.approx(gb_32k, rel=0.005)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("smollm2-135m", 3_284),
        ("llama-3.2-1b", 21_214),
        ("llama-3.2-3b", 15_757),
        ("gemma-2-2b", 13_808),
        ("phi-3-mini", 5_466),
        ("olmoe-1b-7b", 5_502),
        ("llama-3-8b", 34_462),
    ],
)
def test_positions_that_take_as_much_as_the_weights_of_a_token(name: str, tokens: int) -> None:
    model = load_model(name)
    position = model.layers * float(FP16.bytes(1, model.kv_heads * model.head_dim))
    assert round(model.active_parameters * 4.5 / 8 / position) == tokens


@pytest.mark.parametrize(
    ("name", "size"), [("llama-3.2-3b", 4096), ("llama-3-8b", 4096), ("smollm2-135m", 768)]
)
def test_a_position_of_a_layer(name: str, size: int) -> None:
    model = load_model(name)
    assert FP16.position_bytes(model.kv_heads * model.head_dim) == size


def test_fp16_is_what_a_model_says_of_its_keys_and_values() -> None:
    positions = np.arange(0, 5000, 7)
    for bits in (16.0, 8.0, 4.5):
        per_layer = plain(bits).bytes(positions, WIDTH)
        assert (LLAMA.layers * per_layer == LLAMA.kv_bytes(positions, bits)).all()


def test_keys_and_values_may_differ() -> None:
    both = parse_format("q8_0/q4_0")
    assert both.bytes(100, 64) == 100 * (68 + 36)
    assert parse_format("kivi:bits=4/kivi:bits=2").position_bytes(64) == 64 * (5 + 3) / 8


def test_keys_of_the_authors_code_wait_for_a_whole_residual() -> None:
    key = parse_format("kivi-code").key
    assert key.quantised(np.array([127, 128, 255, 256])).tolist() == [0, 128, 128, 256]
    assert parse_format("kivi-code").value.quantised(256) == 128


def test_evicting_single_positions_frees_none_of_a_group_along_tokens() -> None:
    kivi = parse_format("kivi:residual=0")
    kept = np.ones(96, bool)
    kept[[3, 40, 41]] = False
    assert kivi.key.kept_bytes(kept, 64) == kivi.key.bytes(96, 64)
    assert kivi.value.kept_bytes(kept, 64) == kivi.value.bytes(93, 64)
    kept[32:64] = False
    assert kivi.key.kept_bytes(kept, 64) == kivi.key.bytes(64, 64)


parts = st.builds(
    lambda bits, group, shared, along, window, blocks: Part(
        bits, group, shared, along, window, blocks * group if along == "tokens" else blocks
    ),
    st.sampled_from([2.0, 4.0, 8.0]),
    st.sampled_from([1, 4, 32]),
    st.sampled_from([0.0, 2.0, 4.0]),
    st.sampled_from(["tokens", "channels"]),
    st.integers(0, 40),
    st.integers(1, 3),
)


@given(parts, st.sampled_from([1, 32, 48]), st.integers(1, 150), st.integers(0, 2**32))
def test_a_part_is_its_twin(part: Part, width: int, tokens: int, seed: int) -> None:
    twin = Store(
        width, part.bits, part.group, part.shared_bytes, part.along, part.window, part.block
    )
    written = [twin.append(position) for position in range(tokens)]
    assert part.written(np.arange(1, tokens + 1), width).tolist() == pytest.approx(written)
    assert float(part.bytes(tokens, width)) == pytest.approx(twin.bytes())
    kept = np.random.default_rng(seed).random(tokens) < 0.5
    expected = twin.bytes_of(set(np.flatnonzero(kept).tolist()))
    assert float(part.kept_bytes(kept, width)) == pytest.approx(expected)
    assert tokens - int(part.quantised(tokens)) <= max(part.newest, 0)


@pytest.mark.parametrize("name", BUILTIN)
def test_more_positions_never_take_less_but_where_a_block_becomes_full(name: str) -> None:
    form = parse_format(name)
    held = form.bytes(np.arange(2000), WIDTH)
    assert held[0] == 0
    assert held[-1] <= FP16.bytes(1999, WIDTH)
    if form.newest == 0:
        assert (np.diff(held) == form.position_bytes(WIDTH)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kivvi", "no KV format 'kivvi': use one of fp16, fp8"),
        ("q8_0/", "no KV format ''"),
        ("q8_0/q4_0/q4_0", "no KV format 'q4_0/q4_0'"),
        ("kivi:bits=0", "bits are 1 to 16"),
        ("kivi:bits=nan", "parameters are key=number"),
        ("kivi:bits=2,bits=2", "a parameter is given twice; give it once"),
        ("kivi:bits", "write parameters as kivi:key=value"),
        ("kivi:group=0", "a group 1 to 4096"),
        ("kivi:group=1.5", "group is a whole number"),
        ("kivi:zero=1", "no parameter 'zero'; its parameters are bits, group, residual"),
        ("fp16:bits=3", "no parameter 'bits'; it has no parameters"),
        ("kivi-code:residual=100", "residual 100 is no multiple of group 32"),
        ("kivi-code:residual=0", "residual 0 is no multiple"),
        ("transformers:residual=0", "at least 1 position"),
    ],
)
def test_what_is_no_format_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(DipsimError, match=message) as problem:
        parse_format(text)
    assert "\n" not in str(problem.value)
