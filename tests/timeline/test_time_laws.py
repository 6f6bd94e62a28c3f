"""Laws that the times of every run obey, on random small runs: what is faster, and what is equal.

Each law takes a setting, drawn from a seed, and compares two or three runs of it. A part of the
settings is drawn in every run of the tests, the others in the slow ones.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.hardware import Profile, load_profile
from dipsim.timeline.prefill import prompts_of
from dipsim.timeline.steps import rates
from tools import three_layers
from tools.random_runs import Setting, draw_setting

SLACK = 1.001
"""How many times as long a run may take that should not take longer."""
EXACT = 1 + 1e-9
BY_CHANCE = 1.02
Law = Callable[[Random], None]
ENGINES = ("closed", "events")


def never_slower(slow: Iterable[float], fast: Iterable[float], slack: float = SLACK) -> None:
    """Check times, run by run."""
    for before, after in zip(slow, fast, strict=True):
        assert after <= before * slack


def with_both(setting: Setting, **how: Any) -> list[float]:
    """Return seconds of a token by either engine."""
    return [setting.seconds(engine=engine, **how) for engine in ENGINES]


# Never slower -------------------------------------------------------------------------------------


def more_dram(draw: Random) -> None:
    """More DRAM is never slower, if its caches keep what smaller ones do.

    LRU does once there is room for all that one token needs of a group; below that, what a token
    evicts depends on the order of its own units, and a larger cache may hit less. LFU and the
    method dip-ca, whose masks depend on what is resident, give no such promise. ``none`` keeps
    nothing: then only what is static gains.
    """
    setting = draw_setting(draw, ("dense", "glu", "dip", "moe", "none", "none"))
    options = {key: value for key, value in setting.options.items() if key != "cache_fraction"}
    setting = setting._replace(options=options)
    policy = draw.choice(("lru", "none"))
    setting = setting.using(policy=policy)
    empty = setting.run(cache_fraction=0.0)
    budget, units = empty.budget, np.array([group.units for group in empty.run.method.groups])
    least = 0.0
    if policy == "lru" and options["method"] != "dense":
        least = float((empty.traffic.active.max(axis=0) / units).max())
    fixed = budget.kv + budget.static.total
    low = fixed + least * budget.units_bytes if least else budget.kv
    high = min(fixed + budget.units_bytes, empty.run.device.dram.available)
    if low > high:
        return
    less, more = sorted(draw.uniform(low, high) for _ in range(2))
    small, large = (with_both(setting, dram=dram + 1) for dram in (less, more))
    never_slower(small, large)


def more_lanes(draw: Random) -> None:
    """More reads in flight are never slower: who has many lanes may keep fewer of them busy."""
    setting = draw_setting(draw)
    few, many = sorted(draw.sample((1, 2, 3, 4, 8), 2))
    few_lanes, many_lanes = (
        with_both(setting, overrides={"flash.lanes": str(lanes)}) for lanes in (few, many)
    )
    never_slower(few_lanes, many_lanes)


def faster_flash(draw: Random) -> None:
    setting = draw_setting(draw)
    faster = setting.with_flash(draw.choice((1.01, 1.3, 2, 10, 100)))
    never_slower(with_both(setting), with_both(faster))


def faster_dram(draw: Random) -> None:
    setting = draw_setting(draw)
    peak = setting.profile.dram.bandwidth
    faster = {"dram.bandwidth": f"{peak * draw.choice((1.01, 1.3, 2, 10))} B/s"}
    never_slower(with_both(setting), with_both(setting, overrides=faster))


def less_depth(draw: Random) -> None:
    setting = draw_setting(draw)
    low, high = sorted(draw.randrange(500) for _ in range(2))
    never_slower(with_both(setting, depth=high), with_both(setting, depth=low))


def smaller_fixed_costs(draw: Random) -> None:
    setting = draw_setting(draw)
    name = draw.choice(("per_layer", "per_mask", "per_score"))
    key = f"{setting.backend}.{name}"
    low, high = sorted(draw.choice((0, 1e-5, 1e-3, 0.1, 2)) for _ in range(2))
    cheap, costly = (with_both(setting, overrides={key: f"{s} s"}) for s in (low, high))
    never_slower(costly, cheap, EXACT)


def fewer_kv_bits(draw: Random) -> None:
    setting = draw_setting(draw)
    few, many = sorted(draw.uniform(1, 32) for _ in range(2))
    never_slower(with_both(setting, kv_bits=many), with_both(setting, kv_bits=few))


def less_background(draw: Random) -> None:
    setting = draw_setting(draw)
    peak = setting.profile.dram.bandwidth
    idle, busy = (
        setting.seconds({"dram.background": f"{share * peak} B/s"}, engine="events")
        for share in sorted(draw.uniform(0, 0.95) for _ in range(2))
    )
    assert idle <= busy * SLACK


def cold_before_hot(draw: Random) -> None:
    setting = draw_setting(draw)
    heat = setting.profile.thermal
    if heat is None:
        return
    after = {"thermal.after": f"{draw.choice((0, 1e-3, 3, 60))} s"}
    cold = setting.run(after, engine="events")
    hot = setting.run(after, thermal="sustained")
    assert cold.timing.times.latency.sum() <= hot.timing.times.latency.sum() * EXACT
    for result in (cold, hot, setting.run(after, engine="closed")):
        assert result.timing.thermal is not None
        assert result.timing.thermal[1] <= result.timing.thermal[0] * EXACT
    more = {**after, "thermal.compute": "0.2", "thermal.flash": "0.2"}
    if heat.compute >= 0.2 and heat.flash >= 0.2:
        assert setting.seconds(more, thermal="sustained") >= hot.timing.times.latency.mean() / EXACT


# Equal --------------------------------------------------------------------------------------------


def engines_agree(draw: Random) -> None:
    """Where ``auto`` takes the closed form, events give the same; with memory pressure too."""
    setting = draw_setting(draw)
    overrides = {}
    if draw.random() < 0.5:  # little of DRAM is available, so a part is paged
        taken = setting.run(cache_fraction=1.0).budget.total
        available = draw.uniform(0.3, 1) * min(taken, setting.profile.dram.available)
        overrides = {"dram.available": f"{available} B"}
    auto, events = (setting.run(overrides, engine=engine) for engine in ("auto", "events"))
    one, other = (result.timing.times.exposed for result in (auto, events))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-15)
    assert auto.timing.ttft == (events.timing.ttft and pytest.approx(events.timing.ttft, rel=1e-9))
    bands = auto.timing.rate_range, events.timing.rate_range
    assert bands[0] == pytest.approx(bands[1], rel=1e-9)


def keeping_everything_costs_the_masks(draw: Random) -> None:
    """Warm, with density 1, dense, glu and dip differ by choosing their masks alone.

    In closed form: where others take their part of DRAM, events slow a step down by its mean
    rate, and glu uses weights in a step with KV that dense uses in one of their own.
    """
    setting = draw_setting(draw, ("dip",)).using(
        cache_fraction=1.0,
        warmup=1,
        layout=None,
        policy="lru",
        reset="never",
        prefill=None,
        engine="closed",
    )
    setting.options.pop("density")
    assert setting.trace is not None
    setting.trace["meta"].pop("signals", None)  # what is not chosen from takes what the model says
    backend = setting.profile.backend(None)[1]
    dense = setting.run(method="dense")
    sizes = {"glu": [three_layers.INTERMEDIATE], "dip": list(three_layers.UNITS.values())}
    for method, units in sizes.items():
        pruned = setting.run(method=method, density=1.0)
        masks = three_layers.LAYERS * sum(map(backend.mask_seconds, units))
        more = pruned.timing.times.latency - dense.timing.times.latency
        np.testing.assert_allclose(
            more, masks, rtol=1e-6, atol=1e-9 * dense.timing.times.latency.max()
        )


# Prompts ------------------------------------------------------------------------------------------


def longer_prompts(draw: Random) -> None:
    """A prompt takes longer the longer it is, in proportion at least where compute binds, and the
    more tokens are before it; the first token comes behind it."""
    setting = draw_setting(draw, ("none",))
    short = draw.randint(1, 400)
    long = short * draw.randint(2, 9)
    depth = draw.randrange(300)
    base, longer, deeper = (
        setting.run(prompt=prompt, depth=before)
        for prompt, before in ((short, depth), (long, depth), (short, depth + 200))
    )
    seconds = [result.timing.prefill.seconds for result in (base, longer, deeper)]  # type: ignore[union-attr]
    assert seconds[0] <= seconds[1] * EXACT
    assert seconds[0] <= seconds[2] * EXACT
    compute = [_compute_seconds(result) for result in (base, longer)]
    assert compute[1] >= compute[0] * (long / short) / EXACT
    for result, each in zip((base, longer, deeper), seconds, strict=True):
        assert result.timing.ttft == pytest.approx(each + result.timing.times.latency[0])
        assert each >= _compute_seconds(result) / EXACT


def _compute_seconds(result: Any) -> float:
    """Return the seconds of a prompt that its FLOP take."""
    return float(np.sum(prompts_of(result.run, result.traffic).flops) / rates(result.run).flops)


def resident_prompts(draw: Random) -> None:
    """The prompt of a model that is in DRAM does not depend on the flash."""
    setting = draw_setting(draw, ("none", "glu", "dip")).using(cache_fraction=1.0, prefill=None)
    if setting.trace is None:
        setting = setting.using(prompt=draw.randint(1, 300))
    other = setting.with_flash(draw.choice((0.01, 0.5, 30)))
    one, two = (each.run().timing.prefill for each in (setting, other))
    assert one is not None
    assert one == two


# The interval -------------------------------------------------------------------------------------


def interval_holds_rates(draw: Random) -> None:
    """The interval holds the rate, with no and with all overlap; a number's ends hold it too."""
    result = draw_setting(draw).run(engine=draw.choice(("auto", *ENGINES)))
    interval, timing = result.interval, result.timing
    assert interval is not None
    slow, fast = timing.rate_range
    assert interval.low <= slow <= timing.rate * EXACT
    assert timing.rate <= fast * EXACT <= interval.high * EXACT**2
    assert interval.low <= timing.rate <= interval.high
    for number in interval.first_to_measure:
        if number.key.endswith(".overlap_factor"):  # any share, however near to 0 or 1 it is
            continue
        assert number.low <= timing.rate * EXACT
        assert timing.rate <= number.high * EXACT


