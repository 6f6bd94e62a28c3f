"""Judgement of a model on a text under methods: perplexity, density, and figures of the caches."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.evaluate import Evaluation, judged
from dipsim.errors import DipsimError, ModelError
from dipsim.hardware import Profile
from dipsim.lm.beside import (
    IncompatibleError,
    Running,
    check_systems,
    systems_in,
    token_figures,
)
from dipsim.lm.lazy import PrunedPerplexity, pruned_perplexity
from dipsim.lm.load import Loaded
from dipsim.lm.loops import dense_trace, open_loop
from dipsim.lm.perplexity import Perplexity, perplexity
from dipsim.lm.skipping import LayerStates, check_rule, layer_states
from dipsim.lm.sparse import Sparse, sparsify
from dipsim.lm.structure import Structure, find_structure
from dipsim.methods import label_of, signals_of
from dipsim.methods.contract import InfeasibleError
from dipsim.option import flag
from dipsim.result import Result, finite
from dipsim.settings import concerning
from dipsim.sweep.point import Cell
from dipsim.tokens import Pruned
from dipsim.trace import Trace

Candidate = tuple[str, Mapping[str, Any]]
"""A method, and its settings."""
_ROWS_OWN = (InfeasibleError, IncompatibleError)
"""Errors of one row, which is kept with the reason why it has no figures."""


def evaluate(
    loaded: Loaded,
    windows: NDArray[np.int64],
    candidates: Sequence[Candidate],
    *,
    profile: Profile | None = None,
    calibrate: NDArray[np.int64] | None = None,
    prompt: int = 0,
    both_loops: bool = False,
    done: Callable[[Cell], None] | None = None,
) -> Evaluation:
    """Judge the dense model, then every candidate, on the same windows.

    Args:
        windows: int64[n, window] token ids.
        candidates: methods with the settings of `sparsify`, and systems beside the weights
            (``kv_policy``, ``kv_fetch``, ``kv_quant``, ``prune_tokens``, ``skip_layers`` and what
            refines them).
        profile: the device that is timed; None for none.
        calibrate: int64[n] token ids that are not judged, for methods with thresholds and rules
            that skip layers.
        prompt: tokens of each window that are a prompt: computed whole, and not judged.
        both_loops: replay every candidate on a trace of the dense model too.
        done: called with every row as it is there.

    Raises:
        DipsimError: a model of unknown sizes, a device that cannot be timed, or no candidate that
            can run; why others cannot is the ``why`` of their rows.
    """
    judge = Judge(loaded, windows, profile, calibrate, prompt)
    judge.check(candidates, both_loops)
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
        tokens=windows.size - windows.shape[0] * prompt,
        window=windows.shape[1],
        device=None if profile is None else profile.name,
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class Judge:
    """A model, and the text that every candidate is judged on.

    Args:
        loaded: the model.
        windows: int64[n, window] token ids that are judged.
        profile: the device that is timed; None for none.
        calibrate: int64[n] token ids that are not judged, as of `evaluate`.
        prompt: tokens of each window that are a prompt.
        keep: rows have their whole `Result`, with its counts.
    """

    loaded: Loaded
    windows: NDArray[np.int64]
    profile: Profile | None
    calibrate: NDArray[np.int64] | None
    prompt: int
    keep: bool = False

    def check(self, candidates: Sequence[Candidate], both_loops: bool) -> None:
        """Refuse what cannot run before anything long does; two tokens of thresholds will do."""
        self.check_model()
        if both_loops:
            self._check_masks_alone(candidates)
        few = self if self.calibrate is None else replace(self, calibrate=self.calibrate[:2])
        problems: list[DipsimError] = []
        for method, settings in candidates:
            try:
                self.check_systems(method, settings)
                states = self._states_for(settings)
                masks = {**settings, "prune_tokens": None}  # it acts once it has run
                with few.sparse(method, masks) as sparse, self._systems(settings, sparse, states):
                    pass
            except _ROWS_OWN as problem:  # which another row may not have
                problems.append(problem)
        if candidates and len(problems) == len(candidates):
            raise problems[0]

    def check_model(self) -> None:
        """Refuse a model whose sizes are not known, or that does not read such windows."""
        if self.loaded.geometry is None:
            raise ModelError(
                f"{self.loaded.name}: its architecture's sizes are not known to dipsim: give "
                "--geometry"
            )
        window = self.windows.shape[1]
        self.loaded.check_reads(window)
        if not 0 <= self.prompt < window:
            raise DipsimError(
                f"--prompt {self.prompt} of windows of {window} tokens: give fewer, so that some "
                "are judged"
            )

    def _check_masks_alone(self, candidates: Sequence[Candidate]) -> None:
        asked = {name for _, settings in candidates for name in settings} & {*concerning("beside")}
        if asked or self.prompt:
            other = flag(min(asked)) if asked else "--prompt"
            raise DipsimError(
                f"--open-loop and {other}: a trace of the dense model knows masks alone; "
                "drop one of them"
            )

    def check_systems(self, method: str, settings: Mapping[str, Any]) -> None:
        """Refuse systems beside the weights that cannot act, or not together, before any does."""
        check_systems(method, settings, self.prompt, len(self._structure.blocks))
        if "skip_layers" in settings:
            check_rule(settings["skip_layers"])
            if self.calibrate is None:
                raise DipsimError(
                    f"--skip-layers {settings['skip_layers']}: factors of skipped layers are "
                    "calibrated on tokens that are not judged: give --calibrate-tokens A:B"
                )

    @cached_property
    def _structure(self) -> Structure:
        return find_structure(self.loaded.model)

    def _states_for(self, settings: Mapping[str, Any]) -> LayerStates | None:
        """Return what a rule that skips layers is fitted to: the model before anything is pruned;
        None where no layers are skipped."""
        return self._states if "skip_layers" in settings else None

    @cached_property
    def _states(self) -> LayerStates:
        """States of whole windows, or of one that is shorter, which are not judged."""
        assert self.calibrate is not None, "checked"
        window = min(self.windows.shape[1], len(self.calibrate))
        whole = self.calibrate[: len(self.calibrate) // window * window]
        return layer_states(self.loaded.model, whole.reshape(-1, window))

    def sparse(
        self,
        method: str,
        settings: Mapping[str, Any],
        work: Sequence[Pruned] | None = None,
    ) -> Sparse:
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
            prompt=self.prompt,
            work=work,
            **options,
        )

    def score(self) -> Perplexity:
        """Judge the model as it is now."""
        return perplexity(self.loaded.model, self.windows, prompt=max(self.prompt, 1))

    def dense(self) -> Cell:
        """Judge the model without masks and caches."""
        score = self.score()
        return judged("dense", {}, perplexity=score.value, loss=score.loss, density=1.0)

    def row(self, method: str, settings: Mapping[str, Any], trace: Trace | None = None) -> Cell:
        """Judge one candidate; a reason stands for figures where its settings make no sense."""
        try:
            self.check_systems(method, settings)
            if "prune_tokens" in settings:
                return self._pruned_row(method, settings)
            states = self._states_for(settings)
            sparse = self.sparse(method, settings)
            with sparse, self._systems(settings, sparse, states) as running:
                score = self.score()
        except _ROWS_OWN as problem:
            return judged(label_of(method), settings, str(problem))
        result = sparse.live.result()
        return judged(
            label_of(method),
            settings,
            result=result if self.keep else None,
            **self._figures(score, sparse, result),
            open_loop=None
            if trace is None
            else _open(sparse, trace, timed=self.profile is not None),
            kv=running.kv_figures(result, self.prompt),
            layers=result.skipped_layers,
        )

    def _systems(
        self, settings: Mapping[str, Any], sparse: Sparse, states: LayerStates | None
    ) -> AbstractContextManager[Running]:
        model = self.loaded.model
        return systems_in(model, settings, sparse.live, prompt=self.prompt, states=states)

    def _pruned_row(self, method: str, settings: Mapping[str, Any]) -> Cell:
        """Judge the dense model with fewer tokens, which runs token by token."""
        pruning = settings["prune_tokens"]
        score = pruned_perplexity(self.loaded.model, self.windows, self.prompt, pruning)
        with self.sparse(method, settings, score.work) as sparse:
            sparse.live.book_dense()
        result = sparse.live.result()
        return judged(
            label_of(method),
            settings,
            result=result if self.keep else None,
            **self._figures(score, sparse, result),
            kv=Running().kv_figures(result, self.prompt),
            tokens=token_figures(score, result),
        )

    def _figures(
        self, score: Perplexity | PrunedPerplexity, sparse: Sparse, result: Result
    ) -> dict[str, Any]:
        """Return the figures that every row has."""
        timed = self.profile is not None
        interval = result.interval if timed else None
        return {
            "perplexity": score.value,
            "loss": score.loss,
            "density": sparse.density,
            "hit_rate": result.hit_rate,
            "energy_kept": sparse.energy_kept,
            "flash_useful_bytes_per_token": result.flash_useful_bytes_per_token,
            "flash_bytes_per_token": result.flash_bytes_per_token if timed else None,
            "tokens_per_second": finite(result.tokens_per_second) if timed else None,
            "tokens_per_second_interval": None
            if interval is None
            else {"low": interval.low, "high": interval.high, "level": interval.level},
        }


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
