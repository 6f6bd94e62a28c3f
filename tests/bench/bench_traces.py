"""How many MB a second traces are written, imported, exported and synthesised at, per core; and how
many times as long a pass over a deflated trace takes as over a stored one.

    python tests/bench/bench_traces.py [--quick] [--json FILE] [--folder DIR] [--record] [--check]

Counted are the bytes of the trace that is written and the processor time of this process, the best
of some rounds, so that it holds on a machine that is busy with other things. Beside it stands the
time of `np.savez` for the same arrays, which computes nothing but their checksum.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import history
import numpy as np
from machine import this_machine

import dipsim

TOKENS, LAYERS, UNITS, BLOCK = 256, 8, 14_336, 8
SEED, ACTIVE = 20_250_614, 0.3
SCORES, SETS = ("float16", "float32", "log8"), ("bits", "bool", "sparse")
OUT = ("folder", "t.npz")


class Figure(NamedTuple):
    """Speed of one way to write a trace."""

    name: str
    size: int
    """Bytes written."""
    seconds: float
    savez: float
    """Seconds of `np.savez` for the same arrays."""


def scores(tokens: int) -> np.ndarray:
    """Log-normal scores, float32[tokens, LAYERS, UNITS]."""
    shape = (tokens, LAYERS, UNITS)
    return np.exp(np.random.default_rng(SEED).standard_normal(shape, np.float32))


def sets(tokens: int) -> np.ndarray:
    """Active sets, bool[tokens, LAYERS, UNITS], of some units mostly."""
    rng = np.random.default_rng(SEED)
    popular = rng.beta(0.6, 1.4, (LAYERS, UNITS)).astype(np.float32)  # ACTIVE on average
    return rng.random((tokens, LAYERS, UNITS), np.float32) < popular


def seconds(work: Callable[[], object], out: Path, rounds: int) -> float:
    """Processor time of the best of some rounds; what was written is removed before each."""
    taken = []
    for _ in range(rounds):
        remove(out)
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def files(path: Path) -> list[Path]:
    """The files of a trace."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def figure(name: str, work: Callable[[], object], out: Path, rounds: int) -> Figure:
    """Measure one way to write a trace to ``out``."""
    taken = seconds(work, out, rounds)
    size = sum(file.stat().st_size for file in files(out))
    plain = []
    for file in files(out):
        arrays = dict(np.load(file))
        copy = file.parent.parent / "plain.npz"
        plain.append(seconds(lambda: np.savez(copy, **arrays), copy, rounds))  # noqa: B023
        remove(copy)
    return Figure(name, size, taken, sum(plain))


def written(rows: np.ndarray, encoding: str, out: Path) -> Callable[[], None]:
    """Append rows block by block, as a recording does."""

    def work() -> None:
        with dipsim.TraceWriter(out, encodings={"glu": encoding}) as writer:  # type: ignore[dict-item]
            for start in range(0, len(rows), BLOCK):
                writer.append({"glu": rows[start : start + BLOCK]})

    return work


def measure(tokens: int, folder: Path, rounds: int) -> Iterator[Figure]:
    """Yield the figures of all ways."""
    given: dict[str, Any] = dict.fromkeys(SCORES, scores(tokens))
    given |= dict.fromkeys(SETS, sets(tokens))
    given["float16"] = given["float16"].astype(np.float16)
    (folder / "out").mkdir()
    for encoding, rows in given.items():
        for name in OUT:
            out = folder / "out" / name
            yield figure(f"write {encoding} {name}", written(rows, encoding, out), out, rounds)
        source = folder / encoding
        written(rows, encoding, source)()
        for name in OUT:
            out = folder / "out" / name
            work = lambda: dipsim.export(source, out)  # noqa: B023, E731
            yield figure(f"export {encoding} {name}", work, out, rounds)
            remove(out)
        remove(source)
    for encoding in ("float16", "float32"):
        source, out = folder / "glu.npy", folder / "out" / "folder"
        np.save(source, given[encoding])
        work = lambda: dipsim.import_(source, out)  # noqa: B023, E731
        yield figure(f"import {encoding}", work, out, rounds)
    remove(folder / "out" / "folder")
    out = folder / "out" / "folder"
    work = lambda: dipsim.synth(out, model="llama-3-8b", tokens=max(1, tokens // 8))  # noqa: E731
    yield figure("synth log8", work, out, rounds)


class Pass(NamedTuple):
    """Seconds of a pass over all values of a trace, stored and deflated."""

    encoding: str
    stored: float
    deflated: float


def passes(tokens: int, folder: Path, rounds: int) -> Iterator[Pass]:
    """Yield what reading takes; every value is read once, as a replay does."""
    for encoding, rows in (("float16", scores(tokens)), ("log8", scores(tokens)),
                           ("bool", sets(tokens))):  # fmt: skip
        taken = []
        for compress in ("never", "always"):
            out = folder / f"{compress}.npz"
            with dipsim.TraceWriter(out, encodings={"glu": encoding}, compress=compress) as writer:  # type: ignore[dict-item]
                writer.append({"glu": rows})
            best = []
            for _ in range(rounds):
                trace = dipsim.load_trace(out)
                start = time.process_time()
                for _ in trace.blocks({"glu": "sets" if encoding == "bool" else "values"}):
                    pass
                best.append(time.process_time() - start)
            taken.append(min(best))
            remove(out)
        yield Pass(encoding, *taken)


def show_passes(found: list[Pass]) -> None:
    """Print how many times as long a pass over a deflated trace takes."""
    print(f"{'a pass, process time':28}{'ms stored':>11}{'x stored':>9}")
    for row in found:
        times = row.deflated / row.stored
        print(f"  read {row.encoding:21}{1e3 * row.stored:11.1f}{times:9.1f}")


def show(found: list[Figure]) -> None:
    """Print the speeds, and the time as a multiple of that of `np.savez`."""
    print(f"{'one core, process time':28}{'MB':>9}{'MB/s':>9}{'x savez':>9}")
    for row in found:
        mega = row.size / 1e6
        print(f"  {row.name:26}{mega:9.1f}{mega / row.seconds:9.0f}{row.seconds / row.savez:9.1f}")


def ratios(found: list[Figure], read: list[Pass]) -> history.Ratios:
    """How many times as long `np.savez` takes, and a pass over a deflated trace."""
    written = {f"{row.name} x savez": row.savez / row.seconds for row in found}
    return written | {f"read {row.encoding} x deflated": row.deflated / row.stored for row in read}


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; the text of an error if a ratio fell short."""
    parser = history.options(__doc__)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write traces")
    given = parser.parse_args(arguments)
    print(this_machine())
    tokens, rounds = (16, 3) if given.quick else (TOKENS, 3)

    def measured(rounds: int) -> tuple[list[Figure], list[Pass]]:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            found = list(measure(tokens, Path(folder), rounds))
            read = list(passes(tokens, Path(folder), rounds))
        show(found)
        show_passes(read)
        return found, read

    found, read = measured(rounds)
    rates = {f"{row.name}, MB/s": row.size / row.seconds / 1e6 for row in found}
    again = lambda _: ratios(*measured(3 * rounds))  # noqa: E731
    return history.finish("bench_traces", given, ratios(found, read), again, figures=rates)


if __name__ == "__main__":
    sys.exit(main())
