"""`dipsim validate`: nothing leaks, the rules are dipsim's, the page is what the command writes."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dipsim.report.validate import page
from dipsim.validate import Cases, Validation, judge, judge_routes, load_cases
from dipsim.validate.cases import Case, shipped_cases
from dipsim.validate.fit import constant, fit, line, search
from dipsim.validate.setups import (
    COMPUTER_MAPPED,
    MEMORY,
    PHONE,
    PHONE_MAPPED,
    device,
    notes,
    setup_of,
)
from dipsim.validate.work import Streaming
from tools.hostile import read_or_refused
from tools.paths import DOCS, VALIDATION, of_a_phone
from tools.validating import FEW, METRICS, ROUTES, few

CASES = load_cases()
BY_ID = {case.id: case for case in CASES.facts}


def part(keep: Callable[[Case], bool], seconds: Mapping[str, float] = CASES.seconds) -> Cases:
    return Cases(tuple(case for case in CASES.facts if keep(case)), seconds)


@pytest.fixture(scope="module")
def found() -> Validation:
    return judge(CASES)


# The cases ---------------------------------------------------------------------------------------


@of_a_phone
def test_the_shipped_cases_are_the_published_ones() -> None:
    shipped = json.loads(shipped_cases().read_text())["cases"]
    published = json.loads((VALIDATION / "cases.json").read_text())["cases"]
    assert len(published) == 88
    for case in published:
        del case["simulator_needs"]
    assert shipped == published


def test_a_case_holds_nothing_that_was_measured() -> None:
    measured = json.loads(shipped_cases().read_text())["cases"][0]["measured"]
    (case,) = part(lambda case: case.id == "bmoe-qwen-c0-l4").facts
    assert "measured" not in case.model_dump()
    assert CASES.seconds[case.id] == measured["ms_per_token"] / 1000
    for name, value in measured.items():
        assert name not in str(case.model_dump())
        assert not value or f" {value}" not in str(case.model_dump())


def test_every_case_is_predicted_or_has_a_reason(found: Validation) -> None:
    predicted = [case.case for group in found.groups for case in group.cases]
    assert sorted([*predicted, *found.not_applicable]) == sorted(BY_ID)
    assert "no rule is known for it" not in found.not_applicable.values()
    for case in BY_ID:
        if case.startswith("liaf-"):
            assert case in found.not_applicable


def test_the_targets_are_met(found: Validation) -> None:
    counts = {at.group.name: (len(at.counted), len(at.cases)) for at in found.groups}
    assert counts[PHONE] == (10, 10)
    assert counts[MEMORY] == (21, 28)
    assert counts[PHONE_MAPPED] == (2, 2)
    for name, bar in ((PHONE, 0.15), (MEMORY, 0.25), (PHONE_MAPPED, 2.0)):
        result = found.group(name)
        assert result is not None
        median = result.median()
        assert median is not None and median <= bar  # noqa: PT018
    mapped = found.group(PHONE_MAPPED)
    assert mapped is not None
    assert all(case.factor() <= 2 for case in mapped.cases)


def test_every_miss_is_explained_and_nothing_else_is(found: Validation) -> None:
    misses = {case.case for group in found.groups for case in group.misses}
    assert misses == set(notes()["explained"])


# Nothing leaks -----------------------------------------------------------------------------------

MEMBERS = [
    *(case.id for case in CASES.facts if case.kind == "in-memory-decode"),
    "bmoe-qwen-c2000-l4",
    "bmoe-qwen-c0-l4-ov",
    "bmoe-gptoss-mmap-k2",
    "bmoe-gptoss-mmap-k4",
    "colibri-9950x-p3",
    "llamacpp-711-30B-mmap-16GB",
]


def of(found: Validation, case: str) -> Any:
    return next(at for group in found.groups for at in group.cases if at.case == case)


@pytest.mark.parametrize("case", MEMBERS)
def test_what_was_measured_of_a_case_moves_its_own_prediction_by_nothing(
    found: Validation, case: str
) -> None:
    before = of(found, case)
    poisoned = {**CASES.seconds, case: 5 * CASES.seconds[case]}
    after = of(judge(part(lambda at: at.id in {case, *before.fitted_on}, poisoned)), case)
    if before.fitted:
        assert after.seconds["dipsim"] == pytest.approx(5 * before.seconds["dipsim"], rel=1e-4)
        return
    assert after.seconds == before.seconds
    assert after.parameters == before.parameters
    assert after.measured == 5 * before.measured


def test_poison_moves_the_predictions_of_the_others(found: Validation) -> None:
    keep = {"bmoe-gptoss-mmap-k2", "bmoe-gptoss-mmap-k4"}
    poisoned = {**CASES.seconds, "bmoe-gptoss-mmap-k2": 100.0}
    after = of(judge(part(lambda at: at.id in keep, poisoned)), "bmoe-gptoss-mmap-k4")
    assert after.seconds["dipsim"] > 2 * of(found, "bmoe-gptoss-mmap-k4").seconds["dipsim"]


def test_parameters_come_from_the_other_cases_of_the_key(found: Validation) -> None:
    for group in found.groups:
        for case in group.cases:
            same = {at.case for at in group.cases if at.key == case.key}
            if not case.parameters:
                assert case.fitted_on == ()
            elif case.fitted:
                assert same == {case.case}  # alone of its key: there is nothing else to fit on
            else:
                assert set(case.fitted_on) == same - {case.case}


def test_a_share_of_dram_is_the_geometric_mean_of_the_others(found: Validation) -> None:
    group = found.group(MEMORY)
    assert group is not None
    for case in group.counted:
        shares = [
            BY_ID[at].bytes_of("dram")
            / (BY_ID[at].number("hw", "dram_peak_GBs") * 1e9)
            / CASES.seconds[at]
            for at in case.fitted_on
        ]
        share = math.exp(sum(map(math.log, shares)) / len(shares))
        assert case.parameters["dram_efficiency"] == pytest.approx(share, rel=1e-5)
        own = BY_ID[case.case]
        peak = own.number("hw", "dram_peak_GBs") * 1e9
        seconds = own.bytes_of("dram") / (share * peak)
        assert case.seconds["dipsim"] == pytest.approx(seconds, rel=1e-5)


def test_what_fits_itself_is_no_evidence(found: Validation) -> None:
    for group in found.groups:
        for case in group.cases:
            if case.fitted:
                assert case.seconds["dipsim"] == pytest.approx(case.measured, rel=1e-4)
                assert case not in group.counted
                assert set(case.seconds) == {"dipsim"}


def test_a_case_whose_parameter_no_other_determines_is_fitted() -> None:
    keep = {"bmoe-qwen-c0-l4", "bmoe-qwen-c2000-l4", "bmoe-qwen-c0-l4-ov"}
    cases = judge(part(lambda at: at.id in keep))
    assert of(cases, "bmoe-qwen-c0-l4-ov").fitted  # the others hide no reads
    assert not of(cases, "bmoe-qwen-c0-l4").fitted


# Worked by hand ----------------------------------------------------------------------------------


def test_a_page_fault_by_hand(found: Validation) -> None:
    dense, routed = 789.8 * 2**20, {"k2": 951792435, "k4": 1903584870}
    used = {name: (dense + size) / 61.9e9 for name, size in routed.items()}
    fault = (11.24 - used["k2"]) / (routed["k2"] / 4096)
    seconds = routed["k4"] / 4096 * fault + used["k4"]
    case = of(found, "bmoe-gptoss-mmap-k4")
    assert case.parameters["page fault"] == pytest.approx(fault * 1e6, rel=1e-5)
    assert case.seconds["dipsim"] == pytest.approx(seconds, rel=1e-5)


def test_reads_in_order_need_no_parameter(found: Validation) -> None:
    group = found.group(COMPUTER_MAPPED)
    assert group is not None
    assert [case.seconds for case in group.counted] == [{"dipsim": 20.0}]  # 20 GB at 1 GB/s


@pytest.mark.parametrize(
    ("overlap", "seconds"),
    [
        ("serial", 2 * (0.1 + 0.05 + 0.2 + 0.05 + 0.01 + 0.004)),
        # of the reads the smaller of F = .2 and E_hit + E_miss (1 - 1/4) = .05 + .0375 is hidden
        ("pipelined", 2 * (0.1 + 0.05 + 0.2 + 0.05 + 0.01 + 0.004 - 0.5 * 0.0875)),
    ],
)
def test_a_streamed_token_by_hand(overlap: Any, seconds: float) -> None:
    flash = {
        "lanes": 4,
        "reads": [
            {"size": "1 MB", "lanes": 2, "bandwidth": "10 MB/s"},
            {"size": "1 MB", "lanes": 4, "bandwidth": "20 MB/s"},
        ],
    }
    work = Streaming(
        device("by hand", flash=flash, sync="10 ms", cache_copy="1 GB/s"),
        layers=2,
        dense=16e6,  # .1 s a layer at 80 MB/s
        touched=16e6,
        missed=8e6,  # 4 MB a layer in 4 reads of 50 ms; .05 s to use, 4 ms to copy
        read=1e6,
        overlap=overlap,
    )
    assert work.seconds({"gemv": 0.08, "overlap_factor": 0.5}) == pytest.approx(seconds)
    assert len(work.parameters) == (2 if overlap == "pipelined" else 1)


def test_reads_are_served_by_the_lanes_of_the_case() -> None:
    flash = {case: setup_of(BY_ID[f"bmoe-qwen-c2000-{case}"]).work for case in ("l2", "l4")}
    times = {case: work.seconds({"gemv": 1e3}) for case, work in flash.items()}
    # nearly all of it is flash: 1 MiB reads at 2.186 and at 2.344 GB/s
    assert times["l2"] / times["l4"] == pytest.approx(2.344 / 2.186, rel=0.1)
    assert times["l2"] > times["l4"]


# Fits --------------------------------------------------------------------------------------------


def test_a_search_finds_the_least_value_inside_and_at_the_border() -> None:
    assert search(lambda x: (x[0] - 0.3) ** 2 + (x[1] - 0.9) ** 2, 2) == pytest.approx(
        [0.3, 0.9], abs=1e-5
    )
    assert search(lambda x: x[0] - 2 * x[1], 2) == [0.0, 1.0]
    assert search(lambda x: 1.0, 0) == []


def test_a_fit_finds_the_parameters_that_made_the_times() -> None:
    works = [setup_of(case).work for case in CASES.facts if case.id.startswith("bmoe-qwen-")]
    made = {"gemv": 17.0, "overlap_factor": 0.3}
    again = fit(works, [work.seconds(made) for work in works])
    assert again == pytest.approx(made, rel=1e-3)


def test_the_trivial_predictors() -> None:
    assert constant([2.0, 8.0]) == pytest.approx(4.0)
    assert line([1e9, 2e9, 4e9], [3.0, 5.0, 9.0]) == pytest.approx((1.0, 2e-9))
    assert line([2e9, 2e9], [2.0, 8.0]) == pytest.approx((0.0, 2e-9))  # through the origin
    # relative errors decide: with y = (1, 3) at the same size twice, and 10 at another
    a, b = line([1.0, 1.0, 2.0], [1.0, 3.0, 10.0])
    at_one = (1 / 1 + 1 / 3) / (1 / 1**2 + 1 / 3**2)
    assert (a + b, a + 2 * b) == pytest.approx((at_one, 10.0))


# The page ----------------------------------------------------------------------------------------

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def same_text(shown: str, written: str) -> None:
    """Equal but for the last figure of numbers: processors differ in the last bit of logarithms."""
    assert NUMBER.sub("#", " ".join(shown.split())) == NUMBER.sub("#", " ".join(written.split()))
    for ours, theirs in zip(NUMBER.findall(shown), NUMBER.findall(written), strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=2e-3, abs=0.11), ours


def without_routes(text: str) -> str:
    """The page but for what needs the phone's routes."""
    head, _, rest = text.partition("## A phone's run, token by token")
    return re.sub(r"\* A phone's run, .*\n", "", head) + rest[rest.index("\n## ") :]


