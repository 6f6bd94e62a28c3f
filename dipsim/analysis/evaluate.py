"""What models in the loop came to: rows of measured perplexity, and what follows from them.

Measuring is `dipsim.lm`; nothing here needs a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from dipsim.errors import DipsimError
from dipsim.option import flag
from dipsim.settings import TAKES

LOSSES = (0.1, 0.2, 0.5, 1.0)
"""Perplexity above the dense model's, at which the paper reads off rates."""


@dataclass(frozen=True)
class Row:
    """A method with its settings, judged on a text in closed loop."""

    method: str
    settings: Mapping[str, Any]
    """What was asked for: density, gamma, policy, cache_fraction ..."""
    reason: str | None = None
    """Why it could not run; then there are no figures."""
    perplexity: float | None = None
    loss: float | None = None
    """Mean, in nats per token."""
    density: float | None = None
    """Share of the weights that tokens used; None for experts."""
    hit_rate: float | None = None
    """Bytes hit / bytes active."""
    energy_kept: Mapping[str, float] = field(default_factory=dict)
    """Per stage, the mean share of the squared scores."""
    flash_useful_bytes_per_token: float | None = None
    flash_bytes_per_token: float | None = None
    """All that the flash moves, streamed static weights among it; None without a device."""
    tokens_per_second: float | None = None
    """None without a device."""
    open_loop: Mapping[str, float | None] | None = None
    """The same on a trace of the dense model: hit_rate, flash_useful_bytes_per_token and, with a
    device, tokens_per_second."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Rows of one model on one text; the first is the dense model."""

    model: str
    tokens: int
    window: int
    device: str | None
    rows: tuple[Row, ...]

    @property
    def dense(self) -> float:
        """Perplexity of the dense model."""
        found = self.rows[0].perplexity
        assert found is not None, "the dense model runs"
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the frontier and the best rates where there is a device."""
        made: dict[str, Any] = {
            "model": self.model,
            "tokens": self.tokens,
            "window": self.window,
            "device": self.device,
            "dense_perplexity": self.dense,
            "rows": [row.to_dict() for row in self.rows],
        }
        if self.device is not None:
            made["frontier"] = frontier(self.rows)
            made["best"] = {
                memory: {
                    method: {f"{loss:g}": row and row.to_dict() for loss, row in found.items()}
                    for method, found in methods.items()
                }
                for memory, methods in best_rates(self.rows, self.dense).items()
            }
        return made


def grid(
    methods: Sequence[str], axes: Mapping[str, Sequence[Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Every method with every choice of the axes that mean something to it, each once.

    ``grid(["dip", "dense"], {"density": [.5, .7]})`` -> dip at .5, dip at .7, dense.

    Raises:
        DipsimError: values for an axis that none of the methods has.
    """
    for name, values in axes.items():
        takers = TAKES.get(name, methods)
        if values and not set(methods) & set(takers):
            raise DipsimError(
                f"{flag(name)} is for {', '.join(takers)}, none of which is judged: drop it"
            )
    cells: list[tuple[str, dict[str, Any]]] = []
    for method in methods:
        own = {
            name: values
            for name, values in axes.items()
            if values and method in TAKES.get(name, (method,))
        }
        for values in product(*own.values()):
            cell = method, dict(zip(own, values, strict=True))
            if cell not in cells:
                cells.append(cell)
    return cells


def memory_of(row: Row) -> str:
    """The memory a row was given, which rates are compared within: ``dram 70%``, ``cache 0.5``."""
    names = {"dram": "dram", "cache_fraction": "cache"}
    return " ".join(
        f"{short} {row.settings[name]}" for name, short in names.items() if name in row.settings
    )


def frontier(rows: Sequence[Row]) -> list[int]:
    """Which rows no other with the same memory beats in perplexity and in rate, the fastest of each
    memory first."""
    kept: list[int] = []
    for these in _timed(rows).values():
        best = math.inf
        for i in sorted(these, key=lambda i: (-_rate(rows[i]), _perplexity(rows[i]), i)):
            if _perplexity(rows[i]) < best:
                kept.append(i)
                best = _perplexity(rows[i])
    return kept


def best_rates(
    rows: Sequence[Row], dense: float, losses: Sequence[float] = LOSSES
) -> dict[str, dict[str, dict[float, Row | None]]]:
    """Per memory and method, the fastest row whose perplexity exceeds the dense model's by no more
    than each loss; None where there is none."""
    made: dict[str, dict[str, dict[float, Row | None]]] = {}
    for memory, these in _timed(rows).items():
        for method in dict.fromkeys(rows[i].method for i in these):
            own = [rows[i] for i in these if rows[i].method == method]
            found = {
                loss: max(
                    (row for row in own if _perplexity(row) <= dense + loss),
                    key=_rate,
                    default=None,
                )
                for loss in losses
            }
            if any(found.values()):
                made.setdefault(memory, {})[method] = found
    return made


def _timed(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Per memory, the rows with a rate."""
    made: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.perplexity is not None and row.tokens_per_second is not None:
            made.setdefault(memory_of(row), []).append(i)
    return made


def calibration_of(found: Evaluation) -> dict[str, Any]:
    """A calibration file for ``dipsim search --calibration`` (analysis/calibration.py).

    Raises:
        DipsimError: no row prunes anything.
    """
    points = [
        {
            "method": row.method,
            "energy_kept": {stage: min(share, 1.0) for stage, share in row.energy_kept.items()},
            "perplexity": row.perplexity,
        }
        for row in found.rows[1:]
        if row.perplexity is not None and row.energy_kept and row.method != "dense"
    ]
    if not points:
        raise DipsimError("no calibration: nothing was pruned; name methods, e.g. --method dip-ca")
    return {
        "format": "dipsim-calibration",
        "version": 1,
        "model": found.model,
        "dense_perplexity": found.dense,
        "points": points,
    }


def _perplexity(row: Row) -> float:
    assert row.perplexity is not None
    return row.perplexity


def _rate(row: Row) -> float:
    assert row.tokens_per_second is not None
    return row.tokens_per_second
