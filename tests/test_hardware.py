"""Hardware profiles: the shipped ones, the smallest one, what is refused, extends, overrides."""

import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dipsim import files
from dipsim.errors import ProfileError
from dipsim.hardware import FOLDER, load_profile, profile_names, profile_schema

SMALLEST = {
    "name": "phone",
    "dram": {"capacity": "8 GB", "bandwidth": "60 GB/s"},
    "flash": {"bandwidth": "1 GB/s"},
    "compute": "2 TFLOP/s",
}
POINTS = [
    {"size": "4 KiB", "lanes": 1, "bandwidth": "0.45 GB/s"},
    {"size": "512 KiB", "lanes": 1, "bandwidth": "3.5 GB/s"},
]
SOURCE = {"kind": "measured", "from": "a test bench"}
each_shipped = pytest.mark.parametrize("name", profile_names())


def changed(**changes: Any) -> dict[str, Any]:
    """The smallest profile with keys (``dram__bandwidth``) set, or removed by ``...``."""
    data: dict[str, Any] = copy.deepcopy(SMALLEST)
    for path, value in changes.items():
        *sections, key = path.split("__")
        at = data
        for section in sections:
            at = at.setdefault(section, {})
        if value is ...:
            del at[key]
        else:
            at[key] = value
    return data


def refusal(given: Any, overrides: tuple[str, ...] = ()) -> str:
    """The one line a profile is refused with."""
    with pytest.raises(ProfileError) as problem:
        load_profile(given, overrides)
    message = str(problem.value)
    assert message
    assert "\n" not in message
    return message


# Shipped profiles ---------------------------------------------------------------------------------


def test_the_headline_devices_are_shipped() -> None:
    assert {"snapdragon8", "paper-a18", "oneplus15r"} <= set(profile_names())


@each_shipped
def test_every_number_of_a_shipped_profile_has_a_source_and_a_kind(name: str) -> None:
    profile = load_profile(name)
    keys = [key for key, _ in profile.numbers()]
    assert {"dram.capacity", "dram.bandwidth"} <= set(keys)
    for key in keys:
        source = profile.source(key)
        assert source is not None, f"{name}: no source for {key}"
        assert source.kind in ("measured", "vendor", "fitted", "estimate")


@each_shipped
def test_a_shipped_file_states_every_number_with_a_unit_and_is_named_as_its_file(name: str) -> None:
    assert load_profile(name).name == name
    assert load_profile(files.shipped(FOLDER) / f"{name}.yaml") == load_profile(name)


@each_shipped
def test_a_shipped_file_states_a_source_of_every_number(name: str) -> None:
    profile = load_profile(name)
    for key, _ in profile.numbers():
        source = profile.source(key)
        assert source is not None
        assert not source.origin.startswith("stated by"), key


def test_the_device_of_the_paper() -> None:
    paper = load_profile("paper-a18")
    assert (paper.dram.bandwidth, paper.flash.bandwidth) == (60e9, 1e9)
    assert (paper.flash.reads, paper.staging, paper.backend()[1].compute) == ((), 0, math.inf)


# The smallest profile -----------------------------------------------------------------------------


def test_the_smallest_profile_and_its_defaults() -> None:
    profile = load_profile(SMALLEST)
    _, backend = profile.backend()
    assert (profile.dram.capacity, profile.dram.available, profile.dram.bandwidth) == (
        8e9,
        8e9,
        6e10,
    )
    assert (profile.flash.lanes, profile.flash.align, profile.flash.bandwidth) == (1, 1, 1e9)
    assert (profile.flash.reads, profile.staging, profile.runtime_overhead) == ((), None, 0)
    assert (backend.compute, backend.dram_efficiency, backend.per_layer) == (2e12, 1, 0)
    assert (backend.overlap_factor, backend.cache_copy, dict(backend.gemv)) == (0, math.inf, {})
    assert profile.energy is None


@pytest.mark.parametrize("key", ["name", "dram", "flash", "compute"])
def test_nothing_of_the_smallest_profile_can_be_left_out(key: str) -> None:
    assert "is missing: add it" in refusal(changed(**{key: ...}))


