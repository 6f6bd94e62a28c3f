"""The caches of a replay: made for a method and a policy, fed block by block, booked as traffic.

In layer scope each (layer, group) has a cache of its own; in global scope one cache serves them
all. Several capacities share one cache where the policy allows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import PolicyError
from dipsim.methods import Method, numbers_of
from dipsim.methods.masking import counts_uses
from dipsim.policies import Policy
from dipsim.replay.active_sets import NO_CODES, NO_SCORES, Sets, plain_scores
from dipsim.replay.prefetch import Guesses
from dipsim.replay.traffic import Traffic

Loop = Callable[..., None]
_NO_USES = np.empty(0, np.int64)
_NO_MISSES = np.empty((0, 0, 0), np.uint64)
_SAME_SIZE = np.empty(0, np.float64)
_NUMBA_NOISE: tuple[str, ...]
_NUMBA_NOISE = ("File", "^", "During", "Failed in nopython", "There are", "Of which", "Overload")
_NUMBA_NOISE += (
    "TypingError: Failed",
    "NumbaTypeError: Failed",
    "With argument",
    "Rejected",
    "raised from",
    "This error",
    ">>>",
    "<source",
    "def ",
)


@dataclass(frozen=True, eq=False)
class Sizes:
    """What caches hold where that changes from row to row."""

    each: NDArray[Any]
    """[n, layers, groups] in units, or in global scope [n] in bytes."""
    row: NDArray[np.int64]
    """[tokens] which of the n holds; the rows of a batch have the same."""

    def of(self, place: tuple[int, int] | None) -> NDArray[np.float64]:
        """[tokens] of one cache; ``place`` is its layer and group, in global scope None."""
        at: NDArray[Any] = self.each if place is None else self.each[:, place[0], place[1]]
        return at[self.row].astype(np.float64)

    @property
    def least(self) -> NDArray[Any]:
        """The smallest of every cache."""
        found: NDArray[Any] = self.each.min(axis=0)
        return found


def parts_of(
    method: Method, places: Sequence[tuple[int, int]], unit_bytes: NDArray[np.float64] | None
) -> kernels.Parts:
    """The parts of a cache.

    Args:
        places: (layer, group) of each part.
        unit_bytes: float64[layers, groups] in global scope; None counts in units.
    """
    groups = [method.groups[group] for _, group in places]
    return kernels.new_parts(
        units=[group.units for group in groups],
        size=[1.0 if unit_bytes is None else _exact(unit_bytes[place]) for place in places],
        k=[group.kept for group in groups],
        numbers=[numbers_of(group) for group in groups],
        counted=[counts_uses(group.rule) for group in groups],
    )


def _exact(size: float) -> float:
    """A size as a multiple of 2**-10 bytes, of which float64 holds exact sums up to 8 TB."""
    return max(float(np.round(size * 1024)), 1.0) / 1024


class ReplayedCache:
    """One cache, perhaps of several capacities at once, and where its counts go.

    Args:
        places: (layer, group) of each part.
        capacities: float64[n] in units, or with ``unit_bytes`` in bytes.
        traffics: n of them; the counts of each capacity.
        seed: of the policy's draws.
        uses: int64[ids] by which a preloaded policy ranks its units.
        draws: misses are kept at random, not the first ones, where not all fit beside the hits.
        sizes: float64[tokens], of a cache of one capacity that changes: that of every row.
        guesses: what is read ahead; None for nothing.
    """

    def __init__(
        self,
        method: Method,
        policy: Policy,
        places: Sequence[tuple[int, int]],
        capacities: Sequence[float],
        traffics: Sequence[Traffic],
        seed: int,
        unit_bytes: NDArray[np.float64] | None = None,
        uses: Sequence[NDArray[np.int64]] | None = None,
        draws: bool = False,
        sizes: NDArray[np.float64] | None = None,
        guesses: Guesses | None = None,
    ) -> None:
        self.method, self.policy, self.places, self.traffics = method, policy, places, traffics
        self.parts = parts = parts_of(method, places, unit_bytes)
        words = int(parts.word[-1])
        whole = float((parts.units * parts.size).sum())
        capacity = np.minimum(np.array(capacities, np.float64), whole)
        self.sizes = _SAME_SIZE if sizes is None else np.minimum(sizes, whole)
        units = 64 * words if len(places) > 1 else int(parts.units[0])
        mean = whole / parts.units.sum()
        fresh = policy.new_state(units, int(capacity[0] / mean + 1e-9), seed, len(places))
        preload = np.zeros((len(capacity), words), np.uint64)
        if policy.preload and uses is not None:
            for c in range(len(capacity)):
                preload[c] = self._pinned(uses, float(capacity[c]))
        self.cache = kernels.new_cache(parts, capacity, fresh, preload)
        self.cache.numbers[kernels.DRAWS] = draws
        self.cache.numbers[kernels.SEED] = seed
        self._empty_before_the_first_row = True
        self.guesses, self.seed = guesses, seed
        self.booked_from = 0
        """The row that is row 0 of the traffics: those of a running model hold one call each."""
        self._last_mask = np.zeros(words, np.uint64)

    def _pinned(self, uses: Sequence[NDArray[np.int64]], capacity: float) -> NDArray[np.uint64]:
        """The most used units that fit, ties to the lower id."""
        parts = self.parts
        ids = np.concatenate(
            [64 * parts.word[p] + np.arange(parts.units[p]) for p in range(len(self.places))]
        )
        counts = np.concatenate([uses[group][layer] for layer, group in self.places])
        sizes = np.repeat(parts.size, parts.units)
        order = np.argsort(-counts, kind="stable")
        fitting = int((np.cumsum(sizes[order]) <= capacity + 1e-6).sum())
        pinned = np.zeros(64 * int(parts.word[-1]), np.bool_)
        pinned[ids[order[:fitting]]] = True
        return np.packbits(pinned, bitorder="little").view(np.uint64)

    def feed(
        self,
        blocks: Sequence[Sets],
        loop: Loop,
        admission: int,
        requests: Sequence[Sequence[kernels.Requests]] | None,
    ) -> None:
        """Replay blocks, in order; a clairvoyant policy must be given all there are.

        Args:
            requests: per layer and group, what reads cost; None leaves costs out.
        """
        joined = [self._joined(at) for at in blocks] if len(self.places) > 1 else None
        ahead = self._look_ahead(blocks, joined) if self.policy.future else []
        for i, at in enumerate(blocks):
            n, several = at.stop - at.start, (len(self.traffics), at.stop - at.start)
            if joined is None:
                sets, scores, codes, layer = self._inputs(at)
            else:
                sets, scores, codes, layer = *joined[i], NO_CODES, 0
            missed = _NO_MISSES
            if requests is not None:
                missed = np.zeros((*several, int(self.parts.word[-1])), np.uint64)
            resets = at.resets
            if self._empty_before_the_first_row:
                resets = resets.copy()
                resets[0], self._empty_before_the_first_row = True, False
            block = kernels.Block(
                sets=sets,
                scores=scores,
                codes=codes,
                actions=at.actions,
                resets=resets,
                uses=self._next_uses(sets, layer, at, ahead[i]) if ahead else _NO_USES,
                counts=np.zeros((*several, len(self.places), 3), np.int32),
                shares=np.ones((n, len(self.places), 2), np.float32),
                missed=missed,
                capacity=self.sizes[at.start : at.stop],
                before=_NO_MISSES if self.guesses is None else np.zeros_like(missed),
            )
            self._run(loop, block, layer, at.start, admission)
            if self.guesses is not None and requests is not None:
                self._read_ahead(at, block, requests)
            first = self.booked_from
            self._book(block, slice(at.start - first, at.stop - first), requests)
            self._book_errors(at, block, layer)

    def _inputs(
        self, at: Sets
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.uint8], int]:
        ((layer, group),) = self.places
        return at.sets[group], at.scores[group], at.codes[group], layer

    def _joined(self, at: Sets) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """The sets, and in a cache-aware method the scores, of all parts side by side."""
        sets = np.concatenate([at.sets[group][:, layer] for layer, group in self.places], axis=1)
        if not self.method.cache_aware:
            return sets[:, None], NO_SCORES
        words = self.parts.word
        scores = np.zeros((len(sets), 1, 64 * int(words[-1])), np.float32)
        for p, (layer, group) in enumerate(self.places):
            first = 64 * int(words[p])
            scores[:, 0, first : first + int(self.parts.units[p])] = at.scores[group][:, layer]
        return sets[:, None], scores

    def _book(
        self,
        block: kernels.Block,
        rows: slice,
        requests: Sequence[Sequence[kernels.Requests]] | None,
    ) -> None:
        for (c, traffic), (p, (layer, group)) in (
            (at, part) for at in enumerate(self.traffics) for part in enumerate(self.places)
        ):
            here = rows, layer, group
            counts = block.counts[c, :, p]
            traffic.active[here] = counts[:, kernels.ACTIVE]
            traffic.hits[here] = counts[:, kernels.HITS]
            traffic.kept[here] = counts[:, kernels.KEPT]
            if traffic.missed is not None:
                bits = block.missed[c, :, self.parts.word[p] : self.parts.word[p + 1]]
                traffic.missed[rows, traffic.words_of(layer, group)] = bits
            if len(block.scores) or len(block.codes):
                traffic.mass[here], traffic.energy[here] = block.shares[:, p].T
            if requests is None or requests[layer][group] is kernels.NO_REQUESTS:
                continue
            reads, outside, moved, seconds = self._price(block.missed[c], p, requests)
            traffic.reads[here] = reads
            traffic.outside[here] |= outside
            traffic.moved[here] = moved
            traffic.flash_seconds[here] = seconds

    def _price(
        self,
        misses: NDArray[np.uint64],
        p: int,
        requests: Sequence[Sequence[kernels.Requests]],
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Per row: reads, whether one lay outside the measured points, bytes moved, seconds."""
        layer, group = self.places[p]
        reads, costs = np.zeros((len(misses), 2), np.int32), np.zeros((len(misses), 2))
        start, stop, units = self.parts.word[p], self.parts.word[p + 1], self.parts.units[p]
        kernels.price(misses, start, stop, units, requests[layer][group], reads, costs)
        outside = reads[:, kernels.OUTSIDE].astype(np.bool_)
        return reads[:, kernels.READS], outside, costs[:, kernels.MOVED], costs[:, kernels.SECONDS]

    def _read_ahead(
        self, at: Sets, block: kernels.Block, requests: Sequence[Sequence[kernels.Requests]]
    ) -> None:
        """Book what was read ahead, and take it from the misses that must be read when needed."""
        assert self.guesses is not None
        ((layer, group),) = self.places
        needed = block.sets[:, layer]
        of_the_row_before = self.guesses.previous and self.method.groups[group].choice != "all"
        follows = at.follows if of_the_row_before else np.ones(len(needed), np.bool_)
        guessed = self.guesses.of(
            at, self.method.groups[group], group, layer, needed, self._last_mask, self.seed
        )
        guessed = np.where(((at.actions == kernels.DECODE) & follows)[:, None], guessed, 0)
        self._last_mask = needed[-1].copy()
        here = slice(at.start, at.stop), layer, group
        for c, traffic in enumerate(self.traffics):
            ahead = traffic.ahead
            assert ahead is not None
            issued = guessed & ~block.before[c]
            ahead.issued[here] = np.bitwise_count(issued).sum(axis=1)
            ahead.used[here] = np.bitwise_count(issued & block.missed[c]).sum(axis=1)
            block.missed[c] &= ~guessed
            if requests[layer][group] is not kernels.NO_REQUESTS:
                reads, outside, moved, seconds = self._price(issued, 0, requests)
                ahead.reads[here], ahead.moved[here] = reads, moved
                ahead.flash_seconds[here] = seconds
                traffic.outside[here] |= outside

    def _book_errors(self, at: Sets, block: kernels.Block, layer: int) -> None:
        """Of cache-aware parts: what the masks that were just chosen make of the output."""
        rows: NDArray[Any] = block.codes if len(block.codes) else block.scores
        for p, (of, group) in enumerate(self.places if len(rows) else ()):
            norms = at.norms[group]
            if norms is None:
                continue
            start, stop = self.parts.word[p], self.parts.word[p + 1]
            units = slice(64 * start, 64 * start + self.parts.units[p])
            scores = plain_scores(np.ascontiguousarray(rows[:, layer, None, units]))
            sets = np.ascontiguousarray(block.sets[:, layer, None, start:stop])
            errors = np.zeros((len(rows), 1), np.float32)
            kernels.errors_of(scores, sets, norms[of, None], errors)
            for traffic in self.traffics:
                traffic.error[at.start : at.stop, of, group] = errors[:, 0]

    def _look_ahead(self, blocks: Sequence[Sets], joined: Any) -> list[NDArray[np.int64]]:
        """For every block, the next use of each unit behind that block."""
        after = np.full(len(self.cache.last), kernels.NO_NEXT, np.int64)
        ahead = []
        for i in range(len(blocks) - 1, -1, -1):
            ahead.append(after.copy())
            if joined is None:
                sets, _, _, layer = self._inputs(blocks[i])
            else:
                sets, layer = joined[i][0], 0
            self._next_uses(sets, layer, blocks[i], after)
        return ahead[::-1]

    def _next_uses(
        self, sets: NDArray[np.uint64], layer: int, at: Sets, after: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        sizes = kernels.count_members(sets, layer)
        uses: NDArray[np.int64] = kernels.next_uses(
            sets, layer, at.actions, at.resets, at.start, after, sizes
        )
        return uses

    def _run(
        self, loop: Loop, block: kernels.Block, layer: int, first: int, admission: int
    ) -> None:
        name, numbers = self.policy.name, self.cache.numbers
        try:
            loop(block, layer, first, admission, self.parts, self.cache)
        except Exception as problem:
            if is_builtin(self.policy):
                raise
            what = f"{type(problem).__name__}: {_cause(problem)}"
            raise PolicyError(f"policy {name}: its functions fail with {what}") from problem
        if numbers[kernels.FAULT]:
            hook = "evict" if numbers[kernels.FAULT] == 1 else "expel"
            victim = int(numbers[kernels.VICTIM])
            place = f"layer {self.places[0][0]}" if len(self.places) == 1 else "the global cache"
            raise PolicyError(
                f"policy {name}: {hook} returned unit {victim} in {place}, which is not "
                "resident or is in use; return a unit v with evictable[v] true"
            )


def is_builtin(policy: Policy) -> bool:
    """Whether all of a policy's code is dipsim's own."""
    return all(hook.__module__.startswith("dipsim.policies.") for hook in policy.hooks.values())


def _cause(problem: Exception) -> str:
    """The line of numba's long report that says what it stumbled over."""
    lines = [line.strip(" -") for line in str(problem).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NUMBA_NOISE)]
    inner = [line for line in telling if not line.startswith("No implementation of function")]
    return (inner or telling or [""])[0][:200]
