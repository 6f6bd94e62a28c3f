"""Comparisons over devices, methods, densities and budgets: each cell is a run of its own."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import Profile, load_profile, simulate
from dipsim.analysis.compare import AXES, Comparison, compare
from dipsim.errors import DipsimError
from dipsim.replay.replay import replay_policies
from dipsim.sweep import passes
from dipsim.trace import load_trace
from tools.cli import Dipsim, done, refused

LINE = "compare t.npz --profile paper-a18 --cache-fraction .5"


def scores(seed: int = 0, tokens: int = 24) -> Any:
    """A trace that dip, glu and teal can replay."""
    rng = np.random.default_rng(seed)
    arrays = {
        "mlp_input": rng.random((tokens, 2, 16), np.float32),
        "glu": rng.random((tokens, 2, 32), np.float32),
    }
    geometry = {
        "name": "small",
        "layers": 2,
        "hidden": 16,
        "intermediate": 32,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "vocab": 64,
        "tied_embeddings": True,
        "activation": "silu",
        "bits": 8,
    }
    return load_trace({**arrays, "meta": {"model": geometry}})


def phone(name: str, **changes: Any) -> Profile:
    """A device that reads any size at one bandwidth."""
    return load_profile(
        {
            "name": name,
            "dram": {"capacity": "1 GB", "bandwidth": "60 GB/s"},
            "flash": {"bandwidth": "1 GB/s"},
            "compute": "unlimited",
            **changes,
        }
    )


# Cells --------------------------------------------------------------------------------------------


def test_every_cell_is_the_run_of_its_place() -> None:
    trace, phones = scores(), [phone("a"), phone("b", flash={"bandwidth": "3 GB/s"})]
    found = compare(
        trace,
        phones,
        ["lru", "lfu"],
        methods=["dip", "glu", "dense"],
        density=[0.7, 0.9],
        dram=["80%", "9kB"],
        cache_fraction=0.5,
    )
    assert found.axes == {
        "profile": ["a", "b"],
        "method": ["dip", "glu", "dense"],
        "density": [0.7, 0.9],
        "policy": ["lru", "lfu"],
        "budget": ["dram=80%", "dram=9kB", "cache_fraction=0.5"],
    }
    assert len(found.cells) == 2 * (2 + 2 + 1) * 2 * 3  # dense has no density
    by_name = {device.name: device for device in phones}
    for cell in found.cells:
        place = dict(cell.place)
        budget = found.budgets[place.pop("budget")].option
        assert (place["density"] is None) == (place["method"] == "dense")
        device = by_name[place.pop("profile")]
        run = simulate(trace, device, **budget, **place)
        # times of a shared replay are scaled by the bandwidth, which rounds once more
        assert cell.rate == pytest.approx(run.tokens_per_second, rel=1e-12)
        assert cell.value("hit_rate") == run.hit_rate
        assert cell.marks == run.marks


def test_cells_stand_by_device_and_budget_the_fastest_first() -> None:
    found = compare(scores(), [phone("b"), phone("a")], dram=["9kB", "8kB"], methods=["glu", "dip"])
    places = [(cell.place["profile"], cell.place["budget"]) for cell in found.cells]
    order = [(name, budget) for name in "ba" for budget in ("dram=9kB", "dram=8kB")]
    assert list(dict.fromkeys(places)) == order
    assert sorted(places, key=order.index) == places
    for place in order:
        rates = [c.rate for c, own in zip(found.cells, places, strict=True) if own == place]
        assert rates == sorted(rates, reverse=True)


def test_an_option_is_for_the_methods_that_take_it() -> None:
    options: dict[str, Any] = {"methods": ["dip", "dip-ca"], "cache_fraction": 0.5}
    plain, strong = (compare(scores(), phone("a"), "lru", gamma=g, **options) for g in (1.0, 0.01))
    hits = [
        {c.place["method"]: c.value("hit_rate") for c in each.cells} for each in (plain, strong)
    ]
    assert hits[0]["dip"] == hits[1]["dip"] == hits[0]["dip-ca"] < hits[1]["dip-ca"]
    with pytest.raises(DipsimError, match="--gamma is for dip-ca, none of which compare runs"):
        compare(scores(), phone("a"), "lru", gamma=0.5, cache_fraction=0.5)


def test_methods_measure_the_same_tokens() -> None:
    options: dict[str, Any] = {"cache_fraction": 0.5, "calibrate_tokens": "0:9"}
    found = compare(scores(), phone("a"), "lru", methods=["dip", "teal"], **options)
    assert found.unmeasured == 9
    (dip,) = [cell for cell in found.cells if cell.place["method"] == "dip"]
    run = simulate(scores(), phone("a"), policy="lru", cache_fraction=0.5, method="dip", warmup=9)
    assert dip.rate == run.tokens_per_second
    alone = compare(scores(), phone("a"), "lru", methods="dip", cache_fraction=0.5)
    assert alone.unmeasured == 0
    assert alone.cells[0].rate != dip.rate


@pytest.mark.slow  # compiles a loop for each policy
def test_the_usual_policies_are_those_that_apply_to_each_method() -> None:
    found = compare(scores(), phone("a"), methods=["dip", "dip-ca"], cache_fraction=0.5)
    names = {
        method: {cell.place["policy"] for cell in found.cells if cell.place["method"] == method}
        for method in ("dip", "dip-ca")
    }
    assert names["dip"] - names["dip-ca"] == {"belady", "opt"}
    assert all(cell.why is None for cell in found.cells)
    assert "dip-ca" in str(found.no_optimum)


def test_runs_of_the_same_sets_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(given)
        return replay_policies(*given, **options)

    monkeypatch.setattr(passes, "replay_policies", counted)
    phones = [phone("a"), phone("b", dram={"capacity": "1 GB", "bandwidth": "30 GB/s"})]
    shares = [i / 10 for i in range(1, 10)]
    found = compare(scores(), phones, ["lru", "lfu"], methods=["dip", "glu"], cache_fraction=shares)
    assert len(found.cells) == 72
    assert len(calls) == 2  # one for each method


# Impossible combinations --------------------------------------------------------------------------


def test_an_impossible_combination_says_why() -> None:
    found = compare(
        scores(), phone("a"), ["lru", "opt"], methods=["dip", "dip-ca", "glu"], density=0.5,
        cache_fraction=0.5,
    )  # fmt: skip
    why = {(cell.place["method"], cell.place["policy"]): cell.why for cell in found.cells}
    ran = {place for place, reason in why.items() if reason is None}
    assert ran == {("dip", "opt"), ("dip", "lru"), ("dip-ca", "lru")}
    assert "depend on the cache" in str(why["dip-ca", "opt"])
    assert "cannot reach density 0.5" in str(why["glu", "lru"])
    assert found.cells[-1].figures is None
    rows = {row["why"] is None: row for row in found.rows()}
    assert rows[True].keys() == rows[False].keys()
    assert (rows[False]["hit_rate"], rows[False]["verdict"]) == (None, None)
    assert found.best is not None
    assert found.best.place["policy"] == "lru"


@pytest.mark.parametrize(
    ("options", "has", "lacks", "said"),
    [
        ({}, {}, {"dram": {"capacity": "9 kB", "available": "9 B", "bandwidth": "1 GB/s"}}, "9 B"),
        ({"io": "buffered"}, {"page_cache": {"bandwidth": "8 GB/s"}}, {}, "page_cache"),
    ],
)
def test_what_one_device_cannot_do_leaves_the_others(
    options: dict[str, Any], has: dict[str, Any], lacks: dict[str, Any], said: str
) -> None:
    found = compare(scores(), [phone("lacks", **lacks), phone("has", **has)], "lru", **options)
    reasons = {cell.place["profile"]: cell.why for cell in found.cells}
    assert said in str(reasons["lacks"])
    assert reasons["has"] is None


def test_where_nothing_is_possible_there_is_an_error(dipsim: Dipsim) -> None:
    refused(dipsim(f"{LINE} --method dip-ca --policy opt,belady"), "depend on the cache")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--profile paper-a18", ["paper-a18 is there twice"]),
        ("--method dip,dip", ["two methods are called 'dip'"]),
        ("--method dip,dup", ["no method 'dup'", "dip-ca"]),
        ("--policy lru,lru", ["'lru'"]),
        ("--policy lru,,lfu", ["no policy ''"]),
        ("--policy lru,half_life=3", ["lru,half_life=3"]),
        ("--density .5,0.50", ["--density 0.5, 0.5", "twice"]),
        ("--density .5,1.5", ["--density 1.5", "from 0 to 1"]),
        ("--density half", ["--density 'half'", "number"]),
        ("--cache-fraction 0.5", ["--cache-fraction 0.5 and 0.5 are the same"]),
        ("--dram 1MB,1000kB", ["--dram 1MB and 1000kB are the same"]),
        ("--dram 50%,50.0%", ["--dram 50% and 50.0% are the same"]),
        ("--dram 1MB,,2MB", ["--dram ''"]),
        ("--dram 1MB,2", ["--dram '2' has no unit"]),
        ("--gamma .5", ["--gamma is for dip-ca"]),
        ("--calibrate-tokens 0:4", ["--calibrate-tokens", "no"]),
    ],
)
def test_bad_axes_are_refused(dipsim: Dipsim, line: str, said: list[str]) -> None:
    refused(dipsim(f"{LINE} {line}"), *said)


def test_a_second_trace_is_refused(dipsim: Dipsim) -> None:
    refused(dipsim("compare t.npz sized.npz --profile paper-a18"), "sized.npz")


# The command line ---------------------------------------------------------------------------------


def test_commas_and_repetition_are_the_same(dipsim: Dipsim) -> None:
    line = "compare t.npz --tokens 0:8 --json"
    commas = "--profile paper-a18,snapdragon8 --policy lru,lfu --dram 80%,90% --density .7,.8"
    apart = " ".join(
        f"{option} {value}"
        for option, values in zip(*[iter(commas.split())] * 2, strict=True)
        for value in values.split(",")
    )
    found, same = (done(dipsim(f"{line} {axes}")).json for axes in (commas, apart))
    assert [found[key] for key in ("axes", "cells")] == [same[key] for key in ("axes", "cells")]
    assert len(found["cells"]) == 16


def test_files_have_a_column_for_every_axis(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    axes = "--profile paper-a18,snapdragon8 --method dip,dense --policy lru,lfu"
    sizes = "--dram 90%,2kB --cache 1kB --cache-fraction .5"
    found = done(dipsim(f"compare t.npz {axes} {sizes} --json --csv {file}")).json
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert found["trace"]["name"] == rows[0]["trace"] == "t.npz"
    assert set(AXES) == set(found["axes"])
    assert len(rows) == len(found["cells"]) == 32
    for row, cell in zip(rows, found["cells"], strict=True):
        for axis in AXES:
            assert row[axis] == ("" if cell[axis] is None else str(cell[axis]))
        assert cell[axis] in [None, *found["axes"][axis]]
        assert (row["why"] == "") == (cell["why"] is None) == (row["hit_rate"] != "")
    sized = {row["budget"]: [row[f"budget_{what}"] for what in ("kind", "bytes", "share")]
             for row in rows}  # fmt: skip
    assert sized == {
        "dram=90%": ["dram", "", "0.9"],
        "dram=2kB": ["dram", "2000.0", ""],
        "cache=1kB": ["cache", "1000.0", ""],
        "cache_fraction=0.5": ["cache_fraction", "", "0.5"],
    }
    known = [cell for cell in found["cells"] if cell["why"] is None]
    assert {cell["dram_bytes"] for cell in known if cell["budget"] == "dram=2kB"} <= {2000}


def test_warnings_that_differ_in_numbers_are_said_once(dipsim: Dipsim) -> None:
    shares = ",".join(f"{i}%" for i in range(25, 35))
    found = done(dipsim(f"compare t.npz --profile paper-a18 --policy lru --dram {shares}"))
    streamed = [line for line in found.err if "of static weights do not fit" in line]
    assert len(streamed) == 1
    assert "more with other numbers" in streamed[0]


# Python -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(scores(), phone("a"), ["lru", "opt"], dram=["80%", "9kB", 7000])


def test_one_value_several_and_arrays_are_taken() -> None:
    def rates(**sizes: Any) -> list[float]:
        return [cell.rate for cell in compare(scores(), phone("a"), "lru", **sizes).cells]

    assert (
        rates(dram=9000) == rates(dram="9 kB") == rates(dram=np.float64(9e3)) == rates(dram=[9e3])
    )
    shares = np.array([0.25, 0.5])
    assert rates(cache_fraction=shares) == rates(cache_fraction=(0.25, 0.5))
    assert rates(cache=np.array([500])) == rates(cache="500B")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dram": -1}, "--dram -1: bytes"),
        ({"dram": float("nan")}, "--dram nan: bytes"),
        ({"dram": True}, "of type bool"),
        ({"cache_fraction": 1.5}, "from 0 to 1"),
        ({"cache_fraction": True}, "from 0 to 1"),
        ({"density": "half"}, "--density"),
        ({"method": "dip"}, r"compare takes it as methods=\[...\]"),
        ({"policy": "lru"}, r"compare takes it as policies=\[...\]"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_value_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError, match=said) as problem:
        compare(scores(), phone("a"), "lru", **options)
    assert "\n" not in str(problem.value)


def test_a_comparison_needs_a_device() -> None:
    with pytest.raises(DipsimError, match="no profile"):
        compare(scores(), [])


def test_a_frame_has_a_row_for_each_cell(found: Comparison) -> None:
    frame = found.to_frame()
    assert len(frame) == len(found.cells) == 6
    assert list(frame["budget_bytes"].dropna()) == [9000, 9000, 7000, 7000]
    assert list(frame["tokens_per_second"]) == [cell.rate for cell in found.cells]
    assert set(AXES) | {"trace", "marks", "why", "flash_bytes_per_token"} <= set(frame.columns)
    assert all(isinstance(marks, str) for marks in frame["marks"])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["cells"] == found.rows()


def test_without_pandas_a_line_says_what_to_install(
    found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(DipsimError, match=r"pip install 'dipsim\[pandas\]'"):
        found.to_frame()


def test_a_plot_is_a_figure_and_a_file(found: Comparison, tmp_path: Path) -> None:
    figure = found.plot(size=(5, 3), dpi=50)
    assert figure.get_size_inches().tolist() == [5, 3]
    found.plot(tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(DipsimError, match=r"\.png, \.svg, \.pdf"):
        found.plot(tmp_path / "p.txt")


def test_a_comparison_is_shown_in_two_lines(found: Comparison) -> None:
    first, second = repr(found).splitlines()
    assert first == "Comparison of arrays: 2 policies x 3 budgets"
    assert second.startswith("best: ")
    assert second.endswith(" tokens/s with a, dip, 0.7, lru, dram=9kB")
    long = "x" * 500
    wide = compare(scores(), [phone(long), phone(long[:-1])], "lru", cache_fraction=[0.1, 0.2])
    assert max(map(len, repr(wide).splitlines())) <= 200