def test_measured_points_take_the_place_of_a_bandwidth() -> None:
    flash = load_profile(changed(flash={"reads": POINTS})).flash
    assert flash.bandwidth is None
    assert [(read.size, read.bandwidth) for read in flash.reads] == [(4096, 0.45e9), (2**19, 3.5e9)]


@pytest.mark.parametrize("name", ["llama.cpp", "a=b"])
def test_a_backend_has_a_name_that_overrides_can_spell(name: str) -> None:
    backends = {key: value for key, value in SMALLEST.items() if key != "compute"}
    with pytest.raises(ProfileError, match=f"backend '{name}'"):
        load_profile({**backends, "backends": {name: {}}})


def test_the_first_backend_is_the_default_and_others_are_chosen_by_name() -> None:
    backends = {"npu": {"compute": "10 TFLOP/s"}, "cpu": {"per_layer": "0.6 ms"}}
    profile = load_profile(changed(compute=..., backends=backends))
    assert profile.backend()[0] == "npu"
    assert profile.backend("cpu")[1].per_layer == pytest.approx(0.6e-3)
    with pytest.raises(ProfileError, match="no backend 'gpu': use npu, cpu"):
        profile.backend("gpu")


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dram__bandwith": "60 GB/s"}, "unknown key 'dram.bandwith'"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"flash__latency": "80 us"}, "unknown key 'flash.latency'"),
        ({"dram__bandwidth": 60}, "dram.bandwidth: 60 has no unit"),
        ({"dram__bandwidth": "60"}, "dram.bandwidth: '60' has no unit"),
        ({"dram__bandwidth": "60 Gb/s"}, "counts bits"),
        ({"flash__bandwidth": "60 GB"}, "unknown unit 'GB'"),
        ({"dram__capacity": "-8 GB"}, "out of range"),
        ({"dram__available": "9 GB"}, "available is larger than capacity"),
        ({"dram__bandwidth": ...}, "dram.bandwidth is missing"),
        ({"dram__bandwidth": "unlimited"}, "dram.bandwidth: 'unlimited' is not a bandwidth"),
        ({"dram__bandwidth": "0 GB/s"}, "bandwidth is 0"),
        ({"flash__bandwidth": "0 GB/s"}, "bandwidth must be positive"),
        ({"compute": "0 FLOP/s"}, "compute is 0"),
        ({"flash__bandwidth": ...}, "give either bandwidth or reads"),
        ({"flash__reads": POINTS}, "give either bandwidth or reads"),
        ({"flash": {"reads": [*POINTS, POINTS[0]]}}, "the same size and lanes stand there twice"),
        ({"flash": {"reads": [{**POINTS[0], "lanes": 0}]}}, "flash.reads.0.lanes"),
        ({"flash": {"reads": [{**POINTS[0], "lanes": 1.5}]}}, "flash.reads.0.lanes"),
        ({"flash": {"reads": [{**POINTS[0], "size": "0 B"}]}}, "positive size"),
        (
            {"flash": {"reads": [{**POINTS[0], "size": 4096}]}},
            "flash.reads.0.size: 4096 has no unit",
        ),
        ({"flash__align": "0 B"}, "align"),
        ({"flash__lanes": "4"}, "flash.lanes"),
        ({"flash__lanes": True}, "flash.lanes"),
        ({"backends": {"cpu": {}}}, "compute at the top or inside backends, not both"),
        ({"compute": ..., "backends": {}}, "backends"),
        ({"compute": ..., "backends": {"cpu": {"overlap_factor": 1.5}}}, "overlap_factor"),
        (
            {"compute": ..., "backends": {"cpu": {"dram_efficiency": 0}}},
            "dram_efficiency: input should be greater than or equal to 0.001",
        ),
        ({"compute": ..., "backends": {"cpu": {"dram_efficiency": math.nan}}}, "dram_efficiency"),
        ({"compute": ..., "backends": {"cpu": {"gemv": {"q4": 16}}}}, "gemv.q4: 16 has no unit"),
        ({"compute": ..., "backends": {"cpu": {"gemv": {"q4": "0 B/s"}}}}, "gemv.q4 is 0"),
        ({"energy": {"dram": "40 pJ/B"}}, "energy.flash is missing"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"dram": "8 GB"}, "dram"),
        ({"flash": None}, "flash"),
        ({"extends": ["paper-a18"]}, "extends"),
        ({"sources": {"dram.bandwith": SOURCE}}, "'dram.bandwith', which is no number"),
        ({"sources": {"name": SOURCE}}, "'name', which is no number"),
        ({"sources": {"energy.dram": SOURCE}}, "'energy.dram', which is no number"),
        ({"sources": {"dram": {"kind": "guess", "from": "me and my friends"}}}, "'vendor'"),
        ({"sources": {"dram": {"kind": "vendor"}}}, "from is missing"),
        ({"sources": {"dram": "a paper"}}, "sources.dram"),
    ],
    ids=str,
)
def test_refused_with_the_key_and_the_reason(changes: Mapping[str, Any], said: str) -> None:
    assert said in refusal(changed(**changes))


