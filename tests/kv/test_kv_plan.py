"""What a plan of keys and values moves, against a twin that moves positions one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import BudgetError
from dipsim.kv.bits import FP16, parse_format, plain
from dipsim.kv.plan import KvPlan, When
from dipsim.kv.split import Recompute
from dipsim.model import load_model
from naive.kv_bytes import Layer

SMOL = load_model("smollm2-135m")
PHI = load_model("phi-3-mini")  # it attends to a window of 2 047
OLMOE = load_model("olmoe-1b-7b")
GEMMA = load_model("gemma-2-2b")
TINY = load_model(
    {"layers": 3, "hidden": 40, "intermediate": 8, "heads": 4, "kv_heads": 4, "head_dim": 10}
    | {"vocab": 16}
)


@pytest.mark.parametrize("model", [SMOL, PHI, GEMMA], ids=lambda model: model.name)
@pytest.mark.parametrize("bits", [16.0, 8.0])
def test_without_a_budget_a_plan_is_the_model_to_the_bit(model, bits: float) -> None:
    before = np.array([0, 1, 7, 4095, 4096, 9000])
    plan = KvPlan(model, plain(bits))
    step = plan.step(before)
    assert (step.read.sum(1) == model.kv_bytes(before, bits)).all()
    assert (plan.dram_bytes(before) == model.kv_bytes(before, bits)).all()
    assert (step.written.sum(1) == model.kv_bytes(1, bits)).all()
    for nothing in (step.flash_read, step.flash_written, step.flops, plan.flash_bytes(before)):
        assert not nothing.any()


@pytest.mark.parametrize("when", ["token", "both", "prompt"])
def test_a_budget_that_is_never_reached_changes_nothing(when: When) -> None:
    before = np.arange(100, 300)
    full, budgeted = KvPlan(SMOL, prompt=100), KvPlan(SMOL, budget=400, when=when, prompt=100)
    for one, other in zip(full.step(before), budgeted.step(before), strict=True):
        assert (one == other).all()


def test_a_window_of_the_model_bounds_what_a_layer_holds() -> None:
    held = KvPlan(GEMMA).held(9000)[0]
    assert held[:4].tolist() == [4096, 9000, 4096, 9000]
    assert KvPlan(GEMMA, budget=1000).held(9000).max() == 1000


def test_when_a_budget_binds() -> None:
    before = np.array([10, 50, 51, 60, 90])
    held = {
        when: KvPlan(SMOL, budget=20, when=when, prompt=50).held(before)[:, 0].tolist()
        for when in ("token", "prompt", "both")
    }
    assert held["token"] == [10, 20, 20, 20, 20]
    assert held["prompt"] == [10, 20, 21, 30, 60]
    assert held["both"] == [10, 20, 20, 20, 20]


@pytest.mark.parametrize(
    ("budget", "reads", "read", "milliseconds"),
    [
        (None, 1, 1073.7, 24.1),
        (3276, 1, 429.4, 9.64),
        (1638, 1, 214.7, 4.82),
        (819, 1, 107.3, 2.41),
        (3276, 2, 644.1, None),
        (1638, 2, 322.0, None),
        (819, 2, 161.0, None),
    ],
)
def test_traffic_of_llama_3_8b_at_8192_positions(
    budget: int | None, reads: int, read: float, milliseconds: float | None
) -> None:
    step = KvPlan(load_model("llama-3-8b"), budget=budget, value_reads=reads).step(8192)
    total = float(step.read.sum())
    assert total / 1e6 == pytest.approx(read, abs=0.1)
    if milliseconds is not None:
        assert 1e3 * total / 44.5e9 == pytest.approx(milliseconds, rel=0.002)


def test_budgets_by_layer() -> None:
    budgets = np.array([5, 50, 500])
    plan = KvPlan(TINY, budget=budgets)
    assert plan.held(100)[0].tolist() == [5, 50, 100]
    assert plan.dram_bytes(100).tolist() == [155 * 4 * 40]


def test_the_most_that_a_prompt_holds() -> None:
    one = float(FP16.bytes(1, 40))
    assert KvPlan(TINY).prefill_peak_bytes(100) == 300 * one
    cut = KvPlan(TINY, budget=10, when="prompt", prompt=100)
    assert cut.prefill_peak_bytes(100) == (10 + 10 + 100) * one
    falling = KvPlan(TINY, budget=np.array([90, 10, 5]), when="prompt", prompt=100)
    assert falling.prefill_peak_bytes(100) == 200 * one


@given(
    budget=st.one_of(st.none(), st.integers(1, 60)),
    every=st.integers(1, 20),
    prompt=st.integers(0, 60),
    when=st.sampled_from(["token", "prompt", "both"]),
    name=st.sampled_from(
        ["fp16", "q4_0", "kivi:residual=8,group=7", "kivi-code:residual=14,group=7"]
    ),
    resident=st.one_of(st.none(), st.integers(30, 50)),
    context=st.integers(1, 150),
)
def test_dram_holds_what_any_token_finds(
    budget, every, prompt, when, name, resident, context
) -> None:
    """At the context there may be less: a cut, or a block that became full, comes in between."""
    prompt = min(prompt, context)
    plan = KvPlan(TINY, parse_format(name), budget, when, prompt, resident, every=every)
    most = plan.most_dram_bytes(context)
    is_cut = when != "token" and budget is not None and prompt > budget
    found = plan.dram_bytes(np.arange(prompt if is_cut else 0, context + 1)).max()
    assert most >= found * (1 - 1e-12)
    if not is_cut:
        assert most == pytest.approx(found)
    absent = np.array([0, 3, context])
    fewer = plan.most_dram_bytes(context, context - absent)
    assert fewer <= most * (1 + 1e-12)


@given(
    budget=st.one_of(st.none(), st.integers(1, 40)),
    resident=st.one_of(st.none(), st.integers(0, 30)),
    inputs=st.integers(0, 12),
    prompt=st.integers(0, 30),
    when=st.sampled_from(["token", "prompt", "both"]),
)
def test_every_token_is_that_of_the_twin(budget, resident, inputs, prompt, when) -> None:
    twin = Layer(40, 40, budget, resident, inputs)
    if when == "token":
        for position in range(prompt):
            twin.token(position, evict=True)
    else:
        twin.prompt(prompt, cut=True)
    plan = KvPlan(TINY, FP16, budget, when, prompt, resident, inputs)
    before = np.arange(prompt, prompt + 40)
    step = plan.step(before)
    for row, position in enumerate(before):
        expected = twin.token(int(position), evict=when != "prompt")
        for name, value in expected.items():
            assert getattr(step, name)[row].tolist() == [value] * 3, (name, position)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(128, 300))
def test_any_part_of_a_run_can_be_asked_for_alone(before: list[int], resident: int) -> None:
    plan = KvPlan(SMOL, parse_format("kivi"), budget=400, resident=256 + resident)
    whole = plan.step(np.array(before))
    for row, token in enumerate(before):
        for one, all_of_them in zip(plan.step(token), whole, strict=True):
            assert (one[0] == all_of_them[row]).all()


def test_what_lies_in_flash_and_what_lies_in_dram_are_all_there_is() -> None:
    plan = KvPlan(SMOL, parse_format("kivi:bits=4"), resident=200)
    before = np.arange(0, 1500, 13)
    everything = SMOL.layers * plan.format.bytes(before, plan.width)
    assert plan.dram_bytes(before) + plan.flash_bytes(before) == pytest.approx(everything)
    late = plan.step(before[before > 400])
    assert (late.flash_read == late.in_flash * plan.format.position_bytes(plan.width)).all()


def test_recomputing_the_best_part_reads_less_and_keeps_inputs_of_all() -> None:
    layer = Recompute.of(OLMOE, 2.2e9, 10e12)
    plan, plain_plan = (KvPlan(OLMOE, resident=100, recompute=r) for r in (layer, None))
    step, other = plan.step(8192), plain_plan.step(8192)
    again = int(layer.positions(8092))
    assert (step.recomputed == again).all()
    assert (step.flops == layer.flops(again)).all()
    saved = again * (layer.kv_bytes - layer.input_bytes)
    assert (other.flash_read - step.flash_read == saved).all()
    assert (step.written - other.written == again * layer.kv_bytes).all()
    assert (step.read - other.read == again * layer.input_bytes).all()
    assert (step.flash_written - other.flash_written == layer.input_bytes).all()
    assert plan.buffer_bytes(8192)[0] == 2 * step.flash_read[0, 0]
    inputs = 8092 * layer.input_bytes * OLMOE.layers
    assert plan.flash_bytes(8192) - plain_plan.flash_bytes(8192) == inputs


def test_quantised_keys_and_values_are_dearer_to_compute_again() -> None:
    layer = Recompute.of(OLMOE, 2.2e9, 10e12)
    plans = [
        KvPlan(OLMOE, parse_format(name), resident=200, recompute=layer) for name in ("fp16", "fp8")
    ]
    whole, half = (plan.step(4000) for plan in plans)
    assert whole.recomputed.min() > 0
    assert not half.recomputed.any()  # 2 048 inputs of 2 B, 4 096 keys and values of 1 B


def test_positions_are_quantised_as_they_age_whatever_is_evicted() -> None:
    plan = KvPlan(SMOL, parse_format("kivi-code"), budget=256)
    before = np.arange(1000, 1256)
    written = plan.step(before).written[:, 0].mean()
    assert written == pytest.approx(4 * plan.width + plan.format.position_bytes(plan.width))


def test_a_grouped_model_keeps_no_inputs() -> None:
    llama = load_model("llama-3-8b")
    plan = KvPlan(llama, resident=100, recompute=Recompute.of(llama, 2.2e9, 10e12))
    for one, other in zip(plan.step(4000), KvPlan(llama, resident=100).step(4000), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "a KV budget of 0 positions"),
        ({"budget": np.array([1, 2])}, r"KV budgets of shape \(2,\)"),
        ({"resident": 10, "format": parse_format("kivi")}, "give at least 159, as kivi"),
        ({"resident": -1}, "-1 positions of KV in DRAM"),
        ({"recompute": -1}, "-1 positions to compute again"),
    ],
)
def test_bad_plans_are_refused_in_one_line(options, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        KvPlan(TINY, **options)
