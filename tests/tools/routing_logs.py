"""Routing logs in the formats of others, written by a program that knows nothing of dipsim.

Each writer puts the same `Routes` into one format, by `struct`, `json` and text alone. What a
format cannot hold (weights, a phase, a sequence) its entry of `KEEPS` leaves out.
"""

import base64
import gzip
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EXPERTS, K = 16, 3
SMALL: dict[str, Any] = {
    "name": "small",
    "hidden": 8,
    "intermediate": 4,
    "heads": 1,
    "kv_heads": 1,
    "vocab": 16,
    "experts": EXPERTS,
    "experts_per_token": K,
}
"""Geometry of a model of such routes, without its layers."""


@dataclass
class Routes:
    """What a model did: per token and layer the experts in rank order, and their weights."""

    layers: list[int]
    """Numbers of the layers with experts, as the model counts them."""
    prefill: int
    ids: list[list[list[int]]] = field(default_factory=list)
    """[token][layer][rank]"""
    weights: list[list[list[float]]] = field(default_factory=list)
    guesses: list[list[list[int]]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(self.ids)


def drawn(
    seed: int = 0, tokens: int = 9, prefill: int = 4, layers: tuple[int, ...] = (0, 1, 2)
) -> Routes:
    """Draw routes; weights are multiples of 1/64, which every float type holds."""
    rng = random.Random(seed)
    routes = Routes(list(layers), prefill)
    for _ in range(tokens):
        routes.ids.append([rng.sample(range(EXPERTS), K) for _ in layers])
        routes.weights.append(
            [sorted((rng.randint(1, 60) / 64 for _ in range(K)), reverse=True) for _ in layers]
        )
        routes.guesses.append([rng.sample(range(EXPERTS), K) for _ in layers])
    return routes


def expected(ids: list[list[list[int]]]) -> np.ndarray:
    """bool[tokens, layers, experts] of lists of ids."""
    sets = np.zeros((len(ids), len(ids[0]), EXPERTS), bool)
    for token, of_layers in enumerate(ids):
        for layer, experts in enumerate(of_layers):
            sets[token, layer, experts] = True
    return sets


def npy(rows: list[list[list[int]]], code: str = "h") -> bytes:
    """A `.npy` file of integers [n][layers][k]."""
    shape = len(rows), len(rows[0]), len(rows[0][0])
    kind = "i2" if code == "h" else "i4"
    head = f"{{'descr': '<{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    flat = [i for token in rows for layer in token for i in layer]
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head))
    return magic + head.encode() + struct.pack(f"<{len(flat)}{code}", *flat)


def packed(rows: list[list[list[int]]], code: str) -> str:
    flat = [i for token in rows for layer in token for i in layer]
    return base64.b64encode(struct.pack(f"<{len(flat)}{code}", *flat)).decode()


