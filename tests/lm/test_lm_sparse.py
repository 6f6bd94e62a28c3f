"""Does a running model prune as a replay does, and compute what the method says?"""

import math
import os
import sys

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim.errors import DipsimError  # noqa: E402
from dipsim.lm.harness import harness  # noqa: E402
from dipsim.lm.load import geometry_of  # noqa: E402
from dipsim.lm.loops import dense_trace, open_loop  # noqa: E402
from dipsim.lm.perplexity import perplexity  # noqa: E402
from dipsim.lm.record import record_arrays  # noqa: E402
from dipsim.lm.requantise import by_column, requantised, stored_by_column  # noqa: E402
from dipsim.lm.sparse import sparsify  # noqa: E402
from dipsim.lm.structure import find_structure  # noqa: E402
from dipsim.lm.text import read_ids, windows_of  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

LAYERS, HIDDEN, INNER, VOCAB = 2, 16, 48, 60


OWN = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER}
OWN |= {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture
def llama():
    return tiny(**OWN)


@pytest.fixture
def mixtral():
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 24}
    return tiny("MixtralConfig", **{**OWN, **experts})


IDS = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))


def top(scores, k):
    """bool mask of the k largest of each row, without dipsim."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :k], True)


def by_hand(model, method, density):
    """The logits of a pruned Llama, the MLP written out as the method's page says."""
    mlps = [layer.mlp for layer in model.model.layers]
    kept = [mlp.forward for mlp in mlps]

    def pruned(mlp):
        def forward(x):
            if method == "dip":
                x = x * top(x.abs(), math.floor(density * HIDDEN + 1e-9))
            gate, up = torch.nn.functional.silu(mlp.gate_proj(x)), mlp.up_proj(x)
            h = gate * up
            share = {"dip": density, "glu": 3 * density - 2, "glu-oracle": density}.get(
                method, (3 * density - 1) / 2
            )
            by = {"gate": gate, "up": up}.get(method, h)
            return mlp.down_proj(h * top(by.abs(), math.floor(share * INNER + 1e-9)))

        return forward

    for mlp in mlps:
        mlp.forward = pruned(mlp)
    try:
        with torch.no_grad():
            return model(IDS).logits
    finally:
        for mlp, forward in zip(mlps, kept, strict=True):
            mlp.forward = forward


@pytest.mark.parametrize("method", ["dip", "glu", "glu-oracle", "gate", "up"])
def test_a_pruned_model_computes_what_the_method_says(llama, method) -> None:
    more = {"split": "equal"} if method == "dip" else {}
    with sparsify(llama, method, density=0.75, **more) as sparse, torch.no_grad():
        found = llama(IDS).logits
    torch.testing.assert_close(found, by_hand(llama, method, 0.75))
    assert sparse.density == pytest.approx(0.75, abs=0.01)
    with torch.no_grad():
        assert not torch.allclose(llama(IDS).logits, found, atol=1e-4)  # the masks are out again


@pytest.mark.parametrize("method", ["dip", "dip-ca", "glu-oracle", "dense"])
def test_density_1_is_the_plain_model(llama, method) -> None:
    with torch.no_grad():
        plain = llama(IDS).logits
        with sparsify(llama, method, capacity=0.5, density=1.0):
            assert torch.equal(llama(IDS).logits, plain)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
def test_teacher_forced_in_one_call_is_token_by_token(llama) -> None:
    """The caches see the tokens in order, however many come in a call."""
    options = {"density": 0.6, "gamma": {"*": 0.3}}
    with torch.no_grad():
        with sparsify(llama, "dip-ca", "lru", 0.5, **options) as whole:
            at_once = llama(IDS[:1]).logits[0]
        with sparsify(llama, "dip-ca", "lru", 0.5, **options) as steps:
            cache, rows = None, []
            for t in range(IDS.shape[1]):
                done = llama(IDS[:1, t : t + 1], past_key_values=cache, use_cache=True)
                cache = done.past_key_values
                rows.append(done.logits[0, -1])
    torch.testing.assert_close(torch.stack(rows), at_once, atol=1e-5, rtol=1e-4)
    for name in ("active", "hits", "kept"):
        assert np.array_equal(getattr(whole.traffic, name), getattr(steps.traffic, name)), name


