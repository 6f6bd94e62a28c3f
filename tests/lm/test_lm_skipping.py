"""Layer skipping in the loop: against models without the layers, and against layers run by hand."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dipsim import lm  # noqa: E402
from dipsim.errors import DipsimError, ModelError  # noqa: E402
from dipsim.layers import Calibration, LayerRule, Schedule, decide, load_rule  # noqa: E402
from dipsim.trace import Tokens, load_trace  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

LAYERS, TOKENS = 4, 20
IDS = torch.stack([torch.arange(3, 3 + TOKENS), torch.arange(30, 30 + TOKENS)])
TEXT = np.random.default_rng(0).integers(3, 64, (3, 16))
PLANNED = ["drop", "unified", "skipdecode", "early-exit", "early-exit:by=saturation"]
JUDGED = ["similarity:by=oracle", "similarity:by=previous", "similarity:by=calibrated"]


def model_of(family: str = "LlamaConfig", **more: Any) -> Any:
    """Return a tiny model whose layers move their input by more than those of a new one do."""
    model = tiny(family, num_hidden_layers=LAYERS, **more)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and weight.shape[0] != 64:
                weight *= 8
    return model


def logits(model: Any, ids: Any = IDS) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@dataclass(frozen=True)
class _Table(Schedule):
    table: tuple[tuple[bool, ...], ...]
    full: int = 0

    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        skip = np.array(self.table)[rows.position, layer]
        return np.where(skip, 0, 10).astype(np.uint8)


@dataclass(frozen=True)
class Table(LayerRule):
    """Skips what a table bool[positions, layers] says, in every sequence."""

    name: ClassVar[str] = "table"
    table: tuple[tuple[bool, ...], ...] = ()

    def fit(self, calibration: Calibration) -> Schedule:
        return _Table(self.table)


def random_table(seed: int, share: float = 0.4) -> np.ndarray:
    table = np.random.default_rng(seed).random((TOKENS, LAYERS)) < share
    table[0] = False
    return table


def rule_of(table: np.ndarray) -> Table:
    return Table(tuple(map(tuple, table.tolist())))


@pytest.mark.parametrize("skip_kv", ["project", "hole", "copy"])
@pytest.mark.parametrize("rule", PLANNED)
def test_share_0_is_the_dense_model(rule: str, skip_kv: Any) -> None:
    model = model_of()
    dense = logits(model)
    given = rule + (",share=0" if "=" in rule else ":share=0")
    with lm.skip_layers(model, given, TEXT, skip_kv=skip_kv) as skipping:
        torch.testing.assert_close(logits(model), dense)
    assert skipping.share == 0
    assert torch.equal(logits(model), dense)


def test_layers_left_out_for_all_tokens_are_not_there() -> None:
    model, smaller = model_of(), model_of()
    smaller.model.layers = torch.nn.ModuleList([smaller.model.layers[i] for i in (0, 3)])
    wanted = logits(smaller)
    for skip_kv in ("project", "hole", "copy"):
        with lm.skip_layers(
            model, "drop:layers=1-2,full=0", TEXT, skip_kv=skip_kv, factors=False
        ) as skipping:  # type: ignore[arg-type]
            torch.testing.assert_close(logits(model), wanted)
        assert skipping.share == 0.5
    with lm.skip_layers(model, "drop:layers=1-2", TEXT, factors=False):
        assert not torch.allclose(logits(model), wanted)  # its first tokens run fully


def by_hand(model: Any, table: np.ndarray, skip_kv: str, gain: Any) -> Any:
    """Run a Llama layer by layer on one sequence, each token attending to what is there."""
    inner = model.model
    x = inner.embed_tokens(IDS[:1])
    positions = torch.arange(TOKENS)[None]
    cos, sin = inner.rotary_emb(x, positions)
    below: list[Any] = []
    for number, layer in enumerate(inner.layers):
        skip = table[:, number]
        normed = layer.input_layernorm(x)[0]
        attention = layer.self_attn

        def heads(projected: Any) -> Any:
            return projected.view(TOKENS, -1, 4).transpose(0, 1)

        def rotated(y: Any) -> Any:
            half = torch.cat([-y[..., 2:], y[..., :2]], -1)
            return y * cos[0] + half * sin[0]

        q = rotated(heads(attention.q_proj(normed)))
        k, v = rotated(heads(attention.k_proj(normed))), heads(attention.v_proj(normed))
        if skip_kv == "copy" and below:
            for token in np.flatnonzero(skip):
                k[:, token], v[:, token] = below[0][:, token], below[1][:, token]
        below = [k.clone(), v.clone()]
        outputs = []
        for token in range(TOKENS):
            if skip[token]:
                outputs.append(x[0, token] * float(gain[number]))
                continue
            seen = [p for p in range(token + 1) if skip_kv != "hole" or not skip[p]]
            attended = []
            for head in range(4):
                weights = torch.softmax(q[head, token] @ k[head // 2, seen].T * 0.5, -1)
                attended.append(weights @ v[head // 2, seen])
            middle = x[0, token] + attention.o_proj(torch.cat(attended))
            outputs.append(middle + layer.mlp(layer.post_attention_layernorm(middle)))
        x = torch.stack(outputs)[None]
    return model.lm_head(inner.norm(x))


@pytest.mark.parametrize("skip_kv", ["project", "hole", "copy"])
def test_tokens_see_what_is_there_of_skipped_layers(skip_kv: Any) -> None:
    model, table = model_of(), random_table(1)
    with lm.skip_layers(model, rule_of(table), TEXT, skip_kv=skip_kv) as skipping:
        found = logits(model)[:1]
    with torch.no_grad():
        torch.testing.assert_close(found, by_hand(model, table, skip_kv, skipping.gain))
        others = {kind: by_hand(model, table, kind, skipping.gain) for kind in ("project", "hole")}
    assert skipping.share == pytest.approx(table.mean())
    assert (np.abs(skipping.gain - 1) > 1e-3).all()
    assert not torch.allclose(others["project"], others["hole"])


@pytest.mark.parametrize(
    "rule", ["drop:layers=1", "unified:share=.5", "skipdecode:share=.3", "early-exit:layers=2"]
)
def test_a_hole_that_no_running_token_looks_into_changes_nothing(rule: str) -> None:
    """Whoever runs a layer under these rules sees tokens alone that ran it too."""
    model = model_of()
    said = []
    for skip_kv in ("project", "hole", "copy"):
        with lm.skip_layers(model, rule, TEXT, skip_kv=skip_kv) as skipping:  # type: ignore[arg-type]
            said.append(logits(model))
        assert skipping.share > 0.1
    torch.testing.assert_close(said[1], said[0])
    torch.testing.assert_close(said[2], said[0])


@pytest.mark.parametrize("family", ["Gemma2Config", "MistralConfig", "GPT2Config", "CohereConfig"])
@pytest.mark.parametrize("skip_kv", ["project", "hole", "copy"])
def test_other_families_skip_too(family: str, skip_kv: Any) -> None:
    """Layers nobody runs are not there, whatever the family; windows hide positions besides."""
    more: dict[str, Any] = {
        "Gemma2Config": {"head_dim": 8, "sliding_window": 5},
        "MistralConfig": {"sliding_window": 6},
        "GPT2Config": {"n_embd": 16, "n_inner": 24, "n_layer": LAYERS, "n_head": 4},
    }.get(family, {})
    model = model_of(family, **more)
    everyone = np.zeros((TOKENS, LAYERS), np.bool_)
    everyone[:, 1:3] = True
    dense = logits(model)
    with lm.skip_layers(model, rule_of(everyone), TEXT, skip_kv=skip_kv, factors=False):
        found = logits(model)
    layers = model.transformer.h if family == "GPT2Config" else model.model.layers
    kept = torch.nn.ModuleList([layers[0], layers[3]])
    if family == "GPT2Config":
        model.transformer.h = kept
    else:
        model.model.layers = kept
        model.config.num_hidden_layers = 2
    torch.testing.assert_close(found, logits(model))
    assert not torch.allclose(found, dense)


@pytest.mark.parametrize("rule", [*JUDGED, "early-exit:by=saturation"])
def test_the_loop_decides_as_a_trace_does_as_long_as_nothing_was_skipped(rule: str) -> None:
    """On the first layer that skips a token, what a layer is given is that of the dense model."""
    model = model_of()
    given = rule + ",share=.3"
    arrays = lm.record_arrays(model, IDS, ["layer_io"])
    calibration = load_trace(lm.record_arrays(model, torch.from_numpy(TEXT), ["layer_io"]))
    schedule = load_rule(given).fit(
        Calibration(LAYERS, calibration.rows, calibration.vectors("layer_io").read()[..., 4])
    )
    trace = load_trace(arrays)
    cosine = trace.vectors("layer_io").read()[..., 4]
    seen: list[np.ndarray] = []
    with lm.skip_layers(model, given, TEXT) as skipping:
        decide_one = skipping._decide

        def noting(layer: int) -> Any:
            skip = decide_one(layer)
            seen.append(skip.numpy().ravel())
            return skip

        skipping._decide = noting  # type: ignore[method-assign]
        logits(model)
    assert len(seen) == LAYERS
    first = next(layer for layer in range(LAYERS) if seen[layer].any())
    for layer in range(first + 1):
        wanted = schedule.layer(layer, trace.rows, cosine) == 0
        wanted &= trace.position >= schedule.full
        np.testing.assert_array_equal(seen[layer], wanted)
    assert skipping.share == np.mean(seen)


def test_factors_are_mean_gains_of_calibration() -> None:
    model = model_of()
    io = lm.record_arrays(model, torch.from_numpy(TEXT), ["layer_io"])["layer_io"]
    later = np.tile(np.arange(16) >= 2, 3)
    skipping = lm.skip_layers(model, "drop:layers=1,full=2", TEXT)
    np.testing.assert_allclose(skipping.gain, io[later][..., 5].mean(axis=0), rtol=1e-5)
    mean = io[later][..., 4].mean(axis=0)
    with skipping:
        logits(model)
    assert skipping.share == pytest.approx((1 - 2 / TOKENS) / LAYERS)
    dropped = decide(
        "drop:layers=1,full=2", load_trace({"layer_io": io, "sequence": np.repeat([0, 1, 2], 16)})
    )
    assert np.flatnonzero(dropped[5] == 0).tolist() == [int(mean.argmax())]


def test_perplexity_of_a_model_that_skips() -> None:
    model = model_of()
    dense = lm.perplexity(model, TEXT).value
    with lm.skip_layers(model, "drop:layers=2", TEXT):
        assert lm.perplexity(model, TEXT).value != dense
    assert lm.perplexity(model, TEXT).value == dense


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("recorded", {}, "recorded and partial modes do not run in the loop"),
        ("similarity:partial=.2", {}, "recorded and partial modes do not run in the loop"),
        ("similarity", {"skip_kv": "hole"}, "skip-kv hole with layer rule similarity"),
        ("similarity:by=previous", {"skip_kv": "copy"}, "known only when the layer has run"),
        ("drop", {"skip_kv": "none"}, "skip-kv 'none': give one of project, hole, copy"),
        ("drop:layers=9", {}, "layers=9, the model has 4"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(
    rule: str, options: dict[str, Any], message: str
) -> None:
    model = model_of()
    dense = logits(model)
    with pytest.raises(DipsimError, match=message):
        lm.skip_layers(model, rule, TEXT, **options)
    assert torch.equal(logits(model), dense)


def test_a_cache_is_refused_and_the_hooks_go() -> None:
    model = model_of()
    with lm.skip_layers(model, "drop", TEXT), pytest.raises(ModelError, match="without a KV cache"):
        model.generate(IDS[:1], max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
