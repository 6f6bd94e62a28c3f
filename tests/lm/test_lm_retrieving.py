"""Does a model that retrieves teacher-forced do what it does token by token with a real cache?"""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

import naive.retrieval as naive  # noqa: E402
from dipsim import lm  # noqa: E402
from dipsim.analysis.evaluate import grid, judged, series_of  # noqa: E402
from dipsim.errors import BudgetError, DipsimError, ModelError  # noqa: E402
from dipsim.hardware import load_profile  # noqa: E402
from dipsim.kv.retrieval import Retrieval  # noqa: E402
from dipsim.lm.attention import attention_through  # noqa: E402
from dipsim.lm.geometry import geometry_of  # noqa: E402
from dipsim.lm.retrieving import retrieving  # noqa: E402
from tools.cli import Dipsim  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

TOKENS, BLOCK = 24, 4
IDS = torch.randint(3, 60, (1, TOKENS), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def llama() -> Any:
    """Four query heads on two kv heads, whose attention is far from uniform."""
    return steep(tiny())


def steep(model: Any) -> Any:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


def logits(model: Any, fetch: str | Retrieval, ids: Any = IDS, **more: Any) -> Any:
    """Logits of a call that retrieves, and what was lost."""
    with retrieving(model, fetch, **more) as state, torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits, state


def apart(one: Any, other: Any) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def takes_cache(model: Any) -> str:
    """The argument that takes a cache; its name differs between versions."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def token_by_token(model: Any, retrieval: Retrieval, prompt: int) -> Any:
    """Logits of generating with transformers' own cache, whose keys the last query chooses from."""
    cache = transformers.DynamicCache(config=model.config)

    def attention(attend, module, query, key, value, *_: Any, **__: Any):
        q, k, v = (each[0].transpose(0, 1).double().numpy() for each in (query, key, value))
        held, new = len(k), len(q)
        before = np.zeros((held - new, *q.shape[1:]))
        how = (retrieval.top, retrieval.block, retrieval.by, retrieval.per, prompt)
        queries = np.concatenate([before, q])
        chosen = naive.choose(queries, k, *how)
        outputs, _, _ = naive.attend(queries, k, v, chosen, retrieval.block, prompt)
        return torch.from_numpy(outputs[held - new :]).to(query)[None], None

    rows = []
    with attention_through(model, attention), torch.no_grad():
        for first, last in [(0, prompt), *((t, t + 1) for t in range(prompt, TOKENS))]:
            out = model(input_ids=IDS[:, first:last], use_cache=True, **{takes_cache(model): cache})
            rows.append(out.logits)
    return torch.cat(rows, 1)


@pytest.mark.parametrize("prompt", [1, 11])
@pytest.mark.parametrize(
    "retrieval", [Retrieval(2, BLOCK), Retrieval(1, 3, "max", "head")], ids=str
)
def test_teacher_forced_is_token_by_token(llama: Any, retrieval: Retrieval, prompt: int) -> None:
    forced, state = logits(llama, retrieval, prompt=prompt)
    dense = llama(input_ids=IDS, use_cache=False).logits.detach()
    assert apart(forced, token_by_token(llama, retrieval, prompt)) < 1e-4
    assert apart(forced[:, :prompt], dense[:, :prompt]) < 1e-5
    assert apart(forced, dense) > 1e-2
    assert 0 < state.mass_kept() < 1
    assert state.output_error() > 0


def test_blocks_of_all_positions_are_the_dense_model(llama: Any) -> None:
    dense = llama(input_ids=IDS, use_cache=False).logits.detach()
    forced, state = logits(llama, f"top={TOKENS // BLOCK}:block={BLOCK}")
    assert apart(forced, dense) < 1e-5
    assert (state.mass_kept(), state.output_error()) == pytest.approx((1, 0), abs=1e-6)


def test_sequences_of_a_batch_choose_alone(llama: Any) -> None:
    other = IDS.flip(1)
    both, state = logits(llama, "top=1:block=4", ids=torch.cat([IDS, other]))
    assert apart(both[1:], logits(llama, "top=1:block=4", ids=other)[0]) < 1e-5
    assert len(state.replays) == 2


def test_what_cannot_retrieve_is_refused(llama: Any) -> None:
    with pytest.raises(BudgetError, match="--kv-fetch all reads all"), retrieving(llama, "all"):
        pass
    windowed = tiny("MistralConfig", sliding_window=4)
    with pytest.raises(ModelError, match="retrieval takes models"):
        logits(windowed, "top=1:block=4")
    cache = transformers.DynamicCache(config=llama.config)
    again = {"input_ids": IDS[:, :3], takes_cache(llama): cache}
    llama(**again)
    with (
        pytest.raises(ModelError, match="retrieval in closed loop takes whole"),
        retrieving(llama, "top=1:block=4"),
    ):
        llama(**again)


# In eval


def rows_of(model: Any, *candidates: dict[str, Any], **more: Any) -> Any:
    loaded = lm.Loaded(model, geometry_of(model), "tiny", Path("tiny"))
    more = {"prompt": 8, "profile": load_profile("paper-a18"), **more}
    return lm.evaluate(loaded, IDS.numpy(), [("dense", each) for each in candidates], **more).rows


def test_a_row_is_judged_as_by_hand(llama: Any) -> None:
    fetch = "top=1:block=4"
    _, plain, row, all_read = rows_of(
        llama, {"kv_fetch": "all"}, {"kv_fetch": fetch}, {"kv_fetch": "top=6:block=4"}
    )
    with retrieving(llama, fetch, prompt=8) as state:
        score = lm.perplexity(llama, IDS.numpy(), prompt=8)
    kv = row.value("kv")
    assert row.value("perplexity") == score.value != plain.value("perplexity")
    assert kv["mass_kept"] == state.mass_kept(8) < 1
    assert kv["output_error"] == state.output_error(8) > 0
    assert (kv["loop"], kv["fetch"], kv["block_hit_rate"]) == ("closed", fetch, 1)
    assert kv["positions"] == np.mean([4 + t % 4 for t in range(8, TOKENS)])
    assert plain.value("kv") is None
    assert all_read.value("perplexity") == pytest.approx(plain.value("perplexity"), rel=1e-5)
    assert row.rate > plain.rate  # fewer bytes are read


def test_keys_are_rounded_before_blocks_are_chosen(llama: Any) -> None:
    row, alone = rows_of(
        llama, {"kv_fetch": "top=6:block=4", "kv_quant": "q4_0"}, {"kv_quant": "q4_0"}
    )[1:]
    assert row.value("perplexity") == pytest.approx(alone.value("perplexity"), rel=1e-5)
    assert row.value("kv")["format"] == "q4_0"


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"kv_policy": "tova", "kv_budget": "6"}, "and --kv-policy tova: blocks are made"),
        ({"kv_quant": "kivi"}, "and --kv-quant kivi, which keeps the newest"),
        ({"skip_layers": "drop:layers=1"}, "and --skip-layers drop:layers=1"),
        ({"kv_dram": "50%"}, "and --kv-dram 50%: which blocks come from flash"),
        ({"prune_tokens": "static:at=1"}, "--prune-tokens static:at=1 and --kv-fetch"),
    ],
)
def test_what_does_not_go_together_is_the_reason_of_a_row(
    llama: Any, other: dict[str, Any], text: str
) -> None:
    fetch = {"kv_fetch": "top=1:block=4"}
    apart = np.arange(3, 40)
    _, row, both = rows_of(llama, fetch, {**fetch, **other}, calibrate=apart)
    assert row.why is None
    assert text in both.why
    with pytest.raises(DipsimError, match="and"):
        rows_of(llama, {**fetch, **other}, calibrate=apart)


