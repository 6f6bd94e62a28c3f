"""Predictions are what `run` prints; a case's model is left out of the fits that it rests on."""

import importlib
import math
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
import yaml

from dipsim.hardware import Profile, load_profile
from dipsim.validate import Cases, GroupResult, Judged, Validation, judge, load_cases
from dipsim.validate.cases import Case
from dipsim.validate.devices import shipped
from dipsim.validate.evidence import evidence_of
from dipsim.validate.fit import Evidence, Fitted, fitted_numbers, refit, terms_of, value_of
from dipsim.validate.predictors import Bytes, bytes_of, trivial
from dipsim.validate.runs import CaseRun, Prediction, run_of
from tools.cli import Dipsim, done
from tools.validating import case, geometry, streamed, written

judging, reading = (importlib.import_module(f"dipsim.validate.{n}") for n in ("judge", "evidence"))


def made_of(entry: dict[str, Any], device: Profile) -> CaseRun:
    """Return a case as a run."""
    made = run_of(Case.model_validate({k: v for k, v in entry.items() if k != "value"}), device, {})
    assert isinstance(made, CaseRun)
    return made


# One path -----------------------------------------------------------------------------------------

LITERT = "litert-s24u-gemma3-1b-int4"
SOME = ("rn-op12-qwen3-0.6b-bf16", LITERT, f"{LITERT}-prefill")


def printed_by_run(dipsim: Dipsim, folder: Path, judged: Judged, model: Any) -> Any:
    """Return what `run --json` prints for a dense case."""
    facts, file = judged.case, folder / "model.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", **model}))
    line = f"run --json --method dense --profile {judged.profile} --backend {judged.backend}"
    line += f" --bits {facts.bits!r} --weight-format {facts.weight_format}"
    line += "" if facts.prompt is None else f" --prompt {facts.prompt}"
    line += f" --depth {facts.depth}" if facts.depth else ""
    return done(dipsim(f"{line} --model", file)).json


def agrees(printed: Any, judged: Judged) -> None:
    """Check the figure of a case against what `run --json` printed."""
    scale, prints = {"s": 1e-3, "ms": 1.0}.get(judged.case.unit, 1e-3), judged.prints
    figure = printed["tokens_per_second"]
    if judged.case.kind == "prefill":
        seconds = printed["prefill"]["time_ms"] * scale
        figure = judged.case.prompt / seconds if judged.case.unit == "tokens/s" else seconds
    elif judged.case.kind == "ttft":
        figure = printed["ttft_ms"] * scale
    assert prints == pytest.approx(figure, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 300, "backend": "gpu", "weight_format": "q4_0"},
        {"profile": "raspberrypi5", "weight_format": "q8_0", "bits": 8.5},
        {"kind": "prefill", "prompt": 64},
        {"kind": "prefill", "prompt": 64, "unit": "ms"},
        {"kind": "ttft", "prompt": 64, "unit": "s"},
    ],
)
def test_a_case_is_what_run_prints(dipsim: Dipsim, tmp_path: Path, changes: dict[str, Any]) -> None:
    (judged,) = judge(load_cases(written(tmp_path, case(**changes)))).counted
    printed = printed_by_run(dipsim, tmp_path, judged, geometry())
    agrees(printed, judged)
    prediction = judged.prediction
    assert prediction is not None
    assert prediction.value == judged.prints  # no fit knows its model
    if judged.case.kind == "decode":
        interval = printed["tokens_per_second_interval"]
        assert prediction.low == pytest.approx(interval["low"], rel=1e-12)
        assert prediction.high == pytest.approx(interval["high"], rel=1e-12)
    assert prediction.low < prediction.value < prediction.high


@pytest.mark.parametrize("name", SOME)
def test_a_shipped_case_is_what_run_prints(dipsim: Dipsim, tmp_path: Path, name: str) -> None:
    facts = tuple(each for each in shipped().facts if each.id == name)
    known = Cases(facts, shipped().measured, shipped().models)
    (judged,) = judge(known).counted
    assert isinstance(judged.case.model, str)
    printed = printed_by_run(dipsim, tmp_path, judged, known.models[judged.case.model])
    agrees(printed, judged)
    assert judged.prediction is not None
    assert judged.prediction.value != judged.prints  # its model is left out


