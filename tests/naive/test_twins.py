"""The naive twins themselves: small cases worked out by hand, and sums that always hold.

Cases are written as "012 3 12": three batches, of the units 0, 1, 2, then 3, then 1 and 2. What is
expected are the misses of each batch in the same way, "-" where there are none.
"""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from naive import replay as naive

POLICIES = sorted(naive.ADMISSION)
SEQUENTIAL = sorted(set(naive.ADMISSION) - set(naive.ATOMIC_ONLY))
GLOBAL = sorted(set(naive.ADMISSION) - {"static", "pinned"})


def sets(case: str) -> list[set[int]]:
    """Return the batches of a case."""
    return [{int(unit) for unit in batch} for batch in case.split()]


def written(rows: list[naive.Row]) -> str:
    """Return the misses of all batches."""
    return " ".join("".join(map(str, row.missed)) or "-" for row in rows)


def missed(
    policy: str,
    capacity: int,
    case: str,
    admission: str | None = None,
    access: str = "atomic",
    **parameters: float,
) -> str:
    """Return what a case misses."""
    rows = naive.replay(
        sets(case),
        10,
        capacity,
        policy,
        admission=admission,
        access=access,
        parameters=parameters,
    )
    return written(rows)


# ---------------------------------------------------------------------------------- ranked policies


def test_mru_evicts_the_newest_use_and_the_highest_unit_of_a_batch() -> None:
    assert missed("mru", 3, "012 3 0 4 13 2 4 3") == "012 3 - 4 - 2 - 3"


def test_lfu_resident_forgets_counts_and_lfu_does_not() -> None:
    case = "01 0 0 1 2 1 2 0"
    assert missed("lfu-resident", 2, case) == "01 - - - 2 1 2 -"
    assert missed("lfu", 2, case) == "01 - - - 2 1 2 0"


def test_lfu_decay_admits_by_heat() -> None:
    # At batch 2, unit 0 has 1.5 / 2 with a half life of 1, and almost 2 with 32; unit 1 has 1.
    assert missed("lfu-decay", 1, "0 0 1 0", half_life=1) == "0 - 1 0"
    assert missed("lfu-decay", 1, "0 0 1 0") == "0 - 1 -"


def test_lfu_decay_evicts_what_was_hot_long_ago() -> None:
    # At batch 4, unit 0 has 1.75 / 4 and unit 1 has 1.125 / 2.
    case = "01 0 0 1 2 1"
    assert missed("lfu-decay", 2, case, "forced", half_life=1) == "01 - - - 2 -"
    assert missed("lfu", 2, case) == "01 - - - 2 1"


def test_lru_k_evicts_by_the_use_before_the_last() -> None:
    # At batch 6, unit 3 was used at 3 and 4, unit 2 at 2 and 5.
    case = "01 0 2 3 3 2 0 3"
    assert missed("lru-k", 2, case) == "01 - 2 3 - 2 0 -"
    assert missed("lru-k", 2, case, k=1) == missed("lru", 2, case) == "01 - 2 3 - - 0 3"


def test_lfru_weighs_the_count_against_the_age() -> None:
    # At batch 4, unit 0 has 3 uses / (1 + 2), unit 1 has 1 / (1 + 1) * 2 = 2 / (1 + 1) of batch 3:
    # a tie, and 0 was used longer ago. Squared ages sink 0 further, the count alone keeps it.
    case = "01 0 0 1 2 0"
    assert missed("lfru", 2, case) == "01 - - - 2 0"
    assert missed("lfru", 2, case, power=2) == "01 - - - 2 0"
    assert missed("lfru", 2, case, power=0) == missed("lfu", 2, case) == "01 - - - 2 -"


def test_lfru_sampled_with_a_large_sample_is_lfru() -> None:
    case = "01 0 0 1 2 0 3 1 0 2 23 0"
    for power in (0, 1, 2):
        exact = missed("lfru", 2, case, power=power)
        assert missed("lfru-sampled", 2, case, power=power, sample=50) == exact


def test_least_stale_evicts_from_the_layer_that_comes_up_last() -> None:
    # Three layers: 0 and 1, 4, 7. At 7 the units 0, of the next batch, and 4, of the one after it,
    # are there: 4 leaves. At 1, of the layer of 0, that comes up last: 0 leaves. At 4, 1 leaves,
    # so that 7 is there when it comes up; lru gives up what it needs next, always.
    batches, sizes = sets("0 4 7 1 4 7 1 4 7"), dict.fromkeys(range(8), 1.0)
    stale = naive.replay_global(batches, sizes, 2.0, "least-stale", parameters={"ticks": 3})
    assert written(stale) == "0 4 7 1 4 - 1 - 7"
    assert written(naive.replay_global(batches, sizes, 2.0, "lru")) == "0 4 7 1 4 7 1 4 7"


