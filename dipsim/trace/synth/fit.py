"""Statistics of a trace: the numbers of docs/synth.md, estimated by moments.

An activation is taken as a signed Gaussian z of variance 1, a score as its absolute value, scaled:
log s = level_t + spread_u + shape_u (log |z_tu| - E log |z|). Router logits are not folded:
s = level_t + spread_u + shape_u z_tu. Recorded sets are the largest such s.

z is a sum of independent parts, whose shares of the variance are fitted: ``token`` (the same token
has the same part, wherever it stands), ``sequence`` (constant within one), ``drift`` (an AR(1)
process with coefficient ``memory``), and noise. Covariances of two tokens, averaged over units,
tell them apart: log |z| of two Gaussians of correlation r has covariance arcsin(r)^2 / 2.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.encoding import Encoding, unpack_sets
from dipsim.trace.signal import Signal
from dipsim.trace.tokens import PREFILL
from dipsim.trace.trace import Trace

Floats = NDArray[np.float64]
Correlation = Callable[[NDArray[np.bool_]], float]
LEAST_TOKENS = 16
MEAN_LOG = -0.6351814227307392
"""E log |z| of a standard normal: -(log 2 + Euler's constant) / 2."""
KNOTS = 257
_VARIANCE_OF_LOG = np.pi**2 / 8  # variance of log |z| for a standard normal z
_SAMPLED_TOKENS, _WINDOW = 1024, 256
_SAMPLED_BYTES = 64 * 2**20
LAGS = 8  # lags that tell how fast the drift forgets
_FAR = 16  # beyond this lag the drift has gone
_LARGEST_LOGIT = 1e36  # so that sums of what is fitted to logits stay float32
_LOWEST = 0.01  # share of a token's scores that count as equally small: log 0 has no moments


@dataclass(frozen=True)
class LayerFit:
    """Statistics of one signal of one layer; token, sequence and drift are shares of variance."""

    spread: NDArray[np.float32]
    """float32[units], log-scale of every unit: its popularity."""
    shape: NDArray[np.float32]
    """float32[units], variation of a unit from token to token."""
    token: float
    sequence: float
    drift: float
    memory: float
    knots: tuple[Floats, Floats]
    """Quantiles of the model, and those of the source that replace them."""
    level: NDArray[np.float32]
    """float32[tokens], mean log score (or logit) of the source's tokens."""
    active: NDArray[np.int64]
    """int64[tokens], sizes of recorded sets; empty for scores."""


@dataclass(frozen=True)
class SignalFit:
    """Statistics of one signal."""

    name: str
    encoding: Encoding
    folded: bool
    """True if a score is the absolute value of an activation."""
    logarithmic: bool
    """True if the statistics are those of log scores, so that scores stay >= 0."""
    layers: tuple[LayerFit, ...]

    @property
    def units(self) -> int:
        """Units of the source."""
        return len(self.layers[0].spread)


@dataclass(frozen=True)
class Repeats:
    """Repetition of tokens: a Pitman-Yor process that avoids the latest tokens."""

    discount: float
    strength: float
    recent: tuple[float, ...]
    """Probability of a repeat at lag 1, 2, ..., relative to that at any distance; at most 1."""


@dataclass(frozen=True)
class TraceFit:
    """Statistics of a trace, from which `draw` makes another."""

    source: str
    hash: str
    signals: Mapping[str, SignalFit]
    lengths: NDArray[np.int64]
    """int64[sequences, 2], prefill rows and all rows of every sequence."""
    repeats: Repeats | None
    """Repetition of tokens; None without ``token_id``."""


def fit_trace(trace: Trace, signals: tuple[str, ...] | None = None) -> TraceFit:
    """Fit the statistics to a trace, or to some of its signals; a long trace is sampled.

    Raises:
        TraceError: fewer than 16 tokens, or a signal the trace does not hold.
    """
    if trace.tokens < LEAST_TOKENS:
        raise TraceError(
            f"{trace.name}: {trace.tokens} tokens are too few to fit, at least {LEAST_TOKENS}"
        )
    if not trace.signals:
        raise TraceError(
            f"{trace.name} holds no scores or sets of units to fit: give --like a trace with some"
        )
    wanted = tuple(trace.signals) if signals is None else signals
    for name in wanted:
        if name not in trace.signals:
            raise TraceError(f"{trace.name} holds no {name}: it has {', '.join(trace.signals)}")
    starts = [*np.flatnonzero(trace.rows.begins_sequence()), trace.tokens]
    lengths = [
        (int((trace.phase[start:stop] == PREFILL).sum()), stop - start)
        for start, stop in itertools.pairwise(starts)
    ]
    return TraceFit(
        source=trace.name,
        hash=trace.hash,
        signals={name: _fit_signal(trace, trace.signals[name]) for name in wanted},
        lengths=np.array(lengths, np.int64),
        repeats=None if trace.token_id is None else _fit_repeats(trace.token_id[:_SAMPLED_TOKENS]),
    )


def _fit_signal(trace: Trace, signal: Signal) -> SignalFit:
    is_sets = signal.holds == "sets"
    logits = signal.name == "expert" and signal.declared.get("encoding") != "prob"
    empty = SignalFit(
        name=signal.name,
        encoding="float32" if signal.encoding == "float64" else signal.encoding,
        folded=signal.name != "expert" and not is_sets,
        logarithmic=not logits and not is_sets,
        layers=(),
    )
    rows = _sampled_rows(trace)
    pairs = _Pairs(trace, rows)
    fitted = []
    for values in _by_layer(trace, signal, rows):
        fitted.append(_fit_sets(values, pairs) if is_sets else _fit_scores(values, pairs, empty))
    return replace(empty, layers=tuple(fitted))


def _sampled_rows(trace: Trace) -> list[tuple[int, int]]:
    """Return windows of tokens (first, end), evenly spread over a long trace."""
    if trace.tokens <= _SAMPLED_TOKENS:
        return [(0, trace.tokens)]
    starts = np.linspace(0, trace.tokens - _WINDOW, _SAMPLED_TOKENS // _WINDOW).astype(int)
    return [(int(start), int(start) + _WINDOW) for start in starts]


def _by_layer(
    trace: Trace, signal: Signal, rows: list[tuple[int, int]]
) -> Iterator[NDArray[np.float32]]:
    """Yield the sampled tokens, float32[tokens, units], layer by layer; memory stays bounded."""
    tokens = sum(stop - start for start, stop in rows)
    at_once = max(1, _SAMPLED_BYTES // (4 * tokens * signal.units))
    for first in range(0, trace.layers, at_once):
        part = trace.layer_window(first, min(first + at_once, trace.layers))
        window, size = part.signals[signal.name], part.block_size((signal.name,))
        blocks: list[NDArray[np.float32]] = []
        for start, stop in rows:
            span = (trace.first + start, trace.first + stop, size)
            if signal.holds == "scores":
                blocks += window.values(*span)
                continue
            for words in window.blocks(*span, "sets"):
                blocks.append(unpack_sets(words, signal.units).astype(np.float32))
        values = np.concatenate(blocks)
        for layer in range(part.layers):
            yield values[:, layer]


class _Pairs:
    """Pairs of the sampled tokens, by what they share; masks are bool[tokens, tokens].

    ``lags``: same sequence, at distance 1, 2, ...; ``far``: same sequence, far apart; ``apart``:
    different sequences; ``alike``: the same token id; ``several``: more than one sequence.
    """

    def __init__(self, trace: Trace, rows: list[tuple[int, int]]) -> None:
        token = np.concatenate([np.arange(start, stop) for start, stop in rows])
        sequence = trace.sequence[token]
        apart = np.abs(token[:, None] - token[None])
        same = sequence[:, None] == sequence[None]
        self.several = not same.all()
        alike = np.zeros_like(same)
        if trace.token_id is not None:
            ids = trace.token_id[token]
            alike = (ids[:, None] == ids[None]) & (apart > 0)
        self.lags = [same & ~alike & (apart == lag) for lag in range(1, LAGS + 1)]
        far = same & ~alike & (apart > _FAR)
        self.far = far if far.any() else same & ~alike & (apart > 0)
        self.apart = ~same & ~alike if self.several else self.far
        self.alike = alike & ~same if (alike & ~same).any() else alike & (apart > _FAR)


def _fit_scores(values: NDArray[np.float32], pairs: _Pairs, signal: SignalFit) -> LayerFit:
    y = values.astype(np.float64)
    if signal.logarithmic:
        positive = np.where(y > 0, y, np.inf).min(initial=np.inf)
        y = np.log(np.maximum(y, positive if np.isfinite(positive) else 1.0))
        y = np.maximum(y, np.quantile(y, _LOWEST, axis=1, keepdims=True))
    else:
        y = np.clip(y, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    level = y.mean(axis=1)
    y -= level[:, None]
    covariance = y @ y.T / y.shape[1]
    popularity = 0.0
    if pairs.apart.any():
        popularity = max(float(covariance[pairs.apart].mean()), 0.0)
    varies = float(np.diag(covariance).mean()) - popularity
    unit_variance = _VARIANCE_OF_LOG if signal.folded else 1.0
    scale = varies / unit_variance  # shape^2

    def correlation(of: NDArray[np.bool_]) -> float:
        if scale <= 0 or not of.any():
            return 0.0
        excess = (float(covariance[of].mean()) - popularity) / scale
        if not signal.folded:
            return float(np.clip(excess, 0, 1))
        return float(np.sin(np.sqrt(np.clip(2 * excess, 0, (np.pi / 2) ** 2))))

    shape = y.var(axis=0)
    shape *= scale / max(float(shape.mean()), 1e-30)
    return _assemble(
        spread=_scaled(y.mean(axis=0), popularity),
        shape=np.sqrt(np.maximum(shape, 0)),
        shares=_shares(pairs, correlation),
        source=y,
        level=level,
        folded=signal.folded,
    )


def _fit_sets(values: NDArray[np.float32], pairs: _Pairs) -> LayerFit:
    """Fit sets: a unit is active if a Gaussian exceeds its threshold (tetrachoric correlation)."""
    normal = NormalDist()
    tokens = len(values)
    share = values.mean(axis=0, dtype=np.float64)
    together = values.astype(np.float64) @ values.T / values.shape[1]
    independent = float(together[pairs.apart].mean()) if pairs.apart.any() else 0.0
    # The spread of shares over units holds noise of the sample: shrink it to what tokens far apart
    # have in common.
    mean = float(share.mean())
    variance = max(independent - mean**2, 0.0)
    share = mean + _scaled(share - mean, variance)
    share = np.clip(share, 0.25 / tokens, 1 - 0.25 / tokens)
    threshold = np.array([normal.inv_cdf(1 - p) for p in share])
    density = np.exp(-(threshold**2) / 2) / np.sqrt(2 * np.pi)
    first, second = float((density**2).mean()), float((density**2 * threshold**2).mean()) / 2

    def correlation(of: NDArray[np.bool_]) -> float:
        if not of.any():
            return 0.0
        excess = max(float(together[of].mean()) - independent, 0.0)
        grid = np.linspace(0, 1, 201)  # both active: p^2 + density^2 (r + threshold^2 r^2 / 2 + ..)
        return float(np.interp(excess, first * grid + second * grid**2, grid))

    fitted = _assemble(
        spread=-threshold,
        shape=np.ones(len(share)),
        shares=_shares(pairs, correlation),
        source=None,
        level=np.zeros(1),
        folded=False,
    )
    return replace(fitted, active=values.sum(axis=1).astype(np.int64))


def _shares(pairs: _Pairs, correlation: Correlation) -> tuple[float, float, float, float]:
    """Return the shares of token, sequence and drift, and the memory of the drift."""
    sequence = correlation(pairs.far) if pairs.several else 0.0
    near = np.array([correlation(lag) - sequence for lag in pairs.lags])
    lags = np.arange(1, LAGS + 1)
    best = (np.inf, 0.0, 0.0)
    for memory in np.linspace(0.1, 0.95, 86):
        decay = memory**lags
        drift = max(float(decay @ near / (decay @ decay)), 0.0)
        error = float(((near - drift * decay) ** 2).sum())
        best = min(best, (error, drift, float(memory)))
    _, drift, memory = best
    token = correlation(pairs.alike)
    much = max(1.0, (token + sequence + drift) / 0.99)
    return token / much, sequence / much, drift / much, memory


def _assemble(
    spread: Floats,
    shape: Floats,
    shares: tuple[float, float, float, float],
    source: Floats | None,
    level: Floats,
    folded: bool,
) -> LayerFit:
    token, sequence, drift, memory = shares
    quantiles = np.linspace(0, 1, KNOTS)
    knots = (np.zeros(1), np.zeros(1))
    if source is not None:
        model = spread + shape * _sample(len(spread), folded)
        knots = (_quantiles(model, quantiles[1:-1]), _quantiles(source, quantiles[1:-1]))
    return LayerFit(
        spread=spread.astype(np.float32),
        shape=shape.astype(np.float32),
        token=token,
        sequence=sequence,
        drift=drift,
        memory=memory,
        knots=knots,
        level=level.astype(np.float32),
        active=np.zeros(0, np.int64),
    )


@lru_cache(maxsize=2)
def _sample(units: int, folded: bool) -> Floats:
    """Return normals of some tokens, or their logarithms on 0, float64[64, units]: every layer's
    model is sampled by the same."""
    z = np.random.default_rng(0).standard_normal((64, units))
    return np.log(np.abs(z)) - MEAN_LOG if folded else z


def _quantiles(values: Floats, shares: Floats) -> Floats:
    """Return quantiles; of sorted values `np.quantile` finds many of them twice as fast."""
    found: Floats = np.quantile(np.sort(values, axis=None), shares)
    return found


def _scaled(values: Floats, variance: float) -> Floats:
    """Centre values on 0 and shrink them to at most a variance, which removes sampling noise."""
    centred: Floats = values - values.mean()
    sample_variance = float(centred.var())
    if sample_variance > 0:
        centred *= np.sqrt(min(variance / sample_variance, 1.0))
    return centred


def _fit_repeats(ids: NDArray[np.int32]) -> Repeats:
    """Fit discount and strength by maximum likelihood on a grid; count the repeats per lag."""
    counts = np.unique(ids, return_counts=True)[1]
    kinds, total = len(counts), int(counts.sum())
    uses = np.bincount(counts)
    best = (-np.inf, 0.0, 1.0)
    for discount in np.linspace(0, 0.95, 20):
        inside = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(uses)) - discount))])
        # a kind with n tokens: product of (j - discount) for j = 1..n-1
        of_counts = float((uses[1:] * inside[np.arange(len(uses) - 1)]).sum())
        for strength in np.geomspace(0.1, 10_000, 51):
            new = np.log(strength + discount * np.arange(1, kinds)).sum()
            likelihood = float(new + of_counts - np.log(strength + np.arange(1, total)).sum())
            best = max(best, (likelihood, float(discount), float(strength)))
    often = float((counts * (counts - 1)).sum()) / max(total * (total - 1), 1)
    recent = [
        min(1.0, float((ids[lag:] == ids[:-lag]).mean()) / often) if often else 1.0
        for lag in range(1, LAGS + 1)
    ]
    return Repeats(best[1], best[2], tuple(recent))
