"""Validation on a phone's own expert routes: replayed, timed, and compared token by token.

The phone (Helldez/BigMoeOnEdge) read missed experts in the background on several lanes while its
processor used resident ones. It recorded times per decode token: compute; ``stall``, its
processor's wait for reads; ``mgmt``, moving experts into the cache; ``io``, the busy times of its
reading lanes, added up. wall = compute + stall + mgmt.

Four parameters of the device are fitted on the first half of the tokens and judged on the second;
the numbers of the shipped profile, which were fitted on other runs, are judged beside them.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.hardware import Profile
from dipsim.run import replay as replay_run
from dipsim.simulate import prepare
from dipsim.timeline.closed import FLASH, Step, token_times
from dipsim.trace import Trace, load_trace
from dipsim.trace.logs.route_trace import TENSORS
from dipsim.validate.metrics import WINDOW, Floats, Metrics, load_metrics

PROFILE = "oneplus15r"
"""Name of the phone's profile."""
_FORMAT = "q4_k"
"""Format of the weights of the phone's model."""
_PAGE = 4096
_OVERLAP_STEP = 1e-5
"""Step at which the overlap factor is fine enough."""


@dataclass(frozen=True)
class Replay:
    """Counts of the replay of the routes, per decode token and layer: [tokens, layers]."""

    device: Profile
    hit_bytes: Floats
    miss_bytes: Floats
    kept_bytes: Floats
    requests: Floats
    flash: Floats
    """Seconds of flash, at the profile's measured points."""
    dense: Floats
    """float64[layers], bytes of the weights that every token uses."""
    misses: NDArray[np.int64]
    hit_pct: float
    """Percentage of look-ups that hit, prefill included, as the phone counts them."""

    @property
    def read_bytes(self) -> Floats:
        """float64[tokens], bytes that the phone reads.

        Every expert is three tensors, and direct reads take whole pages, one more for each tensor
        than it fills.
        """
        read: Floats = self.miss_bytes.sum(axis=1) + TENSORS * _PAGE * self.misses.sum(axis=1)
        return read


def replay_routes(routes: str | os.PathLike[str], metrics: Metrics) -> Replay:
    """Replay a route trace with the phone's own policy: one LRU over all layers.

    Raises:
        DipsimError: no route trace, or one of another run than the metrics.
    """
    trace = load_trace(routes)
    if "dense_bytes" not in trace.meta:
        raise DipsimError(f"{routes}: states no dense_bytes: give a route_trace CSV of a phone")
    run = prepare(trace, PROFILE, policy="lru", scope="global", cache=f"{metrics.cache_mib!r} MiB")
    traffic = replay_run(run)
    dense = _dense(trace)
    rows = traffic.measured
    if rows.sum() != metrics.tokens:
        raise DipsimError(
            f"{routes} has {rows.sum()} decode tokens, the metrics have {metrics.tokens}: give the "
            "two files of one run"
        )
    size = run.unit_bytes[:, 0]
    misses = traffic.misses[rows, :, 0].astype(np.int64)
    return Replay(
        device=run.device,
        hit_bytes=traffic.hits[rows, :, 0] * size,
        miss_bytes=misses * size,
        kept_bytes=traffic.kept[rows, :, 0] * size,
        requests=traffic.reads[rows, :, 0].astype(np.float64),
        flash=traffic.flash_seconds[rows, :, 0],
        dense=dense,
        misses=misses,
        hit_pct=100 * float(traffic.hits.sum() / traffic.active.sum()),
    )


def _dense(trace: Trace) -> Floats:
    return np.array(trace.meta["dense_bytes"], np.float64)


@dataclass(frozen=True)
class Speeds:
    """Parameters of the device that are fitted."""

    flash: float
    """Speed of the flash, relative to the profile's points."""
    cache_copy: float
    """Rate of copying experts into the cache, bytes per second."""
    gemv: float
    """Rate of using weights, bytes per second."""
    overlap_factor: float