def test_a_section_may_be_sourced_as_a_whole() -> None:
    profile = load_profile(changed(sources={"dram": SOURCE, "flash.bandwidth": SOURCE}))
    assert profile.source("dram.capacity") == profile.sources["dram"]
    assert profile.source("flash.bandwidth") == profile.sources["flash.bandwidth"]
    assert profile.source("flash.lanes") is None


def test_the_one_compute_rate_may_have_a_source() -> None:
    profile = load_profile(changed(sources={"compute": SOURCE}))
    found = profile.source("backends.default.compute")
    assert found is not None
    assert found.kind == "measured"


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = refusal("snapdragon9")
    assert "'snapdragon9'" in message
    assert all(name in message for name in profile_names())


# Extends ------------------------------------------------------------------------------------------


def write(path: Path, data: Mapping[str, Any]) -> str:
    path.write_text(yaml.safe_dump(dict(data)))
    return str(path)


def test_extends_merges_sections_and_replaces_lists_and_numbers(tmp_path: Path) -> None:
    base = changed(flash={"reads": POINTS, "lanes": 4}, sources={"dram": SOURCE})
    change = {
        "extends": write(tmp_path / "base.yaml", base),
        "name": "child",
        "dram": {"available": "2 GB"},
        "flash": {"reads": POINTS[:1]},
        "sources": {"flash.reads": SOURCE},
    }
    child = load_profile(write(tmp_path / "child.yaml", change))
    assert (child.name, child.dram.capacity, child.dram.available) == ("child", 8e9, 2e9)
    assert (child.flash.lanes, len(child.flash.reads)) == (4, 1)
    stated = {key: source.origin for key, source in child.sources.items()}
    assert stated == {
        "dram": SOURCE["from"],
        "dram.capacity": SOURCE["from"],
        "dram.bandwidth": SOURCE["from"],
        "dram.available": "stated by child.yaml",
        "flash.reads": SOURCE["from"],
        "flash.lanes": "stated by base.yaml",
        "backends.default.compute": "stated by base.yaml",
    }
    in_python = load_profile(change)
    origin = in_python.source("dram.available")
    assert origin is not None
    assert origin.origin == "stated by profile"


def test_a_number_that_a_child_changes_does_not_keep_its_parents_source(tmp_path: Path) -> None:
    change = {
        "extends": "oneplus15r",
        "dram": {"bandwidth": "50 GB/s", "capacity": "12 GB", "available": "7 GB"},
        "flash": {"bandwidth": "1 GB/s"},
        "backends": {"cpu": {"gemv": {"q4_k": "20 GB/s"}, "compute": "1 TFLOP/s"}},
        "sources": {"backends.cpu.gemv": SOURCE},
    }
    parent = load_profile("oneplus15r")
    child = load_profile(write(tmp_path / "child.yaml", change))
    kinds = {}
    for key, _ in child.numbers():
        source = child.source(key)
        assert source is not None
        if source != parent.source(key):
            kinds[key] = (source.kind, source.origin)
    estimate = ("estimate", "stated by child.yaml")
    assert kinds == {
        "dram.bandwidth": estimate,
        "dram.available": estimate,
        "flash.bandwidth": estimate,
        "backends.cpu.compute": estimate,
        "backends.cpu.gemv.q4_k": (SOURCE["kind"], SOURCE["from"]),
    }


