"""The highest rate at a given loss: the density of each method is bisected, gammas are tried."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from dipsim.analysis.loss import Allowed
from dipsim.errors import DipsimError, MethodError, brief
from dipsim.hardware import Profile, load_profile
from dipsim.methods.contract import InfeasibleError
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.result import Result, finite
from dipsim.run import Run
from dipsim.sweep.many import many
from dipsim.sweep.point import Cell, Figures, Place, Point, figures_of
from dipsim.trace import Trace, load_trace
from dipsim.views import Viewed

GAMMAS = {"mlp_input": (1.0, 0.7, 0.5), "glu": (1.0, 0.5, 0.2)}
"""Tried in all pairs for dip-ca. The first is plain top-k."""
STEPS = 100
"""Densities are tried in hundredths."""
OF_A_RUN = (
    "tokens_per_second",
    "tokens_per_second_range",
    "hit_rate",
    "flash_bytes_per_token",
    "cache_bytes",
    "energy_kept",
)
"""Figures of every run of a search."""
FIGURES = ("loss", "meets", "perplexity", *OF_A_RUN)
"""Figures of a density that was tried. ``loss``: see `Allowed`, None where a calibration does not
bound it; ``meets``: whether it is no more than allowed; ``perplexity``: `Bounds`, None without a
calibration."""


def series_of(cell: Cell) -> tuple[str, tuple[float, ...]]:
    """Return the method and the gammas that a density was tried for."""
    return cell.place["method"], tuple(cell.place["gamma"].values())


@dataclass(frozen=True)
class Frontier(Viewed):
    """Every density that was run, in that order, and the fastest that loses no more than allowed.

    The place of a cell is its ``method``, ``density`` and ``gamma``, per group and empty unless the
    method is cache-aware.
    """

    report: ClassVar[str] = "search"
    trace: str
    """Name of the trace."""
    device: str
    """Name of the device."""
    allowed: Allowed
    points: list[Cell]
    best: Cell | None
    """The fastest point that loses no more than allowed, with its result; None where none does."""

    def __repr__(self) -> str:
        fastest = "none" if self.best is None else f"{self.best.rate:.4g} tokens/s"
        return f"Frontier of {brief(self.trace, 60)}: {len(self.points)} points, best {fastest}"

    @property
    def result(self) -> Result | None:
        """The run of the best point."""
        return None if self.best is None else self.best.result

    def front(self) -> list[Cell]:
        """Return points that no other beats in loss and in rate, by rising loss."""
        front: list[Cell] = []
        for cell in sorted(self.points, key=lambda cell: (cell.number("loss"), -cell.rate)):
            if not front or cell.rate > front[-1].rate:
                front.append(cell)
        return front

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; ``config`` repeats the run of the best point."""
        most = self.allowed.most
        return {
            "search": "rate",
            "max_loss": dict(most) if isinstance(most, Mapping) else most,
            "loss": self.allowed.meaning,
            "best": None if self.best is None else self.best.to_dict(FIGURES),
            "points": [cell.to_dict(FIGURES) for cell in self.points],
            "config": None if self.result is None else dict(self.result.config),
        }


def search_rate(
    trace: Input | Trace,
    profile: Input | Profile,
    allowed: Allowed,
    methods: Sequence[str | None] = (None,),
    *,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Frontier:
    """Find the highest rate that loses no more than ``allowed``.

    For each method, and for dip-ca each pair of `GAMMAS` unless the options say how to mask, the
    least density in hundredths that loses no more is bisected. The answer is the fastest of all
    points that were run and lose no more.

    Args:
        methods: names; None is the trace's default.
        progress: called with (runs done, runs expected).
        options: as `simulate`, without a density.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    if len(methods) > 1 and allowed.calibration is None:
        raise DipsimError(
            f"--max-loss of {len(methods)} methods: the energies they lose do not compare; give "
            "--calibration FILE, or one --method"
        )
    for method in methods:
        if method in ("moe", "recorded", "dense"):
            raise MethodError(f"method {method} has no density to search: name one that has")
    opened = load_trace(trace).kept()
    device = load_profile(profile)
    tries = _Tries(opened, device, allowed, options)
    series = [(method, gamma) for method in methods for gamma in _gammas(method, options)]

    def meets(method: str | None, gamma: Any, step: int) -> bool:
        answer = tries.meets(method, gamma, step / STEPS)
        progress(len(tries.cells), max(7 * len(series), len(tries.cells)))
        return answer

    fails: dict[str | None, int] = {}
    for method, gamma in series:
        # Of all gammas plain top-k, tried first, keeps the most: where it fails, all do.
        low = fails.get(method, 0)
        fails.setdefault(method, _least(partial(meets, method, gamma), low) - 1)
    if tries.refused and not tries.cells:
        raise tries.refused[-1]
    return Frontier(opened.name, device.name, allowed, tries.cells, tries.best)


class _Tries:
    """The densities that were tried."""

    def __init__(
        self, trace: Trace, device: Profile, allowed: Allowed, options: Mapping[str, Any]
    ) -> None:
        self.cells: list[Cell] = []
        self.best: Cell | None = None
        self.refused: list[MethodError] = []
        self._trace, self._device, self._allowed = trace, device, allowed
        self._options = dict(options)
        self._model = self._options.pop("model", None)

    def meets(self, method: str | None, gamma: Any, density: float) -> bool:
        """Run a density, and return whether it loses no more than allowed.

        Where the method cannot have the density, return on which side to go on.
        """
        options = {**self._options, "method": method, "gamma": gamma, "density": density}
        point = Point({}, self._trace, self._device, options, self._model)
        try:
            (cell,) = many(
                [point], read=partial(self._read, density), before=self._check, keep=True
            )
        except InfeasibleError as problem:
            self.refused.append(problem)
            return False
        except MethodError as problem:  # not one for so many units: fewer may do
            self.refused.append(problem)
            return True
        self.cells.append(replace(cell, result=None))
        meets = bool(cell.figures and cell.figures["meets"])
        if meets and (self.best is None or cell.rate > self.best.rate):
            self.best = cell
        return meets

    def _check(self, run: Run) -> None:
        """Refuse, before the replay, a loss that does not fit the run."""
        stages = [group.signal for group in run.method.groups]
        self._allowed.check(run.method.name, stages, None if run.model is None else run.model.name)

    def _read(self, density: float, result: Result) -> list[tuple[Place, Figures]]:
        name, figures, allowed = result.method, figures_of(result), self._allowed
        groups = result.run.method.groups
        gamma = {group.signal: group.gamma for group in groups if group.gamma is not None}
        loss = allowed.loss(name, figures["energy_kept"])
        place = {"method": name, "density": density, "gamma": gamma}
        judged = {
            "loss": finite(loss),
            "meets": loss <= allowed.limit,
            "perplexity": allowed.bounds(name, figures["energy_kept"]),
        }
        return [(place, {**judged, **figures})]


def _least(meets: Callable[[int], bool], low: int) -> int:
    """Return the least step above ``low`` that meets, by bisection; the last, if none does."""
    high = STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    if high == STEPS:
        meets(high)
    return high


def _gammas(method: str | None, options: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the gammas that are tried for a method."""
    given = any(options.get(name) is not None for name in ("gamma", "masking"))
    if method != "dip-ca" or given:
        yield options.get("gamma")
        return
    into, out = GAMMAS
    for first in GAMMAS[into]:
        for second in GAMMAS[out]:
            yield {into: first, out: second}
