"""`dipsim compare` and `dipsim mrc`: every figure is that of a single run or replay, and files are
refused before the work."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.analysis.baseline import replay_held
from dipsim.analysis.compare import USUAL, compare
from dipsim.analysis.mrc import GRID, mrc
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.methods import build_method
from dipsim.policies import BUILTIN, load_policy
from dipsim.settings import Settings, make_settings
from dipsim.simulate import prepare
from dipsim.trace import Trace, load_trace
from tools.cli import Dipsim, done, refused
from tools.folder import RECENCY
from tools.replays import replay

SHARED = {
    "hit_rate", "unit_hit_rate", "tokens_per_second", "tokens_per_second_range",
    "flash_bytes_per_token", "flash_reads_per_token", "marks", "verdict",
}  # fmt: skip
"""What a row of a comparison and the result of a run both say."""
CHAT = "smollm2-chat"
ONE_BANDWIDTH = {
    "name": "half",
    "dram": {"capacity": "8GB", "bandwidth": "60GB/s"},
    "flash": {"bandwidth": "0.5GB/s"},
    "backends": {"default": {"compute": "1TFLOP/s"}},
}
"""A device whose flash reads any size alike, at half the speed of paper-a18's."""
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def random_trace(seed: int, tokens: int = 60, layers: int = 2, units: int = 90) -> Trace:
    """Sets that resemble those before; a fifth of the tokens is prefill."""
    rng = np.random.default_rng(seed)
    popular = rng.random((layers, units)) ** 2
    sets = np.empty((tokens, layers, units), np.bool_)
    now = rng.random((layers, units)) < popular
    for token in range(tokens):
        fresh = rng.random((layers, units)) < popular
        sets[token] = now = np.where(rng.random((layers, units)) < 0.6, now, fresh)
    phase = (rng.random(tokens) < 0.8).astype(np.uint8)
    meta = {"signals": {"glu": {"unit_bytes": 4096}}}
    return load_trace({"glu": sets, "phase": phase, "meta": meta})


# compare: the figures ----------------------------------------------------------------------------


def options_of(budget: str) -> str:
    """``cache_fraction=0.5`` -> ``--cache-fraction 0.5``."""
    key, _, value = budget.partition("=")
    return f"--{key.replace('_', '-')} {value}"


@pytest.mark.parametrize(
    ("line", "policies"),
    [
        pytest.param(
            "t.npz --cache-fraction 0.5 --cache-fraction 0.9",
            "lru lfu-decay:half_life=8 slru opt",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "t.npz --dram 80% --dram 95% --cache 700B",
            "none static random 2q belady",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "t.npz --method dip-ca --cache 1kB --cache 2kB", "lfu mru lirs", marks=pytest.mark.slow
        ),
        pytest.param(
            "t.npz --scope global --dram 90% --cache-fraction 0.8",
            "lfu-decay arc belady",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "t.npz --access sequential --cache-fraction 0.6",
            "lru lfu s3fifo",
            marks=pytest.mark.slow,
        ),
        ("t.npz --admission ranked --warmup 4 --cache-fraction 0.7", "lru lfu opt"),
        ("t.npz --allocate optimal --dram 90% --dram 95%", "lru lfu-decay"),
        ("marked.npz --prefill cache --reset sequence --cache-fraction 0.7", "lru window"),
        ("sized.npz -s flash.bandwidth=2GB/s --overlap serial --cache 3MB", "lru random"),
    ],
)
def test_every_row_is_what_a_run_says(dipsim: Dipsim, line: str, policies: str) -> None:
    names = policies.split()
    asked = " ".join(f"--policy {name}" for name in names)
    found = done(dipsim(f"compare {line} {asked} --profile snapdragon8 --json")).json
    budgets = list(dict.fromkeys(cell["budget"] for cell in found["cells"]))
    plain = line
    for budget in budgets:
        assert options_of(budget) in line
        plain = plain.replace(options_of(budget), "")
    assert "--cache" not in plain
    assert "--dram" not in plain
    pairs = [(cell["policy"], cell["budget"]) for cell in found["cells"]]
    assert sorted(pairs) == sorted((name, budget) for name in names for budget in budgets)
    for cell in found["cells"]:
        own = f"{options_of(cell['budget'])} --policy {cell['policy']}"
        run = done(dipsim(f"run {plain} {own} --profile snapdragon8 --json")).json
        assert cell["why"] is None
        assert {key: cell[key] for key in SHARED} == {key: run[key] for key in SHARED}
        rate = run["hits"] / run["accesses"]
        assert cell["unit_hit_rate"] == rate


