"""Rules that skip layers: against their naive twins, their laws, and what they refuse."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError, TraceError
from dipsim.layers import BUILTIN, Calibration, LayerError, decide, load_rule, modes_of
from dipsim.trace import Tokens, Trace, load_trace
from naive import layers as naive

TOKENS, LAYERS = 60, 10
SEQUENCE = np.repeat([0, 1, 2], [30, 9, 21]).astype(np.int32)
PHASE = np.ones(TOKENS, np.uint8)
ROWS = Tokens.of(PHASE, SEQUENCE)
POSITION = ROWS.position.tolist()
FULL, PARTIAL, SKIP = 10, 5, 0
SKIPPING = [name for name in BUILTIN if name != "recorded"]
VARIANTS = [
    *SKIPPING,
    "similarity:by=previous",
    "similarity:by=calibrated",
    "early-exit:by=saturation",
]


def cosines(seed: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.5, 0.95, LAYERS)
    cosine = np.clip(level + rng.normal(0, 0.05, (TOKENS, LAYERS)), -1, 1)
    return (np.round(cosine, 1) if ties else cosine).astype(np.float16).astype(np.float32)


def trace_of(cosine: np.ndarray, **more: Any) -> Trace:
    io = np.zeros((*cosine.shape, 6), np.float32)
    io[..., 4], io[..., 5] = cosine, 1.0
    return load_trace({"layer_io": io, "sequence": SEQUENCE[: len(cosine)], **more})


def joined(rule: str, *parameters: str) -> str:
    """Return a rule's text with further parameters."""
    return rule + ("," if "=" in rule else ":") + ",".join(parameters)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("full", [0, 1, 4])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 0.5])
def test_rules_are_their_naive_twins(share: float, full: int, ties: bool) -> None:
    cosine = cosines(full, ties)
    trace, listed = trace_of(cosine), cosine.tolist()
    order = naive.influence_order(listed, POSITION, full)
    count = int(share * LAYERS + 1e-9)
    wanted = {
        "drop": naive.fixed(LAYERS, POSITION, {*order[:count]}, full),
        "similarity:by=calibrated": naive.fixed(LAYERS, POSITION, {*order[:count]}, full),
        "unified": naive.fixed(
            LAYERS, POSITION, naive.unified(LAYERS, count) if count else set(), full
        ),
        "early-exit": naive.fixed(LAYERS, POSITION, {*range(LAYERS - count, LAYERS)}, full),
        "skipdecode": naive.skipdecode(LAYERS, POSITION, share, 30, 1, full),
        "similarity:by=oracle": naive.similarity(listed, POSITION, share, 0, full, False),
        "similarity:by=previous": naive.similarity(listed, POSITION, share, 0, full, True),
        "similarity:by=oracle,partial=.3": naive.similarity(
            listed, POSITION, share, 0.3, full, False
        ),
        "early-exit:by=saturation,behind=3": naive.early_exit(listed, POSITION, share, 3, full),
    }
    for rule, modes in wanted.items():
        decided = decide(joined(rule, f"share={share}", f"full={full}"), trace)
        assert decided.dtype == np.uint8
        np.testing.assert_array_equal(decided, modes, err_msg=rule)


@pytest.mark.parametrize("rule", VARIANTS)
def test_share_0_is_dense(rule: str) -> None:
    assert (decide(joined(rule, "share=0"), trace_of(cosines(1))) == FULL).all()


@pytest.mark.parametrize("rule", VARIANTS)
def test_first_tokens_run_fully_and_no_more_than_the_share_is_skipped(rule: str) -> None:
    trace = trace_of(cosines(2))
    for share in (0.1, 0.3, 0.5):
        modes = decide(joined(rule, f"share={share}", "full=2"), trace)
        assert (modes[ROWS.position < 2] == FULL).all()
        skipped = (modes[ROWS.position >= 2] == SKIP).mean()
        if rule == "skipdecode":  # sequences of other lengths than the longest
            assert 0 < skipped < 2 * share
        else:
            assert share - 0.01 <= skipped <= share
    later = decide(joined(rule, "share=.5"), trace)
    assert set(np.unique(later)) == {SKIP, FULL}


