"""Anonymous memory of inspect and run on a trace larger than it: `--gigabytes 3` by default.

    python tests/bench/bench_memory.py [--gigabytes G] [--folder DIR] [--json FILE]

Makes a sharded float16 trace with `dipsim synth`, then watches RssAnon of the programs (Linux).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import history
from machine import this_machine

TOKEN_BYTES = 30 * (576 + 1536) * 2  # SmolLM2-135M in float16
HALF = ("--encoding", "mlp_input=float16", "--encoding", "glu=float16")


def watched(*words: str) -> tuple[float, float]:
    """Largest RssAnon (MB) and seconds of one dipsim command."""
    command = [sys.executable, "-c", "from dipsim.cli import main; main()", *words]
    return watch(command, subprocess.DEVNULL)


def watch(command: list[str], stdout: int | None = None) -> tuple[float, float]:
    """Largest RssAnon (MB) and seconds of a process."""
    began, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=stdout, cwd=Path(__file__).parent) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            most = max(most, int(found[1]) if found else 0)
            time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return most * 1.024e-3, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    machine = this_machine()
    print(machine)
    figures = {}
    tokens = round(options.gigabytes * 1e9 / TOKEN_BYTES)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trace = f"{folder}/trace"
        runs = {
            "synth": ("synth", trace, "--tokens", str(tokens), *HALF),
            "inspect": ("inspect", trace),
            "run, dip": ("run", trace, "-p", "oneplus15r", "--cache-fraction", "0.6"),
            "run, dip-ca": (
                *("run", trace, "-p", "oneplus15r", "--cache-fraction", "0.6"),
                *("--method", "dip-ca"),
            ),
        }
        for name, words in runs.items():
            most, seconds = watched(*words)
            print(f"{name:12} {most:6.0f} MB RssAnon  {seconds:6.1f} s", flush=True)
            figures |= {f"{name}, MB": most, f"{name}, s": seconds}
        size = sum(file.stat().st_size for file in Path(trace).iterdir())
        print(f"trace        {size / 1e9:.2f} GB, {tokens} tokens")
    if options.json:
        history.write(options.json, machine, figures=figures)


if __name__ == "__main__":
    main()