def shape_of(rows: list[list[list[int]]]) -> list[int]:
    return [len(rows), len(rows[0]), len(rows[0][0])]


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (kind, shape, raw) in tensors.items():
        header[name] = {
            "dtype": kind,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


# One writer per format ----------------------------------------------------------------------------


def vllm_npz(routes: Routes, folder: Path) -> Path:
    import zipfile

    path = folder / "vllm.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("prompt_routed_experts.npy", npy(routes.ids[: routes.prefill]))
        archive.writestr("routed_experts.npy", npy(routes.ids[routes.prefill :]))
    return path


def vllm_json(routes: Routes, folder: Path) -> Path:
    path = folder / "vllm.json"
    data = [
        base64.b64encode(npy(part)).decode()
        for part in (routes.ids[: routes.prefill], routes.ids[routes.prefill :])
    ]
    response = {
        "prompt_routed_experts": data[0],
        "choices": [{"index": 0, "text": "x", "routed_experts": data[1]}],
    }
    path.write_text(json.dumps(response, indent=1))
    return path


def sglang(routes: Routes, folder: Path) -> Path:
    path = folder / "sglang.jsonl"
    meta = {
        "prompt_tokens": routes.prefill,
        "completion_tokens": routes.tokens - routes.prefill + 1,
    }
    meta |= {"routed_experts": packed(routes.ids, "i")}
    path.write_text(json.dumps({"text": "x", "meta_info": meta}) + "\n")
    return path


def verifiers(routes: Routes, folder: Path) -> Path:
    path = folder / "verifiers.json"
    path.write_text(
        json.dumps(
            {
                "routed_experts": {"data": packed(routes.ids, "i"), "shape": shape_of(routes.ids)},
                "usage": {"prompt_tokens": routes.prefill},
            }
        )
    )
    return path


def tunix(routes: Routes, folder: Path) -> Path:
    path = folder / "tunix.json"
    ids = routes.ids
    entry = {
        "data": base64.b64encode(bytes(i for t in ids for row in t for i in row)).decode(),
        "shape": shape_of(ids),
        "start": 0,
    }
    path.write_text(json.dumps({"prompt_tokens": routes.prefill, "routed_experts": entry}))
    return path


def megatron(routes: Routes, folder: Path) -> Path:
    path = folder / "trace_rank0.jsonl"
    logits = bytearray()
    lines = []
    batches = [range(routes.prefill), *([t] for t in range(routes.prefill, routes.tokens))]
    for step, tokens in enumerate(batches):
        for n, layer in enumerate(routes.layers):
            offset = len(logits)
            for token in tokens:
                row = [-8.0] * EXPERTS
                for expert, weight in zip(
                    routes.ids[token][n], routes.weights[token][n], strict=True
                ):
                    row[expert] = weight
                for value in row:  # bfloat16: the upper half of a float32
                    logits += struct.pack("<f", value)[2:]
            record = {
                "step": step,
                "stage": "pre_dispatch",
                "block": "decoder",
                "layer": layer,
                "rank": 0,
            }
            record |= {
                "num_tokens": len(tokens),
                "topk": K,
                "top_indices": [routes.ids[t][n] for t in tokens],
            }
            record |= {
                "logit_offset": offset,
                "logit_bytes": len(logits) - offset,
                "logit_shape": [len(tokens), EXPERTS],
            }
            lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")
    (folder / "logits_rank0.bin").write_bytes(bytes(logits))
    return path


def colibri(routes: Routes, folder: Path) -> Path:
    path, lines, call = folder / "route.txt", [], 0
    batches = [range(routes.prefill), *([t] for t in range(routes.prefill, routes.tokens))]
    for tokens in batches:
        for n, layer in enumerate(routes.layers):
            for row, token in enumerate(tokens):
                pairs = zip(routes.ids[token][n], routes.weights[token][n], strict=True)
                lines.append(f"{call} {row} {layer} " + " ".join(f"{e}:{w:.6f}" for e, w in pairs))
            call += 1
    path.write_text("\n".join(lines) + "\n")
    return path


def glm_export(routes: Routes, folder: Path) -> Path:
    path = folder / "glm52.json.gz"
    layers = {
        str(layer): {
            "executed_topk": [routes.ids[t][n] for t in range(routes.tokens)],
            "executed_scores": [routes.weights[t][n] for t in range(routes.tokens)],
            "runners_up_scores": [[0.0]] * routes.tokens,
        }
        for n, layer in enumerate(routes.layers)
    }
    prompt = {
        "start_row": 0,
        "prefill_rows": routes.prefill,
        "decode_step_rows": routes.tokens - routes.prefill,
    }
    trace = {
        "schema": "glm52-routing-trace-export/v2",
        "routing": {"k": K, "n_expert_per_layer": EXPERTS},
        "tokens": {"total_rows": routes.tokens},
        "layer_map": {
            "traced_layers": [{"abs_layer": n, "moe_order": i} for i, n in enumerate(routes.layers)]
        },
        "conditional": {"prompts": [{**prompt, "end_row": routes.tokens, "category": "code"}]},
        "layers": layers,
    }
    with gzip.open(path, "wt") as file:
        json.dump(trace, file)
    return path


def waste(routes: Routes, folder: Path) -> Path:
    path = folder / "waste.jsonl"
    path.write_text(
        "".join(
            json.dumps({"tok": t + 1, "layers": rows}) + "\n" for t, rows in enumerate(routes.ids)
        )
    )
    return path


def waste_dump(routes: Routes, folder: Path) -> Path:
    path, lines = folder / "dump.txt", []
    for t in range(routes.tokens):
        for n, layer in enumerate(routes.layers):
            row = [
                t,
                layer,
                *routes.ids[t][n],
                *(f"{w:.6f}" for w in routes.weights[t][n]),
                *routes.guesses[t][n],
            ]
            lines.append(" ".join(map(str, row)))
    path.write_text("\n".join(lines) + "\n")
    return path


def _rows(routes: Routes, by_layer: bool) -> list[tuple[int, int]]:
    """Places (token, index of the layer): a prompt layer by layer, then token by token."""
    prompt = [(t, n) for n in range(len(routes.layers)) for t in range(routes.prefill)]
    if not by_layer:
        prompt = [(t, n) for t in range(routes.prefill) for n in range(len(routes.layers))]
    decode = [
        (t, n) for t in range(routes.prefill, routes.tokens) for n in range(len(routes.layers))
    ]
    return prompt + decode


def lattice(routes: Routes, folder: Path) -> Path:
    path = folder / "lattice.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "layer_idx": routes.layers[n],
                    "token_idx": t,
                    "selected_ids": routes.ids[t][n],
                    "gate_weights": routes.weights[t][n],
                }
            )
            + "\n"
            for t, n in _rows(routes, True)
        )
    )
    return path


