"""What `dipsim run` prints: one screen, warnings and hints that are true, and details."""

import json
import re
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.analysis.baseline import Standing, replay_held
from dipsim.report import hints
from dipsim.report.run import dense_is_faster
from dipsim.result import Result
from dipsim.simulate import prepare, simulate
from dipsim.units import show_gain
from tools.cli import Dipsim, done
from tools.figures import draw

ROWS, COLUMNS = 20, 80
CHAT = "smollm2-chat"
SCREENS = {
    "fits": f"{CHAT} -p snapdragon8",
    "half": f"{CHAT} -p oneplus15r --dram 50%",
    "paper": f"{CHAT} -p paper-a18 --dram 60% --policy lru",
    "static streamed": f"{CHAT} -p oneplus15r --dram 25%",
    "nothing cached": f"{CHAT} -p paper-a18 --dram 30%",
    "dip-ca": f"{CHAT} -p oneplus15r --method dip-ca --gamma .1 --dram 60%",
    "dense": f"{CHAT} -p oneplus15r --method dense --dram 60%",
    "mmap": f"{CHAT} -p oneplus15r --io mmap --dram 60%",
    "buffered": f"{CHAT} -p oneplus15r --io buffered --dram 60%",
    "all of the memory buffered": f"{CHAT} -p oneplus15r --io buffered --layout row",
    "row": f"{CHAT} -p snapdragon8 --layout row --dram 70%",
    "kv grows": f"{CHAT} -p snapdragon8 --kv grow --policy lru --dram 70%",
    "events": f"{CHAT} -p oneplus15r --engine events --tokens 0:32 --dram 60%",
    "hot": f"{CHAT} -p oneplus15r -s thermal.after=1s --thermal sustained --tokens 0:32 --dram 80%",
    "read ahead": f"{CHAT} -p snapdragon8 --prefetch previous --tokens 0:32 --dram 80%",
    "global": f"{CHAT} -p snapdragon8 --scope global --policy lru --tokens 0:32 --dram 60%",
    "layers": f"{CHAT} -p snapdragon8 --layers 3:9 --admission ranked --cache-fraction .5",
    "pinned": f"{CHAT} -p snapdragon8 --policy static --warmup 32 --cache-fraction .5",
    "authors": f"{CHAT} -p paper-a18 --compat authors --policy lru --dram 50%",
    "too much": f"{CHAT} -p oneplus15r --dram 7GB",
    "prompts": "marked.npz -p phone.yaml --cache-fraction .5",
    "no model": "sized.npz -p oneplus15r --cache 60MB",
    "neurons": "neurons.npz -p oneplus15r --prefill cache --cache-fraction .6",
    "experts": "experts.npz -p oneplus15r --top-k 4 --cache-fraction .3",
    "routing": "experts.npz -p oneplus15r --routing cache-prior --top-k 2 --cache-fraction .5",
}


@pytest.fixture(scope="module")
def folder(folder: Path) -> Path:
    """The folder of small traces, with experts, prompts and neurons."""
    draw(folder)
    return folder


def screen(dipsim: Dipsim, line: str) -> list[str]:
    """Return all lines that a run prints on a terminal of `COLUMNS`, warnings among them."""
    outcome = done(dipsim(f"run {line}"))
    lines = outcome.out.splitlines()
    for text in outcome.err:
        lines += [text] * ceil(len(text) / COLUMNS)
    return lines


