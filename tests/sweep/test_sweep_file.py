"""Sweep files: which cells they mean, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import DipsimError
from dipsim.settings import OPTIONS
from dipsim.sweep.file import load_sweep, read_changes
from dipsim.sweep.keys import RUN, schema

PHONE = {"profile": "paper-a18"}


def cells_of(given: Any, **changes: Any) -> list[dict[str, Any]]:
    return list(load_sweep(given, changes).grid.cells(1000))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(text: str, name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


# Grids --------------------------------------------------------------------------------------------


def test_a_list_is_an_axis_and_the_last_one_varies_fastest() -> None:
    cells = cells_of({**PHONE, "policy": ["lru", "lfu"], "cache_fraction": [0.4, 0.6, 0.8]})
    assert [(cell["policy"], cell["cache_fraction"]) for cell in cells] == [
        *(("lru", 0.4), ("lru", 0.6), ("lru", 0.8)),
        *(("lfu", 0.4), ("lfu", 0.6), ("lfu", 0.8)),
    ]
    assert all(cell["profile"] == "paper-a18" for cell in cells)
    sweep = load_sweep({**PHONE, "cache_fraction": [0.4], "policy": ["lru"]})
    assert sweep.grid.names == ("cache_fraction", "policy")
    assert (sweep.name, sweep.title) == ("sweep", "")


def test_zipped_lists_change_together() -> None:
    cells = cells_of(
        {
            **PHONE,
            "policy": ["lru", "lfu"],
            "zip": [{"density": [0.5, 0.7], "dram": ["40%", None], "cache": [None, "1MB"]}],
        }
    )
    assert [
        tuple(cell.get(n) for n in ("policy", "density", "dram", "cache")) for cell in cells
    ] == [
        *(("lru", 0.5, "40%", None), ("lru", 0.7, None, "1MB")),
        *(("lfu", 0.5, "40%", None), ("lfu", 0.7, None, "1MB")),
    ]
    assert cells_of({**PHONE, "zip": {"density": [0.5, 0.7], "seed": [1, 2]}}) == [
        {**PHONE, "density": 0.5, "seed": 1},
        {**PHONE, "density": 0.7, "seed": 2},
    ]


def test_filters_keep_and_drop_cells() -> None:
    grid = {**PHONE, "policy": ["lru", "lfu", "arc"], "cache_fraction": [0.4, 0.6]}

    def left(**filters: Any) -> list[tuple[str, float]]:
        return [(cell["policy"], cell["cache_fraction"]) for cell in cells_of({**grid, **filters})]

    assert left(where={"policy": ["lru", "arc"], "cache_fraction": 0.4}) == [
        *(("lru", 0.4), ("arc", 0.4)),
    ]
    assert left(where=[{"policy": "lru"}, {"cache_fraction": 0.6}]) == [
        *(("lru", 0.4), ("lru", 0.6), ("lfu", 0.6), ("arc", 0.6)),
    ]
    assert left(exclude=[{"policy": ["lru", "lfu"]}, {"cache_fraction": 0.6}]) == [("arc", 0.4)]
    assert left(where={"policy": "lru"}, exclude={"policy": "lru"}) == []


def test_rules_change_the_cells_that_match() -> None:
    cells = cells_of(
        {
            **PHONE,
            "method": ["dip", "dip-ca"],
            "density": 0.7,
            "for": [
                {"when": {"method": "dip-ca"}, "set": {"gamma": {"glu": 0.2}, "density": None}},
                {"when": {}, "set": {"warmup": 2}},
            ],
        }
    )
    assert cells == [
        {**PHONE, "method": "dip", "density": 0.7, "warmup": 2},
        {**PHONE, "method": "dip-ca", "gamma": {"glu": 0.2}, "warmup": 2},
    ]


def test_mappings_and_seeds_are_values_of_axes() -> None:
    pairs = {"mlp_input": 0.5, "glu": 0.2}
    assert [cell["gamma"] for cell in cells_of({**PHONE, "gamma": [0.5, pairs]})] == [0.5, pairs]
    assert [cell["seed"] for cell in cells_of({**PHONE, "seeds": 3})] == [0, 1, 2]
    changes = ["flash.bandwidth=1GB/s", {"flash.bandwidth": "2GB/s", "flash.lanes": 2}]
    assert [cell["overrides"] for cell in cells_of({**PHONE, "overrides": changes})] == changes


values = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
filters = st.lists(
    st.dictionaries(st.sampled_from(["seed", "warmup"]), st.integers(0, 5), max_size=2), max_size=2
)


@given(seeds=values, warmups=values, depths=values, where=filters, exclude=filters)
def test_a_grid_has_the_cells_of_its_naive_twin(
    seeds: Any, warmups: Any, depths: Any, where: Any, exclude: Any
) -> None:
    twin = []
    for seed in seeds:
        for warmup in warmups:
            for depth in depths:
                cell = {"seed": seed, "warmup": warmup, "depth": depth}
                fits = [all(cell[key] == one[key] for key in one) for one in where]
                gone = [all(cell[key] == one[key] for key in one) for one in exclude]
                if (not fits or True in fits) and True not in gone:
                    twin.append({**PHONE, **cell})
    axes = {"seed": seeds, "warmup": warmups, "depth": depths}
    assert cells_of({**PHONE, **axes, "where": where, "exclude": exclude}) == twin


# Files --------------------------------------------------------------------------------------------


def test_a_file_extends_another_and_files_are_found_beside_it(tmp_path: Path) -> None:
    inner = tmp_path / "base"
    inner.mkdir()
    for name in ("t.npz", "phone.yaml", "mine.py"):
        (inner / name).touch()
    (inner / "base.yaml").write_text(
        "name: base\ntitle: A base\ntrace: t.npz\nprofile: [phone.yaml, paper-a18]\n"
        "policy: [mine.py:policy:depth=3, lru]\nseed: 5\nwhere: {profile: phone.yaml}\n"
    )
    path = tmp_path / "study.yaml"
    path.write_text("extends: base/base.yaml\nseed: 6\ntokens: 1:30\n")
    sweep = load_sweep(path)
    assert (sweep.name, sweep.title) == ("study", "A base")
    assert list(sweep.grid.cells(9)) == [
        {
            "trace": f"{inner}/t.npz",
            "profile": f"{inner}/phone.yaml",
            "policy": policy,
            "seed": 6,
            "tokens": "1:30",
        }
        for policy in (f"{inner}/mine.py:policy:depth=3", "lru")
    ]


def test_keys_are_changed_from_the_command_line(write: Callable[..., Path]) -> None:
    path = write("profile: paper-a18\npolicy: [lru, lfu]\nseed: 1\n")
    texts = ["policy=[arc, s3fifo]", "seed = 2", "overrides=flash.bandwidth=2GB/s", "tokens=0:8"]
    cells = cells_of(path, **read_changes(texts))
    assert [cell["policy"] for cell in cells] == ["arc", "s3fifo"]
    assert (cells[0]["seed"], cells[0]["tokens"]) == (2, "0:8")
    assert cells[0]["overrides"] == "flash.bandwidth=2GB/s"


def test_the_schema_has_every_option_with_its_values() -> None:
    properties = schema()["properties"]
    assert set(RUN) <= set(properties)
    for name in OPTIONS:
        assert properties[name]["description"] == OPTIONS[name].help
        assert any(each.get("type") == "array" for each in properties[name]["anyOf"]), name
    assert properties["scope"]["anyOf"][0]["enum"] == ["layer", "global"]
    assert properties["cache_fraction"]["anyOf"][0]["maximum"] == 1
    assert {"zip", "where", "exclude", "for", "extends", "seeds"} <= set(properties)
    assert schema()["additionalProperties"] is False


# What is refused ----------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{i}: [*b, *b]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases are not allowed"),
        ("policy: lru\npolicy: lfu\n", "'policy' stands there twice"),
        ("- profile\n", "expected a mapping"),
        ("profile: [", "not readable as YAML"),
        ("profile: !!python/object:os.system x\n", "not readable as YAML"),
        ("cache_fractions: [.4]\n", "unknown key 'cache_fractions': did you mean cache_fraction?"),
        ("5: 6\n", "unknown key 5"),
        ("policy: lru\n", "no profile: add one"),
        ("profile: a\npolicy: []\n", "policy has no values"),
        ("profile: a\npolicy: [lru, lru]\n", 'lru" is there twice'),
        ("profile: a\npolicy: [[lru, lfu]]\n", "a value is a text"),
        ("profile: a\npolicy: {lru: 1}\n", "a value is a text"),
        ("profile: a\ngamma: {glu: [1, 2]}\n", "a value is a number or a text"),
        ("profile: 5\n", "a value is a text"),
        ("profile: a\nseed: true\n", "a value is a number or a text"),
        ("profile: a\nbits: .nan\n", "a value is a number or a text"),
        ("profile: a\nzip: {seed: [1, 2], warmup: [1]}\n", "equal length"),
        ("profile: a\nzip: {}\nzip2: 1\n", "unknown key 'zip2': did you mean zip?"),
        ("profile: a\nzip: [{}]\n", "has no values"),
        ("profile: a\nzip: {sed: [1]}\n", "'sed' is no option of a run; did you mean seed?"),
        ("profile: a\nzip: {seed: 1}\n", "zip"),
        ("profile: a\nseed: 1\nseeds: 2\n", "seed is there twice"),
        ("profile: a\nseeds: 0\n", "seeds"),
        ("profile: a\nseeds: 100000000\n", "seeds"),
        ("profile: a\nwhere: {policy: lru}\n", "policy is no option of this sweep"),
        ("profile: a\nexclude: {polcy: lru}\n", "did you mean policy?"),
        ("profile: a\nfor: [{when: {seed: 1}, set: {}}]\n", "seed is no option of this sweep"),
        ("profile: a\nfor: [{when: {}, set: {seed: [1]}}]\n", "a value is a number or a text"),
        ("profile: a\nfor: [{wen: {}, set: {}}]\n", "for.0"),
        ("profile: a\nname: ../../x\n", "letters, digits"),
        ("profile: a\nname: [x]\n", "name"),
        ("profile: a\nextends: [x]\n", "extends is the name of one file"),
        ("profile: a\nextends: missing.yaml\n", "no such file"),
        ("profile: a\nextends: study.yaml\n", "extends itself in a circle"),
        ("{" * 3000, "not readable as YAML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    write: Callable[..., Path], text: str, said: str
) -> None:
    with pytest.raises(DipsimError) as problem:
        load_sweep(write(text))
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 400


def test_a_circle_of_two_files_is_refused(write: Callable[..., Path]) -> None:
    write("extends: study.yaml\n", "other.yaml")
    with pytest.raises(DipsimError, match="in a circle"):
        load_sweep(write("extends: other.yaml\n"))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["policy"], "write key=value"),
        (["polcy=lru"], "did you mean policy?"),
        (["seed=1", "seed=2"], "given twice"),
        (["seed=["], "not readable as YAML"),
    ],
)
def test_a_bad_change_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(DipsimError, match=said.replace("?", "\\?").replace("[", "\\[")):
        read_changes(texts)


@pytest.mark.parametrize("given", [5, None, ["study.yaml"], b"x"])
def test_what_is_no_sweep_is_refused(given: Any) -> None:
    with pytest.raises(DipsimError, match="a YAML file, or a mapping of its keys"):
        load_sweep(given)


def test_a_million_cells_are_counted_and_not_made(write: Callable[..., Path]) -> None:
    lists = "".join(
        f"{name}: {list(range(10))}\n" for name in ("seed", "warmup", "depth", "context")
    )
    grid = load_sweep(write(f"profile: a\n{lists}top_k: {list(range(10**4))}\n")).grid
    assert grid.size == 10**8
    with pytest.raises(DipsimError) as problem:
        next(grid.cells(100_000))
    assert str(problem.value) == (
        "100,000,000 cells (10 x 10 x 10 x 10 x 10000), at most 100,000: take fewer values, or add "
        "--limit 100000000"
    )


def test_the_file_is_what_yaml_says(write: Callable[..., Path]) -> None:
    text = yaml.safe_dump({**PHONE, "policy": ["lru"], "cache_fraction": 0.4})
    assert cells_of(write(text)) == [{**PHONE, "policy": "lru", "cache_fraction": 0.4}]
