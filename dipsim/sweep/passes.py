"""Passes over a trace: runs that use the same sets are replayed together, in as few as fit.

A pass reads the trace and chooses the active sets once, for all policies, admissions and capacities
of its runs. Runs that differ in what no replay sees, such as the speed of DRAM, share their counts;
those that differ in their flash alone share their misses, which each device prices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError, PolicyError
from dipsim.hardware import Flash
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Capacity, CapacityByRow, Contender
from dipsim.replay.price import repriced
from dipsim.replay.replay import Progress, form_of, replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.run import Run, behind_page_cache
from dipsim.settings import PREFETCHES

PASS_BYTES = 2**29
"""Most that the counts and caches of one pass take; what exceeds it is left to another pass."""
SETS_BYTES = 2**30
"""Most that packed sets take to be held for several passes; larger ones are chosen anew."""
_PER_UNIT, _PER_UNIT_AWARE = 26, 33
"""Bytes of a cache per unit beside its policy's state: always, and more where it chooses masks."""
_PER_UNIT_CUSTOM = 2 + 2 * 16
"""More where a user's own method chooses them, whose state is taken to be two numbers per unit."""
_SAMPLE = 2**12
"""Units of which a policy's state is measured."""
_PER_COUNT, _PER_COUNT_AHEAD = 48, 28
"""Bytes of a traffic per token, layer and group: in any case, and where something is read ahead."""


class Replayed(NamedTuple):
    """Counts of a run, or the error that kept it from any."""

    number: int
    """Number of the run."""
    traffic: Traffic | DipsimError
    beside: tuple[Traffic, ...]
    """Traffics of the contenders beside it, one for each capacity of each."""


class _Entry(NamedTuple):
    """A contender with one capacity."""

    seen: Any
    """All that its caches see but the capacity."""
    size: bytes
    """The capacity."""
    flash: Any
    """Flash that prices its misses; None where nothing does."""
    contender: Contender

    @property
    def key(self) -> tuple[Any, bytes, Any]:
        """Equal for entries with the same counts."""
        return self.seen, self.size, self.flash


class _Entrants(NamedTuple):
    """A run with all that is replayed for it: first itself, then the contenders beside it."""

    number: int
    run: Run
    entries: list[_Entry]


Counts = Mapping[Any, Traffic]
"""Traffic of an entry, by the entry's key."""


def replay_runs(
    runs: Mapping[int, Run],
    beside: Mapping[int, Sequence[Contender]] | None = None,
    tolerated: tuple[type[DipsimError], ...] = (),
    progress: Progress | None = None,
    threads: int | None = None,
) -> Iterator[Replayed]:
    """Yield what runs count, in as few passes over their traces as memory allows.

    Args:
        runs: by number.
        beside: by a run's number, contenders that are replayed on its sets too; what they read is
            the run's own, or nothing: costs, guesses and uses are those of `Run.contender` or None.
        tolerated: errors that are the outcome of their run; all others are raised.
        progress: called with (runs done, runs).
        threads: caches replayed at a time; changes no count.

    Raises:
        DipsimError: as `replay`.
    """
    plain_of, plain = None, None
    done = 0
    for group in _groups(runs, beside or {}):
        chunks = _chunks(group)
        held = _held(group[0].run) if len(chunks) > 1 else None
        while chunks:
            chunk = chunks.pop(0)
            if plain_of != _plain_key(chunk[0].run):
                plain_of, plain = _plain_key(chunk[0].run), None
            tell = None if progress is None else _share(progress, done, len(chunk), len(runs))
            try:
                counts = _replay(chunk, held or chunk[0].run.sets, plain, tell, threads)
            except tolerated as problem:
                if len(chunk) > 1:  # it is one run's: each is replayed alone
                    chunks[:0] = [[work] for work in chunk]
                    continue
                yield Replayed(chunk[0].number, problem, ())
            else:
                plain = next(iter(counts.values())).plain
                yield from (_outcome(work, counts) for work in chunk)
                counts = {}  # or they would stay until the next pass is over
            done += len(chunk)


