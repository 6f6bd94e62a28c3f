"""Where units lie: rows of a model file, and co-activation order, against a naive twin."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dipsim
from dipsim.errors import DipsimError
from dipsim.flash.order import LEAST, coactivation_places, order_rows
from dipsim.kernels.coactivation import WINDOW
from dipsim.report.hints import warnings
from dipsim.trace import load_trace
from dipsim.trace.encoding import pack_sets
from naive import replay as naive
from tools.paths import DOCS, ROOT, shared
from tools.reads import cost, random_device, table

TINY = {"layers": 1, "hidden": 4, "intermediate": 8, "heads": 1, "kv_heads": 1, "vocab": 16}
SLOW = {
    "name": "slow",
    "dram": {"capacity": "1 GB", "bandwidth": "1 GB/s"},
    "flash": {"bandwidth": "8 B/s"},
    "compute": "unlimited",
}


def scored(tokens: int = 32, layers: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    return {
        "mlp_input": rng.random((tokens, layers, 4)).astype(np.float32),
        "glu": rng.random((tokens, layers, 8)).astype(np.float32),
        "meta": {"model": {**TINY, "layers": layers, "bits": 8}},
    }


def run(arrays: dict[str, Any] | str, **options: Any) -> dipsim.Result:
    return dipsim.simulate(arrays, SLOW, **{"cache_fraction": 0.5, **options})


# The order of addresses ---------------------------------------------------------------------------


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), measured=st.booleans())
def test_costs_in_another_order_equal_the_twin(seed: int, measured: bool) -> None:
    rng = np.random.default_rng(seed)
    device = random_device(rng, measured=measured, align=512.0)
    place = rng.permutation(device.units)
    sets = rng.random((12, 1, device.units)) < rng.random((12, 1, 1)) ** 2
    traffic = cost(sets, table(device)._replace(place=place))
    missed = [place[np.flatnonzero(row)].tolist() for row in sets[:, 0]]
    twin = np.array([naive.requests(units, **device._asdict())[:3] for units in missed])
    np.testing.assert_array_equal(traffic.reads[:, 0, 0], twin[:, 0])
    np.testing.assert_allclose(traffic.moved[:, 0, 0], twin[:, 1], rtol=1e-12)
    np.testing.assert_allclose(traffic.flash_seconds[:, 0, 0], twin[:, 2], rtol=1e-12)


def naive_order(used: NDArray[np.bool_]) -> list[int]:
    """The chain, from its rule: popular units first, then who shares most tokens with the last."""
    tokens = [set(np.flatnonzero(column).tolist()) for column in used.T]
    left = sorted(range(len(tokens)), key=lambda unit: (-len(tokens[unit]), unit))
    order = [left.pop(0)]
    while left:
        alike = [unit for unit in left[:WINDOW] if len(tokens[unit]) == len(tokens[left[0]])]
        chosen = max(alike, key=lambda unit: len(tokens[unit] & tokens[order[-1]]))
        left.remove(chosen)
        order.append(chosen)
    return order


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_equals_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    used = rng.random((int(rng.integers(1, 90)), int(rng.integers(1, 150)))) < rng.random()
    places = coactivation_places(pack_sets(used), used.shape[1])
    assert np.argsort(places).tolist() == naive_order(used)


def test_planted_clusters_come_to_lie_together() -> None:
    rng = np.random.default_rng(4)
    cluster = rng.permutation(np.repeat(np.arange(8), 8))  # equally popular, scattered
    when = np.array([rng.permutation(np.arange(64) % 8 == 0) for _ in range(8)])
    used = when[cluster].T
    places = coactivation_places(pack_sets(used), 64)
    in_order = cluster[np.argsort(places)]
    assert (np.diff(in_order) != 0).sum() == 7  # eight runs
    assert (np.diff(cluster) != 0).sum() > 50


def test_a_large_group_is_ordered_fast_and_completely() -> None:
    used = np.random.default_rng(0).random((512, 17920)) < 0.5
    assert sorted(coactivation_places(pack_sets(used), 17920)) == list(range(17920))


def test_permuted_changes_addresses_and_nothing_else() -> None:
    trace = dipsim.load_trace("smollm2-chat").part(None, "0:3", None)
    options = {"method": "dip", "cache_fraction": 0.6, "model": "smollm2-135m"}
    there = {**options, "model": dipsim.load_model("smollm2-135m", 5.0)}
    by_id = dipsim.simulate(trace, "snapdragon8gen3", warmup=64, **there)
    permuted = dipsim.simulate(trace, "snapdragon8gen3", layout="permuted", **there)
    assert np.flatnonzero(permuted.traffic.measured).tolist() == list(range(64, 128))
    for same in ("active", "hits", "kept"):
        ours, theirs = getattr(by_id.traffic, same), getattr(permuted.traffic, same)
        np.testing.assert_array_equal(ours, theirs)
    assert (by_id.traffic.moved != permuted.traffic.moved).any()
    assert "held-out" in permuted.marks
    assert "held-out" not in by_id.marks


def test_the_order_is_learned_from_the_tokens_named() -> None:
    found = run(scored(), layout="permuted", order_from="4:20", method="dip")
    assert np.flatnonzero(found.traffic.measured).tolist() == [0, 1, 2, 3, *range(20, 32)]
    assert found.config["settings"]["order_from"] == "4:20"
    usual = run(scored(), layout="permuted", method="dip")
    assert np.flatnonzero(usual.traffic.measured).tolist() == list(range(16, 32))


def test_prefill_is_no_decode_token() -> None:
    arrays = {**scored(), "phase": np.repeat([0, 1], 16).astype(np.uint8)}
    assert order_rows(load_trace(arrays), None) == (0, 24)


def test_thresholds_and_order_are_both_held_out() -> None:
    arrays = {"gate": scored()["glu"], "meta": scored()["meta"]}
    options = {"method": "cats", "density": 0.6, "layout": "permuted", "order_from": "0:8"}
    found = run(arrays, calibrate_tokens="10:12", **options)
    assert np.flatnonzero(found.traffic.measured).tolist() == [8, 9, *range(12, 32)]


def test_the_optimal_division_knows_the_order() -> None:
    found = run(scored(), layout="permuted", allocate="optimal", method="dip")
    assert np.flatnonzero(found.traffic.measured).tolist() == list(range(16, 32))


def test_a_run_with_an_order_is_repeated_by_its_config(tmp_path: Path) -> None:
    dipsim.save_trace(tmp_path / "t.npz", scored())
    trace = str(tmp_path / "t.npz")
    first = run(trace, layout="permuted", order_from="0:12", method="dip")
    again = run(trace, **first.config["settings"], model=None)
    assert again.to_dict() == first.to_dict()


# Rows of a model file -----------------------------------------------------------------------------


def test_rows_make_every_miss_a_read_of_the_whole_group() -> None:
    # 4 inputs, each a column of gate and one of up: 4 x 2 x 8 B = 64 B; 8 neurons of 4 B = 32 B.
    found = run(scored(layers=1), layout="row", method="dip", cache_fraction=0)
    moved = found.traffic.moved[:, 0]
    assert (moved == [64, 32]).all()
    np.testing.assert_array_equal(found.traffic.flash_seconds, found.traffic.moved / 8)
    assert found.break_even.tolist() == [[0, 0]]
    column = run(scored(layers=1), method="dip", cache_fraction=0)
    assert column.flash_bytes_per_token < 96
    all_there = run(scored(layers=1), layout="row", method="dip", cache_fraction=1)
    assert all_there.traffic.moved[8:].sum() == 0


def test_rows_of_one_matrix_can_be_read_alone() -> None:
    sets = np.zeros((1, 1, 8), bool)
    sets[0, 0, [1, 5]] = True
    meta = {"model": {**TINY, "bits": 8}, "signals": {"glu": {"slices": ["gate"]}}}
    found = run({"glu": sets, "meta": meta}, layout="row", cache_fraction=0)
    assert found.traffic.moved.item() == 8


# Docs and refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layout": "permuted", "tokens": f"0:{2 * LEAST - 2}"}, f"here {LEAST - 1}: at least"),
        ({"layout": "permuted", "tokens": "0:1"}, "first half of the decode tokens, here 0"),
        ({"layout": "permuted", "order_from": "0:3"}, "--order-from 0:3, here 3: at least"),
        ({"layout": "permuted", "order_from": "0:33"}, "order-from"),
        ({"layout": "permuted", "order_from": "x"}, "order-from"),
        ({"layout": "permuted", "order_from": "0:32"}, "fewer --calibrate-tokens or --order-from"),
        ({"order_from": "0:16"}, "--order-from 0:16 is for --layout permuted"),
        ({"layout": "permuted", "method": "dense"}, "dense needs all units anyway"),
        ({"layout": "permuted", "cluster": 2}, "drop --layout"),
        ({"layout": "diagonal"}, "--layout"),
    ],
)
def test_orders_that_are_none(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        run(scored(), **{"method": "dip", **options})


def test_rows_with_experts() -> None:
    meta = {"experts_per_token": 1, "signals": {"expert": {"unit_bytes": 100}}}
    arrays = {"expert": 4 * np.eye(4, dtype=np.float32)[:, None], "meta": meta}
    with pytest.raises(DipsimError, match="use --layout expert"):
        run(arrays, layout="row")


def test_rows_of_gate_and_up_lie_apart() -> None:
    meta = {"model": TINY, "signals": {"glu": {"slices": ["gate", "up"]}}}
    with pytest.raises(DipsimError, match="rows of gate and of up apart"):
        run({"glu": np.ones((1, 1, 8), bool), "meta": meta}, layout="row")


def test_rows_are_warned_about() -> None:
    (warning,) = warnings(run(scored(), layout="row", method="dip"))
    assert warning.startswith("layout row stores no column alone")
    assert warnings(run(scored(), method="dip")) == []


def printed(*arguments: str) -> list[str]:
    command = [sys.executable, "docs/tables/layout.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def times_fewer(lines: list[str]) -> dict[tuple[str, str], float]:
    """(columns, replay) -> how many times fewer reads."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(row[0], row[1]): float(row[4].removesuffix(" x")) for row in cells}


@pytest.mark.slow
def test_the_table_of_orders_is_what_the_script_prints() -> None:
    page = (DOCS / "layout.md").read_text()
    lines = printed()
    assert "\n".join(lines) in page
    assert times_fewer(lines)["Phi-3-Medium's", "dip, ranked, 60 %"] >= 1.3


@pytest.mark.slow
def test_the_table_of_the_longer_trace_is_what_the_script_prints() -> None:
    path = shared("traces/smollm2-135m-chat-256.npz")
    page = (DOCS / "layout.md").read_text()
    lines = printed(str(path))
    assert "\n".join(lines) in page
    assert re.search(r"^\| Phi-3-Medium's \| dip, ranked, 80 % ", "\n".join(lines), re.MULTILINE)
