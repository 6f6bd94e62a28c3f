"""Methods of a user's own: what they count, their contract, their parameters, and where they go.

The laws stand in `dipsim.analysis.method_laws`; here methods that keep them must be told nothing,
and each that breaks one what it is.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import PruningMethod, UnitGroup, load_trace, simulate
from dipsim.analysis.method_laws import LAWS, check_method
from dipsim.analysis.mrc import mrc
from dipsim.errors import MethodError
from dipsim.kernels.topk import top_k
from dipsim.methods import build_method, kth_largest, load_method, load_methods
from dipsim.repeat import make_config, read_config
from dipsim.result import Result
from dipsim.run import replay
from dipsim.settings import Settings
from dipsim.simulate import prepare
from tools.cli import Dipsim, done, refused
from tools.pruning import DIP_CA, GOOD, WRONG, fill_with_methods
from tools.three_layers import DEVICE, scores

BOTH = ("mlp_input", "glu")


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    """The folder, with methods in it."""
    fill_with_methods(folder)
    return folder


def named(files: Path, name: str) -> PruningMethod:
    """Return a method of one of the files."""
    method = load_method(f"{files}/{name}")
    assert isinstance(method, PruningMethod)
    return method


def largest(scores: Any, k: int, resident: Any, state: Any, keys: Any) -> None:
    keys[:] = scores


# What they count ----------------------------------------------------------------------------------


def same_counts(own: Result, builtin: Result) -> None:
    """Check that two results count the same, token by token, and come to the same figures."""
    for name in ("active", "hits", "kept", "reads", "moved", "flash_seconds"):
        one, other = getattr(own.traffic, name), getattr(builtin.traffic, name)
        np.testing.assert_array_equal(one, other, err_msg=name)
    for name in ("mass", "energy"):
        one, other = getattr(own.traffic, name), getattr(builtin.traffic, name)
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)
    assert own.tokens_per_second == builtin.tokens_per_second
    assert own.flash_bytes_per_token == builtin.flash_bytes_per_token
    assert own.traffic.hits.sum() > 0


GAMMAS = [(0.5, 0.2), (1, 1), (0, 0), (0.3, 0.7)]


@pytest.mark.parametrize("fraction", [0.4, 0.8])
@pytest.mark.parametrize(("into", "down"), GAMMAS)
def test_dip_ca_written_anew_counts_as_the_built_in_one(
    files: Path, into: float, down: float, fraction: float
) -> None:
    given: dict[str, Any] = {"density": 0.6, "cache_fraction": fraction, "tokens": "0:40"}
    text = f"{files}/dip_ca.py:method:mlp_input={into},glu={down}"
    gamma = {"mlp_input": into, "glu": down}
    same_counts(
        simulate("smollm2-chat", "snapdragon8", method=text, **given),
        simulate("smollm2-chat", "snapdragon8", method="dip-ca", gamma=gamma, **given),
    )


OTHERS: dict[str, dict[str, Any]] = {
    "a queue": {"policy": "arc", "cache_fraction": 0.5},
    "all layers in one cache": {"scope": "global", "cache_fraction": 0.6},
    "one unit at a time": {"access": "sequential", "cache_fraction": 0.6},
    "bytes": {"dram": "75%", "density": 0.5},
}


@pytest.mark.slow  # each compiles a loop that nothing stores
@pytest.mark.parametrize("name", OTHERS)
def test_so_it_does_with_other_caches(files: Path, name: str) -> None:
    own = simulate(
        "smollm2-chat", "snapdragon8", method=f"{files}/dip_ca.py:method", **OTHERS[name]
    )
    same_counts(own, simulate("smollm2-chat", "snapdragon8", method="dip-ca", **OTHERS[name]))


def test_the_file_is_short() -> None:
    assert len(DIP_CA.splitlines()) <= 25


@pytest.mark.slow  # compiles what nothing stores
@pytest.mark.parametrize("name", ["dip", "dip_too"])
def test_top_k_written_anew_counts_as_dip(files: Path, name: str) -> None:
    given: dict[str, Any] = {"cache_fraction": 0.6, "policy": "opt"}
    own = simulate("smollm2-chat", "snapdragon8", method=named(files, f"good.py:{name}"), **given)
    same_counts(own, simulate("smollm2-chat", "snapdragon8", method="dip", **given))
    assert "clairvoyant" in own.marks
    assert "open-loop" in own.marks


@pytest.mark.slow  # compiles what nothing stores
def test_prompts_that_are_cached_count_as_the_built_in_one(files: Path) -> None:
    trace = load_trace(scores(3, 24))
    given: dict[str, Any] = {"prefill": "cache", "reset": "sequence", "cache_fraction": 0.5}
    own = simulate(trace, DEVICE, method=named(files, "dip_ca.py:method"), **given)
    same_counts(own, simulate(trace, DEVICE, method="dip-ca", **given))


TURNS = ["good.py:turns_known", "good.py:turns_aware"]


@pytest.mark.slow  # compiles what nothing stores
@pytest.mark.parametrize("name", TURNS)
def test_a_state_lasts_until_the_cache_is_emptied(files: Path, name: str) -> None:
    # Five units, one kept: unit t % 5 in token t. With room for all, the first five tokens miss.
    glu = np.ones((14, 1, 5), np.float32)
    meta = {"signals": {"glu": {"unit_bytes": 4}}}
    sequence = np.repeat([0, 1], 7)
    trace = load_trace({"glu": glu, "sequence": sequence, "meta": meta})

    def hits(**options: Any) -> list[int]:
        found = simulate(
            trace,
            "snapdragon8",
            method=named(files, name),
            cache_fraction=1.0,
            group_density={"glu": 0.2},
            **options,
        )
        hit: list[int] = found.traffic.hits[:, 0, 0].tolist()
        return hit

    assert hits() == [0] * 5 + [1] * 9
    assert hits(reset="sequence") == ([0] * 5 + [1, 1]) * 2


@pytest.mark.slow  # compiles what nothing stores
@pytest.mark.parametrize("name", TURNS)
def test_a_prompt_that_streams_leaves_no_trace_in_the_state(files: Path, name: str) -> None:
    glu = np.ones((12, 1, 5), np.float32)
    meta = {"signals": {"glu": {"unit_bytes": 4}}}
    phase = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], np.uint8)
    trace = load_trace({"glu": glu, "phase": phase, "meta": meta})
    run = prepare(
        trace,
        "snapdragon8",
        method=named(files, name),
        cache_fraction=1.0,
        group_density={"glu": 0.2},
    )
    decode = replay(run).hits[phase == 1, 0, 0]
    assert decode.tolist() == [0] * 5 + [1] * 5  # units 0, 1, then 2, 3, 4, then again


@pytest.mark.slow  # compiles what nothing stores
def test_blocks_and_parts_of_a_trace_change_nothing(files: Path) -> None:
    """A state goes on from block to block, and a method sees no later token."""
    method = named(files, "good.py:lasting")
    given: dict[str, Any] = {"method": method, "cache_fraction": 0.6, "layers": "0:2"}
    whole = replay(prepare("smollm2-chat", "snapdragon8", **given))
    part = replay(prepare("smollm2-chat", "snapdragon8", tokens="0:30", **given))
    np.testing.assert_array_equal(whole.hits[:30], part.hits)
    assert len(whole.hits) > 30


@pytest.mark.slow  # compiles what nothing stores
def test_a_threshold_keeps_what_is_above_it(files: Path) -> None:
    trace = load_trace(scores(3, 24))
    own = simulate(trace, DEVICE, method=f"{files}/good.py:above:threshold=.9", cache_fraction=0.5)
    glu = trace.signals["glu"]
    rows = np.concatenate(list(glu.blocks(0, trace.tokens, 8, "values")))
    decode = trace.rows.decode
    expected = (rows > np.float32(0.9)).sum(axis=2)[decode]
    np.testing.assert_array_equal(own.traffic.active[decode, :, 0], expected)
    assert len(np.unique(expected)) > 3


# The contract -------------------------------------------------------------------------------------

KEEPS = ["dip", "dip_too", "glu", "above", "lasting", "slow_to_leave", "turns_known"]


@pytest.mark.slow  # each compiles a hook, which nothing stores
@pytest.mark.parametrize("name", KEEPS)
def test_a_method_that_keeps_the_contract_has_no_fault(files: Path, name: str) -> None:
    assert check_method(named(files, f"good.py:{name}")) == []


FAULTS = {
    "too_many": ["method too-many: select chose 53 units of mlp_input, where k is 52"],
    "too_few": ["method too-few: select chose 51 units of mlp_input, where k is 52"],
    "all_resident": ["all-resident", "where k is"],
    "future": ["reads the future", "token 19"],
    "layers": ["reads another layer"],
    "drawn": ["is not deterministic", "from token 0 on"],
    "outside": ["touches memory out of range", "method outside", "mlp_input"],
    "changing": ["rank changes its inputs"],
    "negative": ["negative", "rank wrote the key -1 for unit", "0 or more"],
    "not_a_number": ["rank wrote the key nan for unit 3 of mlp_input"],
    "odd": ["rank does not compile", "no_such_method"],
    "looks": ["looks at `resident`", "cache_aware=True"],
    "blind": ["is `cache_aware`", "cache_aware=False"],
    "steady": ["`varies`", "varies=False"],
    "silent": ["keeps no unit of mlp_input, whatever its scores"],
    "one_state": ["`state` returns the same array twice"],
    "counting": ["is not deterministic", "`state`"],
    "whole": ["whole", "float64 array of one dimension"],
    "stateless": ["stateless", "ZeroDivisionError"],
    "bad_split": ["split(0.75) returns (0.75, 2.0)", "mlp_input, glu"],
    "short_split": ["split(0.75) returns (0.75,)"],
}
COMPILED_LATE = ("too_many", "future", "drawn")


def fault(name: str) -> Any:
    """A method with a fault; those that compile a hook are slow, but for three."""
    quick = (*COMPILED_LATE, "changing", "odd", "one_state", "counting", "whole", "stateless")
    slow = name not in (*quick, "bad_split", "short_split")
    return pytest.param(name, marks=pytest.mark.slow if slow else [])


@pytest.mark.slow  # compiles what nothing stores
@pytest.mark.parametrize("name", [fault(name) for name in FAULTS])
def test_a_method_that_breaks_the_contract_is_told_how(files: Path, name: str) -> None:
    (found,) = check_method(named(files, f"wrong.py:{name}"))
    assert [text for text in FAULTS[name] if text not in found] == []
    assert "\n" not in found


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a:b", "a=b", "a\n", 3])
def test_names_that_no_list_could_hold_are_refused(name: Any) -> None:
    with pytest.raises(MethodError, match="a name has no blank, comma, colon"):
        PruningMethod(name, ("glu",), rank=lambda *given: None)


def test_every_wrong_method_is_tested() -> None:
    names = [line.partition(" = ")[0] for line in WRONG.splitlines() if " = method(" in line]
    assert names == list(FAULTS)


@pytest.mark.parametrize(
    ("name", "aware", "said"),
    [
        ("too_many", "cache_aware=False", "where k is"),
        ("negative", "cache_aware=True", "0 or more"),
        ("outside", "cache_aware=True", "IndexError"),
    ],
)
@pytest.mark.slow
def test_a_run_that_meets_a_fault_says_it_in_a_line(
    files: Path, dipsim: Dipsim, name: str, aware: str, said: str
) -> None:
    text = WRONG + f"\nfrom dataclasses import replace\nagain = replace({name}, {aware})\n"
    (files / "again.py").write_text(text)
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.5 --method again.py:again"
    refused(dipsim(line), "method ", said)


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({}, "either rank or select"),
        ({"rank": largest, "select": largest}, "either rank or select"),
        ({"rank": largest, "varies": True}, "varies with select only"),
        ({"rank": largest, "groups": ()}, "give groups"),
        ({"rank": largest, "groups": ("glu", "glu")}, "two groups"),
        ({"rank": largest, "groups": ("glu", "gate")}, "matrix down belongs to two groups"),
        ({"rank": largest, "groups": ("expert",)}, "the signal is one of"),
    ],
)
def test_hooks_and_groups_must_fit_together(hooks: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        PruningMethod(**{"name": "mine", "groups": BOTH, **hooks})


@pytest.mark.parametrize(
    ("signal", "matrices", "said"),
    [
        ("mlp_input", ("down",), "gate, up"),
        ("glu", ("q",), "gate, up, down"),
        ("glu", ("down", "down"), "each once"),
        ("x", (), "the signal is one of"),
    ],
)
def test_a_unit_group_spans_matrices_of_its_signal(signal: str, matrices: Any, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        UnitGroup(signal, matrices)


# Densities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "density", "kept", "dense"),
    [
        (BOTH, 0.6, [0.6, 0.6], ()),
        (("glu",), 0.8, [0.4], ("gate", "up")),  # (2 + .4) / 3
        (("mlp_input",), 0.8, [0.7], ("down",)),  # (1 + 2 * .7) / 3
        ((UnitGroup("glu", ("gate", "up", "down")),), 0.3, [0.3], ()),
    ],
)
def test_groups_share_what_density_leaves(
    groups: Any, density: float, kept: list[float], dense: tuple[str, ...]
) -> None:
    own = PruningMethod("mine", groups, rank=largest)
    method = build_method(load_trace(scores(1, 8)), Settings(density=density), given=own)
    assert [group.density for group in method.groups] == pytest.approx(kept)
    assert method.density == pytest.approx(density)
    assert method.dense == dense


def test_a_density_below_the_dense_parts_is_refused() -> None:
    own = PruningMethod("mine", ("glu",), rank=largest)
    with pytest.raises(MethodError, match=r"mine cannot reach density 0.5.*0.667 or more"):
        build_method(load_trace(scores(1, 8)), Settings(density=0.5), given=own)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_kth_largest_is_where_top_k_cuts(k: int) -> None:
    rng = np.random.default_rng(k)
    for values in (rng.random(20), np.round(4 * rng.random(20)), np.zeros(20)):
        each = values.astype(np.float32)
        assert kth_largest(each, k) == np.sort(each)[len(each) - k]


@pytest.mark.parametrize("levels", [2, 5, 60, 10**6])
def test_tied_keys_are_chosen_by_score_then_id(levels: int) -> None:
    """Of few levels most keys are tied, and the search for the cut takes another way."""
    rng = np.random.default_rng(levels)
    for k in (1, 7, 100, 299, 300):
        keys = np.floor(levels * rng.random(300)).astype(np.float32)
        raw = np.round(3 * rng.random(300)).astype(np.float32)
        order = np.lexsort((np.arange(300), -raw, -keys))
        expected = np.zeros(320, np.bool_)
        expected[order[:k]] = True
        words = np.zeros(5, np.uint64)
        top_k(keys, raw, k, 1, words, np.empty(300, np.float32), np.empty(300, np.int64))
        np.testing.assert_array_equal(words, np.packbits(expected, bitorder="little").view("u8"))


# Names, parameters and options --------------------------------------------------------------------


def test_parameters_are_set_and_labelled(files: Path) -> None:
    method = named(files, "dip_ca.py:method:mlp_input=.25")
    assert method.parameters == {"mlp_input": 0.25, "glu": 0.2}
    assert method.label == "my-dip-ca:mlp_input=0.25"
    assert method.new_state(3, 1, 0, "mlp_input").tolist() == [0.25]
    assert named(files, "dip_ca.py:method").label == "my-dip-ca"


def test_an_unchanged_file_gives_the_same_object(files: Path) -> None:
    assert named(files, "dip_ca.py:method") is named(files, "dip_ca.py:method")
    (files / "other.py").write_text(DIP_CA)
    first = named(files, "other.py:method")
    (files / "other.py").write_text(DIP_CA.replace('"my-dip-ca"', '"another"'))
    assert (first.name, named(files, "other.py:method").name) == ("my-dip-ca", "another")


WRONG_NAMES = {
    "x": ["no method 'x'", "dip-ca", "or file.py:attribute"],
    "dip_ca.py": ["no method 'dip_ca.py'", "file.py:attribute"],
    "gone.py:method": ["no file gone.py"],
    "wrong.py:number": ["no dipsim.PruningMethod named 'number'"],
    "dip_ca.py:method:gama=1": ["my-dip-ca", "'gama'", "mlp_input, glu"],
    "dip_ca.py:method:glu=x": ["key=number"],
    "dip_ca.py:method:signal=1": ["no parameter 'signal'"],
    "dip-ca:gamma=.5": ["dip-ca has options"],
    "dip-ca:fast": ["write parameters as dip-ca:key=value"],
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_what_is_no_method_is_refused(files: Path, dipsim: Dipsim, name: str) -> None:
    line = f"run t.npz --profile snapdragon8 --cache-fraction 0.5 --method {name}"
    refused(dipsim(line), *WRONG_NAMES[name])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--gamma .5", "--gamma is for dip-ca, not for my-dip-ca"),
        ("--split equal", "not for my-dip-ca"),
        ("--masking blend", "not for my-dip-ca"),
        ("--selection threshold", "not for my-dip-ca"),
        ("--calibrate-tokens 0:4", "my-dip-ca has no thresholds"),
        ("--group-density glu=.5", "needs all groups of my-dip-ca: mlp_input, glu"),
        ("--density 2", "density 2"),
        ("--policy opt", "opt"),
        ("--io mmap", "my-dip-ca prefers what its cache holds"),
    ],
)
def test_options_of_others_are_refused(
    files: Path, dipsim: Dipsim, options: str, said: str
) -> None:
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.5 --method dip_ca.py:method"
    refused(dipsim(f"{line} {options}"), said)


def test_a_name_that_is_built_in_is_refused() -> None:
    with pytest.raises(MethodError, match="rename yours"):
        load_method(PruningMethod("dip-ca", BOTH, rank=largest))


def test_two_methods_of_one_name_are_refused(files: Path) -> None:
    text = f"{files}/dip_ca.py:method"
    assert load_methods(["dip", text, f"{text}:glu=1"])[0] == "dip"
    with pytest.raises(MethodError, match="two methods are called 'my-dip-ca'"):
        load_methods([text, "dip", text])


# Where they go ------------------------------------------------------------------------------------


def test_a_run_says_its_method_and_can_be_repeated(
    files: Path, dipsim: Dipsim, tmp_path: Path
) -> None:
    options = "--tokens 0:20 --cache-fraction 0.6 --density 0.6"
    text = "dip_ca.py:method:glu=.3"
    first = done(dipsim(f"run smollm2-chat --profile snapdragon8 {options} --method {text} --json"))
    assert first.json["config"]["settings"]["method"] == f"{files}/{text}"
    file = tmp_path / "result.json"
    file.write_text(first.out)
    refused(dipsim(f"run --config {file}"), "dip_ca.py:method", "--trust-files", "--method")
    for trust in ("--trust-files", "--trust-policy", f"--method {text}"):
        assert done(dipsim(f"run --config {file} {trust} --json")).out == first.out
    other = done(dipsim(f"run --config {file} --method dip --json")).json
    assert other["config"]["settings"]["method"] == "dip"
    assert "density" not in other["config"]["settings"]
    shown = done(dipsim(f"run smollm2-chat --profile snapdragon8 {options} --method {text}")).out
    assert "my-dip-ca:glu=0.3" in shown


def test_an_object_leaves_its_label_in_the_config(files: Path, tmp_path: Path) -> None:
    method = named(files, "dip_ca.py:method:glu=.5")
    run = prepare(load_trace(scores(3, 12)), DEVICE, method=method, cache_fraction=0.5)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(make_config(run)))
    assert read_config(str(file)).settings["method"] == "my-dip-ca:glu=0.5"


def test_the_program_checks_methods(files: Path, dipsim: Dipsim) -> None:
    found = dipsim("methods --check dip_ca.py:method --check wrong.py:changing")
    assert found.code == 2
    assert found.out == f"dip_ca.py:method: keeps the contract ({len(LAWS)} laws)\n"
    (line,) = found.err
    assert line.startswith("dipsim: wrong.py:changing: method changing: rank changes its inputs")
    refused(dipsim("methods --check dip"), "method dip is built in")
    assert "file.py:attribute" in done(dipsim("methods")).out


@pytest.mark.slow  # compiles what nothing stores
def test_curves_and_comparisons_take_them(files: Path, dipsim: Dipsim) -> None:
    line = "--cache-fraction 0.5 --policy lru --policy opt --json"
    own = done(dipsim(f"mrc smollm2-chat --method good.py:dip --tokens 0:30 {line}")).json
    usual = done(dipsim(f"mrc smollm2-chat --method dip --tokens 0:30 {line}")).json
    assert own["method"] == "my-dip"
    assert own["policies"] == usual["policies"]
    line = f"compare smollm2-chat --profile snapdragon8 --tokens 0:30 {line}"
    own = done(dipsim(f"{line} --method good.py:dip")).json
    usual = done(dipsim(f"{line} --method dip")).json
    rates = [[cell["hit_rate"] for cell in each["cells"]] for each in (own, usual)]
    assert rates[0] == rates[1]


@pytest.mark.slow  # compiles what nothing stores
def test_an_object_has_curves(files: Path) -> None:
    trace = load_trace(scores(3, 24))
    own = mrc(trace, cache_fraction=(0.5,), method=named(files, "good.py:dip"))
    usual = mrc(trace, cache_fraction=(0.5,), method="dip")
    assert own.rates("opt") == usual.rates("opt")


@pytest.mark.slow  # compiles what nothing stores
def test_a_study_takes_them(files: Path, dipsim: Dipsim, tmp_path: Path) -> None:
    line = "study density smollm2-chat --tokens 0:24 --layers 0:2 --method dip"
    table = tmp_path / "cells.csv"
    found = done(dipsim(f"{line} --method good.py:dip --json --csv {table}")).json
    rates: dict[str, list[float]] = {}
    for cell in found["cells"]:
        rates.setdefault(cell["method"], []).append(cell["tokens_per_second"])
    assert rates["dip"] == rates["good.py:dip"]
    rows = csv.DictReader(table.read_text().splitlines())
    assert {row["method"] for row in rows} == {"dip", "good.py:dip"}
    text = "good.py:dip"
    refused(dipsim(f"study density smollm2-chat --method {text} --method {text}"), "is there twice")
    refused(dipsim("study density smollm2-chat --method x"), "no method 'x'", "file.py:attribute")
    refused(dipsim(f"study density smollm2-chat --method {text} --gamma .5"), "--gamma is for")


@pytest.mark.slow  # compiles what nothing stores
def test_a_search_takes_them(files: Path, dipsim: Dipsim) -> None:
    line = "search smollm2-chat --profile snapdragon8 --cache-fraction 0.6 --tokens 0:24"
    line += " --layers 0:2 --max-loss .05"
    own = done(dipsim(f"{line} --method good.py:dip --json")).json
    usual = done(dipsim(f"{line} --method dip --json")).json
    assert own["best"]["method"] == "my-dip"
    assert own["best"]["tokens_per_second"] == usual["best"]["tokens_per_second"]
    shown = done(dipsim(f"{line} --method good.py:dip")).out
    assert "--method good.py:dip --density" in " ".join(shown.split())


def test_all_good_methods_run() -> None:
    names = [line.partition(" = ")[0] for line in GOOD.splitlines() if " = PruningMethod(" in line]
    tested = {*KEEPS, "oracle", "turns_aware"}
    assert set(names) == tested
