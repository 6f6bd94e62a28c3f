"""Does `dipsim eval` judge eviction, rounding, pruned tokens and skipped layers beside masks?"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm  # noqa: E402
from dipsim.analysis.evaluate import (  # noqa: E402
    Evaluation,
    best_rates,
    calibration_of,
    grid,
    judged,
    series_of,
)
from dipsim.errors import DipsimError  # noqa: E402
from dipsim.hardware import load_profile  # noqa: E402
from dipsim.lm.geometry import geometry_of  # noqa: E402
from dipsim.lm.lazy import pruned_perplexity  # noqa: E402
from dipsim.model import load_model  # noqa: E402
from dipsim.sweep.point import Cell  # noqa: E402
from tools.cli import Dipsim  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

WINDOW, PROMPT, BUDGET = 24, 12, 6
IDS = np.random.default_rng(4).integers(3, 64, (3, WINDOW))
APART = np.random.default_rng(5).integers(3, 64, 4 * WINDOW)
TOVA = {"kv_policy": "tova", "kv_budget": str(BUDGET)}
DROP = {"skip_layers": "drop:layers=1-2,full=0"}


def steep(model: Any) -> Any:
    """Return a model whose attention is far from uniform."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


def loaded_of(model: Any) -> Any:
    return lm.Loaded(model, geometry_of(model), "tiny", Path("tiny"))


def rows_of(model: Any, *candidates: tuple[str, dict[str, Any]], **more: Any) -> list[Cell]:
    """The rows of some candidates, without the first."""
    more = {"prompt": PROMPT, "calibrate": APART, "profile": load_profile("paper-a18"), **more}
    found = lm.evaluate(loaded_of(model), IDS, candidates, **more)
    return list(found.rows[1:])


def same(one: Cell, other: Cell, *but: str) -> None:
    """Two rows have the same figures."""
    figures = {*(one.figures or {})} - {"kv", "layers", "tokens", *but}
    assert {name: one.value(name) for name in figures} == {
        name: other.value(name) for name in figures
    }


# Grids and series


def test_a_grid_leaves_out_what_does_not_act() -> None:
    axes = {
        "kv_policy": ["full", "tova"],
        "kv_budget": ["8", "16"],
        "skip_layers": ["none", "drop"],
    }
    cells = grid(["dense"], {**axes, "skip_kv": ["hole"]})
    assert cells == [
        ("dense", {}),
        ("dense", {"skip_layers": "drop", "skip_kv": "hole"}),
        *(
            ("dense", {"kv_policy": "tova", "kv_budget": budget, **skip})
            for budget in ("8", "16")
            for skip in ({}, {"skip_layers": "drop", "skip_kv": "hole"})
        ),
    ]


def test_what_refines_nothing_is_refused() -> None:
    with pytest.raises(
        DipsimError, match=r"--kv-budget is for a --kv-policy: add one, e\.g\. tova"
    ):
        grid(["dense"], {"kv_budget": ["8"]})
    with pytest.raises(DipsimError, match="--skip-kv is for a --skip-layers"):
        grid(["dense"], {"skip_kv": ["hole"], "skip_layers": []})


def test_a_series_is_a_method_and_the_systems_beside_it() -> None:
    both = judged("dip", {**TOVA, **DROP}, perplexity=11.0, tokens_per_second=9.0)
    assert series_of(both) == "dip + tova + drop"
    rows = [
        judged("dense", {}, perplexity=10.0),
        judged("dip", {}, perplexity=10.4, tokens_per_second=5.0, energy_kept={"glu": 0.9}),
        both,
    ]
    rates = {
        series: {loss: row and row.rate for loss, row in best.items()}
        for series, best in best_rates(rows, 10.0, [0.5, 1.0])[""].items()
    }
    assert rates == {"dip": {0.5: 5.0, 1.0: 5.0}, "dip + tova + drop": {0.5: None, 1.0: 9.0}}
    points = calibration_of(Evaluation("m", 9, 3, None, tuple(rows)))["points"]
    assert [point["perplexity"] for point in points] == [10.4]  # of masks alone