def test_partial_layers_lie_below_the_skipped_ones() -> None:
    cosine = cosines(3)
    modes = decide("similarity:share=.2,partial=.3,full=0", trace_of(cosine))
    skipped, partial, full = (cosine[modes == mode] for mode in (SKIP, PARTIAL, FULL))
    assert len(skipped) == 0.2 * cosine.size
    assert len(partial) == 0.3 * cosine.size
    assert skipped.min() > partial.max() > partial.min() > full.max()


def test_more_is_skipped_with_a_larger_share() -> None:
    trace = trace_of(cosines(4))
    for rule in ("drop", "early-exit", "skipdecode", "similarity", "early-exit:by=saturation"):
        masks = [decide(joined(rule, f"share={s}"), trace) == SKIP for s in (0.1, 0.3, 0.5)]
        for less, more in itertools.pairwise(masks):
            assert (more | ~less).all()


def test_by_the_token_before_a_sequence_begins_anew() -> None:
    """Of two sequences one after the other each has the modes that it has alone, at one tau."""
    cosine = cosines(5)
    rule = load_rule("similarity:by=previous,full=0,share=.3")
    schedule = rule.fit(Calibration(LAYERS, ROWS, cosine))
    modes = modes_of(schedule, ROWS, LAYERS, cosine)
    alone = modes_of(schedule, ROWS.window(30, 39), LAYERS, cosine[30:39])
    np.testing.assert_array_equal(modes[30:39], alone)
    assert (modes[30] == FULL).all()
    np.testing.assert_array_equal(
        modes[31:39] == SKIP,
        cosine[30:38] > schedule.tau,  # type: ignore[attr-defined]
    )


def test_a_rule_is_fitted_to_one_part_and_decides_for_all() -> None:
    cosine = cosines(6)
    cosine[30:] *= 0.5
    fitted = decide("similarity:share=.4", trace_of(cosine), calibrate="0:30")
    assert (fitted[30:] == FULL).all()
    assert (fitted[1:30] == SKIP).mean() == pytest.approx(0.4, abs=0.01)


def test_unified_of_thirty_layers() -> None:
    """The layers whose perplexity docs/tables/layer_skipping.py measures."""
    rows = Tokens.of(np.ones(1, np.uint8), np.zeros(1, np.int32))
    for count, layers in ((3, [5, 15, 25]), (6, [2, 7, 12, 17, 22, 27])):
        schedule = load_rule(f"unified:layers={count},full=0").fit(Calibration(30, rows))
        assert np.flatnonzero(modes_of(schedule, rows, 30, None)[0] == SKIP).tolist() == layers


def test_layers_are_named_or_counted() -> None:
    trace = trace_of(cosines(7))
    skipped = {
        rule: np.flatnonzero(decide(rule, trace)[-1] == SKIP).tolist()
        for rule in ("drop:layers=6-8", "drop:layers=1+4-5", "drop:layers=3", "early-exit:layers=2")
    }
    order = naive.influence_order(cosines(7).tolist(), POSITION, 1)
    assert list(skipped.values()) == [[6, 7, 8], [1, 4, 5], sorted(order[:3]), [8, 9]]
    bare = load_trace({"layer_mode": np.full((4, LAYERS), FULL, np.uint8)})
    assert (decide("drop:layers=2-3", bare)[1:, 2:4] == SKIP).all()
    assert (decide("unified:share=.5", bare)[1:] == SKIP).mean() == 0.5


def test_skipdecode_falls_linearly() -> None:
    rows = Tokens.of(np.ones(101, np.uint8), np.zeros(101, np.int32))
    schedule = load_rule("skipdecode:share=.25,full=0").fit(Calibration(20, rows))
    modes = modes_of(schedule, rows, 20, None)
    running = (modes == FULL).sum(axis=1)
    assert (running[0], running[50], running[100]) == (20, 15, 10)
    assert (np.diff(running) <= 0).all()
    assert (modes == SKIP).mean() == pytest.approx(0.25, abs=0.005)
    assert (modes[:, 0] == FULL).all()
    assert np.flatnonzero(modes[100] == SKIP).tolist() == list(range(1, 11))


