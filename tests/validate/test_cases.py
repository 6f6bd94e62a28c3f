"""Files of cases: what is read, what is refused in one line, what is told and not predicted."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipsim.errors import DipsimError
from dipsim.report.validate import to_dict
from dipsim.validate import Cases, Judged, judge, load_cases
from tools.cli import Dipsim, done, refused
from tools.hostile import one_line, read_or_refused
from tools.validating import case, geometry, streamed, written

MIB = 2.0**20
judging = importlib.import_module("dipsim.validate.judge")


def only(path: Path) -> Judged:
    """Return the one case of a file, judged."""
    (judged,) = judge(load_cases(path)).cases
    return judged


def read(folder: Path, *cases: Any, **more: Any) -> Cases:
    """Return cases as they are read from a file."""
    return load_cases(written(folder, *cases, **more))


# What is read -------------------------------------------------------------------------------------


def test_json_and_yaml_read_alike(tmp_path: Path) -> None:
    path = written(tmp_path, case(), streamed())
    as_yaml = tmp_path / "cases.yaml"
    as_yaml.write_text(path.read_text())
    assert load_cases(as_yaml) == load_cases(path)


def test_a_case_holds_nothing_that_was_measured(tmp_path: Path) -> None:
    known = read(tmp_path, case(value=123.5), streamed("b", tok_s=7, value=None))
    assert known.measured == {"a": 123.5}
    assert "123.5" not in str(known.facts)
    known = read(tmp_path, {k: v for k, v in streamed(tok_s=7).items() if k != "value"})
    assert known.measured == {"s": 7.0}


def test_sizes_in_mib_are_bytes(tmp_path: Path) -> None:
    stated = {"cache_MiB": 3, "flash_MiB_per_token": 2, "dense_MiB": 5}
    (facts,) = read(tmp_path, {"id": "a", **stated}).facts
    assert (facts.cache_bytes, facts.flash_bytes, facts.dense_bytes) == (3 * MIB, 2 * MIB, 5 * MIB)


def test_the_same_is_what_the_case_before_states(tmp_path: Path) -> None:
    first = {"id": "a", "device": "my phone", "model": "Some-7B", "source": "a page"}
    second = {"id": "b", "device": "the same", "model": "the same, top-6", "source": "the same"}
    third = {"id": "c", "device": "the same", "model": "the same"}
    _, b, c = read(tmp_path, first, second, third).facts
    assert (b.device, b.model, b.source) == ("my phone", "Some-7B, top-6", "a page")
    assert (c.device, c.model, c.source) == ("my phone", "Some-7B, top-6", "")
    assert b.experts_used == 6


def test_curves_and_drafts_are_kept_and_not_predicted(tmp_path: Path) -> None:
    curve = {"id": "c", "device": "OnePlus 15R", "columns": ["GB"], "rows": [[1, 2]]}
    path = written(tmp_path, streamed(accepted=0.5), falling=[curve])
    drafts, falling = judge(load_cases(path)).cases
    assert "drafts" in drafts.why
    assert "curve" in falling.why
    assert drafts.prediction is None


@pytest.mark.parametrize(
    ("device", "given", "profile"),
    [
        ("OnePlus 15R, cool", {}, "oneplus15r"),
        ("ONEPLUS-15R", {}, "oneplus15r"),
        ("Raspberry Pi 5 8 GB", {}, "raspberrypi5"),
        ("M1 Max 32-core", {}, "m1max"),
        ("OnePlus 12, CPU", {}, "snapdragon8gen3"),  # the text of a shipped case
        ("OnePlus 12, GPU", {}, ""),
        ("a OnePlus 15R", {}, ""),
        ("", {}, ""),
        ("OnePlus 15R", {"profile": "m1max"}, "m1max"),
        ("OnePlus 15R", {"nearest_profile": "m1max"}, "m1max"),
        ("OnePlus 15R", {"nearest_profile": None}, ""),
        ("OnePlus 15R", {"profile": None}, ""),
    ],
)
def test_the_profile_of_a_device(
    tmp_path: Path, device: str, given: dict[str, Any], profile: str
) -> None:
    entry = {**case(device=device, profile=None), **given}
    judged = only(written(tmp_path, entry))
    assert judged.profile == profile
    assert (judged.prediction is None) == (profile == "")
    assert profile or judged.why == "no profile of its device"


def test_null_is_not_predicted_whatever_stood_before(tmp_path: Path) -> None:
    named = case("a", device="OnePlus 15R", profile=None)
    none = {**named, "id": "b", "profile": None}
    for entries in ([named, none], [none, named]):
        judged = {j.case.id: j for j in judge(read(tmp_path, *entries)).cases}
        assert judged["a"].prediction is not None
        assert judged["b"].prediction is None


def test_a_device_without_a_profile_is_told(dipsim: Dipsim, tmp_path: Path) -> None:
    path = written(tmp_path, case(profile=None, device="my toaster"))
    shown = done(dipsim("validate --cases", path))
    assert "not counted, 1: no profile of its device" in " ".join(shown.out.split())
    (judged,) = done(dipsim("validate --json --cases", path)).json["cases"]
    assert (judged["predicted"], judged["counted"], judged["profile"]) == (None, False, None)


def test_a_model_too_large_for_the_device_is_told(dipsim: Dipsim, tmp_path: Path) -> None:
    huge = case(model=geometry(layers=2000, hidden=8192))
    (judged,) = done(dipsim("validate --json --cases", written(tmp_path, huge))).json["cases"]
    assert (judged["predicted"], judged["counted"]) == (None, False)
    assert judged["why"] == "its weights do not fit in the DRAM of the device"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (case(model="no-such-model"), "geometry of its model is not known"),
        (case(bits=None, weight_format=None), "neither bits, bytes nor weight format"),
        ({**streamed(), "flash_bytes": None}, "no bytes from flash"),
        ({**streamed(), "layers": None}, "layers and experts of its model"),
        ({**streamed(), "expert_bytes": None}, "the bytes of an expert"),
        ({**streamed(), "dense_bytes": None}, "weights that every token uses"),
        ({**streamed(), "flash_bytes": 1e17}, "more than the 16 experts"),
        (case(not_predicted="on two of four threads"), "on two of four threads"),
        (case(value=None), "nothing was measured"),
    ],
)
def test_what_is_not_counted_has_a_reason(tmp_path: Path, entry: Any, said: str) -> None:
    judged = only(written(tmp_path, entry))
    assert not judged.counted
    assert said in judged.why


def test_equal_work_is_predicted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = []

    def counted(*given: Any) -> Any:
        predicted.append(given[0].id)
        return run_of(*given)

    run_of = judging.run_of
    monkeypatch.setattr(judging, "run_of", counted)
    many = [case(f"c{i}", value=30 + i % 50, source=f"page {i}") for i in range(9_999)]
    ids = {entry["id"] for entry in many} | {"other"}
    validation = judge(read(tmp_path, *many, case("other", bits=8.5)))
    assert [name for name in predicted if name in ids] == ["c0", "other"]  # others are evidence
    assert len(validation.counted) == 10_000
    assert len({judged.prediction for judged in validation.cases}) == 2


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "colour"),
        ({"weightformat": "q4_0"}, "weightformat"),
        ({"kind": "guess"}, "kind"),
        ({"kind": 7}, "kind"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"unit": "km"}, "unit"),
        ({"value": -1}, "value must be a number above 0, given -1"),
        ({"value": 0}, "value must be a number above 0, given 0"),
        ({"value": "40"}, 'given "40"'),
        ({"value": True}, "given true"),
        ({"value": [40]}, "given [40]"),
        ({"value": 1e300}, "value must be a number above 0"),
        ({"bits": "4.5"}, "bits"),
        ({"bits": -4}, "bits"),
        ({"bits": True}, "bits"),
        ({"model_bytes": 10**400}, "model_bytes"),
        ({"cache_bytes": 10**400}, "cache_bytes"),
        ({"cache_MiB": "many"}, "cache_MiB: it must be a number above 0"),
        ({"prompt": 0}, "prompt"),
        ({"prompt": 10**30}, "prompt"),
        ({"depth": -1}, "depth"),
        ({"layers": 10**9}, "layers"),
        ({"hit_pct": 101}, "hit_pct"),
        ({"lanes": 0}, "lanes"),
        ({"overlap": "some"}, "overlap"),
        ({"model": 7}, "model"),
        ({"profile": 7}, "profile"),
        ({"profile": "no-such-phone"}, "no-such-phone"),
        ({"profile": {"name": "x"}}, "profile"),
        ({"device": "d" * 500}, "device"),
    ],
)
def test_wrong_figures_are_refused(
    dipsim: Dipsim, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, {**case(), **change})
    refused(dipsim("validate --cases", path), said)


@pytest.mark.parametrize("kind", ["streaming", "mapped"])
@pytest.mark.parametrize("change", [{"flash_bytes": 1e17}, {"experts_per_token": 65_536}])
def test_more_than_the_experts_of_a_layer_is_told(tmp_path: Path, kind: str, change: Any) -> None:
    judged = only(written(tmp_path, streamed(kind=kind, **change)))
    assert (judged.counted, judged.prediction) == (False, None)
    assert "more than the 16 experts of a layer" in judged.why


def test_bytes_of_experts_whose_number_is_not_stated_have_an_end(tmp_path: Path) -> None:
    entry = {key: value for key, value in streamed(flash_bytes=1e17).items() if key != "experts"}
    assert "more than the 65536 experts" in only(written(tmp_path, entry)).why


@pytest.mark.parametrize("model", [{"layers": "many"}, {**geometry(), "layers": -1}, {"a": 1}])
def test_a_wrong_geometry_is_told(dipsim: Dipsim, tmp_path: Path, model: Any) -> None:
    for path in (
        written(tmp_path, case(model=model)),
        written(tmp_path, case(model="mine"), models={"mine": model}),
    ):
        (judged,) = done(dipsim("validate --json --cases", path)).json["cases"]
        assert not judged["counted"]
        assert judged["why"].startswith("case a: ")
        assert "\n" not in judged["why"]


def test_numbers_too_large_to_work_with_are_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    """Cases in the form of earlier versions, in which texts and numbers are worked with as read."""
    model = {"name": "q", "topk": 2, "layers": 3, "token_demand_MiB": 10**400}
    entry = {"id": "a", "kind": "e2e-streaming", "policy": f"{'9' * 5000} read lanes"}
    for key, more in (("ms_per_token", {}), ("tok_s", {"model": model})):
        cases = [{**entry, **more, "measured": {key: 10**400}}]
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"format": "dipsim-validation", "version": 1, "cases": cases}))
        refused(dipsim("validate --cases", path), "value must be a number above 0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "no cases"),
        ('{"cases": []}', "no cases"),
        ('{"cases": {"a": 1}}', "no cases"),
        ('{"cases": [7]}', "case 0: an object of keys and values, given 7"),
        ('{"cases": [{"id": "a"}, {"id": "a"}]}', "a stands there twice"),
        ('{"cases": [{"id": "a"}], "falling": 7}', "no cases"),
        ('{"cases": [{"id": "a"}], "models": [7]}', "models must map names to geometries"),
        ('{"cases": [{"id": "a"}], "models": {"b": 7}}', "models must map names to geometries"),
        ('{"format": "dipsim-validation", "cases": []}', "version 1"),
        ('{"format": "dipsim-validation", "version": 1, "cases": 7}', "a list of objects"),
        (
            '{"format": "dipsim-validation", "version": 1, "cases": [{"id": "a"}]}',
            "measured must be an object",
        ),
        ("[]", "cases.json"),
        ("{", "cases.json"),
        ("", "cases.json"),
    ],
)
def test_wrong_files_are_refused(dipsim: Dipsim, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(text)
    refused(dipsim("validate --cases", path), said)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{LAUGHS}cases: [*a11]\n",
        "cases: &c [*c]\n",
        "cases: [{id: a, depth: " + "9" * 5000 + "}]\n",
        "cases: [{id: a, value: " + "9" * 5000 + "}]\n",
        "cases: [{id: a, cache_MiB: .inf}]\n",
        "cases: [{id: a, value: .nan}]\n",
        "cases: " + "[" * 5000 + "\n",
        "cases: [{id: !!python/object:os.system a}]\n",
        "cases: [{[a]: b}]\n",
    ],
)
def test_hostile_yaml_is_refused(dipsim: Dipsim, tmp_path: Path, text: str) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(text)
    refused(dipsim("validate --cases", path), "cases.yaml")


def test_too_many_cases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": [{}] * 100_001}))
    with pytest.raises(DipsimError, match="100001 cases, at most 100000 are read"):
        load_cases(path)


def test_damaged_cases_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = written(tmp_path, case(), streamed()).read_bytes()
    read_or_refused(lambda path: judge(load_cases(path)), tmp_path / "x.json", whole, 25)
    read_or_refused(lambda path: judge(load_cases(path)), tmp_path / "x.yaml", whole, 25)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)
figures = st.sampled_from([1e-9, 0.3, 1, 2, 4.5, 1e3, 1e6, 1e9, 1e15])
WHOLE = [*case(prompt=8, depth=3, unit="ms"), *streamed(lanes=2, overlap="pipelined", tensors=2)]
WHOLE += ["weight_bytes", "model_bytes", "cache_bytes", "hit_pct", "profile", "cache_MiB"]
WHOLE.remove("id")
odd = st.dictionaries(st.sampled_from(WHOLE), figures | anything, max_size=3)
kinds = st.sampled_from(["decode", "prefill", "ttft", "streaming", "mapped"])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd, kinds, st.booleans())
def test_any_object_is_refused_or_judged(
    tmp_path: Path, changes: dict[str, Any], kind: str, experts: bool
) -> None:
    entry = {**(streamed() if experts else case()), "kind": kind, **changes}
    path = written(tmp_path, entry)

    def judged(_: Path) -> str:
        return json.dumps(to_dict(judge(load_cases(path)), None), allow_nan=False)

    one_line(judged, path)