def _groups(
    runs: Mapping[int, Run], beside: Mapping[int, Sequence[Contender]]
) -> list[list[_Entrants]]:
    """Return the runs by the sets they use."""
    groups: dict[Any, list[_Entrants]] = {}
    for number, run in runs.items():
        seen, flash = _seen(run), run.flash.flash
        entries = [
            _entry(replace(contender, capacities=[capacity]), seen, flash)
            for contender in (run.contender(), *beside.get(number, ()))
            for capacity in contender.capacities
        ]
        groups.setdefault(_sets_key(run), []).append(_Entrants(number, run, entries))
    return list(groups.values())


def _sets_key(run: Run) -> Any:
    """Return what is equal for runs that use the same sets."""
    trace, settings = run.trace, run.settings
    part = trace.hash, trace.first, trace.tokens, trace.first_layer, trace.layers
    how = run.sets.prefill, settings.reset, settings.skip_layers
    steps = None if run.steps is None else (settings.batch, settings.speculate)
    return part, settings.cluster, run.method, how, steps


def with_shared_tables(run: Run, known: dict[Any, Any]) -> Run:
    """Return the run with tables of earlier runs in place of equal ones of its own.

    Args:
        known: the tables so far, by their kind and what they are made of; this run's are added.
    """
    sets, settings, sizes = _sets_key(run), run.settings, _sizes_key(run)
    order = settings.layout, settings.order_from
    profiles = settings.static_from, settings.warm_from
    places = known.setdefault(("places", sets, order), run.placement.places)
    return replace(
        run,
        placement=replace(run.placement, places=places),
        costs=known.setdefault(("costs", sets, order, sizes, run.flash.flash), run.costs),
        guesses=known.setdefault(("guesses", sets, _guesses_key(run)), run.guesses),
        profile_uses=known.setdefault(("uses", sets, *profiles), run.profile_uses),
    )


def _plain_key(run: Run) -> Any:
    """Return what is equal for runs of which plain top-k keeps the same; None where it is all the
    run has."""
    if not run.method.cache_aware:
        return None
    groups = tuple((group.signal, group.kept, group.choice) for group in run.method.groups)
    return _sets_key(run)[:2], groups


def _seen(run: Run) -> Any:
    """Return what the caches of a run see, but for its sets, its policy and its capacity."""
    settings = run.settings
    learned = settings.order_from, settings.static_from, settings.warm_from, _guesses_key(run)
    return _sizes_key(run), settings.layout, settings.io, learned


def _guesses_key(run: Run) -> Any:
    """Return what is equal for runs that guess the same, and read it ahead to the same place."""
    return tuple(getattr(run.settings, name) for name in PREFETCHES)


def _sizes_key(run: Run) -> Any:
    """Return what is equal for runs whose units take as many bytes, in DRAM and in flash."""
    return run.unit_bytes.tobytes(), run.placement.strides().tobytes()


def _entry(contender: Contender, seen: Any, flash: Flash) -> _Entry:
    settings, measured = contender.settings, contender.measured.tobytes()
    rules = settings.admission, settings.access, settings.scope, settings.seed, settings.compat
    tables = contender.costs, contender.guesses, contender.profile_uses
    has = tuple(table is not None for table in tables)
    what = contender.policy, rules, contender.warmup, measured, contender.keep_missed
    priced = None if contender.costs is None else flash
    if contender.guesses is not None:  # what is read ahead is priced in the replay
        seen = seen, priced
    return _Entry((what, has, seen), _size(contender.capacities[0]), priced, contender)


def _size(capacity: Capacity) -> bytes:
    if isinstance(capacity, CapacityByRow):
        return capacity.each.tobytes() + capacity.row.tobytes()
    return np.asarray(capacity).tobytes()


def _chunks(group: Sequence[_Entrants]) -> list[list[_Entrants]]:
    """Return runs that one pass each can replay."""
    chunks: list[list[_Entrants]] = [[]]
    known: set[Any] = set()
    total = 0
    several = len({entry.flash for work in group for entry in work.entries} - {None}) > 1
    for work in group:
        sizes = {entry.key: _bytes(work.run, entry.contender, several) for entry in work.entries}
        total += sum(size for key, size in sizes.items() if key not in known)
        if total > PASS_BYTES and chunks[-1]:
            chunks.append([])
            known, total = set(), sum(sizes.values())
        known |= sizes.keys()
        chunks[-1].append(work)
    return chunks


