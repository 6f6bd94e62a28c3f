"""`dipsim profiles`: sorted and chosen by figures, and how much of each is measured."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from dipsim.analysis.profile_list import KEYS, kind_share, parse_where, select
from dipsim.errors import DipsimError
from dipsim.hardware import Profile, kinds_of, load_profile, profile_names
from tools.cli import Dipsim, done, refused


@pytest.fixture(scope="module")
def shipped() -> list[Profile]:
    return [load_profile(name) for name in profile_names()]


def device(**more: object) -> Profile:
    return load_profile(
        {
            "name": "Mine",
            "dram": {"capacity": "8 GB", "available": "4 GB", "bandwidth": "50 GB/s"},
            "flash": {"bandwidth": "2 GB/s"},
            "backends": {
                "cpu-tmac": {"engine": "T-MAC", "compute": "1 TFLOP/s"},
                "npu": {"engine": "llama.cpp HTP", "compute": "2 TFLOP/s"},
            },
            "sources": {
                "dram": {"kind": "vendor", "from": "a data sheet"},
                "dram.available": {"kind": "measured", "from": "/proc/meminfo"},
            },
            **more,
        }
    )


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("dram>=8GB", True),
        ("dram>8GB", False),
        ("dram=8 GB", True),
        ("dram==8000MB", True),
        ("dram!=8GB", False),
        ("dram<8GiB", True),
        ("dram<=7.999GB", False),
        ("available<5GB", True),
        ("bandwidth>=50GB/s", True),
        ("flash<2GB/s", False),
        ("iops=488.28125kIOPS", True),  # 2 GB/s over 4 KiB
        ("backend=npu", True),
        ("backend=cpu", True),  # the unit of cpu-tmac
        ("backend=cpu-tmac", True),
        ("backend=gpu", False),
        ("backend=np", False),
        ("backend!=gpu", True),
        ("engine=LLAMA", True),
        ("engine!=llama.cpp", False),
        ("engine=xnnpack", False),
        ("name=min", True),
        ("name!=mine", False),
        ("measured<16.7%", True),  # one of six numbers
        ("measured>=.166", True),
        ("vendor>=.333", True),
        ("fitted>0%", False),
        ("estimate=50%", True),
    ],
)
def test_conditions_by_hand(condition: str, holds: bool) -> None:
    profile = device()
    assert len(profile.numbers()) == 6  # three of DRAM, one of flash, two of compute
    assert bool(select([profile], [condition])) == holds


def test_conditions_add_up(shipped: list[Profile]) -> None:
    both = select(shipped, ["dram>=12GB, backend=gpu"])
    assert both == select(shipped, ["dram>=12GB", "backend=gpu"])
    each = [select(shipped, [one]) for one in ("dram>=12GB", "backend=gpu")]
    assert both == [profile for profile in shipped if all(profile in some for some in each)]
    assert 0 < len(both) < min(map(len, each))


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("name", "backend", "engine")])
def test_operators_are_complements(shipped: list[Profile], key: str) -> None:
    middle = KEYS[key].value(shipped[len(shipped) // 2])
    assert isinstance(middle, float | int)
    dimension = KEYS[key].dimension
    text = repr(middle) if dimension is None else dimension.exact(middle)
    for sign, other in (("<", ">="), (">", "<="), ("=", "!=")):
        sides = [select(shipped, [f"{key}{each}{text}"]) for each in (sign, other)]
        assert sorted(p.name for side in sides for p in side) == profile_names()
    assert shipped[len(shipped) // 2] in select(shipped, [f"{key}={text}"])


@pytest.mark.parametrize("key", KEYS)
def test_sorted_by_every_key(shipped: list[Profile], key: str) -> None:
    order = select(shipped, sort=key)
    assert sorted(profile.name for profile in order) == profile_names()
    values = [KEYS[key].value(profile) for profile in order]
    if key == "backend":
        values = [len(profile.backends) for profile in order]
    rising = key in ("name", "engine")
    for one, other in itertools.pairwise(values):
        assert one <= other if rising else one >= other  # type: ignore[operator]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("dram", "write KEY"),
        ("dram>=", "write KEY"),
        (">=8GB", "write KEY"),
        ("", "write KEY"),
        ("dram~8GB", "write KEY"),
        ("drm>8GB", "did you mean dram?"),
        ("colour=red", "use name, dram"),
        ("dram>=8", "no unit"),
        ("dram>=8Gb", "counts bits"),
        ("dram>=8GB/s", "unknown unit"),
        ("flash>=2GB", "unknown unit"),
        ("dram>=-8GB", "out of range"),
        ("dram>=8GB extra", "unknown unit"),
        ("measured>=many", "0% to 100%"),
        ("measured>=150%", "0% to 100%"),
        ("measured>=nan", "0% to 100%"),
        ("backend>cpu", "use = or !="),
        ("name>=a", "use = or !="),
    ],
)
def test_what_is_no_condition_is_refused(condition: str, said: str) -> None:
    with pytest.raises(DipsimError) as refusal:
        parse_where([condition])
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_kinds_are_counted_number_by_number(shipped: list[Profile]) -> None:
    for profile in [*shipped, device()]:
        kinds = Counter(
            "estimate" if (source := profile.source(key)) is None else source.kind
            for key, _ in profile.numbers()
        )
        counts = kinds_of(profile)
        assert +Counter(counts) == kinds
        assert list(counts) == ["measured", "vendor", "fitted", "estimate"]
        assert sum(kind_share(profile, kind) for kind in counts) == pytest.approx(1)


# Command ------------------------------------------------------------------------------------------


def names(out: str) -> list[str]:
    """Return the names of a list: the words that lines of it begin with, but for the head's."""
    lines = [line for line in out.splitlines()[1:] if not line.startswith(" ")]
    return [line.split()[0] for line in lines]


