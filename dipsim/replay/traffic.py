"""The outcome of a replay: exact counts per token, layer and group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.methods import Group
from dipsim.trace.encoding import unpack_sets, words_for
from dipsim.views import shortened

_COUNTS = (
    *("active", "hits", "kept", "reads", "moved", "flash_seconds"),
    *("mass", "energy", "error", "outside"),
)
"""Names of the counts per token, layer and group."""


@dataclass(frozen=True)
class Ahead:
    """Reads that went out before it was known what is needed; arrays [tokens, layers, groups]."""

    issued: NDArray[np.int32]
    """Units read ahead: those that were guessed and not resident."""
    used: NDArray[np.int32]
    """Issued units that were needed."""
    reads: NDArray[np.int32]
    moved: NDArray[np.float64]
    """Bytes the flash device moves."""
    flash_seconds: NDArray[np.float64]
    evicted: NDArray[np.int32] | None = None
    """Units that left a cache to make room for issued ones, which enter it; None where reads ahead
    go into a buffer."""

    @property
    def enters(self) -> bool:
        """True if issued units enter the caches."""
        return self.evicted is not None

    @property
    def wasted(self) -> NDArray[np.int32]:
        """Issued units that were not needed."""
        return self.issued - self.used


@dataclass(frozen=True)
class Traffic:
    """Counts of a replay. All arrays are [tokens, layers, groups] unless said otherwise.

    A streamed prefill row counts nothing; a cached prefill batch, and a decode step of several
    tokens, counts in its last row.
    """

    groups: tuple[str, ...]
    units: tuple[int, ...]
    capacity: NDArray[np.int64] | None
    """[layers, groups] in units; None when one cache serves all of them."""
    active: NDArray[np.int32]
    hits: NDArray[np.int32]
    kept: NDArray[np.int32]
    """Misses that entered the cache."""
    reads: NDArray[np.int32]
    moved: NDArray[np.float64]
    """Bytes the flash device moves: whole pages, gaps, whole matrices."""
    flash_seconds: NDArray[np.float64]
    mass: NDArray[np.float32]
    """Share of the score mass that was kept; 1 where nothing was chosen from scores."""
    energy: NDArray[np.float32]
    """Share of the sum of squared scores that was kept."""
    error: NDArray[np.float32]
    """Relative error of the layer's output, from scores and column norms; nan if not known."""
    measured: NDArray[np.bool_]
    """[tokens] decode tokens behind the warm-up."""
    outside: NDArray[np.bool_]
    """True where a read was smaller or larger than every measured point of the flash curve."""
    missed: NDArray[np.uint64] | None = None
    """[tokens, words] the missed units as bits, the words of layer 0 first and in each layer those
    of group 0; only when asked for."""

    copied: NDArray[np.int64] | None = None
    """Misses that the system's page cache held, so that flash did not deliver them; None without
    one."""
    plain: NDArray[np.float32] | None = None
    """[tokens, layers, groups, 3] mass, energy and error that plain top-k would keep; None unless
    the method is cache-aware and it was asked for."""
    ahead: Ahead | None = None
    """Counts of reads ahead; then ``reads``, ``moved`` and ``flash_seconds`` are those of the
    misses that were not read ahead."""

    own: NDArray[np.int32] | None = None
    """Units that each token of a decode step needs itself; None where every decode token is a step
    of its own, of which ``active`` says them."""

    __repr__ = shortened

    def words_of(self, layer: int, group: int) -> slice:
        """Return the place of a group's words in `missed`."""
        each = [words_for(units) for units in self.units]
        first = layer * sum(each) + sum(each[:group])
        return slice(first, first + each[group])

    def missed_units(self, row: int, layer: int, group: int) -> list[int]:
        """Return the units that a token missed, ascending; only of a replay that keeps them."""
        assert self.missed is not None
        words = self.missed[row, self.words_of(layer, group)]
        units_missed: list[int] = np.flatnonzero(unpack_sets(words, self.units[group])).tolist()
        return units_missed

    @property
    def all_moved(self) -> NDArray[np.float64]:
        """Bytes the flash device moves, reads ahead included."""
        return self.moved if self.ahead is None else self.moved + self.ahead.moved

    @property
    def all_reads(self) -> NDArray[np.int32]:
        """Requests, reads ahead included."""
        return self.reads if self.ahead is None else self.reads + self.ahead.reads

    @property
    def all_flash_seconds(self) -> NDArray[np.float64]:
        """Seconds the flash is busy, reads ahead included."""
        return (
            self.flash_seconds
            if self.ahead is None
            else (self.flash_seconds + self.ahead.flash_seconds)
        )

    @property
    def misses(self) -> NDArray[np.int32]:
        """Units that had to be read from flash."""
        return self.active - self.hits


def empty_traffic(
    tokens: int,
    groups: Sequence[Group],
    capacity: NDArray[np.int64] | None,
    measured: NDArray[np.bool_],
    shares: NDArray[np.float32],
    *,
    reads_ahead: bool = False,
    guesses_enter: bool = False,
    keeps_missed: bool = False,
    in_steps: bool = False,
) -> Traffic:
    """Return counts of zero, for a replay to fill in before it hands them on.

    Args:
        shares: float32[tokens, layers, groups, 3] of mass, energy, error; kept, not copied.
        reads_ahead: whether there will be reads ahead.
        guesses_enter: whether they enter the caches.
        keeps_missed: whether it also keeps which units were missed.
        in_steps: whether there are decode steps of several tokens.
    """
    layers = shares.shape[1]
    shape = (tokens, layers, len(groups))
    ahead = None
    if reads_ahead:
        ahead = Ahead(
            issued=np.zeros(shape, np.int32),
            used=np.zeros(shape, np.int32),
            reads=np.zeros(shape, np.int32),
            moved=np.zeros(shape),
            flash_seconds=np.zeros(shape),
            evicted=np.zeros(shape, np.int32) if guesses_enter else None,
        )
    words = layers * sum(words_for(group.units) for group in groups)
    return Traffic(
        groups=tuple(group.signal for group in groups),
        units=tuple(group.units for group in groups),
        capacity=capacity,
        active=np.zeros(shape, np.int32),
        hits=np.zeros(shape, np.int32),
        kept=np.zeros(shape, np.int32),
        reads=np.zeros(shape, np.int32),
        moved=np.zeros(shape),
        flash_seconds=np.zeros(shape),
        mass=shares[..., 0],
        energy=shares[..., 1],
        error=shares[..., 2],
        measured=measured,
        outside=np.zeros(shape, np.bool_),
        missed=np.zeros((tokens, words), np.uint64) if keeps_missed else None,
        ahead=ahead,
        own=np.zeros(shape, np.int32) if in_steps else None,
    )


def joined(parts: Sequence[Traffic], measured: NDArray[np.bool_]) -> Traffic:
    """Return the counts of parts that came one after another, as of one replay.

    Args:
        measured: [tokens] of all of them.
    """
    names = [*_COUNTS, "plain"] if parts[0].plain is not None else _COUNTS
    counts: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    return replace(parts[0], measured=measured, **counts)
