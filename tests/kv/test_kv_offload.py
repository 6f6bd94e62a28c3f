"""Keys and values in flash: FlexGen's total, pages, wear."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.kv.offload import in_pages, wear
from dipsim.kv.plan import KvPlan
from dipsim.model import load_model

OPT_13B = load_model(
    {"layers": 40, "hidden": 5120, "intermediate": 20480, "heads": 40, "kv_heads": 40}
    | {"head_dim": 128, "vocab": 50272, "gated": False}
)


def test_the_cache_that_flexgen_logs_for_opt_13b() -> None:
    """Batch 32, 512 tokens and 100 more: 14.941 GiB in its log."""
    total = 32 * float(KvPlan(OPT_13B, resident=0).flash_bytes(612)[0])
    assert total == 16_043_212_800
    assert round(total / 2**30, 3) == 14.941


def test_what_llama_3_2_3b_writes() -> None:
    plan = KvPlan(load_model("llama-3.2-3b"), resident=512)
    written = float(plan.step(4096).flash_written.sum())
    worn = wear(written, 10.0)
    assert worn.bytes_per_token == 114_688
    assert round(worn.bytes_per_second / 1e6, 1) == 1.1
    assert round(worn.bytes_per_million_tokens / 1e9) == 115


def test_pages_of_a_layer_fill_before_they_are_written() -> None:
    written = np.full((12, 2), 768.0)
    written[:, 1] = 4096.0
    pages = in_pages(written, 4096)
    assert pages[:, 0].nonzero()[0].tolist() == [5, 10]  # 768 B fill 4 KiB with the sixth
    assert (pages[:, 1] == 4096).all()


@given(
    st.lists(st.integers(0, 20_000), min_size=1, max_size=40), st.sampled_from([1.0, 512.0, 4096.0])
)
def test_only_what_fills_no_page_waits(bytes_left: list[int], page: float) -> None:
    written = np.array(bytes_left, float)[:, None]
    pages = in_pages(written, page)
    waiting = written.cumsum() - pages.cumsum()
    assert ((waiting >= 0) & (waiting < page)).all()
    assert (pages % page == 0).all()
    assert pytest.approx(float(pages.sum())) == sum(bytes_left) // page * page
