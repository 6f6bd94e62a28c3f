"""Is the timing right? Times worked out by hand, to the last digit."""

import numpy as np
import pytest

import dipsim
from dipsim.errors import BudgetError, MethodError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import load_profile
from tools.one_layer import SETS, TINY, device, trace


def run(profile: dict[str, object], sets: list[set[int]] = SETS, **options: object):
    options = {"policy": "lru", "cache_fraction": 0.25, **options}
    marks = options.pop("marks", {})
    return dipsim.simulate(trace(sets, **marks), profile, **options)


def seconds(result: dipsim.Result) -> list[float]:
    return list(result.timing.times.latency)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        # Static and KV of 3 positions: 200 B / 100 = 2.0 s. Flash 12 B a miss / 10 = 1.2 s.
        ("paper-serial", [2.4 + 2.0, 2.0 + 0.24, 1.2 + 2.0 + 0.12]),
        ("paper-concurrent", [2.4 + 2.0, 2.0 + 0.24, 1.2 + 2.0]),
        # KV of 0, 1, 2 positions: static and KV take 1.52, 1.68, 1.84 s; two units used 0.24 s.
        ("serial", [2.4 + 1.52 + 0.24, 1.68 + 0.24, 1.2 + 1.84 + 0.24]),
        # a = 0.5. First: two reads, so half of E_miss (0.12) can hide. Last: one read hides behind
        # E_hit (0.12) alone.
        (
            "pipelined",
            [2.4 + 0.24 - 0.5 * 0.12 + 1.52, 1.68 + 0.24, 1.2 + 0.24 - 0.5 * 0.12 + 1.84],
        ),
    ],
)
def test_modes(overlap: str, expected: list[float]) -> None:
    assert seconds(run(device(overlap_factor=0.5), overlap=overlap)) == pytest.approx(
        expected, rel=1e-12
    )


def test_band_of_overlap() -> None:
    result = run(device(overlap_factor=0.5))
    none = [2.4 + 0.24 + 1.52, 1.92, 1.2 + 0.24 + 1.84]
    full = [none[0] - 0.12, none[1], none[2] - 0.12]
    assert result.timing.rate_range == pytest.approx((3 / sum(none), 3 / sum(full)), rel=1e-12)
    assert result.timing.rate_range[0] < result.tokens_per_second < result.timing.rate_range[1]


def test_fixed_costs_and_cache_copy() -> None:
    plain = run(device())
    # The layer and the head pay 0.5 s each, choosing among 8 units 0.3 + 8 x 0.025 s; 24, 0 and 12
    # kept bytes are copied.
    costs = {"per_layer": "0.5 s", "per_mask": "0.3 s", "per_score": "25 ms"}
    loaded = run(device(**costs, cache_copy="24 B/s"))
    extra = np.array(seconds(loaded)) - np.array(seconds(plain))
    assert extra == pytest.approx([1.5 + 1.0, 1.5, 1.5 + 0.5])
    assert loaded.time_share["sync"] == pytest.approx(4.5 / sum(seconds(loaded)))
    assert loaded.time_share["management"] == pytest.approx(1.5 / sum(seconds(loaded)))
    assert sum(loaded.time_share.values()) == pytest.approx(1)


def test_paper_modes_know_no_overheads() -> None:
    costs = {"per_layer": "0.5 s", "per_mask": "0.5 s", "per_score": "0.5 s"}
    heavy = device(**costs, cache_copy="24 B/s", compute="1 FLOP/s", dram_efficiency=0.5)
    assert seconds(run(heavy, overlap="paper-serial")) == seconds(
        run(device(), overlap="paper-serial")
    )


def test_kernel_limits() -> None:
    # 64 FLOP/s at one byte and 2 FLOP a weight: 32 B/s, slower than DRAM; KV stays with DRAM.
    slow = run(device(compute="64 FLOP/s"), overlap="serial")
    assert seconds(slow)[1] == pytest.approx((152 + 24) / 32 + 16 / 100)
    assert slow.time_share["compute"] == pytest.approx(3 * 176 / 32 / sum(seconds(slow)))
    half = run(device(dram_efficiency=0.5), overlap="serial")
    assert seconds(half)[1] == pytest.approx((152 + 24 + 16) / 50)
    assert half.time_share["compute"] == 0
    # A measured rate for the weight format decides; it is the kernel's.
    quant = {"format": "q8", "bits": 8, "group": 4, "scale_bytes": 0}
    model = {key: value for key, value in TINY.items() if key != "bits"} | {"quant": quant}
    gemv = run(device(gemv={"q8": "16 B/s"}), overlap="serial", model=model)
    assert seconds(gemv)[1] == pytest.approx((152 + 24) / 16 + 16 / 100)
    assert gemv.time_share["dram"] == pytest.approx((0 + 16 + 32) / 100 / sum(seconds(gemv)))