def predict(replay: Replay, speeds: Speeds) -> dict[str, Floats]:
    """Return stall, mgmt, io and wall, float64[tokens] milliseconds, by dipsim's rule of a step.

    Copies into the cache are made while further reads are under way, so reads hide behind them as
    behind the use of weights. The profile's cost of a layer counts as stall in layers that read,
    else as compute.
    """
    _, backend = replay.device.backend()
    flash = replay.flash / speeds.flash
    copied = replay.kept_bytes / speeds.cache_copy
    hit, miss = replay.hit_bytes / speeds.gemv, replay.miss_bytes / speeds.gemv
    nothing = np.zeros(len(hit))
    steps = [
        Step(flash[:, i], (hit + copied)[:, i], miss[:, i], nothing, replay.requests[:, i])
        for i in range(hit.shape[1])
    ]
    a = speeds.overlap_factor
    exposed = token_times(steps, len(hit), "pipelined", a, True).exposed[:, FLASH]
    waits = (replay.requests > 0).sum(axis=1)
    fixed = backend.per_layer
    stall = exposed + fixed * waits
    compute = replay.dense.sum() / speeds.gemv + (hit + miss).sum(axis=1)
    compute += fixed * (hit.shape[1] - waits)
    management = copied.sum(axis=1)
    lanes = replay.device.flash.lanes
    return {
        "stall": 1e3 * stall,
        "mgmt": 1e3 * management,
        "io": 1e3 * lanes * flash.sum(axis=1),
        "wall": 1e3 * (compute + stall + management),
    }


def fit_speeds(replay: Replay, metrics: Metrics, part: slice) -> Speeds:
    """Fit the four parameters on the tokens of ``part`` alone.

    Busy time of the lanes, time of copies and wall time match the measured totals; the overlap
    factor minimises the mean relative error of stall.

    Raises:
        DipsimError: the metrics leave nothing to fit a parameter on.
    """
    lanes = replay.device.flash.lanes
    _, backend = replay.device.backend()
    if not replay.flash[part].any() or not replay.kept_bytes[part].any():
        raise DipsimError(
            "the cache of the metrics reads or keeps nothing while speeds are fitted: give metrics "
            "of a cache that holds some experts and not all"
        )
    flash = 1e3 * lanes * replay.flash[part].sum() / metrics["io_ms"][part].sum()
    copy = 1e3 * replay.kept_bytes[part].sum() / metrics["mgmt_ms"][part].sum()
    speeds = Speeds(float(flash), float(copy), backend.gemv[_FORMAT], 0.5)
    used = (replay.hit_bytes + replay.miss_bytes)[part].sum()
    used += replay.dense.sum() * len(metrics["wall_ms"][part])
    for _ in range(8):  # gemv and overlap factor settle within three rounds
        speeds = _overlapped(replay, metrics, part, speeds)
        predicted = predict(replay, speeds)
        left = (
            used / speeds.gemv * 1e3
            + metrics["wall_ms"][part].sum()
            - predicted["wall"][part].sum()
        )
        if left <= 0:
            raise DipsimError("the metrics leave no time for compute: give those of the routes")
        speeds = replace(speeds, gemv=float(used / left * 1e3))
    return speeds


def shipped_speeds(replay: Replay) -> Speeds:
    """Return the parameters that the phone's profile states."""
    _, backend = replay.device.backend()
    return Speeds(1.0, backend.cache_copy, backend.gemv[_FORMAT], backend.overlap_factor)


def _overlapped(replay: Replay, metrics: Metrics, part: slice, speeds: Speeds) -> Speeds:
    """Return the speeds with the overlap factor of the least mean relative error of stall."""

    def with_overlap(a: float) -> Speeds:
        return replace(speeds, overlap_factor=a)

    def loss(a: float) -> float:
        stall = predict(replay, with_overlap(a))["stall"][part]
        return float(np.abs(stall / metrics["stall_ms"][part] - 1).mean())

    best, step = 0.5, 0.5
    while step > _OVERLAP_STEP:  # ever finer grids around the best so far
        step /= 10
        grid = np.clip(best + step * np.arange(-10, 11), 0.0, 1.0).tolist()
        best = min(grid, key=loss)
    return with_overlap(best)


@dataclass(frozen=True)
class Measure:
    """Errors of one quantity on the tokens that nothing was fitted on."""

    name: str
    bar: float | None
    """Largest median relative error that is accepted; None where nothing is promised."""
    median: float
    """Median relative error of the prediction."""
    shipped: float
    """The same with the numbers of the shipped profile, none of them fitted on this run."""
    line: float
    """Median relative error of a straight line in the bytes read, fitted on the same tokens."""
    correlation: float | None
    """Correlation of predicted and measured; None over windows, which are too few."""
    line_correlation: float | None
    """Correlation of the straight line and the measurement, likewise."""

    @property
    def met(self) -> bool | None:
        """True if the error is within the bar and the correlation high; None without a bar."""
        if self.bar is None:
            return None
        return self.median <= self.bar and (
            self.correlation is None or self.correlation >= LEAST_CORRELATION
        )