def test_a_batch_is_sequence_after_sequence(llama) -> None:
    options = {"density": 0.6, "gamma": {"*": 0.3}}
    with torch.no_grad():
        with sparsify(llama, "dip-ca", "lfu", 0.5, **options) as batch:
            both = llama(IDS).logits
        with sparsify(llama, "dip-ca", "lfu", 0.5, **options) as one:
            each = torch.cat([llama(row[None]).logits for row in IDS])
    torch.testing.assert_close(both, each)
    assert np.array_equal(batch.traffic.hits, one.traffic.hits)


@pytest.mark.parametrize("method", ["dip", "dip-ca", "gate", "predictor"])
@pytest.mark.parametrize("reset", ["never", "sequence"])
def test_the_first_layer_is_the_replay_of_its_trace(llama, method, reset) -> None:
    """Nothing is pruned before it, so what it sees is what a trace of the dense model holds."""
    windows = IDS.numpy().astype(np.int64)
    gamma = {"mlp_input": 0.5, "glu": 0.2} if method == "dip-ca" else None
    more = {"recall": 0.8, "predictor_rank": 1} if method == "predictor" else {}
    calibrate = IDS[0].tolist() if method == "predictor" else None
    with sparsify(
        llama,
        method,
        "lru",
        0.5,
        calibrate=calibrate,
        gamma=gamma,
        density=0.7,
        reset=reset,
        **more,
    ) as sparse:
        perplexity(llama, windows)
    signals = ("gate",) if method == "gate" else ("mlp_input", "glu")
    with dense_trace(llama, windows, signals) as trace:
        replayed = open_loop(sparse.live, trace).traffic
    first = 0  # the group chosen before anything was pruned
    for name in ("active", "hits", "kept"):
        ours, theirs = getattr(sparse.traffic, name), getattr(replayed, name)
        assert np.array_equal(ours[:, 0, first], theirs[:, 0, first]), name
    assert "open-loop" not in sparse.live.result().marks


def test_calibrated_thresholds(llama) -> None:
    ids = IDS.reshape(-1).tolist()
    for method in ("cats", "teal"):
        more = {"split": "equal"} if method == "teal" else {}
        with sparsify(llama, method, calibrate=ids, density=0.7, **more) as sparse, torch.no_grad():
            llama(IDS)
        assert sparse.density == pytest.approx(0.7, abs=0.05)
        assert "calibrated" in sparse.live.result().marks
    with pytest.raises(DipsimError, match="calibrated on tokens that are not judged"):
        sparsify(llama, "cats", density=0.7)


def test_dense_is_booked_as_its_replay_is(llama) -> None:
    windows = IDS.numpy().astype(np.int64)
    with sparsify(llama, "dense", "lru", 0.5, profile="paper-a18") as sparse:
        perplexity(llama, windows)
    with dense_trace(llama, windows, ("glu",)) as trace:
        replayed = open_loop(sparse.live, trace)
    ours = sparse.result()
    assert ours.hits == replayed.hits > 0
    assert ours.flash_useful_bytes_per_token == replayed.flash_useful_bytes_per_token > 0
    assert ours.tokens_per_second == pytest.approx(replayed.tokens_per_second, rel=1e-12)
    assert sparse.density == 1