def test_static_weights_that_do_not_fit_are_streamed() -> None:
    # 3 positions of KV take 48 B of 124; 76 B of the 152 static ones stay, 76 are read at 10 B/s.
    result = run(device(), cache_fraction=None, dram="124 B", overlap="serial")
    assert result.budget.streamed == pytest.approx(76)
    assert not result.traffic.capacity.any()
    assert seconds(result)[1] == pytest.approx(7.6 + 2.4 + (152 + 16 + 24) / 100)
    assert result.flash_bytes_per_token == pytest.approx(76 + 24)
    assert result.flash_useful_bytes_per_token == pytest.approx(24)


def test_untied_embedding_is_read_by_row() -> None:
    untied = TINY | {"tied_embeddings": False}
    result = run(device(), overlap="serial", model=untied)
    tied = run(device(), overlap="serial", model=TINY)
    assert np.array(seconds(result)) - np.array(seconds(tied)) == pytest.approx([0.4] * 3)
    assert result.flash_bytes_per_token - tied.flash_bytes_per_token == pytest.approx(4)
    assert result.flash_reads_per_token - tied.flash_reads_per_token == pytest.approx(1)
    paper = run(device(), overlap="paper-serial", model=untied)
    assert seconds(paper) == seconds(run(device(), overlap="paper-serial"))


def test_prefill_is_streamed_whole() -> None:
    # Two prompt tokens: 96 B of MLP from flash at 10 B/s, then all 248 B of weights from DRAM.
    marks = {"phase": np.array([0, 0, 1], np.uint8)}
    result = run(device(), overlap="serial", marks=marks)
    assert result.tokens == 1
    assert result.timing.prefill is not None
    assert result.timing.prefill.seconds == pytest.approx(9.6 + 2.48)
    assert (result.timing.prefill.accesses, result.timing.prefill.hits) == (0, 0)
    assert result.timing.ttft == pytest.approx(9.6 + 2.48 + 2.4 + (152 + 32 + 24) / 100)
    assert seconds(result) == pytest.approx([2.4 + (152 + 32 + 24) / 100])


def test_prefill_in_the_cache() -> None:
    # The batch is {0, 1}: 24 B from flash, and of the units only they are used (0.24 s of DRAM,
    # beside 1.52 s for what is static); the decode token then finds unit 1.
    marks = {"phase": np.array([0, 0, 1], np.uint8)}
    result = run(device(), overlap="serial", marks=marks, prefill="cache")
    assert result.timing.prefill is not None
    assert result.timing.prefill.seconds == pytest.approx(2.4 + 0.24 + 1.52)
    assert (result.timing.prefill.accesses, result.timing.prefill.hits) == (2, 0)
    assert (result.accesses, result.hits) == (2, 1)


def test_prefill_bound_by_compute() -> None:
    marks = {"phase": np.array([0, 0, 1], np.uint8)}
    model = dipsim.load_model(TINY)
    result = run(device(compute="1 FLOP/s"), overlap="serial", marks=marks)
    assert result.timing.prefill is not None
    # The attention's queries meet 1 + 2 keys and weigh as many values, 4 elements each.
    attention = 2 * 2 * 4 * (1 + 2)
    expected = 9.6 + 2 * model.parameters * 2 + attention
    assert result.timing.prefill.seconds == pytest.approx(expected)


def test_kv_counts_positions_of_its_own_sequence() -> None:
    marks = {"sequence": np.array([0, 0, 1], np.int32)}
    one, two = run(device(), overlap="serial"), run(device(), overlap="serial", marks=marks)
    difference = np.array(seconds(one)) - np.array(seconds(two))
    assert difference == pytest.approx([0, 0, 0.32])