def mer(routes: Routes, folder: Path) -> Path:
    path = folder / "mer.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "token": t,
                    "layer": routes.layers[n],
                    "experts": routes.ids[t][n],
                    "cache_hit": [True] * K,
                    "predicted": routes.guesses[t][n],
                }
            )
            + "\n"
            for t, n in _rows(routes, False)
        )
    )
    return path


def route_sim(routes: Routes, folder: Path) -> Path:
    path = folder / "route_sim.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "t": t,
                    "layer": routes.layers[n],
                    "experts": routes.ids[t][n],
                    "phase": "prefill" if t < routes.prefill else "decode",
                }
            )
            + "\n"
            for t, n in _rows(routes, True)
        )
    )
    return path


def _pairs(routes: Routes) -> list[tuple[int, int]]:
    """(layer, expert) in the order of execution."""
    return [(routes.layers[n], e) for t, n in _rows(routes, True) for e in routes.ids[t][n]]


def llama_cpp(routes: Routes, folder: Path) -> Path:
    path = folder / "moe_trace.csv"
    path.write_text("layer,expert\n" + "".join(f"{layer},{e}\n" for layer, e in _pairs(routes)))
    return path


def imp(routes: Routes, folder: Path) -> Path:
    path = folder / "imp.json"
    records = [[routes.layers[n], *routes.ids[t][n]] for t, n in _rows(routes, False)]
    path.write_text(json.dumps({"top_k": K, "entries": records}))
    return path


def imp_flat(routes: Routes, folder: Path) -> Path:
    path = folder / "flat.json"
    flat = [i for t, n in _rows(routes, False) for i in (routes.layers[n], *routes.ids[t][n])]
    path.write_text(json.dumps({"top_k": K, "data": flat}))
    return path


def kimi_pairs(routes: Routes, folder: Path) -> Path:
    path = folder / "experts.bin"
    path.write_bytes(b"".join(struct.pack("<ii", *pair) for pair in _pairs(routes)))
    return path


def q4rt(routes: Routes, folder: Path) -> Path:
    path = folder / "routes.q4rt"
    data = struct.pack("<4sHHHHI", b"Q4RT", 1, len(routes.layers), EXPERTS, K, routes.tokens)
    for t in range(routes.tokens):
        for n in range(len(routes.layers)):
            data += struct.pack(f"<{K}H", *routes.ids[t][n]) + struct.pack(
                f"<{K}e", *routes.weights[t][n]
            )
    path.write_bytes(data)
    return path


