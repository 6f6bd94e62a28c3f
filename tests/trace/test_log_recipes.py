"""Recipes of docs/routing-logs.md: run with the library, or with a stub of its published interface,
and what they write is imported."""

import base64
import json
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dipsim
from page_examples import blocks
from tools.paths import DOCS
from tools.routing_logs import EXPERTS, FIXTURES, NAMES, SMALL, K, Routes, drawn, expected

PAGE = DOCS / "routing-logs.md"
MODEL: dict[str, Any] = {**SMALL, "layers": 3}


def recipe(title: str) -> str:
    (found,) = (block.body for block in blocks(PAGE) if block.title == title)
    return found


def run(title: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [title, *arguments])
    exec(compile(recipe(title), title, "exec"), {"__name__": "__main__"})


def check(log: Path, routes: Routes) -> None:
    trace = dipsim.import_(log, log.parent / "t.npz", model=MODEL)
    sets = np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "sets"})])
    unpacked = np.unpackbits(sets.view(np.uint8), axis=-1, bitorder="little")[:, :, :EXPERTS]
    np.testing.assert_array_equal(unpacked.astype(bool), expected(routes.ids))
    assert trace.phase.tolist() == [int(t >= routes.prefill) for t in range(routes.tokens)]
    result = dipsim.simulate(trace, "snapdragon8", cache_fraction=0.5, policy="lru").to_dict()
    assert result["accesses"] == (routes.tokens - routes.prefill) * len(routes.layers) * K


def test_every_recipe_ends_in_a_run() -> None:
    shells = [block.body for block in blocks(PAGE) if block.language == "sh"]
    assert len(shells) == 5
    assert all(shell.strip().splitlines()[-1].startswith("dipsim run ") for shell in shells)


def test_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    routes = drawn()
    ids = np.array(routes.ids, np.int16)

    class Engine:
        def __init__(self, model: str, *, enable_return_routed_experts: bool = False) -> None:
            assert enable_return_routed_experts

        def generate(self, prompts: list[str], parameters: Any) -> list[Any]:
            output = SimpleNamespace(text="x", routed_experts=ids[routes.prefill :])
            return [
                SimpleNamespace(outputs=[output], prompt_routed_experts=ids[: routes.prefill])
                for _ in prompts
            ]

    stub: Any = ModuleType("vllm")
    stub.LLM, stub.SamplingParams = Engine, lambda max_tokens: None
    monkeypatch.setitem(sys.modules, "vllm", stub)
    run("routes_vllm.py", [], monkeypatch, tmp_path)
    check(tmp_path / "routes-0.npz", routes)


def test_sglang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    routes = drawn()
    flat = [i for token in routes.ids for layer in token for i in layer]
    data = base64.b64encode(struct.pack(f"<{len(flat)}i", *flat)).decode()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/generate"
            assert asked["return_routed_experts"] is True
            counts = {"prompt_tokens": routes.prefill, "completion_tokens": 6}
            answer = {"text": "x", "meta_info": {**counts, "routed_experts": data}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            run("routes_sglang.py", [address], monkeypatch, tmp_path)
        finally:
            server.shutdown()
            thread.join()
    check(tmp_path / "routes.json", routes)


def test_llama_cpp(tmp_path: Path) -> None:
    routes = drawn()
    check(FIXTURES[NAMES.index("F12-llama_cpp")].write(routes, tmp_path), routes)


def test_mlx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    routes = drawn(prefill=0)
    ids = np.array(routes.ids)

    class Module:
        def __init__(self) -> None:
            pass

    class Mlp(Module):
        def switch_mlp(self, x: Any, indices: Any) -> Any:
            return x

    core, nn, lm = (ModuleType(name) for name in ("mlx", "mlx.nn", "mlx_lm"))
    nn.Module = Module  # type: ignore[attr-defined]
    core.nn = nn  # type: ignore[attr-defined]
    dense = SimpleNamespace(mlp=Module())
    model = SimpleNamespace(layers=[dense, *(SimpleNamespace(mlp=Mlp()) for _ in range(3))])

    def generate(model: Any, tokenizer: Any, *, prompt: str, max_tokens: int) -> None:
        for start, stop in (0, 4), *((t, t + 1) for t in range(4, routes.tokens)):
            for n, layer in enumerate(model.layers[1:]):
                layer.mlp.switch_mlp(None, ids[None, start:stop, n])

    lm.load, lm.generate = lambda name: (model, None), generate  # type: ignore[attr-defined]
    for name, stub in {"mlx": core, "mlx.nn": nn, "mlx_lm": lm}.items():
        monkeypatch.setitem(sys.modules, name, stub)
    run("routes_mlx.py", [], monkeypatch, tmp_path)
    check(tmp_path / "routes.npy", routes)


@pytest.mark.slow
def test_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tools.tiny_models import saved, tiny

    model = tiny(
        "Qwen3MoeConfig",
        moe_intermediate_size=8,
        num_experts=EXPERTS,
        num_experts_per_tok=K,
        num_hidden_layers=3,
        head_dim=4,
    )
    folder = saved(model, tmp_path / "model")
    run("routes_transformers.py", [str(folder)], monkeypatch, tmp_path)
    trace = dipsim.import_(tmp_path / "routes.npz", tmp_path / "t.npz", model=folder)
    sets = np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "sets"})])
    assert (np.bitwise_count(sets).sum(axis=2) == K).all()
    assert (trace.layers, trace.signals["expert"].units) == (3, EXPERTS)
    prompt = int((trace.phase == 0).sum())
    assert trace.tokens == prompt + 63  # the last of 64 was never an input
    assert dipsim.simulate(trace, "snapdragon8", cache_fraction=0.5).to_dict()["accesses"] > 0
