"""`dipsim study`: the cells of each study, every figure that of a single run, and refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import Trace, load_trace, simulate
from dipsim.analysis.study import BESIDE, PAPER, STUDIES, StudyResult, load_study, plan_all, study
from dipsim.analysis.tables import tables_of
from dipsim.errors import DipsimError
from dipsim.store import StoredCell
from dipsim.sweep.inputs import Inputs
from dipsim.units import show_number
from tools.cli import Dipsim, done, refused
from tools.folder import MODEL as SMALL
from tools.paths import DOCS, LONG_CHAT, of_the_long_chat

TOKENS, LAYERS, HIDDEN, NEURONS = 24, 2, 40, 80
MODEL = {**SMALL, "hidden": HIDDEN, "intermediate": NEURONS}
MAGIC = b"\x89PNG\r\n\x1a\n"
JUDGED = tuple(name for name in PAPER if "text" in load_study(name).grid.fixed)
REPLAYED = tuple(name for name in STUDIES if name not in JUDGED)
FEW: dict[str, dict[str, Any]] = {
    "layers": {"layers": ["0:1", "1:2"]},
    "ttft": {"prompt": [4, 16]},
    "tokens": {"prompt": [4, 16]},
    "kv": {"depth": [16, 32]},
    "batch": {"batch": [1, 2]},
}
"""Changes with which studies suit a trace of two layers."""


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
def tiny(folder: Path) -> str:
    """The trace as a file, for the command line."""
    given = arrays("mlp_input", "glu")
    np.savez(folder / "tiny.npz", **{**given, "meta": np.array(json.dumps(given["meta"]))})
    return "tiny.npz"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "studies.db"


def same(trace: Trace, cells: list[StoredCell]) -> None:
    """Every figure of the cells, and their marks, are those of a run alone."""
    for cell in cells:
        assert cell.figures is not None
        options = {**cell.options, "trace": trace}
        result = simulate(**options)
        assert dict(cell.figures) == result.figures()
        assert tuple(cell.marks) == tuple(result.marks)


def places(found: StudyResult, *axes: str) -> list[tuple[Any, ...]]:
    return [tuple(cell.place.get(axis) for axis in axes) for cell in found.cells]


# The cells of each study --------------------------------------------------------------------------


def test_the_paper_has_eighteen() -> None:
    assert len(PAPER) == 18
    files = {path.stem for path in (DOCS / "studies").glob("*.yaml")}
    assert files == {*STUDIES} == {*PAPER, *BESIDE}


@pytest.mark.parametrize("name", REPLAYED)
def test_every_cell_is_a_run(trace: Trace, store: Path, name: str) -> None:
    found = study(name, trace, store=store, changes=FEW.get(name))
    done = [cell for cell in found.cells if cell.figures is not None]
    assert done
    same(trace, done[:: max(1, len(done) // 2)])
    shown = tables_of(found.tables, found.axes, found.cells)
    assert shown
    for table in shown:
        assert any(value is not None for _, fields in table.lines for value in fields)


def test_density_says_what_is_impossible(trace: Trace, store: Path) -> None:
    found = study("density", trace, store=store, methods="dense,glu,gate,dip")
    empty = {(cell.place["method"], cell.place.get("density")) for cell in found.cells if cell.why}
    densities = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert empty == {("glu", 0.3), ("glu", 0.4), ("glu", 0.5), ("glu", 0.6)} | {
        ("gate", density) for density in densities
    }
    assert found.left_out == ["gate"]
    assert places(found, "method", "density")[0] == ("dense", None)


def test_all_methods_measure_the_same_tokens(trace: Trace, store: Path) -> None:
    found = study("density", trace, store=store, methods=["dip", "teal"])
    assert found.unmeasured == TOKENS // 4
    assert {cell.options["warmup"] for cell in found.cells} == {TOKENS // 4}
    alone = study("density", trace, store=store, methods=["dip"])
    assert alone.unmeasured == 0


def hits_fall_with_gamma(found: StudyResult) -> None:
    """The hit rate of each device is monotone in both gammas, which fall along both axes."""
    for device in {cell.place["profile"] for cell in found.cells}:
        cells = [cell.figures for cell in found.cells if cell.place["profile"] == device]
        rates = np.array([figures["hit_rate"] for figures in cells if figures]).reshape(4, 4)
        assert (np.diff(rates, axis=0) > 0).all()
        assert (np.diff(rates, axis=1) > 0).all()


def test_the_hit_rate_is_monotone_in_gamma(store: Path) -> None:
    hits_fall_with_gamma(study("gamma", "smollm2-chat", ["paper-a18"], store=store, tokens="0:48"))


@pytest.mark.slow
@of_the_long_chat
def test_the_hit_rate_is_monotone_in_gamma_on_the_long_trace(store: Path) -> None:
    found = study("gamma", LONG_CHAT, store=store, density=0.7, cache_fraction=0.6)
    assert len(found.cells) == 32
    hits_fall_with_gamma(found)
    page = (DOCS / "studies.md").read_text()
    paper, phone = found.cells[:16], found.cells[16:]
    for one, other in zip(paper, phone, strict=True):
        start = f"| {one.place['gamma.mlp_input']:g} | {one.place['gamma.glu']:g} | "
        (row,) = (line for line in page.splitlines() if line.startswith(start))
        assert one.figures is not None
        assert f"| {one.figures['hit_rate']:.1%} |" in row
        for cell in (one, other):
            assert cell.figures is not None
            assert f"| {cell.figures['tokens_per_second']:.4g} |" in row


def test_dram_gives_all_methods_the_same_bytes(trace: Trace, store: Path) -> None:
    found = study("dram", trace, store=store)
    own = simulate(trace, "paper-a18", dram="100%").model_bytes
    assert own is not None
    for cell in found.cells:
        if cell.figures:
            assert cell.figures["budget"]["dram"] == pytest.approx(cell.place["dram_share"] * own)
            rivals = cell.place.get("bits") or cell.place.get("weights")
            assert (cell.figures["budget"]["model"] < own) == bool(rivals)


def test_the_split_is_named_or_a_number(trace: Trace, store: Path) -> None:
    found = study("split", trace, store=store)
    by_split = {cell.place["split"]: cell for cell in found.cells}
    for split in ("authors", "equal"):
        options = {"cache_fraction": 0.6, "density": 0.7, "split": split, "method": "dip"}
        assert by_split[split].figures == simulate(trace, "paper-a18", **options).figures()
    equal, seven = by_split["equal"].figures, by_split[0.7].figures
    assert equal is not None
    assert seven is not None
    assert seven["hit_rate"] == equal["hit_rate"]


def test_layers_are_those_of_the_whole_run(trace: Trace, store: Path) -> None:
    found = study("layers", trace, store=store, changes=FEW["layers"])
    whole = simulate(trace, "paper-a18", cache_fraction=0.6).per_layer
    for layer, cell in enumerate(found.cells):
        assert cell.figures is not None
        assert cell.figures["hits"] == whole["hits"][layer].sum()
        assert cell.figures["accesses"] == whole["accesses"][layer].sum()


def test_experts(store: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((TOKENS, LAYERS, 8)).astype(np.float32)
    model = {**MODEL, "experts": 8, "experts_per_token": 2}
    routed = load_trace({"expert": logits, "meta": {"model": model}})
    found = study("policies", routed, store=store, policies="lru,opt")
    assert {cell.options["method"] for cell in found.cells} == {"moe"}
    assert places(found, "policy") == [("lru",), ("opt",)]


# Options ------------------------------------------------------------------------------------------


def test_options_hold_for_the_methods_that_take_them(trace: Trace, store: Path) -> None:
    found = study(
        "density",
        trace,
        store=store,
        methods=["dense", "predictor", "dip-ca", "teal"],
        policies="lru",
        gamma={"*": 0.3},
        recall=0.8,
        cache="5kB",
        seed=4,
    )
    for cell in found.cells:
        method = cell.place["method"]
        assert cell.options["policy"] == "lru"
        assert cell.options["cache"] == "5kB"
        assert "dram" not in cell.options
        assert ("gamma" in cell.options) == (method == "dip-ca")
        assert ("recall" in cell.options) == (method == "predictor")
        assert ("calibrate_tokens" in cell.options) == (method == "teal")
    same(trace, found.cells[::9])


def test_all_takes_changes_where_they_mean_something() -> None:
    changes = {"text_tokens": 64, "tokens": "0:8", "lora_steps": [None, 1], "window": 32}
    plans = dict(zip(PAPER, plan_all(changes, Inputs()), strict=True))
    assert {cell.options["text_tokens"] for cell in plans["quant"].cells} == {64}
    assert all("tokens" not in cell.options for cell in plans["quant"].cells)
    assert {cell.options["tokens"] for cell in plans["gamma"].cells} == {"0:8"}
    assert all("window" not in cell.options for cell in plans["gamma"].cells)
    steps = {cell.options.get("lora_steps") for cell in plans["lora"].cells}
    assert steps == {None, 1}
    assert all("lora_steps" not in cell.options for cell in plans["split-ppl"].cells)
    shared = {cell.key for cell in plans["rate-ppl"].cells}
    assert shared == {cell.key for cell in plans["rate-at-loss"].cells}
    assert {cell.key for cell in plans["density-ppl"].cells} <= shared


BAD = {
    "gamma gone.npz": ["'gone.npz'"],
    "gamma tiny.npz --gamma .5": ["study gamma varies gamma.mlp_input, gamma.glu itself"],
    "layers tiny.npz --set layers=[0]": ["--layers"],
    "policies tiny.npz --policy lru --policy lru": ["policy", "twice"],
    "policies tiny.npz --policy lruu": ["'lruu'", "lfu"],
    "density tiny.npz --method dipp": ["'dipp'", "dip-ca"],
    "density tiny.npz --method dip --method dip": ["method", "twice"],
    "density tiny.npz --method dip --recall .9": ["--recall is for predictor"],
    "density tiny.npz --method dip --calibrate-tokens 0:4": ["--calibrate-tokens", "drop it"],
    "gamma tiny.npz --profile nokia": ["'nokia'", "snapdragon8"],
    "gamma tiny.npz -p paper-a18 -p paper-a18": ["profile", "twice"],
    "gamma tiny.npz --cache 1kB --cache-fraction .5": ["--cache", "exclude each other"],
    "gamma tiny.npz --set txet=3": ["'txet'", "did you mean text?"],
    "gamma tiny.npz --set text_tokens=3": ["text_tokens", "add text"],
    "gamma tiny.npz --set text": ["--set text", "key=value"],
    "gamma tiny.npz --plot p.txt": ["--plot p.txt", ".png"],
    "gamma tiny.npz --csv p.txt": ["--csv p.txt", ".csv"],
    "gamma tiny.npz -o p.txt": ["p.txt", ".html"],
    "gamma tiny.npz --workers 0": ["--workers 0"],
    "gamma tiny.npz --store tiny.npz": ["not a dipsim store"],
    "density-ppl tiny.npz": ["judges a model on a text"],
    "density-ppl --tokens 0:8": ["tokens is for a replay"],
    "density-ppl --set text_tokens=0": ["text_tokens 0", "1 or more"],
    "gama tiny.npz": ["no study 'gama'", "gamma", "or all"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_are_refused_in_one(dipsim: Dipsim, tiny: str, line: str) -> None:
    refused(dipsim(f"study {line}"), *BAD[line])


def test_objects_are_for_one_process(trace: Trace, store: Path) -> None:
    with pytest.raises(DipsimError, match="names and files, no objects"):
        study("policies", trace, store=store, policies=[object()])  # type: ignore[list-item]


def test_studies_are_listed(dipsim: Dipsim) -> None:
    listed = done(dipsim("study"))
    for name in STUDIES:
        assert any(line.startswith(f"{name} ") for line in listed.out.splitlines())
    assert list(done(dipsim("study --json")).json["studies"]) == list(STUDIES)


# What is printed and written ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["split", "gamma", "policies", "kv"])
def test_tables_files_and_pictures(dipsim: Dipsim, tiny: str, tmp_path: Path, name: str) -> None:
    changes = "".join(f" --set {key}={value}" for key, value in FEW.get(name, {}).items())
    line = f"study {name} {tiny} --store {tmp_path / 's.db'}{changes.replace(', ', ',')}"
    picture, rows, page = (tmp_path / f"study.{end}" for end in ("png", "csv", "md"))
    draws = "" if name == "gamma" else f"--plot {picture}"
    out = done(dipsim(f"{line} {draws} --csv {rows} -o {page}")).out
    assert "\x1b" not in out
    assert "nan" not in out
    if draws:
        assert picture.read_bytes().startswith(MAGIC)
    found = done(dipsim(f"{line} --json")).json
    assert found["study"] == name
    with rows.open(newline="") as handle:
        written = list(csv.DictReader(handle))
    assert len(written) == len(found["cells"])
    for row, cell in zip(written, found["cells"], strict=True):
        assert row["hit_rate"] == ("" if cell["why"] else str(cell["hit_rate"]))
        assert row["profile"] == cell["profile"]
    first = next(cell for cell in found["cells"] if cell["why"] is None)
    assert show_number(first["tokens_per_second"]) in out
    assert show_number(first["tokens_per_second"]) in page.read_text()


def test_cells_are_run_once(dipsim: Dipsim, tiny: str, tmp_path: Path) -> None:
    line = f"study policies {tiny} --store {tmp_path / 's.db'} --policy lru"
    first = done(dipsim(f"{line} --json")).json
    again = study("policies", tiny, store=tmp_path / "s.db", policies="lru,lfu")
    assert again.known == len(first["cells"]) == 7
    assert len(again.cells) == 14


# What a study refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dram tiny.npz --dram 60%", "study dram varies dram_share itself; give --set dram_share"),
        ("gamma tiny.npz --set gamma=.5", "study gamma varies gamma.mlp_input, gamma.glu itself"),
        ("quant --method dip", "study quant varies method, requantise, density together"),
        ("density tiny.npz --set dram_share=.5 --dram 60%", "give one of them"),
        ("policies tiny.npz --method dip --set gamma.glu=.5", "--gamma is for dip-ca"),
        ("density vectors.npz", "vectors.npz"),
        ("split tiny.npz --set 'tables=[{rows: split, at_loss: [.1]}]'", "add text"),
        ("split tiny.npz --set 'tables=[{rows: split, figures: [nope]}]'", "no figure 'nope'"),
        ("split tiny.npz --set 'tables=[{rows: policy, figures: [hit_rate]}]'", "'policy' is no"),
        ("split-ppl --set prompt=5", "prompt is for a replay"),
        ("split-ppl --set requantise=foo", "write BITS:GROUP"),
        ("split-ppl --set window=1", "window 1: give a whole number, 2 or more"),
        ("split-ppl --set text_tokens=16", "fewer than a window of 512"),
        ("split-ppl --set geometry=null --set dram_share=.5", "add geometry"),
        ("lora --set text_tokens=null", "say how many are judged"),
        ("lora --set requantise=4:32", "give one of them"),
    ],
)
def test_changes_that_cannot_be(
    dipsim: Dipsim, tiny: str, folder: Path, line: str, said: str
) -> None:
    key = np.zeros((4, LAYERS, 1, 4), np.float16)
    np.savez(folder / "vectors.npz", key=key, meta=np.array(json.dumps({"model": MODEL})))
    words = (
        [word.strip("'") for word in line.replace("[{", "'[{").split(" ")]
        if "'" not in line
        else None
    )
    if words is None:
        before, _, rest = line.partition("--set '")
        words = [*before.split(), "--set", rest.rstrip("'")]
    refused(dipsim("study", *words), said)


def test_devices_have_tables_of_their_own_at_a_loss() -> None:
    table = load_study("rate-at-loss").tables[0]
    cells = [
        StoredCell(
            sweep="s",
            key=f"{profile} {method}",
            place={"profile": profile, "method": method},
            options={"profile": profile, "method": method},
            figures={"perplexity": perplexity, "tokens_per_second": rate},
            marks=(),
            why=None,
            seconds=0.0,
            semantics=1,
        )
        for profile, faster in (("slow", 1.0), ("fast", 10.0))
        for method, perplexity, rate in (("dense", 10.0, faster), ("dip", 10.3, 3 * faster))
    ]
    slow, fast = tables_of([table], ("profile", "method"), cells)
    assert (slow.apart, fast.apart) == ({"profile": "slow"}, {"profile": "fast"})
    assert slow.lines == (
        (("dense",), (1.0, 1.0, 1.0, 1.0)),
        (("dip",), (None, None, 3.0, 3.0)),
    )