def test_prompts_are_read_whole(llama) -> None:
    with sparsify(llama, "dip", density=0.5) as sparse, torch.no_grad():
        llama.generate(IDS[:1], max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert sparse.live.ran.tokens.phase.tolist() == [0] * 12 + [1] * 3
    assert sparse.traffic.active[:12].sum() == 0
    assert sparse.live.result().tokens == 3


def test_gradients_pass_what_is_kept_and_training_is_not_booked(llama) -> None:
    x = llama.get_input_embeddings()(IDS[:1]).detach().requires_grad_()
    with sparsify(llama, "dip", density=0.5) as sparse:
        llama.train()
        llama(inputs_embeds=x).logits.sum().backward()
        llama.eval()
        with pytest.raises(DipsimError, match="nothing was booked"):
            _ = sparse.traffic
    assert float(x.grad.abs().sum()) > 0


# Experts


def test_plain_routing_is_the_model_itself(mixtral) -> None:
    with torch.no_grad():
        plain = mixtral(IDS).logits
        with sparsify(mixtral, "moe", capacity=0.5) as sparse:
            torch.testing.assert_close(mixtral(IDS).logits, plain)
    assert sparse.traffic.active.max() == sparse.traffic.active.min() == 2
    assert sparse.density is None


def test_routing_prefers_what_is_there(mixtral) -> None:
    hits = []
    for rule in ("plain", "cache-prior:lambda=2,top_j=1", "drop-cold:factor=1"):
        with sparsify(mixtral, "moe", "lru", 0.4, routing=rule) as sparse, torch.no_grad():
            logits = mixtral(IDS).logits
        assert bool(logits.isfinite().all())
        hits.append(sparse.hit_rate)
    assert hits[1] > hits[0]
    assert hits[2] > hits[0]


def test_fewer_experts_are_those_of_a_model_that_uses_fewer(mixtral) -> None:
    with torch.no_grad(), sparsify(mixtral, "moe", capacity=0.5, top_k=1) as sparse:
        found = mixtral(IDS).logits
    assert sparse.traffic.active.max() == sparse.traffic.active.min() == 1
    routers = [module for module in mixtral.modules() if hasattr(module, "top_k")]
    assert {module.top_k for module in routers} == {2}
    try:
        for module in routers:
            module.top_k = 1
        with torch.no_grad():
            torch.testing.assert_close(found, mixtral(IDS).logits)
    finally:
        for module in routers:
            module.top_k = 2


def test_no_more_experts_than_the_model_uses(mixtral) -> None:
    with pytest.raises(DipsimError, match="--top-k 3: the model uses 2 experts a token"):
        sparsify(mixtral, "moe", capacity=0.5, top_k=3).__enter__()


# What goes with it


def test_weights_by_column() -> None:
    weight = torch.randn(64, 5, generator=torch.Generator().manual_seed(3))
    rounded = by_column(weight, 4, 32)
    blocks, was = rounded.reshape(2, 32, 5), weight.reshape(2, 32, 5)
    step = (was.amax(1, keepdim=True) - was.amin(1, keepdim=True)) / 15
    assert bool(((blocks - was).abs() <= 0.51 * step + 1e-3).all())
    assert all(len(blocks[b, :, c].unique()) <= 16 for b in range(2) for c in range(5))
    constant = torch.full((32, 1), 0.25)
    assert torch.equal(by_column(constant, 4, 32), constant)


def test_parts_beside_the_mlp_keep_the_storage_of_their_own() -> None:
    own = {"head": 8.5, "gate": 6.0, "down": 6.0}
    stored = stored_by_column({"bits": 4.5, "parts": own}, 3, 32)
    assert stored["parts"] == {"head": 8.5}
    assert stored["quant"]["bits"] == 3
    assert "bits" not in stored


def test_scales_of_what_is_stored_by_column_travel_with_a_column(llama) -> None:
    rows = {**(geometry_of(llama) or {}), "quant": {"format": "x", "bits": 4.0, "zero_bytes": 2.0}}
    budgets = []
    for sizes in (rows, stored_by_column(rows, 4, 16)):
        with sparsify(
            llama, "dip", profile="paper-a18", geometry=sizes, dram="1 MB", density=0.5
        ) as sparse:
            budgets.append(sparse.live.run.budget)
    kept, moved = budgets
    assert kept.static.scales > 0 == moved.static.scales
    # 4 bits, and 2 + 2 bytes for 16 weights: 6 bits for each of gate, up and down
    assert moved.units_bytes == 3 * HIDDEN * INNER * LAYERS * 6 / 8


def test_requantised_is_undone(llama) -> None:
    structure = find_structure(llama)
    before = llama.model.layers[0].mlp.up_proj.weight.clone()
    with requantised(structure, group=16) as changed:
        assert len(changed) == 3 * LAYERS
        assert not torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)
    assert torch.equal(llama.model.layers[0].mlp.up_proj.weight, before)
    with pytest.raises(DipsimError, match="give a group that divides"), requantised(structure):
        pass


