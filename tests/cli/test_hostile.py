"""Hostile files, given to the program: exit code 2, one line, in 1 GB, no code executed, and not
after more work than a processor does in 20 s."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.hardware import load_profile
from dipsim.model import load_model
from dipsim.repeat import read_config
from tools.forks import Forks
from tools.hostile import read_or_refused

CPU_SECONDS, KILOBYTES = 20, 1_000_000
RUN, INSPECT = ("run", "t.npz", "--profile", "snapdragon8"), ("inspect", "t.npz")
CSV = (
    "# route_trace v1\n# model=m arch=a n_layer=1 n_expert=4 n_expert_used=1\n"
    "# layer=0 expert_bytes=10 dense_bytes=1\n"
    "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n0,1,0,0,0,1,0.5,0,10\n"
)


class Bang:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def npy(shape: str, data: bytes = b"", kind: str = "<f4", fortran: bool = False) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    head += " " * (117 - len(head)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def archive(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return out.getvalue()


def saved(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def encrypted(data: bytes) -> bytes:
    """The same archive with the bit for encryption set, in the list and before the member."""
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def bomb() -> bytes:
    """A gigabyte of zeros in a megabyte."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("glu.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(f"({2**14}, 16, 1024)"))
        for _ in range(2**10):
            member.write(bytes(2**20))
    return out.getvalue()


def twice(data: bytes) -> bytes:
    """Two members of one name (zipfile would warn about writing them)."""
    return archive({"glu.npy": data, "GLU.npy": data}).replace(b"GLU.npy", b"glu.npy")


GOOD = npy("(2, 1, 2)", bytes(16))
ALIASES = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
)
Make = Callable[[], bytes]
FILES: dict[str, tuple[str, Make, tuple[str, ...]]] = {
    "pickle in npz": ("t.npz", lambda: saved(glu=np.array([Bang()], object)), RUN),
    "pickle as npz": ("t.npz", lambda: pickle.dumps(Bang()), RUN),
    "pickle in npy": (
        "a.npy",
        lambda: npy("(1,)", pickle.dumps([Bang()]), "|O"),
        ("import", "a.npy", "t.npz", "--map", "glu=a"),
    ),
    "zip bomb": ("t.npz", bomb, RUN),
    "zip bomb as a mark": (
        "t.npz",
        lambda: archive(
            {"glu.npy": GOOD, "phase.npy": npy("(100000000,)", bytes(10**8), "|u1")},
            zipfile.ZIP_DEFLATED,
        ),
        RUN,
    ),
    "huge shape": ("t.npz", lambda: archive({"glu.npy": npy(f"({2**40}, 30, 576)")}), RUN),
    "huge number": ("t.npz", lambda: archive({"glu.npy": npy(f"({10**50}, 1, 1)")}), RUN),
    "negative shape": ("t.npz", lambda: archive({"glu.npy": npy("(-2, 1, -2)", bytes(16))}), RUN),
    "Fortran order": (
        "t.npz",
        lambda: archive({"glu.npy": npy("(2, 1, 2)", bytes(16), fortran=True)}),
        RUN,
    ),
    "code as header": (
        "t.npz",
        lambda: archive({"glu.npy": npy("__import__('os').mkdir('executed')")}),
        RUN,
    ),
    "duplicate members": ("t.npz", lambda: twice(GOOD), RUN),
    "path traversal": ("t.npz", lambda: archive({"../../glu.npy": GOOD, "glu.npy": GOOD}), RUN),
    "absolute path": ("t.npz", lambda: archive({"/etc/glu.npy": GOOD, "glu.npy": GOOD}), RUN),
    "encrypted": ("t.npz", lambda: encrypted(archive({"glu.npy": GOOD})), RUN),
    "deep meta": (
        "t.npz",
        lambda: saved(glu=np.ones((2, 1, 2), np.float32), meta=np.array("[" * 200_000)),
        INSPECT,
    ),
    "sparse lies": (
        "t.npz",
        lambda: saved(**{"glu.indptr": [0, 1], "glu.indices": [0], "glu.shape": [2**40, 2**10, 9]}),
        INSPECT,
    ),
    "YAML tag": (
        "p.yaml",
        lambda: b"name: !!python/object/apply:os.mkdir [executed]\n",
        ("run", "smollm2-chat", "--profile", "p.yaml"),
    ),
    "YAML aliases": ("p.yaml", lambda: ALIASES.encode(), ("profiles", "p.yaml")),
    "YAML aliases in a model": ("m.yaml", lambda: ALIASES.encode(), ("models", "m.yaml")),
    "deep YAML": ("p.yaml", lambda: b"a: " + b"[" * 100_000, ("profiles", "p.yaml")),
    "cyclic extends": ("p.yaml", lambda: b"name: p\nextends: p.yaml\n", ("profiles", "p.yaml")),
    "deep JSON": ("config.json", lambda: b"[" * 10**6, ("models", "config.json")),
    "GGUF of absurd counts": (
        "m.gguf",
        lambda: b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        ("models", "m.gguf"),
    ),
    "GGUF of an endless array": (
        "m.gguf",
        lambda: b"GGUF"
        + struct.pack("<IQQQ", 3, 0, 1, 1)
        + b"k"
        + struct.pack("<IIQ", 9, 8, 2**62),
        ("models", "m.gguf"),
    ),
    "CSV cut short": ("r.csv", lambda: CSV[:-4].encode(), ("import", "r.csv", "t.npz")),
    "CSV with an expert twice": (
        "r.csv",
        lambda: (CSV.replace("used=1", "used=2") + "0,1,0,0,1,1,0.5,0,10\n").encode(),
        ("import", "r.csv", "t.npz"),
    ),
    "CSV of one line": ("r.csv", lambda: b"x" * 10**8, ("import", "r.csv", "t.npz")),
}  # fmt: skip


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    started = Forks(CPU_SECONDS)
    yield started
    started.close()


