"""Ratios that were recorded on each class of machine, and whether today's fall short of them.

`history/CLASS.jsonl` has a line for each recorded run. A ratio says how many times as long a
yardstick of the same run takes, so it holds on a busy machine, and less is worse.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import Machine, this_machine

FOLDER = Path(__file__).with_name("history")
KEPT = 0.8
"""Share of a recorded ratio that must be reached."""

Ratios = dict[str, float]
Again = Callable[[Iterable[str]], Ratios]
"""Measures the ratios of these names once more, with more rounds."""


def options(about: str | None) -> argparse.ArgumentParser:
    """Make the options of a benchmark that has ratios."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and parts: for CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument(
        "--record",
        action="store_true",
        help="add the ratios to those of this class of machine, from three times the rounds",
    )
    parser.add_argument(
        "--check", action="store_true", help="fail if a ratio is 20 %% below the one recorded last"
    )
    return parser


def finish(
    bench: str, given: argparse.Namespace, ratios: Ratios, again: Again, **others: Any
) -> str | None:
    """Do what the options say with the ratios; the text of an error if some fell short."""
    machine, name = this_machine(), f"{bench} --quick" if given.quick else bench
    failed = check(name, machine.name, ratios, again) if given.check else None
    if given.json:
        write(given.json, machine, figures=ratios | others.pop("figures", {}), **others)
    if given.record:
        record(name, machine, ratios)
    return failed


def write(file: Path, machine: Machine, **figures: Any) -> None:
    """Write figures for a program to read, with the machine they were measured on."""
    file.write_text(json.dumps({"machine": machine._asdict(), **figures}, indent=1) + "\n")


def check(bench: str, machine_class: str, ratios: Ratios, again: Again) -> str | None:
    """Compare with the ratios recorded last; what falls short is measured once more.

    ``ratios`` gets what was measured then. Returns what fell short both times, if anything.
    """
    recorded = newest(bench, machine_class)
    if recorded is None:
        print(f"\nno {bench} of {machine_class} is recorded: nothing to compare with")
        return None
    low = short(ratios, recorded)
    if low:
        print("\nonce more, with more rounds: " + "; ".join(low.values()))
        ratios |= again(low)
        low = short(ratios, recorded)
    if low:
        return f"{bench} on {machine_class}: " + "; ".join(low.values())
    print(f"\n{len(recorded)} ratios: none is more than {1 - KEPT:.0%} below the one recorded")
    return None


def short(ratios: Ratios, recorded: Ratios) -> dict[str, str]:
    """Tell of every recorded ratio that is missing now or too low, by name."""
    found = {}
    for name, before in recorded.items():
        if name not in ratios:
            found[name] = f"{name} is recorded ({before:g}) but was not measured"
        elif ratios[name] < KEPT * before:
            found[name] = f"{name} is {ratios[name]:.3g}, was {before:g}"
    return found


def newest(bench: str, machine_class: str) -> Ratios | None:
    """Ratios of a benchmark that were recorded last on a class of machine, if any were."""
    file = FOLDER / f"{machine_class}.jsonl"
    lines = map(json.loads, file.read_text().splitlines() if file.exists() else ())
    found: list[Ratios] = [line["ratios"] for line in lines if line["bench"] == bench]
    return found[-1] if found else None


def record(bench: str, machine: Machine, ratios: Ratios) -> None:
    """Add a line to the file of this class of machine."""
    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "bench": bench,
        "machine": str(machine),
        "ratios": {name: float(f"{ratio:.3g}") for name, ratio in ratios.items()},
    }
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{machine.name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _commit() -> str:
    """What is checked out; a + after it tells of changes since, but for records."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(("git", *words), cwd=FOLDER.parent, capture_output=True, text=True)

    changed = git("diff", "--quiet", "HEAD", "--", ":/", f":(exclude){FOLDER.name}").returncode
    return git("rev-parse", "--short", "HEAD").stdout.strip() + "+" * bool(changed)