# Rows of a running model


def test_what_does_not_act_changes_nothing() -> None:
    """A budget of the window, no token pruned, no layer skipped, nothing rounded."""
    model = steep(tiny())
    plain, all_held, none_pruned, none_skipped, none_rounded = rows_of(
        model,
        ("dense", {}),
        ("dense", {"kv_policy": "tova", "kv_budget": str(WINDOW)}),
        ("dense", {"prune_tokens": "lazy:at=1,rate=0"}),
        ("dense", {"skip_layers": "similarity:share=0,by=previous"}),
        ("dense", {"kv_quant": f"kivi:residual={WINDOW}"}),
    )
    for row in (all_held, none_pruned, none_skipped, none_rounded):
        assert row.value("perplexity") == pytest.approx(plain.value("perplexity"), rel=1e-5)
        same(row, plain, "perplexity", "loss")
    assert all_held.value("kv")["mass_kept"] == pytest.approx(1)
    assert all_held.value("kv")["output_error"] == pytest.approx(0, abs=1e-9)
    assert none_pruned.value("tokens")["computed"] == 1
    assert none_skipped.value("layers")["skipped"] == 0


@pytest.mark.parametrize("method", ["dense", "dip", "dip-ca", "gate", "cats"])
def test_systems_and_masks_that_do_not_act_are_the_masks_alone(method: str) -> None:
    own = {} if method == "dense" else {"density": 0.8}
    off = {"kv_policy": "h2o", "kv_budget": str(WINDOW), "skip_layers": "unified:share=0"}
    alone, beside = rows_of(steep(tiny()), (method, own), (method, {**own, **off}))
    same(alone, beside, "perplexity", "loss", "energy_kept")
    assert beside.value("perplexity") == pytest.approx(alone.value("perplexity"), rel=1e-5)


@pytest.mark.parametrize("when", ["token", "prompt", "both"])
def test_rows_that_evict_are_judged_as_by_hand(when: str) -> None:
    model = steep(tiny())
    settings = {"kv_policy": "h2o", "kv_budget": "50%" if when != "token" else "6", "kv_when": when}
    (row,) = rows_of(model, ("dense", settings))
    with lm.evicting(model, "h2o", BUDGET, when=when, prompt=PROMPT) as evicted:
        score = lm.perplexity(model, IDS, prompt=PROMPT)
    kv = row.value("kv")
    assert row.value("perplexity") == score.value
    assert kv["mass_kept"] == evicted.mass_kept(PROMPT) < 1
    assert kv["output_error"] == evicted.output_error(PROMPT) > 0
    assert (kv["loop"], kv["when"], kv["budget"]) == ("closed", when, BUDGET)
    held = np.stack([replay.held_counts() for replay in evicted.replays])
    before = held[:, PROMPT - 1 : -1].mean()  # what each judged token found
    if when == "token":
        assert kv["positions"] == before == BUDGET
    else:  # the prompt is cut before the first judged token comes
        first = np.full((len(IDS), 1, *held.shape[2:]), BUDGET)
        found = np.concatenate([first, held[:, PROMPT:-1]], axis=1)
        assert kv["positions"] == found.mean()


def test_the_prompt_is_not_judged_and_not_masked() -> None:
    """All but the last token given: masks act on nothing that is judged but it."""
    model = tiny()
    first = lm.perplexity(model, IDS, prompt=PROMPT)
    assert first.tokens == 3 * (WINDOW - PROMPT)
    whole = lm.perplexity(model, IDS)
    sums = [whole.loss * whole.tokens]
    sums += [lm.perplexity(model, IDS[:, :PROMPT]).loss * 3 * (PROMPT - 1)]
    assert sums[0] - sums[1] == pytest.approx(first.loss * first.tokens, rel=1e-5)
    (row,) = rows_of(model, ("dip", {"density": 0.5}), prompt=WINDOW - 1)
    assert row.value("perplexity") == lm.perplexity(model, IDS, prompt=WINDOW - 1).value
    (row,) = rows_of(model, ("dip", {"density": 0.5}), prompt=1)
    assert row.value("perplexity") != lm.perplexity(model, IDS).value


