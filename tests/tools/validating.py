"""What tests of `dipsim validate` share: a few cases, and a small phone's routes and metrics."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dipsim.validate.cases import shipped_cases
from dipsim.validate.metrics import load_metrics
from dipsim.validate.routes import Speeds, predict, replay_routes
from tools.paths import VALIDATION

ROUTES, METRICS = VALIDATION / "qwen.route.csv", VALIDATION / "qwen.metrics"
FEW = ("bmoe-gptoss-mmap-k2", "bmoe-gptoss-mmap-k4", "orinnano-1.5b", "liaf-naive")
LAYERS, EXPERTS, USED, TOKENS = 3, 8, 2, 70
BYTES = 3_000_000
DENSE = 2_000_000


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


def few(tmp_path: Path, *ids: str) -> Path:
    data = json.loads(shipped_cases().read_text())
    data["cases"] = [case for case in data["cases"] if case["id"] in ids]
    path = tmp_path / "few.json"
    path.write_text(json.dumps(data))
    return path