def _bytes(run: Run, contender: Contender, several: bool = False) -> int:
    """Return roughly what the counts and the caches of a contender take.

    Args:
        several: there are several flashes, so that what is missed may be kept for all to price.
    """
    counts = _PER_COUNT + _PER_COUNT_AHEAD * (contender.guesses is not None)
    units = sum(group.units for group in run.method.groups)
    per_unit = _PER_UNIT + _PER_UNIT_AWARE * run.method.cache_aware + 2 * _state_bytes(contender)
    if run.method.cache_aware and run.method.custom is not None:
        per_unit += _PER_UNIT_CUSTOM
    size = len(run.tokens) * run.unit_bytes.size * counts + run.trace.layers * units * per_unit
    return size + (run.sets.packed_bytes if contender.keep_missed or several else 0)


def _state_bytes(contender: Contender) -> int:
    """Return the bytes of a policy's state per unit; 0 for one that fails, as its replay will say.

    A cache holds the state twice: as it is, and as it is after a reset.
    """
    form = form_of(contender.policy, contender.settings.access)
    try:
        return math.ceil(form.new_state(_SAMPLE, _SAMPLE, 0).nbytes / _SAMPLE)
    except PolicyError:
        return 0


def _held(run: Run) -> ActiveSets | None:
    """Return the sets of a run in memory; None where they depend on the cache or are too large."""
    if run.method.cache_aware or run.sets.packed_bytes > SETS_BYTES:
        return None
    sets = run.sets
    return ActiveSets(sets.trace, sets.method, sets.settings, sets.runs, sets.steps).hold()


def _replay(
    chunk: Sequence[_Entrants],
    sets: ActiveSets,
    plain: NDArray[np.float32] | None,
    progress: Progress | None,
    threads: int | None,
) -> Counts:
    """Replay runs in one pass.

    Args:
        plain: `Traffic.plain`, where it is known; otherwise the pass works it out.
    """
    alike: dict[Any, list[_Entry]] = {}
    for entry in {entry.key: entry for work in chunk for entry in work.entries}.values():
        alike.setdefault(entry.seen, []).append(entry)
    contenders = []
    for entries in alike.values():
        first, sizes = entries[0], {entry.size: entry for entry in entries}
        several = any(entry.flash != first.flash for entry in entries)
        contenders.append(
            replace(
                first.contender,
                capacities=[entry.contender.capacities[0] for entry in sizes.values()],
                keep_missed=first.contender.keep_missed or several,
            )
        )
    every = replay_policies(
        sets, contenders, plain=plain is None, threads=threads, progress=progress
    )
    counts = {}
    for entries, traffics in zip(alike.values(), every, strict=True):
        assert traffics is not None, "no contender is optional"
        by_size = dict(zip(dict.fromkeys(entry.size for entry in entries), traffics, strict=True))
        for entry in entries:
            traffic = _priced(by_size[entry.size], entry, entries[0])
            counts[entry.key] = traffic if plain is None else replace(traffic, plain=plain)
    return counts


def _priced(traffic: Traffic, entry: _Entry, first: _Entry) -> Traffic:
    """Return the counts of an entry, of which the replay priced those of the first one's flash."""
    if entry.flash != first.flash:
        assert entry.contender.costs is not None, "a flash that prices"
        traffic = repriced(traffic, entry.contender.costs)
    return traffic if entry.contender.keep_missed else replace(traffic, missed=None)


def _outcome(work: _Entrants, counts: Counts) -> Replayed:
    """Return what the replay of its chunk says of a run."""
    own, *beside = (behind_page_cache(work.run, counts[entry.key]) for entry in work.entries)
    return Replayed(work.number, own, tuple(beside))


def _share(progress: Progress, done: int, runs: int, total: int) -> Progress:
    """Return a progress over the tokens of a pass that counts as one over all runs.

    Args:
        done: runs before the pass.
        runs: those of the pass.
        total: all of them.
    """
    return lambda token, tokens: progress(done + runs * token // max(tokens, 1), total)