def test_perplexity_of_a_model_that_knows_nothing(llama) -> None:
    torch.nn.init.zeros_(llama.lm_head.weight)
    found = perplexity(llama, IDS.numpy())
    assert found.value == pytest.approx(VOCAB)
    assert found.tokens == 2 * 11


def test_windows(tmp_path) -> None:
    ids = np.arange(25)
    assert windows_of(ids, 10).tolist() == [list(range(10)), list(range(10, 20))]
    assert len(windows_of(ids, 10, 15)) == 1
    with pytest.raises(DipsimError, match="25 tokens, fewer than a window of 26"):
        windows_of(ids, 26)
    with pytest.raises(DipsimError, match="at least 2"):
        windows_of(ids, 1)
    with pytest.raises(DipsimError, match="cannot be read"):
        read_ids(tmp_path / "none.txt", None)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DipsimError, match="not a text"):
        read_ids(tmp_path / "bad.txt", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nonsense"}, "no method 'nonsense'"),
        ({"method": "recorded"}, "cannot prune a running model"),
        ({"method": "glu", "density": 0.5}, "cannot reach density 0.5"),
        ({"method": "moe"}, "expert"),
        ({"method": "dip", "policy": "belady"}, "must know the future"),
        ({"method": "dip", "scope": "global"}, "works on traces only"),
        ({"method": "dip", "allocate": "optimal"}, "--allocate optimal works on traces only"),
        ({"method": "dip", "capacity": np.zeros((1, 1), np.int64)}, "layers and groups"),
    ],
)
def test_what_a_running_model_cannot_do_is_said_in_a_line(llama, options, message) -> None:
    with pytest.raises(DipsimError, match=message) as said:
        sparsify(llama, **options)
    assert "\n" not in str(said.value)


def test_result_needs_a_device(llama) -> None:
    with sparsify(llama, "dip", density=0.7) as sparse, torch.no_grad():
        llama(IDS)
    with pytest.raises(DipsimError, match="give sparsify a profile"):
        sparse.result()
    with sparsify(llama, "dip", density=0.7, profile="snapdragon8") as timed, torch.no_grad():
        llama(IDS)
    assert timed.result().tokens_per_second > 0


def test_a_plain_mlp_has_no_gate() -> None:
    model = tiny("OPTConfig", **OWN, ffn_dim=INNER, word_embed_proj_dim=HIDDEN)
    for method in ("dip", "gate"):
        with pytest.raises(DipsimError, match="gate"):
            sparsify(model, method)
    with sparsify(model, "glu-oracle", density=0.5) as sparse, torch.no_grad():
        model(IDS)
    assert sparse.density == pytest.approx(0.5)


def test_the_harness_says_what_to_install(llama, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["dipsim.lm.harness"], "find_spec", lambda name: None)
    with pytest.raises(DipsimError, match="pip install lm-eval"):
        harness(llama, None)


def test_a_recording_in_memory_is_a_trace(llama) -> None:
    arrays = record_arrays(llama, [1, 2, 3], ("mlp_input", "glu"))
    assert arrays["mlp_input"].shape == (3, LAYERS, HIDDEN)
