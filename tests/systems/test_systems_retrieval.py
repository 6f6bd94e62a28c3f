"""KV of which tokens read the best blocks only: by hand on a model of one layer, and against a
twin that replays blocks as they are born."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import dipsim
import naive.retrieval as naive
from dipsim.errors import DipsimError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import load_profile
from dipsim.policies import BUILTIN
from dipsim.simulate import prepare
from dipsim.systems.blocks import MissedBlocks
from dipsim.threads import at_most_threads
from dipsim.trace.encoding import pack_sets, unpack_sets
from tools.one_layer import DEVICE, KV, TINY, trace

TOKENS = 8
WANTED = [0, 0, 0, 0, 1, 0, 0, 2]
"""Block of two positions that each token reads, of those that are complete."""
BEFORE = np.arange(TOKENS)
BLOCK, CENTROID = 2 * KV, 8


def by_hand(**marks: Any) -> dict[str, Any]:
    """A trace whose query at a token is the key of the block that it wants."""
    unit = np.eye(4, dtype=np.float32)
    key = unit[BEFORE // 2][:, None]
    value = np.ones_like(key)
    return trace([{0}] * TOKENS, query=unit[WANTED][:, None], key=key, value=value, **marks)


def run(of: Any = None, **options: Any) -> Any:
    usual = {"policy": "lru", "cache_fraction": 1.0, "overlap": "serial"}
    return dipsim.simulate(of or by_hand(), DEVICE, **{**usual, **options})


def latency(result: Any) -> Any:
    return np.array(result.timing.times.latency)


def read_bytes(by: str = "centroid") -> Any:
    """Bytes of a token with top=1:block=2."""
    complete, newest = BEFORE // 2, BEFORE % 2
    key = KV // 2
    if by == "max":
        return complete * 2 * key + np.minimum(complete, 1) * 2 * key + newest * KV
    return complete * CENTROID + np.minimum(complete, 1) * BLOCK + newest * KV


def test_all_changes_nothing() -> None:
    result, whole = run(kv_fetch="all"), run()
    assert result.to_dict()["kv"] is None
    np.testing.assert_array_equal(latency(result), latency(whole))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_layers_share_the_threads_that_a_worker_may_use(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    pools: list[int] = []

    def pool(most: int) -> ThreadPoolExecutor:
        pools.append(most)
        return ThreadPoolExecutor(most)

    monkeypatch.setattr("dipsim.systems.blocks.ThreadPoolExecutor", pool)
    with at_most_threads(threads):
        run(kv_fetch="top=1:block=2", kv_dram="50%")
    assert pools == [threads]


@pytest.mark.parametrize("by", ["centroid", "max"])
def test_in_dram_fewer_bytes_are_read(by: str) -> None:
    result, whole = run(kv_fetch=f"top=1:block=2:by={by}"), run()
    saved = BEFORE * KV - read_bytes(by)
    np.testing.assert_allclose(latency(whole) - latency(result), saved / 100)
    kv = result.to_dict()["kv"]
    assert (kv["blocks"], kv["block_hit_rate"], kv["policy"]) == (0.75, 1, "full")
    assert kv["read_bytes_per_token"] == read_bytes(by).mean()
    assert kv["flash_bytes_per_token"] == kv["flash_write_bytes_per_token"] == 0
    budget = result.to_dict()["budget"]
    index = 4 * (CENTROID if by == "centroid" else BLOCK // 2)
    assert (budget["kv_index"], budget["kv_buffer"]) == (index, 0)
    assert budget["kv"] == TOKENS * KV - (index if by == "max" else 0)


def test_blocks_come_from_flash_once_they_are_asked_for() -> None:
    """Half of 8 positions is the newest block and one more. Token 3 keeps block 0, which it reads,
    in place of block 1, which it writes; tokens 4, 5 and 7 read blocks 1, 0 and 2 from flash."""
    for overlap in ("serial", "pipelined"):
        result = run(kv_fetch="top=1:block=2", kv_dram="50%", overlap=overlap)
        whole = run(overlap=overlap)
        missed = np.isin(BEFORE, (4, 5, 7))
        changed = (read_bytes() - BEFORE * KV) / 100 + missed * BLOCK / 10
        np.testing.assert_allclose(latency(result) - latency(whole), changed, atol=1e-12)
    found = result.to_dict()
    kv, budget = found["kv"], found["budget"]
    assert (kv["fetch"], kv["blocks"], kv["block_hit_rate"]) == ("top=1:block=2", 0.75, 0.5)
    assert (kv["positions"], kv["in_flash"]) == (2, 0.75)
    assert kv["flash_bytes_per_token"] == 3 * BLOCK / TOKENS
    assert kv["flash_write_bytes_per_token"] == 4 * BLOCK / TOKENS
    assert (budget["kv"], budget["kv_buffer"], budget["kv_index"]) == (2 * BLOCK, BLOCK, 4 * 8)
    assert (kv["held_bytes"], kv["index_bytes"]) == (2 * BLOCK, 4 * 8)
    moved = result.flash_bytes_per_token - run().flash_bytes_per_token
    assert moved == 3 * BLOCK / TOKENS
    assert result.flash_reads_per_token - run().flash_reads_per_token == round(3 / TOKENS)


def test_the_place_of_the_wait_is_named() -> None:
    from dipsim.timeline.excerpt import excerpt

    result = run(kv_fetch="top=1:block=2", kv_dram="50%")
    shown = excerpt(result.run, result.traffic, TOKENS)
    waits = [span for span in shown.spans if "KV blocks" in span.place]
    assert [(span.token, span.place, span.bytes) for span in waits] == [
        (token, "layer 0 KV blocks from flash", BLOCK) for token in (4, 5, 7)
    ]


@pytest.mark.parametrize("share", ["100%", "999 B", "1 kB"])
def test_where_all_fits_nothing_comes_from_flash(share: str) -> None:
    kv = run(kv_fetch="top=1:block=2", kv_dram=share).to_dict()["kv"]
    assert kv["block_hit_rate"] == 1
    assert kv["flash_bytes_per_token"] == kv["flash_write_bytes_per_token"] == 0


def test_both_engines_agree() -> None:
    for overlap in ("serial", "pipelined"):
        given = {"kv_fetch": "top=1:block=2", "kv_dram": "50%", "overlap": overlap}
        closed, events = (run(**given, engine=engine) for engine in ("closed", "events"))
        np.testing.assert_allclose(latency(events), latency(closed), rtol=1e-9)


def test_kv_that_grows_and_the_fastest_share() -> None:
    options = {"cache_fraction": None, "dram": "320 B", "kv_fetch": "top=1:block=2"}
    grown = run(**options, kv="grow", kv_dram="50%").to_dict()
    assert grown["budget"]["kv"] == 2 * BLOCK
    assert grown["budget"]["start"]["kv"] == KV
    auto = run(**options, kv_dram="auto")
    rates = [run(**options, kv_dram=share).tokens_per_second for share in ("0%", "50%", "100%")]
    assert auto.tokens_per_second >= max(rates)


def test_fewer_bits_take_fewer_bytes() -> None:
    half = run(kv_fetch="top=1:block=2", kv_dram="50%", kv_bits=8).to_dict()["kv"]
    assert half["flash_bytes_per_token"] == 3 * BLOCK / 2 / TOKENS
    assert half["index_bytes"] == 4 * CENTROID


def test_a_policy_that_knows_the_future_is_marked() -> None:
    options = {"kv_dram": "50%", "kv_fetch": "top=1:block=2:policy=opt"}
    assert "clairvoyant" in run(**options).marks
    assert "clairvoyant" not in run(kv_fetch="top=1:block=2:policy=opt").marks


# Against the twin


SIZE = {"layers": 2, "hidden": 16, "intermediate": 8, "heads": 4, "kv_heads": 2, "head_dim": 4}
PROMPT, LENGTHS = 9, (48, 31)


def drawn(seed: int) -> dict[str, Any]:
    """Two sequences with a prompt each; attention looks back where it looked before."""
    draw = np.random.default_rng(seed)
    tokens = sum(LENGTHS)
    position = np.concatenate([np.arange(n) for n in LENGTHS])
    arrays = {
        name: draw.normal(size=(tokens, 2, 4 * heads)).cumsum(axis=0).astype(np.float32)
        for name, heads in (("query", 4), ("key", 2), ("value", 2))
    }
    return {
        "glu": np.ones((tokens, 2, 8), np.bool_),
        "phase": (position >= PROMPT).astype(np.uint8),
        "sequence": np.repeat([0, 1], LENGTHS).astype(np.int32),
        "meta": {"model": {**SIZE, "name": "drawn", "vocab": 16, "bits": 8}},
        **arrays,
    }


def prepared(of: dict[str, Any], **options: Any) -> Any:
    return prepare(of, {**DEVICE, "dram": {**DEVICE["dram"], "capacity": "1 MB"}}, **options)


def misses(of: dict[str, Any], capacity: int, fetch: str) -> MissedBlocks:
    """What comes from flash where DRAM holds the newest block and so many more."""
    block = int(fetch.partition("block=")[2].partition(":")[0])
    positions = (capacity + 1) * block * 2 * SIZE["layers"] * SIZE["kv_heads"] * 4 * 2
    run = prepared(of, cache_fraction=1.0, kv_fetch=fetch, kv_dram=f"{positions} B")
    assert run.kv.fetching.capacity.tolist() == [capacity] * 2
    return run.kv.missed


def totals(of: dict[str, Any], capacity: int, fetch: str) -> int:
    missed = misses(of, capacity, fetch)
    return int(missed.counts(np.arange(sum(LENGTHS))).sum())


@pytest.mark.parametrize("policy", sorted(set(BUILTIN) - {"static", "pinned"}))
@pytest.mark.parametrize(("per", "capacity"), [("layer", 4), ("head", 3)])
def test_blocks_that_are_missed_are_those_of_the_twin(policy: str, per: str, capacity: int) -> None:
    of, block, top = drawn(1), 3, 3
    missed = misses(of, capacity, f"top={top}:block={block}:per={per}:policy={policy}")
    starts = np.cumsum([0, *LENGTHS])
    sets = 1 if per == "layer" else 2
    for start, length in zip(starts, LENGTHS, strict=False):
        for layer in range(2):
            rows = slice(start, start + length)
            q, k = (of[name][rows, layer].reshape(length, -1, 4) for name in ("query", "key"))
            chosen = naive.choose(q, k, top, block, per=per, first=PROMPT)
            found = unpack_sets(missed.missed[rows, layer], missed.units)
            for each in range(sets):
                wanted = naive.missed(
                    [row[each] for row in chosen], block, capacity, policy, layer=layer, group=each
                )
                own = found[:, each::sets]
                assert [np.flatnonzero(row).tolist() for row in own] == wanted


def test_more_dram_never_misses_more() -> None:
    for seed in (2, 3):
        of = drawn(seed)
        for policy in ("lru", "opt"):
            fetch = f"top=3:block=2:policy={policy}"
            counts = [totals(of, capacity, fetch) for capacity in range(4, 20, 3)]
            assert counts == sorted(counts, reverse=True)
            assert counts[0] > counts[-1]
        for capacity in (4, 7, 12):
            lru, opt = (totals(of, capacity, f"top=3:block=2:policy={p}") for p in ("lru", "opt"))
            assert opt <= lru


def test_a_cache_of_all_blocks_misses_none() -> None:
    assert totals(drawn(4), 22, "top=3:block=2") == 0  # 23 are complete before the last token


def test_what_a_prompt_wrote_last_is_in_dram_after_it() -> None:
    of = drawn(5)
    missed = unpack_sets(misses(of, 3, "top=4:block=2").missed, 24)
    assert not missed[:PROMPT, 0].any()
    assert not missed[PROMPT, 0, 1:4].any()  # of blocks 0 to 3
    assert missed[PROMPT, 0, 0]


def test_the_part_of_the_layers_chooses_as_in_the_whole() -> None:
    of = drawn(6)
    options = {"cache_fraction": 1.0, "kv_fetch": "top=2:block=3", "kv_dram": "40%"}
    whole, part = prepared(of, **options), prepared(of, **options, layers="1:2")
    assert np.array_equal(whole.kv.missed.missed[:, 1], part.kv.missed.missed[:, 0])
    tokens = prepared(of, **options, context=48, tokens=":40")
    assert np.array_equal(tokens.kv.missed.missed[:, 0], whole.kv.missed.missed[:40, 0])


def test_a_sequence_shorter_than_a_block_reads_all_of_it() -> None:
    result = run(tokens=":3", context=8, kv_fetch="top=1:block=4", kv_dram="50%")
    whole = run(tokens=":3")
    np.testing.assert_allclose(latency(result), latency(whole))
    assert (result.kv["blocks"], result.kv["block_hit_rate"]) == (0, None)


# What reads cost


def test_reads_are_whole_pages_and_neighbours_are_read_together() -> None:
    flash = FlashCost(load_profile("snapdragon8").flash)
    size = 1024.0  # four positions of a head of SmolLM2
    sets = np.zeros((4, 1, 900), np.bool_)
    sets[1, 0, 4] = sets[2, 0, [0, 899]] = sets[3, 0, 4:8] = True
    reads = MissedBlocks(900, size, pack_sets(sets), False).reads(np.arange(4), flash)
    assert reads.requests[:, 0].tolist() == [0, 1, 2, 1]
    assert reads.moved[:, 0].tolist() == [0, 4096, 8192, 4096]
    alone = flash.seconds(np.array([4096.0]), 1)[0]
    assert reads.seconds[1, 0] == alone
    two = flash.seconds(np.array([4096.0]), 2)[0]
    assert reads.seconds[2, 0] == pytest.approx(2 * two)


def test_a_faster_flash_shortens_the_wait_and_changes_no_count() -> None:
    from dipsim.sweep.vary import retimed

    result, whole = run(kv_fetch="top=1:block=2", kv_dram="50%"), run()
    twice, whole_twice = (retimed(each.run, each.traffic, 2) for each in (result, whole))
    waits = 3 * BLOCK / 10
    more = [(latency(a) - latency(b)).sum() for a, b in ((result, whole), (twice, whole_twice))]
    assert more[0] - more[1] == pytest.approx(waits / 2)
    assert twice.kv["block_hit_rate"] == result.kv["block_hit_rate"]


def test_what_the_time_of_a_layer_is_made_of_has_its_wait() -> None:
    from dipsim.analysis.attribution import attribute

    for options in ({"kv_fetch": "top=1:block=2"}, {}):
        found = attribute(run(**options, kv_dram="50%"))
        assert [part.name for part in found.parts] == [0, "head"]
        assert found.parts[0].exposed["flash"] > 0


# What is lost, and what is refused


def test_recorded_vectors_say_what_is_lost() -> None:
    options: dict[str, Any] = {"tokens": "0:160", "dram": "60%"}
    lost = [
        dipsim.simulate("smollm2-kv", "snapdragon8", kv_fetch=fetch, **options).kv
        for fetch in ("top=1:block=16:by=max", "top=3:block=16:by=max", "top=10:block=16")
    ]
    assert 0 < lost[0]["mass_kept"] < lost[1]["mass_kept"] < lost[2]["mass_kept"]
    assert lost[0]["output_error"] > lost[1]["output_error"] > 0
    assert lost[2]["mass_kept"] == pytest.approx(1)
    assert lost[2]["output_error"] == pytest.approx(0, abs=1e-9)
    assert {kv["loop"] for kv in lost} == {"layer-closed"}


FETCH = {"kv_fetch": "top=1:block=2"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kv_fetch": "top=0:block=2"}, "top=0: a whole number from 1"),
        ({"kv_fetch": "top=1:block=0"}, "block=0: a whole number from 1"),
        ({"kv_fetch": "top=1:block=9"}, "block=9: the context has 8 positions"),
        ({"kv_fetch": "top=1:block=two"}, "a whole number"),
        ({"kv_fetch": "best=1:block=2"}, "write all, or top, block"),
        ({"kv_fetch": "top=1:block=2:policy=newest"}, "policy=newest: blocks of KV are kept by"),
        ({"kv_fetch": "top=1:block=2:policy=static"}, "policy=static: blocks of KV are kept by"),
        ({**FETCH, "kv_policy": "h2o", "kv_budget": 4}, "and --kv-policy h2o: blocks are made of"),
        ({**FETCH, "kv_dram": "50%", "kv_recompute": "auto"}, "and --kv-recompute auto"),
        ({**FETCH, "skip_layers": "unified:share=0"}, "and --skip-layers unified"),
        ({**FETCH, "kv_quant": "kivi"}, "and --kv-quant kivi: it keeps the newest"),
        ({**FETCH, "depth": 3}, "nothing is known of the tokens before"),
        ({**FETCH, "tokens": "2:8"}, "nothing is known of the tokens before"),
        ({**FETCH, "kv_dram": "lots"}, "--kv-dram"),
        ({"kv_fetch": "top=1:block=4", "kv_dram": "30%"}, "30%: room for 2 positions of a layer"),
        ({**FETCH, "batch": 2}, "and --batch 2: the sequences of a batch would choose"),
        ({**FETCH, "speculate": "draft=1,accept=1"}, "accept=1: the blocks of rejected drafts"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DipsimError, match=text) as problem:
        run(**options)
    assert "\n" not in str(problem.value)


def test_pruned_tokens_leave_no_whole_blocks() -> None:
    phase = (BEFORE >= 4).astype(np.uint8)
    with pytest.raises(DipsimError, match="and --prune-tokens random"):
        run(by_hand(phase=phase), **FETCH, prune_tokens="random:rate=.3")


def test_several_prompts_of_a_sequence_are_refused() -> None:
    phase = np.array([0, 1, 0, 1, 1, 1, 1, 1], np.uint8)
    with pytest.raises(DipsimError, match="takes one prompt for each sequence"):
        run(by_hand(phase=phase), **FETCH)


def test_a_trace_without_vectors_is_refused_with_the_way_to_record_them() -> None:
    with pytest.raises(DipsimError, match="has no query and no key: record them with dipsim "):
        run(trace([{0}] * TOKENS), **FETCH)
    only = {name: values for name, values in by_hand().items() if name != "query"}
    with pytest.raises(DipsimError, match=r"has no query: .* --signals query,key,value"):
        run(only, **FETCH)
    with pytest.raises(DipsimError, match="a run without a trace has no query and no"):
        dipsim.simulate(
            None, "snapdragon8", model="smollm2-135m", method="dense", prompt=9, **FETCH
        )


def test_a_trace_without_values_is_counted() -> None:
    only = {name: values for name, values in by_hand().items() if name != "value"}
    kv = run(only, **FETCH).kv
    assert (kv["loop"], kv["mass_kept"], kv["blocks"]) == ("counts", None, 0.75)


def test_other_models_are_refused() -> None:
    windowed = {**by_hand(), "meta": {"model": {**TINY, "window": 4}}}
    with pytest.raises(DipsimError, match="layers that see a window of their own"):
        run(windowed, **FETCH)
    wide = {**by_hand(), "meta": {"model": {**TINY, "kv_heads": 1, "heads": 1, "head_dim": 8}}}
    with pytest.raises(DipsimError, match="are not those of tiny: pass the --model"):
        run(wide, **FETCH)


def test_sets_that_are_too_large_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dipsim.systems.blocks._MOST_SETS", 31)
    for share in ("50%", "100%"):
        with pytest.raises(DipsimError, match="give a larger block, or fewer --tokens"):
            run(**FETCH, kv_dram=share)
    monkeypatch.setattr("dipsim.systems.blocks._MOST_SETS", 64)
    monkeypatch.setattr("dipsim.systems.blocks._MOST_BYTES", 8)
    with pytest.raises(DipsimError, match="queries and keys of a sequence take"):
        run(**FETCH, kv_dram="50%")
