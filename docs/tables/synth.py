"""Print the table of docs/synth.md: fitted on half of a trace, judged on the other half."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import dipsim
from dipsim.analysis.activity import activity
from dipsim.methods import Method
from dipsim.methods.contract import Group
from dipsim.policies import BUILTIN
from dipsim.replay.replay import replay_policy
from dipsim.trace import Trace
from dipsim.trace.synth import draw, fit_trace, geometry_of

CAPACITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def figures(trace: Trace, key: str) -> dict[str, float]:
    """Hit rates at half of the units active, overlaps and the share of the top tenth, in %."""
    units = trace.signals[key].units
    method = Method("judge", (Group(key, units, (), "top-k", 0.5),))
    capacities = [
        np.full((trace.layers, 1), int(share * units + 1e-9), np.int64) for share in CAPACITIES
    ]
    percent = {}
    for policy in ("lru", "opt"):
        traffics = replay_policy(trace, method, BUILTIN[policy], capacities)
        for share, traffic in zip(CAPACITIES, traffics, strict=True):
            percent[f"{policy} {share:.0%}"] = 100 * traffic.hits.sum() / traffic.active.sum()
    statistics = activity(trace, key)
    percent |= {f"overlap {d:.0%}": 100 * share for d, share in statistics.overlap.items()}
    return {**percent, "top 10%": 100 * statistics.top_share}


def table(trace: Trace) -> str:
    """Rows of figures; a column per signal and kind of trace."""
    half = trace.tokens // 2
    fit, real = fit_trace(trace.window(0, half)), trace.window(half, trace.tokens)
    columns: dict[str, dict[str, float]] = {}
    for key in trace.signals:
        columns[f"{key}, real"] = figures(real, key)
        for name, model in (("synth", None), ("phi-3-medium", dipsim.load_model("phi-3-medium"))):
            one = replace(fit, signals={key: fit.signals[key]})
            blocks = list(draw(one, geometry_of(one, model), real.tokens))
            made = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
            columns[f"{key}, {name}"] = figures(dipsim.load_trace(made), key)
    lines = ["| % | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in next(iter(columns.values())):
        cells = [f"{column[row]:.1f}" for column in columns.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(dipsim.load_trace(Path(sys.argv[1]) if len(sys.argv) > 1 else "smollm2-chat")))
