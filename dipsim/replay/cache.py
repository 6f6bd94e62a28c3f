"""The caches of a replay: made for a method and a policy, and fed block by block.

In layer scope each (layer, group) has a cache of its own; in global scope one cache serves them
all. Several capacities share one cache where the policy allows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import MethodError, PolicyError
from dipsim.flash.cost import Costs
from dipsim.kernels.draws import seed_of
from dipsim.methods import Method, numbers_of
from dipsim.methods.hooks import failure_of, states_of
from dipsim.methods.masking import counts_uses
from dipsim.plugins import cause_of
from dipsim.policies import Policy
from dipsim.replay.choose import plain_scores
from dipsim.replay.prefetch import Guesses
from dipsim.replay.price import Reads, price
from dipsim.replay.sets import NO_CODES, NO_SCORES, Sets
from dipsim.replay.warm import most_used, note_loaded

_NO_USES = np.empty(0, np.int64)
_NO_MISSES = np.empty((0, 0, 0), np.uint64)
_NO_GUESSES = np.empty((0, 0), np.uint64)
_SAME_SIZE = np.empty(0, np.float64)
_GRAIN = 2.0**-10  # bytes


def parts_of(
    method: Method, places: Sequence[tuple[int, int]], sizes: NDArray[np.float64]
) -> kernels.Parts:
    """The parts of a cache.

    Args:
        places: (layer, group) of each part.
        sizes: float64[parts] bytes of a unit; 1 where the cache counts in units.
    """
    groups = [method.groups[group].at(layer) for layer, group in places]
    return kernels.new_parts(
        units=[group.units for group in groups],
        size=np.maximum(_exact(sizes), _GRAIN).tolist(),
        k=[group.kept for group in groups],
        numbers=[numbers_of(method.groups[group], layer) for layer, group in places],
        counted=[counts_uses(group.rule) for group in groups],
    )


def _exact(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sizes as multiples of a grain, of which float64 holds exact sums up to 8 TB."""
    return np.round(sizes / _GRAIN) * _GRAIN


class ReadAhead(NamedTuple):
    """Units of one part that were read before they were known to be needed; arrays are [rows]."""

    issued: NDArray[np.int32]
    used: NDArray[np.int32]
    evicted: NDArray[np.int32] | None
    """Units that left a cache to make room for them; None where they enter none."""
    reads: Reads | None


@dataclass(frozen=True)
class Counts:
    """Counts of one part of a block, at one capacity of its cache; arrays are [rows]."""

    layer: int
    group: int
    active: NDArray[np.int32]
    hits: NDArray[np.int32]
    kept: NDArray[np.int32]
    missed: NDArray[np.uint64] | None
    """[rows, words] the misses that must be read when they are needed; None unless asked for."""
    reads: Reads | None
    """None where no costs were given."""
    ahead: ReadAhead | None
    kept_shares: NDArray[np.float32] | None
    """[rows, 2] of score mass and energy; None where the sets do not depend on the cache."""
    error: NDArray[np.float32] | None
    """Relative error of the layer's output; None where it is not known, or as ``kept_shares``."""
    own: NDArray[np.int32] | None
    """Units that each token of a decode step needs itself; None as `Sets.own`."""


