"""Metrics that a phone measured per token: the file beside a route trace."""

import csv
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import DipsimError, brief

WINDOW = 16
"""Tokens over which wall time is judged: compute of single tokens varies with the CPU governor."""
_LEAST_TOKENS = 4 * WINDOW
_COLUMNS = ("wall_ms", "io_ms", "compute_ms", "read_bytes", "cache_hit_pct", "stall_ms", "mgmt_ms")
_FASTEST = 1e12
"""Bytes per second that no flash reads."""
_BUDGET = re.compile(r"\bcache_budget_MiB=([0-9.]+)\b")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """Figures that the phone measured: float64[tokens] per column, in the unit its name states."""

    columns: Mapping[str, Floats]
    cache_mib: float
    """Size of the phone's expert cache, in MiB."""

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    @property
    def tokens(self) -> int:
        """Number of decode tokens."""
        return len(self["wall_ms"])


def load_metrics(given: str | os.PathLike[str]) -> Metrics:
    """Read a metrics file: a CSV with a header and a summary among its comments.

    Raises:
        DipsimError: no such file, a column or the cache size missing, a damaged row.
    """
    path = Path(given)
    lines = files.read_text(path, DipsimError).splitlines()
    if not lines or not lines[0].startswith("step,"):
        raise DipsimError(f"{path}: metrics begin with the columns step,steps,wall_ms,...")
    header = lines[0].split(",")
    missing = [name for name in _COLUMNS if header.count(name) != 1]
    if missing:
        raise DipsimError(f"{path}: there must be one column {missing[0]}")
    budget = _BUDGET.search(" ".join(line for line in lines[1:] if line.startswith("#")))
    cache = _float(budget[1]) if budget is not None else math.nan
    if not cache > 0:
        raise DipsimError(f"{path}: the summary must give cache_budget_MiB=...")
    rows = []
    for number, row in enumerate(csv.reader(lines[1:]), 2):
        if row and not row[0].startswith("#"):
            values = [_float(text) for text in row]
            if len(values) != len(header) or not all(value >= 0 for value in values):
                raise DipsimError(
                    f"{path}: line {number}: {len(header)} numbers from 0 up, given "
                    f"{brief(','.join(row))}"
                )
            rows.append(values)
    if len(rows) < _LEAST_TOKENS:
        raise DipsimError(f"{path}: {len(rows)} tokens; give {_LEAST_TOKENS} or more")
    table = np.array(rows)
    columns = {name: table[:, header.index(name)] for name in _COLUMNS}
    for name in ("wall_ms", "io_ms", "stall_ms", "mgmt_ms"):
        if not columns[name].all():
            raise DipsimError(f"{path}: {name} is 0 in a row: errors are relative to it")
    _refuse_other_units(columns, path)
    return Metrics(columns, cache)


def _refuse_other_units(columns: Mapping[str, Floats], path: Path) -> None:
    """Refuse figures that cannot be in the units which their columns' names state.

    Raises:
        DipsimError: more hits than accesses, or more bytes per second than any flash reads.
    """
    most = float(columns["cache_hit_pct"].max())
    if most > 100:
        raise DipsimError(f"{path}: cache_hit_pct of {most:g}: percent, from 0 to 100")
    with np.errstate(over="ignore"):
        rates = columns["read_bytes"] / (columns["wall_ms"] / 1e3)
    if rates.max() > _FASTEST:
        raise DipsimError(
            f"{path}: read_bytes over wall_ms is {rates.max():.3g} B/s in a row, more than any "
            "flash reads: is the time in milliseconds, and are the bytes bytes?"
        )


def _float(text: str) -> float:
    """Return the number in a text; NaN if there is none, or it is not finite."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
