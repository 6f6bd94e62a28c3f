"""Recorded queries, keys, values and layer_io: attention computed from them is the model's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dipsim import lm  # noqa: E402
from dipsim.errors import DipsimError, ModelError  # noqa: E402
from dipsim.lm.attention import attention_through  # noqa: E402
from dipsim.trace import load_trace  # noqa: E402
from tools.cli import invoke  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

IDS = torch.arange(3, 23)[None]
ATTENTION = ["query", "key", "value", "attn_output"]
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {},
    "Qwen3Config": {"head_dim": 8},
    "Gemma2Config": {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 0.5},
    "MistralConfig": {"sliding_window": 6},
    "Phi3Config": {},
    "Olmo2Config": {},
    "GPT2Config": {"n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "CohereConfig": {},
}


def per_layer(value: Any, layer: int) -> Any:
    return value[layer] if isinstance(value, list) else value


def attention(arrays: dict[str, Any], layer: int) -> np.ndarray:
    """Attention's output before o, in float64, as the meta of the trace says to compute it."""
    about = arrays["meta"]["attention"]
    heads, kv_heads = about["heads"], about["kv_heads"]
    tokens = len(arrays["query"])
    query = arrays["query"][:, layer].astype(float).reshape(tokens, heads, -1)
    key, value = (
        np.repeat(arrays[name][:, layer].astype(float).reshape(tokens, kv_heads, -1),
                  heads // kv_heads, axis=1)
        for name in ("key", "value")
    )  # fmt: skip
    logits = np.einsum("the,xhe->htx", query, key) * per_layer(about["scaling"], layer)
    if softcap := per_layer(about["softcap"], layer):
        logits = softcap * np.tanh(logits / softcap)
    position = np.arange(tokens)
    seen = position <= position[:, None]
    if window := per_layer(about["window"], layer):
        seen &= position > position[:, None] - window
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * seen
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("htx,xhe->the", weights, value).reshape(tokens, -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_what_is_recorded_is_the_models_own(family: str) -> None:
    model = tiny(family, **FAMILIES[family])
    own = model.config._attn_implementation
    arrays = lm.record_arrays(model, IDS, ATTENTION)
    assert model.config._attn_implementation == own
    for layer in range(2):
        wanted = arrays["attn_output"][:, layer]
        np.testing.assert_allclose(np.abs(attention(arrays, layer)), wanted, rtol=2e-4, atol=1e-7)
        assert wanted.max() > 1e-4


@pytest.mark.parametrize("family", [*FAMILIES, "GraniteConfig", "PhiConfig", "OPTConfig"])
def test_layer_io_is_cosine_and_gain_of_states(family: str) -> None:
    """Of the whole layer, by hooks of the test's own."""
    more = {"OPTConfig": {"ffn_dim": 24, "word_embed_proj_dim": 16}, "PhiConfig":
            {"num_key_value_heads": 4}}  # fmt: skip
    model = tiny(family, **FAMILIES.get(family, more.get(family, {})))
    states: list[tuple[Any, Any]] = []
    layers = lm.find_structure(model).blocks
    hooks = [
        block.register_forward_hook(
            lambda module, args, given, output: states.append(
                (
                    (args or (given.get("hidden_states"),))[0].detach()[0],
                    (output[0] if isinstance(output, tuple) else output).detach()[0],
                )
            ),
            with_kwargs=True,
        )
        for block in layers
    ]
    io = lm.record_arrays(model, IDS, ["layer_io"])["layer_io"]
    for hook in hooks:
        hook.remove()
    assert io.shape == (20, 2, 6)
    for layer, (x, y) in enumerate(states[-2:]):
        cosine = torch.nn.functional.cosine_similarity(x, y, dim=-1)
        np.testing.assert_allclose(io[:, layer, 4], cosine, atol=1e-5)
        np.testing.assert_allclose(io[:, layer, 5], (x * y).sum(-1) / (x * x).sum(-1), rtol=1e-4)
        # gains: <x, m> / <x, x>, <m, y> / <m, m>; none is trivial, and the parts differ
        assert (np.abs(io[:, layer, 1] - io[:, layer, 5]) > 1e-6).any()
        assert (np.abs(io[:, layer, ::2]) <= 1 + 1e-5).all()


def test_parts_of_layer_io_in_a_llama() -> None:
    model = tiny()
    seen: dict[str, Any] = {}
    layer = model.model.layers[0]
    hooks = [
        layer.register_forward_pre_hook(lambda m, args: seen.update(x=args[0].detach()[0])),
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda m, args: seen.update(m=args[0].detach()[0])
        ),
        layer.register_forward_hook(lambda m, args, y: seen.update(y=y.detach()[0])),
    ]
    io = lm.record_arrays(model, IDS, ["layer_io"])["layer_io"][:, 0]
    for hook in hooks:
        hook.remove()
    x, m, y = seen["x"], seen["m"], seen["y"]
    for column, (a, b) in enumerate(((x, m), (m, y), (x, y))):
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        np.testing.assert_allclose(io[:, 2 * column], cosine, atol=1e-5)
        np.testing.assert_allclose(io[:, 2 * column + 1], (a * b).sum(-1) / (a * a).sum(-1), 1e-4)


def test_parts_of_layer_io_side_by_side() -> None:
    """Attention and the MLP of Cohere both add to the layer's input."""
    model = tiny("CohereConfig")
    seen: dict[str, Any] = {}
    layer = model.model.layers[1]
    hooks = [
        layer.register_forward_pre_hook(lambda m, args: seen.update(x=args[0].detach()[0])),
        layer.self_attn.register_forward_hook(lambda m, a, y: seen.update(a=y[0].detach()[0])),
        layer.mlp.register_forward_hook(lambda m, a, y: seen.update(f=y.detach()[0])),
    ]
    io = lm.record_arrays(model, IDS, ["layer_io"])["layer_io"][:, 1]
    for hook in hooks:
        hook.remove()
    x = seen["x"]
    for column, part in enumerate(("a", "f")):
        cosine = torch.nn.functional.cosine_similarity(x, x + seen[part], dim=-1)
        np.testing.assert_allclose(io[:, 2 * column], cosine, atol=1e-5)


@pytest.mark.parametrize("family", ["LlamaConfig", "MistralConfig", "Gemma2Config"])
def test_a_cache_changes_nothing(family: str, tmp_path: Path) -> None:
    """Each token is recorded once, as without a cache; a window of 6 drops earlier ones."""
    model = tiny(family, **FAMILIES[family])
    names = ["query", "key", "value", "layer_io"]
    with lm.record(
        model, tmp_path / "t.npz", signals=names, encodings=dict.fromkeys(names, "float32")
    ):
        model.generate(
            IDS[:, :9], attention_mask=torch.ones_like(IDS[:, :9]), max_new_tokens=8,
            do_sample=False, eos_token_id=None,
        )  # fmt: skip
    trace = load_trace(tmp_path / "t.npz")
    assert (trace.tokens, int(trace.phase.sum()), dict(trace.signals)) == (16, 7, {})
    assert trace.token_id is not None
    again = lm.record_arrays(model, torch.from_numpy(trace.token_id.astype(np.int64))[None], names)
    for name in names:
        np.testing.assert_allclose(trace.vectors(name).read(), again[name], atol=2e-5, rtol=2e-4)
    assert trace.vectors("query").heads == 4
    assert trace.vectors("value").heads == 2


def test_a_static_cache_is_refused(tmp_path: Path) -> None:
    """Its keys have a fixed number of positions, the last of which are not there yet."""
    model = tiny()
    prompt = {"inputs": IDS[:, :4], "attention_mask": torch.ones_like(IDS[:, :4])}
    with (
        pytest.raises(DipsimError, match="a static KV cache"),
        lm.record(model, tmp_path / "t.npz", signals=["key"]),
    ):
        model.generate(**prompt, max_new_tokens=3, cache_implementation="static")
    assert list(tmp_path.iterdir()) == []


def test_int8_is_near_and_says_its_heads(tmp_path: Path) -> None:
    model = tiny()
    out = tmp_path / "t.npz"
    with (
        torch.no_grad(),
        lm.record(model, out, signals=["mlp_input", "query", "key"], encodings={"query": "int8"}),
    ):
        model(IDS)
    trace = load_trace(out)
    assert list(trace.signals) == ["mlp_input"]
    assert (trace.vectors("query").encoding, trace.vectors("query").heads) == ("int8", 4)
    exact = lm.record_arrays(model, IDS, ["query"])["query"]
    assert np.abs(trace.vectors("query").read() - exact).max() <= 0.51 * np.abs(exact).max() / 127
    assert (exact < 0).any()
    assert trace.meta["attention"] == {
        "heads": 4, "kv_heads": 2, "scaling": 0.5, "softcap": None, "window": None, "sinks": False
    }  # fmt: skip


def test_functions_around_attention_nest_and_leave_nothing() -> None:
    model = tiny()
    calls: list[str] = []

    def named(name: str) -> Any:
        def wrapper(attend: Any, *args: Any, **given: Any) -> Any:
            calls.append(name)
            return attend(*args, **given)

        return wrapper

    with torch.no_grad():
        plain = model(IDS).logits
        with attention_through(model, named("outer")), attention_through(model, named("inner")):
            assert torch.equal(model(IDS).logits, plain)
        assert calls == ["inner", "outer"] * 2
        assert torch.equal(model(IDS).logits, plain)
    assert len(calls) == 4
    assert model.config._attn_implementation == "sdpa"


def test_models_whose_attention_is_their_own_are_refused(tmp_path: Path) -> None:
    falcon = tiny("FalconConfig", ffn_hidden_size=24)
    with pytest.raises(ModelError, match="its attention cannot be replaced, nor recorded"):
        lm.record(falcon, tmp_path / "t.npz", signals=["query"])
    with pytest.raises(DipsimError, match=r"'queries' is not known: record some of .*query, key"):
        lm.record(tiny(), tmp_path / "t.npz", signals=["queries"])
    for name, encoding in (("query", "log8"), ("layer_io", "int8"), ("mlp_input", "int8")):
        with pytest.raises(DipsimError, match=f"encoding {name}={encoding}: write SIGNAL"):
            lm.record(tiny(), tmp_path / "t", signals=[name], encodings={name: encoding})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_the_command_records_vectors(tmp_path: Path) -> None:
    folder, out = saved(tiny(), tmp_path / "m"), tmp_path / "t.npz"
    done = invoke(
        "record", folder, out, "--prompt", "w5 w6 w7", "--generate", "8",
        "--signals", "query,key,value,layer_io", "--encoding", "query=int8",
    )  # fmt: skip
    assert done.exit_code == 0, done
    trace = load_trace(out)
    assert list(trace.arrays) == ["query", "key", "value", "layer_io"]
    assert (trace.tokens, trace.vectors("query").encoding) == (11, "int8")