def _sourced(profile: Profile, kind: str, spread: float | None) -> Profile:
    """Return a profile whose numbers all have one source."""
    source = {"kind": kind, "from": "a test"} | ({} if spread is None else {"spread": spread})
    plain = profile.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return load_profile({**plain, "sources": {key: source for key, _ in profile.numbers()}})


def interval_follows_spreads(draw: Random) -> None:
    """The interval narrows as numbers become measured, and wider spreads never narrow it.

    It rests on 300 draws, in which numbers seem to move together a little by chance.
    """
    setting = draw_setting(draw)
    low, high = sorted(draw.choice((0, 0.05, 0.3, 1, 3)) for _ in range(2))
    kinds = [("measured", None), ("estimate", None), ("measured", low), ("measured", high)]
    widths = []
    for kind, spread in kinds:
        each = setting._replace(profile=_sourced(setting.profile, kind, spread)).run().interval
        assert each is not None
        widths.append(each.high / each.low)
    assert widths[0] <= widths[1] * BY_CHANCE
    assert widths[2] <= widths[3] * BY_CHANCE


# All of them --------------------------------------------------------------------------------------

LAWS: tuple[Law, ...] = (
    more_dram,
    more_lanes,
    faster_flash,
    faster_dram,
    less_depth,
    smaller_fixed_costs,
    fewer_kv_bits,
    less_background,
    cold_before_hot,
    engines_agree,
    keeping_everything_costs_the_masks,
    longer_prompts,
    resident_prompts,
    interval_holds_rates,
    interval_follows_spreads,
)


def check(law: Law, examples: int) -> None:
    """Check a law on so many settings."""

    @settings(max_examples=examples)
    @given(seed=st.integers(0, 2**32))
    def holds(seed: int) -> None:
        law(Random(seed))

    holds()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_law_holds(law: Law) -> None:
    check(law, 4)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_law_holds_on_many(law: Law) -> None:
    check(law, 40)
