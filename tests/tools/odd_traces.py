"""Traces that are valid but odd, and the files beside them that commands ask for."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from dipsim.trace.encoding import encode_log8
from dipsim.validate.cases import shipped_cases

Arrays = dict[str, Any]


HOLDS = {
    ("mlp_input", "glu"): 5,
    ("glu",): 2,
    ("gate", "up", "glu"): 2,
    ("attn_input", "attn_output", "mlp_input", "gate", "up", "glu"): 2,
    ("expert",): 4,
    ("expert", "glu"): 0.5,
    ("mlp_input",): 0.5,
}
"""Signals of a trace, and how likely they are."""
SCORES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "uniform": lambda rng, shape: rng.random(shape),
    "lasting": lambda rng, shape: rng.random((1, *shape[1:])) + 0.3 * rng.random(shape),
    "ties": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
    "equal": lambda rng, shape: np.ones(shape),
    "zero": lambda rng, shape: np.zeros(shape),
    "few": lambda rng, shape: rng.random(shape) * (rng.random(shape) < 0.1),
    "subnormal": lambda rng, shape: rng.random(shape) * 1e-43,
    "largest": lambda rng, shape: rng.random(shape) * np.finfo(np.float32).max,
    "spread": lambda rng, shape: 10 ** rng.uniform(-44, 38, shape),
    "huge": lambda rng, shape: rng.random(shape) * 1e300,
}
SHARES = (0.0, 0.02, 0.3, 0.3, 0.9, 1.0)
"""Shares of the units that sets hold."""


def draw_trace(draw: Random) -> Arrays:
    """Return the arrays of a trace, as `.npz` holds them."""
    rng = np.random.default_rng(draw.getrandbits(32))
    tokens, layers = draw.choice((1, 2, 3, 9, 20, 24, 40)), draw.choice((1, 1, 2, 3))
    hidden, neurons = draw.choice((1, 2, 4, 16)), draw.choice((1, 3, 8, 33, 65))
    experts = draw.choice((1, 2, 5, 9))
    widths = {"gate": neurons, "up": neurons, "glu": neurons, "expert": experts}
    arrays: Arrays = {}
    declared: dict[str, dict[str, Any]] = {}
    sets = draw.random() < 0.25
    for name in draw.choices(list(HOLDS), HOLDS.values())[0]:
        shape = (tokens, layers, widths.get(name, hidden))
        declared[name] = {}
        if sets or (name == "expert" and draw.random() < 0.3):
            arrays |= _sets(draw, rng, name, shape, declared[name])
        else:
            arrays |= _scores(draw, rng, name, shape, declared[name])
    model = _model(draw, layers, hidden, neurons)
    if "expert" in declared:
        model |= {"experts": experts, "experts_per_token": draw.randint(1, experts)}
    meta: dict[str, Any] = {"signals": declared}
    if draw.random() < 0.75:
        meta["model"] = model
    if "model" not in meta or draw.random() < 0.1:
        for entry in declared.values():
            sizes = draw.choice((1, 24.5, 3e6, 1e12, [24.5, 1e6, 1.0][:layers]))
            entry |= {"unit_bytes": sizes} if draw.random() < 0.95 else {}
    arrays |= _beside(rng, tokens, layers) if draw.random() < 0.2 else {}
    return arrays | _marks(draw, rng, tokens) | {"meta": np.array(json.dumps(meta))}


def _beside(rng: np.random.Generator, tokens: int, layers: int) -> Arrays:
    """Return vectors and modes, which no method reads."""
    shape = (tokens, layers)
    return {
        "query": rng.normal(0, 1, (*shape, 4)).astype(np.float16),
        "key": rng.integers(-127, 128, (*shape, 2)).astype(np.int8),
        "key.scale": rng.random((*shape, 1)).astype(np.float16),
        "layer_io": rng.uniform(-1, 1, (*shape, 6)).astype(np.float16),
        "layer_mode": rng.choice([0, 2, 5, 8, 10], shape).astype(np.uint8),
    }


def _model(draw: Random, layers: int, hidden: int, neurons: int) -> dict[str, Any]:
    """Return the geometry of a model; most of what it need not say is there or not."""
    model = {"layers": layers, "hidden": hidden, "intermediate": neurons, "heads": 1, "kv_heads": 1}
    model |= {"vocab": draw.choice((1, 50)), "tied_embeddings": draw.random() < 0.5}
    quant = {"format": "q4_0", "bits": 4, "group": draw.choice((1, 32))}
    quant |= {"axis": draw.choice(("in", "out", "channel"))}
    bits = {"bits": draw.choice((1, 4.5, 4.8437, 16))}
    more = {"context": draw.choice((1, 9)), "window": draw.choice((1, 4)), "window_every": 2}
    more |= {"gated": False, "shared_intermediate": 3, "weights": "2:4"}
    model |= draw.choice((bits, bits, {"quant": quant}))
    return model | {key: value for key, value in more.items() if draw.random() < 0.08}


def _sets(
    draw: Random,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int],
    declared: dict[str, Any],
) -> Arrays:
    """Return active sets in any encoding; ``declared``, the signal's part of meta, is filled."""
    sets = rng.random(shape) < draw.choice(SHARES)
    sets[rng.random(shape[:2]) < draw.choice((0, 0, 0.5))] = False
    encoding = draw.choice(("bool", "bits", "sparse"))
    if encoding == "bool":
        return {name: sets}
    if encoding == "bits":
        declared |= {"encoding": "bits", "units": shape[2]}
        return {name: np.packbits(sets, axis=-1, bitorder="little")}
    lists = {"indptr": np.cumsum([0, *sets.sum(axis=2).ravel()]), "shape": np.array(shape)}
    lists["indices"] = np.nonzero(sets)[2].astype(np.uint16)
    if draw.random() < 0.5:
        lists["scores"] = SCORES["uniform"](rng, shape)[sets].astype(np.float32)
    return {f"{name}.{part}": values for part, values in lists.items()}


