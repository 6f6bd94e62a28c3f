"""How long dipsim takes to start: ``python tests/bench/bench_startup.py``.

Times of whole processes: by the clock and, for a machine that is busy with other things, the
processor time they take. The first run starts with nothing compiled and must say on its terminal
that it is at work; the first `compare` and `mrc` after it compile what they need beyond that; the
later runs find the machine code they stored. A trace of Llama-3-8B is made, and run as often.
"""

import argparse
import os
import pty
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import history
from machine import this_machine

DIPSIM = Path(sysconfig.get_path("scripts"), "dipsim")
DEVICE = ["--profile", "snapdragon8"]
RUN = [str(DIPSIM), "run", "smollm2-chat", *DEVICE]
COMPARE = [
    *(str(DIPSIM), "compare", "smollm2-chat", "--profile", "paper-a18"),
    *("--policy", "lru,lfu-decay,arc,opt", "--cache-fraction", ".8"),
]
TOKENS = ["--tokens", "256"]
"""Of the trace of Llama-3-8B."""
MRC = [str(DIPSIM), "mrc", "smollm2-chat"]
NOTHING = [sys.executable, "-c", "pass"]
IMPORT = [sys.executable, "-c", "import dipsim"]


class Taken(NamedTuple):
    """Seconds of a process."""

    clock: float
    processor: float


def since(start: Taken) -> Taken:
    """What has passed, for this process and for those it has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime
    return Taken(time.perf_counter() - start.clock, processor - start.processor)


def seconds(command: list[str], cache: Path) -> Taken:
    """Time of a process that keeps its machine code in ``cache``."""
    start = since(Taken(0, 0))
    subprocess.run(command, env=_environment(cache), check=True, capture_output=True)
    return since(start)


def first_run(cache: Path) -> tuple[Taken, float, str]:
    """Time of a run that has to compile; when it first wrote to its terminal, and what."""
    terminal, inner = pty.openpty()
    start = since(Taken(0, 0))
    with subprocess.Popen(
        RUN, env=_environment(cache), stdout=subprocess.DEVNULL, stderr=inner
    ) as process:
        os.close(inner)
        line = os.read(terminal, 2**16).decode()
        spoke = since(start).clock
        with suppress(OSError):  # Linux says so when the program has ended
            while os.read(terminal, 2**16):
                pass
    os.close(terminal)
    if process.returncode:
        sys.exit(f"{' '.join(RUN)} failed: {line}")
    return since(start), spoke, line.strip()


def _environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "NUMBA_CACHE_DIR": str(cache)}


def main(arguments: list[str] | None = None) -> str | None:
    """Measure and print; an error text when the first run was silent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of the runs that compile nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times here")
    given = parser.parse_args(arguments)
    machine = this_machine()
    print(machine)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        first, spoke, line = first_run(cache)
        compare, mrc = seconds(COMPARE, cache), seconds(MRC, cache)
        llama = f"{folder}/llama.npz"
        made = seconds([str(DIPSIM), "synth", llama, "--model", "llama-3-8b", *TOKENS], cache)
        large = [str(DIPSIM), "run", llama, *DEVICE, "--dram", "50%"]
        seconds(large, cache)  # may compile
        rounds = [
            [seconds(command, cache) for command in (NOTHING, IMPORT, RUN, large)]
            for _ in range(given.rounds)
        ]
    nothing, imported, run, llama_run = (
        Taken(*map(statistics.median, zip(*taken, strict=True)))
        for taken in zip(*rounds, strict=True)
    )
    times = {
        "python -c pass": nothing,
        "import dipsim": imported,
        "dipsim run, later": run,
        "dipsim run, first (compiles)": first,
        "first compare after it": compare,
        "first mrc after that": mrc,
        "dipsim synth, Llama-3-8B": made,
        "dipsim run, Llama-3-8B, later": llama_run,
    }
    print(f"{'':34}  clock  processor")
    for name, taken in times.items():
        print(f"{name:34}{taken.clock:7.2f}{taken.processor:11.2f} s")
    print(f"first line of the first run, after {spoke:.2f} s: {line}")
    if given.json:
        figures = {f"{name}, s": taken.clock for name, taken in times.items()}
        history.write(given.json, machine, figures=figures)
    return None if line.startswith("dipsim: ") else "the first run showed no progress line"


if __name__ == "__main__":
    sys.exit(main())
