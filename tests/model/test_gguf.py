"""GGUF headers: geometry and storage of good ones, and every kind of lie refused."""

import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import ModelError
from dipsim.model import load_model
from dipsim.model.gguf import check_whole
from tools.gguf_header import F16, F32, Q4_0, Q4_K, Q6_K, text, value_of
from tools.gguf_header import header as gguf_header
from tools.hostile import read_or_refused

VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 1024,
    "tokenizer.ggml.tokens": ["a", "bc"],
}


def tensors(mlp: int = Q4_0, head: int = Q4_0, tied: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"token_embd.weight": ((256, 1000), head)}
    for layer in range(2):
        at = f"blk.{layer}"
        found |= {
            f"{at}.attn_q.weight": ((256, 256), mlp),
            f"{at}.attn_k.weight": ((256, 128), mlp),
            f"{at}.attn_v.weight": ((256, 128), mlp),
            f"{at}.attn_output.weight": ((256, 256), mlp),
            f"{at}.ffn_gate.weight": ((256, 512), mlp),
            f"{at}.ffn_up.weight": ((256, 512), mlp),
            f"{at}.ffn_down.weight": ((512, 256), mlp),
            f"{at}.ffn_norm.weight": ((256,), F32),
            f"{at}.attn_norm.weight": ((256,), F32),
        }
    found["output_norm.weight"] = ((256,), F32)
    return found if tied else {**found, "output.weight": ((256, 1000), head)}


def header(values: dict[str, Any] = VALUES, listed: dict[str, Any] | None = None) -> bytes:
    return gguf_header(values, tensors() if listed is None else listed)


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ModelError) as problem:
        load_model(saved(tmp_path, data))
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_geometry_and_parameters(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, header()))
    assert (model.name, model.layers, model.hidden, model.intermediate) == ("tiny", 2, 256, 512)
    assert (model.heads, model.kv_heads, model.head_dim, model.vocab) == (4, 2, 64, 1000)
    assert (model.tied_embeddings, model.gated, model.context) == (False, True, 1024)
    weights = 0
    for shape, _ in tensors().values():
        weights += shape[0] * (shape[1] if len(shape) == 2 else 1)
    assert model.parameters == weights


@pytest.mark.parametrize(
    ("kind", "name", "bits"), [(Q4_0, "q4_0", 4.5), (Q4_K, "q4_k", 4.5), (Q6_K, "q6_k", 6.5625)]
)
def test_one_type_in_the_mlp_is_the_format(
    kind: int, name: str, bits: float, tmp_path: Path
) -> None:
    model = load_model(saved(tmp_path, header(listed=tensors(mlp=kind))))
    assert model.quant is not None
    assert model.quant.format == name
    assert model.matrix_bytes("down") == 256 * 512 * bits / 8


def test_mixed_types_are_their_mean(tmp_path: Path) -> None:
    listed = tensors(mlp=Q4_K, head=F16)
    listed["blk.1.ffn_down.weight"] = ((512, 256), Q6_K)
    model = load_model(saved(tmp_path, header(listed=listed)))
    size = {Q4_K: 4.5, Q6_K: 6.5625, F16: 16.0}
    stored = sum(s[0] * s[1] * size[kind] / 8 for s, kind in listed.values() if len(s) == 2)
    assert model.quant is None
    assert model.total_bytes - model.norm_bytes == pytest.approx(stored)


def test_experts_windows_and_tied_embeddings(tmp_path: Path) -> None:
    values = {
        **VALUES,
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
        "llama.expert_feed_forward_length": 64,
        "llama.attention.sliding_window": 100,
        "llama.attention.key_length": 32,
    }
    listed = {name: at for name, at in tensors(tied=True).items() if ".ffn_" not in name}
    for layer in range(2):
        at = f"blk.{layer}.ffn"
        listed |= {f"{at}_gate_inp.weight": ((256, 8), F32), f"{at}_norm.weight": ((256,), F32)}
        listed |= {f"{at}_{each}_exps.weight": ((256, 64, 8), Q4_0) for each in ("gate", "up")}
        listed |= {f"{at}_down_exps.weight": ((64, 256, 8), Q4_0)}
    model = load_model(saved(tmp_path, header(values, listed)))
    assert (model.experts, model.experts_per_token, model.intermediate) == (8, 2, 64)
    assert (model.window, model.head_dim, model.tied_embeddings) == (100, 32, True)


def test_no_gate_tensor_means_a_plain_mlp(tmp_path: Path) -> None:
    listed = {name: at for name, at in tensors().items() if "gate" not in name}
    assert not load_model(saved(tmp_path, header(listed=listed))).gated


HUGE = 2**60


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut short"),
        (b"GGML" + header()[4:], "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 1), f"claims {HUGE} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, HUGE), f"claims {HUGE} entries"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE), f"a text of {HUGE} bytes"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, HUGE),
            f"claims {HUGE} values",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, HUGE),
            "more than the file can hold",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1),
            "only numbers and texts",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99),
            "unknown type 99",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (text("k") + value_of(1)) * 2,
            "stands there twice",
        ),
        (header({}), "general.architecture"),
        (header({**VALUES, "llama.block_count": 2**32 - 1}), "layers"),
        (header({**VALUES, "llama.block_count": "two"}), "layers"),
        (header({k: v for k, v in VALUES.items() if "embedding" not in k}), "hidden is missing"),
        (header(listed={"token_embd.weight": ((HUGE, HUGE), 0)}), "has the shape"),
        (header(listed={"token_embd.weight": ((256, 1000), 77)}), "unknown type 77"),
        (header(listed={"token_embd.weight": ((1,) * 9, 0)}), "9 axes"),
        (header(listed={}), "no weight matrices"),
    ],
)
def test_a_lie_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, data)


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    data = header()
    for length in range(0, len(data), 7):
        assert re.search("cut short|more than the file can hold", refusal(tmp_path, data[:length]))


def test_weights_that_are_cut_short_are_noticed(tmp_path: Path) -> None:
    head = header()
    data = -(-len(head) // 32) * 32 + 256 * 1000 // 32 * 18  # the largest tensor, q4_0, begins at 0
    check_whole(saved(tmp_path, head.ljust(data, b"x")))
    short = saved(tmp_path, head.ljust(data - 1, b"x"))
    with pytest.raises(ModelError, match=f"cut short: its weights end at byte {data}, the file at"):
        check_whole(short)


def test_a_fifo_and_a_folder_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    for name, said in (("pipe.gguf", "not a regular file"), ("folder.gguf", "a folder, no model")):
        with pytest.raises(ModelError, match=said):
            load_model(tmp_path / name)


def test_damaged_headers_are_refused_or_read(tmp_path: Path) -> None:
    read = read_or_refused(load_model, tmp_path / "m.gguf", header(), 1000)
    assert 0 < read < 1000
