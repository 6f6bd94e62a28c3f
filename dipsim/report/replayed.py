"""Report of `dipsim validate --replay`: predicted flash times beside those of a disk here."""

import numpy as np
from rich.console import Group, RenderableType

from dipsim.disk.replayed import ReplayedIo
from dipsim.report.calibrate import lines
from dipsim.report.tables import Table, line
from dipsim.units import BYTES, TIME

UNITS = {
    **dict.fromkeys(("median_error", "median_bias", "median_error_at_pace"), "share"),
    **dict.fromkeys(("median", "bias", "worst"), "share"),
    **dict.fromkeys(("predicted_ms", "measured_ms"), "ms"),
    "pace": "times the calibration",
    "points": "points",
    "rms": "log error",
}
"""Units of figures that `dipsim.report.envelope` does not know."""
_SHOWN = 8
"""Tokens that are shown, spread over the run."""


def render(replayed: ReplayedIo) -> RenderableType:
    """Return the median error, trivial predictors, some tokens and the calibration."""
    errors = replayed.errors
    tokens = len(errors)
    how = "direct" if replayed.direct else "BUFFERED"
    title = (
        f"flash time of {tokens} tokens on {replayed.file}: median error "
        f"{np.median(np.abs(errors)):.1%}, at the disk's pace "
        f"{np.median(np.abs(replayed.paced_errors)):.1%}"
    )
    predictors = Table(
        "predictor, on the second half of the tokens", "median", "bias", right=(1, 2)
    )
    for judged in replayed.judged():
        predictors.add_row(judged.name, f"{judged.median:.1%}", f"{judged.bias:+.1%}")
    rows = Table("token", "reads", "bytes", "predicted", "measured", "error", right=tuple(range(6)))
    for i in np.unique(np.linspace(0, tokens - 1, _SHOWN).astype(int)):
        rows.add_row(
            str(i),
            str(replayed.reads[i]),
            BYTES.show(replayed.moved[i]),
            TIME.show(replayed.predicted[i]),
            TIME.show(replayed.measured[i]),
            f"{errors[i]:+.1%}",
        )
    source = f"{how} reads, {replayed.lanes} in flight; calibrated on the same file:"
    parts: list[RenderableType] = [line(title, style="bold"), line(), predictors, line(), rows]
    parts += [line(), line(source, style="dim")]
    parts += [line(text, style="dim") for text in lines(replayed.calibrated)]
    low, high = np.quantile(replayed.pace, [0.1, 0.9])
    pace = f"between the tokens reads took {low:.2f} to {high:.2f} times as long as calibrated"
    parts.append(line(f"{pace} (p10 to p90)", style="dim"))
    return Group(*parts)
