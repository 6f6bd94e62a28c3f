"""`dipsim study`: the cells of each study, every figure that of a single run, and refusals."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import Result, Trace, load_trace, simulate
from dipsim.analysis.study import (
    BANDWIDTHS,
    COMPRESSED,
    DENSITIES,
    DRAM,
    GAMMAS,
    OVERLAPS,
    POLICIES,
    STUDIES,
    study,
)
from dipsim.errors import MethodError
from dipsim.methods.dip import split_density
from dipsim.report.hints import INPUT_ENERGY
from dipsim.report.pictures import Sheet
from dipsim.sweep import passes
from dipsim.sweep.point import Cell, figures_of
from dipsim.sweep.study import StudyResult
from tools.cli import Dipsim, done, refused
from tools.devices import PHONE
from tools.folder import MODEL as SMALL
from tools.paths import DOCS, LONG_CHAT, of_the_long_chat

TOKENS, LAYERS, HIDDEN, NEURONS = 24, 2, 40, 80
MODEL = {**SMALL, "hidden": HIDDEN, "intermediate": NEURONS}
MAGIC = b"\x89PNG\r\n\x1a\n"
BROAD = {
    "phone": {
        **PHONE,
        "flash": {"bandwidth": "1 GB/s", "align": "64 B"},
    }
}


def arrays(*signals: str, seed: int = 0) -> dict[str, Any]:
    """Scores that resemble those before, some units more used than others."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name in signals:
        units = HIDDEN if name == "mlp_input" else NEURONS
        popular = rng.random((LAYERS, units)) ** 2
        made[name] = (rng.random((TOKENS, LAYERS, units)) * popular).astype(np.float32)
    return {**made, "meta": {"model": MODEL}}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return load_trace(arrays("mlp_input", "glu"))