def with_idle_layers(model: Any) -> Any:
    """Return the model with layers 1 and 2 of 4 that put out their input."""
    with torch.no_grad():
        for layer in model.model.layers[1:3]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


@pytest.mark.parametrize("skip_kv", ["project", "copy"])
@pytest.mark.parametrize("method", ["dense", "dip", "dip-ca"])
def test_masks_eviction_and_skipping_act_at_once(method: str, skip_kv: str) -> None:
    """Idle layers that are skipped are not there, whatever else acts."""
    model = with_idle_layers(steep(tiny(num_hidden_layers=4)))
    smaller = with_idle_layers(steep(tiny(num_hidden_layers=4)))
    smaller.model.layers = torch.nn.ModuleList([smaller.model.layers[i] for i in (0, 3)])
    for number, layer in enumerate(smaller.model.layers):
        layer.self_attn.layer_idx = number
    smaller.config.num_hidden_layers = 2
    own = {} if method == "dense" else {"density": 0.7}
    own |= {**TOVA, "kv_quant": "q8_0", "cache_fraction": 0.5}
    (wanted,) = rows_of(smaller, (method, own), profile=None)
    (row,) = rows_of(model, (method, {**own, **DROP, "skip_kv": skip_kv}), profile=None)
    assert row.value("perplexity") == pytest.approx(wanted.value("perplexity"), rel=1e-6)
    for figure in ("hit_rate", "flash_useful_bytes_per_token"):
        assert row.value(figure) == pytest.approx(wanted.value(figure))
    assert row.value("density") == pytest.approx(wanted.value("density") / 2)
    assert row.value("layers") == {
        "rule": DROP["skip_layers"],
        "kv": skip_kv,
        "skipped": 2.0,
        "partial": 0.0,
    }


def test_caches_do_not_see_tokens_that_skip_a_layer() -> None:
    """What is skipped moves no bytes: a share that a row of the dense model says exactly."""
    model = steep(tiny(num_hidden_layers=4))
    whole, skipped = rows_of(
        model,
        ("dense", {"cache_fraction": 0.0}),
        ("dense", {"cache_fraction": 0.0, "skip_layers": "similarity:share=.4,by=previous"}),
    )
    share = skipped.value("layers")["skipped"] / 4
    assert 0 < share < 1
    moved = skipped.value("flash_useful_bytes_per_token")
    assert moved == pytest.approx(whole.value("flash_useful_bytes_per_token") * (1 - share))
    assert skipped.value("density") == pytest.approx(1 - share)
    assert skipped.rate > whole.rate


def test_rules_are_fitted_to_the_model_without_masks() -> None:
    """Nor are the tokens of calibration booked, whichever row comes first."""
    cells = [("dip", {"density": 0.5, **DROP}), ("dip", {"density": 0.5, **TOVA, **DROP})]
    model = tiny(num_hidden_layers=4)
    forward, backward = rows_of(model, *cells), rows_of(model, *reversed(cells))
    for one, other in zip(forward, reversed(backward), strict=True):
        same(one, other)
        assert one.value("density") == other.value("density") < 0.27


@pytest.mark.parametrize(
    "pruning", ["lazy:at=2/3,rate=.4", "static:at=2,rate=.5", "random:rate=.3"]
)
def test_rows_of_pruned_tokens(pruning: str) -> None:
    model = steep(tiny(num_hidden_layers=4))
    plain, row = rows_of(model, ("dense", {}), ("dense", {"prune_tokens": pruning}))
    wanted = pruned_perplexity(model, IDS, PROMPT, pruning)
    assert row.value("perplexity") == wanted.value != plain.value("perplexity")
    tokens = row.value("tokens")
    shares = ("prefill", "computed", "revived", "read")
    assert tuple(tokens[name] for name in shares) == tuple(getattr(wanted, name) for name in shares)
    assert (tokens["revived"] > 0) == (tokens["aux_bytes"] > 0) == pruning.startswith("lazy")
    assert row.value("hit_rate") == plain.value("hit_rate")  # all units, token after token
    assert row.value("density") == 1.0


