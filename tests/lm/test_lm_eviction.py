"""Does a model that evicts teacher-forced do what it does token by token with a real cache?"""

import inspect
import math
import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim.errors import BudgetError, ModelError  # noqa: E402
from dipsim.lm.eviction import evicting, projected_sizes  # noqa: E402
from dipsim.lm.perplexity import perplexity  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

TOKENS, BUDGET = 24, 8
IDS = torch.randint(3, 60, (1, TOKENS), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def llama():
    """Four query heads on two kv heads, whose attention is far from uniform."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


def run(model, rule, budget=BUDGET, ids=IDS, **more):
    """Logits of a call that evicts, and what was kept."""
    with evicting(model, rule, budget, **more) as evicted, torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits, evicted


def apart(one, other):
    """The largest difference of two tensors of one shape."""
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())


def token_by_token(model, score, prompt=0, evicts=True):
    """Logits of generating with transformers' own cache, which is cut after each call.

    ``score(weights, sums)`` returns new sums, [kv heads, held], and the positions to drop, [kv
    heads], from the weights of the last query.
    """
    model.set_attn_implementation("eager")
    cache = transformers.DynamicCache(config=model.config)
    takes = inspect.signature(model.forward).parameters  # the name differs between versions
    argument = "cache" if "cache" in takes else "past_key_values"
    sums, rows = {}, []
    for first, last in [(0, max(prompt, 1)), *((t, t + 1) for t in range(max(prompt, 1), TOKENS))]:
        with torch.no_grad():
            out = model(
                input_ids=IDS[:, first:last],
                position_ids=torch.arange(first, last)[None],
                attention_mask=torch.zeros(1, 1, 1, 1) if first else None,  # all that is held
                output_attentions=True,
                **{argument: cache},
            )
        rows.append(out.logits)
        for number, layer in enumerate(cache.layers):
            weights = out.attentions[number][0]
            weights = weights.reshape(2, 2, *weights.shape[1:]).sum(1)
            old = sums.get(number, torch.zeros(2, 0))
            grown = torch.nn.functional.pad(old, (0, weights.shape[-1] - old.shape[-1]))
            sums[number], keep = score(weights, grown, layer.keys.shape[2], last)
            if keep is not None and (evicts or last == prompt):
                picked = keep[None, :, :, None].expand(1, 2, -1, layer.keys.shape[3])
                layer.keys = layer.keys.gather(2, picked)
                layer.values = layer.values.gather(2, picked)
                sums[number] = sums[number].gather(1, keep)
    return torch.cat(rows, 1)


def all_but(worst, held):
    """Indices of all slots but one per head, int64[kv heads, held - 1]."""
    return torch.stack([torch.tensor([i for i in range(held) if i != int(w)]) for w in worst])


def h2o(weights, sums, held, last):
    sums = sums + weights.sum(1)
    if held <= BUDGET:
        return sums, None
    free = sums[:, : held - BUDGET // 2]  # slots are in the order of positions
    return sums, all_but(free.argmin(1), held)


def tova(weights, sums, held, last):
    sums = weights[:, -1]
    if held <= BUDGET:
        return sums, None
    return sums, all_but(sums.sum(0)[:-1].argmin().expand(2), held)


def sinks(weights, sums, held, last):
    return sums, None if held <= BUDGET else all_but(torch.tensor([4, 4]), held)


@pytest.mark.parametrize(("rule", "score"), [("h2o", h2o), ("tova", tova), ("streaming", sinks)])
def test_teacher_forced_is_token_by_token(llama, rule, score):
    forced, _ = run(llama, rule)
    assert apart(forced, llama(input_ids=IDS, use_cache=False).logits) > 1e-2
    assert apart(forced, token_by_token(llama, score)) < 1e-4


def test_a_prompt_is_cut_as_a_real_cache_is(llama):
    prompt = 15

    def best(weights, sums, held, last):
        sums = sums + weights.sum(1)
        if last != prompt:
            return sums, None
        safe = torch.full((2, BUDGET // 2), math.inf)
        ranks = torch.cat([sums[:, : prompt - BUDGET // 2], safe], 1)
        return sums, ranks.topk(BUDGET, dim=1).indices.sort(1).values

    forced, _ = run(llama, "h2o", when="prompt", prompt=prompt)
    assert apart(forced, token_by_token(llama, best, prompt, evicts=False)) < 1e-4


def test_full_is_the_dense_model_and_attention_is_put_back(llama):
    before = llama.config._attn_implementation
    dense = llama(input_ids=IDS, use_cache=False).logits
    forced, evicted = run(llama, "full", 1)
    assert apart(forced, dense) < 1e-5
    assert (evicted.mass_kept(0), evicted.output_error(0)) == pytest.approx((1, 0), abs=1e-6)
    assert llama.config._attn_implementation == before
    with pytest.raises(RuntimeError, match="stop"), evicting(llama, "h2o", BUDGET):
        raise RuntimeError("stop")
    assert llama.config._attn_implementation == before


def test_sequences_of_a_batch_are_evicted_from_alone(llama):
    other = IDS.flip(1)
    both, evicted = run(llama, "h2o", ids=torch.cat([IDS, other]))
    assert apart(both[1:], run(llama, "h2o", ids=other)[0]) < 1e-5
    assert len(evicted.replays) == 2
    first = evicted.replays[0]
    assert first.left.shape == (2, 2, TOKENS)
    assert first.held_counts()[-1].tolist() == [[BUDGET, BUDGET]] * 2
    mean = np.mean([replay.mass[5:].mean() for replay in evicted.replays])
    assert evicted.mass_kept(5) == pytest.approx(mean)
    assert evicted.output_error(5) > 0


def test_values_are_projected_head_by_head(llama):
    """Against the projection of a value in one head, all other heads zero."""
    attention = llama.model.layers[0].self_attn
    values = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    sizes = projected_sizes(attention, 4, values)
    for j in range(2):
        inputs = torch.zeros(3, 2, 4, 4)
        inputs[:, 0, 2 * j] = inputs[:, 1, 2 * j + 1] = values[:, j]
        alone = attention.o_proj(inputs.reshape(3, 2, 16)).abs().sum(-1).mean(-1)
        assert np.allclose(sizes[:, j], alone.detach().numpy(), rtol=1e-5)
    forced, _ = run(llama, "criticalkv:window=2", when="prompt", prompt=15)
    assert apart(forced, run(llama, "snapkv:window=2", when="prompt", prompt=15)[0]) > 1e-3


def test_perplexity_takes_a_model_that_evicts(llama):
    windows = IDS.numpy()
    dense = perplexity(llama, windows).value
    with evicting(llama, "window", 4, measures=False) as evicted:
        assert perplexity(llama, windows).value != pytest.approx(dense, rel=1e-3)
    assert evicted.replays == []


def test_bad_uses_are_refused_in_one_line(llama):
    with pytest.raises(BudgetError, match="no KV policy 'lru'"), evicting(llama, "lru", 8):
        pass
    with pytest.raises(ModelError, match="use_cache=False"), evicting(llama, "h2o", BUDGET):
        llama.generate(IDS, max_new_tokens=3, do_sample=False)
    with pytest.raises(BudgetError, match="KV budget 0"), evicting(llama, "h2o", 0):
        llama(input_ids=IDS, use_cache=False)
    with (
        pytest.raises(ModelError, match="cannot be replaced"),
        evicting(torch.nn.Linear(2, 2), "h2o", 8),
    ):
        pass
    windowed = tiny("MistralConfig", sliding_window=4)
    with pytest.raises(ModelError, match="a window of their own"), evicting(windowed, "h2o", 8):
        pass