def test_of_one_layer_least_stale_is_lru() -> None:
    case = "01 2 0 13 2 0 3 1"
    assert missed("least-stale", 2, case) == missed("lru", 2, case)


def test_lru_heat_keeps_what_is_used_often_lately() -> None:
    # At 2, unit 0 has two uses in the last 4 batches and is hot; at the second 3 it has one.
    case = "01 0 1 1 2 0 3 2 0"
    assert missed("lru", 2, case) == "01 - - - 2 0 3 2 0"
    assert missed("lru-heat", 2, "0 0 1 2 0", uses=2, window=4) == "0 - 1 2 -"
    assert missed("lru-heat", 2, "0 0 1 2 0", uses=2, window=3) == "0 - 1 2 0"
    assert missed("lru", 2, "0 0 1 2 0") == "0 - 1 2 0"


def test_lru_throttled_lets_in_at_the_second_miss() -> None:
    # The cache is full with 0, hit, and 1, which has missed once: 2 misses once and waits, and
    # again and enters in the place of 1. With a window of one batch it never enters.
    assert missed("lru-throttled", 2, "01 0 1 2 2 2 0") == "01 - - 2 2 - 0"
    assert missed("lru-throttled", 2, "01 0 1 2 2 2 0", window=1) == "01 - - 2 2 2 -"
    assert missed("lru", 2, "01 0 1 2 2 2 0") == "01 - - 2 - - 0"


def test_pinned_never_leaves() -> None:
    # 7 is pinned in a cache of two; the other place is an lru of one. At 02 the hit stays; of the
    # misses 1 and 2 the higher.
    rows = naive.replay(sets("0 1 0 7 02 0 12 7"), 10, 2, "pinned", pinned=[7, 5])
    assert written(rows) == "0 1 0 - 2 - 12 -"
    assert [row.kept for row in rows] == [1, 1, 1, 0, 0, 0, 1, 0]


def test_a_warm_start() -> None:
    # The less used of the two, which stands second, leaves first.
    for policy in ("lru", "lfu", "lfru", "arc"):
        assert written(naive.replay(sets("0 4"), 10, 2, policy, warm=[4, 3])) == "0 -"
        assert written(naive.replay(sets("0 4"), 10, 2, policy, warm=[3, 4])) == "0 4"


# ----------------------------------------------------------------------------- policies with queues


def test_slru() -> None:
    # After 0: [1, 2] [3, 0]. After 4 and 2: [4, 3] [0, 2]; 1 puts out 4.
    case = "0123 0 4 2 1 4"
    assert missed("slru", 4, case, segments=2) == "0123 - 4 - 1 4"
    assert missed("slru", 4, case, segments=1) == missed("lru", 4, case) == "0123 - 4 - 1 -"


def test_2q() -> None:
    # Inner size 1, ghosts 2. Unit 3, in use when 6 comes, goes to the newest end and so outlives 7.
    # When 8 comes the inner queue is [7], so 0 leaves the main queue [0, 4, 5] without a ghost.
    assert missed("2q", 4, "0123 4 0 2 5 36 7 3 4 5 8 7 0") == "0123 4 0 - 5 6 7 - 4 5 8 - 0"


def test_arc() -> None:
    # 1 comes back from B1, p = 1, so 0 leaves T2; 0 comes back from B2, p = 0. After 5: [5] [0].
    assert missed("arc", 2, "01 0 2 1 2 0 3 0 4 5 05") == "01 - 2 1 - 0 3 - 4 5 -"


def test_arc_leaves_no_ghost_when_once_used_units_fill_the_cache() -> None:
    assert missed("arc", 2, "01 2 0 3 0") == "01 2 0 3 -"


def test_clock() -> None:
    assert missed("clock", 3, "012 1 3 4 13 5 36 5 1") == "012 - 3 4 - 5 6 - 1"


def test_clock_passes_over_what_is_in_use() -> None:
    # 2 takes the chances of 0 and 1, passes over 0, in use, and puts out 1: [0, 2].
    assert missed("clock", 2, "01 1 02 3 2") == "01 - 2 3 -"


def test_clock_with_two_bits() -> None:
    assert missed("clock", 2, "01 0 0 2 3 0", bits=1) == "01 - - 2 3 0"
    assert missed("clock", 2, "01 0 0 2 3 0", bits=2) == "01 - - 2 3 -"


def test_sieve() -> None:
    case = "012 0 3 4 3 5 3 6 7 38 3 89 1 8"
    assert missed("sieve", 3, case) == "012 - 3 4 - 5 - 6 7 8 - 9 1 -"


