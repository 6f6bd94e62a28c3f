"""Reading ahead: what is guessed, issued, used and wasted, against a naive twin; and how runs ask
for it, for an engine and for heat."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim as package
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.settings import make_settings
from naive import replay as naive
from naive import time as naive_time
from naive.draws import hash64
from tools.cli import Dipsim, done, refused
from tools.three_layers import DEVICE, HIDDEN, LAYERS, MODEL, POINTS, UNIT_BYTES, UNITS, scores

CURVE = [(size, size / (size / seconds)) for size, seconds in POINTS]


def run(arrays: Mapping[str, Any], **options: Any) -> package.Result:
    given = {"group_density": {"mlp_input": 0.5, "glu": 0.4}, "cache": "900 B", "policy": "lru"}
    return package.simulate(arrays, DEVICE, **{**given, **options})


# Against the twin -------------------------------------------------------------------------------


class Twin:
    """One layer and group: masks and residents of every row, and what each guess then costs."""

    def __init__(self, arrays: Mapping[str, Any], result: package.Result, i: int) -> None:
        self.arrays, self.result, self.i = arrays, result, i
        self.name = list(UNITS)[i]
        self.masks: list[list[list[int]]] = []  # [layer][row]
        self.before: list[list[set[int]]] = []
        self.rows: list[list[naive.Row]] = []

    def replay(self, policy: str, gamma: float, prefill: str, reset: str) -> None:
        units, phase = UNITS[self.name], self.arrays["phase"]
        k = naive.kept_units({"mlp_input": 0.5, "glu": 0.4}[self.name], units)
        actions = ["commit"] * len(phase)
        for t in np.flatnonzero(phase == 0):
            ends = t + 1 == len(phase) or phase[t + 1] == 1
            actions[t] = "skip" if prefill == "stream" else "commit" if ends else "join"
        half = len(phase) // 2
        assert self.result.traffic.capacity is not None
        for layer in range(LAYERS):
            before: list[set[int]] = []
            skipped = iter([t for t, action in enumerate(actions) if action != "skip"])

            def choose(
                row: Any,
                resident: Any,
                _: Any,
                before: list[set[int]] = before,
                skipped: Any = skipped,
            ) -> list[int]:
                before += [set()] * (next(skipped) - len(before))
                before.append(set(resident))
                return naive.top_k(row, k, resident, gamma)

            rows = naive.replay(
                self.arrays[self.name][:, layer].tolist(),
                units,
                int(self.result.traffic.capacity[layer, self.i]),
                policy,
                actions=actions,
                resets=[half] if reset == "sequence" else [],
                layer=layer,
                group=self.i,
                choose=choose,
            )
            before += [set()] * (len(phase) - len(before))
            self.rows.append(rows)
            self.before.append(before)
            # A streamed prompt has no mask; that of a joined batch counts at its end.
            self.masks.append([row.chosen for row in rows])

    def guess(self, how: str, layer: int, row: int) -> set[int]:
        """What is guessed of a decode row."""
        phase, half = self.arrays["phase"], len(self.arrays["phase"]) // 2
        if how == "previous":
            follows = row not in (0, half) and phase[row - 1] == 1
            return set(self.masks[layer][row - 1]) if follows else set()
        if how == "next-layer":
            below = layer > 0 and self.name == "mlp_input"
            return set(self.masks[layer - 1][row]) if below else set()
        share = float(how.partition("=")[2])
        seed = hash64(0, layer, self.i)
        needed = set(self.masks[layer][row])
        return naive_time.draw_guesses(needed, UNITS[self.name], share, seed, row)

    def check(self, how: str) -> None:
        """Every count and cost of the result is the twin's."""
        traffic, device = self.result.traffic, self.device()
        assert traffic.ahead is not None
        for layer in range(LAYERS):
            for row, phase in enumerate(self.arrays["phase"]):
                here = row, layer, self.i
                found = self.rows[layer][row]
                assert (traffic.active[here], traffic.hits[here]) == (found.active, found.hits)
                guessed = self.guess(how, layer, row) if phase == 1 else set()
                issued = guessed - self.before[layer][row]
                missed = set(found.missed)
                assert traffic.ahead.issued[here] == len(issued), (here, guessed)
                assert traffic.ahead.used[here] == len(issued & missed)
                early = naive.requests(issued, **device)
                late = naive.requests(missed - guessed, **device)
                assert (traffic.ahead.reads[here], traffic.ahead.moved[here]) == early[:2]
                assert (traffic.reads[here], traffic.moved[here]) == late[:2]
                assert traffic.ahead.flash_seconds[here] == pytest.approx(early.seconds)
                assert traffic.flash_seconds[here] == pytest.approx(late.seconds)

    def device(self) -> dict[str, Any]:
        size = float(UNIT_BYTES[self.name])
        return {
            "units": UNITS[self.name],
            "size": size,
            "stride": size,
            "align": 16.0,
            "curves": {1: CURVE},
            "lanes": 1,
            "sequential_bandwidth": 256 / 3.0,
            "sequential_read": 256.0,
        }


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**16),
    how=st.sampled_from(["previous", "next-layer", "right=1", "right=.5", "right=.18", "right=0"]),
    rule=st.sampled_from([("lru", 1.0), ("lfu", 1.0), ("lfu", 0.4)]),
    prefill=st.sampled_from(["stream", "cache"]),
    reset=st.sampled_from(["never", "sequence"]),
)
@settings(max_examples=40)
def test_the_twin_reads_the_same_ahead(
    seed: int, how: str, rule: tuple[str, float], prefill: Any, reset: Any
) -> None:
    policy, gamma = rule
    arrays = scores(seed, 16)
    method: dict[str, Any] = {"method": "dip"}
    if gamma != 1:
        method = {"method": "dip-ca", "gamma": gamma}
    options = {"policy": policy, "prefill": prefill, "reset": reset, **method}
    result = run(arrays, prefetch=how, **options)
    for i in range(2):
        twin = Twin(arrays, result, i)
        twin.replay(policy, gamma, prefill, reset)
        twin.check(how)
    counts = result.prefetch
    assert counts is not None
    assert counts["issued"] == counts["used"] + counts["wasted"]
    if how in ("right=1", "right=0"):
        assert counts["wasted" if how == "right=1" else "used"] == 0