def test_a_grid_leaves_all_out() -> None:
    cells = grid(["dense"], {"kv_fetch": ["all", "top=1:block=4"], "kv_policy": ["full"]})
    assert cells == [("dense", {}), ("dense", {"kv_fetch": "top=1:block=4"})]
    assert series_of(judged("dip", {"kv_fetch": "top=1:block=4"})) == "dip + fetch"


def test_eval_judges_a_grid(tmp_path: Path, dipsim: Dipsim) -> None:
    folder = saved(tiny(), tmp_path / "model")
    words = np.random.default_rng(0).integers(3, 64, 400)
    (folder / "text.txt").write_text(" ".join(f"w{word}" for word in words))
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 32]
    fetched = ["--kv-fetch", "all,top=1:block=4,top=4:block=4"]
    code, shown, said = dipsim(*command, *fetched, "--prompt", 4, "--json")
    assert code == 0, said
    _, dense, few, whole = json.loads(shown)["rows"]
    assert few["settings"]["kv_fetch"] == "top=1:block=4"
    assert few["kv"]["mass_kept"] < whole["kv"]["mass_kept"] == pytest.approx(1)
    assert whole["perplexity"] == pytest.approx(dense["perplexity"], rel=1e-5)
    for bad, text in (("top=0:block=4", "top=0"), ("top=1:block=17", "context has 16 positions")):
        code, shown, said = dipsim(*command, "--kv-fetch", bad)
        assert (code, shown, len(said)) == (2, "", 1)
        assert text in said[0]