def _scores(
    draw: Random,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int],
    declared: dict[str, Any],
) -> Arrays:
    """Return scores in any encoding; ``declared``, the signal's part of meta, is filled."""
    scores = SCORES[draw.choice(tuple(SCORES))](rng, shape)
    encoding = draw.choice(("float16", "float32", "float32", "float64", "log8"))
    if name == "expert":
        scores = scores * rng.choice((-1, 1), shape) if draw.random() < 0.7 else scores
        encoding = "float32" if encoding == "log8" else encoding
        if scores.min() >= 0:
            declared |= {"encoding": "prob"} if draw.random() < 0.5 else {}
    if encoding == "log8" and scores.max() < np.finfo(np.float32).max:
        declared |= {"encoding": "log8"}
        codes, largest = encode_log8(scores.astype(np.float32))
        if draw.random() < 0.1:
            largest = SCORES["huge"](rng, shape[:2])
        return {name: codes, f"{name}.max": largest}
    kind = np.dtype("float32" if encoding == "log8" else encoding)
    most = np.finfo(kind).max
    arrays = {name: np.clip(scores, -most, most).astype(kind)}
    if name == "glu" and draw.random() < 0.2:
        norms = SCORES[draw.choice(("uniform", "zero", "largest", "huge"))](rng, shape[1:])
        small = norms.max() <= np.finfo(np.float32).max
        arrays["glu.norms"] = norms.astype(np.float32) if small else norms
    return arrays


def _marks(draw: Random, rng: np.random.Generator, tokens: int) -> Arrays:
    """Return phases, sequences and ids of tokens; each may be absent."""
    row = np.arange(tokens)
    phases = {
        "decode": np.ones(tokens),
        "prompt": np.zeros(tokens),
        "prompt first": row >= tokens // 2,
        "prompt last": row < tokens // 2,
        "in turn": row % 2,
        "any": rng.integers(0, 2, tokens),
    }
    sequences = {
        "one": np.zeros(tokens),
        "lone": row,
        "halves": row >= tokens // 2,
        "gaps": row // 3 * 1000,
    }
    marks: Arrays = {}
    if draw.random() < 0.6:
        marks["phase"] = phases[draw.choice(tuple(phases))].astype(np.uint8)
        marks["phase"][-1] |= draw.random() < 0.9
    if draw.random() < 0.5:
        marks["sequence"] = sequences[draw.choice(tuple(sequences))].astype(np.int32)
    if draw.random() < 0.2:
        marks["token_id"] = rng.integers(0, 50, tokens).astype(np.int32)
    return marks


# Files --------------------------------------------------------------------------------------------

