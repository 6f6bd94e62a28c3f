"""Methods of a user's own in a running model: where the rule is a built-in one, so is the loss."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra: pip install 'dipsim[torch]'")
pytest.importorskip("transformers", reason="needs the extra: pip install 'dipsim[torch]'")
pytest.importorskip("peft", reason="needs the extra: pip install 'dipsim[torch]'")

from dipsim import PruningMethod, UnitGroup  # noqa: E402
from dipsim.errors import MethodError  # noqa: E402
from dipsim.lm.distil import Recipe, train_adapter  # noqa: E402
from dipsim.lm.load import Loaded, geometry_of  # noqa: E402
from dipsim.lm.perplexity import perplexity  # noqa: E402
from dipsim.lm.sparse import sparsify  # noqa: E402
from tools.cli import Dipsim, refused  # noqa: E402
from tools.pruning import fill_with_methods  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

WINDOWS = np.random.default_rng(0).integers(3, 60, (4, 16))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with methods in it."""
    path = tmp_path_factory.mktemp("methods")
    fill_with_methods(path)
    return path


@pytest.mark.parametrize(
    ("own", "builtin"),
    [("dip_ca.py:method", "dip-ca"), pytest.param("good.py:dip", "dip", marks=pytest.mark.slow)],
)
def test_the_closed_loop_is_that_of_the_built_in_method(
    files: Path, own: str, builtin: str
) -> None:
    model = tiny()
    losses, hits = [], []
    for method in (f"{files}/{own}", builtin):
        with sparsify(model, method, "lru", 0.5, density=0.6) as sparse:
            losses.append(perplexity(model, WINDOWS).value)
        hits.append(sparse.traffic.hits)
        assert sparse.density == pytest.approx(0.6, abs=0.05)
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(*hits)
    assert losses[0] != perplexity(model, WINDOWS).value


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
@pytest.mark.slow  # compiles hooks that nothing stores
@pytest.mark.parametrize("name", ["lasting", "slow_to_leave", "above"])
def test_calls_of_one_token_are_those_of_many(files: Path, name: str) -> None:
    """A state goes on from call to call."""
    model, method = tiny(), f"{files}/good.py:{name}"
    ids = torch.from_numpy(WINDOWS[:1])
    with torch.no_grad():
        with sparsify(model, method, "lru", 0.5, density=0.8):
            at_once = model(ids).logits[0]
        with sparsify(model, method, "lru", 0.5, density=0.8):
            cache, rows = None, []
            for t in range(ids.shape[1]):
                out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                rows.append(out.logits[0, -1])
    torch.testing.assert_close(torch.stack(rows), at_once, atol=1e-5, rtol=1e-4)


def test_groups_that_share_no_input_are_refused() -> None:
    method = PruningMethod("half", (UnitGroup("mlp_input", ("up",)),), rank=print)
    with pytest.raises(MethodError, match=r"half.*not of up alone: record a trace"):
        sparsify(tiny(), method)


@pytest.mark.slow
def test_an_adapter_learns_behind_them(files: Path, tmp_path: Path) -> None:
    ids = np.tile(WINDOWS.ravel(), 3)
    recoveries = []
    for i, method in enumerate((f"{files}/good.py:dip", "dip")):
        model = tiny()
        loaded = Loaded(model, geometry_of(model), "tiny", Path("tiny"))
        recipe = Recipe(method, {"density": 0.5}, rank=2, steps=2, window=16, judge_tokens=64)
        recoveries.append(train_adapter(loaded, ids, tmp_path / str(i), recipe))
    own, builtin = recoveries
    assert (own.sparse, own.adapted) == (builtin.sparse, builtin.adapted)
    assert own.adapted != own.sparse


@pytest.mark.slow
def test_eval_judges_them(files: Path, tmp_path: Path, dipsim: Dipsim) -> None:
    folder = saved(tiny(), tmp_path / "model")
    words = np.random.default_rng(1).integers(3, 63, 64)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{word}" for word in words))
    line = f"eval {folder} --text {text} --window 16 --density 0.5"
    own = f"{files}/good.py:dip"
    found = dipsim(f"{line} --method {own} --method dip --open-loop --json")
    assert found.code == 0, found.err
    _, mine, builtin = found.json["rows"]
    assert (mine["method"], builtin["method"]) == ("my-dip", "dip")
    for name in ("perplexity", "hit_rate", "density", "energy_kept", "open_loop"):
        assert mine[name] == pytest.approx(builtin[name]), name
    refused(dipsim(f"{line} --method {own} --gamma .5"), "--gamma is for dip-ca")
    refused(dipsim(f"{line} --method {files}/gone.py:dip"), "no file")