def test_a_window_keeps_its_place_in_the_sequence() -> None:
    whole, end = run(device(), overlap="serial"), run(device(), overlap="serial", tokens="2:3")
    assert end.timing.dram_bytes.tolist() == whole.timing.dram_bytes[2:].tolist()
    assert end.budget.kv == whole.budget.kv


def test_static_reads_are_those_that_are_timed() -> None:
    # Two steps stream static weights, one read each, beside the two reads of the group.
    result = run(device(), cache_fraction=None, dram="124 B", overlap="serial")
    assert result.flash_reads_per_token == 2 + 2


def test_energy_is_bytes_and_power_over_time() -> None:
    watts = device(active_power="2 W")
    watts["energy"] = {"dram": "40 pJ/B", "flash": "400 pJ/B", "idle": "1 W"}
    result = run(watts, overlap="serial")
    assert result.timing.energy is not None
    low, high = result.timing.energy
    mean = sum(seconds(result)) / 3
    moved = 40e-12 * result.dram_bytes_per_token + 400e-12 * result.flash_bytes_per_token
    assert low == pytest.approx(moved + mean)
    assert high == pytest.approx(low + 2 * mean)
    assert run(device()).timing.energy is None


# Flash ------------------------------------------------------------------------------------------

GEN3 = {
    "name": "gen3",
    "dram": {"capacity": "1 GB", "bandwidth": "1 GB/s"},
    "flash": {
        "align": "4 KiB",
        "reads": [
            {"size": "4 KiB", "lanes": 1, "bandwidth": "0.45 GB/s"},
            {"size": "512 KiB", "lanes": 1, "bandwidth": "3.5 GB/s"},
        ],
    },
    "compute": "unlimited",
}


def flash_of(section: dict[str, object]) -> FlashCost:
    return FlashCost(load_profile({**GEN3, "flash": section}).flash)


def test_service_time_is_linear_in_size() -> None:
    flash = FlashCost(load_profile(GEN3).flash)
    small, large = 4096 / 0.45e9, 524288 / 3.5e9
    between = np.interp(100_000, [4096, 524288], [small, large])
    sizes = np.array([1.0, 4096, 100_000, 524288, 1048576])
    expected = [small, small, between, large, 2 * large]
    assert flash.seconds(sizes, 1) == pytest.approx(expected, rel=1e-12)
    slope = (large - small) / (524288 - 4096)
    assert 1 / slope / 1e9 == pytest.approx(3.70, abs=0.01)  # b1 of the reference
    assert (small - 4096 * slope) * 1e6 == pytest.approx(8.0, abs=0.05)  # t0


def test_pages_are_whole() -> None:
    flash = FlashCost(load_profile(GEN3).flash)
    assert list(flash.pages(np.array([1.0, 4096, 4097, 17920, 2560]))) == [
        4096, 4096, 8192, 20480, 4096,
    ]  # fmt: skip


def test_break_even_of_the_paper_models() -> None:
    flash = FlashCost(load_profile(GEN3).flash)
    assert flash.break_even(17920, 17920) == pytest.approx(0.38, abs=0.01)
    assert flash.break_even(2560, 2560) == pytest.approx(0.08, abs=0.005)
    assert flash_of({"bandwidth": "1 GB/s"}).break_even(2560, 2560) == 1


def test_lanes_follow_the_reads_in_flight() -> None:
    points = [(1, 1), (2, 1.8), (4, 3), (8, 4)]
    reads = [
        {"size": "1 MiB", "lanes": lanes, "bandwidth": f"{rate} GB/s"} for lanes, rate in points
    ]
    flash = flash_of({"lanes": 4, "reads": reads})
    assert [flash.lanes_for(n) for n in (1, 2, 3, 4, 5, 100)] == [1, 2, 3, 4, 4, 4]
    # Three reads of 1 MiB: 1.8 GB/s on two lanes, or as long as the four at 3 GB/s: 2.25 GB/s.
    three = float(flash.seconds(np.array([2.0**20]), 3)[0])
    assert three == pytest.approx(2.0**20 / 2.25e9)
    assert flash.sequential_bandwidth == pytest.approx(3e9)
    high = flash_of({"lanes": 1, "reads": reads[1:]})
    assert high.lanes_for(1) == 2  # fewer than the fewest measured: the fewest