def test_the_page_is_what_the_command_writes(found: Validation) -> None:
    written = (DOCS / "validation.md").read_text()
    same_text(without_routes(page(found, None)), without_routes(written))


@of_a_phone
def test_the_page_with_the_routes_is_what_the_command_writes(
    found: Validation,
) -> None:
    routes = judge_routes(ROUTES, METRICS)
    same_text(page(found, routes), (DOCS / "validation.md").read_text())


def test_the_page_says_where_a_trivial_predictor_is_closer(found: Validation) -> None:
    text = " ".join(page(found, None).split())
    for group in found.groups:
        ours = group.median()
        for name, said in (("constant", "a constant"), ("line", "a straight line in bytes")):
            theirs = group.median(name)
            closer = ours is not None and theirs is not None and round(theirs, 3) < round(ours, 3)
            assert (f"{group.group.title}: {said} is closer" in text) == closer
    assert "Memory-mapped, phone: a constant is closer (x 1.19 against x 1.68)" in text


# The command line --------------------------------------------------------------------------------


def test_files_are_written_whole(ran: Any, tmp_path: Path) -> None:
    code, out, errors = ran("--cases", few(tmp_path, *FEW), "--page", "p.md")
    assert (code, out) == (0, "")
    assert errors == ["dipsim: wrote p.md"]
    assert (tmp_path / "p.md").read_text().startswith("# Validation\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--routes a.csv", "give both, or neither"),
        ("--metrics a.metrics", "give both, or neither"),
        ("--page page.txt", "ends in .md"),
        ("--page nowhere/page.md", "no such folder"),
        ("--cases missing.json", "not a regular file"),
        ("--routes few.json --metrics few.json", "metrics begin with the columns"),
    ],
)
def test_wrong_options_are_refused(ran: Any, tmp_path: Path, options: str, said: str) -> None:
    few(tmp_path, *FEW)
    code, out, errors = ran(*options.split())
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "format 'dipsim-validation'"),
        ({"cases": []}, "a list of objects"),
        ({"cases": {}}, "a list of objects"),
        ({"cases": [7]}, "case 0"),
        ({"cases": [{"id": "a", "kind": "k"}]}, "device is missing"),
        ({"cases": [{"id": "a\x1b[1m", "kind": "k", "device": "d"}]}, "case 0: id"),
        ({"cases": [{"id": "a", "kind": "k", "device": "d"}]}, "measured must be an object"),
    ],
)
def test_broken_cases_are_refused(ran: Any, tmp_path: Path, change: Any, said: str) -> None:
    path = few(tmp_path, *FEW)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    code, out, errors = ran("--cases", path)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]


