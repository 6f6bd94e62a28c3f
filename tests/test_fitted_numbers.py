"""Profiles say which engine runs, why it is the default, and what a fitted number is worth."""

import json
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import ProfileError
from dipsim.hardware import Source, load_profile, profile_schema
from tools.cli import Dipsim, done

FITTED: dict[str, Any] = {
    "kind": "fitted",
    "from": "twelve models of one app",
    "spread": 0.3,
    "cases": ["etrn-1", "etrn-2"],
    "left_out": 0.12,
}
PHONE: dict[str, Any] = {
    "name": "phone",
    "default": "the only one that was measured",
    "dram": {"capacity": "8 GB", "bandwidth": "60 GB/s"},
    "flash": {"bandwidth": "1 GB/s"},
    "backends": {
        "cpu": {"engine": "ExecuTorch 1.0", "gemv": {"8da4w": "39 GB/s"}, "per_layer": "530 us"},
        "gpu": {"engine": "llama.cpp", "per_layer": "0.2 ms", "per_mask": "30 us"},
        "npu": {},
    },
    "sources": {
        "dram": {"kind": "vendor", "from": "data sheet"},
        "flash": {"kind": "measured", "from": "by us"},
        "backends": {"kind": "estimate", "from": "assumed"},
        "backends.cpu.gemv.8da4w": FITTED,
        "backends.cpu.per_layer": {**FITTED, "spread": 0.5},
    },
}


def changed(**fitted: Any) -> dict[str, Any]:
    sources = {**PHONE["sources"], "backends.cpu.gemv.8da4w": {**FITTED, **fitted}}
    return {**PHONE, "sources": sources}


def test_a_fit_comes_back_as_it_went_in(tmp_path: Path) -> None:
    profile = load_profile(PHONE)
    source = profile.source("backends.cpu.gemv.8da4w")
    assert source is not None
    assert (source.kind, source.spread, source.left_out) == ("fitted", 0.3, 0.12)
    assert source.cases == ("etrn-1", "etrn-2")
    assert profile.default == "the only one that was measured"
    assert [backend.engine for backend in profile.backends.values()] == [
        "ExecuTorch 1.0",
        "llama.cpp",
        None,
    ]
    dump = profile.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert load_profile(dump) == load_profile(profile) == profile
    path = tmp_path / "phone.yaml"
    path.write_text(json.dumps(dump))
    read = load_profile(path)
    assert [(key, value, read.source(key)) for key, value in read.numbers()] == [
        (key, value, profile.source(key)) for key, value in profile.numbers()
    ]
    own = {"kind": "measured", "from": "by us"}
    assert Source.model_validate(own).spread is None


def test_texts_are_no_numbers(tmp_path: Path) -> None:
    keys = [key for key, _ in load_profile(PHONE).numbers()]
    assert not [key for key in keys if "engine" in key or "default" in key]
    # In a file, where every number has a source, they need none.
    path = tmp_path / "phone.yaml"
    path.write_text(json.dumps({key: PHONE[key] for key in PHONE if key != "sources"}))
    assert not [key for key in load_profile(path).sources if "engine" in key or "default" in key]
    sources = {"backends.cpu.engine": {"kind": "vendor", "from": "its page"}}
    with pytest.raises(ProfileError, match=r"sources names 'backends\.cpu\.engine'"):
        load_profile({**PHONE, "sources": sources})


def test_what_extends_a_phone_may_name_another_engine(tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(json.dumps(PHONE))
    backend = {"engine": "mine", "per_layer": "1 ms"}
    own.write_text(json.dumps({"extends": str(base), "name": "o", "backends": {"cpu": backend}}))
    profile = load_profile(own)
    assert profile.backend("cpu")[1].engine == "mine"
    fitted, mine = (profile.source(f"backends.cpu.{key}") for key in ("gemv.8da4w", "per_layer"))
    assert fitted is not None
    assert mine is not None
    assert (fitted.kind, mine.kind, mine.spread) == ("fitted", "estimate", None)


@pytest.mark.parametrize(
    "fitted",
    [
        {"spread": -0.1},
        {"spread": 21},
        {"spread": "wide"},
        {"left_out": -1},
        {"left_out": float("nan")},
        {"left_out": 11},
        {"cases": "etrn-1"},
        {"cases": [1, 2]},
        {"kind": "guessed"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_what_is_no_fit_is_refused(fitted: dict[str, Any]) -> None:
    with pytest.raises(ProfileError) as refusal:
        load_profile(changed(**fitted))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("engine", ["", "x" * 81, 3, ["a"]], ids=str)
def test_what_is_no_engine_is_refused(engine: Any) -> None:
    with pytest.raises(ProfileError, match="engine"):
        load_profile({**PHONE, "backends": {"cpu": {"engine": engine}}, "sources": {}})


def test_the_command_line_shows_engines_and_fits(dipsim: Dipsim, tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text(json.dumps(PHONE))
    out = " ".join(done(dipsim(f"profiles {path}")).out.split())
    assert "backend cpu: ExecuTorch 1.0; the default: the only one that was measured" in out
    assert "backend gpu: llama.cpp" in out
    assert "backend npu" not in out
    assert "fitted" in out
    assert "factor of 1.3" in out
    assert "12%" in out
    assert "2 cases" in out
    found = done(dipsim(f"profiles {path} --json")).json
    assert found["sources"]["backends.cpu.gemv.8da4w"] == FITTED
    assert found["backends"]["cpu"]["engine"] == "ExecuTorch 1.0"
    assert found["default"] == PHONE["default"]


def test_the_schema_holds_them(dipsim: Dipsim) -> None:
    schema = done(dipsim("profiles --schema")).json
    assert schema == profile_schema()
    assert "default" in schema["properties"]
    parts = schema["$defs"]
    assert {"engine", "per_layer", "per_mask", "per_score"} <= set(parts["Backend"]["properties"])
    assert "sync" not in parts["Backend"]["properties"]
    assert {"spread", "cases", "left_out"} <= set(parts["Source"]["properties"])
    assert "fitted" in parts["Source"]["properties"]["kind"]["enum"]


def test_a_sync_of_earlier_versions_warns_python_once() -> None:
    backend = {"cpu": {"sync": "0.6 ms"}, "gpu": {"sync": "1 ms"}}
    source = {"kind": "measured", "from": "a page"}
    sources = {"backends.cpu.sync": source, "backends.gpu": source}
    old = {**PHONE, "backends": backend, "sources": sources}
    with pytest.warns(FutureWarning, match=r"backends\.cpu\.sync, backends\.gpu\.sync") as told:
        profile = load_profile(old)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert [each.per_layer for each in profile.backends.values()] == [0.6e-3, 1e-3]
    assert profile.source("backends.cpu.per_layer") == Source.model_validate(source)
    assert load_profile(profile) == profile  # says nothing
    with pytest.warns(FutureWarning):
        over = load_profile({**PHONE, "sources": {}}, {"backends.cpu.sync": "2 ms"})
    assert over.backend("cpu")[1].per_layer == 2e-3
