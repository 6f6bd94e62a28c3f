"""Evaluation of models in the loop: cells of measured perplexity, and what follows from them.

Measuring is `dipsim.lm`; nothing here needs a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from dipsim.errors import DipsimError, brief
from dipsim.methods import kind_of
from dipsim.option import flag
from dipsim.result import Result
from dipsim.settings import REFINES, TAKES
from dipsim.sweep.point import Cell
from dipsim.views import Viewed

LOSSES = (0.1, 0.2, 0.5, 1.0)
"""Perplexity above the dense model's, at which the paper reads off rates."""


FIGURES = (
    "perplexity",
    "loss",  # mean, in nats per token
    "density",  # share of the weights that tokens used; None for experts
    "hit_rate",  # bytes hit / bytes active
    "energy_kept",  # per stage, the mean share of the squared scores
    "flash_useful_bytes_per_token",
    "flash_bytes_per_token",  # all that the flash moves, streamed static weights among it
    "tokens_per_second",
    "tokens_per_second_interval",  # from what the profile's numbers are worth
    "open_loop",  # hit rate, useful bytes and rate on a trace of the dense model
    "kv",  # positions and bytes that the KV cache kept, and what attention lost with the rest
    "tokens",  # shares of the prompt's (token, layer) computed, tokens that came back
    "layers",  # that a token skipped
)
"""Figures of a row. None where they are not known: bytes that the flash moves and rates without a
device, ``open_loop`` where it was not asked for, and those of systems that did not act."""
SYSTEMS = ("kv_policy", "kv_fetch", "kv_quant", "prune_tokens", "skip_layers")
"""Settings that each let a system act beside the weights; others refine them."""
_OFF = ("none", "full", "all")
"""Values of such a setting, in a grid, with which none acts."""


def judged(
    method: str,
    settings: Mapping[str, Any],
    why: str | None = None,
    result: Result | None = None,
    **figures: Any,
) -> Cell:
    """Return the row of a method judged on a text in closed loop.

    Args:
        settings: what was asked for: density, gamma, policy, cache_fraction ...
        why: why it could not run; then there are no figures.
        result: the whole run, with its counts, where it is kept.
        figures: some of `FIGURES`.
    """
    return Cell({"method": method}, settings, None if why else figures, why=why, result=result)


def row_dict(row: Cell) -> dict[str, Any]:
    """Return a row as plain values."""
    figures = {name: row.value(name) for name in FIGURES}
    return {
        "method": row.place["method"],
        "settings": dict(row.options),
        "reason": row.why,
        **figures,
        "energy_kept": dict(figures["energy_kept"] or {}),
    }


@dataclass(frozen=True)
class Evaluation(Viewed):
    """Rows of one model on one text; the first is the dense model."""

    report: ClassVar[str] = "evaluate"

    model: str
    tokens: int
    window: int
    device: str | None
    rows: tuple[Cell, ...]
    """See `judged`."""

    def __repr__(self) -> str:
        judged = f"{len(self.rows) - 1} settings on {self.tokens} tokens"
        return f"Evaluation of {brief(self.model, 60)}: {judged}, dense perplexity {self.dense:.4g}"

    @property
    def dense(self) -> float:
        """Perplexity of the dense model."""
        return _perplexity(self.rows[0])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the frontier and the best rates where there is a device."""
        values: dict[str, Any] = {
            "model": self.model,
            "tokens": self.tokens,
            "window": self.window,
            "device": self.device,
            "dense_perplexity": self.dense,
            "rows": [row_dict(row) for row in self.rows],
        }
        if self.device is not None:
            values["frontier"] = frontier(self.rows)
            values["best"] = {
                memory: {
                    method: {f"{loss:g}": row and row_dict(row) for loss, row in best.items()}
                    for method, best in methods.items()
                }
                for memory, methods in best_rates(self.rows, self.dense).items()
            }
        return values


def grid(
    methods: Sequence[str], axes: Mapping[str, Sequence[Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Return every method with every choice of the axes that mean something to it, each once.

    ``grid(["dip", "dense"], {"density": [.5, .7]})`` -> dip at .5, dip at .7, dense.

    A system beside the weights that is ``none``, ``full`` or ``all`` is left out, and what refines
    it too.

    Raises:
        DipsimError: values for an axis that none of the methods has, or that refines none.
    """
    for name, of, example in REFINES:
        if axes.get(name) and not axes.get(of):
            raise DipsimError(f"{flag(name)} is for a {flag(of)}: add one, e.g. {example}")
    kinds = set(map(kind_of, methods))
    for name, values in axes.items():
        takers = TAKES.get(name, kinds)
        if values and not kinds & set(takers):
            raise DipsimError(
                f"{flag(name)} is for {', '.join(takers)}, none of which is judged: drop it"
            )
    cells: list[tuple[str, dict[str, Any]]] = []
    for method in methods:
        own = {
            name: values
            for name, values in axes.items()
            if values and kind_of(method) in TAKES.get(name, kinds)
        }
        for values in product(*own.values()):
            cell = method, _acting(dict(zip(own, values, strict=True)))
            if cell not in cells:
                cells.append(cell)
    return cells