def test_s3fifo() -> None:
    # Small size 1, main size 3, ghosts 2. 0123: [0] [1, 2, 3]. 0 comes back as a ghost: [] [2, 3,
    # 4, 0]. 16: the small unit is in use, so 0 leaves the main queue. 7: 1 goes on, 6 leaves.
    case = "0123 4 4 0 2 5 1 14 16 7 6 126 5 4"
    assert missed("s3fifo", 4, case, small=0.25, ghost=0.5, threshold=1) == (
        "0123 4 - 0 - 5 1 - 6 7 6 - 5 4"
    )


def test_w_tinylfu() -> None:
    # Window 1, main 2, protected 1. 3: 0 and 1 go on, 2 is no more used than 0 and leaves. 4: 2 is
    # used more than 0. 04: the window is in use, so 2 leaves. 5: 4 goes on, 0 beats it.
    case = "012 3 0 1 2 2 4 04 5 1 0 4"
    assert missed("w-tinylfu", 3, case, window=0.34, protected=0.5) == ("012 3 - - 2 - 4 0 5 - - 4")


def test_w_tinylfu_halves_its_counts() -> None:
    # Halved after 4 and 8 uses. At the last miss of 2, unit 0 has 0 and 1 has 1, so 1 beats it.
    case = "01 0 0 2 1 1 2 1"
    assert missed("w-tinylfu", 2, case, window=0.5, sample=2) == "01 - - 2 1 - 2 -"
    assert missed("w-tinylfu", 2, case, window=0.5, sample=99) == "01 - - 2 1 - 2 1"


def test_lirs() -> None:
    # Two LIR units, one other. 2 comes back while in the stack and takes the place of 0.
    case = "012 3 2 0 1 0 3 34 45 0"
    assert missed("lirs", 3, case, hir=0.34) == "012 3 2 - - - 3 4 5 0"


def test_lirs_evicts_a_lir_unit_when_the_others_are_in_use() -> None:
    # 04: the only other unit, 0, is in use; 1 leaves, 4 becomes LIR.
    assert missed("lirs", 3, "012 3 2 04 1 4 2", hir=0.34) == "012 3 2 4 1 - -"


def test_lirs_with_one_lir_unit() -> None:
    # A hit of 1 demotes 0, the only LIR unit; pruning then empties the stack, 1 goes back on it.
    assert missed("lirs", 2, "01 1 2 2 3 2 1") == "01 - 2 - 3 - 1"


def test_window_expels_what_was_not_used_lately() -> None:
    assert missed("window", 3, "012 0 0 1 23 4 1 4", window=2) == "012 - - 1 23 4 1 -"


def test_window_evicts_the_least_recently_used() -> None:
    assert missed("window", 3, "012 0 3 02 1") == "012 - 3 - 1"


# ------------------------------------------------------------------------------ sequential, global


def test_sequential_lru_takes_out_units_of_its_own_batch() -> None:
    rows = naive.replay(sets("012 012 12"), 3, 2, "lru", access="sequential")
    assert written(rows) == "012 012 -"
    assert [row.kept for row in rows] == [3, 3, 0]
    assert missed("lru", 2, "012 012 12") == "012 2 2"


def test_sequential_belady_knows_the_rest_of_its_own_batch() -> None:
    # 2 puts out 1: batch 1 requests it after 0. There 1 puts out 0, which is not used again.
    assert missed("belady", 2, "012 012", access="sequential") == "012 1"


def test_sequential_sieve() -> None:
    assert missed("sieve", 2, "012 12 0 2", access="sequential") == "012 - 0 -"


SIZES = {0: 2.0, 1: 2.0, 2: 3.0, 3: 1.0}


def test_global_lru() -> None:
    # 03: both 1 and 2 leave. 012: 2 and 0 fill the cache, 1 is streamed.
    rows = naive.replay_global(sets("01 2 03 23 012 02"), SIZES, 5.0, "lru")
    assert written(rows) == "01 2 03 2 01 -"
    assert [row.kept for row in rows] == [2, 1, 2, 1, 1, 0]


def test_global_ranked_admission() -> None:
    # 12: 2 (used at 2) and 0 (used at 3) fill the cache.
    rows = naive.replay_global(sets("0 12 2 0"), {0: 2.0, 1: 2.0, 2: 1.0}, 3.0, "opt")
    assert written(rows) == "0 12 - -"


def test_global_ranked_admission_stops_at_the_first_that_does_not_fit() -> None:
    # At 012 the order is 0, 1, 2: 1 does not fit beside 0, and 2, which would, is not asked.
    rows = naive.replay_global(sets("012 0 1 2"), {0: 2.0, 1: 2.0, 2: 1.0}, 3.0, "opt")
    assert written(rows) == "012 - 1 2"
    assert rows[0].kept == 1


