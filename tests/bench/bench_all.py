"""Run the benchmarks that have goals, and print a table: ``python tests/bench/bench_all.py``.

`goals.json` has the goals of each; every benchmark runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
QUICK = ("bench_replay", "bench_policies", "bench_time")
"""What has a `--quick` that CI runs."""

Goal = dict[str, float]
Figures = dict[str, float]


def figures(bench: str, options: list[str]) -> Figures:
    """What a benchmark finds; it prints as it goes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        words = [sys.executable, str(HERE / f"{bench}.py"), "--json", str(file), *options]
        print(f"\n== {bench} {' '.join(options)}", flush=True)
        subprocess.run(words, check=True)
        found: Figures = json.loads(file.read_text())["figures"]
        return found


def met(measured: float, goal: Goal) -> bool:
    """Tell whether a figure reaches its goal, as it is printed."""
    shown = float(f"{measured:.3g}")
    return goal.get("least", shown) <= shown <= goal.get("most", shown)


def table(found: dict[str, Figures], goals: dict[str, dict[str, Goal]]) -> list[str]:
    """One line for each goal of the benchmarks that ran."""
    lines = [f"{'':58}{'measured':>10}  goal"]
    for bench, measured in found.items():
        for name, goal in goals[bench].items():
            ((bound, value),) = goal.items()
            figure, verdict = "-", "not measured"
            if name in measured:
                figure = (
                    f"{measured[name]:.3g}" if measured[name] < 1e3 else f"{measured[name]:,.0f}"
                )
                verdict = "" if met(measured[name], goal) else "missed"
            sign = ">=" if bound == "least" else "<="
            lines.append(f"{bench:16}{name:42}{figure:>10}  {sign} {value:<9,g}{verdict}".rstrip())
    return lines


def main() -> None:
    """Run what is asked for, all by default."""
    goals = json.loads((HERE / "goals.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benches", nargs="*", help=f"some of {', '.join(goals)}")
    parser.add_argument("--quick", action="store_true", help="the quick forms of what CI runs")
    given = parser.parse_args()
    benches = given.benches or (QUICK if given.quick else list(goals))
    options = ["--quick"] if given.quick else []
    found = {bench: figures(bench, options) for bench in benches}
    print()
    print("\n".join(table(found, goals)))


if __name__ == "__main__":
    main()
