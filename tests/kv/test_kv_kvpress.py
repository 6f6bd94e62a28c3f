"""Prompts cut by dipsim and by kvpress (Apache-2.0), an independent program: the same positions.

Only the modules of single rules are loaded: the package itself needs libraries for data sets, and
patches the attention of every model in the process.
"""

import importlib
import importlib.util
import os
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)

from dipsim.kv.replay import replay  # noqa: E402
from dipsim.kv.share import pyramid  # noqa: E402

HEADS, KV_HEADS, DIM, PROMPT, LAYERS = 6, 2, 8, 60, 3
GROUP = HEADS // KV_HEADS


@pytest.fixture(scope="module")
def presses():
    """The modules of kvpress by name."""
    spec = importlib.util.find_spec("kvpress")
    if spec is None:
        assert "CI" not in os.environ, "CI installs kvpress"
        pytest.skip("needs kvpress: pip install --no-deps kvpress")
    known = set(sys.modules)
    package = types.ModuleType("kvpress")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["kvpress"] = package
    yield lambda name: importlib.import_module(f"kvpress.presses.{name}_press")
    for name in set(sys.modules) - known:
        if name.partition(".")[0] == "kvpress":
            del sys.modules[name]


def vectors(seed):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(PROMPT, 1, n * DIM)) for n in (HEADS, KV_HEADS, KV_HEADS)]


def heads_first(array):
    """float64[1, heads, tokens, dim], as transformers has it."""
    return torch.from_numpy(array[:, 0].reshape(PROMPT, -1, DIM)).transpose(0, 1)[None]


def kept_by_press(press, arrays, layer=0, layers=LAYERS):
    """Sorted positions per kv head that a press keeps of a prompt."""
    q, k, v = map(heads_first, arrays)
    logits = q @ k.repeat_interleave(GROUP, 1).transpose(2, 3) / DIM**0.5
    later = torch.ones(PROMPT, PROMPT, dtype=torch.bool).triu(1)
    attention = logits.masked_fill(later, -torch.inf).softmax(-1)
    config = SimpleNamespace(
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        num_hidden_layers=layers,
        _attn_implementation="sdpa",
    )
    module = SimpleNamespace(config=config, head_dim=DIM, layer_idx=layer)
    # Values that number the positions: the press hands back those of what it keeps.
    numbered = torch.arange(PROMPT, dtype=torch.float64)[None, None, :, None].expand_as(v)
    hidden = torch.zeros(1, PROMPT, KV_HEADS)
    _, values = press.compress(module, hidden, k, numbered, attention, {})
    if hasattr(module, "masked_key_indices"):
        _, head, position = module.masked_key_indices
        masked = torch.zeros(KV_HEADS, PROMPT, dtype=torch.bool)
        masked[head, position] = True
        return [np.flatnonzero(~row).tolist() for row in masked.numpy()]
    return [sorted(map(int, row[:, 0])) for row in values[0]]


def kept_by_dipsim(rule, arrays, budget):
    result = replay(rule, budget, *arrays, head_dim=DIM, when="prompt", prompt=PROMPT)
    return [result.held(0, j, PROMPT - 1).tolist() for j in range(KV_HEADS)]


ONE_SHOT = [
    ("snapkv:window=8", "snapkv", "SnapKVPress", {"window_size": 8}),
    ("snapkv:window=5,kernel=3", "snapkv", "SnapKVPress", {"window_size": 5, "kernel_size": 3}),
    ("tova", "tova", "TOVAPress", {}),
    ("observed", "observed_attention", "ObservedAttentionPress", {}),
    ("streaming", "streaming_llm", "StreamingLLMPress", {}),
    ("streaming:sinks=7", "streaming_llm", "StreamingLLMPress", {"n_sink": 7}),
    ("keydiff:every=1000", "keydiff", "KeyDiffPress", {}),
    ("knorm", "knorm", "KnormPress", {}),
]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
@pytest.mark.parametrize(
    ("rule", "module", "name", "given"), ONE_SHOT, ids=[rule for rule, *_ in ONE_SHOT]
)
def test_the_same_positions_are_kept(presses, rule, module, name, given, ratio):
    press = getattr(presses(module), name)(compression_ratio=ratio, **given)
    budget = max(1, int(PROMPT * (1 - ratio)))
    for seed in range(3):
        arrays = vectors(seed)
        assert kept_by_dipsim(rule, arrays, budget) == kept_by_press(press, arrays)


