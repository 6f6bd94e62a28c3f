"""Use dipsim with the run-time dependencies that an interpreter has, whatever their versions.

    PYTHON tests/tools/smoke.py

Asks every command for its help, holds two runs of the shipped trace against the committed figures,
and lets commands write a trace, pictures and a timeline. Prints the versions and, at the first step
that fails, what it printed; exit 1 then. Needs no pytest.
"""

import json
import math
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from figures import MAIN, SETS, flat
from typer.main import get_command

from dipsim.cli import app

GOLDEN = Path(__file__).parents[1] / "golden" / "run-figures.json"
HELD = ("plain", "dip-ca")
PRECISION = 1e-9
"""Relative difference of figures that another numba or numpy may make; counts are exact."""
STEPS = (
    "profiles",
    "models",
    "policies",
    "methods",
    "synth drawn.npz --tokens 24 --signals glu --encoding glu=float16",
    "import drawn.npz imported.npz --map glu=glu --model smollm2-135m",
    "export imported.npz part.npz --tokens 0:16",
    "inspect part.npz",
    "run part.npz --profile snapdragon8 --plot run.png --timeline timeline.json",
    "compare part.npz --profile snapdragon8 --policy lru --policy fifo --plot compare.svg",
)


def dipsim(words: str, folder: Path) -> str:
    """Run a command line; return what it prints. Ends the program where that fails."""
    command = [sys.executable, "-P", "-c", MAIN, *words.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dipsim {words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def differing(expected: Any, measured: Any) -> list[str]:
    """Name the figures that differ by more than rounding."""
    old, new = dict(flat(expected)), dict(flat(measured))

    def alike(key: str) -> bool:
        one, other = (json.loads(each.get(key, "null")) for each in (old, new))
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=PRECISION)
        return bool(one == other)

    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if not alike(key)]


def main() -> None:
    """Run all steps."""
    lines = [line for line in requires("dipsim") or () if "extra" not in line]
    versions = {name: version(name) for name in (re.split(r"[^\w-]", line)[0] for line in lines)}
    commands = ["", *get_command(app).commands]
    print("Python", platform.python_version(), versions, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for command in commands:
            dipsim(f"{command} --help", folder)
        golden = json.loads(GOLDEN.read_text())
        for each in HELD:
            measured = json.loads(dipsim(f"run {SETS[each]} --json", folder))
            if problems := differing(golden[each]["figures"], measured):
                sys.exit(f"{each}: " + "; ".join(problems))
        for step in STEPS:
            dipsim(step, folder)
    print(f"good: help of {len(commands)} commands, {len(HELD)} runs held, {len(STEPS)} steps")


if __name__ == "__main__":
    main()