@pytest.mark.parametrize("line", ["t.npz", "smollm2-chat --tokens 0:16"])
def test_the_fastest_comes_first_within_each_budget(dipsim: Dipsim, line: str) -> None:
    sizes = "--cache-fraction 0.9 --dram 90% --cache-fraction 0.6 --cache 500B"
    found = done(dipsim(f"compare {line} {sizes} --profile snapdragon8 --json")).json
    order = ["dram=90%", "cache=500B", "cache_fraction=0.9", "cache_fraction=0.6"]
    assert [cell["budget"] for cell in found["cells"]] == [
        budget for budget in order for _ in USUAL
    ]
    for budget in order:
        rates = [c["tokens_per_second"] for c in found["cells"] if c["budget"] == budget]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 0


def test_without_a_budget_it_is_what_the_device_leaves(dipsim: Dipsim) -> None:
    found = done(dipsim("compare t.npz --profile snapdragon8 --policy lru --json")).json
    (cell,) = found["cells"]
    run = done(dipsim("run t.npz --profile snapdragon8 --policy lru --json")).json
    assert cell["budget"] == "available"
    assert {key: cell[key] for key in SHARED} == {key: run[key] for key in SHARED}


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (["paper-a18", "oneplus15r"], {"policies": ["lru", "lfu-decay", "opt"]}),
        (["paper-a18"], {"warmup": 9, "prefill": "cache"}),
        (["paper-a18"], {"admission": "ranked"}),
        (["paper-a18"], {"kv": "grow"}),
        (["oneplus15r"], {"io": "buffered"}),
        (["paper-a18"], {"overlap": "prefetch", "prefetch": "previous"}),
        # one bandwidth for reads of any size: replays are shared and scaled
        (["paper-a18", ONE_BANDWIDTH], {}),
    ],
    ids=["usual", "warm-up", "ranked", "grow", "buffered", "prefetch", "shared"],
)
def test_a_cell_is_blamed_as_its_run_is(devices: list[Any], options: dict[str, Any]) -> None:
    given = {"tokens": "0:24", **options}
    policies = given.pop("policies", ["lfu-decay"])
    profiles = {profile.name: profile for profile in map(load_profile, devices)}
    found = compare(CHAT, list(profiles.values()), policies, dram="80%", **given)
    assert len(found.cells) == len(devices) * len(policies)
    for cell in found.cells:
        run = prepare(CHAT, profiles[cell.place["profile"]], **cell.options)
        standing = replay_held(run)[1]
        assert standing.verdict is not None
        assert standing.verdict.optimum_rate is not None
        assert cell.value("verdict") == standing.verdict
    assert any(
        "of the time is the policy's" in cell.value("verdict").sentence for cell in found.cells
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_no_policy_that_starts_empty_beats_the_optimum(seed: int) -> None:
    names = [name for name in BUILTIN if not BUILTIN[name].preload]
    shares = (0.0, 0.2, 0.5, 0.8, 1.0)
    trace = random_trace(seed)
    options: dict[str, Any] = {"warmup": 9, "prefill": "cache"}
    found = compare(trace, "snapdragon8", names, cache_fraction=shares, **options)
    assert found.no_optimum is None
    assert len(found.cells) == len(names) * len(shares)
    for cell in found.cells:
        verdict, distance = cell.value("verdict"), cell.value("to_optimum")
        assert distance == verdict.lost / verdict.accesses
        assert distance >= 0
        if cell.place["policy"] == "opt" or cell.place["budget"] == "cache_fraction=0.0":
            assert distance == 0
    apart = {cell.place["policy"] for cell in found.cells if cell.value("to_optimum")}
    assert apart >= {"none", "lru", "lfu", "random"}


def test_distances_come_from_the_counts_over_all_tokens() -> None:
    trace = random_trace(seed=3)
    method = build_method(trace, make_settings({}))
    units = {"cache_fraction=0.3": 27, "cache_fraction=0.7": 63}
    names = ["lfu-decay", "arc", "static"]
    found = compare(trace, "snapdragon8", names, cache_fraction=(0.3, 0.7), warmup=9)
    for cell in found.cells:
        capacity = np.full((2, 1), units[cell.place["budget"]])
        ours, best = (
            replay(trace, method, BUILTIN[name], capacity, Settings(warmup=9))
            for name in (cell.place["policy"], "opt")
        )
        lost = int(best.hits.sum()) - int(ours.hits.sum())
        assert cell.value("to_optimum") == lost / int(ours.active.sum())
        assert cell.to_dict()["to_optimum"] == cell.value("to_optimum")


# compare: what is compared ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "left_out", "why"),
    [
        ("", set(), None),
        ("--warmup 3 --admission ranked", {"none", "arc"}, None),
        pytest.param(
            "--method dip-ca",
            {"belady", "opt"},
            "the sets of dip-ca depend on the cache",
            marks=pytest.mark.slow,
        ),
        ("--scope global", {"opt"}, "one cache per layer and group"),
        ("--access sequential", {"opt", "lfu-decay"}, "atomic access"),
        pytest.param(
            "--scope global --method dip-ca",
            {"belady", "opt"},
            "depend on the cache",
            marks=pytest.mark.slow,
        ),
        ("--admission forced", {"none"}, None),
        ("--access sequential --admission forced", {"opt", "none", "lfu-decay"}, "atomic access"),
    ],
)
def test_the_usual_policies_that_mean_something(
    dipsim: Dipsim, options: str, left_out: set[str], why: str | None
) -> None:
    line = f"compare t.npz --profile snapdragon8 --cache-fraction 0.9 {options}"
    found = done(dipsim(f"{line} --json")).json
    names = {cell["policy"] for cell in found["cells"]}
    assert set(USUAL) - names <= left_out
    assert {"lru", "lfu"} <= names <= set(USUAL)
    if "--admission" not in options:
        assert names == set(USUAL) - left_out
    missing = [cell["to_optimum"] is None for cell in found["cells"]]
    assert missing == [cell["verdict"] is None for cell in found["cells"]]
    text = " ".join(done(dipsim(line)).out.split())
    assert [name for name in names if f"{name} " not in text] == []
    if why is None:
        assert found["no_optimum"] is None
        assert not any(missing)
        assert "to opt: hit rate of the optimum less that of the policy" in text
    else:
        assert why in found["no_optimum"]
        assert all(missing)
        assert f"No distance to the optimum: {found['no_optimum']}" in text