# Laws -------------------------------------------------------------------------------------------


def same_capacity(arrays: Mapping[str, Any], **options: Any) -> tuple[package.Result, ...]:
    """Runs without and with reading ahead whose caches hold the same, less than a token needs."""
    size = 320 if options["method"] == "glu" else 700
    ahead = run(arrays, prefetch="previous", cache=f"{size} B", **options)
    plain = run(arrays, cache=f"{size - ahead.budget.buffer} B", **options)
    assert ahead.traffic.capacity is not None
    assert plain.traffic.capacity is not None
    assert ahead.traffic.capacity.tolist() == plain.traffic.capacity.tolist()
    return plain, ahead


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ("dip", "lru"),
        ("glu", "lfu"),
        pytest.param("dip-ca", "lfu", marks=pytest.mark.slow),
        pytest.param("dip", "s3fifo", marks=pytest.mark.slow),
        pytest.param("dip-ca", "s3fifo", marks=pytest.mark.slow),
        pytest.param("dip", "opt", marks=pytest.mark.slow),
    ],
)
def test_reading_ahead_changes_no_hit(method: str, policy: str) -> None:
    density = {"group_density": {"glu": 0.4}} if method == "glu" else {}
    plain, ahead = same_capacity(scores(1, 20), method=method, policy=policy, **density)
    for name in ("active", "hits", "kept"):
        one, other = (getattr(result.traffic, name) for result in (plain, ahead))
        np.testing.assert_array_equal(one, other)
    counts = ahead.prefetch
    assert counts is not None
    assert counts["used"] > 0
    assert counts["wasted"] > 0
    assert plain.prefetch is None