ROUTES = (
    "# route_trace v1\n# model=m arch=a n_layer=1 n_expert=4 n_expert_used=1\n"
    "# layer=0 expert_bytes=10 dense_bytes=1\n"
    "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n0,1,0,0,0,1,0.5,0,10\n"
)


def draw_phone(draw: Random) -> dict[str, Any]:
    """Return a device; most of what a profile need not say is there or not."""
    reads = [{"size": "4 KiB", "lanes": 1, "bandwidth": "100 MB/s"}]
    reads += [{"size": "1 MiB", "lanes": lanes, "bandwidth": "2 GB/s"} for lanes in (1, 4)]
    speeds = ({"bandwidth": "1 kB/s"}, {"bandwidth": "1 GB/s"}, {"reads": reads}, {"reads": reads})
    flash: dict[str, Any] = {**draw.choice(speeds), "lanes": draw.choice((1, 4))}
    backend = {
        "gemv": {"q4_0": "20 GB/s"},
        "dram_efficiency": 0.5,
        "compute": "1 GFLOP/s",
        "per_layer": "10 us",
        "per_mask": "3 us",
        "per_score": "10 ns",
        "overlap_factor": draw.choice((0.5, 1.0)),
        "cache_copy": "1 GB/s",
        "active_power": "1 W",
    }
    parts = {
        "staging": draw.choice(("0 B", "100 B")),
        "runtime_overhead": "100 B",
        "thermal": {"after": draw.choice(("0 s", "1 ms")), "flash": 0.5, "compute": 0.5},
        "page_cache": {"bandwidth": "1 GB/s"},
        "energy": {"dram": "40 pJ/B", "flash": "400 pJ/B"},
    }

    def some(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in mapping.items() if draw.random() < 0.6}

    flash |= some({"align": draw.choice(("512 B", "4 KiB")), "fault": {"seconds": "100 us"}})
    dram = {"capacity": "8 GB", "bandwidth": draw.choice(("1 MB/s", "60 GB/s"))}
    dram |= some({"background": "100 kB/s"})
    return {"name": "phone", "dram": dram, "flash": flash, "backends": {"cpu": some(backend)}} | (
        some(parts)
    )


def fill(folder: Path, draw: Random) -> Arrays:
    """Write the files that command lines name into a folder; return the arrays of ``t.npz``."""
    arrays = draw_trace(draw)
    np.savez(folder / "t.npz", **arrays)
    (folder / "shards").mkdir()
    np.savez(folder / "shards/part-00000.npz", **arrays)
    np.savez(folder / "other.npz", **draw_trace(draw))
    signals = {key: values for key, values in arrays.items() if values.ndim == 3}
    before = draw.choice(("", "a."))
    np.savez(folder / "arrays.npz", **{f"{before}{key}": rows for key, rows in signals.items()})
    np.save(folder / "a.npy", next(iter(signals.values()), np.zeros(1)))
    (folder / "routes.csv").write_text(ROUTES)
    model = json.loads(str(arrays["meta"])).get("model", {"name": "smollm2-135m"})
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    (folder / "phone.yaml").write_text(yaml.safe_dump(draw_phone(draw)))
    lanes, speed = draw.choice((1, 4)), draw.choice((5e-324, 1.0, 1e6, 1e9, 1e14, 1e300))
    count, unit = draw.choice((1, 2, 5, 9)), draw.choice((" B", " B", ""))
    after = "/s".join([unit, ""]) if unit else ""
    rows = [f"{4096 * 2**i}{unit},{lanes},{speed * (i + 1)}{after}" for i in range(count)]
    (folder / "reads.csv").write_text("\n".join(["size,lanes,bandwidth", *rows]) + "\n")
    kept = {name: draw.choice((0.0, 0.9, 1.0)) for name in ("mlp_input", "glu")}
    points = [{"method": "dip", "energy_kept": kept, "perplexity": draw.choice((1e-300, 9.0))}]
    calibration = {"format": "dipsim-calibration", "version": 1, "model": "unnamed"}
    calibration |= {"dense_perplexity": 8.0, "points": points}
    (folder / "calibration.json").write_text(json.dumps(calibration))
    cases = yaml.safe_load(shipped_cases().read_text())
    cases["cases"] = draw.sample(cases["cases"], 4)
    (folder / "cases.json").write_text(json.dumps(cases))
    return arrays