def test_a_rate_counts_what_is_left_of_the_kv() -> None:
    """With the cache of a model of many kv heads, reading fewer positions is faster."""
    model = steep(tiny())
    fast = load_profile("paper-a18", overrides=["dram.bandwidth=1MB/s", "flash.bandwidth=1GB/s"])
    plain, evicted, quantised, pruned = rows_of(
        model,
        ("dense", {}),
        ("dense", TOVA),
        ("dense", {"kv_quant": "q4_0"}),
        ("dense", {"prune_tokens": "static:at=1,rate=.9"}),
        profile=fast,
    )
    assert min(evicted.rate, quantised.rate, pruned.rate) > plain.rate
    ends = evicted.value("tokens_per_second_interval")
    assert ends["low"] <= evicted.rate <= ends["high"]
    assert ends["level"] == 0.9


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = saved(tiny(), tmp_path_factory.mktemp("model"))
    words = np.random.default_rng(0).integers(3, 64, 400)
    (where / "text.txt").write_text(" ".join(f"w{word}" for word in words))
    return where


def test_eval_judges_a_grid_of_all(folder: Path, tmp_path: Path, dipsim: Dipsim) -> None:
    picture, sheet = tmp_path / "e.png", tmp_path / "e.csv"
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 64]
    command += ["--prompt", 8, "--profile", "paper-a18", "--cache-fraction", 0.5]
    command += ["--calibrate-tokens", "200:300", "--method", "dense,dip", "--density", 0.7]
    command += ["--kv-policy", "full,snapkv:window=2,pool=none", "--kv-budget", 4]
    command += ["--skip-layers", "none,drop:layers=1", "--prune-tokens", "none,static:at=1,rate=.5"]
    code, shown, said = dipsim(*command, "--csv", sheet, "--json")
    assert code == 0, said
    found = json.loads(shown)
    assert found["tokens"] == 32
    assert len(found["rows"]) == 1 + 16
    reasons = [row["reason"] for row in found["rows"]]
    assert sum(reason is None for reason in reasons) == 1 + 9  # pruned tokens stand alone
    assert all("--prune-tokens" in reason for reason in reasons if reason)
    assert {tuple(sorted(row["settings"])) for row in found["rows"]} >= {
        ("cache_fraction", "density", "kv_budget", "kv_policy", "skip_layers")
    }
    assert set(found["best"]["cache 0.5"]) >= {"dip + snapkv + drop", "dense + static", "dip"}
    assert found["frontier"]
    with sheet.open() as handle:
        records = list(csv.DictReader(handle))
    named = {"kv.mass_kept", "layers.skipped", "tokens.prefill", "tokens_per_second_interval.low"}
    assert named <= set(records[0])
    code, shown, _ = dipsim(*command)
    assert code == 0
    assert "kept mass error held prompt ever revived skipped" in " ".join(shown.split())
    for given in (command, few_of(command)):  # nine series, of two methods; then five
        picture.unlink(missing_ok=True)
        assert dipsim(*given, "--plot", picture)[0] == 0
        assert picture.stat().st_size > 1000


def few_of(command: list[Any]) -> list[Any]:
    """The same command for the dense model alone."""
    words = ["dense" if word == "dense,dip" else word for word in command]
    return [word for word in words if word not in ("--density", 0.7)]


def test_masks_are_not_judged_unless_they_are_asked_for(folder: Path, dipsim: Dipsim) -> None:
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 32]
    _, shown, _ = dipsim(*command, "--kv-policy", "window", "--kv-budget", 4, "--json")
    assert [row["method"] for row in json.loads(shown)["rows"]] == ["dense", "dense"]
    _, shown, _ = dipsim(*command, "--json")
    assert [row["method"] for row in json.loads(shown)["rows"]] == ["dense", "dip"]