def test_what_the_cache_holds_is_not_read_ahead() -> None:
    """With room for a token's units, all that the token before needed is resident."""
    result = run(scores(1, 20), prefetch="previous", cache="2 kB")
    assert result.prefetch == {"issued": 0, "used": 0, "wasted": 0}
    assert result.hits < result.accesses


def test_the_buffer_is_taken_from_the_cache() -> None:
    ahead, plain = run(scores(1, 20), prefetch="previous"), run(scores(1, 20))
    layer = 6 * UNIT_BYTES["mlp_input"] + 8 * UNIT_BYTES["glu"]  # what one layer ever needs
    assert ahead.budget.buffer == layer == plain.budget.cache - ahead.budget.cache
    assert ahead.to_dict()["budget"]["prefetch_buffer"] == layer
    assert ahead.hits < plain.hits


def test_only_a_decode_token_of_the_same_sequence_is_a_guess() -> None:
    # Rows 0, 1 and 8, 9 are prompts: the tokens behind them have no token to guess by.
    ahead = run(scores(2, 16), prefetch="previous").traffic.ahead
    assert ahead is not None
    assert np.flatnonzero(ahead.issued.sum(axis=(1, 2)) == 0).tolist() == [0, 1, 2, 8, 9, 10]


def test_a_dense_group_is_known_beforehand() -> None:
    # Every token needs all neurons, and those that are not resident are read ahead, in order.
    options: dict[str, Any] = {"method": "dense", "group_density": None, "cache": "2 kB"}
    result = run(scores(3, 16), prefetch="previous", **options)
    traffic, decode = result.traffic, scores(3, 16)["phase"] == 1
    assert traffic.ahead is not None
    assert traffic.misses[decode].all()
    np.testing.assert_array_equal(traffic.ahead.issued[decode], traffic.misses[decode])
    np.testing.assert_array_equal(traffic.ahead.used, traffic.ahead.issued)
    assert not traffic.moved[decode].any()
    assert traffic.ahead.moved[decode].sum() == traffic.misses[decode].sum() * 3 * HIDDEN


def test_a_guess_goes_out_when_the_layer_before_begins() -> None:
    """The masks of later groups are not known then: next-layer guesses the first group only."""
    arrays = scores(4, 16)
    attention = {"attn_input": arrays["mlp_input"][..., ::-1].copy()}
    result = run(
        {**arrays, **attention},
        method="teal",
        group_density={"attn_input": 0.5, "mlp_input": 0.5, "glu": 0.4},
        calibrate_tokens="0:4",
        prefetch="next-layer",
    )
    assert result.traffic.groups == ("attn_input", "mlp_input", "glu")
    ahead = result.traffic.ahead
    assert ahead is not None
    assert ahead.issued[:, 1:, 0].any()
    assert not ahead.issued[:, 0].any()
    assert not ahead.issued[:, :, 1:].any()


def test_experts_are_read_ahead() -> None:
    logits = np.random.default_rng(5).normal(size=(12, LAYERS, 8)).astype(np.float32)
    model = {**MODEL, "experts": 8, "experts_per_token": 2}
    arrays = {"expert": logits, "meta": {"model": model}}
    result = run(arrays, group_density=None, prefetch="right=1", cache="10kB")
    assert result.method == "moe"
    assert result.prefetch is not None
    assert result.prefetch["used"] == result.accesses - result.hits > 0
    assert not result.traffic.moved.any()


# Recorded predictions ---------------------------------------------------------------------------


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "preds.npz", **arrays)
    return str(folder / "preds.npz")


def test_predictions_that_are_right_waste_nothing(tmp_path: Path) -> None:
    arrays = scores(6, 16)
    file = saved(tmp_path, **{name: arrays[name] for name in UNITS})
    counts, perfect = (run(arrays, prefetch=how).prefetch for how in (file, "right=1"))
    assert counts == perfect
    assert counts is not None
    assert counts["used"] > 0
    assert counts["wasted"] == 0