def test_global_queue() -> None:
    # The last miss of 2 takes the chance of 3 and puts out 0 and 1.
    rows = naive.replay_global(sets("01 2 0 3 3 1 2 23"), SIZES, 5.0, "clock")
    assert written(rows) == "01 2 0 3 - 1 2 -"


# ------------------------------------------------------------------------------------ refused, sums


@pytest.mark.parametrize(
    ("policy", "arguments"),
    [
        ("opt", {"access": "sequential"}),
        ("window", {"access": "sequential"}),
        ("random", {"access": "sequential"}),
        ("lru", {"access": "sequential", "admission": "ranked"}),
        ("lru", {"access": "other"}),
        ("lru", {"parameters": {"k": 3}}),
        ("arc", {"admission": "ranked"}),
    ],
)
def test_refused(policy: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        naive.replay([{0}], 1, 1, policy, **arguments)


UNITS = 8
BATCHES = st.lists(st.sets(st.integers(0, UNITS - 1), max_size=5), max_size=25)
CAPACITY = st.integers(0, UNITS)


def check_sums(rows: list[naive.Row], batches: list[set[int]]) -> None:
    """Check each row against its batch."""
    for row, batch in zip(rows, batches, strict=True):
        assert row.active == len(batch)
        assert row.hits + len(row.missed) == row.active
        assert row.kept <= len(row.missed)
        assert row.missed == sorted(set(row.missed) & batch)


FEW = settings(max_examples=20)
"""Of each policy."""


@pytest.mark.parametrize("policy", POLICIES)
@FEW
@given(batches=BATCHES, capacity=CAPACITY)
def test_atomic_counts_add_up(policy: str, batches: list[set[int]], capacity: int) -> None:
    held = list(range(capacity))
    check_sums(naive.replay(batches, UNITS, capacity, policy, pinned=held), batches)
    everything = set(range(UNITS))  # its hits are all that is resident
    asked = naive.replay([*batches, everything], UNITS, capacity, policy, pinned=held)
    assert asked[-1].hits <= capacity


@pytest.mark.parametrize("policy", SEQUENTIAL)
@FEW
@given(batches=BATCHES, capacity=CAPACITY)
def test_sequential_counts_add_up(policy: str, batches: list[set[int]], capacity: int) -> None:
    rows = naive.replay(batches, UNITS, capacity, policy, access="sequential")
    check_sums(rows, batches)
    for row in rows:
        assert row.kept == (0 if capacity == 0 or policy in ("none", "static") else len(row.missed))


@pytest.mark.parametrize("policy", GLOBAL)
@FEW
@given(
    batches=BATCHES,
    sizes=st.lists(st.sampled_from([0.1, 1.0, 2.5, 4.0]), min_size=UNITS, max_size=UNITS),
    capacity=st.sampled_from([0.0, 0.3, 1.0, 3.0, 7.5, 20.0]),
)
def test_global_counts_add_up(
    policy: str, batches: list[set[int]], sizes: list[float], capacity: float
) -> None:
    by_unit = dict(enumerate(sizes))
    rows = naive.replay_global(batches, by_unit, capacity, policy)
    check_sums(rows, batches)
    for row, batch in zip(rows, batches, strict=True):
        hits = batch - set(row.missed)
        assert sum(by_unit[unit] for unit in hits) <= capacity + 1e-9


@pytest.mark.parametrize("policy", SEQUENTIAL)
@FEW
@given(used=st.lists(st.integers(0, UNITS - 1), max_size=60), capacity=CAPACITY)
def test_one_unit_a_batch_makes_both_accesses_equal(
    policy: str, used: list[int], capacity: int
) -> None:
    batches = [{unit} for unit in used]
    admission = None if naive.ADMISSION[policy] == "never" else "forced"
    atomic, sequential = (
        naive.replay(batches, UNITS, capacity, policy, admission=admission, access=access)
        for access in ("atomic", "sequential")
    )
    assert atomic == sequential


@pytest.mark.parametrize("policy", sorted(set(GLOBAL) - {"random"}))
@FEW
@given(batches=BATCHES, capacity=CAPACITY)
def test_units_of_one_byte_make_both_scopes_equal(
    policy: str, batches: list[set[int]], capacity: int
) -> None:
    sizes = dict.fromkeys(range(UNITS), 1.0)
    layer = naive.replay(batches, UNITS, capacity, policy)
    assert naive.replay_global(batches, sizes, float(capacity), policy) == layer
