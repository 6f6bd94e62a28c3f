"""The script that makes the shipped profiles: what comes of facts, cases and other devices."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from device_numbers import Devices
from dipsim.errors import ProfileError
from dipsim.hardware import Profile, load_profile, profile_names
from dipsim.validate.cases import Case, Cases, load_cases
from dipsim.validate.devices import named
from dipsim.validate.evidence import errors_left_out, fit_anew
from dipsim.validate.fit import value_of, with_number
from make import HERE, main, make, read_facts

MODEL = {
    "layers": 10,
    "hidden": 2048,
    "intermediate": 8192,
    "heads": 16,
    "kv_heads": 4,
    "head_dim": 128,
    "vocab": 32000,
    "tied_embeddings": True,
}
GUESS = {"is": "1 GB/s", "estimate": "a guess of these tests"}
SHARED = {
    "numbers": {"launches": {"is": "0.2 ms", "estimate": "a guess that many share"}},
    "kits": {"core": {"per_layer": "launches"}},
}


def device(dram: str = "60 GB/s", **more: Any) -> dict[str, Any]:
    """Facts of a made-up device, whose sources are of this test."""
    return {
        "about": "A device of a test.",
        "chip": "a test chip",
        "summary": "a device",
        "dram": {
            "capacity": {"is": "8 GB", "vendor": "a data sheet"},
            "bandwidth": {"is": dram, "vendor": "a data sheet"},
        },
        "flash": {"bandwidth": {"is": "2 GB/s", "measured": "by these tests"}},
        "backends": {"cpu": {"engine": "runner", "kit": "core"}},
        **more,
    }


def run(name: str, value: float, **more: Any) -> tuple[Case, float]:
    """A decoded model of 1 GB on the made-up device ``phone``, and its rate."""
    stated: dict[str, Any] = {
        "id": name,
        "kind": "decode",
        "device": "phone",
        "profile": "phone",
        "backend": "cpu",
        "engine": "runner",
        "model": MODEL,
        "weight_format": "q4_0",
        "weight_bytes": 1e9,
    }
    return Case.model_validate({**stated, **more}), value


def made(
    devices: Mapping[str, Any], *runs: tuple[Case, float], **shared: Any
) -> dict[str, Profile]:
    """The profiles of made-up devices, by their names, as they load."""
    cases = Cases(tuple(case for case, _ in runs), {case.id: value for case, value in runs})
    texts = make({"shared": {**SHARED, **shared}, "devices": devices}, cases)
    return {name: load_profile(yaml.safe_load(text)) for name, text in texts.items()}


def rate(profile: Profile, stored: str = "q4_0") -> float:
    """The rate of a format, in GB/s."""
    return profile.backends["cpu"].gemv[stored] / 1e9


def source(profile: Profile, key: str) -> tuple[str, str]:
    """Kind and text of the source of a number."""
    stated = profile.source(key)
    assert stated is not None
    return stated.kind, stated.origin


# Shipped ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_profiles_are_what_facts_and_cases_make() -> None:
    texts = make(read_facts(), load_cases())
    assert sorted(texts) == profile_names()
    for name, text in texts.items():
        assert (HERE / f"{name}.yaml").read_text() == text, f"run hardware_profiles/make.py: {name}"
    assert main(["--check"]) == 0


def test_two_dozen_devices_are_shipped_and_their_backends_name_their_engines() -> None:
    profiles = [load_profile(name) for name in profile_names()]
    assert len(profiles) >= 24
    for profile in profiles:
        assert profile.name == "paper-a18" or all(b.engine for b in profile.backends.values())


def test_a_case_more_changes_the_fitted_number_of_its_backend_alone() -> None:
    facts = read_facts()
    boards = ("jetson-orin-nano", "jetson-agx-orin", "raspberrypi5")
    facts["devices"] = {name: facts["devices"][name] for name in boards}
    known = load_cases()
    before = make(facts, known)
    case = next(case for case in known.facts if case.id == "orinnano-1.5b")
    more = case.model_copy(update={"id": "made-up", "profile": "jetson-orin-nano"})
    measured = {**known.measured, "made-up": known.measured[case.id] / 1.2}
    after = make(facts, Cases((*known.facts, more), measured, known.models))
    assert [name for name in boards if before[name] != after[name]] == ["jetson-orin-nano"]
    old, new = (load_profile(yaml.safe_load(each["jetson-orin-nano"])) for each in (before, after))
    changed = {key for key, value in new.numbers() if dict(old.numbers())[key] != value}
    assert changed == {"backends.gpu.gemv.q4_k"}
    assert {key for key in new.sources if new.source(key) != old.source(key)} == changed
    slower = new.backends["gpu"].gemv["q4_k"] / old.backends["gpu"].gemv["q4_k"]
    assert 1 / 1.2 < slower < 0.95
    fitted = new.source("backends.gpu.gemv.q4_k")
    assert fitted is not None
    assert fitted.cases == ("orinnano-1.5b", "made-up")


# Fits ---------------------------------------------------------------------------------------------


def test_a_rate_is_what_a_case_leaves_beside_the_cost_of_layers() -> None:
    profile = made({"phone": device()}, run("a", 50))["phone"]
    by_hand = 1e9 / (1 / 50 - 11 * 0.2e-3)  # ten layers and the head
    assert rate(profile) == pytest.approx(by_hand / 1e9, rel=5e-3)
    kind, text = source(profile, "backends.cpu.gemv.q4_0")
    assert kind == "fitted"
    assert "50 tokens/s on phone" in text
    assert source(profile, "backends.cpu.per_layer")[0] == "estimate"


def test_between_two_cases_that_contradict_each_other_lies_their_geometric_mean() -> None:
    free = {"launches": {"is": "0 s", "estimate": "for free"}}
    shared = {"numbers": free}
    profile = made({"phone": device()}, run("a", 20), run("b", 45), **shared)["phone"]
    assert rate(profile) == pytest.approx(30, rel=5e-3)


def test_four_models_tell_the_cost_of_a_layer_and_a_prompt_the_operations() -> None:
    def took(layers: int, size: float) -> float:
        return size / 40e9 + (layers + 1) * 0.5e-3

    models = [(8, 0.5e9), (16, 1e9), (30, 2e9), (40, 1e9)]
    runs = [
        run(str(layers), 1 / took(layers, size), model={**MODEL, "layers": layers},
            weight_bytes=size)
        for layers, size in models
    ]  # fmt: skip
    three = made({"phone": device()}, *runs[:3])["phone"]
    assert source(three, "backends.cpu.per_layer") == ("estimate", "a guess that many share")
    profile = made({"phone": device()}, *runs, run("p", 100, kind="prefill", prompt=512))["phone"]
    cpu = profile.backends["cpu"]
    assert rate(profile) == pytest.approx(40, rel=0.01)
    assert cpu.per_layer == pytest.approx(0.5e-3, rel=0.01)
    assert source(profile, "backends.cpu.compute")[0] == "fitted"
    stated = profile.source("backends.cpu.gemv.q4_0")
    assert stated is not None
    assert stated.left_out == 0.0


def test_a_fit_does_not_depend_on_where_it_starts() -> None:
    profile = load_profile("snapdragon8gen3")
    fits = []
    for factor in (0.3, 1.0, 4.0):
        start = profile
        for key in ("gemv.8da4w", "gemv.bf16", "per_layer"):
            start = with_number(start, "cpu", key, factor * value_of(profile, "cpu", key))
        fitted, missing = fit_anew(start, "cpu")
        assert missing == ()
        fits.append([value_of(fitted, "cpu", key) for key in ("gemv.8da4w", "per_layer")])
    assert fits[0] == pytest.approx(fits[1], rel=1e-3)
    assert fits[2] == pytest.approx(fits[1], rel=1e-3)


def test_nothing_can_be_left_out_of_one_model() -> None:
    assert errors_left_out(load_profile("jetson-orin-nano"), "gpu") == {"gemv.q4_k": ()}
    assert len(errors_left_out(load_profile("m4"), "gpu")["gemv.q4_k"]) == 2


def test_formats_may_share_one_rate() -> None:
    facts = device(backends={"cpu": {"engine": "runner", "together": "few cases"}})
    runs = run("a", 30), run("b", 30, weight_format="q8_0")
    cpu = made({"phone": facts}, *runs)["phone"].backends["cpu"]
    assert (cpu.dram_efficiency, dict(cpu.gemv)) == (0.5, {})


# Which cases --------------------------------------------------------------------------------------


def test_a_case_counts_where_device_unit_and_engine_are_its_own() -> None:
    facts = device()
    facts["backends"]["cpu"]["without"] = {"old": "an old build"}
    others = [
        run("old", 10),
        run("elsewhere", 10, profile="another"),
        run("gpu", 10, backend="gpu"),
        run("engine", 10, engine="another"),
        run("kept", 10, not_predicted="eight threads"),
        run("unknown", 10, model="a model of nobody"),
    ]
    alone, among = (made({"phone": facts}, run("a", 50), *more)["phone"] for more in ((), others))
    assert among == alone
    unstated = Case.model_validate(
        run("b", 50)[0].model_dump(exclude_unset=True, exclude={"profile"})
    )
    assert rate(made({"phone": facts}, (unstated, 50))["phone"]) == rate(alone)


def test_cases_of_another_profile_may_be_those_that_name_a_device() -> None:
    later = device(cases={"profile": "phone", "device": "phone 2"})
    runs = run("a", 50), run("b", 25, device="my phone 2")
    profiles = made({"phone": device(), "later": later}, *runs)
    assert rate(profiles["later"]) == rate(made({"phone": device()}, run("b", 25))["phone"])
    assert rate(profiles["later"]) < rate(profiles["phone"])


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("M1 7-core GPU 8 GB, Metal", "m1"),
        ("M1 Max 32-core", "m1max"),
        ("M1 Ultra 128 GB", None),
        ("M1Max", "m1max"),
        ("M10", None),
        ("Mac mini M1", None),
        ("OnePlus 15R (UFS 4.x)", "oneplus15r"),
        ("OnePlus-15", None),
        ("Snapdragon 8 Gen 3", "snapdragon8gen3"),
        ("Snapdragon 8 Gen 1", None),
        ("", None),
    ],
)
def test_a_text_names_a_device_by_whole_words(text: str, profile: str | None) -> None:
    known = ["m1", "m1max", "oneplus15r", "snapdragon8", "snapdragon8gen3"]
    assert named(text, known) == profile


# Facts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("measured", 7), ("vendor", 7), ("estimate", None)])
def test_what_was_measured_goes_before_a_fit_and_an_estimate_after_it(
    kind: str, expected: float | None
) -> None:
    facts = device()
    facts["backends"]["cpu"]["gemv"] = {"q4_0": {"is": "7 GB/s", kind: "by these tests"}}
    assert rate(made({"phone": facts})["phone"]) == 7
    profile = made({"phone": facts}, run("a", 50))["phone"]
    assert rate(profile) == (expected or pytest.approx(56.2, abs=0.1))


def test_a_sister_has_rates_in_proportion_to_dram_and_all_of_it_assumed() -> None:
    facts = device()
    facts["backends"]["cpu"] |= {
        "gemv": {"q4_0": {"is": "30 GB/s", "measured": "by these tests"}},
        "compute": {"is": "1 TFLOP/s", "vendor": "a data sheet"},
        "cache_copy": {**GUESS, "spread": 1.5},
        "dram_efficiency": {"of": "q4_0"},
    }
    sister = {key: value for key, value in device("90 GB/s").items() if key != "flash"}
    sister |= {"like": "phone", "backends": {}}
    profile = made({"phone": facts, "sister": sister})["sister"]
    cpu = profile.backends["cpu"]
    assert (rate(profile), cpu.compute, cpu.per_layer) == (45, 1.5e12, 0.2e-3)
    assert (cpu.dram_efficiency, cpu.cache_copy, cpu.engine) == (0.5, 1e9, "runner")
    assert source(profile, "backends.cpu.gemv.q4_0") == (
        "estimate",
        "runner on a test chip, in proportion to DRAM, 90 / 60 GB/s",
    )
    assert source(profile, "flash.bandwidth") == (
        "estimate",
        "as of a test chip: by these tests; assumed here",
    )
    assert source(profile, "backends.cpu.per_layer") == ("estimate", "a guess that many share")
    spread = profile.source("backends.cpu.cache_copy")
    assert spread is not None
    assert spread.spread == 1.5
    assert source(profile, "dram.bandwidth") == ("vendor", "a data sheet")


def test_a_sister_may_lack_a_backend_borrow_another_and_have_her_own() -> None:
    facts = device()
    facts["backends"]["gpu"] = {
        "engine": "shader",
        "compute": {"is": "2 TFLOP/s", "vendor": "its page"},
    }
    sister = {
        **{key: value for key, value in device("30 GB/s").items() if key != "flash"},
        "like": "phone",
        "backends": {"cpu": None, "gpu": {"borrow": "none", "engine": "own"},
                     "gpu-2": {"borrow": "phone gpu"}},
    }  # fmt: skip
    profile = made({"phone": facts, "sister": sister}, run("a", 50))["sister"]
    assert [(name, b.engine, b.compute) for name, b in profile.backends.items()] == [
        ("gpu", "own", float("inf")),
        ("gpu-2", "shader", 1e12),
    ]


@pytest.mark.parametrize(
    "fact", ["no such name", {"is": "1 GB/s"}, {"measured": "by us"}, 7, {"guess": "x", "is": 1}]
)
def test_a_fact_without_a_value_or_a_kind_is_refused(fact: Any) -> None:
    facts = device()
    facts["backends"]["cpu"]["cache_copy"] = fact
    with pytest.raises(ProfileError, match=r"write \{is: VALUE, KIND: source\}"):
        made({"phone": facts})


def test_a_key_that_no_backend_has_is_refused() -> None:
    facts = device()
    facts["backends"]["cpu"]["per_leyer"] = GUESS
    with pytest.raises(ProfileError, match="per_leyer"):
        made({"phone": facts})


def test_facts_are_left_as_they_were() -> None:
    facts: dict[str, Any] = {"shared": SHARED, "devices": {"phone": device()}}
    before = copy.deepcopy(facts)
    Devices(facts, Cases((), {})).backends("phone")
    assert facts == before
