"""The contract of policies: `check_policy` on right and wrong ones, and the parameters of policies.

The laws themselves stand in `dipsim.analysis.policy_laws`; here every built-in policy must
keep them, and a policy that breaks one must be told which.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import Policy, simulate
from dipsim.analysis.policy_laws import LAWS, check_policy
from dipsim.errors import PolicyError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN, load_policy
from dipsim.repeat import make_config, read_config
from dipsim.run import Run
from dipsim.settings import Settings
from dipsim.simulate import prepare
from dipsim.trace import load_trace
from tools.cli import Dipsim, done, lines_of, program, refused
from tools.policies import PARAMETERS
from tools.replays import replay

FADING = '''"""Evicts the coldest; a use counts half after half_life tokens."""
import numpy as np
from dipsim import Policy


def state(units, capacity, seed, half_life=8.0, floor=0):
    made = np.zeros(2 * units + 1)
    made[-1] = half_life
    return made


def touch(state, unit, token, hit):
    state[2 * unit] = rank(state, unit, token) + 1.0
    state[2 * unit + 1] = token


def rank(state, unit, token):
    return state[2 * unit] * 0.5 ** ((token - state[2 * unit + 1]) / state[-1])


policy = Policy("fading", state=state, touch=touch, rank=rank, atomic_only=True)
'''
RIGHT = '''"""A policy made of hooks that are compiled already."""
from dataclasses import replace
from dipsim.policies import BUILTIN

policy = replace(BUILTIN["slru"], name="mine")
'''
WRONG = '''"""Policies that break the contract before anything is compiled."""
import numpy as np
from dipsim import Policy

ONE = np.zeros(1000, np.int64)


def rank(state, unit, token):
    return state[unit]


def shared_state(units, capacity, seed):
    return ONE[:units]


def table(units, capacity, seed):
    return np.zeros((units, 2))


shared = Policy("shared", state=shared_state, rank=rank)
flat = Policy("flat", state=table, rank=rank)
'''


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    """The folder, with more policies in it."""
    (folder / "fading.py").write_text(FADING)
    (folder / "wrong.py").write_text(WRONG)
    (folder / "right.py").write_text(RIGHT)
    return folder


# Policies that keep the contract ------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_policy_keeps_the_contract(name: str) -> None:
    assert check_policy(BUILTIN[name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_so_it_does_with_other_parameters(name: str) -> None:
    policy = BUILTIN[name].with_parameters(PARAMETERS[name])
    assert policy != BUILTIN[name]
    assert check_policy(policy) == []


def test_every_parameter_is_set_once() -> None:
    known = {name: set(policy.parameters) for name, policy in BUILTIN.items() if policy.parameters}
    known["lirs"].remove("eager")  # against libCacheSim: test_libcachesim.py
    assert {name: set(given) for name, given in PARAMETERS.items()} == known


# Policies that break it ---------------------------------------------------------------------------


def note(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] = token + 1


def note_hits(state: Any, unit: int, token: int, hit: int) -> None:
    if hit:
        state[unit] = token + 1


def note_far_away(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit + 1] = token


def note_oddly(state: Any, unit: int, token: int, hit: int) -> None:
    state.no_such_method(unit)


def noted(state: Any, unit: int, token: int) -> Any:
    return state[unit]


def drawn(state: Any, unit: int, token: int) -> Any:
    return np.random.random()


def worn(state: Any, unit: int, token: int) -> Any:
    state[unit] += 1
    return state[unit]


def never_evictable(state: Any, unit: int, evictable: Any, token: int) -> int:
    for other in range(len(evictable)):
        if not evictable[other]:
            return other
    return -1


def forget(state: Any, unit: int, token: int) -> None:
    state[unit] = 0


def random_state(units: int, capacity: int, seed: int) -> Any:
    return np.random.default_rng().random(units)


def one_state(units: int, capacity: int, seed: int) -> Any:
    return STATE[:units]


def list_state(units: int, capacity: int, seed: int) -> Any:
    return [0] * units


def no_state(units: int, capacity: int, seed: int) -> Any:
    return np.zeros(units // (seed * 0))


STATE = np.zeros(1000, np.int64)
FAULTS: dict[str, tuple[Policy, list[str]]] = {
    "evicts what is in use": (
        Policy("careless", evict=never_evictable, insert=forget),
        ["evicts the wrong unit", "policy careless: evict returned unit", "evictable[v]"],
    ),
    "draws": (
        Policy("draws", touch=note, rank=drawn, atomic_only=True),
        ["is not deterministic", "token", "policies/random.py"],
    ),
    "out of range": (
        Policy("far", touch=note_far_away, rank=noted),
        ["touches memory out of range", "policy far"],
    ),
    "rank writes": (
        Policy("worn", touch=note, rank=worn, atomic_only=True),
        ["`rank` changes `state`"],
    ),
    "not blind": (
        Policy("peeks", touch=note_hits, rank=noted, blind=True, atomic_only=True),
        ["is `blind` and yet looks at `hit`"],
    ),
    "does not compile": (
        Policy("odd", touch=note_oddly, rank=noted),
        ["policy odd", "no_such_method"],
    ),
    "one array": (
        Policy("shared", state=one_state, touch=note, rank=noted),
        ["`state` returns the same array twice"],
    ),
    "random state": (
        Policy("dice", state=random_state, rank=noted),
        ["is not deterministic", "`state`"],
    ),
    "a list": (Policy("list", state=list_state, rank=noted), ["policy list", "int64 or float64"]),
    "state fails": (
        Policy("fails", state=no_state, rank=noted),
        ["policy fails", "ZeroDivisionError"],
    ),
}


@pytest.mark.slow  # each compiles a policy of its own, which nothing stores
@pytest.mark.parametrize("fault", FAULTS)
def test_a_policy_that_breaks_the_contract_is_told_how(fault: str) -> None:
    policy, said = FAULTS[fault]
    faults = check_policy(policy)
    assert len(faults) == 1
    assert [text for text in said if text not in faults[0]] == []
    assert "\n" not in faults[0]


@pytest.mark.parametrize(
    "hooks",
    [
        {},
        {"evict": never_evictable},
        {"insert": forget},
        {"rank": noted, "evict": never_evictable, "insert": forget},
        {"rank": noted, "admit": "always"},
        {"evict": never_evictable, "insert": forget, "admit": "ranked"},
    ],
    ids=lambda hooks: ", ".join(hooks),
)
def test_hooks_must_fit_together(hooks: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=r"policy mine: (give either rank|admit is)"):
        Policy("mine", **hooks)


# dipsim policies --check --------------------------------------------------------------------------


def test_the_program_says_that_all_is_well(dipsim: Dipsim, files: Path) -> None:
    found = done(dipsim("policies --check right.py:policy"))
    assert found.err == []
    assert found.out == f"right.py:policy: keeps the contract ({len(LAWS)} laws)\n"


@pytest.mark.parametrize(
    ("attribute", "said"), [("shared", "the same array twice"), ("flat", "of one dimension")]
)
def test_the_program_names_the_fault(
    dipsim: Dipsim, files: Path, attribute: str, said: str
) -> None:
    found = dipsim(f"policies --check wrong.py:{attribute}")
    refused(found, said)
    assert found.err[0].startswith(f"dipsim: wrong.py:{attribute}: ")


def test_one_wrong_policy_of_several_fails_the_check(dipsim: Dipsim, files: Path) -> None:
    found = dipsim("policies --check lru --check wrong.py:flat --check slru:segments=2")
    assert found.code == 2
    assert [line.partition(": keeps")[0] for line in found.out.splitlines()] == [
        "lru",
        "slru:segments=2",
    ]
    (line,) = found.err
    assert line.startswith("dipsim: wrong.py:flat: ")


def test_as_a_program_it_exits_with_two(files: Path) -> None:
    ran = program("policies", "--check", "wrong.py:shared", cwd=files)
    assert (ran.returncode, ran.stdout) == (2, "")
    errors = lines_of(ran.stderr)
    assert len(errors) == 1
    assert errors[0].startswith("dipsim: wrong.py:shared: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong.py:other", ["wrong.py", "'other'"]),
        ("broken.py:number", ["broken.py", "'number'"]),
        ("gone.py:policy", ["no file gone.py"]),
        ("syntax.py:policy", ["syntax.py", "SyntaxError"]),
        ("fading.py", ["'fading.py'", "file.py:attribute"]),
        ("fading.py:policy:half=3", ["fading", "'half'", "half_life"]),
        ("slru:segments=99", ["slru", "segments=99", "from 1 to 16"]),
    ],
)
def test_what_cannot_be_checked_is_refused(
    dipsim: Dipsim, files: Path, name: str, said: list[str]
) -> None:
    refused(dipsim(f"policies --check {name}"), *said)


# Parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        ("lfu-decay:half_life=8", {"half_life": 8.0}),
        ("lru-k:k=3", {"k": 3}),
        ("lru-k:k=3.0", {"k": 3}),
        ("lirs: hir = 0.3 , eager = 1", {"hir": 0.3, "stack": 0.0, "eager": 1}),
        ("2q:ghost=1e1", {"inner": 0.25, "ghost": 10.0}),
    ],
)
def test_parameters_are_set(given: str, parameters: dict[str, float]) -> None:
    policy = load_policy(given)
    assert policy.parameters == parameters
    assert [type(value) for value in policy.parameters.values()] == [
        type(value) for value in parameters.values()
    ]
    assert load_policy(policy.label) == policy


def test_labels_show_what_was_set() -> None:
    assert load_policy("lfu-decay:half_life=8").label == "lfu-decay:half_life=8"
    assert load_policy("2q:ghost=2,inner=.5").label == "2q:ghost=2,inner=0.5"
    assert BUILTIN["2q"].label == "2q"
    again = load_policy("2q:ghost=2").with_parameters({"ghost": 3})
    assert again.label == "2q:ghost=3"


def test_a_label_tells_close_values_apart() -> None:
    one, other = (load_policy(f"lfu-decay:half_life={value}") for value in (1000001, 1000002))
    assert one.label != other.label
    assert load_policy(one.label) == one


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_sequential_form_has_the_same_parameters(name: str) -> None:
    policy = BUILTIN[name].with_parameters(PARAMETERS[name])
    if policy.sequential is not None:
        assert policy.sequential.parameters == policy.parameters


NO_PARAMETERS = {
    "lru:x=1": ["lru", "'x'", "no parameters"],
    "lru-k:half_life=2": ["lru-k", "'half_life'", "its parameters are k"],
    "2q:inner=.5,outer=.5": ["2q", "'outer'", "inner, ghost"],
    "lfu-decay:ticks=2": ["lfu-decay", "'ticks'", "half_life"],
    "lfu-decay:units=2": ["lfu-decay", "'units'", "half_life"],
    "lru-k:k=1.5": ["k", "whole number", "1.5"],
    "lru-k:k=two": ["'lru-k:k=two'", "key=number"],
    "lru-k:k=": ["'lru-k:k='", "key=number"],
    "lru-k:k=nan": ["'lru-k:k=nan'", "key=number"],
    "lru-k:k=inf": ["'lru-k:k=inf'", "key=number"],
    "lru-k:k=2,k=3": ["'lru-k:k=2,k=3'", "given twice"],
    "lru-k:k=2,": ["'lru-k:k=2,'", "key=number"],
    "lru-k:k": ["'lru-k:k'", "lru-k:key=value"],
    "lru-k:": ["'lru-k:'", "lru-k:key=value"],
    "lru-kk:k=2": ["no policy 'lru-kk'", "lru-k"],
}


@pytest.mark.parametrize("given", NO_PARAMETERS)
def test_parameters_it_does_not_have_are_refused(given: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        load_policy(given)
    assert [text for text in NO_PARAMETERS[given] if text not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


OUT_OF_RANGE = [
    "lfu-decay:half_life=-1",
    "lfu-decay:half_life=0",
    "lru-k:k=0",
    "lru-k:k=65",
    "window:window=0",
    "lfru:power=-1",
    "lfru-sampled:sample=0",
    "lfru-sampled:power=9",
    "pinned:share=1.1",
    "lru-heat:uses=0",
    "lru-heat:window=0",
    "lru-throttled:misses=65",
    "lru-throttled:window=1e12",
    "slru:segments=0",
    "slru:segments=17",
    "2q:inner=1.1",
    "2q:ghost=-0.1",
    "clock:bits=0",
    "clock:bits=33",
    "s3fifo:small=2",
    "s3fifo:ghost=-1",
    "s3fifo:threshold=-1",
    "w-tinylfu:window=-0.5",
    "w-tinylfu:protected=1.5",
    "w-tinylfu:sample=0",
    "lirs:hir=1.01",
    "lirs:stack=-1",
    "lirs:eager=2",
    "lru-k:k=1e300",
    "window:window=1e300",
]


def test_every_parameter_has_a_range() -> None:
    tried = {
        (name, key) for at in OUT_OF_RANGE for name, _, key in [at.split("=")[0].partition(":")]
    }
    assert tried == {(name, key) for name, policy in BUILTIN.items() for key in policy.parameters}


@pytest.mark.parametrize("given", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused(given: str) -> None:
    name, key = re.fullmatch(r"(.*):(.*)=.*", given).groups()  # type: ignore[union-attr]
    with pytest.raises(PolicyError, match=rf"policy {name}: {key}=\S+: from \S+ to \S+"):
        load_policy(given).new_state(130, 60, 1)


@pytest.mark.parametrize(
    "given", ["lfu-decay:half_life=-1", "lru-k:k=1.5", "lru:x=1", "fading.py:policy:half=3"]
)
def test_a_run_with_wrong_parameters_is_refused(dipsim: Dipsim, files: Path, given: str) -> None:
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.6 --policy"
    refused(dipsim(f"{line} {given}"), re.findall(r"(\w+)=", given)[0])


@pytest.mark.parametrize("default", ["None", "'fast'"], ids=["none", "a text"])
def test_a_parameter_that_is_no_number_is_refused_in_a_sentence(
    tmp_path: Path, default: str
) -> None:
    file = tmp_path / "other.py"
    file.write_text(FADING.replace("floor=0", f"floor={default}"))
    with pytest.raises(PolicyError, match="floor"):
        load_policy(f"{file}:policy:floor=1")


HELD = "--tokens 0:40 --cache-fraction 0.85 --json"


def test_parameters_change_what_a_run_counts(dipsim: Dipsim) -> None:
    line = f"run smollm2-chat --profile snapdragon8 {HELD} --policy"
    hits = {
        name: done(dipsim(f"{line} {name}")).json["hits"]
        for name in ("slru", "slru:segments=4", "slru:segments=2")
    }
    assert hits["slru"] == hits["slru:segments=4"]
    assert hits["slru:segments=2"] != hits["slru"]


def test_a_result_with_parameters_repeats_its_run(dipsim: Dipsim, tmp_path: Path) -> None:
    line = f"run smollm2-chat --profile snapdragon8 {HELD} --policy slru:segments=2"
    first = done(dipsim(line))
    assert first.json["config"]["settings"]["policy"] == "slru:segments=2"
    file = tmp_path / "result.json"
    file.write_text(first.out)
    assert done(dipsim(f"run --config {file} --json")).out == first.out
    other = done(dipsim(f"run --config {file} --policy slru --json")).json
    assert other["hits"] != first.json["hits"]


def test_a_policy_given_as_an_object_leaves_its_parameters_in_the_config() -> None:
    glu = np.random.default_rng(3).random((8, 2, 40)) < 0.4
    trace = load_trace({"glu": glu, "meta": {"signals": {"glu": {"unit_bytes": 4096}}}})
    given = load_policy("slru:segments=2")
    result = simulate(trace, "snapdragon8", policy=given, cache_fraction=0.6)
    assert result.policy == "slru:segments=2"
    assert result.config["settings"]["policy"] == "slru:segments=2"


@pytest.mark.slow  # compiles policies that nothing stores
def test_a_users_policy_keeps_the_contract_and_takes_parameters(files: Path) -> None:
    text = f"{files / 'fading.py'}:policy"
    policy = load_policy(f"{text}:half_life=3")
    assert (policy.label, policy.parameters) == ("fading:half_life=3", {"half_life": 3, "floor": 0})
    assert check_policy(policy) == []
    sets = np.random.default_rng(5).random((80, 1, 100)) < np.linspace(0.05, 0.6, 100)
    trace = load_trace({"glu": sets})
    method = build_method(trace, Settings(method="recorded"))

    def hits(given: Policy) -> int:
        return int(replay(trace, method, given, np.array([[60]])).hits.sum())

    usual = policy.with_parameters({"half_life": 8})
    assert hits(usual) == hits(replace(usual, given=())) != hits(policy)


def allocating(state: Any, unit: int, token: int, hit: int) -> None:
    made = np.zeros(2, np.int64)
    made[1] = token
    state[unit] = made[1]


@pytest.mark.slow
def test_hooks_may_allocate() -> None:
    policy = Policy("allocates", touch=allocating, rank=noted)
    sets = np.random.default_rng(5).random((60, 1, 100)) < np.linspace(0.05, 0.6, 100)
    trace = load_trace({"glu": sets})
    method = build_method(trace, Settings(method="recorded"))
    found = [replay(trace, method, at, np.array([[60]])) for at in (policy, BUILTIN["lru"])]
    assert found[0].hits.tolist() == found[1].hits.tolist()
    assert found[0].hits.sum() > 0


def test_and_the_config_names_them_from_any_folder(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(run: Run) -> str:
        return json.dumps(make_config(run))

    monkeypatch.chdir(files)
    run = prepare("t.npz", "snapdragon8", policy="fading.py:policy:half_life=3", dram="90%")
    file = tmp_path / "config.json"
    file.write_text(saved(run))
    monkeypatch.chdir(tmp_path)
    kept = read_config(str(file))
    again = prepare(kept.open_trace(), kept.profile, **kept.settings_with({}, trust_files=True))
    assert again.policy.label == run.policy.label == "fading:half_life=3"
    assert saved(again) == file.read_text()