HOLES = ("--skip-layers", "drop:layers=1", "--skip-kv", "hole", "--calibrate-tokens", ":99")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kv-policy", "lru", "--kv-budget", 4], "no KV policy 'lru'"),
        (["--kv-policy", "tova"], "--kv-policy tova needs --kv-budget"),
        (["--kv-budget", 4], "--kv-budget is for a --kv-policy"),
        (["--kv-policy", "tova", "--kv-budget", 0], "KV budget"),
        (["--kv-policy", "tova", "--kv-budget", "x"], "KV budget"),
        (["--kv-policy", "tova", "--kv-budget", 4, "--kv-when", "never"], "kv-when"),
        (["--kv-policy", "snapkv:window=2", "--kv-budget", 4], "cuts a prompt: give --prompt"),
        (["--prompt", 16, "--kv-quant", "q8_0"], "of windows of 16 tokens: give fewer"),
        (["--kv-quant", "q5_k"], "no KV format 'q5_k'"),
        (["--kv-quant", "kivi:bits=2.5"], "counted, not computed"),
        (
            ["--kv-policy", "tova", "--kv-budget", 4, "--kv-quant", "kivi"],
            "keeps the newest positions in fp16",
        ),
        (["--skip-layers", "drop:layers=1"], "give --calibrate-tokens"),
        (["--skip-layers", "recorded", "--calibrate-tokens", "200:300"], "do not run in the loop"),
        (["--skip-layers", "nonsense", "--calibrate-tokens", "200:300"], "nonsense"),
        (
            ["--skip-layers", "drop:layers=1", "--skip-kv", "ring", "--calibrate-tokens", ":99"],
            "--skip-kv: input should be 'project', 'hole' or 'copy', given 'ring'",
        ),
        (
            [*HOLES, "--kv-policy", "window", "--kv-budget", 4],
            "take project or copy",
        ),
        (["--prune-tokens", "lazy:at=1,rate=.5"], "prunes prompts: give --prompt"),
        (["--prune-tokens", "lazy:at=9", "--prompt", 8], "of 2 layers cuts behind"),
        (["--prune-tokens", "gone", "--prompt", 8], "no token pruning 'gone'"),
        (
            ["--prune-tokens", "static:at=1", "--prompt", 8, "--method", "dip"],
            "and --method dip: a running model computes fewer rows",
        ),
        (
            ["--prune-tokens", "static:at=1", "--prompt", 8, "--kv-quant", "q8_0"],
            "and --kv-quant: a running model computes fewer rows",
        ),
        (["--kv-quant", "q8_0", "--open-loop"], "--open-loop and --kv-quant"),
        (["--prompt", 8, "--open-loop"], "--open-loop and --prompt"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, dipsim: Dipsim, options: list[object], message: str
) -> None:
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 64]
    code, shown, said = dipsim(*command, *options)
    assert (code, shown) == (2, ""), said
    assert len(said) == 1, said
    assert message in said[0]


def test_a_rule_that_decides_late_takes_no_masks(folder: Path, dipsim: Dipsim) -> None:
    """Its caches are asked while the layer runs; a row of the dense model needs none of them."""
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 64]
    command += ["--skip-layers", "similarity:share=.3,by=oracle", "--calibrate-tokens", "200:300"]
    code, shown, _ = dipsim(*command, "--method", "dense,dip", "--json")
    assert code == 0
    _, dense, dip = json.loads(shown)["rows"]
    assert dense["layers"]["skipped"] > 0
    assert "decides when a layer has run" in dip["reason"]
    code, shown, said = dipsim(*command, "--method", "dip")
    assert (code, shown, len(said)) == (2, "", 1)


def test_a_model_of_known_size_holds_as_many_bytes(folder: Path, dipsim: Dipsim) -> None:
    """Bytes of what is held: 2 x kv width x bytes of a number, per layer and position."""
    loaded = lm.load(folder)
    model = load_model(loaded.geometry or {})
    (row,) = rows_of(loaded.model, ("dense", TOVA))
    position = model.kv_bytes(1, 16)
    assert row.value("kv")["held_bytes"] == BUDGET * position
    assert row.value("kv")["read_bytes_per_token"] == BUDGET * position