def test_what_is_printed_fits_80_columns(dipsim: Dipsim) -> None:
    sizes = "--cache-fraction 0.9 --dram 90%"
    for line in (f"compare t.npz --profile snapdragon8 {sizes}", "mrc t.npz"):
        out = done(dipsim(line)).out
        assert [row for row in out.splitlines() if len(row) > 80] == []
        assert "\x1b" not in out


@pytest.mark.slow
def test_a_policy_of_the_users_own_is_compared(dipsim: Dipsim) -> None:
    line = "compare t.npz --profile snapdragon8 --cache-fraction 0.9 --policy lru --json"
    found = done(dipsim(f"{line} --policy mine.py:policy")).json
    mine, lru = sorted(found["cells"], key=lambda cell: cell["policy"] == "lru")
    assert (mine.pop("policy"), lru.pop("policy")) == ("mine", "lru")
    assert mine == lru
    assert mine["hit_rate"] > 0


def test_the_same_policy_with_other_parameters_is_another(dipsim: Dipsim) -> None:
    names = ["lfu-decay:half_life=1", "lfu-decay:half_life=1000", "lfu-decay"]
    asked = " ".join(f"--policy {name}" for name in names)
    line = f"smollm2-chat --tokens 0:24 --cache-fraction 0.6 {asked} --profile snapdragon8"
    cells = done(dipsim(f"compare {line} --json")).json["cells"]
    assert sorted(cell["policy"] for cell in cells) == sorted(names)
    assert len({cell["hit_rate"] for cell in cells}) == 3


# Files --------------------------------------------------------------------------------------------

ROWS = "t.npz --profile snapdragon8 --cache-fraction 0.5 --dram 90%"