LEAST_CORRELATION = 0.98
_STALL, _MGMT, _IO, _WALL = "stall", "mgmt", "io", "wall"
# The bars are what other runs of this phone in one configuration differ by (docs/validation.md).
_MEASURES = (
    (_STALL, _STALL, 0.15),
    (_MGMT, _MGMT, 0.1),
    (_IO, _IO, 0.1),
    (f"{_WALL} of {WINDOW} tokens", _WALL, 0.16),
    (f"{_WALL} of one token", _WALL, None),
)


@dataclass(frozen=True)
class RoutesResult:
    """Errors of the prediction of a phone's run."""

    tokens: int
    fitted_on: int
    """Number of tokens, from the first, that the speeds were fitted on."""
    speeds: Speeds
    measures: tuple[Measure, ...]
    exact: int
    """Number of tokens whose bytes read equal those the phone recorded."""
    bytes_error: float
    """Relative error of the bytes of all tokens together."""
    worst_bytes: float
    """Largest relative error of the bytes of one token."""
    hit_pct: float
    recorded_hit_pct: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "tokens": self.tokens,
            "fitted_on": self.fitted_on,
            "speeds": vars(self.speeds),
            "measures": [{**vars(measure), "met": measure.met} for measure in self.measures],
            "bytes": {
                "exact_tokens": self.exact,
                "error": self.bytes_error,
                "worst_token": self.worst_bytes,
            },
            "hit_pct": self.hit_pct,
            "recorded_hit_pct": self.recorded_hit_pct,
        }


def judge_routes(
    routes: str | os.PathLike[str], metrics_path: str | os.PathLike[str]
) -> RoutesResult:
    """Replay a route trace, fit on the first half of its decode tokens, judge on the second.

    Raises:
        DipsimError: a file is damaged, or the two are not of one run.
    """
    metrics = load_metrics(metrics_path)
    replay = replay_routes(routes, metrics)
    half = metrics.tokens // 2
    first, second = slice(0, half), slice(half, metrics.tokens)
    speeds = fit_speeds(replay, metrics, first)
    predicted, shipped = predict(replay, speeds), predict(replay, shipped_speeds(replay))
    read = replay.read_bytes
    measures = []
    for name, column, bar in _MEASURES:
        took = metrics[f"{column}_ms"]
        windows = column == _WALL and bar is not None
        ours, usual, line, right = (
            _windows(x[second]) if windows else x[second]
            for x in (predicted[column], shipped[column], _line(read, took, first), took)
        )
        measures.append(
            Measure(
                name=name,
                bar=bar,
                median=_off(ours, right),
                shipped=_off(usual, right),
                line=_off(line, right),
                correlation=None if windows else _correlation(ours, right),
                line_correlation=None if windows else _correlation(line, right),
            )
        )
    recorded = metrics["read_bytes"]
    per_token = np.abs(read / np.maximum(recorded, 1) - 1)
    return RoutesResult(
        tokens=metrics.tokens,
        fitted_on=half,
        speeds=speeds,
        measures=tuple(measures),
        exact=int((read == recorded).sum()),
        bytes_error=float(read.sum() / max(recorded.sum(), 1) - 1),
        worst_bytes=float(per_token.max()),
        hit_pct=replay.hit_pct,
        recorded_hit_pct=float(metrics["cache_hit_pct"][-1]),
    )


def _line(size: Floats, took: Floats, part: slice) -> Floats:
    """Return the line in ``size`` fitted on ``part``, at all sizes; level if sizes are equal."""
    if np.ptp(size[part]) == 0:
        return np.full_like(size, took[part].mean())
    megabytes = size / 1e6
    slope, start = np.polyfit(megabytes[part], took[part], 1)
    line: Floats = start + slope * megabytes
    return line


def _windows(values: Floats) -> Floats:
    """Return sums over windows of tokens, without the incomplete one at the end."""
    whole = len(values) // WINDOW * WINDOW
    sums: Floats = values[:whole].reshape(-1, WINDOW).sum(axis=1)
    return sums


def _off(predicted: Floats, measured: Floats) -> float:
    """Return the median relative error."""
    return float(np.median(np.abs(predicted / measured - 1)))


def _correlation(predicted: Floats, measured: Floats) -> float:
    """Return the correlation coefficient; 0 if either is constant."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(np.corrcoef(predicted, measured)[0, 1])