def test_a_source_that_a_child_adds_holds_for_what_came_without(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", SMALLEST)
    child = load_profile({"extends": base, "name": "child", "sources": {"flash": SOURCE}})
    for key in ("flash.bandwidth", "dram.bandwidth"):
        source = child.source(key)
        assert source is not None
        assert (source.origin == SOURCE["from"]) == (key == "flash.bandwidth")


def test_a_file_that_names_no_source_states_its_numbers_itself(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path / "phone.yaml", SMALLEST))
    origins = {key: profile.source(key) for key, _ in profile.numbers()}
    available = origins.pop("dram.available")
    assert available is not None
    assert (available.kind, available.origin) == ("estimate", "all of dram.capacity")
    for source in origins.values():
        assert source is not None
        assert (source.kind, source.origin) == ("estimate", "stated by phone.yaml")


def test_overrides_kept_by_an_earlier_version_are_read() -> None:
    old = {"kind": "given", "from": "-s flash.bandwidth=2GB/s"}
    source = load_profile(changed(sources={"flash.bandwidth": old})).source("flash.bandwidth")
    assert source is not None
    assert (source.kind, source.origin) == ("estimate", "stated by -s flash.bandwidth=2GB/s")


def test_all_wrong_keys_are_named() -> None:
    line = refusal(changed(dram={"capacity": 12}, flash={"bandwith": "1 GB/s"}, drm=1))
    for key in ("dram.capacity", "dram.bandwidth", "flash.bandwith", "drm"):
        assert key in line
    assert "more)" not in line


def test_a_base_may_extend_another_and_a_shipped_one(tmp_path: Path) -> None:
    middle = write(tmp_path / "middle.yaml", {"extends": "paper-a18", "name": "middle"})
    top = load_profile({"extends": middle, "name": "top", "flash": {"bandwidth": "2 GB/s"}})
    assert (top.dram.bandwidth, top.flash.bandwidth) == (60e9, 2e9)


def test_a_base_beside_the_file_is_found_from_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", SMALLEST)
    child = write(tmp_path / "child.yaml", {"extends": "base.yaml", "name": "child"})
    assert load_profile(child).dram.capacity == 8e9


def test_a_missing_base_is_named() -> None:
    assert "'snapdragon9'" in refusal(changed(extends="snapdragon9"))


def test_extending_in_a_circle_is_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(a, changed(extends=str(b)))
    write(b, changed(extends=str(a)))
    assert "circle" in refusal(a)
    write(a, changed(extends=str(a)))
    assert "circle" in refusal(a)


# Overrides ----------------------------------------------------------------------------------------


def test_overrides_change_single_numbers_and_state_who_gave_them() -> None:
    before = load_profile("snapdragon8")
    after = load_profile("snapdragon8", ("dram.available=3 GiB", "backends.cpu.per_layer=1ms"))
    assert (after.dram.available, after.backend("cpu")[1].per_layer) == (3 * 2**30, 1e-3)
    assert (after.dram.capacity, after.flash) == (before.dram.capacity, before.flash)
    for key in ("dram.available", "backends.cpu.per_layer"):
        source = after.source(key)
        assert source is not None
        assert source.kind == "estimate"
        assert source.origin.startswith(f"stated by -s {key}=")
    assert before == load_profile("snapdragon8")


def test_a_key_is_overridden_once() -> None:
    twice = ("dram.available=1GB", " dram.available = 2GB")
    with pytest.raises(
        ProfileError, match=r"-s dram\.available given twice \(1GB, 2GB\): one only"
    ):
        load_profile(SMALLEST, twice)
    once = load_profile(SMALLEST, twice[:1])
    assert load_profile(once, twice[1:]).dram.available == 2e9


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("flash.lanes=4", "lanes", 4),
        (" flash.lanes = 2 ", "lanes", 2),
        ("flash.align=4 KiB", "align", 4096),
    ],
)
def test_overrides_may_state_what_had_a_default(text: str, key: str, value: float) -> None:
    assert getattr(load_profile(SMALLEST, (text,)).flash, key) == value