class ReplayedCache:
    """One cache, perhaps of several capacities at once.

    Args:
        method: method whose sets are looked up.
        policy: policy that decides which units stay.
        places: (layer, group) of each part.
        capacities: float64[n] in units, or with ``unit_bytes`` in bytes.
        seed: of the policy's draws.
        unit_bytes: float64[layers, groups] of a cache that counts in bytes (global scope).
        uses: per group int64[layers, units]; the caches start with the most used, and each of them
            has one capacity, unless the policy notes no uses. None for caches that start empty.
        draws: misses are kept at random, not the first ones, where not all fit beside the hits.
        capacity_of_row: float64[tokens], of a cache of one capacity that changes.
        costs: per layer and group what reads cost; None leaves costs out.
        guesses: what is read ahead; None for nothing.
    """

    def __init__(
        self,
        method: Method,
        policy: Policy,
        places: Sequence[tuple[int, int]],
        capacities: Sequence[float],
        seed: int,
        *,
        unit_bytes: NDArray[np.float64] | None = None,
        uses: Sequence[NDArray[np.int64]] | None = None,
        draws: bool = False,
        capacity_of_row: NDArray[np.float64] | None = None,
        costs: Costs | None = None,
        guesses: Guesses | None = None,
    ) -> None:
        self.method, self.policy, self.places = method, policy, places
        self.costs, self.guesses, self.seed = costs, guesses, seed
        sizes = np.array([1.0 if unit_bytes is None else unit_bytes[place] for place in places])
        self.parts = parts = parts_of(method, places, sizes)
        words = int(parts.word[-1])
        given, rounded = (float((parts.units * each).sum()) for each in (sizes, parts.size))

        def as_rounded(capacity: NDArray[np.float64]) -> NDArray[np.float64]:
            # scaled as rounding scaled the units, so that a cache of everything holds everything
            return _exact(np.minimum(capacity / given, 1.0) * rounded)

        capacity = as_rounded(np.array(capacities, np.float64))
        self.capacity_of_row = _SAME_SIZE
        if capacity_of_row is not None:
            self.capacity_of_row = as_rounded(capacity_of_row)
        units = 64 * words if len(places) > 1 else int(parts.units[0])
        mean = rounded / parts.units.sum()
        self._enter = guesses is not None and guesses.guard is not None
        # To a queue, whose lists note at which tick none of their units could leave, guesses enter
        # at ticks of their own
        ticks = 2 * len(places) if self._enter and not policy.ranks else len(places)
        fresh = policy.new_state(units, int(capacity[0] / mean + 1e-9), seed, ticks)
        preload = np.zeros((len(capacity), words), np.uint64)
        before = np.full(64 * words, -1, np.int64)
        if uses is not None:
            share = policy.loaded_share
            for c in range(len(capacity)):
                loaded = most_used(parts, places, uses, share * float(capacity[c]))
                note_loaded(policy, fresh, parts, loaded)
                preload[c] = _as_words(loaded, words)
                before[loaded] = -1 - np.arange(len(loaded))
        self.choosing = self._choosing()
        until, guard = np.zeros(len(places) + 1, np.int64), 0.0
        if guesses is not None and guesses.guard is not None:
            until, guard = guesses.until(places), guesses.guard
        self.cache = kernels.new_cache(
            parts, capacity, fresh, preload, before, self.choosing, until, guard
        )
        self._replay: kernels.Replay | None = None
        self.cache.numbers[kernels.DRAWS] = draws
        self.cache.numbers[kernels.SEED] = seed
        self._empty_before_the_first_row = True
        self._last_mask = np.zeros(words, np.uint64)

    def _choosing(self) -> kernels.Choosing | None:
        """Return the memory of the rule that chooses masks; None where they are given."""
        words, parts = int(self.parts.word[-1]), len(self.places)
        if self.method.custom is None:
            return kernels.new_choosing(words, parts) if self.parts.numbers.size else None
        if not self.method.cache_aware:
            return None
        states = []
        for layer, group in self.places:
            own = self.method.groups[group].at(layer)
            assert own.custom is not None
            seed = self.seed if parts == 1 else seed_of(self.seed, layer, group)
            states += states_of(own.custom, own.units, own.kept, own.signal, [seed])
        return kernels.new_choosing(words, parts, states)

    def feed(
        self,
        blocks: Sequence[Sets],
        loop: kernels.Loop,
        admission: int,
        missed: bool = False,
    ) -> list[list[list[Counts]]]:
        """Replay blocks, in order; a clairvoyant policy must be given all there are.

        Args:
            loop: of the policy, the same for all blocks.
            admission: kernels.FORCED, RANKED or NEVER.
            missed: hand on which units were missed.

        Returns:
            For each block, capacity and part its `Counts`.

        Raises:
            PolicyError: hooks of the policy that fail or break the contract.
        """
        joined = [self._joined(block) for block in blocks] if len(self.places) > 1 else None
        behind = self._next_uses_behind(blocks, joined) if self.policy.future else []
        watched = missed or self.costs is not None
        results = []
        for i, block in enumerate(blocks):
            if joined is None:
                sets, scores, codes, layer = self._inputs(block)
            else:
                sets, scores, codes, layer = *joined[i], NO_CODES, 0
            next_uses = self._next_uses(sets, layer, block, behind[i]) if behind else _NO_USES
            rows = self._rows(block, sets, scores, codes, next_uses, layer, watched)
            self._run(loop, rows, layer, block.start, admission)
            counts = []
            for c in range(len(self.cache.capacity)):
                of_parts = [self._counts(block, rows, layer, c, p) for p in range(len(self.places))]
                counts.append(of_parts)
            self._last_mask = rows.sets[-1, layer, : len(self._last_mask)].copy()
            results.append(counts)
        return results

    def _rows(
        self,
        block: Sets,
        sets: NDArray[np.uint64],
        scores: NDArray[np.float32],
        codes: NDArray[np.uint8],
        next_uses: NDArray[np.int64],
        layer: int,
        watched: bool,
    ) -> kernels.Block:
        """Lay out what the loop reads and writes for one block; ``layer``: of its inputs."""
        rows, parts = block.stop - block.start, len(self.places)
        several = len(self.cache.capacity), rows
        words = int(self.parts.word[-1])
        missed = np.zeros((*several, words), np.uint64) if watched else _NO_MISSES
        enter, before = self._enter, self.guesses is not None and not self._enter
        resets = block.resets
        if self._empty_before_the_first_row:
            resets = resets.copy()
            resets[0], self._empty_before_the_first_row = True, False
        return kernels.Block(
            sets=sets,
            scores=scores,
            codes=codes,
            actions=self._actions(block),
            resets=resets,
            uses=next_uses,
            counts=np.zeros((*several, parts, 3), np.int32),
            shares=np.ones((rows, parts, 2), np.float32),
            missed=missed,
            capacity=self.capacity_of_row[block.start : block.stop],
            before=np.zeros_like(missed) if before else _NO_MISSES,
            guessed=self._every_guess(block, sets, layer) if enter else _NO_GUESSES,
            issued=np.zeros((*several, words), np.uint64) if enter else _NO_MISSES,
            displaced=np.zeros((*several, parts if enter else 0), np.int32),
        )

    def _actions(self, block: Sets) -> NDArray[np.uint8]:
        """Return what the rows of a block do in this cache, uint8[n]."""
        return block.actions if len(self.places) > 1 else block.actions_in(self.places[0][0])

    def _inputs(
        self, block: Sets
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.uint8], int]:
        ((layer, group),) = self.places
        return block.sets[group], block.scores[group], block.codes[group], layer

    def _joined(self, block: Sets) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Put the sets, and in a cache-aware method the scores, of all parts side by side."""
        words = self.parts.word
        every = zip(self.places, np.diff(words).tolist(), strict=True)
        sets = np.concatenate(
            [block.sets[group][:, layer, :count] for (layer, group), count in every], axis=1
        )
        if not self.method.cache_aware:
            return sets[:, None], NO_SCORES
        scores = np.zeros((len(sets), 1, 64 * int(words[-1])), np.float32)
        for p, (layer, group) in enumerate(self.places):
            first = 64 * int(words[p])
            last = first + int(self.parts.units[p])
            coded = len(block.codes[group]) > 0
            rows = block.codes[group] if coded else block.scores[group]
            scores[:, 0, first:last] = plain_scores(rows[:, layer, : last - first])
        return sets[:, None], scores

    def _counts(self, block: Sets, rows: kernels.Block, column: int, c: int, p: int) -> Counts:
        """Gather what the loop wrote for capacity ``c`` and part ``p``, and price its reads.

        Args:
            column: where the part's layer stands in the inputs of the loop.
        """
        layer, group = self.places[p]
        words = slice(self.parts.word[p], self.parts.word[p + 1])
        counts = rows.counts[c, :, p]
        missed = rows.missed[c][:, words] if len(rows.missed) else None
        reads = ahead = None
        needed = rows.sets[:, column, words]
        if self._enter:
            ahead = self._read_ahead(rows.issued[c][:, words], needed, p, rows.displaced[c, :, p])
        elif self.guesses is not None and missed is not None:
            guessed = self._guessed(block, needed, p)
            ahead = self._read_ahead(guessed & ~rows.before[c], missed, p)
            missed = missed & ~guessed
        if self.costs is not None and missed is not None:
            reads = self._price(missed, p)
        aware = bool(len(rows.scores) or len(rows.codes))
        return Counts(
            layer=layer,
            group=group,
            active=counts[:, kernels.ACTIVE],
            hits=counts[:, kernels.HITS],
            kept=counts[:, kernels.KEPT],
            missed=missed,
            reads=reads,
            ahead=ahead,
            kept_shares=rows.shares[:, p] if aware else None,
            error=self._error(block, rows, column, p) if aware else None,
            own=_own(block, self.places[p], needed),
        )

    def _price(self, misses: NDArray[np.uint64], p: int) -> Reads:
        """Return what reading the misses of part ``p`` costs; uint64[rows, words]."""
        assert self.costs is not None
        layer, group = self.places[p]
        return price(misses, int(self.parts.units[p]), self.costs[layer][group])

    def _every_guess(self, block: Sets, sets: NDArray[np.uint64], layer: int) -> NDArray[np.uint64]:
        """Return uint64[rows, words], what was guessed of all parts; ``layer``: of ``sets``."""
        words = self.parts.word
        guessed = [
            self._guessed(block, sets[:, layer, words[p] : words[p + 1]], p)
            for p in range(len(self.places))
        ]
        return np.concatenate(guessed, axis=1)

    def _guessed(self, block: Sets, needed: NDArray[np.uint64], p: int) -> NDArray[np.uint64]:
        """Return uint64[rows, words], the units of part ``p`` that were guessed for each decode
        token; ``needed`` are the masks."""
        assert self.guesses is not None
        layer, group = self.places[p]
        before = self._last_mask[self.parts.word[p] : self.parts.word[p + 1]]
        of_the_row_before = self.guesses.previous and self.method.groups[group].choice != "all"
        follows = block.follows if of_the_row_before else np.ones(len(needed), np.bool_)
        own = self.method.groups[group].at(layer)
        seed = self.seed if len(self.places) == 1 else seed_of(self.seed, layer, group)
        guessed = self.guesses.of(block, own, group, layer, needed, before, seed)
        decode = (self._actions(block) == kernels.DECODE) & follows
        return np.where(decode[:, None], guessed, np.uint64(0))

    def _read_ahead(
        self,
        issued: NDArray[np.uint64],
        needed: NDArray[np.uint64],
        p: int,
        evicted: NDArray[np.int32] | None = None,
    ) -> ReadAhead:
        """Return what was read of part ``p`` before it was known to be needed; arrays are
        uint64[rows, words]."""
        return ReadAhead(
            issued=np.bitwise_count(issued).sum(axis=1, dtype=np.int32),
            used=np.bitwise_count(issued & needed).sum(axis=1, dtype=np.int32),
            evicted=evicted,
            reads=None if self.costs is None else self._price(issued, p),
        )

    def _error(
        self, block: Sets, rows: kernels.Block, column: int, p: int
    ) -> NDArray[np.float32] | None:
        """Return the relative error that the masks just chosen make; None where it is not known."""
        layer, group = self.places[p]
        norms = block.norms[group]
        if norms is None:
            return None
        inputs: NDArray[Any] = rows.codes if len(rows.codes) else rows.scores
        start, stop = self.parts.word[p], self.parts.word[p + 1]
        units = slice(64 * start, 64 * start + self.parts.units[p])
        scores = plain_scores(np.ascontiguousarray(inputs[:, column, None, units]))
        sets = np.ascontiguousarray(rows.sets[:, column, None, start:stop])
        errors = np.zeros((len(inputs), 1), np.float32)
        own = norms[layer, None, : self.parts.units[p]]
        kernels.errors_of(scores, sets, np.ascontiguousarray(own), errors)
        return errors[:, 0]

    def _next_uses_behind(self, blocks: Sequence[Sets], joined: Any) -> list[NDArray[np.int64]]:
        """Return, for every block, the next use of each unit behind that block."""
        after = np.full(len(self.cache.last), kernels.NO_NEXT, np.int64)
        behind = []
        for i in range(len(blocks) - 1, -1, -1):
            behind.append(after.copy())
            if joined is None:
                sets, _, _, layer = self._inputs(blocks[i])
            else:
                sets, layer = joined[i][0], 0
            self._next_uses(sets, layer, blocks[i], after)
        return behind[::-1]

    def _next_uses(
        self, sets: NDArray[np.uint64], layer: int, block: Sets, after: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        actions = self._actions(block)
        booked = sets[actions >= kernels.COMMIT, layer]
        uses = np.empty(np.bitwise_count(booked).sum(dtype=np.int64), np.int64)
        kernels.next_uses(sets, layer, actions, block.resets, block.start, after, uses)
        return uses

    def _run(
        self, loop: kernels.Loop, rows: kernels.Block, layer: int, first: int, admission: int
    ) -> None:
        name, numbers = self.policy.name, self.cache.numbers
        try:
            if self._replay is None:
                self._replay = loop.of(self.parts, self.cache)
            self._replay(rows, layer, first, admission)
        except Exception as problem:
            failed = self._failure(problem)
            if failed is not None:
                raise failed from problem
            if is_builtin(self.policy):
                raise
            what = f"{type(problem).__name__}: {cause_of(problem)}"
            raise PolicyError(f"policy {name}: its functions fail with {what}") from problem
        if numbers[kernels.FAULT]:
            hook = "evict" if numbers[kernels.FAULT] == 1 else "expel"
            victim = int(numbers[kernels.VICTIM])
            place = f"layer {self.places[0][0]}" if len(self.places) == 1 else "the global cache"
            raise PolicyError(
                f"policy {name}: {hook} returned unit {victim} in {place}, which is not "
                "resident or is in use; return a unit v with evictable[v] true"
            )

    def _failure(self, problem: Exception) -> MethodError | None:
        """Return what a user's own method did wrong; None where it was not the method."""
        choosing = self.choosing
        if self.method.custom is None or choosing is None:
            return None
        groups = [self.method.groups[group].at(layer) for layer, group in self.places]
        signals, k = [group.signal for group in groups], [group.kept for group in groups]
        return failure_of(self.method.name, signals, k, choosing, problem)


def _own(
    block: Sets, place: tuple[int, int], chosen: NDArray[np.uint64]
) -> NDArray[np.int32] | None:
    """Return `Counts.own` of a layer and group.

    Args:
        chosen: uint64[rows, words], the masks of the rows.
    """
    if block.own is None:
        return None
    known = block.own[place[1]]
    if known is not None:
        return known[:, place[0]]
    sizes: NDArray[np.int32] = np.bitwise_count(chosen).sum(axis=1, dtype=np.int32)
    return sizes


def _as_words(units: NDArray[np.int64], words: int) -> NDArray[np.uint64]:
    """Return a set of units as uint64[words]."""
    held = np.zeros(64 * words, np.bool_)
    held[units] = True
    return np.packbits(held, bitorder="little").view(np.uint64)


def is_builtin(policy: Policy) -> bool:
    """Tell whether all of a policy's code is dipsim's own."""
    return all(hook.__module__.startswith("dipsim.policies.") for hook in policy.hooks.values())