USUAL = ("fits", "half", "static streamed", "dip-ca", "events", "prompts", "experts")
"""Screens of usual runs; the others are slow tests."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in SCREENS],
)
def test_a_run_fits_on_a_screen_and_its_details_do_not_lack_anything(
    dipsim: Dipsim, name: str
) -> None:
    lines = screen(dipsim, SCREENS[name])
    assert len(lines) <= ROWS, "\n".join(lines)
    labels = {line.split("  ")[0] for line in lines}
    assert {"rate", "latency", "hits", "flash", "budget", "time", "marks"} <= labels
    assert sum("warning" in line for line in lines) <= ceil(400 / COLUMNS)
    details = screen(dipsim, f"{SCREENS[name]} --details")
    assert {"rates", "groups (per layer)", "time (exposed)", "words"} <= set(details)


def test_one_warning_is_printed_and_all_of_them_with_details(dipsim: Dipsim) -> None:
    line = f"run {CHAT} -p paper-a18 --dram 30% --layers 0:9 --tokens 0:9"
    short, details, as_json = (
        done(dipsim(f"{line} {form}")) for form in ("", "--details", "--json")
    )
    assert len(short.err) == 1
    assert len(details.err) > 1
    assert details.err == as_json.err
    assert short.err == details.err[:1]
    assert f"--details (and warnings: {len(details.err) - 1})" in short.out


# The hint -----------------------------------------------------------------------------------------

PROMISE = re.compile(r"hint: (--[\w-]+ [\w-]+) gives (\S+) tok/s \(([^)]+)\)")


def held(**options: Any) -> tuple[Result, Standing]:
    given = {"profile": "paper-a18", "trace": CHAT, "tokens": "0:40", **options}
    return replay_held(prepare(given.pop("trace"), given.pop("profile"), **given))


@pytest.mark.parametrize(
    "options",
    [
        "-p paper-a18 --dram 50%",
        "-p paper-a18 --dram 80% --admission ranked",
        "-p paper-a18 --dram 80%",
        "-p oneplus15r --dram 60%",
        "-p paper-a18 --method dip-ca --dram 60%",
        "-p oneplus15r --method dip-ca --dram 60%",
        "-p paper-a18 --method dense --dram 60%",
    ],
)
def test_what_a_hint_promises_is_kept(dipsim: Dipsim, options: str) -> None:
    line = f"run {CHAT} --tokens 0:40 {options}"
    before = done(dipsim(f"{line} --json")).json
    out = " ".join(done(dipsim(line)).out.split())
    others = [trial for trial in before["tried"] if trial["option"] != "--method dense"]
    best = max(others, key=lambda trial: trial["rate"], default=None)
    gains = best is not None and best["rate"] >= 1.005 * before["tokens_per_second"]
    promise = PROMISE.search(out)
    assert (promise is not None) is gains
    if promise is None:
        assert "gives" not in out
        assert "hint: to see " in out
        return
    option, rate, gain = promise.groups()
    assert option == best["option"]
    name = option.split()[0]
    changed = re.sub(rf"{name} \S+", "", line)
    after = done(dipsim(f"{changed} {option} --json")).json["tokens_per_second"]
    assert after == pytest.approx(best["rate"], rel=1e-12)
    assert float(rate) == pytest.approx(after, rel=5e-3)
    assert gain == show_gain(after / before["tokens_per_second"])


def test_no_hint_suggests_what_is_slower() -> None:
    result, standing = held(dram="50%")
    slower = [trial for trial in standing.trials if trial.rate < result.tokens_per_second]
    text = hints.hint(result, standing)
    assert slower
    assert text is not None
    assert all(trial.option not in text for trial in slower)


# Dense first --------------------------------------------------------------------------------------


def test_where_dense_is_faster_that_is_said_first(dipsim: Dipsim) -> None:
    line = f"run {CHAT} -p oneplus15r --tokens 0:40 --dram"
    first = done(dipsim(f"{line} 60%")).out.splitlines()[0]
    found = done(dipsim(f"{line} 60% --json")).json
    assert found["baselines"]["dense"]["times"] < 1
    assert first.startswith("dense is faster, ")
    assert "--method dense" not in done(dipsim(f"{line} 60%")).out
    assert "dense" not in done(dipsim(f"run {CHAT} -p paper-a18 --dram 50%")).out.splitlines()[0]


def test_the_figure_that_decides_is_named() -> None:
    # 31 times a layer or the head, and two masks in each of 30 layers.
    costs = ["backends.cpu.per_layer=100us", "backends.cpu.per_mask=1ms"]
    phone = held(profile="oneplus15r", overrides=costs, dram="60%")
    paper = held(dram="50%")
    masks = dense_is_faster(*phone)
    assert masks is not None
    assert re.fullmatch(
        r"dense is faster, [\d.]+ against [\d.]+ tok/s in the same DRAM: waiting for "
        r"layers and masks \(fixed costs\) takes 63.1 of dip's [\d.]+ ms a token\.",
        masks,
    )
    free = ["backends.cpu.per_layer=0us", "backends.cpu.per_mask=0us"]
    result, standing = held(profile="snapdragon8", overrides=free, dram="60%")
    text = dense_is_faster(result, standing)
    assert text is not None
    assert standing.own.exposed["sync"] == 0
    assert re.search(
        r": it reads .* a token at .*/s in order, dip .* a token at .*/s in reads of .*\.$", text
    )
    assert dense_is_faster(*paper) is None


# JSON ---------------------------------------------------------------------------------------------


def test_the_json_holds_what_the_screen_says(dipsim: Dipsim) -> None:
    line = f"run {CHAT} -p paper-a18 --tokens 0:40 --dram 60%"
    found = done(dipsim(f"{line} --json")).json
    shown = done(dipsim(line)).out
    assert set(found["baselines"]) == {"dense", "no_cache", "optimum"}
    assert found["baselines"]["no_cache"] is None
    for name in ("dense", "optimum"):
        one = found["baselines"][name]
        assert one["times"] == pytest.approx(found["tokens_per_second"] / one["rate"], rel=1e-12)
        (row,) = [row for row in shown.splitlines() if row.startswith(f"{name} ")]
        assert float(row.split()[1]) == pytest.approx(one["rate"], rel=5e-3)
    assert json.dumps(found["tried"]).count("option") == len(found["tried"]) == 2


def test_rates_are_numbers_where_nothing_takes_time() -> None:
    scores = np.zeros((3, 1, 4), np.bool_)
    meta = {"signals": {"glu": {"unit_bytes": 1000}}}
    result, standing = held(trace={"glu": scores, "meta": meta}, tokens="0:3", cache="2kB")
    assert json.dumps(standing.to_dict(), allow_nan=False)
    assert hints.hint(result, standing) is not None


# The interval -------------------------------------------------------------------------------------


def test_the_rate_has_its_interval_and_the_number_to_measure_first(dipsim: Dipsim) -> None:
    line = f"run {CHAT} -p oneplus15r --dram 60% --tokens 0:8"
    told = done(dipsim(f"{line} --json")).json["tokens_per_second_interval"]
    keys = [number["key"] for number in told["first_to_measure"]]
    low, high = (f"{told[end]:.3g}" for end in ("low", "high"))
    assert told["level"] == 0.9
    rate = next(row for row in done(dipsim(line)).out.splitlines() if row.startswith("rate "))
    first = keys[0].removeprefix("backends.cpu.")
    assert rate.endswith(f" tok/s, 90% between {low} and {high}; measure {first} first")
    assert len(rate) <= COLUMNS
    details = done(dipsim(f"{line} --details")).out
    assert f"\ninterval                        90% between {low} and {high} tok/s\n" in details
    rows = details.split("first to measure")[1].splitlines()[: len(keys)]
    assert [row.split(",")[0].strip() for row in rows] == keys
    assert " ".join(details.split()).count(told["unmeasured"]) == 1


def test_a_device_that_is_what_its_numbers_say_has_no_interval(dipsim: Dipsim) -> None:
    line = f"run {CHAT} -p paper-a18 --overlap paper-serial --dram 60% --tokens 0:8"
    assert done(dipsim(f"{line} --json")).json["tokens_per_second_interval"] is None
    rows = done(dipsim(line)).out.splitlines()
    assert next(row for row in rows if row.startswith("rate ")).endswith(" tok/s")
    assert "none: the device is what its numbers say" in done(dipsim(f"{line} --details")).out


def test_request_sizes_are_those_of_the_marks() -> None:
    options: dict[str, Any] = {"dram": "50%", "tokens": "0:4"}
    columns = simulate(CHAT, "snapdragon8", **options)  # larger than every measured point
    assert columns.request_sizes == "extrapolated"
    assert "extrapolated" in columns.marks
    assert simulate(CHAT, "paper-a18", **options).request_sizes == "inside"
