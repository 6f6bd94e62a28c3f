"""Judgement of a model on a text under methods: perplexity, density, and figures of the caches."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.evaluate import Evaluation, judged
from dipsim.errors import DipsimError, ModelError
from dipsim.hardware import Profile
from dipsim.lm.load import Loaded
from dipsim.lm.loops import dense_trace, open_loop
from dipsim.lm.perplexity import perplexity
from dipsim.lm.sparse import Sparse, sparsify
from dipsim.methods import label_of, signals_of
from dipsim.methods.contract import InfeasibleError
from dipsim.result import finite
from dipsim.sweep.point import Cell
from dipsim.trace import Trace

Candidate = tuple[str, Mapping[str, Any]]
"""A method, and its settings."""


def evaluate(
    loaded: Loaded,
    windows: NDArray[np.int64],
    candidates: Sequence[Candidate],
    *,
    profile: Profile | None = None,
    calibrate: NDArray[np.int64] | None = None,
    both_loops: bool = False,
    done: Callable[[Cell], None] | None = None,
) -> Evaluation:
    """Judge the dense model, then every candidate, on the same windows.

    Args:
        windows: int64[n, window] token ids.
        candidates: methods with the settings of `sparsify`.
        profile: the device that is timed; None for none.
        calibrate: int64[n] token ids that are not judged, for methods with thresholds.
        both_loops: replay every candidate on a trace of the dense model too.
        done: called with every row as it is there.

    Raises:
        DipsimError: a model of unknown sizes, a device that cannot be timed, or no candidate that
            can run; why others cannot is the ``why`` of their rows.
    """
    judge = _Judge(loaded, windows, profile, calibrate)
    judge.check(candidates)
    rows: list[Cell] = []

    def keep(row: Cell) -> None:
        rows.append(row)
        if done is not None:
            done(row)

    keep(judge.dense())
    with ExitStack() as stack:
        trace = None
        if both_loops:
            signals = dict.fromkeys(name for method, _ in candidates for name in signals_of(method))
            if signals:
                trace = stack.enter_context(dense_trace(loaded.model, windows, list(signals)))
        for method, settings in candidates:
            if method == "dense" and not settings and profile is None:  # as the first row
                continue
            keep(judge.row(method, settings, trace))
    return Evaluation(
        model=str((loaded.geometry or {}).get("name", loaded.name)),
        tokens=windows.size,
        window=windows.shape[1],
        device=None if profile is None else profile.name,
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class _Judge:
    """The model and text that every candidate is judged on; see `evaluate`."""

    loaded: Loaded
    windows: NDArray[np.int64]
    profile: Profile | None
    calibrate: NDArray[np.int64] | None

    def check(self, candidates: Sequence[Candidate]) -> None:
        """Refuse what cannot run before anything long does; two tokens of thresholds will do."""
        if self.loaded.geometry is None:
            raise ModelError(
                f"{self.loaded.name}: its architecture's sizes are not known to dipsim: give "
                "--geometry"
            )
        self.loaded.check_reads(self.windows.shape[1])
        few = self if self.calibrate is None else replace(self, calibrate=self.calibrate[:2])
        problems: list[DipsimError] = []
        for method, settings in candidates:
            try:
                few.sparse(method, settings).remove()
            except InfeasibleError as problem:  # of one density, which another may not have
                problems.append(problem)
        if candidates and len(problems) == len(candidates):
            raise problems[0]

    def sparse(self, method: str, settings: Mapping[str, Any]) -> Sparse:
        """Put a method's masks into the model."""
        options = dict(settings)
        return sparsify(
            self.loaded.model,
            method,
            options.pop("policy", "lfu"),
            profile=self.profile,
            geometry=self.loaded.geometry,
            calibrate=None if self.calibrate is None else self.calibrate.tolist(),
            context=self.windows.shape[1],
            **options,
        )

    def dense(self) -> Cell:
        """Judge the model without masks and caches."""
        score = perplexity(self.loaded.model, self.windows)
        return judged("dense", {}, perplexity=score.value, loss=score.loss, density=1.0)

    def row(self, method: str, settings: Mapping[str, Any], trace: Trace | None) -> Cell:
        """Judge one candidate; a reason stands for figures where its settings make no sense."""
        try:
            sparse = self.sparse(method, settings)
        except InfeasibleError as problem:
            return judged(label_of(method), settings, str(problem))
        with sparse:
            score = perplexity(self.loaded.model, self.windows)
        result = sparse.live.result()
        timed = self.profile is not None
        return judged(
            label_of(method),
            settings,
            perplexity=score.value,
            loss=score.loss,
            density=sparse.density,
            hit_rate=result.hit_rate,
            energy_kept=sparse.energy_kept,
            flash_useful_bytes_per_token=result.flash_useful_bytes_per_token,
            flash_bytes_per_token=result.flash_bytes_per_token if timed else None,
            tokens_per_second=finite(result.tokens_per_second) if timed else None,
            open_loop=None if trace is None else _open(sparse, trace, timed),
        )


def _open(sparse: Sparse, trace: Trace, timed: bool) -> dict[str, float | None]:
    """Return the figures of the same caches in open loop."""
    result = open_loop(sparse.live, trace)
    figures: dict[str, float | None] = {
        "hit_rate": result.hit_rate,
        "flash_useful_bytes_per_token": result.flash_useful_bytes_per_token,
    }
    if timed:
        figures["tokens_per_second"] = finite(result.tokens_per_second)
    return figures
