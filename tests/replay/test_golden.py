"""Counts of two real traces, exact: one counted by an independent program, one by the twins."""

import json
from pathlib import Path

import numpy as np
import pytest

from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from tools.paths import GOLDEN, shared
from tools.replays import replay

SETTINGS = tuple(json.loads((GOLDEN / "smollm2-chat.json").read_text()))


@pytest.fixture(scope="module")
def chat() -> Trace:
    return load_trace("smollm2-chat")


@pytest.fixture(scope="module")
def news() -> Trace:
    return load_trace(shared("traces/smollm2-135m-news-128.npz"))


def check(trace: Trace, golden: Path, setting: str) -> None:
    """Replay one setting of a golden file and compare the totals and those of every group."""
    args, expect = json.loads(golden.read_text())[setting].values()
    density = {group["signal"]: args["density"] for group in expect["groups"]}
    gamma = {} if args["gamma"] is None else {"*": args["gamma"]}
    method = build_method(
        trace, Settings(method="dip-ca" if gamma else "dip", group_density=density, gamma=gamma)
    )
    capacity = [int(args["fraction"] * group.units + 1e-9) for group in method.groups]
    traffic = replay(
        trace,
        method,
        BUILTIN[args["policy"]],
        np.tile(capacity, (trace.layers, 1)),
        Settings(admission="ranked" if args["ranked"] else None),
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
    check(news, shared("golden/news-128.json"), setting)


@pytest.mark.parametrize("setting", SETTINGS)
def test_counts_of_the_twins_on_the_shipped_trace(setting: str, chat: Trace) -> None:
    check(chat, GOLDEN / "smollm2-chat.json", setting)
