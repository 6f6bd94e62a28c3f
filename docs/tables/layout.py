"""Reads merged by a co-activation order, against the order of ids (docs/layout.md).

    python docs/tables/layout.py [TRACE]     prints a table of docs/layout.md

The order is learned from the first half of the tokens; all figures are of the second half, on
snapdragon8gen3.
"""

import sys
from unittest import mock

import numpy as np

import dipsim

PHI = {"mlp_input": 2 * 17920 * 4.5 / 8, "glu": 5120 * 4.5 / 8}
"""Bytes of Phi-3-Medium's columns: of gate and up, and of down; 4.5 bits a weight."""
RANKED, FORCED = {"admission": "ranked"}, {"admission": "forced"}
CASES = {
    "dip, ranked, 60 %": {"method": "dip", "cache_fraction": 0.6, **RANKED},
    "dip, ranked, 80 %": {"method": "dip", "cache_fraction": 0.8, **RANKED},
    "dip, forced, 60 %": {"method": "dip", "cache_fraction": 0.6, **FORCED},
    "dip, forced, 80 %": {"method": "dip", "cache_fraction": 0.8, **FORCED},
    "dip-ca, forced, 60 %": {"method": "dip-ca", "cache_fraction": 0.6, **FORCED},
    "dip, no cache": {"method": "dip", "policy": "none", "cache_fraction": 0},
}


def sized(trace: dipsim.Trace, sizes: dict[str, float]) -> dipsim.Trace:
    """The trace with units of other sizes."""
    arrays = {}
    for signal in sizes:
        blocks = trace.blocks({signal: "scores"})
        arrays[signal] = np.concatenate([rows[signal] for _, _, rows in blocks])
    signals = {signal: {"unit_bytes": size} for signal, size in sizes.items()}
    return dipsim.load_trace({**arrays, "meta": {**trace.meta, "signals": signals}})


def reads_and_seconds(trace: dipsim.Trace, **options: object) -> tuple[float, float]:
    """Per token of the second half: reads, and seconds the flash is busy."""
    found = dipsim.simulate(trace, "snapdragon8gen3", density=0.7, **options).traffic
    rows = found.measured
    assert not rows[: trace.tokens // 2].any()
    return found.reads[rows].sum() / rows.sum(), found.flash_seconds[rows].sum() / rows.sum()


def table(trace: dipsim.Trace) -> list[str]:
    """The lines of the table."""
    lines = [
        "| columns | replay | reads by id | permuted | fewer | by popularity alone | flash time |",
        "|---|---|---|---|---|---|---|",
    ]
    for columns, rows in (("their own", trace), ("Phi-3-Medium's", sized(trace, PHI))):
        for name, options in CASES.items():
            reads, seconds = reads_and_seconds(rows, warmup=trace.tokens // 2, **options)
            permuted, shorter = reads_and_seconds(rows, layout="permuted", **options)
            with mock.patch("dipsim.flash.order.chain", lambda _, popular: popular):
                popular, _ = reads_and_seconds(rows, layout="permuted", **options)
            lines.append(
                f"| {columns} | {name} | {reads:.0f} | {permuted:.0f} | {reads / permuted:.2f} x "
                f"| {reads / popular:.2f} x | {seconds / shorter:.2f} x |"
            )
    return lines


if __name__ == "__main__":
    print("\n".join(table(dipsim.load_trace(*(sys.argv[1:2] or ["smollm2-chat"])))))
