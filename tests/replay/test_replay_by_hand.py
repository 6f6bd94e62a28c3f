"""Small replays worked out by hand: five units, a cache of three, five tokens of two units each."""

import numpy as np
import pytest

import dipsim
from tools.devices import BY_HAND

SCORES = [
    [5, 4, 3, 2, 1],
    [5, 4, 3, 2, 1],
    [1, 2, 3, 4, 5],
    [5, 1, 4, 2, 3],
    [1, 5, 2, 4, 3],
]
MODEL = {"layers": 1, "hidden": 5, "intermediate": 5, "heads": 1, "kv_heads": 1, "vocab": 10}


def run(method: str, policy: str, **options: object) -> dipsim.Result:
    """Both groups have the same scores, so they miss alike."""
    arrays = {signal: np.array(SCORES, np.float32)[:, None] for signal in ("mlp_input", "glu")}
    return dipsim.simulate(
        {**arrays, "meta": {"model": {**MODEL, "bits": 8}}},
        BY_HAND,
        method=method,
        policy=policy,
        group_density={"mlp_input": 0.4, "glu": 0.4},
        cache_fraction=0.6,
        **options,
    )


@pytest.mark.parametrize(
    ("policy", "misses"),
    [
        # 01 01 34: of 0 and 1, used together, 0 leaves. 02: of 1 3 4 the oldest, 1 and 3. 13.
        ("lru", [2, 0, 2, 2, 2]),
        # 01 01 34: as above. 02: of 1 3 4 the least used, 3 and 4. 13: 1 is there.
        ("lfu", [2, 0, 2, 2, 1]),
        # 01 01 34: 1 is used later than 0 and leaves. 02: 0 is there, 4 is never used again. 13.
        ("belady", [2, 0, 2, 1, 1]),
    ],
)
def test_dip(policy: str, misses: list[int]) -> None:
    found = run("dip", policy).traffic
    assert found.misses[:, 0].T.tolist() == [misses, misses]
    assert (found.active == 2).all()


def test_dip_ca() -> None:
    # 2: 1 2 | 1.5 2 2.5 with 0 and 1 there: 4, then of the two 2 that with the larger raw score, 3.
    # 3: 2.5 1 2 2 3 with 1 3 4 there: 4 and 0; 1 leaves. 4: 1 2.5 1 4 3 with 0 3 4 there: 3 and 4.
    found = run("dip-ca", "lru", gamma={"*": 0.5}).traffic
    assert found.misses[:, 0, 0].tolist() == [2, 0, 2, 1, 0]
    kept = np.array([9, 9, 9, 8, 7]) / 15
    np.testing.assert_allclose(found.mass[:, 0, 0], kept, rtol=1e-6)


def test_the_first_token_is_all_flash_and_its_repetition_all_dram() -> None:
    found = run("dip", "lru", overlap="paper-serial", context=0)
    used = 2 * 10 + 2 * 5  # two columns of gate and up, two of down, a byte a weight
    static = 4 * 25 + 3 * 5 * 2 + 50  # attention, norms, lm_head
    first, second = found.timing.times.latency[:2]
    assert first == pytest.approx(static / 1000 + used / 100, rel=1e-12)
    assert second == pytest.approx(static / 1000 + used / 1000, rel=1e-12)