def flame(routes: Routes, folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "flame"
    path.mkdir()
    for n, layer in enumerate(routes.layers):
        columns = {
            "indices": [rows[n] for rows in routes.ids],
            "scores": [rows[n] for rows in routes.weights],
        }
        parquet.write_table(pa.table(columns), path / f"layer_{layer:02d}.parquet")
    return path


def flame_arrow(routes: Routes, folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import ipc

    path = folder / "flame-arrow"
    path.mkdir()
    for n, layer in enumerate(routes.layers):
        table = pa.table(
            {
                "indices": [rows[n] for rows in routes.ids],
                "scores": [rows[n] for rows in routes.weights],
            }
        )
        with ipc.new_file(str(path / f"layer{layer}.arrow"), table.schema) as writer:
            writer.write_table(table)
    return path


def commitmoe(routes: Routes, folder: Path) -> Path:
    path = folder / "part_0.safetensors"
    places = [(t, n) for n in range(len(routes.layers)) for t in range(routes.tokens)]
    ids = [i for t, n in places for i in routes.ids[t][n]]
    logits = []
    for t, n in places:
        row = [-8.0] * EXPERTS
        for expert, weight in zip(routes.ids[t][n], routes.weights[t][n], strict=True):
            row[expert] = weight
        logits += row
    count = len(places)
    path.write_bytes(
        safetensors(
            {
                "top_indices": ("I32", [count, K], struct.pack(f"<{len(ids)}i", *ids)),
                "prompt_idx": ("I32", [count], struct.pack(f"<{count}i", *[0] * count)),
                "tok": ("I32", [count], struct.pack(f"<{count}i", *(t for t, _ in places))),
                "layer": (
                    "I32",
                    [count],
                    struct.pack(f"<{count}i", *(routes.layers[n] for _, n in places)),
                ),
                "gen_token_id": ("I32", [count], struct.pack(f"<{count}i", *[7] * count)),
                "logits": ("F32", [count, EXPERTS], struct.pack(f"<{len(logits)}f", *logits)),
            }
        )
    )
    return path


def route_trace(routes: Routes, folder: Path) -> Path:
    """With the tenth column, dense layers, and the last layer's rows of the last prompt token."""
    path = folder / "phone.route.csv"
    every = range(routes.layers[-1] + 1)
    lines = [
        "# route_trace v1",
        f"# model=/x/M-Q4_K_M.gguf arch=a n_layer={len(every)} n_expert={EXPERTS} "
        f"n_expert_used={K}",
    ]
    lines += [
        f"# layer={n} expert_bytes={1000 * (n in routes.layers)} dense_bytes={10 + n}"
        for n in every
    ]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes,dropped")
    for t, n in _rows(routes, True):
        for slot, (expert, weight) in enumerate(
            zip(routes.ids[t][n], routes.weights[t][n], strict=True)
        ):
            lines.append(
                f"0,{int(t >= routes.prefill)},{t},{routes.layers[n]},{slot},{expert},"
                f"{weight:.6f},0,1000,0"
            )
    path.write_text("\n".join(lines) + "\n")
    return path


def int_array(routes: Routes, folder: Path) -> Path:
    path = folder / "ids.npy"
    path.write_bytes(npy(routes.ids, "i"))
    return path


Writer = Callable[[Routes, Path], Path]


@dataclass(frozen=True)
class Fixture:
    """A format's writer, and what of the routes the format keeps."""

    number: str
    format: str
    write: Writer
    weights: bool = False
    phase: bool = True
    any_layers: bool = True
    """Whether layers may have any numbers; an array's begin at 0."""
    guesses: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    """What has to be asked of the user."""


FIXTURES = (
    Fixture("F1", "arrays", vllm_npz, any_layers=False),
    Fixture("F1", "responses", vllm_json, any_layers=False),
    Fixture("F1", "arrays", int_array, phase=False, any_layers=False),
    Fixture("F2", "responses", sglang, any_layers=False, options={"top_k": K, "layers": 3}),
    Fixture("F2", "responses", verifiers, any_layers=False),
    Fixture("F2", "responses", tunix, any_layers=False),
    Fixture("F3", "megatron", megatron, weights=True),
    Fixture("F4", "colibri", colibri, weights=True),
    Fixture("F6", "glm_export", glm_export, weights=True),
    Fixture("F7", "waste", waste, phase=False, any_layers=False),
    Fixture("F8", "waste_dump", waste_dump, weights=True, phase=False, guesses=True),
    Fixture("F9", "lattice", lattice, weights=True, phase=False),
    Fixture("F10", "mer", mer, phase=False, guesses=True),
    Fixture("F11", "route_sim", route_sim),
    Fixture("F12", "llama_cpp", llama_cpp, options={"top_k": K}),
    Fixture("F13", "imp", imp, phase=False),
    Fixture("F13", "imp", imp_flat, phase=False),
    Fixture("F14", "kimi_pairs", kimi_pairs, options={"top_k": K}),
    Fixture("F15", "q4rt", q4rt, weights=True, phase=False, any_layers=False),
    Fixture("F16", "flame", flame, weights=True, phase=False),
    Fixture("F16", "flame", flame_arrow, weights=True, phase=False),
    Fixture("F17", "commitmoe", commitmoe, weights=True, phase=False),
    Fixture("F18", "route_trace", route_trace, weights=True),
)
"""A row per writer; F5 is counts, F19 is refused."""
NAMES = [f"{fixture.number}-{fixture.write.__name__}" for fixture in FIXTURES]
