"""What `dipsim validate --replay` prints."""

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.disk.replayed import ReplayedIo
from dipsim.errors import printable
from dipsim.report.calibrate import lines
from dipsim.report.run import table
from dipsim.units import BYTES, TIME

_SHOWN = 8


def render(found: ReplayedIo) -> RenderableType:
    """The median error, beside what is trivial; tokens spread over the run; the calibration."""
    errors = found.errors
    tokens = len(errors)
    how = "direct" if found.direct else "BUFFERED"
    title = (
        f"flash time of {tokens} tokens on {printable(found.file)}: median error "
        f"{np.median(np.abs(errors)):.1%}, at the disk's pace "
        f"{np.median(np.abs(found.paced_errors)):.1%}"
    )
    predictors = table(
        "predictor, on the second half of the tokens", "median", "bias", right=(1, 2)
    )
    for judged in found.judged():
        predictors.add_row(judged.name, f"{judged.median:.1%}", f"{judged.bias:+.1%}")
    rows = table("token", "reads", "bytes", "predicted", "measured", "error", right=tuple(range(6)))
    for i in np.unique(np.linspace(0, tokens - 1, _SHOWN).astype(int)):
        rows.add_row(
            str(i),
            str(found.reads[i]),
            BYTES.show(found.moved[i]),
            TIME.show(found.predicted[i]),
            TIME.show(found.measured[i]),
            f"{errors[i]:+.1%}",
        )
    told = f"{how} reads, {found.lanes} in flight; calibrated on the same file:"
    parts: list[RenderableType] = [Text(title, style="bold"), Text(), predictors, Text(), rows]
    parts += [Text(), Text(told, style="dim")]
    parts += [Text(line, style="dim") for line in lines(found.calibrated)]
    low, high = np.quantile(found.pace, [0.1, 0.9])
    pace = f"between the tokens reads took {low:.2f} to {high:.2f} times as long as calibrated"
    parts.append(Text(f"{pace} (p10 to p90)", style="dim"))
    return Group(*parts)
