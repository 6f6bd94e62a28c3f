"""What models in the loop came to: rows of measured perplexity, and what follows from them.

Measuring is `dipsim.lm`; nothing here needs a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from dipsim.errors import DipsimError
from dipsim.methods.contract import TAKES

LOSSES = (0.1, 0.2, 0.5, 1.0)
"""Perplexity above the dense model's, at which the paper reads off rates."""
_OF_METHODS = {
    **TAKES,
    "density": ("glu", "glu-oracle", "gate", "up", "cats", "predictor", "teal", "dip", "dip-ca"),
}


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
                method: {f"{loss:g}": row and row.to_dict() for loss, row in found.items()}
                for method, found in best_rates(self.rows, self.dense).items()
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
        takers = _OF_METHODS.get(name, methods)
        if values and not set(methods) & set(takers):
            raise DipsimError(
                f"--{name.replace('_', '-')} is for {', '.join(takers)}, none of which is judged: "
                "drop it"
            )
    cells: list[tuple[str, dict[str, Any]]] = []
    for method in methods:
        own = {
            name: values
            for name, values in axes.items()
            if values and method in _OF_METHODS.get(name, (method,))
        }
        for values in product(*own.values()):
            cell = method, dict(zip(own, values, strict=True))
            if cell not in cells:
                cells.append(cell)
    return cells


def frontier(rows: Sequence[Row]) -> list[int]:
    """Which rows no other beats in perplexity and in rate, the fastest first."""
    timed = [i for i, row in enumerate(rows) if row.perplexity and row.tokens_per_second]
    order = sorted(timed, key=lambda i: (-_rate(rows[i]), _perplexity(rows[i]), i))
    kept: list[int] = []
    for i in order:
        if not kept or _perplexity(rows[i]) < _perplexity(rows[kept[-1]]):
            kept.append(i)
    return kept


def best_rates(
    rows: Sequence[Row], dense: float, losses: Sequence[float] = LOSSES
) -> dict[str, dict[float, Row | None]]:
    """Per method, the fastest row whose perplexity exceeds the dense model's by no more than each
    loss; None where there is none."""
    made: dict[str, dict[float, Row | None]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method and row.tokens_per_second]
        own = [row for row in own if row.perplexity is not None]
        made[method] = {
            loss: max(
                (row for row in own if _perplexity(row) <= dense + loss), key=_rate, default=None
            )
            for loss in losses
        }
    return {method: found for method, found in made.items() if any(found.values())}


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
        if row.perplexity is not None and row.energy_kept
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