def test_a_bandwidth_takes_the_place_of_the_measured_curve() -> None:
    profile = load_profile("snapdragon8", ("flash.bandwidth=2GB/s",))
    assert (profile.flash.bandwidth, profile.flash.reads) == (2e9, ())
    assert "flash.reads" not in profile.sources
    source = profile.source("flash.bandwidth")
    assert source is not None
    assert source.origin.startswith("stated by -s ")


@pytest.mark.parametrize("text", ["compute=1 TFLOP/s", "backends.default.compute=1 TFLOP/s"])
@pytest.mark.parametrize("given", [SMALLEST, "paper-a18"], ids=["smallest", "paper-a18"])
def test_the_one_compute_rate_can_be_overridden(given: Any, text: str) -> None:
    profile = load_profile(given, (text,))
    assert profile.backend()[1].compute == 1e12
    source = profile.source("backends.default.compute")
    assert source is not None
    assert source.origin.startswith("stated by -s ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flash.bandwidth=60", "has no unit"),
        ("flash.bandwidth=60 Gb/s", "counts bits"),
        ("flash.bandwith=2GB/s", "unknown key 'flash.bandwith'"),
        ("flash.bandwidth", "write key=value"),
        ("flash.bandwidth=", "write key=value"),
        ("=2GB/s", "write key=value"),
        ("dram=5 GB", "dram"),
        ("dram.available=900GB", "available is larger than capacity"),
        ("flash.lanes=four", "flash.lanes"),
        ("flash.lanes=²", "flash.lanes"),
        ("flash.lanes=-1", "flash.lanes"),
        ("backends.cpu.overlap_factor=x", "a number from 0 to 1"),
        ("backends.cpu.overlap_factor=2", "overlap_factor"),
        ("backends.cpu.overlap_factor=nan", "overlap_factor"),
        ("flash.reads=3", "flash.reads"),
        ("extends=paper-a18", "extends"),
        ("name=phone", "name"),
        ("a.b.c=1", "unknown key 'a'"),
        (".=1", "unknown key"),
    ],
)
def test_bad_overrides_are_refused(text: str, said: str) -> None:
    assert said in refusal("snapdragon8", (text,))


@pytest.mark.parametrize("sources", [None, [SOURCE], "a paper"], ids=["empty", "list", "text"])
def test_overriding_a_profile_with_senseless_sources_is_refused(sources: Any) -> None:
    assert "sources" in refusal(changed(sources=sources), ("flash.bandwidth=2GB/s",))


# Hostile files ------------------------------------------------------------------------------------

GOOD = yaml.safe_dump(SMALLEST)
BAD_YAML: dict[str, tuple[str | bytes, str]] = {
    "alias": (GOOD + "summary: &a text\nstaging: *a\n", "aliases are not allowed"),
    "code": (GOOD + "summary: !!python/object/apply:os.mkdir ['pwned']\n", "tag"),
    "own tag": (GOOD + "summary: !phone x\n", "tag"),
    "key twice": (GOOD + "name: again\n", "key 'name' stands there twice"),
    "inner key twice": (GOOD + "energy: {dram: 1 pJ/B, dram: 2 pJ/B}\n", "key 'dram' stands there"),
    "list as key": (GOOD + "? [a, b]\n: 1\n", "unhashable"),
    "number as key": (GOOD + "1: 2\n", "1"),
    "two documents": (GOOD + "---\nname: second\n", "another document"),
    "open bracket": (GOOD + "summary: [\n", "YAML"),
    "tab": (GOOD + "\t- x\n", "YAML"),
    "NUL": (GOOD + "summary: \x00\n", "YAML"),
    "no such date": (GOOD + "summary: 2001-13-45\n", "YAML"),
    "long number": (GOOD + "summary: " + "1" * 5000 + "\n", "YAML"),
    "no bool": (GOOD + "summary: !!bool maybe\n", "YAML"),
    "no timestamp": (GOOD + "summary: !!timestamp never\n", "YAML"),
    "no int": (GOOD + "summary: !!int ''\n", "YAML"),
    "no float": (GOOD + "summary: !!float ''\n", "YAML"),
    "no map": (GOOD + "summary: !!map x\n", "YAML"),
    "deep list": ("[" * 3000, "YAML"),
    "deep mapping": ("{a: " * 3000, "YAML"),
    "empty": ("", "expected a mapping"),
    "a list": ("- name: phone\n", "expected a mapping"),
    "a text": ("60 GB/s\n", "expected a mapping"),
    "too large": ("# " + "x" * 5_000_000, "larger than"),
    "binary": (b"\x80\x81\x82", "cannot be read"),
    "UTF-16": (GOOD.encode("utf-16"), "cannot be read"),
}


