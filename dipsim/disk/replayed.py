"""Validation of flash times: a replay's misses are read from a real disk and timed.

The runs of neighbouring misses that the replay assumes are laid out over a local file and read
directly, group by group, with as many threads as the flash has lanes. The disk is measured first
(`dipsim iobench`), so the prediction rests on that measurement alone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.disk import bench as iobench
from dipsim.disk.direct_io import PAGE, DirectFile, Readers, made_file, open_file
from dipsim.disk.fit import Calibrated, Measured, calibrated
from dipsim.errors import DipsimError, printable
from dipsim.flash.cost import FlashCost, InOrder
from dipsim.hardware import Flash, Profile, Source
from dipsim.kernels import Requests
from dipsim.model import Model, load_model
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Input
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.trace import Trace
from dipsim.units import BYTES

LEAST_TOKENS = 8
"""Least number of tokens: half of them fit the trivial predictors, the other half judges them."""
LARGEST_FILE = 4e9
_LARGEST_READ = 2**23  # a longer run is read in parts
_PROBED, _PROBE_SECONDS = 5, 0.01  # sizes up to 1 MiB, and how long each is read
_SAVING = 1 - 1e-12  # as in kernels/reads.py
Runs = list[tuple[int, int]]
"""(first unit, units) of each read."""
Announce = Callable[[str], None]


class PredictorError(NamedTuple):
    """Error of a predictor of the seconds per token, on tokens it has not seen."""

    name: str
    median: float
    """Median of abs(predicted / measured - 1)."""
    bias: float
    """Median of predicted / measured - 1."""


@dataclass(frozen=True)
class ReplayedIo:
    """Flash seconds per token, predicted and measured; every array is [tokens]."""

    file: str
    direct: bool
    lanes: int
    calibrated: Calibrated
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    moved: NDArray[np.float64]
    """Bytes in the prediction: whole pages."""
    read: NDArray[np.float64]
    """Bytes that were read: the pages in which the units lie."""
    reads: NDArray[np.int64]
    pace: NDArray[np.float64]
    """Time of probe reads just before and after the token, relative to the calibration.

    A disk that others use changes from second to second.
    """

    @property
    def errors(self) -> NDArray[np.float64]:
        """Relative error of every token: predicted / measured - 1."""
        return self.predicted / self.measured - 1

    @property
    def paced_errors(self) -> NDArray[np.float64]:
        """Relative error of every token, with predictions slowed down by the disk's pace."""
        return self.predicted * self.pace / self.measured - 1

    def judged(self) -> list[PredictorError]:
        """Return the errors on the second half of the tokens: of the prediction, and of
        predictors that know the first half only."""
        half = len(self.measured) // 2
        first, rest = slice(half), slice(half, None)
        line = _line(self.moved[first], self.measured[first], self.moved)
        constant = np.full(len(self.measured), np.median(self.measured[first]))
        known = {
            "dipsim, from the disk's own figures": self.predicted,
            "the same, at the disk's pace between tokens": self.predicted * self.pace,
            "a constant of the first half": constant,
            "a line in bytes of the first half": line,
        }
        return [_judge(name, seconds[rest], self.measured[rest]) for name, seconds in known.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "file": self.file,
            "direct": self.direct,
            "lanes": self.lanes,
            "calibration": self.calibrated.to_dict(),
            "tokens": len(self.measured),
            "median_error": float(np.median(np.abs(self.errors))),
            "median_bias": float(np.median(self.errors)),
            "median_error_at_pace": float(np.median(np.abs(self.paced_errors))),
            "second_half": [judged._asdict() for judged in self.judged()],
            "predicted_ms": (1e3 * self.predicted).tolist(),
            "measured_ms": (1e3 * self.measured).tolist(),
            "pace": self.pace.tolist(),
            "bytes": self.moved.tolist(),
            "bytes_read": self.read.tolist(),
            "reads": self.reads.tolist(),
        }


