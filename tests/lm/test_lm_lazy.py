"""Token pruning in the loop: against the plain model, and against each row computed by hand."""

import math
import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim.errors import MethodError, ModelError  # noqa: E402
from dipsim.lm.lazy import prune_tokens, pruned_perplexity  # noqa: E402
from dipsim.lm.perplexity import perplexity  # noqa: E402
from dipsim.tokens import account  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

LAYERS, PROMPT, TOKENS = 4, 20, 32
IDS = torch.randint(3, 64, (TOKENS,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def llama():
    return tiny(num_hidden_layers=LAYERS, initializer_range=0.6)


def run(model, schedule: str, ids=IDS, prompt: int = PROMPT):
    """Return the logits after each step, and the counts of the sequence."""
    with prune_tokens(model, schedule, len(ids)) as sequence:
        logits = [
            sequence(ids[:prompt]),
            *(sequence(ids[i : i + 1]) for i in range(prompt, len(ids))),
        ]
    return torch.stack(logits), account(sequence.kept, sequence.prompt)


def rotated(x, position: int, rotary):
    """RoPE of one head's vector, halves turned against each other."""
    cos, sin = rotary(x[None, None], position_ids=torch.tensor([[position]]))
    half = len(x) // 2
    turned = torch.cat([-x[half:], x[:half]])
    return x * cos[0, 0] + turned * sin[0, 0]


class ByHand:
    """A pruned Llama, one row at a time; keys and values in a dict by (token, layer)."""

    def __init__(self, model, cuts: dict[int, float], for_good: bool) -> None:
        self.model, self.cuts, self.for_good = model.model, cuts, for_good
        self.head, self.config = model.lm_head, model.config
        self.stored: dict[tuple[int, int], tuple] = {}
        self.waiting: dict[int, tuple[int, torch.Tensor]] = {}  # next layer and its input
        self.gone: set[int] = set()

    def step(self, ids, first: int):
        for i, token in enumerate(ids):
            self.waiting[first + i] = 0, self.model.embed_tokens(token)
        last = first + len(ids) - 1
        active = [token for token in range(last + 1) if token not in self.gone]
        weights: dict[int, float] = {}
        for layer, block in enumerate(self.model.layers):
            if layer in self.cuts and (first == 0 or not self.for_good):
                worst = sorted(active[:-1], key=lambda token: (weights[token], token))
                leaving = worst[: math.floor(self.cuts[layer] * (len(active) - 1) + 1e-9)]
                active = [token for token in active if token not in leaving]
                self.gone |= set(leaving) if self.for_good else set()
            fresh = [t for t in active if self.waiting[t][0] == layer]
            queries = {token: self._store(token, layer, block) for token in fresh}
            for token in fresh:
                seen = [other for other in active if other <= token]
                attended, weights = self._attend(queries[token], layer, seen)
                x = self.waiting[token][1] + block.self_attn.o_proj(attended)
                x = x + block.mlp(block.post_attention_layernorm(x))
                self.waiting[token] = layer + 1, x
        return self.head(self.model.norm(self.waiting[last][1]))

    def _store(self, token: int, layer: int, block):
        x = block.input_layernorm(self.waiting[token][1])
        dim = block.self_attn.head_dim
        query, key, value = (
            getattr(block.self_attn, name)(x).split(dim) for name in ("q_proj", "k_proj", "v_proj")
        )
        turn = self.model.rotary_emb
        self.stored[token, layer] = [rotated(k, token, turn) for k in key], value
        return [rotated(q, token, turn) for q in query]

    def _attend(self, query, layer: int, seen: list[int]):
        shared = len(query) // self.config.num_key_value_heads
        out, mean = [], torch.zeros(len(seen))
        for head, q in enumerate(query):
            keys = torch.stack([self.stored[t, layer][0][head // shared] for t in seen])
            values = torch.stack([self.stored[t, layer][1][head // shared] for t in seen])
            weight = torch.softmax(keys @ q / math.sqrt(len(q)), 0)
            out.append(weight @ values)
            mean += weight / len(query)
        return torch.cat(out), dict(zip(seen, mean.tolist(), strict=True))


@pytest.mark.parametrize("schedule", ["lazy:at=1/3,rate=0", "static:at=2,rate=0", "random:rate=0"])
def test_a_rate_of_0_is_the_plain_model(llama, schedule: str) -> None:
    logits, work = run(llama, schedule)
    with torch.no_grad():
        expected = llama(IDS[None]).logits[0, PROMPT - 1 :]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert (work.computed[1:] == 1).all()


@pytest.mark.parametrize(
    ("schedule", "cuts"),
    [
        ("lazy:at=1,rate=.5", {1: 0.5}),
        ("lazy:at=1/3,rate=.5/.7", {1: 0.5, 3: 0.7}),
        ("static:at=2,rate=.5", {2: 0.5}),
    ],
)
def test_pruned_rows_are_those_computed_by_hand(llama, schedule: str, cuts) -> None:
    logits, work = run(llama, schedule)
    twin = ByHand(llama, cuts, schedule.startswith("static"))
    with torch.no_grad():
        expected = [twin.step(IDS[:PROMPT], 0)]
        expected += [twin.step(IDS[i : i + 1], i) for i in range(PROMPT, TOKENS)]
        plain = llama(IDS[None]).logits[0, PROMPT - 1 :]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert work.computed.sum() == len(twin.stored)
    assert not torch.allclose(logits, plain, atol=1e-2)
    assert (work.revived.sum() > 0) == schedule.startswith("lazy")


@pytest.mark.parametrize("config", ["Qwen2Config", "Qwen3Config", "MistralConfig", "Phi3Config"])
def test_other_models_built_like_llama(config: str) -> None:
    more = {"sliding_window": None} if config == "MistralConfig" else {}
    model = tiny(config, num_hidden_layers=3, **more)
    logits, _ = run(model, "lazy:at=1,rate=0")
    with torch.no_grad():
        expected = model(IDS[None]).logits[0, PROMPT - 1 :]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    _, work = run(model, "lazy:at=1,rate=.5")
    assert work.active[0].tolist() == [20, 11, 11]


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        ("MistralConfig", {"sliding_window": 8}, "its layers attend to a window"),
        ("Gemma2Config", {"head_dim": 4}, "its layers attend to a window"),
        ("GPT2Config", {}, "tokens are pruned in models built as Llama is"),
        ("OPTConfig", {"ffn_dim": 24, "word_embed_proj_dim": 16}, "built as Llama is"),
        ("CohereConfig", {"logit_scale": 0.5}, "do not give what it gives"),
    ],
)
def test_models_of_another_build_are_refused_in_one_line(config, more, message: str) -> None:
    model = tiny(config, **more)
    before = model.config._attn_implementation
    with pytest.raises(ModelError, match=message), prune_tokens(model, "lazy:at=1", 8):
        pass
    assert model.config._attn_implementation == before


def test_a_model_is_as_before_afterwards(llama) -> None:
    before = llama.config._attn_implementation
    with prune_tokens(llama, "lazy:at=2,rate=.5", 8) as sequence:
        sequence(IDS[:4])
    assert llama.config._attn_implementation == before
    assert not any(module._forward_hooks for module in llama.modules())


def test_steps_that_do_not_fit_are_refused(llama) -> None:
    with prune_tokens(llama, "lazy:at=2,rate=.5", 8) as sequence:
        sequence(IDS[:6])
        with pytest.raises(ModelError, match="2 tokens after 6: give a prompt, then one token"):
            sequence(IDS[:2])
        sequence(IDS[:1])
        sequence(IDS[:1])
        with pytest.raises(ModelError, match=r"1 tokens after 8: .* 8 in all"):
            sequence(IDS[:1])
    with pytest.raises(MethodError, match="from 1 to 3"), prune_tokens(llama, "lazy:at=9", 8):
        pass


def test_perplexity_of_what_follows_a_prompt(llama) -> None:
    windows = IDS.numpy().reshape(2, 16)
    judged = pruned_perplexity(llama, windows, 10, "lazy:at=2,rate=0")
    whole = perplexity(llama, windows)
    with torch.no_grad():
        first = torch.nn.functional.cross_entropy(
            llama(torch.from_numpy(windows[:, :10])).logits[:, :-1].reshape(-1, 64),
            torch.from_numpy(windows[:, 1:10]).reshape(-1),
        )
    assert judged.tokens == 12
    assert judged.loss == pytest.approx((whole.loss * 30 - float(first) * 18) / 12, abs=1e-4)
    assert (judged.prefill, judged.computed, judged.revived, judged.read) == (1, 1, 0, 1)
    assert judged.value == pytest.approx(math.exp(judged.loss))


def test_shares_of_a_pruned_model(llama) -> None:
    windows = IDS.numpy()[None]
    judged = pruned_perplexity(llama, windows, PROMPT, "lazy:at=2,rate=.5")
    _, work = run(llama, "lazy:at=2,rate=.5", IDS[:-1])
    assert judged.prefill == pytest.approx((20 + 20 + 11 + 11) / 80)
    prompt_pairs = work.computed.sum() - LAYERS * (TOKENS - 1 - PROMPT)
    assert judged.computed == pytest.approx(prompt_pairs / (LAYERS * PROMPT))
    assert judged.revived == pytest.approx(work.revived.mean())
    dense = LAYERS * np.arange(PROMPT, TOKENS - 1).sum()
    assert judged.read == pytest.approx((work.active - work.computed)[1:].sum() / dense)
    assert 0.4 < judged.read < 1


@pytest.mark.parametrize("prompt", [0, 16])
def test_a_prompt_that_leaves_nothing_to_judge(llama, prompt: int) -> None:
    with pytest.raises(ModelError, match=f"a prompt of {prompt} tokens: give 1 to 15"):
        pruned_perplexity(llama, IDS.numpy().reshape(2, 16), prompt, "lazy:at=2")
