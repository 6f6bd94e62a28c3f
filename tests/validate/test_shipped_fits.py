"""The shipped profiles against the shipped cases, and against the published files beside them."""

from collections.abc import Mapping
from statistics import median

import pytest

from dipsim.hardware import load_profile, profile_names
from dipsim.validate import Cases, Validation, judge, load_cases
from dipsim.validate.devices import shipped
from dipsim.validate.evidence import evidence_of
from dipsim.validate.fit import fitted_numbers, refit, value_of
from tools.paths import shared
from tools.validating import judged_as_shipped

FITTED = [
    (name, backend)
    for name in profile_names()
    for backend in load_profile(name).backends
    if fitted_numbers(load_profile(name), backend)
]


@pytest.fixture(scope="module")
def validation() -> Validation:
    return judged_as_shipped()


# Profiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "backend"), FITTED)
def test_fitted_numbers_are_those_that_their_cases_give(name: str, backend: str) -> None:
    profile = load_profile(name)
    numbers = fitted_numbers(profile, backend)
    again, missing = refit(profile, backend, numbers, evidence_of(profile, backend))
    assert missing == ()
    for number in numbers:
        stated = value_of(profile, backend, number.key)
        assert stated == pytest.approx(value_of(again, backend, number.key), rel=0.01), number.key


@pytest.mark.parametrize("name", profile_names())
def test_sources_name_cases_that_exist(name: str) -> None:
    known = {case.id for case in shipped().facts}
    for source in load_profile(name).sources.values():
        assert set(source.cases) <= known
        assert source.left_out is None or source.cases
        assert source.kind != "fitted" or source.cases


def test_errors_that_profiles_state_are_those_of_validation(validation: Validation) -> None:
    by_id = {case.case.id: case for case in validation.counted}
    checked = 0
    for name in profile_names():
        for path, source in load_profile(name).sources.items():
            own = [by_id[i] for i in source.cases if i in by_id and by_id[i].profile == name]
            if source.left_out is None or not own:  # a profile that extends another has its sources
                continue
            errors = [abs(case.error()) for case in own]
            assert source.left_out == pytest.approx(median(errors), abs=0.02), (name, path)
            checked += 1
    assert checked >= 6


def test_intervals_of_the_shipped_cases_hold_nine_of_ten(validation: Validation) -> None:
    for kind in ("decode", "streaming"):
        group = validation.group(kind)
        assert group is not None
        assert 0.80 <= group.coverage <= 0.97


# Published files ----------------------------------------------------------------------------------


def judged(name: str) -> Validation:
    """Return a published file, judged."""
    return judge(load_cases(shared(f"validation/{name}")))


@pytest.fixture(scope="module")
def resident() -> Validation:
    return judged("resident.json")


@pytest.fixture(scope="module")
def earlier() -> Validation:
    return judged("cases.json")


def medians(validation: Validation) -> Mapping[str, float]:
    """Return the median errors of the groups of a validation."""
    return {group.name: group.median for group in validation.groups}


def test_models_in_memory_meet_their_targets(resident: Validation) -> None:
    found = medians(resident)
    assert found["decode, snapdragon8gen3 cpu, 8da4w"] <= 0.22
    assert found["decode, snapdragon8gen3 cpu, bf16"] <= 0.12
    assert found["decode"] <= 0.22
    assert found["prefill"] <= 0.35
    bands = [g for g in resident.groups if g.name.endswith(" B") or g.name.endswith("more")]
    assert len(bands) == 3
    for band in bands:
        assert abs(band.signed_median) <= 0.10, band.name


def test_experts_that_are_streamed_meet_their_target(earlier: Validation) -> None:
    both = [*earlier.counted, *judged("streaming.json").counted]
    errors = [abs(case.error()) for case in both if case.case.kind == "streaming"]
    assert len(errors) >= 14
    assert median(errors) <= 0.12


def test_the_earlier_format_gives_what_the_shipped_cases_give(
    earlier: Validation, validation: Validation
) -> None:
    shipped_ones = {case.case.id: case for case in validation.cases}
    counted = {case.case.id: case for case in earlier.counted}
    of_its_ids = {i for i in shipped_ones if i in {case.case.id for case in earlier.cases}}
    assert len(of_its_ids) == len(earlier.cases) == 88
    expected = {i for i in of_its_ids if shipped_ones[i].counted}
    assert set(counted) == expected
    for name, case in counted.items():
        own = shipped_ones[name]
        assert (case.profile, case.backend) == (own.profile, own.backend), name
        assert case.case.stored_as == own.case.stored_as, name
        assert case.measured == pytest.approx(own.measured, rel=0.01), name
        assert case.prediction is not None
        assert own.prediction is not None
        assert case.prediction.value == pytest.approx(own.prediction.value, rel=0.03), name


def test_published_files_hold_no_case_that_is_not_shipped() -> None:
    known = {case.id: case for case in shipped().facts}
    for name in ("resident.json", "streaming.json", "cases.json"):
        published: Cases = load_cases(shared(f"validation/{name}"))
        for case in published.facts:
            assert case.id in known
        for i, value in published.measured.items():
            assert shipped().measured[i] == pytest.approx(value, rel=0.01), i