def test_sizes_outside_the_points_are_marked() -> None:
    flash = FlashCost(load_profile(GEN3).flash)
    sizes = np.array([1.0, 4096, 524288, 524289])
    assert flash.outside(sizes, 1).tolist() == [True, False, False, True]
    assert not flash_of({"bandwidth": "1 GB/s"}).outside(sizes, 1).any()


def test_the_mark_follows_the_curve_that_served_the_reads() -> None:
    # One lane was measured from 12 B, two lanes from 48 B: a single read of 12 B is inside, two
    # reads at a time are outside.
    points = [(12, 1, 10), (96, 1, 20), (48, 2, 20), (96, 2, 15)]
    reads = [{"size": f"{s} B", "lanes": n, "bandwidth": f"{b} B/s"} for s, n, b in points]
    profile = {**device(), "flash": {"lanes": 2, "reads": reads}}
    for sets, marked in (([{0}], False), ([{0, 7}], True)):
        marks = run(profile, sets, cache_fraction=0).marks
        assert ("extrapolated" in marks) is marked, sets
    # Only measured tokens count.
    assert "extrapolated" not in run(profile, [{0, 7}, {0}], cache_fraction=0, warmup=1).marks


def test_dense_weights_are_read_in_order() -> None:
    # Two of eight neurons stay; 72 B are read at the sequential 40 B/s in two reads of 48 B.
    points = [(12, 4), (48, 40)]
    reads = [{"size": f"{s} B", "lanes": 1, "bandwidth": f"{b} B/s"} for s, b in points]
    flash = {"align": "12 B", "reads": reads}
    profile = {**device(overlap_factor=1.0, per_mask="9 s"), "flash": flash}
    result = run(profile, SETS, method="dense", warmup=2)
    assert (result.flash_reads_per_token, result.flash_bytes_per_token) == (2, 72)
    # F = 1.8 s; E_hit = 0.24, E_miss = 0.72, of which half can hide the flash; nobody waits.
    group = 1.8 + 0.96 - (0.24 + 0.36)
    assert seconds(result) == pytest.approx([group + (152 + 32) / 100])
    assert "extrapolated" not in result.marks


def test_neighbouring_misses_become_one_read() -> None:
    # Units of 12 B in pages of 12 B; one read takes 1 s plus 0.1 s a byte.
    flash = {
        "align": "12 B",
        "reads": [
            {"size": "12 B", "lanes": 1, "bandwidth": f"{12 / 2.2} B/s"},
            {"size": "96 B", "lanes": 1, "bandwidth": f"{96 / 10.6} B/s"},
        ],
    }
    profile = {**device(), "flash": flash}
    # {0, 1} is one read of 24 B: 3.4 s. {0, 2} would be 36 B in one read: 4.6 s against 4.4 s.
    joined = run(profile, [{0, 1}], cache_fraction=0, overlap="serial")
    apart = run(profile, [{0, 2}], cache_fraction=0, overlap="serial")
    assert (joined.flash_reads_per_token, apart.flash_reads_per_token) == (1, 2)
    use = (152 + 24) / 100
    assert seconds(joined) == pytest.approx([3.4 + use])
    assert seconds(apart) == pytest.approx([4.4 + use])
    # Every second unit: four reads take 8.8 s, all in order 10.6 s; every unit: one read.
    assert seconds(run(profile, [{0, 2, 4, 6}], cache_fraction=0, overlap="serial")) == (
        pytest.approx([8.8 + 2.0])
    )
    dense = run(profile, [{0, 2, 3, 4, 6, 7}], cache_fraction=0, overlap="serial")
    assert dense.flash_bytes_per_token == pytest.approx(72)


def test_everything_in_order_when_that_is_faster() -> None:
    # Few reads go at 4 to 8 B/s: four units take 12 s, and 84 B at once 10.7 s. With all eight
    # lanes busy 96 B in order take 2.4 s.
    flash = {
        "reads": [
            {"size": "12 B", "lanes": 1, "bandwidth": "4 B/s"},
            {"size": "96 B", "lanes": 1, "bandwidth": "8 B/s"},
            {"size": "96 B", "lanes": 8, "bandwidth": "40 B/s"},
        ],
        "lanes": 8,
    }
    result = run({**device(), "flash": flash}, [{0, 2, 4, 6}], cache_fraction=0, overlap="serial")
    assert result.flash_bytes_per_token == 96
    assert result.flash_reads_per_token == 1
    assert result.flash_useful_bytes_per_token == 48
    assert seconds(result) == pytest.approx([2.4 + (152 + 48) / 100])


