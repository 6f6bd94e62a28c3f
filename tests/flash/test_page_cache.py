"""The system's page cache: the kernel against a naive LRU, and times by hand."""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dipsim
from dipsim.errors import DipsimError
from dipsim.flash.page_cache import MOST
from dipsim.hardware import load_profile
from dipsim.kernels import COMMIT, SKIP, PageLru, Regions, use_pages
from dipsim.kernels.bits import DECODE
from dipsim.replay.active_sets import rows_of
from dipsim.report import hints
from dipsim.timeline.closed import FLASH

# The kernel ---------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Parts of some units each, in pages; the arguments of `naive_pages`."""

    units: list[int]
    size: list[float]
    stride: list[float]
    whole: list[bool]
    place: list[list[int]]
    static: list[int]


def random_memory(rng: np.random.Generator) -> Memory:
    parts = int(rng.integers(1, 5))
    units = rng.integers(1, 80, parts).tolist()
    size = rng.choice([0.1, 0.25, 0.7, 1.0, 2.5], parts).tolist()
    return Memory(
        units=units,
        size=size,
        stride=[at + rng.choice([0.0, 0.3]) for at in size],
        whole=(rng.random(parts) < 0.2).tolist(),
        place=[rng.permutation(n).tolist() for n in units],
        static=rng.integers(0, 4, parts + 1).tolist(),
    )


