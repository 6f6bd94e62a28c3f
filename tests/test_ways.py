"""Does a message about a wrong input say what it is, and what to do with it, in one line?"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.model import load_model
from dipsim.simulate import simulate
from dipsim.trace import load_trace
from dipsim.trace.convert import import_arrays
from tools.cli import runner

X = np.abs(np.random.default_rng(0).standard_normal((6, 2, 8))).astype(np.float32)


def archive(name: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, "x")

    return write


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


def raw(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def folder(name: str, write: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        path.mkdir()
        write(path / name)

    return make


FILES: dict[str, Callable[[Path], Any]] = {
    "trace.npz": lambda path: np.savez(path, glu=X),
    "array.npy": lambda path: np.save(path, X),
    "old.pt": raw(b"\x80\x02}q\x00."),
    "new.pt": archive("m/data.pkl"),
    "w.safetensors": raw(b"\0" * 20),
    "m.gguf": raw(b"GGUF\3\0\0\0"),
    "config.json": text(json.dumps({"model_type": "llama"})),
    "result.json": text(json.dumps({"tokens_per_second": 1, "config": {}})),
    "profile.yaml": text("name: x\ndram: {capacity: 1 GB}\n"),
    "model.yaml": text("layers: 2\nhidden: 3\n"),
    "table.csv": text("1,2\n"),
    "lines.jsonl": text('{"name": 1, "size": 6}\n{"name": 2, "size": 7}\n'),
    "lines.log": text('{"tok": 1}\n{"tok": 2}\n'),
    "notes.npz": text("\ufefftoken 1: expert 3, überall\n"),
    "routes.csv": text("# route_trace v1\n"),
    "z.zip": archive("a.txt"),
    "hf": folder("config.json", text("{}")),
    "arrays": folder("l0.npy", lambda path: np.save(path, X)),
    "empty": lambda path: path.mkdir(),
}
NO_TRACE = {
    "array.npy": "dipsim import array.npy t.npz --map glu=array",
    "old.pt": "opens no pickle; save its tensors in Python, d = torch.load('old.pt', weights",
    "new.pt": "opens no pickle",
    "w.safetensors": "dipsim import w.safetensors t.npz --map glu=NAME",
    "m.gguf": "dipsim record m.gguf t.npz --prompt TEXT, or give it as --model",
    "config.json": "a model config, no trace: give it as --model",
    "result.json": "dipsim run --config result.json",
    "profile.yaml": "a profile, no trace: give it as --profile",
    "model.yaml": "a model, no trace: give it as --model",
    "table.csv": "np.loadtxt('table.csv', delimiter=',')",
    "lines.jsonl": "lines of JSON, no trace: read its numbers into an array x in Python",
    "lines.log": "lines of JSON, no trace",
    "notes.npz": "a text, no trace: read its numbers into an array x in Python",
    "routes.csv": "routes.csv: line 1: has no column turn",
    "z.zip": "unpack it",
    "hf": "dipsim record hf t.npz",
    "arrays": "dipsim import arrays t.npz",
    "empty": "a folder without shards",
    "smollm-chat": "did you mean smollm2-chat?",
    "snapdragon8": "that is a profile, for --profile",
    "llama-3-8b": "that is a model, for --model",
}
NO_PROFILE = {
    "trace.npz": "a trace, no profile: give it first",
    "array.npy": "dipsim import makes a trace of it",
    "old.pt": "a profile is YAML",
    "m.gguf": "a GGUF model, no profile: give it as --model",
    "config.json": "a model config, no profile: give it as --model",
    "result.json": "dipsim run --config",
    "model.yaml": "a model, no profile: give it as --model",
    "table.csv": "dipsim calibrate",
    "lines.jsonl": "lines of JSON, no profile: a profile is YAML",
    "z.zip": "a profile is YAML",
    "hf": "give it as --model",
    "empty": "give a YAML file",
    "snapdragon": "did you mean snapdragon8?",
    "llama-3-8b": "that is a model, for --model",
    "smollm2-chat": "that is a trace, for TRACE",
}
NO_MODEL = {
    "trace.npz": "a trace, no model: give it first",
    "array.npy": "dipsim import makes a trace of it",
    "new.pt": "the config.json beside it",
    "w.safetensors": "weights without a config.json beside them",
    "profile.yaml": "a profile, no model: give it as --profile",
    "result.json": "dipsim run --config",
    "table.csv": "a model is YAML, config.json or GGUF",
    "z.zip": "give the config.json in it",
    "empty": "holds config.json",
    "llama-3-8": "did you mean llama-3-8b?",
    "oneplus15r": "that is a profile, for --profile",
}
LOADERS: dict[str, tuple[Callable[[str], Any], dict[str, str]]] = {
    "trace": (load_trace, NO_TRACE),
    "profile": (load_profile, NO_PROFILE),
    "model": (load_model, NO_MODEL),
    "import": (
        lambda name: import_arrays(name, "out.npz"),
        {
            "new.pt": "opens no pickle",
            "m.gguf": "dipsim record m.gguf",
            "profile.yaml": "a profile: give it as --profile",
            "z.zip": "unpack it",
            "table.csv": "np.loadtxt",
            "lines.jsonl": "dipsim import --list shows the routing logs that are read",
        },
    ),
}
CASES = [(what, name, said) for what, (_, cases) in LOADERS.items() for name, said in cases.items()]


def line_of(load: Callable[[Any], Any], given: Any) -> str:
    """Return the line of the error."""
    with pytest.raises(DipsimError) as caught:
        load(given)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("what", "name", "said"), CASES)
def test_a_file_of_another_kind_is_named(
    what: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name in FILES:
        FILES[name](Path(name))
    assert said in line_of(LOADERS[what][0], name)
    assert not Path("out.npz").exists()


ARRAYS = {
    "a foreign name": ({"x": X}, "np.savez('t.npz', glu=x), or say which is which: dipsim import"),
    "another case": ({"MLP_Input": X}, "--map mlp_input=MLP_Input"),
    "a router's": ({"router_logits": X}, "--map expert=router_logits"),
    "two axes": ({"glu": X[0]}, "of one layer save glu[:, None], of one token glu[None]"),
    "four axes": ({"glu": X[None]}, "save glu.reshape(-1, *glu.shape[2:])"),
    "negative": ({"glu": -X}, "save np.abs(glu)"),
    "bytes": ({"glu": X.astype(np.uint8)}, "glu.astype(bool)"),
    "integers": ({"glu": X.astype(int)}, "x.astype(np.float16)"),
    "complex": ({"glu": X.astype(complex)}, "np.abs(x)"),
    "objects": ({"glu": np.array([X[0], X[0, :1]], object)}, "np.stack(list, axis=1)"),
    "big-endian": ({"glu": X.astype(">f4")}, "x.astype(np.float32)"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_form_are_told_the_line_of_numpy(name: str, tmp_path: Path) -> None:
    arrays, said = ARRAYS[name]
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    assert said in line_of(lambda path: load_trace(path).check_values(), tmp_path / "t.npz")


def test_the_lines_of_numpy_make_what_they_say(tmp_path: Path) -> None:
    """What the messages above lead to is a trace of the same values."""
    two, four = X[:, 0], X.reshape(2, 3, 2, 8)
    assert load_trace({"glu": two[:, None]}).layers == 1
    assert load_trace({"glu": two[None]}).tokens == 1
    sequence = np.repeat(range(2), 3)
    joined = load_trace({"glu": four.reshape(-1, *four.shape[2:]), "sequence": sequence})
    assert (joined.tokens, joined.layers) == (6, 2)
    active = np.array([[[1, 4]], [[0, 7]]])
    sets = (active[..., None] == np.arange(8)).any(-2)
    assert [list(np.flatnonzero(row)) for row in sets[:, 0]] == [[1, 4], [0, 7]]


def test_swapped_axes_are_recognised_by_the_model() -> None:
    model = {"layers": 2, "hidden": 8, "intermediate": 8, "heads": 1, "kv_heads": 1, "vocab": 9}
    arrays = {"glu": X.swapaxes(0, 1), "meta": {"model": model}}
    line = line_of(lambda given: simulate(given, "paper-a18", cache_fraction=0.5), arrays)
    assert "its axes seem to be [layers, tokens, units], save np.swapaxes(x, 0, 1)" in line


def test_the_command_line_says_it_with_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dipsim = runner(monkeypatch, capsys, tmp_path)
    FILES["m.gguf"](tmp_path / "m.gguf")
    FILES["profile.yaml"](tmp_path / "profile.yaml")
    for line, said in (
        ("run m.gguf --profile paper-a18", "dipsim record m.gguf"),
        ("run smollm2-chat --profile m.gguf", "give it as --model"),
        ("run smollm2-chat --profile paper-a18 --model profile.yaml", "give it as --profile"),
        ("models profile.yaml", "a profile, no model"),
        ("profiles oneplus", "did you mean oneplus15r?"),
    ):
        outcome = dipsim(line)
        assert (outcome.code, outcome.out, len(outcome.err)) == (2, "", 1)
        assert said in outcome.err[0]
