"""Draws of synthetic traces from a fit, block by block; every part has a random seed of its own."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.model import Model
from dipsim.trace.signal import SIGNALS
from dipsim.trace.synth.fit import MEAN_LOG, LayerFit, Repeats, SignalFit, TraceFit
from dipsim.trace.synth.normals import Normals
from dipsim.trace.synth.quantiles import QuantileMap
from dipsim.trace.tokens import DECODE, PREFILL
from dipsim.trace.trace import MAX_TOKENS

_BLOCK_BYTES = 16 * 2**20  # scores of all signals drawn at a time
_ROWS_BYTES = 128 * 2**10  # of one layer's scores drawn at a time, so that they stay in the cache
_TOKEN, _SEQUENCE, _DRIFT, _NOISE, _UNITS, _LEVEL, _ORDER = range(7)
_TRIES = 20
_TINY = np.float32(1e-30)
_MOST_LOG = np.float32(88.7)  # of a score that is drawn; above 88.72 it is no float32


@dataclass(frozen=True)
class Geometry:
    """Number of layers, and of units of every signal."""

    layers: int
    units: Mapping[str, int]
    experts_per_token: int | None = None
    """Experts that a token uses; None: as many as in the source."""


def geometry_of(fit: TraceFit, model: Model | None) -> Geometry:
    """Return a model's geometry for the signals of a fit; without a model the source's own.

    Raises:
        TraceError: experts of a model that has none.
    """
    if model is None:
        first = next(iter(fit.signals.values()))
        return Geometry(
            len(first.layers), {key: signal.units for key, signal in fit.signals.items()}
        )
    known = {key: int(model.layer_units(key).max()) for key in SIGNALS}
    if model.experts is not None:  # dense layers among those with experts are not recorded
        known |= dict.fromkeys(("mlp_input", "glu", "gate", "up"), 0)
    missing = [key for key in fit.signals if not known.get(key)]
    if missing:
        raise TraceError(
            f"model {model.name} has no units of {missing[0]} (experts or one MLP, not both): "
            "choose others with --signals, or another model"
        )
    units = {key: known[key] for key in fit.signals}
    layers = int(model.layers_with(fit.signals).sum())
    return Geometry(layers, units, model.experts_per_token)


def draw(
    fit: TraceFit, geometry: Geometry, tokens: int, seed: int = 0, *, iid: bool = False
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield blocks of a synthetic trace; without ``kind`` they suit `TraceWriter.append`.

    A longer trace begins with the shorter one. Layers take the fit of the source's layer at the
    same relative depth; where the number of units differs, units are drawn from the source's.

    Args:
        fit: the statistics to draw from.
        geometry: layers and units of the synthetic trace.
        tokens: number of tokens in all.
        seed: seed of all random numbers.
        iid: make every score independent of every other and all units alike. All policies then
            have the hit rate C / N, as with no real model: for checks only.

    Yields:
        Per signal float32[n, layers, units] scores or bool sets; int32[n] ``sequence``, uint8[n]
        ``phase`` and, where the source has it, int32[n] ``token_id``.

    Raises:
        TraceError: no tokens, or more than a trace may have.
    """
    if not 0 < tokens <= MAX_TOKENS:
        raise TraceError(f"{tokens} tokens: from 1 to {MAX_TOKENS}")
    marks = _marks(fit, tokens, seed)
    sources = {
        key: [
            _LayerSource(fitted, geometry, key, layer, seed, iid)
            for layer in range(geometry.layers)
        ]
        for key, fitted in fit.signals.items()
    }
    row = 4 * geometry.layers * sum(geometry.units.values())
    block = max(1, _BLOCK_BYTES // row)
    with ThreadPoolExecutor() as pool:

        def begun(start: int) -> _Begun:
            now = {key: values[start : start + block] for key, values in marks.items()}
            return _begin(pool, sources, now)

        at_work = begun(0)
        for start in range(block, tokens + block, block):
            drawn = at_work.finished()
            if start < tokens:
                at_work = begun(start)
            yield drawn


@dataclass(frozen=True)
class _Begun:
    """A block that is being drawn."""

    arrays: dict[str, NDArray[Any]]
    layers: list[Future[None]]

    def finished(self) -> dict[str, NDArray[Any]]:
        """Wait for all layers and return the arrays."""
        for layer in self.layers:
            layer.result()
        return self.arrays


def _begin(
    pool: ThreadPoolExecutor,
    sources: Mapping[str, list["_LayerSource"]],
    marks: Mapping[str, NDArray[Any]],
) -> _Begun:
    """Begin to draw a block; the one before it must be finished."""
    arrays: dict[str, NDArray[Any]] = {}
    at_work = []
    for key, layers in sources.items():
        shape = (len(marks["kind"]), len(layers), len(layers[0].spread))
        arrays[key] = np.empty(shape, layers[0].dtype)
        for number, layer in enumerate(layers):
            at_work.append(pool.submit(layer.draw, marks, arrays[key][:, number]))
    arrays |= {key: mark for key, mark in marks.items() if key != "kind"}
    return _Begun(arrays, at_work)


class _LayerSource:
    """The source of one signal of one layer: draws its scores or sets token after token."""

    def __init__(
        self, signal: SignalFit, geometry: Geometry, key: str, layer: int, seed: int, iid: bool
    ) -> None:
        depth = layer / max(geometry.layers - 1, 1)
        self.fit: LayerFit = signal.layers[round(depth * (len(signal.layers) - 1))]
        self.signal, self.iid, units = signal, iid, geometry.units[key]
        self.key = (seed, SIGNALS.index(key), layer)
        chosen = np.arange(units)
        if units != signal.units:
            chosen = self._rng(_UNITS).integers(0, signal.units, units)
        self.spread, self.shape = self.fit.spread[chosen], self.fit.shape[chosen]
        self.noise, self.steps = self._rng(_NOISE), self._rng(_DRIFT)
        self.normal_noise, self.normal_steps = Normals(self.noise), Normals(self.steps)
        self.levels = self._rng(_LEVEL)
        self.quantiles = QuantileMap(*self.fit.knots)
        self.experts_per_token = geometry.experts_per_token
        self.drift = self.mood = np.zeros(units, np.float32)
        self.last = -1
        self.rows = max(1, _ROWS_BYTES // (4 * units))

    @property
    def dtype(self) -> type[np.generic]:
        """Type of what is drawn: sets or scores."""
        return np.bool_ if len(self.fit.active) else np.float32

    def _rng(self, part: int, which: int = 0) -> np.random.Generator:
        """Return the generator of one part of a score, for token or sequence ``which``."""
        return np.random.default_rng(np.random.SeedSequence((*self.key, part, which)))

    def draw(self, marks: Mapping[str, NDArray[Any]], into: NDArray[Any]) -> None:
        """Write the scores or sets of the next n tokens to ``into``, [n, units]."""
        for first in range(0, len(into), self.rows):
            rows = slice(first, first + self.rows)
            now = {key: mark[rows] for key, mark in marks.items()}
            into[rows] = self._drawn(now)

    def _drawn(self, marks: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return float32[n, units] scores or bool sets of the next n tokens."""
        shape = len(marks["kind"]), len(self.spread)
        if self.iid:
            any_score = self.noise.random(shape, np.float32)
            return self._chosen(any_score) if len(self.fit.active) else self._marginal(any_score)
        z = self.normal_noise.draw(*shape)
        self._add_parts(z, marks)
        if self.signal.folded:
            np.abs(z, out=z)
            np.log(np.maximum(z, _TINY, out=z), out=z)
            z -= np.float32(MEAN_LOG)
        z *= self.shape
        z += self.spread
        if len(self.fit.active):
            return self._chosen(z)
        self.quantiles.move(z)
        return self._levelled(z)

    def _add_parts(self, z: NDArray[np.float32], marks: Mapping[str, NDArray[Any]]) -> None:
        fit, units = self.fit, len(self.spread)
        token, sequence, drift = (
            np.float32(np.sqrt(share)) for share in (fit.token, fit.sequence, fit.drift)
        )
        z *= np.float32(np.sqrt(max(1 - fit.token - fit.sequence - fit.drift, 0)))
        if fit.token:
            vectors: dict[int, NDArray[np.float32]] = {}
            for row, kind in enumerate(marks["kind"].tolist()):
                if kind not in vectors:
                    vectors[kind] = Normals(self._rng(_TOKEN, kind)).draw(units)
                    vectors[kind] *= token
                z[row] += vectors[kind]
        memory = np.float32(fit.memory)
        fresh = np.float32(np.sqrt(1 - fit.memory**2))
        steps = self.normal_steps.draw(*z.shape)
        for row, now in enumerate(marks["sequence"].tolist()):
            step = steps[row]
            if now != self.last:
                self.drift, self.last = step.copy(), now
                self.mood = self._rng(_SEQUENCE, now).standard_normal(units, np.float32)
                self.mood *= sequence
            else:
                self.drift *= memory
                step *= fresh
                self.drift += step
            np.multiply(self.drift, drift, out=step)
            step += self.mood
            z[row] += step

    def _marginal(self, quantile: NDArray[np.float32]) -> NDArray[np.float32]:
        source = self.fit.knots[1]
        y = np.interp(quantile, np.linspace(0, 1, len(source)), source)
        return self._levelled(y.astype(np.float32))

    def _levelled(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = self.fit.level
        y += levels[self.levels.integers(len(levels), size=len(y))][:, None]
        return np.exp(np.minimum(y, _MOST_LOG, out=y), out=y) if self.signal.logarithmic else y

    def _chosen(self, y: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the sets of the largest y, bool[n, units].

        Their sizes are those of random tokens of the source, scaled to the number of units.
        """
        sizes, units = self.fit.active, y.shape[1]
        wanted = sizes[self.levels.integers(len(sizes), size=len(y))]
        if self.signal.name == "expert":
            if self.experts_per_token is not None:
                wanted = np.where(wanted > 0, self.experts_per_token, 0)
        else:  # the same share of neurons
            wanted = np.rint(wanted * (units / self.signal.units)).astype(int)
        ranks = np.argsort(np.argsort(-y, axis=1, kind="stable"), axis=1)
        return ranks < np.minimum(wanted, units)[:, None]


def _marks(fit: TraceFit, tokens: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw sequences as long as the source's, in random order, and tokens that repeat as often."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, _ORDER)))
    sequence, phase = np.zeros(tokens, np.int32), np.full(tokens, DECODE, np.uint8)
    start = number = 0
    while start < tokens:
        prefill, length = fit.lengths[rng.integers(len(fit.lengths))]
        sequence[start : start + length] = number
        phase[start : start + prefill] = PREFILL
        start, number = start + int(length), number + 1
    marks: dict[str, NDArray[Any]] = {"sequence": sequence, "phase": phase}
    if fit.repeats is None:
        return {**marks, "kind": np.arange(tokens)}
    kind = _repeat(tokens, fit.repeats, seed)
    return {**marks, "kind": kind, "token_id": kind.astype(np.int32)}


def _repeat(tokens: int, repeats: Repeats, seed: int) -> NDArray[np.int64]:
    """Draw a kind for each token, int64[tokens]: a new one, or that of an earlier token."""
    kinds = np.zeros(tokens, np.int64)
    first = [0]  # where every kind appeared first
    draws = np.random.default_rng((seed, _TOKEN, 0)).random(tokens)
    again = np.random.default_rng((seed, _TOKEN, 1))
    for t in range(1, tokens):
        new = (repeats.strength + repeats.discount * len(first)) / (repeats.strength + t)
        kind = len(first) if draws[t] < new else _earlier(kinds, t, first, repeats, again)
        if kind == len(first):
            first.append(t)
        kinds[t] = kind
    return kinds


def _earlier(
    kinds: NDArray[np.int64],
    t: int,
    first: list[int],
    repeats: Repeats,
    rng: np.random.Generator,
) -> int:
    """Draw the kind of a token before t, in proportion to its number of tokens less the discount;
    return a new kind if all candidates are too recent."""
    for _ in range(_TRIES):
        where, keep, accept = int(rng.random() * t), rng.random(), rng.random()
        kind = int(kinds[where])
        if where == first[kind] and keep < repeats.discount:
            continue
        latest = [
            lag for lag in range(1, min(len(repeats.recent), t) + 1) if kinds[t - lag] == kind
        ]
        if not latest or accept < repeats.recent[latest[0] - 1]:
            return kind
    return len(first)
