"""The tables of all studies of the paper, made by one command on little text and few tokens.

    PYTHONPATH=tests python -m tools.study_tables     writes tests/golden/studies.json

They are held by `tests/analysis/test_all_studies.py`.
"""

import json
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from dipsim.analysis.study import PAPER, STORE, load_study
from dipsim.analysis.tables import tables_of
from dipsim.store import Store
from dipsim.texts import reference
from tools.paths import ROOT

GOLDEN = ROOT / "tests/golden/studies.json"
CHANGES = {
    "text_tokens": 64,
    "window": 32,
    "calibrate_tokens": "64:128",
    "lora_steps": [None, 1],
}
COMMAND = [
    *(sys.executable, "-m", "dipsim", "study", "all", "--tokens", "0:16", "-o", "all.html"),
    *(f"--set={key}={json.dumps(value)}" for key, value in CHANGES.items()),
]


def text_digest() -> str:
    """Return a digest of the text that the models are judged on, which Python's version decides."""
    return sha256(reference().encode()).hexdigest()


def run_all(folder: Path) -> dict[str, Any]:
    """Run all studies in a folder by one command; return their tables, by study."""
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: tables_in(folder / STORE, name) for name in PAPER}


def tables_in(store: Path, name: str) -> list[dict[str, Any]]:
    """Return the tables of a study that a store holds: heads, and rows of values."""
    with Store.open(store) as opened:
        cells = opened.cells(name)
        axes = next(each.axes for each in opened.sweeps() if each.name == name)
    return [
        {
            "figure": shown.figure,
            "apart": dict(shown.apart),
            "columns": list(shown.columns),
            "rows": [[*place, *fields] for place, fields in shown.lines],
        }
        for shown in tables_of(load_study(name).tables, axes, cells)
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = {"text": text_digest(), "studies": run_all(Path(made))}
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n")
