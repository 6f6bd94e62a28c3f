"""Counts of two real traces, exact: one counted by an independent program, one by the twins."""

import json
from pathlib import Path

import numpy as np
import pytest

from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.replay import Plan, replay
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parents[1] / "shared"
SETTINGS = tuple(json.loads((TESTS / "golden" / "smollm2-chat.json").read_text()))


@pytest.fixture(scope="module")
def chat() -> Trace:
    return load_trace("smollm2-chat")


@pytest.fixture(scope="module")
def news() -> Trace:
    path = SHARED / "traces" / "smollm2-135m-news-128.npz"
    if not path.exists():
        pytest.skip(f"no {path}: it is not part of the repository")
    return load_trace(path)


def check(trace: Trace, golden: Path, setting: str) -> None:
    """Replay one setting of a golden file and compare the totals and those of every group."""
    args, expect = json.loads(golden.read_text())[setting].values()
    density = {group["signal"]: args["density"] for group in expect["groups"]}
    gamma = {} if args["gamma"] is None else {"*": args["gamma"]}
    method = build_method(
        "dip-ca" if gamma else "dip", trace, Settings(group_density=density, gamma=gamma)
    )
    capacity = [int(args["fraction"] * group.units + 1e-9) for group in method.groups]
    traffic = replay(
        trace,
        method,
        BUILTIN[args["policy"]],
        np.tile(capacity, (trace.layers, 1)),
        Plan(admission="ranked" if args["ranked"] else None),
    )
    found = [
        {
            "signal": group.signal,
            "units": group.units,
            "k": group.kept,
            "capacity": capacity[i],
            "hits": int(traffic.hits[..., i].sum()),
            "accesses": int(traffic.active[..., i].sum()),
        }
        for i, group in enumerate(method.groups)
    ]
    assert found == expect["groups"]
    assert traffic.hits.sum() == expect["hits"]
    assert traffic.active.sum() == expect["accesses"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_counts_of_an_independent_program(setting: str, news: Trace) -> None:
    check(news, SHARED / "golden" / "news-128.json", setting)


@pytest.mark.parametrize("setting", SETTINGS)
def test_counts_of_the_twins_on_the_shipped_trace(setting: str, chat: Trace) -> None:
    check(chat, TESTS / "golden" / "smollm2-chat.json", setting)