def test_the_list_says_how_much_is_measured(dipsim: Dipsim) -> None:
    out = done(dipsim("profiles")).out
    assert names(out) == profile_names()
    for name in profile_names():
        shares = [kind_share(load_profile(name), kind) for kind in ("measured", "fitted")]
        (row,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
        cells = [cell for cell in row.split() if cell.endswith("%")]
        assert cells == [f"{share:.0%}" for share in shares]


def test_sorted_and_chosen(dipsim: Dipsim) -> None:
    out = done(dipsim("profiles --where dram>=12GB --where backend=npu --sort fitted")).out
    known = [load_profile(name) for name in profile_names()]
    assert names(out) == [p.name for p in select(known, ["dram>=12GB,backend=npu"], "fitted")]
    found = done(dipsim("profiles --where 'dram>=12GB, backend=npu' --sort fitted --json")).json
    assert [*found][:-1] == names(out)
    assert found["kinds"] == {name: kinds_of(load_profile(name)) for name in names(out)}


def test_none_that_meets_the_conditions_is_said(dipsim: Dipsim) -> None:
    assert "no shipped profile" in done(dipsim("profiles --where dram>1TB")).out
    assert done(dipsim("profiles --where dram>1TB --json")).json == {"kinds": {}}


def test_one_profile_says_how_many_numbers_are_of_which_kind(dipsim: Dipsim, folder: Path) -> None:
    counts = kinds_of(load_profile("oneplus15r"))
    out = done(dipsim("profiles oneplus15r")).out
    assert f"its {sum(counts.values())} numbers: {counts['measured']} measured, " in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("profiles --where dram>=8", "no unit"),
        ("profiles --where dram>=8GB,", "write KEY"),
        ("profiles --sort drma", "did you mean dram?"),
        ("profiles snapdragon8 --sort dram", "NAME and --sort"),
        ("profiles --schema --where dram>8GB", "--schema and --sort"),
    ],
)
def test_wrong_options_are_refused(dipsim: Dipsim, line: str, said: str) -> None:
    refused(dipsim(line), said)
