"""Are models of the hub found in its local cache, and never asked of the network?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dipsim.errors import ModelError
from dipsim.model import load_model
from dipsim.model.hub import cache_folder, find_snapshot, is_hub_id

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "vocab_size": 64,
}
VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that the environment names."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    return tmp_path / "hub"


def download(cache: Path, name: str, commit: str = "a1b2", *, main: bool = True) -> Path:
    """Lay out a model as ``hf download`` does: blobs, and links to them; return the snapshot."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    for folder in (snapshot, model / "refs", model / "blobs"):
        folder.mkdir(parents=True, exist_ok=True)
    (model / "blobs" / commit).write_text(json.dumps(CONFIG))
    os.symlink(f"../../blobs/{commit}", snapshot / "config.json")
    if main:
        (model / "refs" / "main").write_text(commit)
    return snapshot


def test_a_config_is_found_by_the_models_id(cache: Path) -> None:
    download(cache, "org/tiny")
    model = load_model("org/tiny")
    assert (model.name, model.hidden, model.layers) == ("org/tiny", 16, 2)


def test_the_snapshot_of_main_counts_and_a_single_one_without_it(cache: Path) -> None:
    download(cache, "org/tiny", "old", main=False)
    assert find_snapshot("org/tiny") == cache / "models--org--tiny" / "snapshots" / "old"
    newest = download(cache, "org/tiny", "new")
    assert find_snapshot("org/tiny") == newest
    (cache / "models--org--tiny" / "refs" / "main").unlink()
    assert find_snapshot("org/tiny") is None  # which of the two was meant


@pytest.mark.parametrize("main", ["../../../etc", "", "gone", "a/b", "\0"])
def test_a_strange_reference_leads_nowhere(main: str, cache: Path) -> None:
    download(cache, "org/tiny")
    download(cache, "org/tiny", "second")
    (cache / "models--org--tiny" / "refs" / "main").write_text(main)
    assert find_snapshot("org/tiny") is None


def test_what_is_not_there_is_told_how_to_download(cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model("org/missing")
    line = str(caught.value)
    assert "no model 'org/missing': not in the Hugging Face cache" in line
    assert "hf download org/missing config.json" in line
    (cache / "models--org--bare" / "snapshots" / "x").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"no config\.json in .*hf download org/bare config\.json"):
        load_model("org/bare")


def test_files_and_presets_come_first(cache: Path, tmp_path: Path) -> None:
    download(cache, "llama-3-8b")
    assert load_model("llama-3-8b").layers == 32
    download(cache, "org/tiny")
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    (tmp_path / "org" / "tiny" / "config.json").write_text(
        json.dumps({**CONFIG, "num_hidden_layers": 3})
    )
    assert load_model("org/tiny").layers == 3


@pytest.mark.parametrize(
    ("given", "is_one"),
    [("org/name", True), ("Qwen/Qwen2.5-7B", True), ("name", False), ("a/b/c", False),
     ("../name", False), ("/name", False), ("a b/c", False), ("a/", False)],
)  # fmt: skip
def test_ids(given: str, is_one: bool, cache: Path) -> None:
    assert is_hub_id(given) == is_one
    if ".." in given:
        assert find_snapshot(given) is None


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/x"}, "/x"),
        ({"HF_HOME": "/y"}, "/y/hub"),
        ({"HF_HOME": "/y", "HF_HUB_CACHE": "/x"}, "/x"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert cache_folder() == Path(folder)


def test_where_the_library_looks(cache: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    environment = {**os.environ, "HF_HOME": str(cache.parent / "home")}
    environment.pop("HF_HUB_CACHE")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == cache.parent / "home" / "hub"
    assert constants is not None


def test_a_config_is_read_without_torch(cache: Path) -> None:
    download(cache, "org/tiny")
    code = (
        "import sys; from dipsim.model import load_model; load_model('org/tiny'); "
        "sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
