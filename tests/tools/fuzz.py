"""Odd traces and drawn command lines: whatever dipsim is asked, it answers or refuses.

    PYTHONPATH=tests python -m tools.fuzz --seconds 3600 --seed 0

Every seed is one case, run in this process: a small trace that is valid but odd (`odd_traces`), a
command line (`drawn_lines`), and for `run` a law that its figures must obey. A failure is printed
with its seed: `--seconds 0 --seed SEED` repeats it, and `--keep FOLDER` leaves its files there.
"""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

from dipsim import simulate
from dipsim.analysis.compare import compare
from dipsim.cli import main
from dipsim.errors import DipsimError
from dipsim.repeat import read_config
from dipsim.result import Result
from dipsim.settings import concerning
from tools.drawn_lines import draw_line
from tools.odd_traces import fill

Arrays = dict[str, Any]

# Running ------------------------------------------------------------------------------------------


class Broken(Exception):
    """Something that must hold does not; the first word names it."""


class Outcome(NamedTuple):
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str


def call(words: list[str]) -> Outcome:
    """Run a command line in this process and folder; what is no `DipsimError` is raised."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["dipsim", *words]),
        patch.dict(os.environ, {"COLUMNS": "80"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            return Outcome(code, out.getvalue(), err.getvalue())
    raise Broken("exit: main returned")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file and folder below, hidden ones too."""
    files = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in files.items()}


NO_NUMBER = r"(?i)(?<![\w.=-])[+-]?(nan|inf|infinity)(?![\w.=-])"


def check(words: list[str], folder: Path) -> Outcome:
    """Run a command line, and check what must hold of any.

    Raises:
        Broken: it does not.
        Exception: a bug of dipsim.
    """
    before = listing(folder)
    outcome = call(words)
    after = listing(folder)
    if outcome.code not in (0, 2):
        raise Broken(f"exit: code {outcome.code}, {outcome.err}")
    if outcome.code == 2:
        mild = ("dipsim: warning: ", "dipsim: hint: ")
        lines = [line for line in outcome.err.splitlines() if not line.startswith(mild)]
        if len(lines) != 1 and words[0] != "policies":
            raise Broken(f"lines: {len(lines)} lines on standard error: {outcome.err}")
        if "--json" in words and outcome.out:
            raise Broken(f"output: refused, and printed {outcome.out[:200]}")
        if before != after:
            raise Broken(f"files: refused, and changed {sorted(before.items() ^ after.items())}")
    hidden = [name for name in after if "/." in f"/{name}"]
    if hidden:
        raise Broken(f"files: left {hidden}")
    written = [Path(folder, name) for name in after if before.get(name) != after[name]]
    texts = [file.read_text() for file in written if file.suffix in (".json", ".csv", ".md")]
    endless = NO_NUMBER if "--json" in words else r"\bnan\b"  # tokens that take no time: inf tok/s
    for pattern, text in [(endless, outcome.out), *((NO_NUMBER, text) for text in texts)]:
        if match := re.search(pattern, text):
            raise Broken(f"finite: {text[max(0, match.start() - 200) : match.end() + 50]}")
    return outcome


# Laws ---------------------------------------------------------------------------------------------

Figures = dict[str, Any]
RESULT = "result.json"


def check_figures(figures: Figures) -> None:
    """Check the figures of `dipsim run --json` against each other."""
    counts = [figures, *figures["groups"], *filter(None, [figures["prefill"]])]
    for count in counts:
        if not 0 <= count["hits"] <= count["accesses"]:
            raise Broken(f"hits: {count['hits']} of {count['accesses']} accesses")
    for key in ("hits", "accesses"):
        if figures[key] != sum(group[key] for group in figures["groups"]):
            raise Broken(f"groups: {key} do not add up")
    shares = figures["time_share"].values()
    whole = 1.0 if figures["latency_ms"]["mean"] else 0.0
    if min(shares) < 0 or abs(sum(shares) - whole) > 1e-9:
        raise Broken(f"shares: {figures['time_share']}")
    for key in ("hit_rate", "unit_hit_rate"):
        if not 0 <= figures[key] <= 1 + 1e-12:
            raise Broken(f"rate: {key} {figures[key]}")
    negative = [key for key in figures if isinstance(figures[key], float) and figures[key] < 0]
    if negative:
        raise Broken(f"negative: {negative[0]} {figures[negative[0]]}")