def naive_pages(
    sets: list[list[set[int]]],
    busy: list[bool],
    resets: list[bool],
    memory: Memory,
    capacity: int,
) -> tuple[list[list[int]], list[list[set[int]]]]:
    """Pages read per token: static ones and others of each part, static ones at the end; units
    of which a page was not there before.

    A page is named by its part and number, a static one by where it is used and its number.
    """
    cached: OrderedDict[Any, None] = OrderedDict()
    read_now: set[Any] = set()

    def use(page: Any) -> int:
        fault = page not in cached
        cached.pop(page, None)
        if capacity:
            if len(cached) == capacity:
                cached.popitem(last=False)
            cached[page] = None
        if fault:
            read_now.add(page)
        return int(fault)

    def pages_of(p: int, unit: int) -> list[Any]:
        if memory.whole[p]:
            count = -(-round(memory.units[p] * memory.stride[p] * 1000) // 1000)
            return [(p, n) for n in range(count)]
        begin = round(memory.place[p][unit] * memory.stride[p] * 1000)
        end = begin + round(memory.size[p] * 1000)
        return [(p, n) for n in range(begin // 1000, -(-end // 1000))]

    def use_static(p: int) -> int:
        return sum([use(("static", p, n)) for n in range(memory.static[p])])

    parts, faults, unread = len(memory.units), [], []
    for token, row in enumerate(sets):
        if token == 0 or resets[token]:
            cached.clear()
            for p in range(parts + 1):
                use_static(p)
        faults.append([0] * (2 * parts + 1))
        unread.append([set() for _ in range(parts)])
        if not busy[token]:
            continue
        for p in range(parts):
            faults[-1][2 * p] = use_static(p)
            read_now.clear()
            if memory.whole[p] and row[p]:
                faults[-1][2 * p + 1] += sum([use(page) for page in pages_of(p, 0)])
            for unit in sorted(row[p]):
                if not memory.whole[p]:
                    faults[-1][2 * p + 1] += sum([use(page) for page in pages_of(p, unit)])
                if read_now & set(pages_of(p, unit)):
                    unread[-1][p].add(unit)
        faults[-1][2 * parts] = use_static(parts)
    return faults, unread


def regions_of(memory: Memory) -> tuple[Regions, int]:
    words = [-(-n // 64) for n in memory.units]
    word = np.cumsum([0, *words])
    pages = np.ceil(np.array(memory.units) * memory.stride - 1e-6).astype(int)
    begins = np.cumsum([0, *pages, *memory.static])
    place = np.zeros(64 * word[-1], np.int64)
    for p, order in enumerate(memory.place):
        place[64 * word[p] : 64 * word[p] + len(order)] = order
    parts = len(words)
    regions = Regions(
        word=word,
        first=begins[:parts],
        pages=pages,
        size=np.array(memory.size),
        stride=np.array(memory.stride),
        whole=np.array(memory.whole),
        place=place,
        static_first=begins[parts:-1],
        static_pages=np.array(memory.static),
    )
    return regions, int(begins[-1])


def lru(pages: int, capacity: int) -> PageLru:
    return PageLru(
        np.zeros(pages + 1, np.int64),
        np.zeros(pages + 1, np.int64),
        np.array([0, capacity]),
        np.zeros(pages, np.int64),
    )


def packed(sets: list[list[set[int]]], memory: Memory) -> NDArray[np.uint64]:
    rows = []
    for row in sets:
        bits = [np.zeros(64 * -(-n // 64), bool) for n in memory.units]
        for p, units in enumerate(row):
            bits[p][sorted(units)] = True
        rows.append(np.packbits(np.concatenate(bits), bitorder="little").view(np.uint64))
    return np.array(rows)


def random_sets(rng: np.random.Generator, memory: Memory, tokens: int) -> list[list[set[int]]]:
    return [
        [set(np.flatnonzero(rng.random(n) < rng.random()).tolist()) for n in memory.units]
        for _ in range(tokens)
    ]


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_pages_equal_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory = random_memory(rng)
    sets = random_sets(rng, memory, 10)
    busy, resets = rng.random(10) < 0.8, rng.random(10) < 0.2
    regions, pages = regions_of(memory)
    capacity = int(rng.integers(0, pages + 2))
    bits = packed(sets, memory)
    unread, faults = np.zeros_like(bits), np.zeros((10, 2 * len(memory.units) + 1), np.int64)
    actions = np.where(busy, rng.choice([COMMIT, DECODE], 10), SKIP).astype(np.uint8)
    use_pages(bits, actions, resets, regions, lru(pages, capacity), unread, faults)
    expected, not_there = naive_pages(sets, busy.tolist(), resets.tolist(), memory, capacity)
    assert faults.tolist() == expected
    np.testing.assert_array_equal(unread, packed(not_there, memory))


@given(seed=st.integers(0, 2**32 - 1))
def test_more_pages_never_fault_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory = random_memory(rng)
    memory = memory._replace(static=[0] * len(memory.static))
    bits = packed(random_sets(rng, memory, 12), memory)
    regions, pages = regions_of(memory)
    actions, resets = np.full(12, DECODE, np.uint8), np.zeros(12, bool)
    totals = []
    for capacity in range(0, pages + 1, max(1, pages // 6)):
        faults = np.zeros((12, 2 * len(memory.units) + 1), np.int64)
        cache = lru(pages, capacity)
        use_pages(bits, actions, resets, regions, cache, np.zeros_like(bits), faults)
        assert cache.held[0] <= capacity
        totals.append(int(faults.sum()))
    assert totals == sorted(totals, reverse=True)


# By hand ------------------------------------------------------------------------------------------

MODEL = {"layers": 1, "hidden": 512, "intermediate": 2, "heads": 1, "kv_heads": 1, "vocab": 2}
PHONE = {
    "name": "phone",
    "dram": {"capacity": "1 GB", "bandwidth": "1 GB/s"},
    "flash": {"bandwidth": "1 MB/s", "fault": {"seconds": "1 ms", "page": "512 B"}},
    "page_cache": {"bandwidth": "2 MB/s"},
    "compute": "unlimited",
}
TURNS = np.array([[[1, 0]], [[0, 1]], [[0, 1]], [[1, 0]]], bool)
"""Two neurons in turn: 0, 1, 1, 0. Each is three slices of 512 weights, 8 bits: three pages."""


def run(sets: NDArray[np.bool_] = TURNS, **options: Any) -> dipsim.Result:
    arrays = {"glu": sets, "meta": {"model": {**MODEL, "bits": 8}}}
    return dipsim.simulate(arrays, PHONE, **{"cache_fraction": 0.5, **options})


def test_faults_by_hand() -> None:
    found = run(io="mmap")  # room for one neuron: it is read anew whenever they change
    assert found.traffic.reads[:, 0, 0].tolist() == [3, 3, 0, 3]
    assert found.traffic.moved[:, 0, 0].tolist() == [1536, 1536, 0, 1536]
    assert found.traffic.flash_seconds[:, 0, 0] == pytest.approx([3e-3, 3e-3, 0, 3e-3])
    assert found.traffic.hits[:, 0, 0].tolist() == [0, 0, 1, 0]
    # and a page of the embedding, for every token
    assert found.timing.times.exposed[:, FLASH] == pytest.approx([4e-3, 4e-3, 1e-3, 4e-3])
    assert (found.policy, found.page_cache) == ("none", 1536)
    assert found.config["settings"]["overlap"] == "serial"
    assert found.config["profile"]["flash"]["bandwidth"] == "1 MB/s"


def test_a_mapped_model_that_fits_faults_once_a_page() -> None:
    found = run(io="mmap", cache_fraction=1)
    assert found.traffic.reads[:, 0, 0].tolist() == [3, 3, 0, 0]
    assert found.to_dict()["budget"]["page_cache"] == 3072


@pytest.mark.parametrize("budget", [{"dram": "300%"}, {"cache_fraction": 1.0}, {}])
def test_weights_that_fit_with_room_to_spare_fault_once(budget: dict[str, Any]) -> None:
    # Units and static weights do not fill their last pages, so they take more than their bytes.
    sets = np.ones((4, 3, 3), bool)
    arrays = {"glu": sets, "meta": {"model": {**MODEL, "layers": 3, "bits": 5}}}
    arrays["meta"]["model"]["intermediate"] = 3
    found = dipsim.simulate(arrays, PHONE, io="mmap", **budget)
    assert found.unit_bytes[0, 0] * 3 % 512 != 0
    assert found.budget.fits
    assert found.traffic.reads[1:].sum() == 0
    assert found.traffic.hits[1:].sum() == found.traffic.active[1:].sum() > 0


def test_a_cold_start_reads_the_static_pages_that_fit() -> None:
    both = np.ones((3, 1, 2), bool)
    whole, less = (
        run(both, io="mmap", dram=dram, cache_fraction=None, context=0) for dram in ("100%", "1 kB")
    )
    assert whole.cold_start == pytest.approx(whole.budget.static.total / 1e6)  # in order
    assert less.cold_start == pytest.approx(1000 / 1e6)


def test_half_a_unit_is_no_hit() -> None:
    found = run(io="mmap", cache_fraction=0.8)  # 4 of 6 pages: one of neuron 0 stays, its last
    assert found.traffic.reads[:, 0, 0].tolist() == [3, 3, 0, 3]  # but goes before it is used
    assert found.traffic.hits[:, 0, 0].tolist() == [0, 0, 1, 0]


def test_static_weights_are_mapped_too_when_dram_is_given() -> None:
    both = np.ones((3, 1, 2), bool)
    whole = run(both, io="mmap", dram="100%", cache_fraction=None, context=0)
    assert whole.traffic.reads[:, 0, 0].tolist() == [6, 0, 0]
    less = run(both, io="mmap", dram="90%", cache_fraction=None, context=0)
    static = whole.budget.static.total
    pages = -(-static // 512)
    # the cliff: one page too few in a cycle, and an LRU finds none of them
    assert less.traffic.moved[1:, 0, 0] / 512 == pytest.approx(pages + 6, abs=2)
    # A fault for every page of the neurons. The layer's other weights, 1 MiB and its norms, are
    # read in order, 128 KiB a fault, and so is the head.
    assert less.traffic.reads[1:, 0, 0].tolist() == [6 + 9 + 1] * 2
    assert less.budget.streamed == 0
    assert less.traffic.hits.sum() == 0


def test_buffered_by_hand() -> None:
    # Nothing is cached by the engine itself. Neuron 0 is read, 1 read, 1 copied, 0 copied.
    found = run(io="buffered", cache_fraction=0)
    assert found.traffic.flash_seconds[:, 0, 0] == pytest.approx([1536e-6, 1536e-6, 768e-6, 768e-6])
    assert found.traffic.reads[:, 0, 0].tolist() == [1, 1, 0, 0]
    assert found.traffic.moved[:, 0, 0].tolist() == [1536, 1536, 0, 0]
    assert found.traffic.hits.sum() == 0
    row = 512e-6  # of the embedding, one read of a token
    exposed = found.timing.times.exposed[:, FLASH]
    assert exposed == pytest.approx([1536e-6 + row] * 2 + [768e-6 + row] * 2)


def test_what_is_left_is_the_page_cache() -> None:
    found = run(io="buffered", cache_fraction=0.5, context=0)
    assert found.page_cache == 1e9 - 1536 - found.budget.static.total
    given = run(io="buffered", overrides=["page_cache.size=512B"])
    assert given.page_cache == 512
    assert hints.warnings(given) == []
    none = run(io="buffered", dram="1 GB", cache_fraction=None)
    assert none.page_cache == 0
    assert any("no DRAM is left for the page cache" in text for text in hints.warnings(none))


@pytest.mark.parametrize("method", ["dip", "dense"])
def test_no_page_cache_is_direct(method: str) -> None:
    options = {"method": method, "cache_fraction": 0.5, "tokens": "0:24"}
    direct = dipsim.simulate("smollm2-chat", "snapdragon8gen3", **options)
    buffered = dipsim.simulate(
        "smollm2-chat", "snapdragon8gen3", io="buffered", overrides=["page_cache.size=0B"],
        **options,
    )  # fmt: skip
    assert buffered.traffic.flash_seconds == pytest.approx(direct.traffic.flash_seconds, rel=1e-12)
    for same in ("hits", "reads", "moved", "outside"):
        np.testing.assert_array_equal(
            getattr(buffered.traffic, same), getattr(direct.traffic, same)
        )


def test_a_page_cache_changes_no_hit_and_saves_reads() -> None:
    direct = dipsim.simulate("smollm2-chat", "oneplus15r", tokens="0:24", cache_fraction=0.5)
    buffered = dipsim.simulate(
        "smollm2-chat", "oneplus15r", tokens="0:24", cache_fraction=0.5, io="buffered"
    )
    assert buffered.hits == direct.hits
    assert buffered.flash_bytes_per_token < direct.flash_bytes_per_token
    assert 0 < buffered.flash_useful_bytes_per_token < buffered.flash_bytes_per_token
    assert buffered.flash_useful_bytes_per_token < direct.flash_useful_bytes_per_token
    assert {"page_cache.bandwidth"} <= set(buffered.estimates)


def test_one_global_cache_misses_the_same_units() -> None:
    options = {"io": "buffered", "cache_fraction": 0, "tokens": "0:12", "method": "dip"}
    layer = dipsim.simulate("smollm2-chat", "oneplus15r", **options)
    one = dipsim.simulate("smollm2-chat", "oneplus15r", scope="global", **options)
    np.testing.assert_array_equal(one.traffic.moved, layer.traffic.moved)


def test_rows_of_a_mapped_file_are_all_touched() -> None:
    found = run(io="mmap", layout="row", cache_fraction=1)  # down's columns lie across everything
    assert found.traffic.reads[:, 0, 0].tolist() == [6, 0, 0, 0]


WHOLE = {**MODEL, "intermediate": 32, "bits": 8}
"""A group of 32 neurons of three slices of 512 B: 96 pages of 512 B."""


@pytest.mark.parametrize(
    ("readahead", "faults", "seconds"),
    [
        # 49 152 B at 1 MB/s take 49.152 ms, 12 windows of 4 KiB as many ms
        ("4 KiB", 12, 49.152e-3),
        ("1 KiB", 48, 49.152e-3),
        ("0 B", 96, 96e-3),  # a fault for every page, of 1 ms
        ("40 kB", 2, 49.152e-3),
    ],
)
def test_what_every_token_needs_whole_is_read_ahead(
    readahead: str, faults: int, seconds: float
) -> None:
    arrays = {"glu": np.ones((2, 1, 32), bool), "meta": {"model": WHOLE}}
    overrides = [f"flash.fault.readahead={readahead}"]
    found = dipsim.simulate(
        arrays, PHONE, method="dense", cache_fraction=0, io="mmap", overrides=overrides
    )
    assert found.traffic.moved[0].sum() == 49152
    assert found.traffic.reads[0].sum() == faults
    assert found.traffic.flash_seconds[0].sum() == pytest.approx(seconds)


def test_a_single_page_in_order_takes_a_fault() -> None:
    arrays = {"glu": np.ones((1, 1, 1), bool), "meta": {"model": {**WHOLE, "intermediate": 1}}}
    found = dipsim.simulate(
        arrays,
        PHONE,
        method="dense",
        cache_fraction=0,
        io="mmap",
        overrides=["flash.bandwidth=1GB/s"],
    )
    assert found.traffic.reads[0].sum() == 1
    assert found.traffic.flash_seconds[0].sum() == pytest.approx(1e-3)


DENSE_30B = {
    "layers": 60, "hidden": 6656, "intermediate": 17920, "heads": 52, "kv_heads": 52,
    "vocab": 32000, "bits": 4.95,
}  # fmt: skip


def test_a_mapped_model_larger_than_memory_is_read_at_the_disks_pace() -> None:
    """LLaMA-30B in 4 bits, a file of 20 GB in 16 GB of memory, a disk of 1 GB/s: 20 s a token."""
    laptop = {
        "name": "laptop",
        "dram": {"capacity": "16 GB", "bandwidth": "40 GB/s"},
        "flash": {"bandwidth": "1 GB/s", "fault": {"seconds": "37 us"}},
        "compute": "unlimited",
    }
    arrays = {"glu": np.ones((2, 60, 17920), bool), "meta": {"model": DENSE_30B}}
    found = dipsim.simulate(arrays, laptop, method="dense", io="mmap", dram="15 GB", context=0)
    read = found.traffic.moved[1].sum()  # what the first token finds is not in the order of use
    assert read == pytest.approx(20e9, rel=0.02)
    assert read / found.timing.times.exposed[1, FLASH] == pytest.approx(1e9, rel=0.01)


def test_a_mapped_dense_model_twice_its_memory() -> None:
    """A dense 8 B on a phone that holds half of it goes at the flash's pace, not a page's."""
    glu = np.ones((2, 32, 14336), bool)
    arrays = {"glu": glu, "meta": {"model": "llama-3-8b"}}
    found = dipsim.simulate(
        arrays, "oneplus15r", method="dense", io="mmap", dram="50%", context=0, overlap="serial"
    )
    pace = found.traffic.moved[1].sum() / found.timing.times.exposed[1, FLASH]
    assert pace == pytest.approx(2558.1 * 2**20, rel=0.01)  # as fast as its largest reads


def test_resets_empty_the_page_cache() -> None:
    arrays = {
        "glu": TURNS,
        "sequence": np.array([0, 0, 1, 1], np.int32),
        "meta": {"model": {**MODEL, "bits": 8}},
    }
    found = dipsim.simulate(arrays, PHONE, cache_fraction=1, io="mmap", reset="sequence")
    assert found.traffic.reads[:, 0, 0].tolist() == [3, 3, 3, 3]


def test_prefill_of_a_mapped_model_takes_faults() -> None:
    arrays = {
        "glu": TURNS,
        "phase": np.array([0, 0, 1, 1], np.uint8),
        "meta": {"model": {**MODEL, "bits": 8}},
    }
    found = dipsim.simulate(arrays, PHONE, cache_fraction=0.5, io="mmap")
    assert rows_of(dipsim.load_trace(arrays).rows)[0].tolist() == [SKIP, SKIP, DECODE, DECODE]
    assert found.timing.prefill is not None
    used = (found.budget.static.total + 3072) / 1e9
    assert found.timing.prefill.seconds == pytest.approx(3072 / 1e6 + used)  # in order
    assert found.traffic.reads[:, 0, 0].tolist() == [0, 0, 3, 3]


def test_mapped_experts_of_the_measured_phone() -> None:
    """gpt-oss-120b on a OnePlus 15R: 36 layers, 2 of 128 experts of 13 219 200 B each, measured
    with 11.24 s a token. Without any page cache a token faults all it uses."""
    sets = np.zeros((1, 36, 128), bool)
    sets[..., :2] = True
    arrays = {"expert": sets, "meta": {"signals": {"expert": {"unit_bytes": 13_219_200}}}}
    found = dipsim.simulate(arrays, "oneplus15r", cache_fraction=0, io="mmap")
    seconds = float(found.timing.times.latency[0])
    assert 11.24 / 2 < seconds < 11.24 * 2
    assert found.flash_bytes_per_token == pytest.approx(951_792_435, rel=0.001)


@pytest.mark.parametrize("io", ["buffered", "mmap"])
def test_a_run_is_repeated_by_its_config(io: str) -> None:
    first = run(io=io)
    again = dipsim.simulate(
        {"glu": TURNS, "meta": {"model": {**MODEL, "bits": 8}}},
        first.config["profile"],
        **first.config["settings"],
    )
    assert again.to_dict() == first.to_dict()


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"io": "mmap", "policy": "lru"}, "--io mmap and --policy lru"),
        ({"io": "mmap", "overlap": "pipelined"}, "a page fault stops the thread"),
        ({"io": "mmap", "allocate": "optimal"}, "--allocate optimal knows direct reads only"),
        ({"io": "buffered", "compat": "authors"}, "--compat authors knows direct reads only"),
        ({"io": "mmap", "compat": "authors"}, "--compat authors knows direct reads only"),
        ({"io": "async"}, "--io"),
    ],
)
def test_what_goes_with_direct_reads_only(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        run(**options)


def test_masks_that_look_into_a_cache_have_none() -> None:
    with pytest.raises(DipsimError, match="there is none to look into"):
        dipsim.simulate("smollm2-chat", "oneplus15r", method="dip-ca", io="mmap", dram="50%")


@pytest.mark.parametrize(
    ("io", "told"), [("mmap", "has no flash.fault"), ("buffered", "has no page_cache")]
)
def test_profiles_that_do_not_say(io: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        dipsim.simulate("smollm2-chat", "paper-a18", io=io, dram="50%")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("flash.fault.seconds=0us", "positive"),
        ("flash.fault.page=1B", "page 512 B to 1 GiB"),
        ("flash.fault.page=2GB", "page 512 B to 1 GiB"),
        ("flash.fault.readahead=2GB", "readahead must be at most 1 GiB"),
        ("flash.align=2GB", "align 1 B to 1 GiB"),
        ("flash.fault.pages=4KiB", "unknown key"),
        ("page_cache.bandwidth=0GB/s", "positive"),
    ],
)
def test_profiles_that_are_wrong(override: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        load_profile(PHONE, [override])


def test_more_pages_than_can_be_followed() -> None:
    sets = np.zeros((1, 1, 1000), bool)
    size = 512.0 * MOST / 1000 * 1.01
    arrays = {"expert": sets, "meta": {"signals": {"expert": {"unit_bytes": size}}}}
    with pytest.raises(DipsimError, match="pages of 512 B: use --layers A:B, or --io direct"):
        dipsim.simulate(arrays, PHONE, io="mmap", cache_fraction=0.5)


def test_bandwidths_are_searched_with_direct_reads() -> None:
    from dipsim.sweep.vary import retimed

    arrays = {"glu": TURNS, "meta": {"model": {**MODEL, "bits": 8}}}
    result = dipsim.simulate(arrays, PHONE, cache_fraction=0.5, io="buffered")
    with pytest.raises(DipsimError, match="varied with direct reads only"):
        retimed(result.run, result.traffic, 2)


def test_policies_are_not_compared_with_an_optimum_over_pages() -> None:
    from dipsim.analysis.verdict import no_optimum
    from dipsim.simulate import prepare

    arrays = {"glu": TURNS, "meta": {"model": {**MODEL, "bits": 8}}}
    run = prepare(arrays, PHONE, cache_fraction=0.5, io="mmap")
    assert no_optimum(run) == "the system's page cache holds the weights"
