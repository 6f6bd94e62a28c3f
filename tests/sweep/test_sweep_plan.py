"""Plans of sweeps: the options of every cell, and the key that its figures are stored under."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.sweep import cell_key
from dipsim.sweep.cell_key import CellKeys
from dipsim.sweep.chunk import CELLS, REPLAYS, chunks_of, count_replays
from dipsim.sweep.file import load_sweep
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.plan import Plan, make_plan
from tools.cli import Dipsim
from tools.paths import DOCS

NO_CACHE: dict[str, Any] = {"cache_fraction": None}


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def planned(given: Mapping[str, Any], **how: Any) -> Plan:
    given = {"trace": "t.npz", "profile": "paper-a18", "cache_fraction": 0.5, **given}
    return make_plan(load_sweep(given), Inputs(), limit=10_000, **how)


def key(**options: Any) -> str:
    given = {"trace": "t.npz", "profile": "phone.yaml", **options}
    return CellKeys(Inputs()).of({name: value for name, value in given.items() if value})


# Options ------------------------------------------------------------------------------------------


def test_an_option_that_a_method_does_not_take_is_left_out_and_equal_cells_are_one() -> None:
    cells = planned({"method": ["dip", "dip-ca", "dense"], "gamma": [0.2, 0.5]}).cells
    assert [cell.place for cell in cells] == [
        {"method": "dip"},
        {"method": "dip-ca", "gamma": 0.2},
        {"method": "dip-ca", "gamma": 0.5},
        {"method": "dense"},
    ]
    assert len({cell.key for cell in cells}) == 4
    with pytest.raises(DipsimError, match="--gamma is for dip-ca, none of which sweep sweep runs"):
        planned({"method": ["dip", "dense"], "gamma": 0.5})


@pytest.mark.parametrize(
    "spellings",
    [
        [{}, {"batch": 1}, {"batch": 1.0}, {"batch": "1"}],
        [{"cache_fraction": 1}, {"cache_fraction": 1.0}, {"cache_fraction": "1"}],
        [NO_CACHE | {"dram": "1GB"}, NO_CACHE | {"dram": "1000 MB"}, NO_CACHE | {"dram": 1e9}],
        [NO_CACHE | {"dram": "50%"}, NO_CACHE | {"dram": "50.0 %"}],
        [{"policy": "lfu-decay:half_life=16"}, {"policy": "lfu-decay:half_life=16.0"}],
        [
            {"speculate": "draft=4,accept=.8"},
            {"speculate": "accept=0.80, draft=4"},
            {"speculate": "draft=4,accept=.8,cost=0,seed=0"},
        ],
        [{"kv_fetch": "top=64:block=16"}, {"kv_fetch": "block=16:top=64"}],
        [{"method": "dip-ca"}, {"method": "dip-ca", "masking": "gamma", "selection": None}],
        [{"tokens": "0:9"}, {"tokens": "00: 9"}],
    ],
)
def test_a_key_does_not_depend_on_the_spelling(spellings: list[dict[str, Any]]) -> None:
    keys = [planned(options).cells[0].key for options in spellings]
    other = planned({"cache_fraction": 0.123}).cells[0].key
    assert len(set(keys)) == 1
    assert other not in keys


def test_two_spellings_are_two_cells_of_one_run() -> None:
    plan = planned({"cache_fraction": [0.5, "0.50"]})
    assert [cell.place["cache_fraction"] for cell in plan.cells] == [0.5, "0.50"]
    assert len(plan.missing(())) == 1


def test_a_value_that_no_run_can_have_names_file_and_cell() -> None:
    with pytest.raises(DipsimError, match=r"^the sweep, policy=lfuu: .*no policy .lfuu"):
        planned({"policy": ["lru", "lfuu"]})
    with pytest.raises(DipsimError, match=r"^the sweep, cache_fraction=2: --cache-fraction"):
        planned({"cache_fraction": [0.5, 2]})


def test_options_that_exclude_each_other_in_every_cell_are_refused() -> None:
    with pytest.raises(DipsimError, match=r"^the sweep, batch=2: .*--speculate.*drop one"):
        planned({"batch": [2, 3], "speculate": "draft=2,accept=.5"})


def test_options_hold_full_paths_and_places_names(folder: Path) -> None:
    (cell, other) = planned(
        {"trace": "t.npz", "profile": ["./phone.yaml", "paper-a18"], "gamma": None}
    ).cells
    assert cell.options["trace"] == str(folder / "t.npz")
    assert cell.options["profile"] == str(folder / "phone.yaml")
    assert (cell.place, other.place) == ({"profile": "phone.yaml"}, {"profile": "paper-a18"})
    pairs = {"mlp_input": 0.5, "glu": 0.2}
    (cell, _) = planned({"method": "dip-ca", "gamma": [pairs, 0.5]}).cells
    assert cell.place == {"gamma": "mlp_input=0.5,glu=0.2"}
    assert cell.options["gamma"] == pairs


def test_a_rule_may_change_an_axis() -> None:
    rule = {"when": {"method": "dip-ca", "gamma": 0.5}, "set": {"gamma": {"glu": 0.1}}}
    cells = planned({"method": ["dip", "dip-ca"], "gamma": [0.2, 0.5], "for": [rule]}).cells
    assert [cell.place for cell in cells] == [
        {"method": "dip"},
        {"method": "dip-ca", "gamma": 0.2},
        {"method": "dip-ca", "gamma": "glu=0.1"},
    ]


def test_two_files_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "t.npz", tmp_path)
    names = [f"{folder}/t.npz", f"{tmp_path}/t.npz"]
    cells = planned({"trace": names}).cells
    assert [cell.place for cell in cells] == [{"trace": name} for name in names]
    assert cells[0].key == cells[1].key  # they have the same contents, so one run serves both


def test_runs_measure_the_same_tokens() -> None:
    methods = ["dip", "glu"]
    given = {"method": methods, "selection": ["threshold", None], "calibrate_tokens": "0:4"}
    cells = planned(given).cells
    assert [cell.options.get("warmup") for cell in cells] == [4, 4, 4, 4]
    cells = planned(
        {
            **given,
            "tokens": ["0:8", "0:10"],
            "selection": None,
            "method": "dip",
            "calibrate_tokens": None,
        }
    ).cells
    assert all("warmup" not in cell.options for cell in cells)


def test_a_file_that_would_be_run_is_named_until_it_is_trusted() -> None:
    for name in ("policy", "method"):
        with pytest.raises(DipsimError, match=f"names the {name} mine.py:policy, a file that"):
            planned({name: ["mine.py:policy"]})
    (cell,) = planned({"policy": "mine.py:policy"}, trust_files=True).cells
    assert cell.options["policy"].endswith("/mine.py:policy")


@pytest.mark.parametrize("path", sorted((DOCS / "studies").glob("*.yaml")), ids=str)
def test_the_studies_of_the_docs_can_be_run(path: Path) -> None:
    cells = make_plan(load_sweep(path), Inputs(), limit=10_000).cells
    assert 1 < len(cells) <= load_sweep(path).grid.size


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trace": "missing.npz"}, "no trace 'missing.npz'"),
        ({"profile": "missing"}, "no profile 'missing'"),
        ({"model": "missing"}, "missing"),
        ({"cache_fraction": [0.5, 3]}, "--cache-fraction"),
        ({"dram": "50%"}, "--dram and --cache-fraction exclude each other"),
        ({"policy": ["lru", "lfu"], "where": [{"policy": "arc"}]}, "no cell is left"),
        ({"overrides": "flash.bandwith=1GB/s"}, "bandwith"),
        ({"policy": ["lru", "lruu"]}, "no policy 'lruu'"),
        ({"policy": "lru:depth=3"}, "no parameter 'depth'"),
        ({"method": ["dip", "dib"]}, "no method 'dib'"),
        ({"static_from": "missing.npz"}, "no trace 'missing.npz'"),
    ],
)
def test_what_no_run_can_mean_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError) as problem:
        planned(given)
    assert said in str(problem.value)


# Keys ---------------------------------------------------------------------------------------------


def test_a_key_is_of_contents_and_not_of_names(folder: Path, tmp_path: Path) -> None:
    for name in ("t.npz", "glu.npz", "mine.py"):
        shutil.copy(folder / name, tmp_path / f"other-{name}")
    shutil.copy(folder / "phone.yaml", tmp_path / "phone.yaml")
    here = {"policy": "mine.py:policy", "prefetch": "t.npz", "static_from": "glu.npz"}
    there = {
        "trace": f"{tmp_path}/other-t.npz",
        "profile": f"{tmp_path}/phone.yaml",
        "policy": f"{tmp_path}/other-mine.py:policy",
        "prefetch": f"{tmp_path}/other-t.npz",
        "static_from": f"{tmp_path}/other-glu.npz",
    }
    assert key(**here) == key(**there)
    (tmp_path / "other-mine.py").write_text((folder / "mine.py").read_text() + "\n# changed\n")
    assert key(**here) != key(**there)
    assert key(overrides="dram.bandwidth=20GB/s") == key(overrides={"dram.bandwidth": "20GB/s"})
    assert key(policy="lfu") == key()  # the default


OTHERS: tuple[dict[str, Any], ...] = (
    {"trace": "glu.npz"},
    {"trace": None, "model": "llama-3.2-1b"},
    {"profile": "paper-a18"},
    {"overrides": "dram.bandwidth=20GB/s"},
    {"model": "model.yaml"},
    {"model": "model.yaml", "bits": 6},
    {"static_from": "t.npz"},
    {"prefetch": "previous"},
    {"prefetch": "right=.5"},
    {"policy": "mine.py:policy"},
    {"policy": "lfu-decay:half_life=8"},
    {"method": "dip"},
    {"method": "dip-ca", "gamma": 0.5},
    {"method": "dip-ca", "gamma": {"glu": 0.5}},
    *({name: 1} for name in ("density", "recall", "bits", "context", "depth", "kv_bits")),
    *({name: 1} for name in ("seed", "warmup", "top_k", "predictor_rank")),
    {"cluster": 2},
)


def test_whatever_changes_a_run_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(), *(key(**options) for options in OTHERS)]
    assert len(set(keys)) == len(keys)
    monkeypatch.setattr(cell_key, "SEMANTICS", -1)
    assert key() not in keys


# Chunks -------------------------------------------------------------------------------------------


def test_chunks_hold_every_cell_once_and_share_replays() -> None:
    cells = planned(
        {
            "method": ["dip", "glu"],
            "policy": ["lru", "lfu"],
            "profile": ["paper-a18", "phone.yaml", "snapdragon8"],
            "cache_fraction": [round(0.01 * i, 2) for i in range(1, 21)],
        }
    ).cells
    chunks = chunks_of(cells, 1)
    assert sorted(cell.key for chunk in chunks for cell in chunk) == sorted(c.key for c in cells)
    assert [len(chunk) for chunk in chunks] == [96, 24] * 2
    assert all(len({cell.options["method"] for cell in chunk}) == 1 for chunk in chunks)
    assert count_replays(cells) == 2 * 2 * 20
    assert sum(count_replays(chunk) for chunk in chunks) == 80
    assert len(chunks_of(cells[:64], 4)) >= 16  # all workers are busy until the end
    assert (REPLAYS, CELLS) == (32, 256)


def test_a_key_does_not_depend_on_the_folder_it_is_asked_in(
    dipsim: Dipsim, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = planned({}).cells
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "unused.npz", glu=np.ones((1, 1, 1), np.float32))
    (again,) = planned({"trace": str(folder / "t.npz")}).cells
    assert first == again
