"""Is a recording kept that ends early, whenever and however it ends, and is nothing else left?"""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm  # noqa: E402
from dipsim.errors import DipsimError, TraceError  # noqa: E402
from dipsim.trace import TraceWriter, load_trace  # noqa: E402
from dipsim.trace.archive import Spool  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

IDS = torch.arange(3, 9)[None]
CALLS = 6
WRITING = ("/dipsim/trace/", "/dipsim/lm/record", "/dipsim/files", "/zipfile", "/shutil")


@cache
def writes(file: str) -> bool:
    return any(part in file for part in WRITING)


def recorded(path: Path, model: Any, meta: Any = None) -> None:
    with torch.no_grad(), lm.record(model, path, meta=meta):
        for _ in range(CALLS):
            model(IDS)


class AtEvent:
    """Does something at the n-th call of a function of those that write."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number, self.act, self.events = number, act, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if writes(frame.f_code.co_filename):
            self.events += 1
            if self.events == self.number:
                sys.setprofile(None)
                self.act()

    def watch(self, run: Callable[[], None]) -> None:
        sys.setprofile(self)
        try:
            run()
        finally:
            sys.setprofile(None)


KINDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "Ctrl-C": lambda patch: signal.raise_signal(signal.SIGINT),
    "full disk": lambda patch: patch.setattr(Spool, "write", full),
}


def full(spool: Any, rows: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize(("name", "older"), [("t.npz", False), ("t.npz", True), ("t", False)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempts", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_at_any_moment_the_finished_part_is_kept(
    kind: str,
    name: str,
    older: bool,
    attempts: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    recorded(tmp_path / f"first {name}", model)  # which also does what is done once in a process
    counter = AtEvent(-1, lambda: None)
    counter.watch(lambda: recorded(tmp_path / name, model))
    whole = load_trace(tmp_path / name)
    values = next(iter(whole.blocks({"glu": "values"})))[2]["glu"]
    rng = random.Random(f"{kind} {name}")
    kept = 0
    for attempt in range(attempts):
        path = tmp_path / str(attempt) / name
        path.parent.mkdir()
        if older:
            with TraceWriter(path) as out:
                out.append({"glu": np.ones((1, 1, 1))})
        with monkeypatch.context() as patch:
            moment = AtEvent(rng.randrange(1, counter.events), lambda: KINDS[kind](patch))
            with suppress(KeyboardInterrupt, TraceError):
                moment.watch(partial(recorded, path, model))
        assert moment.events == moment.number
        gc.collect()  # as the end of the program does
        left = {one.name for one in path.parent.iterdir()}
        assert left <= {name, "t.part.npz"}
        if older and load_trace(path).tokens == 1:
            left -= {name}
        for trace in (load_trace(path.parent / one) for one in left):
            kept += 1
            assert trace.tokens % IDS.shape[1] == 0
            part = next(iter(trace.blocks({"glu": "values"})))[2]["glu"]
            np.testing.assert_array_equal(part, values[: trace.tokens])
    assert kept > attempts / 8


def test_a_part_does_not_replace_an_older_trace(tmp_path: Path) -> None:
    model = tiny()
    recorded(tmp_path / "t.npz", model)
    older = (tmp_path / "t.npz").read_bytes()

    def stopped() -> None:
        with torch.no_grad(), lm.record(model, tmp_path / "t.npz"):
            model(IDS)
            raise TraceError("stopped")

    for part in ("t.part.npz", "t.part1.npz"):
        with pytest.raises(TraceError, match=rf"stopped; the first 6 tokens are kept in .*/{part}"):
            stopped()
        assert load_trace(tmp_path / part).tokens == 6
    assert (tmp_path / "t.npz").read_bytes() == older
    assert sorted(os.listdir(tmp_path)) == ["t.npz", "t.part.npz", "t.part1.npz"]


@pytest.mark.parametrize("meta", [{"a": object()}, {"a": float("nan")}, {"signals": [1]}])
def test_bad_meta_is_refused_before_the_first_token(meta: Any, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="meta"):
        lm.record(tiny(), tmp_path / "t.npz", meta=meta)
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, numpy as np
from dipsim.trace import TraceWriter
out = TraceWriter(sys.argv[1])
out.append({"glu": np.ones((2, 1, 3))})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["t.npz", "t"])
def test_what_a_killed_writer_left_is_removed_by_the_next(name: str, tmp_path: Path) -> None:
    def writer() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    killed, living = writer(), writer()
    killed.kill()
    killed.communicate()
    hidden = set(os.listdir(tmp_path))
    assert len(hidden) == 2
    with TraceWriter(tmp_path / name) as out:
        out.append({"glu": np.ones((2, 1, 3))})
    left = set(os.listdir(tmp_path)) - {name}
    assert len(left) == 1
    assert left < hidden  # that of the writer that lives
    living.terminate()
    living.communicate()


ASKED_TO_END = """
import os, signal
from dipsim.cli import main
from dipsim.trace import TraceWriter

append = TraceWriter.append


def append_and_end(writer, *rows):
    append(writer, *rows)
    assert os.listdir()
    os.kill(os.getpid(), signal.SIGTERM)


TraceWriter.append = append_and_end
main()
"""


def test_a_program_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASKED_TO_END, "export", "smollm2-chat", "t.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines() == ["dipsim: interrupted"]
    assert done.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


EXAMPLES = pytest.mark.parametrize("examples", [40, pytest.param(400, marks=pytest.mark.slow)])
SIGNALS = ("mlp_input", "gate", "up", "glu", "attn_input", "attn_output")


@EXAMPLES
def test_record_keeps_what_it_accepts(examples: int, tmp_path: Path) -> None:
    model, accepted = tiny(), 0

    @settings(max_examples=examples)
    @given(
        st.just(list(SIGNALS)) | st.lists(st.sampled_from([*SIGNALS, "expert"]), max_size=3),
        st.dictionaries(st.sampled_from(SIGNALS), st.sampled_from(["float16", "float32", "log8"]),
                        max_size=2),
        st.dictionaries(st.text(max_size=3), st.none() | st.floats() | st.binary() | st.text(),
                        max_size=1),
        st.sampled_from([1.0, 1.0, 1e5, 1e30]),
        st.integers(0, 3),
        st.sampled_from(["t.npz", "t"]),
    )  # fmt: skip
    def check(signals: Any, encodings: Any, meta: Any, scale: float, calls: int, name: str) -> None:
        nonlocal accepted
        path = tmp_path / "run" / name
        path.parent.mkdir()
        weight = model.model.layers[1].mlp.up_proj.weight
        kept = weight.data.clone()
        weight.data *= scale
        try:
            options: Any = {"signals": signals or None, "encodings": encodings, "meta": meta}
            with torch.no_grad(), lm.record(model, path, **options):
                for _ in range(calls):
                    model(IDS)
            trace = load_trace(path)
            assert trace.tokens == 6 * calls
            assert {key: trace.meta[key] for key in meta} == meta
            trace.check_values()
            accepted += 1
            path.unlink() if path.is_file() else shutil.rmtree(path)
        except DipsimError:
            pass
        finally:
            weight.data = kept
        assert os.listdir(path.parent) == []
        path.parent.rmdir()

    check()
    assert accepted > examples / 8
