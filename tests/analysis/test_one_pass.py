"""How often commands read a trace: arrays are inflated once, and each method chooses once."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from dipsim.analysis.baseline import replay_held
from dipsim.analysis.compare import compare
from dipsim.analysis.inspect import inspect
from dipsim.analysis.mrc import mrc
from dipsim.analysis.search import search
from dipsim.analysis.study import study
from dipsim.simulate import prepare
from dipsim.trace import Trace, npz
from tools.three_layers import DEVICE, scores

SMALL: Any = {"points": 3, "method": "dip"}
FEW: Any = {"policies": "lru,lfu", "cache_fraction": "0.4,0.6"}


def run(trace: str, **options: Any) -> None:
    replay_held(prepare(trace, DEVICE, cache_fraction=0.5, **options))


class Reads(NamedTuple):
    """A command, and how often it reads."""

    call: Callable[[str], Any]
    chosen: int = 1
    """Times that the signals are decoded: once for each method and density."""
    inflated: int = 1
    """Times that each array is inflated."""


COMMANDS = {
    "run": Reads(run),
    "run dip-ca": Reads(lambda trace: run(trace, method="dip-ca")),
    "run static": Reads(lambda trace: run(trace, policy="static")),
    # Sets that depend on the cache cannot be held, so their profile takes a pass of its own.
    "run dip-ca static": Reads(lambda trace: run(trace, method="dip-ca", policy="static"), 2, 2),
    "compare": Reads(lambda trace: compare(trace, DEVICE, methods="dip", **FEW)),
    "compare two": Reads(lambda trace: compare(trace, DEVICE, methods="dip,dip-ca", **FEW), 2),
    "mrc": Reads(lambda trace: mrc(trace, "lru,lfu,opt", method="dip")),
    "search": Reads(lambda trace: search(trace, DEVICE, axes="dram,flash-bandwidth", **SMALL)),
    "study dram": Reads(lambda trace: study("dram", trace, DEVICE, methods="dip")),
    "study flash": Reads(lambda trace: study("flash", trace, DEVICE, methods="dip")),
    "study split": Reads(lambda trace: study("split", trace, DEVICE), 12),
    # Two signals, and the sets chosen from them, which lie in memory.
    "inspect": Reads(inspect, 4),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    arrays = scores(1, 24)
    np.savez_compressed(path, **{**arrays, "meta": np.array(json.dumps(arrays["meta"]))})
    return str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_trace_is_read_as_rarely_as_can_be(
    command: str, trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflated: Counter[str] = Counter()
    decoded = []
    rows, blocks = npz.InArchive.rows, Trace.blocks

    def counted(self: npz.InArchive, first: int, counts: Any) -> Iterator[npz.Array]:
        inflated[self.name] += 1
        return rows(self, first, counts)

    def noted(self: Trace, wanted: Any) -> Any:
        decoded.append(wanted)
        return blocks(self, wanted)

    monkeypatch.setattr(npz.InArchive, "rows", counted)
    monkeypatch.setattr(Trace, "blocks", noted)
    reads = COMMANDS[command]
    reads.call(trace)
    assert len(decoded) == reads.chosen
    times = {"mlp_input.npy": reads.inflated, "glu.npy": reads.inflated}
    assert {name: inflated[name] for name in times} == times