@pytest.mark.parametrize("part", [{}, {"tokens": "3:13"}, {"layers": "1:3"}, {"sequence": "1:2"}])
def test_predictions_as_sets(tmp_path: Path, part: dict[str, str]) -> None:
    """The same part of them is used as of the trace, and each is held against what is resident."""
    arrays, rng = scores(7, 16), np.random.default_rng(8)
    guessed = {name: rng.random(arrays[name].shape) < 0.4 for name in UNITS}
    result = run(arrays, prefetch=saved(tmp_path, **guessed), **part)
    rows = slice(*map(int, part.get("tokens", "0:16").split(":")))
    if "sequence" in part:
        rows = slice(8, 16)
    layers = slice(*map(int, part.get("layers", "0:3").split(":")))
    traffic = result.traffic
    assert traffic.ahead is not None
    phase = arrays["phase"][rows]
    for i, name in enumerate(UNITS):
        sets = guessed[name][rows, layers]
        issued, used = traffic.ahead.issued[:, :, i], traffic.ahead.used[:, :, i]
        assert not issued[phase == 0].any()
        assert (issued <= sets.sum(axis=-1)).all()
        assert (used <= np.minimum(issued, traffic.misses[:, :, i])).all()
        first = int(np.argmax(phase == 1))  # nothing is resident yet: all that is guessed is read
        if not traffic.hits[:first].any():
            assert issued[first].tolist() == sets[first].sum(axis=-1).tolist()


def test_predictions_of_experts_as_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    sets = rng.random((12, LAYERS, 8)) < 0.3
    model = {**MODEL, "experts": 8, "experts_per_token": 2}
    arrays = {"expert": sets, "meta": {"model": model}}
    options: dict[str, Any] = {"group_density": None, "cache": "10kB", "method": "recorded"}
    result = run(arrays, prefetch=saved(tmp_path, expert=sets), **options)
    assert result.prefetch is not None
    assert result.prefetch["wasted"] == 0
    assert result.prefetch["used"] == result.accesses - result.hits > 0


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefetch": "right=1.5"}, "a share from 0 to 1"),
        ({"prefetch": "right=-0.1"}, "a share from 0 to 1"),
        ({"prefetch": "right=nan"}, "a share from 0 to 1"),
        ({"prefetch": "right="}, "a share from 0 to 1"),
        ({"prefetch": "rihgt=1"}, "use previous, next-layer, right=SHARE, or a trace"),
        ({"prefetch": ""}, "use previous, next-layer, right=SHARE, or a trace"),
        ({"prefetch": "gone.npz"}, "no trace 'gone.npz'"),
        ({"prefetch": "next-layer", "method": "glu", "group_density": {"glu": 0.4}}, "previous"),
        ({"prefetch": "previous", "overlap": "serial"}, "only --overlap prefetch reads ahead"),
        ({"prefetch": "previous", "scope": "global"}, "--scope layer"),
        ({"prefetch": "previous", "access": "sequential"}, "--access atomic"),
        ({"prefetch": "previous", "engine": "closed"}, "use --engine events"),
        ({"prefetch": "previous", "allocate": "optimal"}, "drop one of them"),
        ({"prefetch": "previous", "cache": "100 B"}, "reads ahead need a buffer of 336 B"),
        ({"overlap": "prefetch", "compat": "authors"}, "use paper-concurrent or paper-serial"),
        ({"thermal": "sustained"}, "thermal.after=60s"),
        ({"thermal": "sustained", "engine": "closed"}, "use --engine events"),
        ({"thermal": "sustained", "overlap": "paper-serial"}, "no heat"),
        ({"thermal": "warm"}, "--thermal"),
        ({"engine": "simpy"}, "--engine"),
    ],
)
def test_one_line_says_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError) as problem:
        run(scores(0, 12), **options)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("budget", [{"cache": "2kB"}, {"cache_fraction": 0.9}, {"dram": "100%"}])
