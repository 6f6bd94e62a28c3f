"""Arguments of odd types: every public function takes them, or refuses them in one line."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim import extras
from dipsim.errors import DipsimError
from dipsim.settings import OPTIONS
from tools.answers import READS, arrays

CALLED = {"progress", "watch"}
"""Arguments that are functions of the caller's own."""
ODD: tuple[Any, ...] = (
    5,
    -2.5,
    float("nan"),
    True,
    "odd",
    "",
    b"bytes",
    object(),
    [],
    [60],
    ["a"],
    [None],
    (0, 8),
    {"glu": None},
    {5: "x"},
    {"glu"},
    np.ones((3, 2, 4), np.float32),
    np.array(["a"]),
    (each for each in "ab"),
)


def usual(name: str, folder: Path) -> list[dict[str, Any]]:
    """Return arguments that a function takes, once for each of its questions."""
    source, out, half = folder / "t.npz", folder / "out.npz", {"cache_fraction": 0.5}
    on_device: dict[str, Any] = {"trace": arrays(), "profile": READS}
    calls: dict[str, list[dict[str, Any]]] = {
        "compare": [{"trace": arrays(), "profiles": READS, "policies": "lru", **half}],
        "export": [{"trace": arrays(), "out": out}],
        "import_": [{"source": source, "out": out}],
        "inspect": [{"trace": arrays()}],
        "load_model": [{"given": arrays()["meta"]["model"]}],
        "load_policy": [{"given": "lru"}],
        "load_profile": [{"given": READS}],
        "load_trace": [{"given": arrays()}],
        "mrc": [{"trace": arrays(), "policies": "lru", "cache_fraction": 0.5}],
        "plan": [{"model": "smollm2-135m", "profile": "snapdragon8", "context": 64, "prompt": 8}],
        "record": [{"model": folder, "out": out, "text": source}],
        "results": [{"store": folder / "s.db"}],
        "save_trace": [{"path": out, "arrays": arrays()}],
        "search": [
            {**on_device, "target_rate": 1.0},
            {**on_device, "max_loss": 0.5, **half},
            {**on_device, "axes": ("dram", "iops"), "points": 2},
        ],
        "simulate": [{**on_device, **half}],
        "sweep": [{"study": {"trace": "t.npz", "profile": "paper-a18"}, "store": folder / "s.db"}],
        "study": [{"name": "layers", "trace": arrays(), "profiles": READS, **half}],
        "synth": [{"out": out, "like": arrays(), "tokens": 4}],
        "TraceWriter": [{"path": out}],
    }
    return calls[name]


FUNCTIONS = [
    name
    for name in dipsim.__all__
    if inspect.isfunction(getattr(dipsim, name)) or name == "TraceWriter"
]


def odd_calls(name: str, folder: Path) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Yield calls of a function in which one argument is odd: its name, its value, the call."""
    function: Any = getattr(dipsim, name)
    for arguments in usual(name, folder):
        for argument in inspect.signature(function).parameters:
            few = argument in OPTIONS and name != "simulate"  # they all go the same way
            for odd in () if argument in CALLED else ODD[::6] if few else ODD:
                changed = {**arguments, argument: odd}
                yield argument, odd, lambda changed=changed: function(**changed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_odd_argument_is_taken_or_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras, "find_spec", lambda module: None)  # nothing here runs a model
    dipsim.save_trace("t.npz", arrays())
    dipsim.sweep({"trace": "t.npz", "profile": "paper-a18"}, "s.db")
    wrong = []
    for argument, odd, call in odd_calls(name, tmp_path):
        try:
            call()
        except DipsimError as problem:
            if "\n" in str(problem):
                wrong.append(f"{argument}={odd!r}: {problem}")
        except Exception as problem:
            wrong.append(f"{argument}={odd!r}: {type(problem).__name__}: {problem}")
    assert not wrong, "\n".join(wrong)