def test_ids_and_order_have_no_meaning(tmp_path: Path) -> None:
    chosen = [each for each in shipped().facts if each.kind in ("streaming", "prefill")][:6]
    chosen += [each for each in shipped().facts if each.id in SOME]
    first = judge(Cases(tuple(chosen), shipped().measured, shipped().models))
    renamed = {each.id: f"x{place}" for place, each in enumerate(chosen)}
    again = [each.model_copy(update={"id": renamed[each.id]}) for each in chosen]
    random.Random(5).shuffle(again)
    measured = {renamed[each.id]: shipped().measured[each.id] for each in chosen}
    second = {j.case.id: j for j in judge(Cases(tuple(again), measured, shipped().models)).cases}
    for judged in first.cases:
        other = second[renamed[judged.case.id]]
        assert (other.prediction, other.prints) == (judged.prediction, judged.prints)
        assert other.counted == judged.counted
        assert other.trivial == pytest.approx(judged.trivial)


def test_a_model_by_another_name_is_left_out_all_the_same(tmp_path: Path) -> None:
    (facts,) = (each for each in shipped().facts if each.id == SOME[0])
    stated = dict(shipped().models["qwen3-0.6b"])
    entry = case(model={**stated, "name": "mine"}, weight_format="bf16", bits=16)
    expected, renamed = (
        judge(known).counted[0]
        for known in (
            Cases((facts,), {facts.id: 1.0}, shipped().models),
            load_cases(written(tmp_path, entry)),
        )
    )
    assert renamed.prediction == expected.prediction
    assert renamed.prints == expected.prints


def test_what_was_measured_moves_no_prediction(tmp_path: Path) -> None:
    low, high = (
        judge(load_cases(written(tmp_path, case(value=value), streamed(value=value)))).cases
        for value in (1.0, 900.0)
    )
    for one, other in zip(low, high, strict=True):
        assert one.prediction == other.prediction


def test_a_streaming_case_has_the_bytes_it_states(tmp_path: Path) -> None:
    stated = {"overlap": "pipelined", "cache_bytes": 4e7, "flash_bytes": 1.55e7}
    made = made_of(streamed(**stated), load_profile("oneplus15r"))
    traffic, size = made.traffic, made.run.unit_bytes[0, 0]
    tokens = len(traffic.misses)
    assert size == 1e6
    assert traffic.misses.sum() * size / tokens == pytest.approx(1.55e7, rel=0.01)
    assert (traffic.active == 4).all()
    assert made.run.settings.overlap == "pipelined"


def test_the_cost_of_a_fault_is_not_judged_by_the_runs_it_comes_from(tmp_path: Path) -> None:
    model = "gpt-oss-120b-Q4_K_M (MXFP4 experts)"
    own, other = streamed(kind="mapped", model=model), streamed("t", kind="mapped")
    first, second = judge(load_cases(written(tmp_path, own, other))).cases
    assert not first.counted
    assert "page fault" in first.why
    assert second.counted


# Leaving out --------------------------------------------------------------------------------------

TRUE = {"gemv.q4_0": 40e9, "gemv.q8_0": 25e9, "per_layer": 0.5e-3}
MODELS = {
    name: geometry(layers, hidden)
    for name, layers, hidden in (("one", 4, 512), ("two", 24, 512), ("three", 10, 1024))
}


def phone(numbers: dict[str, float], fitted: dict[str, list[str]]) -> Profile:
    """Return a phone whose CPU has these numbers, fitted to cases of these ids."""
    gemv = {key[5:]: value for key, value in numbers.items() if key.startswith("gemv.")}
    cpu = {"gemv": gemv, "per_layer": numbers.get("per_layer", 0.0), "dram_efficiency": 0.5}
    cpu |= {"compute": 1e12, "engine": "an engine", "per_mask": 0.0, "overlap_factor": 0.5}
    sources = {
        f"backends.cpu.{key}": {"kind": "fitted", "from": "made up", "cases": ids}
        for key, ids in fitted.items()
    }
    whole = {
        "name": "by-hand",
        "dram": {"capacity": 16e9, "available": 8e9, "bandwidth": 80e9},
        "flash": {"bandwidth": 2e9},
        "backends": {"cpu": {**cpu, "cache_copy": 8e9}},
        "sources": sources,
    }
    return load_profile(_with_units(whole))


