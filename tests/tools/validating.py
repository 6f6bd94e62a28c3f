"""What tests of `dipsim validate` share: small cases, and a small phone's routes and metrics."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.validate import Cases, Validation, judge
from dipsim.validate.devices import shipped
from dipsim.validate.metrics import load_metrics
from dipsim.validate.routes import Speeds, predict, replay_routes
from tools.paths import VALIDATION

ROUTES, METRICS = VALIDATION / "qwen.route.csv", VALIDATION / "qwen.metrics"
LAYERS, EXPERTS, USED, TOKENS = 3, 8, 2, 70
BYTES = 3_000_000
DENSE = 2_000_000


@cache
def judged_as_shipped() -> Validation:
    """Return the shipped cases, judged."""
    return judge(shipped())


def judged_once(cases: Cases, progress: Any = None) -> Validation:
    """Return cases judged; the shipped ones are judged the first time only."""
    return judged_as_shipped() if cases is shipped() else judge(cases, progress)


def writer_of_runs(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes a small route trace, and metrics that a phone of given speeds would have measured."""

    def write(speeds: Speeds | None = None, tokens: int = TOKENS) -> tuple[Path, Path]:
        rng = np.random.default_rng(3)
        lines = [
            "# route_trace v1",
            f"# model=m.gguf arch=a n_layer={LAYERS} n_expert={EXPERTS} n_expert_used={USED}",
            *(f"# layer={at} expert_bytes={BYTES} dense_bytes={DENSE}" for at in range(LAYERS)),
            "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes",
        ]
        for token, layer in itertools.product(range(TOKENS), range(LAYERS)):
            chosen = np.sort(rng.choice(EXPERTS, USED, replace=False))
            lines += [f"0,1,{token},{layer},{i},{e},0.5,0,0" for i, e in enumerate(chosen)]
        route, metrics = tmp_path / "a.route.csv", tmp_path / "a.metrics"
        route.write_text("\n".join(lines) + "\n")
        columns = "step,steps,wall_ms,io_ms,compute_ms,read_bytes,cache_hit_pct,stall_ms,mgmt_ms"

        def save(rows: list[str]) -> None:
            summary = "# summary tokens=70 cache_budget_MiB=20.0 io_s=1"
            metrics.write_text("\n".join([columns, *rows, summary]) + "\n")

        save([f"{i},{tokens},1,1,1,1,1,1,1" for i in range(1, tokens + 1)])
        if speeds is not None:
            replay = replay_routes(route, load_metrics(metrics))
            took, read = predict(replay, speeds), replay.read_bytes
            rows = np.stack([took[name] for name in ("wall", "io", "stall", "mgmt")], axis=1)
            save(
                [
                    f"{i + 1},{tokens},{wall},{io},1,{read[i]},50,{stall},{mgmt}"
                    for i, (wall, io, stall, mgmt) in enumerate(rows.tolist())
                ]
            )
        return route, metrics

    return write


def geometry(layers: int = 4, hidden: int = 256, kv_heads: int = 4) -> dict[str, Any]:
    """Return the geometry of a small dense model."""
    shape = {"layers": layers, "hidden": hidden, "intermediate": 4 * hidden, "heads": 4}
    shape |= {"kv_heads": kv_heads, "head_dim": 64, "vocab": 1000, "tied_embeddings": True}
    return shape


def case(name: str = "a", **changes: Any) -> dict[str, Any]:
    """Return a case of a small model on a shipped profile that no fit knows; None takes a key
    away."""
    entry: dict[str, Any] = {"id": name, "kind": "decode", "device": "a phone", "value": 40.0}
    entry |= {"profile": "snapdragon8gen3", "backend": "cpu", "model": geometry(), "bits": 4.5}
    entry |= {"weight_format": "8da4w"} | changes
    return {key: value for key, value in entry.items() if value is not None}


def streamed(name: str = "s", **changes: Any) -> dict[str, Any]:
    """Return a case of experts that are streamed."""
    entry = {"id": name, "device": "OnePlus 15R", "kind": "streaming", "value": 4.0}
    entry |= {"layers": 10, "experts": 16, "experts_per_token": 4, "expert_bytes": 1e6}
    entry |= {"dense_bytes": 1e8, "flash_bytes": 2e7, "weight_format": "q4_k"}
    return {**entry, **changes}


def written(folder: Path, *cases: Any, name: str = "cases.json", **more: Any) -> Path:
    """Write a file of cases."""
    path = folder / name
    path.write_text(json.dumps({"cases": list(cases), **more}))
    return path
