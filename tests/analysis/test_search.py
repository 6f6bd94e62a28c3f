"""`dipsim search` and calibrations: every point is that of a run, what is found meets the bound and
a bolder one does not, and what cannot be answered is refused."""

import csv
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dipsim import Profile, Result, Trace, load_profile, load_trace, simulate
from dipsim.analysis import least as least_module
from dipsim.analysis.calibration import Calibration
from dipsim.analysis.contours import contours
from dipsim.analysis.frontier import GAMMAS, search_rate, series_of
from dipsim.analysis.least import PRECISION, search_least
from dipsim.analysis.loss import Allowed, energy_of
from dipsim.errors import BudgetError, DipsimError, MethodError
from dipsim.flash.cost import FlashCost
from dipsim.report.search import render
from dipsim.sweep.point import Cell, figures_of
from dipsim.sweep.vary import iops_of, scaled, with_iops
from tools.cli import Dipsim, done, refused
from tools.devices import PHONE
from tools.folder import MODEL as SMALL

READS = {
    **PHONE,
    "flash": {
        "lanes": 2,
        "reads": [
            {"size": "1 kB", "lanes": 1, "bandwidth": "50 MB/s"},  # 20 us
            {"size": "1 kB", "lanes": 2, "bandwidth": "100 MB/s"},  # 10 us
            {"size": "100 kB", "lanes": 2, "bandwidth": "1 GB/s"},  # 100 us
        ],
    },
}
CALIBRATION = {
    "format": "dipsim-calibration",
    "version": 1,
    "model": "m",
    "dense_perplexity": 20.0,
    "points": [
        {"method": "dip", "energy_kept": {"mlp_input": 0.99, "glu": 0.95}, "perplexity": 21.0},
        {"method": "dip", "energy_kept": {"mlp_input": 0.95, "glu": 0.90}, "perplexity": 23.0},
        {"method": "dip", "energy_kept": {"mlp_input": 0.97, "glu": 0.97}, "perplexity": 22.0},
        {"method": "glu", "energy_kept": {"glu": 0.90}, "perplexity": 20.5},
    ],
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Scores that resemble those before, some units more used than others."""
    rng = np.random.default_rng(1)
    tokens, layers = 24, 2
    arrays = {}
    for name, units in (("mlp_input", 64), ("glu", 128)):
        popular = rng.random((layers, units)) ** 2
        arrays[name] = (rng.random((tokens, layers, units)) * popular).astype(np.float32)
    model = {**SMALL, "hidden": 64, "intermediate": 128}
    return load_trace({**arrays, "meta": {"model": model}})


@pytest.fixture(scope="module")
def phone() -> Profile:
    return load_profile(PHONE)


def losses(result: Result) -> dict[str, float]:
    return {name: 1 - kept for name, kept in energy_of(result).items()}


# Calibrations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "low", "high"),
    [
        ((1.0, 1.0), 20.0, 20.0),
        ((0.995, 0.995), 20.0, 21.0),  # less than any point
        ((0.99, 0.95), 21.0, 21.0),  # a point
        ((0.98, 0.98), 20.0, 22.0),  # the first point loses less of one and more of the other
        ((0.96, 0.94), 22.0, 23.0),  # more than two of them
        ((0.99, 0.90), 21.0, 23.0),
        ((0.95, 0.90), 23.0, 23.0),
        ((0.94, 0.99), 20.0, None),  # more at one stage than any
        ((0.90, 0.80), 23.0, None),
    ],
)
def test_bounds_by_hand(kept: tuple[float, float], low: float, high: float | None) -> None:
    known = Calibration.model_validate(CALIBRATION)
    assert known.bounds("dip", dict(zip(("mlp_input", "glu"), kept, strict=True))) == (low, high)


def test_bounds_hold_whatever_grows_with_every_loss() -> None:
    rng = np.random.default_rng(0)

    def truth(kept: Any) -> float:
        lost = 1 - np.asarray(kept)
        return float(20 + 30 * lost[0] ** 0.5 + 5 * lost[1] ** 2)

    points = rng.random((60, 2))
    known = Calibration.model_validate(
        CALIBRATION
        | {
            "points": [
                {"method": "x", "energy_kept": {"a": a, "b": b}, "perplexity": truth((a, b))}
                for a, b in points.tolist()
            ]
        }
    )
    bounded = 0
    for a, b in rng.random((200, 2)):
        low, high = known.bounds("x", {"a": a, "b": b})
        assert low <= truth((a, b))
        if high is not None:
            bounded += 1
            assert truth((a, b)) <= high
    assert 100 < bounded < 200


def test_points_that_contradict_each_other_are_both_within_the_bounds() -> None:
    points = [
        {"method": "glu", "energy_kept": {"glu": 0.9}, "perplexity": 25.0},
        {"method": "glu", "energy_kept": {"glu": 0.8}, "perplexity": 24.0},
        {"method": "glu", "energy_kept": {"glu": 0.5}, "perplexity": 19.0},
    ]
    known = Calibration.model_validate({**CALIBRATION, "points": points})
    assert known.bounds("glu", {"glu": 0.85}) == (19.0, 25.0)
    assert known.bounds("glu", {"glu": 0.95}) == (19.0, 20.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "format"),
        ({"version": 2}, "version"),
        ({"extra": 1}, "'extra'"),
        ({"dense_perplexity": 0}, "dense_perplexity"),
        ({"dense_perplexity": 0.97}, "dense_perplexity"),
        ({"dense_perplexity": float("nan")}, "dense_perplexity"),
        ({"dense_perplexity": "20"}, "dense_perplexity"),
        ({"points": []}, "points"),
        ({"points": [{"method": "dip", "energy_kept": {"glu": 1.1}, "perplexity": 2}]}, "1.1"),
        ({"points": [{"method": "dip", "energy_kept": {}, "perplexity": 2}]}, "energy_kept"),
        ({"points": [{"method": "dip", "energy_kept": {"glu": 1}}]}, "perplexity is missing"),
        (
            {"points": [{**CALIBRATION["points"][3], "energy_kept": {at: 1.0}} for at in "ab"]},  # type: ignore[index]
            "differ in their stages",
        ),
        ({"points": CALIBRATION["points"][3:]}, "no point of method dip: it knows glu"),  # type: ignore[index]
        ({"model": "another\x1b"}, "of model another?"),
    ],
)  # fmt: skip
def test_a_bad_calibration_is_refused(
    dipsim: Dipsim, folder: Path, change: dict[str, Any], said: str
) -> None:
    (folder / "bad.json").write_text(json.dumps({**CALIBRATION, **change}))
    (folder / "named.yaml").write_text(f"name: m\n{(folder / 'model.yaml').read_text()}")
    line = "t.npz --model named.yaml --profile phone.yaml --calibration bad.json"
    refused(dipsim(f"run {line}"), "--calibration", said)
    refused(dipsim(f"search {line} --method dip --max-loss 1"), "--calibration", said)


def test_a_run_says_its_bounds(dipsim: Dipsim, folder: Path) -> None:
    (folder / "c.json").write_text(json.dumps({**CALIBRATION, "model": "unnamed"}))
    line = "run t.npz --profile phone.yaml --density"
    found = done(dipsim(f"{line} 0.9 --calibration c.json --json")).json
    assert found["perplexity"] == {"low": 20.0, "high": 21.0}
    assert "perplexity" not in done(dipsim(f"{line} 0.9 --json")).json
    shown = done(dipsim(f"{line} 0.9 --calibration c.json --details")).out
    (row,) = [line for line in shown.splitlines() if line.startswith("perplexity (calibrated) ")]
    assert row.split(")")[1].strip().startswith("20 to 21 (bounds")
    assert "23 or more" in done(dipsim(f"{line} 0.3 --calibration c.json")).out


# The highest rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("dip", 0.05),
        ("dip", {"mlp_input": 0.004, "glu": 0.5}),
        ("glu", 0.1),
        ("glu-oracle", 0.0),
        ("dip-ca", 0.03),
    ],
)
def test_the_least_density_that_loses_no_more(
    trace: Trace, phone: Profile, method: str, most: Any
) -> None:
    options: dict[str, Any] = {"cache_fraction": 0.5, "method": method}
    gamma = {"gamma": {"mlp_input": 0.7, "glu": 0.5}} if method == "dip-ca" else {}
    found = search_rate(trace, phone, Allowed(most), [method], cache_fraction=0.5, **gamma)

    def meets(density: float) -> bool:
        lost = losses(simulate(trace, phone, density=density, **options, **gamma))
        each = most if isinstance(most, dict) else dict.fromkeys(lost, most)
        return all(lost[name] <= each[name] for name in lost)

    least = min(point.place["density"] for point in found.points if point.value("meets"))
    assert meets(least)
    if least > 0.67 or method != "glu":
        assert not meets(round(least - 0.01, 2))
    assert all(point.value("meets") == meets(point.place["density"]) for point in found.points)
    assert found.best is not None
    rates = [point.rate for point in found.points if point.value("meets")]
    assert found.best.rate == max(rates)
    assert found.result is not None
    assert found.result.tokens_per_second == max(rates)


def test_densities_that_a_method_cannot_have_are_not_points(trace: Trace, phone: Profile) -> None:
    found = search_rate(trace, phone, Allowed(1.0), ["glu"])
    assert min(point.place["density"] for point in found.points) == 0.67
    assert found.best is not None
    with pytest.raises(MethodError, match="no density to search"):
        search_rate(trace, phone, Allowed(1.0), ["recorded"])


def test_every_pair_of_gammas_is_tried(trace: Trace, phone: Profile) -> None:
    found = search_rate(trace, phone, Allowed(0.03), ["dip-ca"], cache_fraction=0.5)
    series = set(map(series_of, found.points))
    pairs = {(a, b) for a in GAMMAS["mlp_input"] for b in GAMMAS["glu"]}
    assert series == {("dip-ca", pair) for pair in pairs}
    least = {
        gamma: min(
            cell.place["density"]
            for cell in found.points
            if cell.value("meets") and series_of(cell)[1] == gamma
        )
        for gamma in pairs
    }
    assert least[1.0, 1.0] == min(least.values())  # plain top-k keeps the most energy
    for point in found.points[::7]:
        place = {name: point.place[name] for name in ("method", "gamma", "density")}
        run = simulate(trace, phone, cache_fraction=0.5, **place)
        assert run.tokens_per_second == point.rate
        assert energy_of(run) == point.value("energy_kept")
        assert point.value("loss") == max(losses(run).values())
    front = found.front()
    for point in found.points:
        loss = point.number("loss")
        assert [cell for cell in front if cell.number("loss") <= loss and cell.rate >= point.rate]
    for along in ([cell.number("loss") for cell in front], [cell.rate for cell in front]):
        assert along == sorted(along)


def test_methods_compare_by_calibration(trace: Trace, phone: Profile) -> None:
    known = Calibration.model_validate({**CALIBRATION, "model": "unnamed"})
    found = search_rate(trace, phone, Allowed(1.5, known), ["dip", "glu"], cache_fraction=0.5)
    assert {point.place["method"] for point in found.points} == {"dip", "glu"}
    for point in found.points:
        bounds = known.bounds(point.place["method"], point.value("energy_kept"))
        assert point.value("perplexity") == bounds
        assert point.value("meets") == (bounds.high is not None and bounds.high <= 21.5)
    assert found.best is not None
    rates = [point.rate for point in found.points if point.value("meets")]
    assert found.best.rate == max(rates)
    with pytest.raises(DipsimError, match="of 2 methods: the energies"):
        search_rate(trace, phone, Allowed(0.1), ["dip", "glu"])


def test_losses_by_hand() -> None:
    kept = {"mlp_input": 0.99, "glu": 0.8}
    assert Allowed(0.1).loss("dip", kept) == pytest.approx(0.2)
    assert Allowed({"mlp_input": 0.02, "glu": 0.4}).loss("dip", kept) == pytest.approx(0.5)
    assert Allowed({"mlp_input": 0.0, "glu": 0.4}).loss("dip", kept) == np.inf
    assert Allowed({"mlp_input": 0.0, "glu": 0.4}).loss("dip", {**kept, "mlp_input": 1.0}) < 1
    known = Calibration.model_validate(CALIBRATION)
    assert Allowed(2.0, known).loss("dip", {"mlp_input": 0.99, "glu": 0.96}) == 1.0
    assert Allowed(2.0, known).loss("dip", kept) == np.inf


# The least hardware -------------------------------------------------------------------------------


def test_the_least_dram_is_that_of_a_scan(trace: Trace, phone: Profile) -> None:
    def rate(size: float) -> float:
        return simulate(trace, phone, dram=f"{size:.0f} B").tokens_per_second

    found = search_least(trace, phone, "dram", rate(25_000))
    assert found.found is not None
    assert found.below is not None

    sizes = np.ceil(
        np.geomspace(found.trials[0].place["value"], found.trials[-1].place["value"], 200)
    )
    reach = [size for size in sizes if rate(size) >= found.target]
    assert found.found.place["value"] == pytest.approx(reach[0], rel=2 * PRECISION)
    assert 20_000 < found.found.place["value"] <= 25_000 * (1 + PRECISION)
    assert rate(found.found.place["value"]) == found.found.rate >= found.target
    assert found.below.rate < found.target
    assert found.found.place["value"] <= found.below.place["value"] * (1 + PRECISION)
    assert found.result.tokens_per_second == found.found.rate


@pytest.mark.parametrize("above", [1e-2, 1e-4, 1e-6, 1e-9])
def test_rates_are_printed_on_their_side_of_the_target(
    trace: Trace, phone: Profile, above: float
) -> None:
    """However close the target is to the greatest rate that does not reach it."""
    usual = search_least(trace, phone, "dram", 1.0)
    missed = sorted(trial.rate for trial in usual.trials)[-2]
    found = replace(usual, target=missed * (1 + above))
    assert found.below is not None
    console = Console(width=200, no_color=True, file=StringIO())
    console.print(render(found), crop=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    numbers = re.search(r"([\d.]+) tokens/s, but ([\d.]+) with", text)
    assert numbers is not None
    reached, short = map(float, numbers.groups())
    assert short < found.target <= reached
    rows = [row.removesuffix("<- least").split() for row in text.splitlines()[3:-2]]
    for row, trial in zip(rows, found.trials, strict=True):
        shown = float(row[-1])
        assert (shown >= found.target) == (trial.rate >= found.target)


def test_the_least_dram_of_reads_ahead_holds_their_buffer(trace: Trace, phone: Profile) -> None:
    found = search_least(trace, phone, "dram", 1e-6, prefetch="right=1")
    least, most = (trial.place["value"] for trial in found.trials)
    with pytest.raises(BudgetError, match="reads ahead need a buffer"):
        simulate(trace, phone, dram=f"{least - 1:.0f} B", prefetch="right=1")
    everything = simulate(trace, phone, dram=f"{most:.0f} B", prefetch="right=1")
    assert everything.budget.fits


@pytest.mark.parametrize("profile", [PHONE, READS])
def test_the_least_bandwidth_is_worked_out_by_hand(trace: Trace, profile: dict[str, Any]) -> None:
    options: dict[str, Any] = {"cache_fraction": 0.4, "overlap": "serial"}
    result = simulate(trace, profile, **options)
    flash = result.time_share["flash"] / result.tokens_per_second
    rest = 1 / result.tokens_per_second - flash
    target = 1 / (rest + flash / 3)  # three times the bandwidth
    found = search_least(trace, profile, "flash-bandwidth", target, **options)
    assert found.found is not None
    assert 3 * (1 - 1e-9) <= found.found.place["value"] <= 3 * (1 + PRECISION)
    run = simulate(trace, scaled(load_profile(profile), found.found.place["value"]), **options)
    assert found.found.rate == pytest.approx(run.tokens_per_second, rel=1e-9)
    assert found.found.value("flash_bytes_per_token") == run.flash_bytes_per_token
    assert found.result.accesses == run.accesses


def test_iops_shift_every_read_by_hand() -> None:
    device = load_profile(READS)
    assert iops_of(device) == pytest.approx((1e5, 1e6))

    def micros(profile: Profile) -> list[float]:
        return [1e6 * read.size / read.bandwidth for read in profile.flash.reads]

    assert micros(device) == pytest.approx([20, 10, 100])
    assert micros(with_iops(device, 1e5)) == pytest.approx([20, 10, 100])
    assert micros(with_iops(device, 5e4)) == pytest.approx([30, 20, 110])
    assert micros(with_iops(device, 2e5)) == pytest.approx([15, 5, 100])  # 95 us is over 1 GB/s
    assert micros(with_iops(device, 1e9)) == pytest.approx([10.001, 1, 100])
    assert micros(scaled(device, 2)) == pytest.approx([10, 5, 50])
    changed = with_iops(device, 5e4).source("flash.reads")
    assert changed is not None
    assert (changed.kind, changed.origin.startswith("stated by")) == ("estimate", True)
    assert FlashCost(with_iops(device, 2e5).flash).sequential_bandwidth == 1e9


def test_the_least_iops_reaches_and_a_little_less_does_not(trace: Trace) -> None:
    device = load_profile(READS)
    slow, fast = (
        simulate(trace, with_iops(device, iops), cache_fraction=0.7).tokens_per_second
        for iops in (2e4, 5e5)
    )
    target = (slow + fast) / 2
    found = search_least(trace, READS, "iops", target, cache_fraction=0.7)
    assert found.found is not None
    assert found.below is not None
    assert found.found.place["value"] <= found.below.place["value"] * (1 + PRECISION)
    for at, reached in ((found.found, True), (found.below, False)):
        run = simulate(trace, with_iops(device, at.place["value"]), cache_fraction=0.7)
        assert run.tokens_per_second == at.rate
        assert (run.tokens_per_second >= target) == reached


def test_a_rate_out_of_reach_says_what_is_reached(trace: Trace, phone: Profile) -> None:
    found = search_least(trace, phone, "dram", 1e12)
    assert found.found is None
    assert found.below is None
    everything = simulate(trace, phone, dram=f"{found.fastest.place['value']:.0f} B")
    assert everything.budget.fits
    assert found.fastest.rate == everything.tokens_per_second
    assert found.result.tokens_per_second == everything.tokens_per_second
    small = load_profile({**PHONE, "dram": {"capacity": "20 kB", "bandwidth": "60 GB/s"}})
    assert search_least(trace, small, "dram", 1e12).span.most == "all of its DRAM"


def test_a_rate_that_is_reached_with_the_least(trace: Trace, phone: Profile) -> None:
    found = search_least(trace, phone, "flash-bandwidth", 1e-6)
    assert found.found == found.trials[0]
    assert found.below is None
    assert [trial.place["value"] for trial in found.trials] == pytest.approx([0.001, 1000])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_was_run_and_reaches_even_where_rates_fall(
    trace: Trace, phone: Profile, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    result = simulate(trace, phone)
    rng = np.random.default_rng(seed)
    ran: dict[float, float] = {}

    def run(value: float) -> Cell:
        rate = 9.0 if value > 900 else float(rng.uniform(0, 10))
        ran[value] = rate
        as_fast = replace(result, timing=replace(result.timing, rate=rate))
        return Cell({"value": value}, {}, figures_of(as_fast), result=as_fast)

    monkeypatch.setattr(least_module, "_runner", lambda *_: run)
    found = search_least(trace, phone, "flash-bandwidth", 8)
    assert found.found is not None
    assert found.found.place["value"] == min(value for value, rate in ran.items() if rate >= 8)
    assert ran[found.found.place["value"]] == found.found.rate == found.result.tokens_per_second


# Contours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes", [("dram", "flash-bandwidth"), ("iops", "dram"), ("flash-bandwidth", "iops")]
)
def test_every_cell_is_a_run(trace: Trace, axes: Any) -> None:
    device = load_profile(READS)
    other = {} if "dram" in axes else {"cache_fraction": 0.6}
    seen: list[tuple[int, int]] = []
    found = contours(trace, READS, axes, 3, progress=lambda *at: seen.append(at), **other)
    assert seen[-1] == (9, 9)
    for row in found.rows():
        on, options = device, dict(other)
        if "flash-bandwidth" in row:
            on = scaled(on, row["flash-bandwidth"])
        if "iops" in row:
            on = with_iops(on, row["iops"])
        if "dram" in row:
            options["dram"] = f"{row['dram']:.0f} B"
        run = simulate(trace, on, **options)
        assert row["tokens_per_second"] == pytest.approx(run.tokens_per_second, rel=1e-9)
        assert row["hit_rate"] == run.hit_rate
    turned = contours(trace, READS, axes[::-1], 3, **other)
    assert np.array_equal(np.array(found.rates).T, turned.rates)
    for values in found.values:
        assert values == sorted(set(values))


# The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        "--method dip-ca --gamma .5 --max-loss .02 --cache-fraction .5",
        "--max-loss mlp_input=.1,glu=.1 --cache-fraction .5",
        "--max-loss 2 --calibration c.json --method dip --method glu",
        "--max-loss 0 --calibration c.json",
        "--target-rate 90000",
        "--target-rate 1e12 --least flash-bandwidth --cache-fraction .5",
        "--axes flash-bandwidth,dram --points 2",
        "--axes dram,flash-bandwidth --points 7",
    ],
)
def test_tables_files_and_json(dipsim: Dipsim, folder: Path, question: str) -> None:
    (folder / "c.json").write_text(json.dumps({**CALIBRATION, "model": "unnamed"}))
    line = f"search t.npz --profile phone.yaml {question}"
    shown = done(dipsim(f"{line} --plot p.png --csv p.csv"))
    assert "tok" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    found = done(dipsim(f"{line} --json")).json
    assert isinstance(found, dict)
    with (folder / "p.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(found["points"])
    for row, point in zip(rows, found["points"], strict=True):
        assert float(row["tokens_per_second"]) == point["tokens_per_second"]


def test_an_answer_is_repeated_by_its_config(dipsim: Dipsim, folder: Path) -> None:
    for question in ("--max-loss .05 --method dip-ca", "--target-rate 90000"):
        searched = dipsim(f"search t.npz --profile phone.yaml {question} --json")
        (folder / "answer.json").write_text(searched.out)
        found = searched.json["best" if "loss" in question else "found"]
        run = done(dipsim("run --config answer.json --json")).json
        assert run["tokens_per_second"] == found["tokens_per_second"]


BAD_LINES = {
    "search": ["no TRACE"],
    "search t.npz --max-loss .1": ["--profile"],
    "search gone.npz --profile phone.yaml --max-loss .1": ["'gone.npz'"],
    "search t.npz --profile phone.yaml": ["--max-loss, --target-rate, --axes"],
    "search t.npz --profile phone.yaml --max-loss .1 --target-rate 8": ["--max-loss and"],
    "search t.npz --profile phone.yaml --max-loss .1 --least dram": ["--least", "--target-rate"],
    "search t.npz --profile phone.yaml --max-loss .1 --points 3": ["--points", "--axes"],
    "search t.npz --profile phone.yaml --target-rate 8 --calibration c": ["--calibration"],
    "search t.npz --profile phone.yaml --target-rate 8 --method dip --method glu": ["--method"],
    "search t.npz --profile phone.yaml --max-loss .1 --method dip --method glu": [
        "2 methods", "--calibration",
    ],
    "search t.npz --profile phone.yaml --max-loss 1 --calibration gone.json": ["gone.json"],
    "search t.npz --profile phone.yaml --max-loss much": ["'much'", "from 0 to 1"],
    "search t.npz --profile phone.yaml --max-loss 1.1": ["'1.1'", "from 0 to 1"],
    "search t.npz --profile phone.yaml --max-loss nan": ["'nan'"],
    "search t.npz --profile phone.yaml --max-loss -0.1": ["'-0.1'"],
    "search t.npz --profile phone.yaml --max-loss glu=.1": ["names glu", "mlp_input, glu"],
    "search t.npz --profile phone.yaml --max-loss glu=.1,glu=.2": ["glu=.1,glu=.2"],
    "search t.npz --profile phone.yaml --max-loss glu=.1,.2": ["glu=.1,.2"],
    "search t.npz --profile phone.yaml --max-loss .1 --density .5": ["--density", "--max-loss"],
    "search t.npz --profile phone.yaml --max-loss .1 --group-density glu=.5": ["--group-density"],
    "search t.npz --profile phone.yaml --max-loss .1 --method dipp": ["'dipp'"],
    "search t.npz --profile phone.yaml --max-loss .1 --method dip --gamma .5": ["gamma"],
    "search sets.npz --profile phone.yaml --max-loss .1": ["recorded", "--density"],
    "search t.npz --profile phone.yaml --max-loss .1 --method dense --weights 2:4": ["--weights"],
    "search t.npz --profile phone.yaml --target-rate 0": ["--target-rate 0"],
    "search t.npz --profile phone.yaml --target-rate nan": ["--target-rate nan"],
    "search t.npz --profile phone.yaml --target-rate fast": ["--target-rate"],
    "search t.npz --profile phone.yaml --target-rate 8 --least speed": ["'speed'", "iops"],
    "search t.npz --profile phone.yaml --target-rate 8 --dram 50%": ["--dram fixes"],
    "search t.npz --profile phone.yaml --target-rate 8 --cache-fraction 1": ["--cache-fraction"],
    "search t.npz --profile phone.yaml --target-rate 8 --least iops": ["phone", "flash.reads"],
    "search t.npz --profile phone.yaml --axes dram": ["--axes dram", "two"],
    "search t.npz --profile phone.yaml --axes dram,dram": ["two different"],
    "search t.npz --profile phone.yaml --axes dram,speed": ["'speed'"],
    "search t.npz --profile phone.yaml --axes dram,iops": ["flash.reads"],
    "search t.npz --profile phone.yaml --axes dram,flash-bandwidth --points 1": ["2 to 50"],
    "search t.npz --profile phone.yaml --axes dram,flash-bandwidth --cache 1kB": ["--cache fixes"],
    "search t.npz --profile phone.yaml --max-loss .1 --plot p.gif": ["--plot p.gif"],
    "search t.npz --profile phone.yaml --max-loss .1 --csv p.txt": ["--csv p.txt"],
    "run t.npz --profile phone.yaml --calibration gone.json": ["gone.json"],
    "run t.npz --profile phone.yaml --calibration c.json --method dense --weights 2:4": [
        "--calibration", "--weights",
    ],
    "run t.npz --profile phone.yaml --calibration t.npz": ["t.npz"],
}  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_refused_with_what_is_allowed(dipsim: Dipsim, line: str) -> None:
    refused(dipsim(line), *BAD_LINES[line])