@pytest.mark.parametrize(("text", "said"), BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_that_is_no_plain_mapping_is_refused(
    text: str | bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "phone.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(file)
    assert str(file) in message
    assert said in message
    assert [path.name for path in tmp_path.iterdir()] == ["phone.yaml"]


@pytest.mark.parametrize("what", ["directory", "FIFO", "device"])
def test_what_is_no_regular_file_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    if what == "directory":
        path.mkdir()
    elif what == "FIFO":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    said = "a folder, no profile" if what == "directory" else "not a regular file"
    assert f"{path}: {said}" in refusal(path)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", "no/such/file.yaml"], ids=["long", "NUL", "gone"]
)
def test_names_no_file_can_have_are_refused(name: str) -> None:
    assert "give a file, or one of" in refusal(name)


# Dumps and schema ---------------------------------------------------------------------------------


@each_shipped
@pytest.mark.parametrize("left_out", ["none", "unset", "nothing"])
def test_a_dump_of_a_profile_loads_as_that_profile(name: str, left_out: str) -> None:
    profile = load_profile(name)
    dump = profile.model_dump(
        mode="json",
        by_alias=True,
        exclude_none=left_out == "none",
        exclude_unset=left_out == "unset",
    )
    assert load_profile(dump) == profile
    assert load_profile(profile) == profile


def test_a_profile_cannot_be_changed() -> None:
    profile = load_profile(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        profile.dram.capacity = 1.0  # type: ignore[misc]


def test_the_schema_names_the_measured_points() -> None:
    schema = profile_schema()
    flash, read = schema["$defs"]["Flash"], schema["$defs"]["Read"]
    assert flash["properties"]["reads"]["items"] == {"$ref": "#/$defs/Read"}
    assert set(read["required"]) == {"size", "lanes", "bandwidth"}
    assert "from" in schema["$defs"]["Source"]["properties"]


@each_shipped
def test_the_schema_allows_what_shipped_files_hold(name: str) -> None:
    schema = profile_schema()
    file = yaml.safe_load((files.shipped(FOLDER) / f"{name}.yaml").read_text())
    assert set(file) <= set(schema["properties"])


def test_the_schema_requires_no_more_than_the_smallest_profile_has() -> None:
    schema = profile_schema()
    assert {"required": sorted(SMALLEST)} in [
        {"required": sorted(choice["required"])} for choice in schema["anyOf"]
    ]
    assert set(schema["$defs"]["Dram"].get("required", ())) <= set(SMALLEST["dram"])


# Writing ------------------------------------------------------------------------------------------


@each_shipped
def test_every_shipped_flash_says_how_fast_it_writes_and_never_faster_than_it_reads(
    name: str,
) -> None:
    flash = load_profile(name).flash
    fastest = flash.bandwidth or max(read.bandwidth for read in flash.reads)
    assert flash.write is not None
    assert 0 < flash.write <= fastest


def test_a_flash_that_writes_nothing_needs_no_rate_but_none_of_0() -> None:
    assert load_profile(SMALLEST).flash.write is None
    assert load_profile(SMALLEST, ["flash.write=500 MB/s"]).flash.write == 5e8
    assert "write is 0: it must be positive" in refusal(SMALLEST, ("flash.write=0 B/s",))


def test_a_copy_of_a_profile_states_its_own_numbers() -> None:
    profile = load_profile("snapdragon8")
    stated = dict(profile.numbers())
    assert "flash.align" in stated
    copied = profile.model_copy(update={"flash": profile.flash.model_copy(update={"align": 512})})
    assert dict(copied.numbers())["flash.align"] != stated["flash.align"]
    assert dict(profile.numbers()) == stated
