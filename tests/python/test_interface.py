"""The functions of ``import dipsim``: their options, and everything that they take."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import dipsim
from dipsim import extras, keywords
from dipsim.errors import DipsimError
from dipsim.hardware import override_texts
from dipsim.option import Concern
from dipsim.settings import CURVE_CONCERNS, OPTIONS, Settings, concerning, make_settings
from tools.answers import READS, answers, arrays
from tools.devices import PHONE
from tools.paths import ROOT

CALLS = Path(__file__).with_name("calls.py")
WIDER: dict[str, Any] = {
    "gamma": str | float | Mapping[str, float] | None,
    "group_density": str | Mapping[str, float] | None,
    "method": str | dipsim.PruningMethod | None,
    "dram": str | float | None,
    "cache": str | float | None,
    "kv_budget": str | float | None,
    "kv_dram": str | float | None,
    "unit_bytes": str | float | None,
    "policy": str | dipsim.Policy | None,
    "static_from": keywords.File | None,
    "warm_from": keywords.File | None,
    "prefetch": keywords.File | None,
}
"""Options that take more than the settings hold, which is what is made of it."""
BUDGET: tuple[Concern, ...] = ("budget",)
FUNCTIONS: dict[str, tuple[Any, set[str]]] = {
    "simulate": (keywords.RunOptions, set()),
    "search": (keywords.SearchOptions, {"method", "prompt"}),
    "study": (keywords.StudyOptions, {"method", "policy", "prompt"}),
    "compare": (
        keywords.SweepOptions,
        {"method", "policy", "density", "prompt", *concerning("budget")},
    ),
    "mrc": (keywords.CurveOptions, set(OPTIONS) - set(concerning(*CURVE_CONCERNS))),
}
"""Functions with options: the options, and those of the settings that they lack."""


# Options -----------------------------------------------------------------------------------------


def test_every_option_has_the_type_that_the_settings_declare() -> None:
    declared = get_type_hints(Settings)
    typed = get_type_hints(keywords.RunOptions)
    assert set(typed) - set(declared) == {"model", "overrides"}
    for name in OPTIONS:
        assert typed[name] == WIDER.get(name, declared[name] | None), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_the_options_that_it_can_use(name: str) -> None:
    kind, lacking = FUNCTIONS[name]
    assert set(OPTIONS) - set(get_type_hints(kind)) == lacking


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_and_signature_list_the_options(name: str) -> None:
    function, (kind, _) = getattr(dipsim, name), FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    for option, hint in get_type_hints(kind).items():
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].annotation == hint
        assert f"\n    {option}: " in function.__doc__
        if option in OPTIONS and OPTIONS[option].default not in (None, {}):
            assert parameters[option].default == OPTIONS[option].default
    assert all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    assert max(map(len, function.__doc__.splitlines())) <= 100


@pytest.mark.parametrize("name", [n for n in dipsim.__all__ if n[0].islower()])
def test_a_function_says_what_each_argument_is(name: str) -> None:
    function = getattr(dipsim, name)
    parameters = inspect.signature(function).parameters
    documentation = inspect.getdoc(function) or ""
    assert "Raises:" in documentation
    if len(parameters) > 1:
        missing = [one for one in parameters if f"    {one}: " not in documentation]
        assert missing == []


@pytest.mark.slow
def test_a_type_checker_knows_good_calls_from_bad_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--follow-imports", "silent", "--cache-dir", str(tmp_path), str(CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    reported = {
        int(line.split(":")[1])
        for line in done.stdout.splitlines()
        if CALLS.name in line and ": error:" in line
    }
    lines = CALLS.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert reported == wrong, done.stdout + done.stderr


# Numbers -----------------------------------------------------------------------------------------

SIZES = (3_500_000_000, 3.5e9, np.int64(3_500_000_000), np.float64(3.5e9), "3.5 GB", "3.5GB")


@pytest.mark.parametrize("name", ["dram", "cache"])
@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_a_number_is_one_of_bytes(name: str, size: Any) -> None:
    settings = make_settings({name: size})
    known = settings.dram_bytes(None) if name == "dram" else settings.cache_bytes()
    assert known == 3.5e9


@pytest.mark.parametrize("size", [1, 1234567.875, 2**40 + 1, 0, 1e15])
def test_no_bit_of_a_number_is_lost(size: float) -> None:
    assert make_settings({"cache": size}).cache_bytes() == size


@pytest.mark.parametrize("name", ["dram", "cache"])
@pytest.mark.parametrize(
    "size",
    [-1, float("nan"), float("inf"), 0.5, 1e16, True, np.True_, np.float32("nan"), [1], "5", "GB"],
    ids=repr,
)
def test_what_is_no_size_is_refused_in_one_line(name: str, size: Any) -> None:
    with pytest.raises(DipsimError) as problem:
        dipsim.simulate(arrays(), READS, **{name: size})  # type: ignore[arg-type]
    assert f"--{name}" in str(problem.value)
    assert "\n" not in str(problem.value)


NUMBERS = [name for name, option in OPTIONS.items() if option.kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, np.False_, float("nan")], ids=repr)
def test_no_option_takes_a_truth_value_or_nan(name: str, value: Any) -> None:
    method = {"recall": "predictor"}.get(name)
    with pytest.raises(DipsimError) as problem:
        dipsim.simulate(arrays(), READS, method=method, **{name: value})  # type: ignore[arg-type]
    assert name.replace("_", "-") in str(problem.value).replace(" ", "-")
    assert "\n" not in str(problem.value)


def test_numbers_of_numpy_are_numbers() -> None:
    plain = make_settings({"warmup": 3, "density": 0.5, "gamma": 0.25})
    same = {"warmup": np.int64(3), "density": np.float32(0.5), "gamma": np.float64(0.25)}
    assert make_settings(same) == plain
    assert make_settings({"group_density": {"glu": np.float32(0.5)}}).group_density == {"glu": 0.5}


@pytest.mark.parametrize("name", ["gamma", "group_density"])
def test_pairs_are_a_mapping_or_the_text_of_the_command_line(name: str) -> None:
    pairs = {"mlp_input": 0.5, "glu": 0.25}
    assert getattr(make_settings({name: "mlp_input=.5, glu=.25"}), name) == pairs
    assert getattr(make_settings({name: pairs}), name) == pairs
    for wrong in ("glu", "glu=.5,glu=.6", "glu=x", ""):
        with pytest.raises(DipsimError, match=f"--{name.replace('_', '-')} .*: write name=number"):
            make_settings({name: wrong})


def test_a_gamma_alone_holds_for_every_group() -> None:
    assert make_settings({"gamma": ".5"}) == make_settings({"gamma": 0.5})
    with pytest.raises(DipsimError, match="--group-density"):
        make_settings({"group_density": 0.5})


def test_ranges_are_texts() -> None:
    for call in (
        lambda: dipsim.simulate(arrays(), READS, tokens=(0, 8)),  # type: ignore[arg-type]
        lambda: dipsim.inspect(arrays(), tokens=(0, 8)),  # type: ignore[arg-type]
    ):
        with pytest.raises(DipsimError, match=r"--tokens \(0, 8\): write the text 'A:B'"):
            call()


def test_texts_of_several_values_are_comma_lists() -> None:
    listed = dipsim.compare(
        arrays(), READS, "lru,opt", methods="dip,glu", density=".5,.7", cache_fraction=".5,.9"
    )
    given = dipsim.compare(
        arrays(),
        READS,
        ["lru", "opt"],
        methods=["dip", "glu"],
        density=[0.5, 0.7],
        cache_fraction=[0.5, 0.9],
    )
    assert listed.to_dict() == given.to_dict()
    curves = dipsim.mrc(arrays(), "lru,lfu-decay:half_life=4", ".5,.9").to_dict()
    assert curves == dipsim.mrc(arrays(), ["lru", "lfu-decay:half_life=4"], [0.5, 0.9]).to_dict()
    one = dipsim.mrc(arrays(), "lru", 0.5).to_dict()
    assert one == dipsim.mrc(arrays(), ["lru"], [0.5]).to_dict()
    grid = dipsim.search(arrays(), READS, axes="dram, iops", points=2)
    assert grid.to_dict() == answers()["search axes"].to_dict()
    of_study = dipsim.study("policies", arrays(), READS, policies="lru,opt", methods="glu", **HALF)  # type: ignore[arg-type]
    assert {cell.place["policy"] for cell in of_study.cells} == {"lru", "opt"}


@pytest.mark.parametrize(
    ("axes", "quoted"), [("dram", "dram"), (("dram",), "dram"), ("a,b,c", "a,b,c"), ([], "")]
)
def test_axes_that_are_not_two_are_quoted_as_they_were_given(axes: Any, quoted: str) -> None:
    with pytest.raises(DipsimError, match=f"^--axes {quoted}: name two"):
        dipsim.search(arrays(), READS, axes=axes)


def test_overrides_are_texts_or_a_mapping() -> None:
    texts = ("flash.bandwidth=2GB/s", "dram.available=1GB")
    mapping = {"flash.bandwidth": "2GB/s", "dram.available": "1GB"}
    assert override_texts(mapping) == override_texts(list(texts)) == texts
    assert override_texts("dram.available=1GB") == ("dram.available=1GB",)
    device = dipsim.simulate(arrays(), PHONE, overrides=mapping, cache_fraction=0.5).run.device
    assert (device.flash.bandwidth, device.dram.available) == (2e9, 1e9)
    for wrong in (5, [1], np.ones(2)):
        with pytest.raises(DipsimError, match="override"):
            dipsim.load_profile(PHONE, wrong)  # type: ignore[arg-type]


# What is taken -----------------------------------------------------------------------------------

HALF = {"cache_fraction": 0.5}


def with_trace(trace: Any, out: Path) -> list[Callable[[], Any]]:
    """Return a call of every function that takes a trace."""
    return [
        lambda: dipsim.load_trace(trace),
        lambda: dipsim.simulate(trace, READS, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.compare(trace, READS, policies=["lru"], **HALF),
        lambda: dipsim.mrc(trace, ["lru"], [0.5]),
        lambda: dipsim.search(trace, READS, target_rate=1.0),
        lambda: dipsim.study("layers", trace, READS, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.inspect(trace),
        lambda: dipsim.export(trace, out),
        lambda: dipsim.synth(out, trace, tokens=4),
    ]


def with_profile(profile: Any) -> list[Callable[[], Any]]:
    """Return a call of every function that takes a profile."""
    return [
        lambda: dipsim.load_profile(profile),
        lambda: dipsim.simulate(arrays(), profile, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.search(arrays(), profile, target_rate=1.0),
        lambda: dipsim.study("layers", arrays(), profile, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.compare(arrays(), profile, policies=["lru"], **HALF),
    ]


def with_model(model: Any, out: Path, source: Path) -> list[Callable[[], Any]]:
    """Return a call of every function that takes a model."""
    return [
        lambda: dipsim.load_model(model),
        lambda: dipsim.simulate(arrays(), READS, model=model, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.search(arrays(), READS, target_rate=1.0, model=model),
        lambda: dipsim.study("layers", arrays(), READS, model=model, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.synth(out, arrays(), model=model, tokens=4),
        lambda: dipsim.import_(source, out, model=model),
    ]


def with_policy(policy: Any) -> list[Callable[[], Any]]:
    """Return a call of every function that takes a policy."""
    return [
        lambda: dipsim.load_policy(policy),
        lambda: dipsim.simulate(arrays(), READS, policy=policy, **HALF),  # type: ignore[arg-type]
        lambda: dipsim.mrc(arrays(), [policy], [0.5]),
        lambda: dipsim.search(arrays(), READS, target_rate=1.0, policy=policy),
        lambda: dipsim.compare(arrays(), READS, policies=[policy], **HALF),
    ]


def with_out(out: Any, source: Path) -> list[Callable[[], Any]]:
    """Return a call of every function that writes."""
    return [
        lambda: dipsim.save_trace(out, arrays()),
        lambda: dipsim.export(arrays(), out),
        lambda: dipsim.synth(out, arrays(), tokens=4),
        lambda: dipsim.import_(source, out),
        lambda: dipsim.TraceWriter(out),
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dipsim.save_trace(tmp_path / "t.npz", arrays())
    return tmp_path / "t.npz"


def test_a_trace_is_a_path_arrays_or_a_trace(saved: Path) -> None:
    for trace in (str(saved), saved, arrays(), dipsim.load_trace(saved)):
        for call in with_trace(trace, saved.with_name("out.npz")):
            call()


def test_a_profile_is_a_path_a_mapping_or_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text("{name: p, extends: paper-a18}")
    for profile in ("paper-a18", str(path), path, READS, dipsim.load_profile(READS)):
        for call in with_profile(profile):
            call()


def test_a_model_is_a_path_a_mapping_or_a_model(saved: Path) -> None:
    geometry, out = arrays()["meta"]["model"], saved.with_name("out.npz")
    path = saved.with_name("model.yaml")
    path.write_text("\n".join(f"{key}: {value}" for key, value in geometry.items()))
    for model in (str(path), path, geometry, dipsim.load_model(geometry)):
        for call in with_model(model, out, saved):
            call()


def test_a_policy_is_a_name_a_file_or_a_policy(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from dipsim.policies.lru import LRU\n")
    for policy in (
        "lfu-decay:half_life=4",
        f"{tmp_path / 'mine.py'}:LRU",
        dipsim.load_policy("lru"),
    ):
        for call in with_policy(policy):
            call()


def test_what_is_written_is_named_by_a_text_or_a_path(saved: Path) -> None:
    for out in (saved.with_name("a.npz"), str(saved.with_name("b.npz"))):
        for call in with_out(out, saved):
            call()
            assert Path(out).exists() or isinstance(call(), dipsim.TraceWriter)


WRONG = (np.ones((3, 2, 4), np.float32), 5, 2.5, b"bytes", object())


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_anything_else_is_refused_in_one_line(wrong: Any, saved: Path) -> None:
    out = saved.with_name("out.npz")
    calls = [*with_trace(wrong, out), *with_profile(wrong), *with_model(wrong, out, saved)]
    calls += [*with_policy(wrong), *with_out(wrong, saved), lambda: dipsim.import_(wrong, out)]
    calls += [lambda: dipsim.record(wrong, out, text="t")]
    for call in calls:
        with pytest.raises(DipsimError) as problem:
            call()
        assert "give" in str(problem.value)
        assert "\n" not in str(problem.value)
    assert not out.exists()


def test_a_list_of_arrays_is_no_trace() -> None:
    with pytest.raises(DipsimError, match="mapping of arrays"):
        dipsim.load_trace([np.ones((3, 2, 4))])  # type: ignore[arg-type]


def test_recording_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DipsimError, match=r"pip install 'dipsim\[torch\]'"):
        dipsim.record("folder", "t.npz", text="t.txt")


def test_what_was_changed_is_said_by_the_trace(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", glu=-np.ones((3, 2, 4), np.float32))
    trace = dipsim.import_(tmp_path / "a.npz", tmp_path / "t.npz")
    assert trace.warnings == ("took absolute values of glu",)
    part = dipsim.export(arrays(), tmp_path / "u.npz", layers="0:1")
    assert "meta.model is left out" in part.warnings[0]