def test_the_buffer_holds_predictions_of_more_than_is_needed(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    arrays = scores(7, 16)
    everything = {name: np.ones(arrays[name].shape, bool) for name in UNITS}
    few, many = (
        run(arrays, prefetch=how, **{"cache": None, **budget})
        for how in ("right=1", saved(tmp_path, **everything))
    )
    layer = float((np.array(list(UNITS.values())) * many.unit_bytes[0]).sum())
    assert many.budget.buffer == layer > few.budget.buffer
    held = few.budget.cache + few.budget.buffer
    assert many.budget.cache + many.budget.buffer == pytest.approx(held)


def test_predictions_of_another_shape(tmp_path: Path) -> None:
    arrays = scores(0, 12)
    wrong = {
        "0 of the 20 units of glu".replace("0 of", "none of"): {"mlp_input": arrays["mlp_input"]},
        "11 of the 12 units of mlp_input": {"mlp_input": arrays["mlp_input"][..., 1:]},
        "predictions of 8 tokens in 3 layers, the run has 12 in 3": {
            name: arrays[name][:8] for name in UNITS
        },
        "predictions of 12 tokens in 2 layers, the run has 12 in 3": {
            name: arrays[name][:, :2] for name in UNITS
        },
    }
    for said, given_ in wrong.items():
        with pytest.raises(DipsimError, match=said) as problem:
            run(arrays, prefetch=saved(tmp_path, **given_))
        assert "\n" not in str(problem.value)
    sets = {name: arrays[name] > 1 for name in UNITS}
    with pytest.raises(DipsimError, match="needs sets"):
        run(
            {**arrays, **sets, "meta": {"model": MODEL, "signals": SLICES}},
            method="recorded",
            group_density=None,
            prefetch=saved(tmp_path, **{name: arrays[name] for name in UNITS}),
        )


SLICES = {"mlp_input": {"slices": ["gate", "up"]}, "glu": {"slices": ["down"]}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("thermal.after=1s -s thermal.flash=0", "greater than or equal to 0.001"),
        ("thermal.after=1s -s thermal.compute=0", "greater than or equal to 0.001"),
        ("thermal.after=1s -s thermal.flash=1.5", "less than or equal to 1"),
        ("thermal.after=-1s", "thermal.after"),
        ("thermal.flash=0.5", "thermal.after is missing"),
        ("thermal.after=60", "thermal.after"),
        ("dram.background=60GB/s", "background takes all the bandwidth"),
        ("dram.background=-1GB/s", "dram.background"),
        ("dram.background=1", "dram.background"),
    ],
)
def test_profiles_that_make_no_sense(dipsim: Dipsim, change: str, said: str) -> None:
    refused(dipsim(f"run t.npz --profile phone.yaml -s {change}"), said)


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "--prefetch previous",
        "--prefetch right=.5 --seed 3",
        "--prefetch right=.5 --prefetch-into cache --prefetch-guard .4 --prefetch-depth 2",
        "--prefetch t.npz --prefetch-cut .6",
        "--overlap prefetch",
        "--prefetch t.npz --tokens 2:9",
        "--thermal sustained -s thermal.after=1ms -s thermal.flash=.5",
        "--engine events -s dram.background=20GB/s",
    ],
)
def test_a_result_repeats_its_run(
    dipsim: Dipsim, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(dipsim(f"run t.npz --profile phone.yaml --cache-fraction .7 {options} --json"))
    result = tmp_path / "result.json"
    result.write_text(first.out)
    monkeypatch.chdir(tmp_path)  # files are named by their full path
    assert done(dipsim(f"run --config {result} --json")).out == first.out


def test_a_repeated_run_may_stop_reading_ahead(dipsim: Dipsim, tmp_path: Path) -> None:
    line = "run t.npz --profile phone.yaml --cache-fraction .7 --json"
    result = tmp_path / "result.json"
    result.write_text(done(dipsim(f"{line} --prefetch right=.5")).out)
    assert done(dipsim(f"run --config {result} --overlap pipelined --json")).json == (
        done(dipsim(f"{line} --overlap pipelined")).json
    )
    again = done(dipsim(f"run --config {result} --prefetch previous --json")).json
    assert again["config"]["settings"]["prefetch"] == "previous"


def test_reading_ahead_is_in_the_table(dipsim: Dipsim) -> None:
    line = "run t.npz --profile phone.yaml --cache-fraction .7 --prefetch right=.5"
    text = done(dipsim(f"{line} --details")).out
    assert "read ahead" in done(dipsim(line)).out
    found = done(dipsim(f"{line} --json")).json
    counts = found["prefetch"]
    assert counts["issued"] == counts["used"] + counts["wasted"]
    assert "read ahead" in text
    assert f"{counts['used'] / counts['issued']:.1%} of them used" in text
    assert "read-ahead buffer" in text
    assert found["engine"] == "events"


def test_hot_and_cold(dipsim: Dipsim) -> None:
    """Cold stands beside hot whenever the profile says how the device throttles."""
    hot = "-s thermal.after=0s -s thermal.flash=.5 -s thermal.compute=.5"
    line = "run t.npz --profile phone.yaml --cache-fraction .3 --json"
    plain, cold = done(dipsim(line)).json, done(dipsim(f"{line} {hot}")).json
    assert (plain["thermal"], plain["engine"]) == (None, "closed")
    assert cold["engine"] == "closed"
    assert cold["tokens_per_second"] == cold["thermal"]["cold"] == plain["tokens_per_second"]
    assert cold["thermal"]["sustained"] < cold["thermal"]["cold"]
    sustained = done(dipsim(f"{line} {hot} --thermal sustained")).json
    assert sustained["engine"] == "events"
    assert sustained["thermal"] == pytest.approx(cold["thermal"], rel=1e-9)
    assert sustained["tokens_per_second"] == pytest.approx(cold["thermal"]["sustained"], rel=1e-9)
    # It gets hot half way: slower than cold, faster than hot from the start.
    later = hot.replace("0s", f"{0.5 * cold['tokens'] / plain['tokens_per_second']}s")
    between = done(dipsim(f"{line} {later} --thermal sustained")).json
    assert cold["thermal"]["sustained"] < between["tokens_per_second"]
    assert between["tokens_per_second"] < cold["thermal"]["cold"]
    shown = done(dipsim(f"{line.removesuffix(' --json')} {hot}")).out
    assert re.search(r"^hot device +[\d.]+ tok/s$", shown, re.MULTILINE)
    assert done(dipsim(f"{line} {hot} --overlap paper-serial")).json["thermal"] is None


def test_traffic_of_others_is_felt(dipsim: Dipsim) -> None:
    line = "run t.npz --profile phone.yaml --cache-fraction .5 --json"
    rates = []
    for taken in (0, 20, 40, 55):  # of 60 GB/s
        found = done(dipsim(f"{line} -s dram.background={taken}GB/s")).json
        assert found["engine"] == ("events" if taken else "closed")
        rates.append(found["tokens_per_second"])
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.05 * rates[-1]


def test_settings_name_the_guesses() -> None:
    assert make_settings({"overlap": "prefetch"}).prefetch == "previous"
    assert make_settings({"prefetch": "right=1"}).overlap == "prefetch"
    assert make_settings({}).prefetch is None


def test_the_profile_of_a_phone_that_throttles() -> None:
    thermal = load_profile("oneplus15r").thermal
    assert thermal is not None
    assert (thermal.after, thermal.flash, thermal.compute) == (60, 0.67, 0.6)
    assert load_profile("snapdragon8").thermal is None
