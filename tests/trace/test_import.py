"""`dipsim import`: arrays of others and route traces, against what was put in."""

import csv
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dipsim.errors import DipsimError, TraceError
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace
from dipsim.trace.convert import import_, import_arrays
from dipsim.trace.encoding import unpack_sets
from tools.cli import refused, runner
from tools.hostile import read_or_refused
from tools.paths import VALIDATION, of_a_phone

TOKENS, LAYERS, UNITS = 9, 3, 20
ROUTES = VALIDATION / "qwen.route.csv"


def values(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((TOKENS, LAYERS, UNITS)).astype(np.float32)


def scores_of(path: Path, key: str) -> np.ndarray:
    trace = load_trace(path)
    return np.concatenate([data[key] for _, _, data in trace.blocks({key: "scores"})])


def sets_of(trace: Trace, key: str) -> np.ndarray:
    words = np.concatenate([data[key] for _, _, data in trace.blocks({key: "sets"})])
    return unpack_sets(words, trace.signals[key].units)


def refusal(source: Path, out: Path, **options: Any) -> str:
    with pytest.raises(TraceError) as problem:
        import_arrays(source, out, **options)
    assert not out.exists()
    assert [path for path in out.parent.iterdir() if path.name.startswith(".")] == []
    assert "\n" not in str(problem.value)
    return str(problem.value)


# Arrays -------------------------------------------------------------------------------------------


def test_an_npy_of_signed_values(tmp_path: Path) -> None:
    np.save(tmp_path / "acts.npy", values())
    out = tmp_path / "t.npz"
    notes = import_arrays(tmp_path / "acts.npy", out, names={"glu": "acts"})
    assert notes == ["took absolute values of glu"]
    np.testing.assert_array_equal(scores_of(out, "glu"), np.abs(values()))


def test_an_npz_with_other_names_and_marks(tmp_path: Path) -> None:
    phase = np.array([0] * 4 + [1] * 5)
    np.savez(tmp_path / "a.npz", h=values().astype(np.float64), p=phase, x=np.abs(values(1)))
    names = {"glu": "h", "phase": "p", "mlp_input": "x"}
    import_arrays(
        tmp_path / "a.npz", tmp_path / "t.npz", names=names, encodings={"mlp_input": "float16"}
    )
    trace = load_trace(tmp_path / "t.npz")
    assert trace.phase.tolist() == phase.tolist()
    assert {key: at.encoding for key, at in trace.signals.items()} == {
        "mlp_input": "float16",
        "glu": "float32",
    }


def test_arrays_named_like_signals_need_no_map(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", glu=np.abs(values()), up=values() > 0, other=np.zeros(3))
    import_arrays(tmp_path / "a.npz", tmp_path / "t.npz")
    trace = load_trace(tmp_path / "t.npz")
    assert {key: at.holds for key, at in trace.signals.items()} == {"glu": "scores", "up": "sets"}
    np.testing.assert_array_equal(sets_of(trace, "up"), values() > 0)


@pytest.mark.parametrize("kind", ["npy folder", "npz", "safetensors", "safetensors folder"])
def test_one_array_per_layer(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "src"
    layers = {
        f"layers.{i + 8}.acts": np.ascontiguousarray(values()[:, i]) for i in range(LAYERS)
    }  # 8, 9, 10: sorted as numbers, not as text
    if kind == "npy folder":
        source.mkdir()
        for name, rows in layers.items():
            np.save(source / f"{name}.npy", rows)
    elif kind == "npz":
        source = tmp_path / "src.npz"
        np.savez(source, **layers)
    elif kind == "safetensors":
        source = tmp_path / "src.safetensors"
        save_file(layers, source)
    else:
        source.mkdir()
        for i, (name, rows) in enumerate(layers.items()):
            save_file({name: rows}, source / f"s{i}.safetensors")
        source.joinpath("readme.txt").write_text("not an array")
    pattern = "s*.acts" if kind == "safetensors folder" else "layers.*.acts"
    if kind == "safetensors folder":
        for i in range(LAYERS):
            save_file({"acts": values()[:, i].copy()}, source / f"s{i}.safetensors")
    import_arrays(source, tmp_path / "out", names={"glu": pattern})
    np.testing.assert_array_equal(scores_of(tmp_path / "out", "glu"), np.abs(values()))


def test_logits_of_experts_keep_their_sign(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", values())
    assert import_arrays(tmp_path / "r.npy", tmp_path / "t.npz", names={"expert": "r"}) == []
    np.testing.assert_array_equal(scores_of(tmp_path / "t.npz", "expert"), values())


@pytest.mark.parametrize(
    ("arrays", "names", "said"),
    [
        ({"h": values()}, None, "--map glu=h"),
        ({"h": values()}, {"glu": "g"}, "no array 'g'"),
        ({"h": values()}, {"glue": "h"}, "no signal 'glue'"),
        ({"h": values()}, {"glu": "h.*"}, "no array matches"),
        ({"h.0": values()[:, 0], "h.2": values()[:, 0]}, {"glu": "h.*"}, "layer 1"),
        ({"h.0": values()[:, 0], "h.1": values()[1:, 0]}, {"glu": "h.*"}, "differ"),
        ({"h.0": values(), "h.1": values()}, {"glu": "h.*"}, "[tokens, units]"),
        ({"h": values().astype(np.int32)}, {"glu": "h"}, "int32"),
        ({"h": np.zeros(5)}, {"glu": "h"}, "shape"),
        ({"h": np.full((2, 2, 2), np.nan)}, {"glu": "h"}, "finite"),
        ({"h": values(), "x": values()[1:]}, {"glu": "h", "mlp_input": "x"}, "disagree"),
        ({"h": values(), "p": np.zeros(3, int)}, {"glu": "h", "phase": "p"}, "phase"),
    ],
)
def test_arrays_that_make_no_trace(
    arrays: dict[str, np.ndarray], names: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert said in refusal(tmp_path / "a.npz", tmp_path / "t.npz", names=names)


def test_ids_that_were_cast_to_floats_are_no_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((9, 3, 16)), axis=2)[:, :, :4]
    np.save(tmp_path / "r.npy", ids.astype(np.float16))
    said = refusal(tmp_path / "r.npy", tmp_path / "t.npz", names={"expert": "r"})
    assert "save them as integers" in said
    np.save(tmp_path / "r.npy", np.round(values() * 8))  # logits that are whole by chance
    assert import_arrays(tmp_path / "r.npy", tmp_path / "t.npz", names={"expert": "r"}) == []


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    out, names = tmp_path / "t.npz", {"glu": "a"}
    np.save(tmp_path / "a.npy", np.array([{}, None], object), allow_pickle=True)
    assert "never unpickles" in refusal(tmp_path / "a.npy", out, names=names)
    np.save(tmp_path / "a.npy", np.asfortranarray(values()))
    assert "Fortran" in refusal(tmp_path / "a.npy", out, names=names)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-4])
    assert "Fortran" in refusal(tmp_path / "a.npy", out, names=names)
    np.save(tmp_path / "a.npy", values())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    assert "but holds" in refusal(tmp_path / "a.npy", out, names=names)
    (tmp_path / "b.npy").symlink_to(tmp_path / "b.npy")
    assert "cannot be read" in refusal(tmp_path / "b.npy", out, names=names)
    os.mkfifo(tmp_path / "c.npy")
    assert "not a regular file" in refusal(tmp_path / "c.npy", out, names=names)
    os.mkfifo(tmp_path / "c.safetensors")
    assert "not a regular file" in refusal(tmp_path / "c.safetensors", out, names=names)
    (tmp_path / "d").mkdir()
    assert "0 files of arrays" in refusal(tmp_path / "d", out, names=names)
    assert "ends in" in refusal(tmp_path / "e.bin", out, names=names)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_damaged_arrays_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, values())
    elif kind == "npz":
        np.savez(path, a=values())
    else:
        save_file({"a": values()}, path)

    def read(source: Path) -> None:
        import_arrays(source, tmp_path / "t.npz", names={"glu": "a"})

    read_well = read_or_refused(read, path, path.read_bytes(), 300)
    assert (0 if kind == "npz" else 1) <= read_well < 300  # a zip's checksums notice everything


# Routes -------------------------------------------------------------------------------------------

COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"


def route_lines() -> list[str]:
    """Two turns; prefill of three tokens layer by layer, of which the last layer is incomplete."""
    lines = ["# route_trace v1", "# model=/x/m.gguf arch=a n_layer=2 n_expert=8 n_expert_used=2"]
    lines += ["# layer=0 expert_bytes=100 dense_bytes=7", "# layer=1 expert_bytes=80 dense_bytes=9"]
    lines.append(COLUMNS)
    rng = np.random.default_rng(0)

    def rows(turn: int, phase: int, step: int, layer: int) -> None:
        for slot, expert in enumerate(rng.permutation(8)[:2]):
            here = slot == 0
            size = 0 if here else (100, 80)[layer]
            weight = round(rng.random(), 4)
            lines.append(f"{turn},{phase},{step},{layer},{slot},{expert},{weight},{here:d},{size}")

    for turn in range(2):
        for layer in range(2):
            for step in range(3):
                if layer == 0 or step == 2:
                    rows(turn, 0, step, layer)
        for step in range(3, 8):
            rows(turn, 1, step, 0)
            rows(turn, 1, step, 1)
    return lines


def counted(text: str) -> dict[str, Any]:
    """An independent reading of a route CSV, with dicts."""
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    experts: dict[tuple[int, int], dict[int, dict[int, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    phases = {}
    for row in rows:
        token = int(row["turn"]), int(row["step"])
        experts[token][int(row["layer"])][int(row["expert"])] = float(row["weight"])
        phases[token] = int(row["phase"])
    sizes = {}
    for line in text.splitlines():
        if line.startswith("# layer="):
            said = dict(part.split("=") for part in line[2:].split())
            sizes[int(said["layer"])] = int(said["expert_bytes"])
    return {"experts": experts, "phases": phases, "sizes": [sizes[i] for i in sorted(sizes)]}


def check_routes(trace: Trace, text: str) -> None:
    expected = counted(text)
    tokens = sorted(expected["experts"])
    assert trace.tokens == len(tokens)
    assert trace.phase.tolist() == [expected["phases"][token] for token in tokens]
    assert trace.sequence.tolist() == [turn for turn, _ in tokens]
    signal_ = trace.signals["expert"]
    assert signal_.declared["unit_bytes"] == expected["sizes"]
    sets = sets_of(trace, "expert")
    scores = np.concatenate([d["expert"] for _, _, d in trace.blocks({"expert": "scores"})])
    for row, token in enumerate(tokens):
        for layer in range(trace.layers):
            listed = expected["experts"][token].get(layer, {})
            assert np.flatnonzero(sets[row, layer]).tolist() == sorted(listed)
            found = {e: scores[row, layer, e] for e in listed}
            assert found == pytest.approx(listed, rel=1e-6)


def test_routes_against_an_independent_count(tmp_path: Path) -> None:
    text = "\n".join(route_lines()) + "\n"
    (tmp_path / "r.csv").write_text(text)
    import_(tmp_path / "r.csv", tmp_path / "t.npz")
    check_routes(load_trace(tmp_path / "t.npz"), text)


@of_a_phone
def test_routes_of_a_phone_against_an_independent_count(tmp_path: Path) -> None:
    import_(ROUTES, tmp_path / "t.npz")
    trace = load_trace(tmp_path / "t.npz")
    check_routes(trace, ROUTES.read_text())
    assert (trace.tokens, trace.layers, trace.signals["expert"].units) == (156, 48, 128)


def test_an_imported_route_trace_runs(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("\n".join(route_lines()) + "\n")
    import_(tmp_path / "r.csv", tmp_path / "t.npz")
    result = simulate(tmp_path / "t.npz", "oneplus15r", cache_fraction=0.5, policy="lru").to_dict()
    sets = sets_of(load_trace(tmp_path / "t.npz"), "expert")
    phase = load_trace(tmp_path / "t.npz").phase
    hits = accesses = 0
    for layer in range(2):  # an LRU of half the experts, by hand; prefill is one batch
        last: dict[int, tuple[int, int]] = {}
        resident: set[int] = set()
        batch: set[int] = set()
        for token in range(len(sets)):
            batch |= set(np.flatnonzero(sets[token, layer]).tolist())
            if phase[token] == 0 and token + 1 < len(sets) and phase[token + 1] == 0:
                continue
            if phase[token]:
                accesses += len(batch)
                hits += len(batch & resident)
            kept = resident & batch
            free = 4 - len(kept)
            entering = sorted(batch - resident)[: max(free, 0)]
            leaving = sorted(resident - batch, key=lambda u: last[u])
            excess = len(resident) + len(entering) - 4
            resident = (resident | set(entering)) - set(leaving[: max(excess, 0)])
            last |= {u: (token, u) for u in batch}
            batch = set()
    assert (result["hits"], result["accesses"]) == (hits, accesses)
    assert result["groups"][0]["unit_bytes"] == [100, 80]
    assert result["prefill"]["accesses"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: ["# route_trace v2", *lines[1:]], "line 1: a route trace begins"),
        (lambda lines: lines[:3] + lines[4:], "layer 1 has rows of experts, and no expert_bytes"),
        (lambda lines: lines[:4] + lines[5:], "has no column turn"),
        (lambda lines: [*lines[:5], lines[5], lines[5], *lines[6:]], "1 experts of step 0"),
        (lambda lines: [*lines[:-1], lines[-2]], "rows are missing"),
        (lambda lines: lines[:6] + lines[7:], "rows are missing"),
        (lambda lines: lines[:-4], "has no rows"),  # replaced below
        (lambda lines: [*lines[:-1], lines[-1][:-4]], "8 fields|weight"),
        (lambda lines: [*lines, "1,1,8"], "3 fields"),
        (lambda lines: [*lines, "x" * 10_000_000], "longer than"),
        (lambda lines: [lines[0], lines[1].replace("n_layer=2", "n_layer=999999999"), *lines[2:]],
         "n_layer"),
        (lambda lines: [lines[0], lines[1].replace("n_expert=8", "n_expert=9e9"), *lines[2:]],
         "n_expert"),
        (lambda lines: [*lines[:-1], lines[-1].replace("1,1,7,1,1", "1,1,7,2,1")], "layer 2"),
        (lambda lines: [*lines[:-1], "1,1,7,1,1,8,0.5,1,0"], "expert 8"),
        (lambda lines: [*lines[:-1], "1,1,7,1,1,3,-1,1,0"], "weight '-1'"),
        (lambda lines: [*lines[:-1], "1,1,7,1,1,3,inf,1,0"], "weight 'inf'"),
        (lambda lines: lines[:5], "holds no row"),
    ],
)  # fmt: skip
def test_damaged_routes_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    lines = change(route_lines())
    if said == "has no rows":  # a whole token in the middle of a turn is gone
        lines = [line for line in route_lines() if not line.startswith("0,1,5,")]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n" * (said != "cut short"))
    with pytest.raises(TraceError, match=said) as problem:
        import_(tmp_path / "r.csv", tmp_path / "t.npz")
    assert "\n" not in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_mutated_routes_are_refused_or_read(tmp_path: Path) -> None:
    data = ("\n".join(route_lines()) + "\n").encode()

    def read(source: Path) -> None:
        import_(source, tmp_path / "t.npz")

    assert 0 < read_or_refused(read, tmp_path / "r.csv", data, 400) < 400


# The command --------------------------------------------------------------------------------------


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dipsim = runner(monkeypatch, capsys, tmp_path)
    np.save(tmp_path / "acts.npy", values())
    done = dipsim("import acts.npy t.npz --map glu=acts --json")
    assert done.code == 0
    assert done.err[-1] == "dipsim: took absolute values of glu"
    assert done.json["signals"]["glu"]["units"] == UNITS
    for words in ("acts.npy u.npz", "acts.npy u.npz --map glu", "no u.npz"):
        refused(dipsim(f"import {words}"))
    assert not (tmp_path / "u.npz").exists()


KILLED = """
import os, signal, sys
from dipsim.cli import main

moment, calls = int(sys.argv.pop(1)), 0
WRITING = ("/dipsim/trace/", "/dipsim/files", "zipfile", "shutil")


def watch(frame, event, argument):
    global calls
    if event == "call" and any(part in frame.f_code.co_filename for part in WRITING):
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)


sys.setprofile(watch)
try:
    main()
finally:
    sys.setprofile(None)
    print(calls)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["import", "export", "synth"])
def test_killed_at_any_moment_nothing_stands_under_the_final_name(
    command: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "a.npz", glu=rng.random((300, 8, 4000)).astype(np.float32))
    words = {
        "import": ["import", "a.npz", "out", "--encoding", "glu=log8"],
        "export": ["export", "a.npz", "out", "--encoding", "glu=log8"],
        "synth": ["synth", "out", "--tokens", "300"],
    }[command]

    def killed_at(call: int) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", KILLED, str(call), *words]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    whole = killed_at(0)  # never: it tells how many calls there are
    calls = int(whole.stdout.splitlines()[-1])
    os.rename(tmp_path / "out", tmp_path / "whole")
    for call in rng.integers(1, calls, 6, endpoint=True).tolist():
        assert killed_at(call).returncode == -signal.SIGKILL
        if (tmp_path / "out").exists():  # then it is whole
            trace = load_trace(tmp_path / "out")
            key = next(iter(trace.signals))
            for _ in trace.blocks({key: "scores"}):
                pass
            os.rename(tmp_path / "out", tmp_path / f"done{call}")


def test_import_errors_are_errors_of_dipsim() -> None:
    assert issubclass(TraceError, DipsimError)


def test_arrays_that_are_left_out_are_named(tmp_path: Path) -> None:
    source = tmp_path / "a.npz"
    np.savez(source, glu=values(), phase=np.ones(len(values()), np.uint8), other=np.zeros(3))
    assert import_arrays(source, tmp_path / "t.npz")[-1] == (
        "left out, as no --map names them: other"
    )
    notes = import_arrays(source, tmp_path / "t.npz", names={"glu": "glu"})
    assert notes[-1] == "left out, as no --map names them: phase, other"