def _acting(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without systems that are off, and without what refines those."""
    off = {name for name in SYSTEMS if settings.get(name) in _OFF}
    off |= {name for name, of, _ in REFINES if of in off}
    return {name: value for name, value in settings.items() if name not in off}


def series_of(row: Cell) -> str:
    """Return the method and the systems beside it, without parameters: ``dip + tova``."""
    systems = {name: str(row.options[name]) for name in SYSTEMS if name in row.options}
    short = ("fetch" if name == "kv_fetch" else systems[name].partition(":")[0] for name in systems)
    return " + ".join([row.place["method"], *short])


def memory_of(row: Cell) -> str:
    """Return the memory a row was given: ``dram 70%``, ``cache 0.5``. Rates compare within it."""
    names = {"dram": "dram", "cache_fraction": "cache"}
    return " ".join(
        f"{short} {row.options[name]}" for name, short in names.items() if name in row.options
    )


def frontier(rows: Sequence[Cell]) -> list[int]:
    """Return the indices of rows that no other with the same memory beats in perplexity and in
    rate, the fastest of each memory first."""
    kept: list[int] = []
    for group in _timed(rows).values():
        best = math.inf
        for i in sorted(group, key=lambda i: (-rows[i].rate, _perplexity(rows[i]), i)):
            if _perplexity(rows[i]) < best:
                kept.append(i)
                best = _perplexity(rows[i])
    return kept


def best_rates(
    rows: Sequence[Cell], dense: float, losses: Sequence[float] = LOSSES
) -> dict[str, dict[str, dict[float, Cell | None]]]:
    """Return per memory, series (`series_of`) and loss the fastest row whose perplexity exceeds the
    dense model's by no more than that; None where there is none."""
    best: dict[str, dict[str, dict[float, Cell | None]]] = {}
    for memory, group in _timed(rows).items():
        for series in dict.fromkeys(series_of(rows[i]) for i in group):
            own = [rows[i] for i in group if series_of(rows[i]) == series]
            of_series = {loss: _fastest(own, dense + loss) for loss in losses}
            if any(of_series.values()):
                best.setdefault(memory, {})[series] = of_series
    return best


def _fastest(rows: Sequence[Cell], perplexity: float) -> Cell | None:
    """Return the fastest of the rows whose perplexity is no more than that."""
    good = [row for row in rows if _perplexity(row) <= perplexity]
    return max(good, key=lambda row: row.rate, default=None)


def _timed(rows: Sequence[Cell]) -> dict[str, list[int]]:
    """Return per memory the rows with a rate."""
    timed: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if None not in (row.value("perplexity"), row.value("tokens_per_second")):
            timed.setdefault(memory_of(row), []).append(i)
    return timed


def calibration_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return a calibration file for ``dipsim search --calibration`` (analysis/calibration.py).

    Raises:
        DipsimError: no row prunes anything.
    """
    points = [
        {
            "method": row.place["method"],
            "energy_kept": {
                stage: min(share, 1.0) for stage, share in row.value("energy_kept").items()
            },
            "perplexity": row.value("perplexity"),
        }
        for row in evaluation.rows[1:]
        if row.value("perplexity") is not None
        and row.value("energy_kept")
        and row.place["method"] != "dense"
        and not any(name in row.options for name in SYSTEMS)  # its loss is not the masks' alone
    ]
    if not points:
        raise DipsimError("no calibration: nothing was pruned; name methods, e.g. --method dip-ca")
    return {
        "format": "dipsim-calibration",
        "version": 1,
        "model": evaluation.model,
        "dense_perplexity": evaluation.dense,
        "points": points,
    }


def _perplexity(row: Cell) -> float:
    perplexity = row.value("perplexity")
    assert perplexity is not None, "a row that ran"
    return float(perplexity)
