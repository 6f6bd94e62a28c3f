"""A folder for command lines: small traces, good and bad, a model, profiles and policies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tools.devices import PHONE

TOKENS, LAYERS, HIDDEN, INTERMEDIATE = 12, 2, 16, 32
MODEL = {
    "layers": LAYERS,
    "hidden": HIDDEN,
    "intermediate": INTERMEDIATE,
    "heads": 2,
    "kv_heads": 1,
    "vocab": 50,
    "bits": 4,
}
RECENCY = '''"""Evicts the unit that was used longest ago."""
from dipsim import Policy


def touch(state, unit, token, hit):
    state[unit] = token + 1


def rank(state, unit, token):
    return state[unit]


policy = Policy("mine", "least recently used", touch=touch, rank=rank)
'''
BROKEN = '''"""Policies that break the contract."""
from dipsim import Policy


def first(state, unit, evictable, token):
    return 0


def nothing(state, unit, token):
    state[unit] = token


def no_state(units, capacity, seed):
    return units // 0


evicts_anything = Policy("careless", evict=first, insert=nothing)
stateless = Policy("stateless", state=no_state, rank=nothing)
number = 5
'''


def fill(path: Path) -> None:
    """Write all files into a folder that exists."""
    rng = np.random.default_rng(0)
    x = rng.random((TOKENS, LAYERS, HIDDEN)).astype(np.float32)
    glu = rng.random((TOKENS, LAYERS, INTERMEDIATE)).astype(np.float32)

    def save(name: str, meta: Any = None, **arrays: Any) -> None:
        if meta is not None:
            arrays["meta"] = np.array(json.dumps(meta))
        np.savez(path / name, **arrays)

    save("t.npz", {"model": MODEL}, mlp_input=x, glu=glu)
    save("glu.npz", {"model": MODEL}, glu=glu)
    save("no-model.npz", mlp_input=x, glu=glu)
    marks = {"phase": np.arange(TOKENS) % 6 > 2, "sequence": np.arange(TOKENS) // 6}
    marks = {key: value.astype(np.int32) for key, value in marks.items()}
    save("marked.npz", {"model": MODEL}, mlp_input=x, glu=glu, **marks)
    save("prompt.npz", {"model": MODEL}, glu=glu, phase=np.zeros(TOKENS, np.uint8))
    save("sets.npz", {"model": MODEL}, glu=glu > 0.5)
    save("sized.npz", {"signals": {"glu": {"unit_bytes": 3e6}}}, glu=glu > 0.5)
    save("idle.npz", {"signals": {"glu": {"unit_bytes": 3e6}}}, glu=glu > 2)
    save("escapes.npz", {"source": "\x1b[31mred\a"}, glu=glu)
    save("surrogate.npz", {"source": "half \ud800"}, glu=glu)
    np.savez(path / "infinite.npz", glu=glu, meta=np.array('{"model": null, "x": Infinity}'))
    nan, negative = glu.copy(), glu.copy()
    nan[3, 1, 2], negative[3, 1, 2] = np.nan, -1
    save("nan.npz", {"model": MODEL}, glu=nan)
    save("negative.npz", {"model": MODEL}, glu=negative)
    save("objects.npz", glu=glu.astype(object))
    save("shapes.npz", mlp_input=x[1:], glu=glu)
    (path / "text.npz").write_text("not a zip")
    (path / "cut.npz").write_bytes((path / "t.npz").read_bytes()[:-100])
    (path / "model.yaml").write_text(
        yaml.safe_dump({key: value for key, value in MODEL.items() if key != "bits"})
    )
    (path / "phone.yaml").write_text(yaml.safe_dump(PHONE))
    (path / "typo.yaml").write_text(yaml.safe_dump({**PHONE, "dramm": {}}))
    (path / "mine.py").write_text(RECENCY)
    (path / "broken.py").write_text(BROKEN)
    (path / "fails.py").write_text("import no_such_module\n")
    (path / "syntax.py").write_text("def policy(:\n")
    (path / "text.json").write_text("tokens_per_second: 5")
    (path / "other.json").write_text('{"tokens": 5}')