def _with_units(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a profile with the units that a file states."""
    units = {"capacity": "B", "available": "B", "bandwidth": "B/s", "compute": "FLOP/s"}
    units |= {"per_layer": "s", "per_mask": "s", "cache_copy": "B/s"}

    def text(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            rates = key == "gemv"
            return {k: f"{v!r} B/s" if rates else text(k, v) for k, v in value.items()}
        return f"{value!r} {units[key]}" if key in units else value

    return {key: text(key, value) for key, value in whole.items()}


def entry_of(name: str, model: str, stored: str = "q4_0", **changes: Any) -> dict[str, Any]:
    """Return a case of one of `MODELS`."""
    bits = {"q4_0": 4.5, "q8_0": 8.5}[stored]
    stated = {"model": MODELS[model], "weight_format": stored, "bits": bits, "profile": None}
    return case(name, **stated, **changes)


@pytest.fixture
def shipping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put other cases in the place of the shipped ones; their figures are those of a phone with
    the numbers of `TRUE`, but for ``slower``: factors on the times, by id."""

    def ship(*entries: dict[str, Any], **slower: float) -> None:
        truth = phone(TRUE, {})
        facts, measured = [], {}
        for entry in entries:
            made = made_of(entry, truth)
            facts.append(made.case)
            measured[made.case.id] = 1 / made.seconds() / slower.get(made.case.id, 1.0)
        for module in (judging, reading):
            monkeypatch.setattr(module, "shipped", lambda: Cases(tuple(facts), measured, {}))
        judging._shipped_labels.cache_clear()

    yield ship
    judging._shipped_labels.cache_clear()


def test_terms_by_hand() -> None:
    device = phone(TRUE, {})
    made = made_of(entry_of("a", "one"), device)
    seconds, terms = terms_of(device, "cpu", ["gemv.q4_0", "per_layer", "gemv.q8_0"], made)
    layers, hidden, vocab = 4, 512, 1000
    attention = 4 * hidden * 4 * 64  # four matrices, 4 heads of 64
    weights = layers * (attention + 3 * hidden * 4 * hidden) + vocab * hidden
    assert terms["gemv.q4_0"] == pytest.approx(weights * 4.5 / 8 / 40e9, rel=0.02)
    assert terms["per_layer"] == pytest.approx((layers + 1) * 0.5e-3)
    assert terms["gemv.q8_0"] == 0
    assert seconds == pytest.approx(terms["gemv.q4_0"] + terms["per_layer"], rel=0.02)


def test_a_refit_on_exact_times_finds_the_numbers(shipping: Any) -> None:
    entries = [entry_of("a", "one"), entry_of("b", "two"), entry_of("c", "three", "q8_0")]
    shipping(*entries)
    names = {"gemv.q4_0": ["a", "b"], "gemv.q8_0": ["c"], "per_layer": ["a", "b", "c"]}
    wrong = phone({"gemv.q4_0": 30e9, "gemv.q8_0": 50e9, "per_layer": 1e-3}, names)
    fitted, missing = refit(wrong, "cpu", fitted_numbers(wrong, "cpu"), evidence_of(wrong, "cpu"))
    assert missing == ()
    for key, value in TRUE.items():
        assert value_of(fitted, "cpu", key) == pytest.approx(value, rel=1e-4)


def test_a_number_left_out_by_hand() -> None:
    wrong = phone({"gemv.q4_0": 30e9, "per_layer": 1e-3}, {"per_layer": ["a"]})
    # 2 ms are no layers', 5 of 1 ms are; it took 12: 10 are left for 5 layers
    left = [Evidence("other", "a phone", 12e-3, 7e-3, {"per_layer": 5e-3})]
    fitted, missing = refit(wrong, "cpu", [Fitted("per_layer", ("a",))], left)
    assert value_of(fitted, "cpu", "per_layer") == pytest.approx(2e-3, rel=1e-6)
    assert missing == ()
    # a rate: 5 ms at 30 GB/s, 10 ms are left for it
    left = [Evidence("other", "a phone", 12e-3, 7e-3, {"gemv.q4_0": 5e-3})]
    fitted, _ = refit(wrong, "cpu", [Fitted("gemv.q4_0", ("a",))], left)
    assert value_of(fitted, "cpu", "gemv.q4_0") == pytest.approx(15e9, rel=1e-6)


def test_one_odd_measurement_moves_a_fit_little() -> None:
    wrong = phone({"gemv.q4_0": 30e9}, {"gemv.q4_0": ["a"]})
    usual = [
        Evidence(f"m{i}", "a phone", 2e-3 * i, 1e-3 * i, {"gemv.q4_0": 1e-3 * i})
        for i in range(1, 9)
    ]
    odd = Evidence("odd", "a phone", 60e-3, 3e-3, {"gemv.q4_0": 3e-3})
    number = [Fitted("gemv.q4_0", ("a",))]
    fitted, _ = refit(wrong, "cpu", number, [*usual, odd])
    assert value_of(fitted, "cpu", "gemv.q4_0") == pytest.approx(15e9, rel=0.03)


def test_a_rate_without_cases_takes_the_mean_of_the_others() -> None:
    numbers = {"gemv.q4_0": 30e9, "gemv.q8_0": 20e9, "gemv.f16": 1e9}
    wrong = phone(numbers, {key: ["a"] for key in numbers})
    left = [
        Evidence(
            "m", "a phone", 2e-3, 1e-3, {"gemv.q4_0": 1e-3, "gemv.q8_0": 0.0, "gemv.f16": 0.0}
        ),
        Evidence(
            "n", "a phone", 4e-3, 1e-3, {"gemv.q4_0": 0.0, "gemv.q8_0": 1e-3, "gemv.f16": 0.0}
        ),
    ]
    fitted, missing = refit(wrong, "cpu", fitted_numbers(wrong, "cpu"), left)
    rates = [value_of(fitted, "cpu", key) for key in numbers]
    assert rates == pytest.approx([15e9, 5e9, geometric_mean([15e9, 5e9])], rel=1e-4)
    assert missing == ()
    _, missing = refit(wrong, "cpu", fitted_numbers(wrong, "cpu"), [])
    assert missing == tuple(numbers)


def judged_on(profile: Profile, folder: Path, monkeypatch: Any, *entries: Any) -> Validation:
    """Judge cases on a profile."""
    monkeypatch.setattr(judging, "profile_of", lambda case: profile)
    return judge(load_cases(written(folder, *entries)))


def test_a_case_is_predicted_without_its_model(
    shipping: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [entry_of(name, name) for name in MODELS]
    shipping(*entries, three=2.0)  # this one took twice as long
    names = {key: list(MODELS) for key in ("gemv.q4_0", "per_layer")}
    profile = phone({"gemv.q4_0": 33e9, "per_layer": 0.7e-3}, names)
    own = {**entry_of("mine", "three"), "value": 1.0}
    other = {**case("new", model=geometry(6, 256)), "weight_format": "q4_0"}
    mine, new = judged_on(profile, tmp_path, monkeypatch, own, other).cases
    truth = 1 / made_of(entry_of("x", "three"), phone(TRUE, {})).seconds()
    assert mine.counted
    assert mine.prediction is not None
    assert mine.prediction.value == pytest.approx(truth, rel=1e-4)
    assert mine.prints == pytest.approx(1 / made_of(own, profile).seconds())
    assert new.prediction is not None
    assert new.prediction.value == new.prints


def test_where_nothing_is_left_a_case_is_not_counted(
    shipping: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipping(entry_of("one", "one"))
    profile = phone({"gemv.q4_0": 33e9, "per_layer": 0.7e-3}, {"gemv.q4_0": ["one"]})
    own, other = entry_of("a", "one"), entry_of("b", "two")
    q8 = entry_of("c", "one", "q8_0")
    judged = judged_on(profile, tmp_path, monkeypatch, own, other, q8)
    assert [each.counted for each in judged.cases] == [False, True, True]
    assert judged.cases[0].why == "the only model that numbers of its backend were fitted to"
    assert judged.cases[0].prediction is not None  # shown in brackets


# Trivial predictors and groups --------------------------------------------------------------------


def test_trivial_predictors_by_hand() -> None:
    own = Bytes(3e9, 0.03)
    peers = [(Bytes(1e9, 0.01), 0.02), (Bytes(2e9, 0.02), 0.16)]
    figures = trivial(own, peers)
    assert figures["peak"] == 0.03
    assert figures["share"] == pytest.approx(0.03 * 4)  # sqrt(2 x 8)
    assert figures["constant"] == pytest.approx(math.sqrt(0.02 * 0.16))
    assert figures["line"] == pytest.approx(0.02 + 2 * 0.14)
    assert trivial(own, []) == {"peak": 0.03}
    assert "line" not in trivial(own, peers[:1])
    assert "line" not in trivial(Bytes(1e8, 0.001), peers)  # it falls below 0


def test_the_bytes_of_a_case_by_hand() -> None:
    device = load_profile("oneplus15r")
    made = made_of(streamed(), device)
    known = bytes_of(made)
    dram, flash = 1e8 + 10 * 4 * 1e6, 2e7
    assert known.size == pytest.approx(dram + flash, rel=0.02)
    seconds = dram / device.dram.bandwidth + flash / made.run.flash.sequential_bandwidth
    assert known.seconds == pytest.approx(seconds, rel=0.02)


def test_the_bytes_of_a_prompt_are_per_token() -> None:
    device = load_profile("snapdragon8gen3")
    token, prompt = (
        bytes_of(made_of(case(kind=kind, prompt=50), device)) for kind in ("ttft", "prefill")
    )
    assert prompt.size == pytest.approx(token.size / 50, rel=0.02)


def judged(name: str, predicted: float, measured: float, **more: Any) -> Judged:
    """Return a counted case of rates whose interval is from half to twice the prediction."""
    bounds = Prediction(predicted, predicted / 2, predicted * 2)
    stated = {"prediction": bounds, "counted": True, "profile": "p", "backend": "b", **more}
    return Judged(Case(id=name, kind="decode"), measured, **stated)


def test_a_group_by_hand() -> None:
    cases = (
        judged("a", 10, 12, trivial={"peak": 24.0}),  # of the time +20 %
        judged("b", 10, 9, trivial={"peak": 10.0}),  # -10 %
        judged("c", 10, 4),  # -60 %, outside
    )
    group = GroupResult("some", cases)
    assert group.errors == pytest.approx([0.2, -0.1, -0.6])
    assert group.median == pytest.approx(0.2)
    assert group.signed_median == pytest.approx(-0.1)
    assert group.worst.case.id == "c"
    assert group.coverage == pytest.approx(2 / 3)
    assert group.width == pytest.approx(4)
    assert group.trivial_median("peak") == (2, pytest.approx((0.5 + 0.1) / 2))
    assert group.trivial_median("line") is None
    shown = group.to_dict()
    assert (shown["n"], shown["worst_case"]) == (3, "c")
    assert shown["trivial"]["line"] is None


def test_the_error_of_a_time_in_seconds_keeps_its_sign() -> None:
    slow = Judged(Case(id="a", kind="ttft", unit="ms"), 100.0, Prediction(150.0, 90.0, 200.0))
    assert slow.error() == pytest.approx(0.5)
    assert slow.covered


def test_cases_are_grouped_by_kind_size_and_setup() -> None:
    some = [
        judged("a", 1, 1, parameters=3e9),
        judged("b", 1, 1, parameters=0.5e9),
        judged("c", 1, 1, parameters=1.5e9, backend="gpu"),
    ]
    left = Judged(Case(id="d", kind="decode"), 1.0)
    validation = Validation((*some, left))
    names = [group.name for group in validation.groups]
    assert names == [
        "decode",
        "decode, below 1 B",
        "decode, 1 to 2 B",
        "decode, 2 B and more",
        "decode, p b, any format",
        "decode, p gpu, any format",
    ]
    assert len(validation.counted) == 3
    assert validation.group("mapped") is None