@pytest.mark.parametrize(
    ("case", "section", "key", "value", "said"),
    [
        ("orinnano-1.5b", "hw", "dram_peak_GBs", -1, "hw.dram_peak_GBs must be a number above 0"),
        ("orinnano-1.5b", "hw", "dram_peak_GBs", None, "hw.dram_peak_GBs must be a number"),
        ("orinnano-1.5b", "measured", "ms_per_token", math.inf, "measured.ms_per_token"),
        ("orinnano-1.5b", "measured", "ms_per_token", "fast", 'given "fast"'),
        ("bmoe-gptoss-mmap-k2", "model", "dense_MiB_in_layers", True, "model.dense_MiB_in_layers"),
        ("bmoe-gptoss-mmap-k2", None, "flash_bytes_per_token", math.nan, "a number above 0"),
        ("bmoe-gptoss-mmap-k2", None, "flash_bytes_per_token", 1e300, "a number above 0"),
        ("bmoe-gptoss-mmap-k2", None, "flash_bytes_per_token", None, "is missing: add it"),
        ("bmoe-gptoss-mmap-k4", None, "id", "bmoe-gptoss-mmap-k2", "stands there twice"),
    ],
)
def test_figures_that_cannot_be_are_refused(
    ran: Any, tmp_path: Path, case: str, section: str | None, key: str, value: Any, said: str
) -> None:
    path = few(tmp_path, *FEW)
    data = json.loads(path.read_text())
    entry = next(at for at in data["cases"] if at["id"] == case)
    (entry if section is None else entry[section])[key] = value
    path.write_text(json.dumps(data))
    code, out, errors = ran("--cases", path)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]


def test_damaged_cases_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = few(tmp_path, *FEW).read_bytes()
    assert read_or_refused(lambda path: judge(load_cases(path)), tmp_path / "y", whole, 150) < 150
