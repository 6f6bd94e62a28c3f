"""Hold `dipsim run --json` of many option sets against committed figures.

    python tests/tools/figures.py FILE            compare; exit 1 when anything differs
    python tests/tools/figures.py --write FILE    write the figures of this tree

Every set is a process of the interpreter that runs this script, with the dipsim that it imports.
FILE holds per set its options, the SHA-256 of its exact standard output (less the temporary folder
of the traces drawn here) and the figures themselves, so that a difference can be named. Figures are
compared to the last bit: where a processor or a version of numpy or numba rounds otherwise, write
FILE anew from the tree to compare with.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = {
    "plain": "-p snapdragon8",
    "half": "-p paper-a18 --overlap paper-concurrent --dram 50%",
    "dip-ca": "-p snapdragon8 --method dip-ca --cache-fraction .6",
    "blend": "-p paper-a18 --method dip-ca --masking blend:fixed_top_n=.1 --gamma .5 --policy lru"
    " --cache 25MiB",
    "approximate": "-p paper-a18 --method dip-ca --masking approximate:top_m=.9,counts=.2"
    " --policy arc --cache-fraction .7",
    "warm-up": "-p paper-a18 --method dip-ca --masking gamma:warm_up=1 --reset sequence --dram 60%",
    "glu": "-p oneplus15r --method glu --density .8 --policy lfu-resident --cache-fraction .7",
    "glu-oracle": "-p oneplus15r --method glu-oracle --density .5 --layout bundle --dram 50%",
    "dense": "-p paper-a18 --method dense --weights 2:4 --dram 45MB",
    "predictor": "-p oneplus15r --method predictor --recall .8 --predictor-rank 32 --seed 3"
    " --dram 60%",
    "teal": "-p paper-a18 --method teal --calibrate-tokens 0:32 --dram 60%",
    "threshold": "-p paper-a18 --selection threshold --calibrate-tokens 0:32 --cache-fraction .6",
    "static": "-p snapdragon8 --policy static --warmup 32 --cache-fraction .5",
    "none": "-p paper-a18 --policy none --overlap paper-serial",
    "random": "-p paper-a18 --policy random --seed 3 --cache-fraction .6",
    "belady": "-p paper-a18 --policy belady --layout row --dram 70%",
    "opt": "-p paper-a18 --policy opt --cluster 4 --dram 80%",
    "ranked": "-p snapdragon8 --policy lru --admission ranked --layout permuted"
    " --cache-fraction .8",
    "sequential": "-p paper-a18 --policy sieve --access sequential --cache-fraction .6",
    "global": "-p snapdragon8 --policy lfu-decay:half_life=16 --scope global --tokens 0:32"
    " --layers 0:10 --cache-fraction .7",
    "equal": "-p snapdragon8 --policy 2q --allocate equal --dram 80%",
    "optimal": "-p snapdragon8 --allocate optimal --dram 80%",
    "grow": "-p snapdragon8 --policy lru --kv grow --kv-bits 8 --dram 60%",
    "mmap": "-p oneplus15r --io mmap --density .3 --cache-fraction .95",
    "buffered": "-p oneplus15r --io buffered --dram 60%",
    "closed": "-p oneplus15r --engine closed --overlap serial --cache-fraction .6",
    "events": "-p oneplus15r --engine events --cache-fraction .6",
    "sustained": "-p oneplus15r -s thermal.after=1s --thermal sustained --dram 80%",
    "prefetch": "-p snapdragon8 -s backends.cpu.per_layer=10us --prefetch previous --dram 80%",
    "guesses": "-p snapdragon8 -s backends.cpu.per_layer=10us --prefetch right=.8 --dram 80%",
    "authors": "-p paper-a18 --compat authors --method dip-ca --policy lru --dram 50%",
    "attribution": "-p snapdragon8 --attribution --cache-fraction .6",
    "parts": "-p snapdragon8 --sequence 1:2 --tokens 0:48 --layers 5:15 --cache-fraction .6",
    "overrides": "-p jetson-orin-nano -s dram.bandwidth=50GB/s --bits 4.5 --context 256"
    " --group-density mlp_input=.75,glu=.6 --dram 60MB",
}
"""Option sets of the shipped trace smollm2-chat."""
DRAWN = {
    "gate": "neurons.npz -p paper-a18 --method gate --prefill cache --cache-fraction .6",
    "up": "neurons.npz -p oneplus15r --method up --policy s3fifo --cache-fraction .6",
    "cats": "neurons.npz -p paper-a18 --method cats --calibrate-tokens 0:16 --cache-fraction .6",
    "attention": "neurons.npz -p paper-a18 --method teal --calibrate-tokens 0:16 --dram 60%",
    "experts": "experts.npz -p oneplus15r --routing cache-prior --top-k 2 --cache-fraction .5",
    "drop-cold": "experts.npz -p oneplus15r --routing drop-cold --top-k 4 --cache-fraction .5",
}
"""Option sets of traces that `draw` makes: signals that the shipped trace does not hold."""
SETS = {name: f"smollm2-chat {options}" for name, options in SHIPPED.items()} | DRAWN
MAIN = (
    "from importlib.metadata import entry_points;"
    "entry_points(group='console_scripts', name='dipsim')['dipsim'].load()()"
)
SHOWN = 12
"""Differing figures of a set that its line names."""


def draw(folder: Path) -> None:
    """Write two small traces with a prompt and two sequences: of neurons, and of experts."""
    rng, row = np.random.default_rng(0), np.arange(48)
    phase = (row % 24 >= 8).astype(np.uint8)
    tokens: dict[str, Any] = {"sequence": (row // 24).astype(np.int32), "phase": phase}
    model = {"layers": 4, "hidden": 64, "intermediate": 256, "heads": 4, "kv_heads": 4, "vocab": 99}
    inputs = dict.fromkeys(("attn_input", "attn_output", "mlp_input"), 64)
    units = inputs | dict.fromkeys(("gate", "up", "glu"), 256)

    def scores(count: int) -> Any:
        return rng.integers(0, 1000, (48, 4, count)).astype(np.float32)

    signals = {name: scores(count) for name, count in units.items()} | tokens
    np.savez(folder / "neurons.npz", **signals, meta=json.dumps({"model": model}))
    meta = json.dumps({"signals": {"expert": {"unit_bytes": 1_000_000}}})
    np.savez(folder / "experts.npz", expert=scores(16) / 250, **tokens, meta=meta)


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run a set in a process of its own: its options, the digest of its output, its figures."""
    command = [sys.executable, "-P", "-c", MAIN, "run", *shlex.split(SETS[name]), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    output = done.stdout.replace(f"{folder}/".encode(), b"")
    digest = hashlib.sha256(output).hexdigest()
    if done.returncode:
        figures = {"error": (done.stderr.decode().splitlines() or [f"exit {done.returncode}"])[-1]}
    else:
        figures = json.loads(output)
    return {"options": SETS[name], "sha256": digest, "figures": figures}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every figure of a JSON value with its path, as JSON text."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        if isinstance(each, dict | list) and each:
            yield from flat(each, f"{path}{key}.")
        else:
            yield f"{path}{key}", json.dumps(each)


def difference(expected: dict[str, Any], measured: dict[str, Any]) -> str:
    """Name what differs between two measurements of a set, in one line; empty when nothing does."""
    if expected == measured:
        return ""
    if expected["options"] != measured["options"]:
        return f"options {expected['options']!r} -> {measured['options']!r}"
    if problem := measured["figures"].get("error"):
        return f"does not run: {problem}"
    old, new = dict(flat(expected["figures"])), dict(flat(measured["figures"]))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    named = [f"{key} {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys[:SHOWN]]
    if len(keys) > SHOWN:
        named.append(f"and {len(keys) - SHOWN} more")
    return "; ".join(named) or "the figures are equal, the bytes printed are not"


def write(file: Path, folder: Path) -> int:
    """Write the figures of every set, one set a line; 1 when a set did not run."""
    lines = []
    for name in SETS:
        measured = measure(name, folder)
        if problem := measured["figures"].get("error"):
            print(f"{name}: {problem}")
            return 1
        lines.append(f"{json.dumps(name)}: {json.dumps(measured)}")
        print(f"{name}: measured", flush=True)
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


def compare(file: Path, folder: Path) -> int:
    """Compare every set, one line each; 1 when anything differs."""
    expected = json.loads(file.read_text())
    differing = 0
    for name in [*SETS, *(expected.keys() - SETS.keys())]:
        if name in expected and name in SETS:
            problem = difference(expected[name], measure(name, folder))
        else:
            problem = "only in the file" if name in expected else "not in the file"
        differing += bool(problem)
        print(f"{name}: {problem or 'equal'}", flush=True)
    print(f"{differing} differ" if differing else f"all {len(SETS)} equal")
    return int(differing > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hold dipsim run against committed figures.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="write the figures of this tree")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as drawn:
        draw(Path(drawn).resolve())
        action = write if arguments.write else compare
        sys.exit(action(arguments.file, Path(drawn).resolve()))