def again(threads: int | None = None, **changes: Any) -> Result:
    """Repeat the run of ``result.json``, with other options; None takes one away."""
    saved = read_config(RESULT)
    options = {**saved.settings, **changes}
    options = {name: value for name, value in options.items() if value is not None}
    trace = saved.open_trace()
    return simulate(trace, saved.profile, model=saved.model, threads=threads, **options)


def same(figures: Figures, result: Result, why: str) -> None:
    """Check that a result has the same figures, all but its configuration."""
    other = json.loads(result.to_json())
    differing = [
        key for key in other if key not in ("config", "version") and other[key] != figures[key]
    ]
    if differing:
        key = differing[0]
        raise Broken(f"{why}: {key} {figures[key]} and {other[key]}")


def threads_are_equal(figures: Figures) -> None:
    """Check that one thread and two give the same."""
    same(figures, again(threads=1), "threads")
    same(figures, again(threads=2), "threads")


def config_repeats(figures: Figures) -> None:
    """Check that ``--config`` gives the same figures and the same configuration."""
    outcome = call(["run", "--config", RESULT, "--json"])
    if outcome.code:
        raise Broken(f"config: refused: {outcome.err}")
    if json.loads(outcome.out)["config"]["settings"] != figures["config"]["settings"]:
        raise Broken("config: other settings")
    other = json.loads(outcome.out)
    differing = [key for key in other if key != "config" and other[key] != figures.get(key)]
    if differing:
        key = differing[0]
        raise Broken(f"config: {key} {figures.get(key)} and {other[key]}")


def opt_is_best(figures: Figures) -> None:
    """Check that over all tokens no policy that starts empty hits more than opt."""
    settings = figures["config"]["settings"]
    plain = settings["access"] == "atomic" and settings["scope"] == "layer"
    plain = plain and figures["step"] is None  # of which those that are cut short do not count
    steady = settings["kv"] == "fixed" and settings["allocate"] != "optimal"
    empty = settings["policy"].partition(":")[0] != "static" and settings["io"] == "direct"
    if not (plain and steady and empty and settings["warmup"] == 0) or settings.get("compat"):
        return
    try:
        best = again(policy="opt", admission=None)
    except DipsimError:  # masks that depend on what is resident
        return
    ours = figures["hits"] + (figures["prefill"] or {"hits": 0})["hits"]
    prefill = best.timing.prefill
    most = best.hits + (prefill.hits if prefill is not None else 0)
    if ours > most:
        raise Broken(f"opt: {ours} hits of {settings['policy']}, {most} of opt")


def engines_agree(figures: Figures) -> None:
    """Check that discrete events and the closed form agree where nothing meets."""
    settings = figures["config"]["settings"]
    if settings["engine"] != "auto" or figures["engine"] != "closed":
        return
    other = json.loads(again(engine="events").to_json())
    for key, scale in (("latency_ms", figures["latency_ms"]["mean"]), ("time_share", 1.0)):
        for name, value in figures[key].items():
            if abs(other[key][name] - value) > 1e-9 * scale:
                raise Broken(f"engines: {key}.{name} {value} closed, {other[key][name]} events")


def one_cache_of_everything(figures: Figures) -> None:
    """Check that a global cache hits what caches of layers do where all have room for all."""
    settings = figures["config"]["settings"]
    room: dict[str, Any] = {"dram": None, "cache": "1 TB", "cache_fraction": None, "kv": "fixed"}
    room |= {"allocate": "even", "admission": None}
    if settings["access"] != "atomic" or settings["io"] != "direct" or settings.get("compat"):
        return
    try:
        each, one = (again(**room, scope=scope) for scope in ("layer", "global"))
    except DipsimError:  # policies and methods that know no such scope
        return
    if (each.hits, each.accesses) != (one.hits, one.accesses):
        raise Broken(f"scope: {each.hits} of {each.accesses}, global {one.hits}")