def test_layouts_refuse_what_they_scatter() -> None:
    with pytest.raises(MethodError, match="use --layout bundle"):
        run(device(), layout="column")
    scores = {"mlp_input": np.ones((1, 1, 4), np.float32), "glu": np.ones((1, 1, 8), np.float32)}
    given = {**scores, "meta": {"model": TINY}}
    with pytest.raises(MethodError, match="use --layout column"):
        dipsim.simulate(given, device(), method="dip", layout="bundle", cache_fraction=0.5)


def test_bundles_put_gaps_between_down_columns() -> None:
    # glu loads 4 B of every 12 B bundle; two neighbours are 12 + 4 B apart, in one read 16 B.
    flash = {
        "reads": [
            {"size": "4 B", "lanes": 1, "bandwidth": "2 B/s"},
            {"size": "96 B", "lanes": 1, "bandwidth": "10 B/s"},
        ]
    }
    glu = np.zeros((1, 1, 8), np.float32)
    glu[0, 0, :2] = 1
    given = {"glu": glu, "meta": {"model": TINY}}
    options = {"method": "glu", "group_density": {"glu": 0.25}, "cache_fraction": 0}
    spread = dipsim.simulate(given, {**device(), "flash": flash}, layout="bundle", **options)
    packed = dipsim.simulate(given, {**device(), "flash": flash}, layout="column", **options)
    assert (spread.flash_bytes_per_token, packed.flash_bytes_per_token) == (16, 8)
    assert spread.break_even[0, 0] == pytest.approx(12 / 10 / 2)  # 12 B a unit in order, 2 s alone
    assert packed.break_even[0, 0] == pytest.approx(4 / 10 / 2)
    assert spread.flash_useful_bytes_per_token == packed.flash_useful_bytes_per_token == 8


# Budget -----------------------------------------------------------------------------------------


def test_budget_adds_up() -> None:
    result = run(device(), cache_fraction=None, dram="248 B")  # 152 static, 48 KV, 48 cache
    assert result.budget.cache == pytest.approx(48)
    assert result.traffic.capacity.tolist() == [[4]]
    whole = run(device(), cache_fraction=None, dram="100%")  # 248 B of weights; KV comes off
    assert whole.budget.dram == pytest.approx(248)


def test_default_budget_takes_staging_and_overhead_off() -> None:
    profile = {**device(), "runtime_overhead": "500 B"}
    budget = run(profile, cache_fraction=None).budget
    assert (budget.dram, budget.overhead, budget.staging) == (1000, 500, 24)
    given = run({**profile, "staging": "7 B"}, cache_fraction=None).budget
    assert given.staging == 7
    explicit = run(profile, cache_fraction=None, dram="1 kB").budget
    assert (explicit.overhead, explicit.staging) == (0, 0)


def test_kv_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BudgetError, match="KV"):
        run(device(), cache_fraction=None, dram="10 B")


@pytest.mark.parametrize(
    ("name", "serial_paper", "concurrent_paper", "serial"),
    [
        ("phi-3-medium", 0.2574, 0.2592, 0.2532),
        ("llama-3-8b", 0.4886, 0.4918, 0.4807),
        ("mistral-7b", 0.4894, 0.4926, 0.4815),
    ],
)
def test_dense_streaming_of_the_paper_models(
    name: str, serial_paper: float, concurrent_paper: float, serial: float
) -> None:
    """Half the model in DRAM, 4 bits, fp16 KV of 2048 tokens: rates derived by hand, to 0.5 %."""
    model = dipsim.load_model(name, bits=4)
    tokens = {"glu": np.zeros((6, model.layers, model.intermediate), np.bool_)}
    wanted = {"paper-serial": serial_paper, "paper-concurrent": concurrent_paper, "serial": serial}
    for overlap, rate in wanted.items():
        found = dipsim.simulate(
            tokens, "paper-a18", model=model, method="dense", dram="50%",
            overlap=overlap, context=2048, warmup=1,
        )  # fmt: skip
        assert found.tokens_per_second == pytest.approx(rate, rel=0.005)