def refused(forks: Forks, words: tuple[str, ...], folder: Path) -> str:
    before = {path.name for path in folder.iterdir()}
    code, said, most = forks.run(words, folder)
    lines = said.splitlines()
    assert (code, len(lines)) == (2, 1), said
    assert len(lines[0]) < 600
    assert most < KILOBYTES
    assert {path.name for path in folder.iterdir()} == before
    return lines[0]


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_refused(forks: Forks, kind: str, tmp_path: Path) -> None:
    name, make, words = FILES[kind]
    (tmp_path / name).write_bytes(make())
    assert name in refused(forks, words, tmp_path)


def test_what_is_no_file_is_refused(forks: Forks, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.npz")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    os.mkfifo(tmp_path / "m.gguf")
    os.mkfifo(tmp_path / "p.yaml")
    for words in (
        RUN,
        ("inspect", "loop.npz"),
        ("import", "t.npz", "o.npz"),
        ("models", "m.gguf"),
        ("profiles", "p.yaml"),
    ):
        refused(forks, words, tmp_path)


def test_a_folder_without_permission_is_refused(forks: Forks, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    for words in (
        ("inspect", "closed"),
        ("inspect", "closed/t.npz"),
        ("import", "closed", "o.npz"),
        ("models", "closed/config.json"),
        ("profiles", "closed/p.yaml"),
    ):
        assert "closed" in refused(forks, words, tmp_path)
    closed.chmod(0o700)


@pytest.mark.parametrize("reader", ["profile", "model", "config"])
def test_damaged_text_is_refused_or_read(reader: str, tmp_path: Path) -> None:
    profile = {
        "name": "p",
        "dram": {"capacity": "8 GB", "bandwidth": "60 GB/s"},
        "flash": {"reads": [{"size": "4 KiB", "lanes": 1, "bandwidth": "300 MB/s"}]},
        "backends": {"cpu": {"gemv": {"q4_0": "20 GB/s"}, "per_layer": "80 us"}},
        "sources": {"dram": {"kind": "vendor", "from": "a page"}},
    }
    model = {"layers": 2, "hidden": 64, "intermediate": 99, "heads": 4, "kv_heads": 2, "vocab": 9}
    config = {"trace": {"name": "t"}, "profile": profile, "settings": {"density": 0.5}}
    name, read, data = {
        "profile": ("p.yaml", load_profile, profile),
        "model": ("m.yaml", load_model, model),
        "config": ("r.json", lambda path: read_config(str(path)), config),
    }[reader]
    text = json.dumps(data, indent=1).encode()  # JSON is YAML too
    assert 0 < read_or_refused(read, tmp_path / name, text, 400) < 400