def compare_agrees(figures: Figures) -> None:
    """Check that `compare`, which shares replays, gives the rate and the hits of the run."""
    saved = read_config(RESULT)
    options = dict(saved.settings)
    policy, _ = options.pop("policy"), options.pop("kv", None)
    budget = {name: options.pop(name) for name in concerning("budget") if name in options}
    if figures["config"]["settings"]["kv"] != "fixed":
        return
    policies = list(dict.fromkeys([policy, "lru"]))
    trace = saved.open_trace()
    try:
        given = {"model": saved.model, "methods": options.pop("method", ()), **budget, **options}
        comparison = compare(trace, saved.profile, policies, **given)
    except DipsimError:  # lru knows no such admission or access
        return
    is_lru = policy == "lru"
    ours = next(cell for cell in comparison.cells if (cell.place["policy"] == "lru") == is_lru)
    for key in ("tokens_per_second", "hit_rate", "flash_bytes_per_token"):
        if ours.value(key) != figures[key]:
            raise Broken(f"compare: {key} {ours.value(key)}, of the run {figures[key]}")


LAWS = (
    threads_are_equal,
    config_repeats,
    compare_agrees,
    opt_is_best,
    engines_agree,
    one_cache_of_everything,
)


# Cases --------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What came of a case."""

    seed: int
    line: str
    code: int | None
    """Exit code; None where it failed."""
    kind: str
    """Kind of the failure."""
    detail: str


def try_case(seed: int, folder: Path) -> Verdict:
    """Draw and run the case of a seed in an empty folder."""
    draw = Random(seed)
    arrays = fill(folder, draw)
    words = draw_line(draw, arrays)
    line = shlex.join(words)
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            outcome = check(words, folder)
            if outcome.code == 0 and words[0] == "run" and "--json" in words:
                figures = json.loads(outcome.out)
                check_figures(figures)
                Path(RESULT).write_text(outcome.out)
                line += f"  # {(law := draw.choice(LAWS)).__name__}"
                law(figures)
            elif outcome.code == 0 and "--json" in words:
                json.loads(outcome.out)
        except Broken as problem:
            return Verdict(seed, line, None, str(problem).partition(":")[0], str(problem))
        except (Exception, SystemExit) as problem:
            frames = traceback.extract_tb(problem.__traceback__)
            ours = [frame for frame in frames if "/dipsim/" in frame.filename] or frames
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            text = traceback.format_exc(limit=-6)
            return Verdict(seed, line, None, f"{type(problem).__name__} at {place}", text)
    return Verdict(seed, line, outcome.code, "", "")


def cases(first: int, keep: Path | None = None) -> Iterator[Verdict]:
    """Run the cases of the seeds from the first on, without end."""
    seed = first
    while True:
        with tempfile.TemporaryDirectory() as folder:
            verdict = try_case(seed, Path(folder).resolve())
            if keep is not None:
                shutil.copytree(folder, keep / str(seed), dirs_exist_ok=True)
        yield verdict
        seed += 1


def fuzz() -> int:
    """Read the command line, run cases for a time, print failures and counts; 1 after a failure."""
    parser = argparse.ArgumentParser(description="Ask dipsim anything.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--keep", type=Path, help="copy the files of every case here")
    options = parser.parse_args()
    end, codes, kinds = time.monotonic() + options.seconds, Counter[int | None](), Counter[str]()
    for verdict in cases(options.seed, options.keep):
        codes[verdict.code] += 1
        if verdict.code is None:
            kinds[verdict.kind] += 1
            print(f"seed {verdict.seed}: {verdict.kind}\n  dipsim {verdict.line}")
            print("\n".join(f"  {line}" for line in verdict.detail.splitlines()), flush=True)
        if time.monotonic() >= end:
            break
    print(f"{codes.total()} cases: {codes[0]} done, {codes[2]} refused", end="")
    print(f", {codes[None]} failures of {len(kinds)} kinds {dict(kinds)}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(fuzz())
