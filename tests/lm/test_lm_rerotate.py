"""Positions counted anew inside the cache: against a cache that stores keys before RoPE."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim.errors import ModelError  # noqa: E402
from dipsim.lm.eviction import evicting  # noqa: E402
from dipsim.lm.rotary import rotary_frequencies  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

TOKENS, BUDGET, SINKS = 24, 8, 3
IDS = torch.randint(3, 60, (1, TOKENS), generator=torch.Generator().manual_seed(2))


def sharp(config="LlamaConfig", **more):
    """Four query heads on two kv heads of four numbers, whose attention is far from uniform."""
    model = tiny(config, **more)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


def logits(model, rule, budget=BUDGET, **more):
    with evicting(model, rule, budget, **more), torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits[0]


def rotated(vectors, slots, frequencies):
    """float[heads, n, dim], vectors before RoPE at these slots."""
    angles = slots[:, None] * torch.cat([frequencies, frequencies])
    one, other = vectors.chunk(2, dim=-1)
    return vectors * angles.cos() + torch.cat([-other, one], dim=-1) * angles.sin()


@torch.no_grad()
def token_by_token(model, budget=BUDGET, prompt=0):
    """Logits of a Llama written out: its caches hold keys before RoPE, rotated by slot when used,
    and are cut to the first and the newest; a prompt is whole until its last token."""
    frequencies, rows = torch.tensor([1.0, 0.01]), []
    caches = [[] for _ in model.model.layers]
    for t, token in enumerate(IDS[0]):
        state = model.model.embed_tokens(token)[None]
        for layer, cache in zip(model.model.layers, caches, strict=True):
            attention, x = layer.self_attn, layer.input_layernorm(state)
            cache.append((attention.k_proj(x).view(2, 4), attention.v_proj(x).view(2, 4)))
            slots = torch.arange(len(cache)).float()
            keys = rotated(torch.stack([key for key, _ in cache], 1), slots, frequencies)
            query = rotated(attention.q_proj(x).view(4, 1, 4), slots[-1:], frequencies)
            weights = (query @ keys.repeat_interleave(2, 0).mT / 2).softmax(-1)
            values = torch.stack([value for _, value in cache], 1).repeat_interleave(2, 0)
            state = state + attention.o_proj((weights @ values).reshape(1, 16))
            state = state + layer.mlp(layer.post_attention_layernorm(state))
            if len(cache) > budget and t + 1 >= prompt:
                cache[:] = cache[:SINKS] + cache[len(cache) - (budget - SINKS) :]
        rows.append(model.lm_head(model.model.norm(state)))
    return torch.cat(rows)


@pytest.mark.parametrize(("when", "prompt"), [("token", None), ("both", 15)])
def test_it_is_a_cache_that_rotates_by_slot(when, prompt):
    model, rule = sharp(), f"streaming:sinks={SINKS},rerotate=yes"
    turned = logits(model, rule, when=when, prompt=prompt)
    assert (turned - token_by_token(model, prompt=prompt or 0)).abs().max() < 1e-4
    plain = logits(model, f"streaming:sinks={SINKS}", when=when, prompt=prompt)
    assert (turned - plain).abs().max() > 1e-2


def test_a_budget_of_all_tokens_is_dense():
    model = sharp()
    with torch.no_grad():
        dense = model(input_ids=IDS, use_cache=False).logits[0]
    assert (logits(model, "streaming:rerotate=yes", TOKENS) - dense).abs().max() < 1e-5
    assert (token_by_token(model, TOKENS) - dense).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("Qwen3Config", {"head_dim": 4}),
        ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    ],
)
def test_frequencies_are_those_that_keys_are_turned_by(config, more):
    found = rotary_frequencies(tiny(config, **more))
    factor = more.get("rope_parameters", {}).get("factor", 1)
    assert found == pytest.approx([1 / factor, 0.01 / factor])


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("GPT2Config", {}),  # positions are learned
        ("GPTNeoXConfig", {}),  # a quarter of each head turns
        ("CohereConfig", {}),  # neighbours turn together
        ("LlamaConfig", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
        ("SmolLM3Config", {"num_hidden_layers": 4}),  # the fourth layer does not turn
    ],
)
def test_other_rotations_are_refused_in_one_line(config, more):
    with pytest.raises(ModelError, match=r"^[^\n]*RoPE does not turn halves[^\n]*rerotate=no$"):
        rotary_frequencies(tiny(config, **more))