def test_the_csv_has_the_same_figures(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    found = done(dipsim(f"compare {ROWS} --json --csv {file}")).json
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(found["cells"]) == 2 * len(USUAL)
    for row, cell in zip(rows, found["cells"], strict=True):
        assert (row["policy"], row["budget"]) == (cell["policy"], cell["budget"])
        numbers = ["cache_bytes", "hit_rate", "unit_hit_rate", "tokens_per_second", "to_optimum"]
        numbers += ["flash_bytes_per_token", "flash_reads_per_token"]
        assert [float(row[key]) for key in numbers] == [cell[key] for key in numbers]
        band = [float(row[f"tokens_per_second_{side}"]) for side in ("slow", "fast")]
        assert band == cell["tokens_per_second_range"]
        counts = ["accesses", "misses", "unavoidable", "first_uses"]
        assert [int(row[key]) for key in counts] == [cell["verdict"][key] for key in counts]
        assert row["marks"].split() == cell["marks"]


def test_a_csv_leaves_empty_what_there_is_not(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    done(dipsim(f"compare {ROWS} --method dip-ca --policy lru --csv {file}"))
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["to_optimum"], row["accesses"], row["misses"]) for row in rows] == [("",) * 3] * 2


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("line", [f"compare {ROWS} --policy lru --policy opt", "mrc t.npz"])
def test_pictures_are_written_in_the_format_of_their_name(
    dipsim: Dipsim, tmp_path: Path, line: str, suffix: str
) -> None:
    file = tmp_path / f"picture{suffix}"
    done(dipsim(f"{line} --plot {file}"))
    written = file.read_bytes()
    assert written.startswith(MAGIC[suffix])
    assert len(written) > 5000
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("line", [f"compare {ROWS}", "mrc t.npz"])
@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--plot", "curve.txt", ".png, .svg, .pdf"),
        ("--plot", "curve", ".png, .svg, .pdf"),
        ("--plot", "curve.png.gz", ".png, .svg, .pdf"),
        ("--plot", "no/such/curve.png", "no such folder"),
        ("--plot", "folder.png", "is a folder"),
        ("--csv", "rows.txt", ".csv"),
        ("--csv", "no/such/rows.csv", "no such folder"),
        ("--csv", "folder.csv", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    dipsim: Dipsim,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    option: str,
    file: str,
    said: str,
) -> None:
    for name in ("folder.png", "folder.csv"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("dipsim.trace.load_trace", lambda _: pytest.fail("the work began"))
    refused(dipsim(f"{line} {option} {tmp_path / file}"), option, str(tmp_path / file), said)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.csv", "folder.png"]


def test_a_picture_of_too_many_series_is_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    names = [f"--policy {name}" for name in list(BUILTIN)[:9]]
    for line in ("mrc t.npz", f"compare {ROWS}"):
        asked = f"{line} {' '.join(names)} --plot {file}"
        refused(dipsim(asked), "--plot", "8 policies", "not 9")
    assert list(tmp_path.iterdir()) == []


# What is refused ----------------------------------------------------------------------------------

BAD_LINES = {
    "compare": ["TRACE"],
    "compare t.npz": ["no profile", "snapdragon8"],
    "compare gone.npz --profile snapdragon8": ["'gone.npz'"],
    "compare t.npz --profile snapdragon8 --policy lruu": ["'lruu'", "lfu"],
    "compare t.npz --profile snapdragon8 --policy lru --policy lru:k=2": ["lru", "'k'"],
    "compare t.npz --profile snapdragon8 --policy lru --policy lru": ["'lru'"],
    "compare t.npz --profile snapdragon8 --policy gone.py:policy": ["gone.py"],
    "compare t.npz --profile snapdragon8 --policy slru:segments=99": ["segments=99", "1 to 16"],
    "compare t.npz --profile snapdragon8 --method dip-ca --policy opt": ["opt", "dip-ca"],
    "compare t.npz --profile snapdragon8 --scope global --policy opt": ["opt", "belady"],
    "compare t.npz --profile snapdragon8 --access sequential --policy opt": ["opt"],
    "compare t.npz --profile snapdragon8 --admission ranked --policy arc": ["arc", "ranked"],
    "compare t.npz --profile snapdragon8 --dram 5": ["--dram", "no unit"],
    "compare t.npz --profile snapdragon8 --dram 10B": ["10 B of DRAM"],
    "compare t.npz --profile snapdragon8 --dram 90% --dram 5": ["--dram", "no unit"],
    "compare t.npz --profile snapdragon8 --cache 5": ["--cache", "no unit"],
    "compare t.npz --profile snapdragon8 --cache-fraction 1.5": ["fraction", "1.5"],
    "compare t.npz --profile snapdragon8 --cache-fraction -0.1": ["fraction", "-0.1"],
    "compare t.npz --profile snapdragon8 --cache-fraction 0.5 --cache-fraction nan": [
        "fraction",
        "nan",
    ],
    "compare t.npz --profile snapdragon8 --cache-fraction half": ["--cache-fraction", "number"],
    "compare t.npz --profile snapdragon8 --seed -1": ["--seed"],
    "mrc": ["TRACE"],
    "mrc gone.npz": ["'gone.npz'"],
    "mrc t.npz --policy lruu": ["'lruu'", "lfu"],
    "mrc t.npz --policy lfu --policy lfu": ["'lfu'"],
    "mrc t.npz --policy opt --method dip-ca": ["opt", "dip-ca"],
    "mrc t.npz --cache-fraction 1.5": ["fraction 1.5", "from 0 to 1"],
    "mrc t.npz --cache-fraction -0.1": ["fraction -0.1", "from 0 to 1"],
    "mrc t.npz --cache-fraction 0.5 --cache-fraction nan": ["fraction nan", "from 0 to 1"],
    "mrc t.npz --tokens 0:99": ["0:99"],
    "mrc t.npz --profile snapdragon8": ["--profile"],
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_refused_with_what_is_allowed(dipsim: Dipsim, line: str) -> None:
    refused(dipsim(line), *BAD_LINES[line])


@pytest.mark.parametrize(
    "options", [{"scope": "global"}, {"dram": "1GB"}, {"policy": "lru"}, {"colour": "red"}]
)
def test_a_curve_takes_no_budget_and_no_device(options: dict[str, Any]) -> None:
    with pytest.raises(DipsimError, match=next(iter(options))):
        mrc(random_trace(0), ["lru"], (0.5,), **options)


# mrc ----------------------------------------------------------------------------------------------

SHARES = (0.0, 0.3, 0.59, 0.75, 0.76, 0.9, 1.0)
"""Below, between and above the largest batches of both groups of the shipped trace."""


@pytest.mark.parametrize(
    "options",
    [{}, {"tokens": "8:24", "layers": "20:26", "warmup": 5}, {"layers": "2:5", "density": 0.5}],
)
def test_every_rate_is_that_of_a_replay(options: dict[str, Any]) -> None:
    names = ["lru", "lfu-decay:half_life=8", "arc", "opt", "static"]
    given = {"tokens": "0:16", "layers": "0:8", **options}
    found = mrc("smollm2-chat", names, SHARES, **given)
    settings = make_settings(given)
    trace = load_trace("smollm2-chat").part(settings.tokens, settings.layers)
    method = build_method(trace, settings)
    plan = Settings(warmup=settings.warmup)
    assert list(found.curves) == names
    assert found.stack is not None
    least = found.stack.least
    each = [np.floor(np.array([576, 1536]) * share + 1e-9).astype(int) for share in SHARES]
    fits = [bool((at >= least).all()) for at in each]
    assert any(fits)
    assert not all(fits[1:])  # lru comes from one pass, and from replays
    for name in names:
        for n, size in enumerate(each):
            capacity = np.tile(size, (trace.layers, 1))
            traffic = replay(trace, method, load_policy(name), capacity, plan)
            hits, active = (
                at[traffic.measured].sum(axis=0) for at in (traffic.hits, traffic.active)
            )
            np.testing.assert_array_equal(found.curves[name].hits[n], hits)
            np.testing.assert_array_equal(found.curves[name].accesses[n], active)
            assert found.rates(name)[n] == hits.sum() / active.sum()


@pytest.mark.parametrize("shares", [(0.1, 0.2), (0.9,), (1.0, 0.1)])
def test_lru_where_some_all_or_none_hold_a_batch(shares: tuple[float, ...]) -> None:
    trace = random_trace(seed=4, layers=3)
    method = build_method(trace, make_settings({}))
    found = mrc(trace, ["lru"], shares)
    for n, share in enumerate(shares):
        capacity = np.full((3, 1), int(share * 90 + 1e-9))
        traffic = replay(trace, method, BUILTIN["lru"], capacity)
        hits = traffic.hits[traffic.measured].sum(axis=0)
        np.testing.assert_array_equal(found.curves["lru"].hits[n], hits)


def test_the_one_pass_agrees_with_the_grid() -> None:
    found = mrc("smollm2-chat", ["lru", "lfu"], tokens="0:24", warmup=4)
    assert found.shares == GRID
    exact = found.lru_exact()
    assert list(exact) == ["mlp_input", "glu"]
    seen = 0
    for i, group in enumerate(found.method.groups):
        least, rates = exact[group.signal]
        assert len(rates) == group.units - least + 1
        assert (np.diff(rates) >= 0).all()
        for n, capacity in enumerate(found.curves["lru"].capacity[:, 0, i]):
            if capacity >= least:
                assert rates[capacity - least] == found.by_group("lru")[n, i]
                seen += 1
    assert seen >= 8


def test_groups_and_layers_add_up(dipsim: Dipsim) -> None:
    line = "mrc smollm2-chat --tokens 0:24 --policy lru --policy sieve"
    found = done(dipsim(f"{line} --json")).json
    assert found["shares"] == list(GRID)
    same = mrc("smollm2-chat", ["lru", "sieve"], tokens="0:24")
    assert found.pop("about")["options"]["tokens"] == "0:24"
    assert found == same.to_dict()
    for name, rates in found["policies"].items():
        accesses = same.curves[name].accesses[0]
        total = accesses.sum()
        groups = np.array(list(rates["groups"].values()))
        layers = np.array(rates["layers"])
        assert (groups.shape, layers.shape) == ((2, 20), (30, 20))
        np.testing.assert_allclose(rates["hit_rate"], accesses.sum(axis=0) / total @ groups)
        np.testing.assert_allclose(rates["hit_rate"], accesses.sum(axis=1) / total @ layers)


def test_the_csv_of_curves_adds_up_to_the_json(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    line = "mrc t.npz --cache-fraction 0.5 --cache-fraction 1 --cache-fraction 0.9 --policy lru"
    found = done(dipsim(f"{line} --policy opt --csv {file} --json")).json
    assert found["shares"] == [0.5, 1, 0.9]
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    units = {"mlp_input": 16, "glu": 32}
    assert {row["group"]: int(row["units"]) for row in rows} == units
    for name in ("lru", "opt"):
        for n, share in enumerate(found["shares"]):
            own = [
                row
                for row in rows
                if row["policy"] == name
                and int(row["capacity"]) == int(share * units[row["group"]] + 1e-9)
            ]
            assert len(own) == 2 * 2  # layers and groups
            hits, accesses = (sum(int(row[key]) for row in own) for key in ("hits", "accesses"))
            assert found["policies"][name]["hit_rate"][n] == hits / accesses
    places = {(row["layer"], row["group"], row["capacity"]): row["hits"] for row in rows
              if row["policy"] == "lru"}  # fmt: skip
    exact = [row for row in rows if row["policy"] == "lru, one pass"]
    both = [(row["hits"], places[at]) for row in exact
            if (at := (row["layer"], row["group"], row["capacity"])) in places]  # fmt: skip
    assert len(both) >= 4  # all of the units, in both groups of both layers
    assert [pair for pair in both if pair[0] != pair[1]] == []
    for signal, curve in found["lru_exact"].items():
        assert len(curve["hit_rate"]) == units[signal] - curve["least_capacity"] + 1


def test_sets_that_depend_on_the_cache_have_no_one_pass(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    line = "mrc t.npz --method dip-ca --cache-fraction 0.5 --cache-fraction 0.9"
    found = done(dipsim(f"{line} --json --csv {file}")).json
    assert found["lru_exact"] == {}
    assert set(found["policies"]) == {"lru", "lfu"}
    assert "one pass" not in file.read_text()
    for share, rates in zip(
        found["shares"],
        zip(*(found["policies"][name]["hit_rate"] for name in ("lru", "lfu")), strict=True),
        strict=True,
    ):
        for name, rate in zip(("lru", "lfu"), rates, strict=True):
            run = f"run t.npz --method dip-ca --cache-fraction {share} --policy {name}"
            assert done(dipsim(f"{run} --profile snapdragon8 --json")).json["unit_hit_rate"] == rate


@pytest.mark.slow  # compiles a policy that nothing stores
def test_a_policy_called_lru_is_not_taken_for_the_built_in() -> None:
    trace = random_trace(seed=5)
    newest = replace(BUILTIN["mru"], name="lru")
    found = mrc(trace, [newest], (0.5, 0.6))
    expected = mrc(trace, ["mru", "lru"], (0.5, 0.6))
    assert found.lru_exact() == {}
    np.testing.assert_array_equal(found.rates("lru"), expected.rates("mru"))
    assert (found.rates("lru") != expected.rates("lru")).all()


@pytest.mark.parametrize(
    "names", [["--policy lru --policy newest.py:policy"], ["--policy lfu"] * 2]
)
def test_two_policies_with_one_name_are_not_mixed_up(
    dipsim: Dipsim, folder: Path, names: list[str]
) -> None:
    (folder / "newest.py").write_text(RECENCY.replace('"mine"', '"lru"'))
    refused(dipsim(f"mrc t.npz {' '.join(names)}"), "two policies are called")