@pytest.mark.parametrize("safe", [0.2, 0.8])
def test_heads_share_alike(presses, safe):
    sizes = set()
    for seed in range(3):
        arrays = vectors(seed)
        inner = presses("snapkv").SnapKVPress(compression_ratio=0.5, window_size=8)
        press = presses("adakv").AdaKVPress(inner, alpha_safeguard=safe)
        kept = kept_by_dipsim(f"adakv:window=8,safe={safe}", arrays, PROMPT // 2)
        assert kept == kept_by_press(press, arrays)
        sizes |= {len(own) for own in kept}
    assert len(sizes) > 1


@pytest.mark.parametrize("first", [0.25, 0.5])
def test_projected_values_weigh_alike(presses, first):
    for seed in range(3):
        arrays = vectors(seed)
        q, k, v = map(heads_first, arrays)
        logits = q @ k.repeat_interleave(GROUP, 1).transpose(2, 3) / DIM**0.5
        later = torch.ones(PROMPT, PROMPT, dtype=torch.bool).triu(1)
        weights = logits.masked_fill(later, -torch.inf).softmax(-1)
        projection = torch.nn.Linear(HEADS * DIM, 12, bias=False, dtype=torch.float64)
        config = SimpleNamespace(
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=DIM, hidden_size=12
        )
        module = SimpleNamespace(config=config, o_proj=projection, num_key_value_groups=GROUP)
        inner = presses("snapkv").SnapKVPress(compression_ratio=0.5, window_size=4)
        press = presses("criticalkv").CriticalKVPress(inner, first_stage_ratio=first)
        with torch.no_grad():
            scores = press.score(module, torch.zeros(1, PROMPT, 1), k, v, weights, {})[0]
            sizes = press.vwl1norm(v, module)[0].T.numpy()
        theirs = scores.topk(PROMPT // 2, dim=-1).indices.sort(-1).values.tolist()
        result = replay(
            f"criticalkv:window=4,first={first}",
            PROMPT // 2,
            *arrays,
            head_dim=DIM,
            prompt=PROMPT,
            projected=sizes[:, None],
        )
        assert [result.held(0, j, PROMPT - 1).tolist() for j in range(KV_HEADS)] == theirs


def test_keys_are_cut_block_by_block_alike(presses):
    for seed in range(3):
        arrays = vectors(seed)
        inner = presses("keydiff").KeyDiffPress(compression_ratio=0.5)
        press = presses("block").BlockPress(inner, block_size=7)
        arrays[0] = np.zeros_like(arrays[0])
        press_keeps = kept_by_blocks(press, arrays)
        assert kept_by_dipsim("keydiff:every=7", arrays, PROMPT // 2) == press_keeps


def kept_by_blocks(press, arrays):
    """As `kept_by_press`, for presses that take no attention."""
    _, k, v = map(heads_first, arrays)
    numbered = torch.arange(PROMPT, dtype=torch.float64)[None, None, :, None].expand_as(v)
    module = SimpleNamespace(head_dim=DIM)
    hidden = torch.zeros(1, PROMPT, KV_HEADS)
    _, values = press.compress(module, hidden, k, numbered, None, {})
    return [sorted(map(int, row[:, 0])) for row in values[0]]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_a_pyramid_is_built_alike(presses, ratio):
    press = presses("pyramidkv").PyramidKVPress(compression_ratio=ratio, window_size=4, beta=3)
    config = SimpleNamespace(num_hidden_layers=7)
    theirs = [
        press.get_layer_budget(SimpleNamespace(config=config, layer_idx=layer), PROMPT)
        for layer in range(7)
    ]
    assert pyramid(PROMPT * (1 - ratio), 7, PROMPT, 4, 3).tolist() == theirs


def test_the_layers_of_a_pyramid_keep_the_same_positions(presses):
    press = presses("pyramidkv").PyramidKVPress(compression_ratio=0.6, window_size=4, beta=3)
    draw = np.random.default_rng(4)
    stacked = [draw.normal(size=(PROMPT, LAYERS, n * DIM)) for n in (HEADS, KV_HEADS, KV_HEADS)]
    rule = "pyramidkv:window=4,beta=3"
    result = replay(rule, "40%", *stacked, head_dim=DIM, prompt=PROMPT)
    for layer in range(LAYERS):
        own = [array[:, layer : layer + 1] for array in stacked]
        theirs = kept_by_press(press, own, layer)
        assert [result.held(layer, j, PROMPT - 1).tolist() for j in range(KV_HEADS)] == theirs
    assert len(set(result.eviction.budgets)) == LAYERS