@pytest.fixture(scope="module")
def all_signals() -> Trace:
    return load_trace(arrays("mlp_input", "glu", "gate", "up"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> str:
    """The trace as a file, for the command line."""
    given = arrays("mlp_input", "glu")
    np.savez(folder / "tiny.npz", **{**given, "meta": np.array(json.dumps(given["meta"]))})
    return "tiny.npz"


def alone(trace: Trace, cell: Cell) -> Result:
    """A run of what a cell says it is."""
    return simulate(trace, cell.place["profile"], **cell.options)


def same(trace: Trace, cells: list[Cell]) -> None:
    """Every figure of the cells, and their marks, are those of a run alone."""
    for cell in cells:
        assert cell.figures is not None
        result = alone(trace, cell)
        assert dict(cell.figures) == figures_of(result)
        assert cell.marks == result.marks


def places(found: StudyResult, *axes: str) -> list[tuple[Any, ...]]:
    return [tuple(cell.place[axis] for axis in axes) for cell in found.cells]


# The cells of each study --------------------------------------------------------------------------


def test_density_runs_all_methods_the_trace_serves(trace: Trace) -> None:
    found = study("density", trace)
    methods = ["glu", "glu-oracle", "predictor", "teal", "dip", "dip-ca"]
    expected = [("dense", 1.0), *((method, d) for method in methods for d in DENSITIES)]
    assert places(found, "method", "density") == expected
    assert found.left_out == ("gate", "up", "cats")
    empty = {(cell.place["method"], cell.place["density"]) for cell in found.cells if cell.why}
    assert empty == {("glu", density) for density in DENSITIES if density < 2 / 3}
    same(trace, [cell for cell in found.cells if cell.place["density"] in (0.7, 1.0)])


def test_density_with_all_signals(all_signals: Trace) -> None:
    found = study("density", all_signals, tokens="0:16")
    assert found.left_out == ()
    empty = {
        cell.place["method"] for cell in found.cells if cell.why and cell.place["density"] == 0.3
    }
    assert empty == {"glu", "gate", "up", "cats"}
    cats = [cell for cell in found.cells if cell.place["method"] == "cats" and cell.figures]
    assert len(cats) == 6
    same(all_signals, cats[2:4])


def test_all_methods_measure_the_same_tokens(trace: Trace) -> None:
    found = study("density", trace, methods=["dip", "teal"])
    assert found.unmeasured == TOKENS // 4
    for cell in found.cells:
        result = alone(trace, cell)
        assert result.traffic.measured.tolist() == [row >= TOKENS // 4 for row in range(TOKENS)]
    alone_ = study("density", trace, methods=["dip"])
    assert alone_.unmeasured == 0
    longer = study("density", trace, methods=["dip", "teal"], warmup=9, calibrate_tokens="2:8")
    assert {cell.options["warmup"] for cell in longer.cells} == {9}
    assert longer.unmeasured == 8


def test_gamma_on_two_devices(trace: Trace) -> None:
    found = study("gamma", trace)
    devices = ["paper-a18", "snapdragon8"]
    expected = [(device, a, b) for device in devices for a in GAMMAS for b in GAMMAS]
    assert places(found, "profile", "gamma.mlp_input", "gamma.glu") == expected
    same(trace, found.cells[::5])


def hits_fall_with_gamma(found: StudyResult) -> None:
    """The hit rate of each device is monotone in both gammas, which fall along both axes."""
    for device in {cell.place["profile"] for cell in found.cells}:
        cells = [cell.figures for cell in found.cells if cell.place["profile"] == device]
        rates = np.array([figures["hit_rate"] for figures in cells if figures]).reshape(4, 4)
        assert (np.diff(rates, axis=0) > 0).all()
        assert (np.diff(rates, axis=1) > 0).all()


def test_the_hit_rate_is_monotone_in_gamma() -> None:
    hits_fall_with_gamma(study("gamma", "smollm2-chat", ["paper-a18"], tokens="0:48"))


@pytest.mark.slow
@of_the_long_chat
def test_the_hit_rate_is_monotone_in_gamma_on_the_long_trace() -> None:
    found = study("gamma", LONG_CHAT, density=0.7, cache_fraction=0.6)
    assert len(found.cells) == 32
    hits_fall_with_gamma(found)
    page = (DOCS / "studies.md").read_text()
    paper, phone = found.cells[:16], found.cells[16:]
    for one, other in zip(paper, phone, strict=True):
        figures, rates = one.figures, (one, other)
        start = f"| {one.place['gamma.mlp_input']:g} | {one.place['gamma.glu']:g} | "
        (row,) = (line for line in page.splitlines() if line.startswith(start))
        assert f"| {figures['hit_rate']:.1%} |" in row
        for cell in rates:
            assert f"| {cell.figures['tokens_per_second']:.4g} |" in row


def test_dram_gives_all_methods_the_same_bytes(trace: Trace) -> None:
    found = study("dram", trace)
    methods = ["dense", "dip", "dip-ca", *COMPRESSED]
    assert places(found, "method", "dram") == [(m, share) for m in methods for share in DRAM]
    same(trace, [cell for cell in found.cells if cell.figures][::3])
    own = alone(trace, next(cell for cell in found.cells if cell.figures)).model_bytes
    assert own is not None
    for cell in found.cells:
        if cell.figures:
            result = alone(trace, cell)
            assert result.budget.dram == cell.place["dram"] * own
            if cell.place["method"] in COMPRESSED:
                assert result.model_bytes is not None
                assert result.model_bytes < own


@pytest.fixture
def passes_made(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For each pass over a trace, how many capacities each of its contenders has."""
    made: list[list[int]] = []
    replay_policies = passes.replay_policies

    def counting(sets: Any, contenders: Any, **more: Any) -> Any:
        made.append([len(contender.capacities) for contender in contenders])
        return replay_policies(sets, contenders, **more)

    monkeypatch.setattr(passes, "replay_policies", counting)
    return made


def test_flash_is_replayed_once_for_each_method(trace: Trace, passes_made: list[list[int]]) -> None:
    found = study("flash", trace, [BROAD["phone"]])
    assert passes_made == [[1]] * 3
    expected = [
        ("phone", overlap, method, bandwidth)
        for overlap in OVERLAPS
        for method in ("dense", "dip", "dip-ca")
        for bandwidth in BANDWIDTHS
    ]
    assert places(found, "profile", "overlap", "method", "flash_bandwidth") == expected
    for cell in found.cells[::4]:
        result = simulate(trace, BROAD["phone"], **cell.options)
        assert cell.figures == figures_of(result)


def test_budgets_share_a_replay(trace: Trace, passes_made: list[list[int]]) -> None:
    found = study("dram", trace, methods=["dip", "dip-ca"])
    runs = sum(cell.figures is not None for cell in found.cells)
    assert len(passes_made) == 2
    assert sum(map(sum, passes_made)) <= runs


def test_policies_share_the_sets(trace: Trace, passes_made: list[list[int]]) -> None:
    study("policies", trace)
    assert passes_made == [[1] * len(POLICIES)] * len(DENSITIES)


def test_what_exceeds_a_pass_is_left_to_another(
    trace: Trace, passes_made: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = study("policies", trace)
    together = len(passes_made)
    monkeypatch.setattr(passes, "PASS_BYTES", 1)
    found = study("policies", trace)
    assert len(passes_made) == together + len(found.cells)
    assert found.cells == usual.cells


def test_policies(trace: Trace) -> None:
    found = study("policies", trace)
    assert places(found, "policy", "density") == [(p, d) for p in POLICIES for d in DENSITIES]
    assert found.fixed["method"] == "dip"
    same(trace, found.cells[::6])
    aware = study("policies", trace, methods=["dip-ca"], policies=["lru", "belady"])
    assert [cell.why is None for cell in aware.cells] == [True] * 7 + [False] * 7
    assert "belady" in str(aware.cells[-1].why)


@pytest.mark.parametrize("density", [0.3, 0.55, 0.7, 0.9])
def test_split_marks_the_two_that_have_a_name(trace: Trace, density: float) -> None:
    found = study("split", trace, density=density)
    assert [cell.why for cell in found.cells if cell.why] == []
    pairs = places(found, "density.mlp_input", "density.glu")
    assert [round(2 * a + b - 3 * density, 9) for a, b in pairs] == [0] * len(pairs)
    assert pairs == sorted(pairs)
    named = {cell.place["split"]: cell for cell in found.cells if cell.place["split"]}
    for split in ("authors", "equal"):
        place = (named[split].place["density.mlp_input"], named[split].place["density.glu"])
        assert place == pytest.approx(split_density(density, split))
        options = {"cache_fraction": 0.6, "density": density, "split": split}
        result = simulate(trace, "paper-a18", method="dip", **options)
        figures = named[split].figures
        assert figures is not None
        assert figures["hit_rate"] == result.hit_rate
        assert figures["tokens_per_second"] == result.tokens_per_second
    same(trace, found.cells[:2])


def test_layers_add_up_to_the_run(trace: Trace) -> None:
    found = study("layers", trace, ["paper-a18", "snapdragon8"], layers="1:2")
    expected = [(d, g, 1) for d in ("paper-a18", "snapdragon8") for g in ("mlp_input", "glu")]
    assert places(found, "profile", "group", "layer") == expected
    found = study("layers", trace)
    assert places(found, "group", "layer") == [(g, i) for g in ("mlp_input", "glu") for i in (0, 1)]
    result = alone(trace, found.cells[0])
    layers = result.per_layer
    for cell in found.cells:
        figures, group = cell.figures, cell.place["group"]
        assert figures is not None
        place = cell.place["layer"], result.traffic.groups.index(group)
        assert figures["hit_rate"] == layers["hits"][place] / layers["accesses"][place]
        for name in ("flash_bytes_per_token", "flash_ms_per_token"):
            assert figures[name] == layers[name][place]
    energies = [cell.figures["energy_kept"] for cell in found.cells if cell.figures]
    for i, group in enumerate(("mlp_input", "glu")):
        mean = np.mean([at[group] for at in energies if group in at])
        assert mean == pytest.approx(result.energy_kept[i], rel=1e-6)


def test_variants(trace: Trace) -> None:
    found = study("variants", trace, gamma={"*": 0.4})
    names = [cell.place["variant"] for cell in found.cells]
    assert names[:4] == ["dip, top-k", "dip, threshold", "gamma", "gamma:warm_up=1"]
    assert len(names) == 8
    assert [cell.why for cell in found.cells if cell.why] == []
    same(trace, found.cells)
    assert {cell.options["warmup"] for cell in found.cells} == {TOKENS // 4}
    given = [cell.options.get("gamma") for cell in found.cells]
    assert [at is not None for at in given] == [False] * 2 + [True] * 4 + [False] * 2


# Options ------------------------------------------------------------------------------------------


def test_options_hold_for_the_methods_that_take_them(trace: Trace) -> None:
    options = {"gamma": {"*": 0.3}, "recall": 0.8, "cache": "5kB", "policy": "lru", "seed": 4}
    methods = ["dense", "predictor", "dip-ca", "teal"]
    policy = options.pop("policy")
    found = study("density", trace, methods=methods, policies=[str(policy)], **options)
    for cell in found.cells:
        method = cell.place["method"]
        assert cell.options["policy"] == "lru"
        assert cell.options["cache"] == "5kB"
        assert "cache_fraction" not in cell.options
        assert ("gamma" in cell.options) == (method == "dip-ca")
        assert ("recall" in cell.options) == (method == "predictor")
        assert ("calibrate_tokens" in cell.options) == (method == "teal")
    same(trace, found.cells[::6])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("density", ["recorded"]), ("flash", ["dense", "recorded"]), ("layers", ["recorded"])],
)
def test_recorded_sets(name: str, expected: list[str]) -> None:
    given = arrays("glu")
    sets = load_trace({**given, "glu": given["glu"] > 0.2})
    if name == "density":
        with pytest.raises(MethodError, match=r"by scores that .* does not hold"):
            study(name, sets)
        return
    found = study(name, sets)
    assert list(dict.fromkeys(cell.options["method"] for cell in found.cells)) == expected
    assert [cell.why for cell in found.cells if cell.why] == []


def test_experts() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((TOKENS, LAYERS, 8)).astype(np.float32)
    model = {**MODEL, "experts": 8, "experts_per_token": 2}
    routed = load_trace({"expert": logits, "meta": {"model": model}})
    found = study("flash", routed, top_k=3)
    assert {cell.place["method"] for cell in found.cells} == {"moe"}
    same(routed, found.cells[::7])
    with pytest.raises(MethodError, match="use dipsim compare"):
        study("policies", routed)


def test_compat_authors_has_paper_modes_only(trace: Trace) -> None:
    found = study("flash", trace, methods=["dip"], compat="authors")
    assert {cell.place["overlap"] for cell in found.cells} == {"paper-serial", "paper-concurrent"}
    same(trace, found.cells[::4])


BAD = {
    "gamma": ["no trace", "dipsim study gamma TRACE"],
    "gamma gone.npz": ["'gone.npz'"],
    "gamma tiny.npz --gamma .5": ["--gamma", "study gamma sets it itself", "drop it"],
    "gamma tiny.npz --method dip-ca": ["--method", "study gamma sets it itself"],
    "density tiny.npz --density .5": ["--density", "study density sets it itself"],
    "density tiny.npz --group-density glu=.5": ["--group-density", "study density"],
    "dram tiny.npz --cache-fraction .5": ["--cache-fraction", "study dram"],
    "dram tiny.npz --dram 50%": ["--dram", "study dram"],
    "flash tiny.npz --overlap serial": ["--overlap", "study flash"],
    "flash tiny.npz -s flash.bandwidth=3GB/s": ["-s flash.bandwidth", "study flash"],
    "policies tiny.npz --density .5": ["--density", "study policies"],
    "split tiny.npz --split equal": ["--split", "study split"],
    "variants tiny.npz --masking blend": ["--masking", "study variants"],
    "layers tiny.npz --policy lru --policy lfu": ["--policy lru, lfu", "runs one"],
    "layers tiny.npz --method dip --method glu": ["--method dip, glu", "runs one"],
    "density tiny.npz --method dip --method dip": ["--method dip, dip", "each once"],
    "policies tiny.npz --policy lru --policy lru": ["--policy", "lru", "once"],
    "policies tiny.npz --policy lruu": ["'lruu'", "lfu"],
    "density tiny.npz --method dipp": ["no method 'dipp'", "dip-ca"],
    "density tiny.npz --method dense-3bit": ["no method 'dense-3bit'"],
    "density tiny.npz --method gate": ["method gate", "scores of signal gate"],
    "density tiny.npz --method dip --recall .9": ["--recall is for predictor"],
    "density tiny.npz --method dip --calibrate-tokens 0:4": ["--calibrate-tokens", "drop it"],
    "gamma tiny.npz --profile nokia": ["'nokia'", "snapdragon8"],
    "gamma tiny.npz -p paper-a18 -p paper-a18": ["--profile", "each device once"],
    "gamma tiny.npz --cache 1kB --cache-fraction .5": ["--cache", "exclude each other"],
    "gamma tiny.npz --density 2": ["density 2", "from 0 to 1"],
    "split tiny.npz --density 2": ["density 2", "from 0 to 1"],
    "gamma glu.npz": ["study gamma runs dip-ca", "it has glu"],
    "gamma tiny.npz --plot p.txt": ["--plot p.txt", ".png"],
    "gamma tiny.npz --csv p.txt": ["--csv p.txt", ".csv"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_are_refused_in_one(dipsim: Dipsim, tiny: str, line: str) -> None:
    refused(dipsim(f"study {line}"), *BAD[line])


def test_an_unknown_study_lists_those_there_are(dipsim: Dipsim) -> None:
    listed = done(dipsim("study"))
    for name in STUDIES:
        assert any(line.startswith(f"{name} ") for line in listed.out.splitlines())
    assert len(STUDIES) == 13 <= len(listed.out.splitlines())
    code, out, err = dipsim("study gama tiny.npz")
    assert (code, out) == (2, listed.out)
    assert err == [f"dipsim: no study 'gama': use one of {', '.join(STUDIES)}"]
    refused(dipsim("study gama tiny.npz --json"), "no study 'gama'")
    assert list(done(dipsim("study --json")).json["studies"]) == list(STUDIES)


# What is printed and written ----------------------------------------------------------------------

SHORT = {
    "density": "--method dense --method glu --method dip --method dip-ca",
    "policies": "--policy lru --policy opt",
    "gamma": "-p paper-a18 -p snapdragon8",
    "split": "-p paper-a18 -p snapdragon8",
}


@pytest.mark.parametrize("name", STUDIES)
def test_tables_files_and_pictures(dipsim: Dipsim, tiny: str, tmp_path: Path, name: str) -> None:
    line = f"study {name} {tiny} {SHORT.get(name, '')}"
    picture, rows = tmp_path / "study.png", tmp_path / "study.csv"
    out = done(dipsim(f"{line} --plot {picture} --csv {rows}")).out
    assert [row for row in out.splitlines() if len(row) > 80] == []
    assert "\x1b" not in out
    assert "nan" not in out
    if "energy_kept" in STUDIES[name].figures:
        assert "a proxy, never accuracy" in " ".join(out.split())
    assert picture.read_bytes().startswith(MAGIC)
    assert picture.stat().st_size > 10_000
    found = done(dipsim(f"{line} --json")).json
    assert found["study"] == name
    with rows.open(newline="") as handle:
        written = list(csv.DictReader(handle))
    assert len(written) == len(found["cells"])
    for row, cell in zip(written, found["cells"], strict=True):
        for axis in found["axes"]:
            assert row[axis] == str(cell[axis])
        if cell["why"] is None:
            assert float(row["hit_rate"]) == cell["hit_rate"]
            for stage, share in cell["energy_kept"].items():
                assert float(row[f"energy_kept.{stage}"]) == share
        else:
            assert row["why"] == cell["why"]
            assert row["hit_rate"] == ""
    text = " ".join(out.split())
    cell = next(at for at in found["cells"] if at["why"] is None)
    assert f"{100 * cell['hit_rate']:.1f}" in text or "hit_rate" not in STUDIES[name].figures


def test_a_picture_of_many_methods_and_policies(
    dipsim: Dipsim, all_signals: Trace, tiny: str, tmp_path: Path
) -> None:
    from dipsim.report.study import plot

    found = study("density", all_signals, tokens="0:8")
    plot(found, Sheet(tmp_path / "many.svg"))
    assert (tmp_path / "many.svg").read_text().count("dip-ca") == 1
    names = ["none", "lru", "lfu", "arc", "slru", "sieve", "fifo", "clock", "mru"]
    line = " ".join(f"--policy {name}" for name in names)
    refused(
        dipsim(f"study policies {tiny} {line} --plot {tmp_path / 'p.png'}"),
        "--plot shows 8 policies at most",
    )


def test_less_energy_at_the_input_is_told(dipsim: Dipsim, tiny: str) -> None:
    line = f"study gamma {tiny} -p paper-a18 --density .3"
    found = done(dipsim(f"{line} --json")).json
    low = [
        cell["energy_kept"]["mlp_input"] < INPUT_ENERGY * cell["energy_kept_plain"]["mlp_input"]
        for cell in found["cells"]
    ]
    assert any(low)
    assert not low[0]
    out = done(dipsim(line)).out
    assert sum("!" in line for line in out.splitlines()) == sum(low) + 1


@pytest.mark.parametrize(
    ("option", "check"),
    [
        ("--dram 90%", lambda cell: cell["options"]["dram"] == "90%"),
        ("--policy lru", lambda cell: cell["options"]["policy"] == "lru"),
        ("--scope global", lambda cell: cell["options"]["scope"] == "global"),
        ("-s dram.bandwidth=9GB/s", lambda cell: cell["options"]["overrides"]),
        ("--masking blend", lambda cell: cell["options"]["masking"] == "blend"),
    ],
)
def test_what_is_given_holds_for_all(
    dipsim: Dipsim, tiny: str, option: str, check: Callable[[Any], bool]
) -> None:
    found = done(dipsim(f"study gamma {tiny} -p paper-a18 {option} --json")).json
    assert all(check(cell) for cell in found["cells"])
    run = dict(found["cells"][3]["options"])
    gamma = ",".join(f"{name}={value}" for name, value in run.pop("gamma").items())
    line = f"run {tiny} -p paper-a18 --gamma {gamma}"
    for override in run.pop("overrides", []):
        line += f" -s {override}"
    for key, value in run.items():
        line += f" --{key.replace('_', '-')} {value}"
    alone = done(dipsim(f"{line} --json")).json
    for key in ("hit_rate", "tokens_per_second", "flash_bytes_per_token", "marks"):
        assert found["cells"][3][key] == alone[key]