def _line(
    x: NDArray[np.float64], y: NDArray[np.float64], new_x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the least-squares line of y in x at ``new_x``; it is level if all x are the same."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square if square else 0.0
    line: NDArray[np.float64] = y.mean() + slope * (new_x - x.mean())
    return line


def _judge(
    name: str, predicted: NDArray[np.float64], measured: NDArray[np.float64]
) -> PredictorError:
    off = predicted / measured - 1
    return PredictorError(name, float(np.median(np.abs(off))), float(np.median(off)))


@dataclass(frozen=True)
class Wanted:
    """Settings of a validation: the file, and the reads that are made from it."""

    path: str
    file_size: float = 2e9
    """Bytes of a new file, made if there is none at ``path``."""
    lanes: int = 4
    fit: bool = False
    """True to predict from the fitted formula, False to predict from the points."""
    scale_to: Input | None = None
    """Model whose columns, neurons or experts give the units their sizes."""
    bench_seconds: float = 10.0
    seconds: float = 60.0
    """Seconds after which no further token begins."""


def validate_io(
    trace: Input | Trace,
    profile: Input | Profile,
    wanted: Wanted,
    announce: Announce = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> ReplayedIo:
    """Measure a disk, predict the flash time of a replay's tokens from that, and time them.

    Args:
        trace: the trace, or what names it.
        profile: the device; its flash becomes that of the disk.
        wanted: the file, and how it is read.
        announce: called with a text before each step that precedes the first token.
        progress: called with (tokens done, tokens).
        options: options of `prepare`.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    _check(wanted)
    run = prepare(trace, profile, **options)  # refuses what is wrong before the disk is touched
    model = None if wanted.scale_to is None else load_model(wanted.scale_to)
    if model is not None:
        scaled_to(run, model)
    with _file(wanted) as file:
        announce(f"measuring {printable(wanted.path)} for {wanted.bench_seconds:g} s")
        flash = _measured(file, wanted)
        run = prepare(trace, _with_flash(run.device, flash, file.name), **options)
        if model is not None:
            run = scaled_to(run, model)
        announce("replaying")
        return replay_io(run, file, flash, wanted.seconds, progress, model)


def _check(wanted: Wanted) -> None:
    if not 1 <= wanted.lanes <= 64:
        raise DipsimError(f"--lanes {wanted.lanes}: reads in flight, from 1 to 64")
    for option, given in (("bench-seconds", wanted.bench_seconds), ("seconds", wanted.seconds)):
        if not 0.1 <= given <= 3600:
            raise DipsimError(f"--{option} {given:g}: from 0.1 to 3600")
    if not 2**20 <= wanted.file_size <= LARGEST_FILE:
        raise DipsimError(
            f"--file-size {BYTES.show(wanted.file_size)}: from 1 MiB to {BYTES.show(LARGEST_FILE)}"
        )


def _file(wanted: Wanted) -> AbstractContextManager[DirectFile]:
    if os.path.exists(wanted.path):
        return open_file(wanted.path)
    return made_file(wanted.path, int(wanted.file_size) // PAGE * PAGE)


def _measured(file: DirectFile, wanted: Wanted) -> Calibrated:
    """Measure the disk as a flash section, with sizes that the file has room for."""
    sizes = _sizes(file)
    if len(sizes) < 2:
        raise DipsimError(
            f"{printable(file.name)}: holds {BYTES.show(file.size)}, too few to measure reads: "
            "give a larger file, or a name that is free"
        )
    lanes = sorted({1, wanted.lanes} | {n for n in iobench.THREADS if n < wanted.lanes})
    bench = iobench.measure(file, sizes, lanes, wanted.bench_seconds)
    points = [Measured(cell.size, cell.lanes, cell.bandwidth) for cell in bench.cells]
    return calibrated(points, bench.direct, wanted.fit, wanted.lanes)


def _sizes(file: DirectFile) -> list[int]:
    return [size for size in iobench.SIZES if iobench.ROOM * size <= file.size]


def _with_flash(device: Profile, disk: Calibrated, origin: str) -> Profile:
    """Return the device with the disk as its flash."""
    section = disk.section(origin)
    sources = {key: value for key, value in device.sources.items() if not key.startswith("flash")}
    sources |= {key: Source.model_validate(value) for key, value in section["sources"].items()}
    flash = Flash.model_validate(section["flash"])
    return device.model_copy(update={"flash": flash, "sources": sources})


def scaled_to(run: Run, model: Model) -> Run:
    """Return the run with units as large as another model's; caches hold as many as before.

    Raises:
        DipsimError: the model has no such units, or the cache was given in bytes.
    """
    if run.settings.cache_fraction is None:
        raise DipsimError("--scale-to changes the size of units: give --cache-fraction, no bytes")
    if run.settings.scope == "global":
        raise DipsimError("--scale-to changes the size of units: use --scope layer")
    sizes = np.empty_like(run.unit_bytes)
    for i, group in enumerate(run.method.groups):
        if group.of_experts != (model.experts is not None):
            kind = "experts" if model.experts else "no experts"
            raise DipsimError(
                f"--scale-to {model.name}: it has {kind}, unlike what {group.signal} chooses"
            )
        signal = run.trace.signals.get(group.signal)
        cluster = 1 if signal is None else signal.cluster
        size = model.mlp_bytes if group.of_experts else model.slice_bytes(group.slices)
        sizes[:, i] = size * cluster
    if not sizes.all():
        raise DipsimError(f"--scale-to {model.name}: the trace does not say what its units are")
    placement = replace(run.placement, model=model, unit_bytes=sizes, places=None)
    return replace(run, placement=placement, costs=placement.costs(run.flash))


def replay_io(
    run: Run,
    file: DirectFile,
    flash: Calibrated,
    seconds: float = 60.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    model: Model | None = None,
) -> ReplayedIo:
    """Replay a run whose device has the disk's flash, and read its misses from the file.

    Only misses count: static weights and the embedding row are read on neither side.

    Args:
        run: the prepared run.
        file: the file to read.
        flash: the disk's measured flash section.
        seconds: time after which no further token begins.
        progress: called with (tokens done, tokens).
        model: the model by whose layers the file is laid out; default: the run's own, if any.

    Raises:
        DipsimError: too few tokens or misses, or a file that is too small for a group.
    """
    _check_direct(run)
    traffic = replay(run, keep_missed=True)
    rows = _timed_rows(traffic)
    places = layout(run, file.size, model or run.model)
    lanes = run.device.flash.lanes
    spent, read, paces = [], [], []
    probe = Probe(run.flash, file)
    with Readers(file, lanes, _LARGEST_READ) as readers:
        for row in rows:
            batches = [
                list(_reads(runs, place, file.size))
                for runs, place in _batches(run, traffic, int(row), places)
            ]
            if not file.direct:
                file.forget()
            paces.append(probe.pace(readers))
            done = [readers.read(batch) for batch in batches]
            spent.append(sum(batch.seconds for batch in done))
            read.append(sum(batch.size for batch in done))
            progress(len(spent), len(rows))
            if sum(spent) > seconds and len(spent) >= LEAST_TOKENS:
                break
        paces.append(probe.pace(readers))
    rows = rows[: len(spent)]
    pace = np.array(paces)
    return ReplayedIo(
        file=file.name,
        direct=file.direct,
        lanes=lanes,
        calibrated=flash,
        predicted=traffic.flash_seconds[rows].sum(axis=(1, 2)),
        measured=np.array(spent),
        moved=traffic.moved[rows].sum(axis=(1, 2)),
        read=np.array(read, np.float64),
        reads=traffic.reads[rows].sum(axis=(1, 2)),
        pace=(pace[:-1] + pace[1:]) / 2,
    )


def _check_direct(run: Run) -> None:
    """Refuse a run whose reads are not those of single misses, in the order of their ids."""
    settings = run.settings
    if settings.layout == "permuted" or settings.io != "direct" or settings.prefetch is not None:
        raise DipsimError(
            "validate --replay reads each miss when it is needed, directly, units in the order of "
            "their ids: drop layout permuted, io and prefetch"
        )


def _timed_rows(traffic: Traffic) -> NDArray[np.int64]:
    """Return the rows of the measured tokens, each of which must miss something."""
    rows = np.flatnonzero(traffic.measured)
    if len(rows) < LEAST_TOKENS:
        raise DipsimError(f"{len(rows)} tokens to measure: give at least {LEAST_TOKENS}")
    if not traffic.flash_seconds[rows].sum(axis=(1, 2)).all():
        raise DipsimError("some tokens miss nothing, so there is nothing to time: give less cache")
    return rows


class Probe:
    """Reads of several sizes at random offsets, which measure the disk's speed at the moment."""

    def __init__(self, flash: FlashCost, file: DirectFile) -> None:
        lanes = flash.flash.lanes
        rng = np.random.default_rng(1)
        self.wanted: list[list[tuple[int, int]]] = []
        self.expected = 0.0
        for size in _sizes(file)[:_PROBED]:
            each = float(flash.seconds(np.array([float(size)]), lanes)[0])
            count = max(4 * lanes, int(_PROBE_SECONDS / each))
            pages = rng.integers(0, (file.size - size) // PAGE, count, endpoint=True)
            self.wanted.append([(page * PAGE, size) for page in pages.tolist()])
            self.expected += count * each

    def pace(self, readers: Readers) -> float:
        """Return the seconds that the reads take, as a multiple of those expected."""
        return sum(readers.read(wanted).seconds for wanted in self.wanted) / self.expected


class Place(NamedTuple):
    """Position of a group's units in the file, in bytes.

    ``base`` is the offset of the first unit, ``apart`` the distance from one to the next.
    """

    base: int
    apart: float
    size: float


def layout(run: Run, room: int, model: Model | None) -> dict[tuple[int, int], Place]:
    """Return the place of each (layer, group) in a file of ``room`` bytes.

    A layer takes as much as one of the model; groups beyond the file's end start over at its
    beginning.

    Raises:
        DipsimError: a group is larger than the file.
    """
    places, sizes = {}, run.unit_bytes
    layer_bytes = 0.0 if model is None else model.attention_bytes + model.mlp_bytes
    begin = 0.0
    for layer, costs in enumerate(run.costs):
        offset = begin
        for i, (group, cost) in enumerate(zip(run.method.groups, costs, strict=True)):
            size = float(sizes[layer, i])
            apart = size
            if not isinstance(cost, InOrder):
                apart = float(cost.whole[1]) / max(1, group.at(layer).units)
            whole = int(np.ceil(apart * group.at(layer).units / PAGE)) * PAGE
            if whole > room:
                raise DipsimError(
                    f"group {group.signal} takes {BYTES.show(whole)} a layer, the file holds "
                    f"{BYTES.show(room)}: give a larger one"
                )
            base = int(offset) // PAGE * PAGE % room
            places[layer, i] = Place(min(base, room - whole), apart, size)
            offset += whole
        begin = max(offset, begin + layer_bytes)
    return places


def _reads(runs: Runs, place: Place, room: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of each run, in bytes of whole pages; a long run comes in parts."""
    base, apart, size = place
    for first, units in runs:
        begin = int(base + first * apart) // PAGE * PAGE
        last = base + (first + units - 1) * apart + size
        end = min(int(np.ceil((last - 1e-6) / PAGE)) * PAGE, room)
        for offset in range(begin, end, _LARGEST_READ):
            yield offset, min(_LARGEST_READ, end - offset)


def _batches(
    run: Run, traffic: Traffic, row: int, places: dict[tuple[int, int], Place]
) -> Iterator[tuple[Runs, Place]]:
    """Yield the runs that a token reads and their place, group by group."""
    lanes = run.device.flash.lanes
    for layer, costs in enumerate(run.costs):
        for i, cost in enumerate(costs):
            misses = traffic.missed_units(row, layer, i)
            if not misses:
                continue
            group, place = run.method.groups[i].at(layer), places[layer, i]
            in_order = int(run.flash.sequential_read // place.apart) or 1
            if isinstance(cost, InOrder):
                runs = _in_order(misses[0], len(misses), in_order, lanes)
            else:
                runs = merged(misses, cost, lanes)
                if traffic.moved[row, layer, i] == cost.whole[1]:
                    runs = _in_order(0, group.units, in_order, lanes)
            yield runs, place


def _in_order(first: int, units: int, at_once: int, lanes: int) -> Runs:
    """Return reads of at most ``at_once`` units, and at least as many reads as there are lanes.

    The bandwidth of reading in order is that with all lanes busy.
    """
    last, each = first + units, min(at_once, -(-units // lanes))
    return [(start, min(each, last - start)) for start in range(first, last, each)]


def merged(misses: list[int], table: Requests, lanes: int) -> Runs:
    """Return the runs that `kernels.reads.coalesce` makes of ascending misses.

    Greedily from the left, a run and the next miss become one read if that takes less time.
    """
    curve = table.seconds[table.curve_of[min(len(misses), lanes)]].tolist()
    runs, first, length = [], misses[0], 1
    for before, unit in pairwise(misses):
        joined = length + unit - before
        if curve[joined] < (curve[length] + curve[1]) * _SAVING:
            length = joined
        else:
            runs.append((first, length))
            first, length = unit, 1
    runs.append((first, length))
    return runs