def test_recorded_decisions_are_taken_as_they_are() -> None:
    modes = np.random.default_rng(0).choice([0, 2, 5, 8, 10], (TOKENS, LAYERS)).astype(np.uint8)
    trace = trace_of(cosines(0), layer_mode=modes)
    np.testing.assert_array_equal(decide("recorded", trace), modes)
    np.testing.assert_array_equal(decide("recorded", trace.part("5:9", "2:4")), modes[5:9, 2:4])
    with pytest.raises(TraceError, match="holds no layer_mode"):
        decide("recorded", trace_of(cosines(0)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dropp", "no layer rule 'dropp': use one of drop, unified"),
        (
            "drop:shares=.2",
            "'shares' is given twice, empty or unknown; parameters of drop are share",
        ),
        ("drop:share=.2,share=.3", "'share' is given twice"),
        ("drop:share=", "'share' is given twice, empty"),
        ("drop:share=much", "share is a number, not 'much'"),
        ("drop:full=1.5", "full is a whole number, not '1.5'"),
        ("drop:share=1.5", r"share=1\.5 is outside 0\.\.1"),
        ("drop:share=nan", r"share=nan is outside 0\.\.1"),
        ("drop:full=-1", "full=-1 is below 0"),
        ("similarity:by=magic", "by=magic: give oracle, previous or calibrated"),
        ("similarity:share=.6,partial=.6", r"share \+ partial=1\.2 is outside"),
        ("early-exit:by=luck", "by=luck: give fixed or saturation"),
        ("early-exit:by=saturation,behind=0", "behind from 1 on"),
        ("skipdecode:share=.7", r"which must lie in 0\.\.most"),
        ("skipdecode:length=-1", "length and behind are 0 or more"),
        (3, "give a name, file.py:attribute or a LayerRule"),
    ],
)
def test_bad_rules_are_refused_in_a_line(given: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message) as problem:
        load_rule(given)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("drop:layers=11", "layers=11, the model has 10"),
        ("drop:layers=8-10", "layers=8-10: layers are 0 to 9"),
        ("drop:layers=5-3", "layers=5-3: layers are 0 to 9"),
        ("drop:layers=x", "layers=x: give a number"),
        ("unified:layers=2-3", "layers=2-3: give a number"),
        (
            "early-exit:by=saturation,share=.95",
            r"at most 0\.9 of the layers lie behind the first 1",
        ),
        ("drop:full=99", "full=99: exempts all 60 tokens"),
        ("similarity:full=99", "full=99: exempts all tokens"),
    ],
)
def test_rules_that_do_not_fit_the_trace_are_refused(given: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        decide(given, trace_of(cosines(0)))


def test_states_that_a_trace_lacks_are_named_with_the_command() -> None:
    trace = load_trace({"glu": np.ones((4, 3, 5), np.float32)})
    for rule in ("drop", "similarity", "similarity:by=calibrated", "early-exit:by=saturation"):
        with pytest.raises(TraceError, match=r"dipsim record MODEL .* --signals layer_io"):
            decide(rule, trace)
    for rule in ("unified", "skipdecode", "early-exit"):
        assert decide(rule, trace).shape == (4, 3)


def test_a_rule_of_a_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from dipsim.layers import LayerRule\n"
        "from dipsim.layers.fixed import FixedLayers\n"
        "@dataclass(frozen=True)\n"
        "class Last(LayerRule):\n"
        "    name: ClassVar[str] = 'last'\n"
        "    count: int = 1\n"
        "    def fit(self, calibration):\n"
        "        layers = calibration.layers\n"
        "        return FixedLayers(frozenset(range(layers - self.count, layers)), 0)\n"
        "rule = Last()\n"
    )
    trace = trace_of(cosines(0))
    given = f"{tmp_path}/mine.py:rule"
    assert (decide(given, trace)[:, -2:] == [FULL, SKIP]).all()
    assert (decide(f"{given}:count=2", trace)[:, -2:] == SKIP).all()
    with pytest.raises(DipsimError, match=r"no dipsim\.LayerRule named 'other'"):
        decide(f"{tmp_path}/mine.py:other", trace)
