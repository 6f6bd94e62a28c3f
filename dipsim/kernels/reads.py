"""Flash reads of misses: neighbours become one read when that takes less time."""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.bits import AT_ONCE, bit, list_units
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.frames import framed
from dipsim.kernels.stored import stored

READS, OUTSIDE = 0, 1
"""Columns of the counts of reads; OUTSIDE is 1 where one lay outside the measured points."""
MOVED, SECONDS = 0, 1
"""Columns of the costs of reads: bytes the device moves, seconds the flash is busy."""

_NATURAL = np.empty(0, np.int64)
_SAVING = 1 - 1e-12  # a read is worth joining when it saves more than rounding noise


class Requests(NamedTuple):
    """Costs of reading a span of L units from flash, for every L; empty to leave costs out."""

    seconds: NDArray[np.float64]  # [curves, units + 1]
    moved: NDArray[np.float64]  # [units + 1] bytes, whole pages
    outside: NDArray[np.bool_]  # [curves, units + 1] whether no measured point is near
    curve_of: NDArray[np.int64]  # [most + 1] which curve serves n reads in flight
    whole: NDArray[np.float64]  # [3] reading everything in order: reads, bytes, seconds
    place: NDArray[np.int64] = _NATURAL  # [units] in address order; empty: that of their ids
    tensors: int = 1  # that a unit is read from, one read each


class Listing(NamedTuple):
    """Room to list the misses of a row."""

    misses: NDArray[np.int64]  # [units + AT_ONCE]
    runs: NDArray[np.int64]  # [units + 1]
    taken: NDArray[np.uint64]  # [words] of zeros


@register_jitable
def coalesce(count, misses, requests, runs):
    """Return what ``misses[:count]``, ascending, cost: (reads, bytes moved, seconds, any outside).

    Greedily from the left: a run and the next miss become one read when that takes less time.
    Reading everything in order is taken instead when it is faster. ``runs`` is scratch.
    """
    seconds_of, moved_of, outside_of = requests.seconds, requests.moved, requests.outside
    curve_of, whole = requests.curve_of, requests.whole
    most = curve_of.shape[0] - 1
    curve = seconds_of[curve_of[min(count, most)]]
    reads, length = 0, 1
    for i in range(1, count):
        joined = length + misses[i] - misses[i - 1]
        if curve[joined] < (curve[length] + curve[1]) * _SAVING:
            length = joined
        else:
            runs[reads] = length
            reads += 1
            length = 1
    runs[reads] = length
    reads += 1
    chosen = curve_of[min(reads, most)]
    moved, seconds, outside = 0.0, 0.0, False
    for i in range(reads):
        moved += moved_of[runs[i]]
        seconds += seconds_of[chosen, runs[i]]
        outside |= outside_of[chosen, runs[i]]
    if whole[2] < seconds * _SAVING:
        return int(whole[0]), whole[1], whole[2], False
    return reads * requests.tensors, moved, seconds, outside


@register_jitable
def to_places(misses, count, place, taken):
    """Turn ``misses[:count]`` from ids into places in address order, ascending.

    Args:
        taken: uint64[words] of zeros, and zeros again afterwards.
    """
    for i in range(count):
        address = place[misses[i]]
        taken[address >> 6] |= bit(address)
    listed = 0
    for w in range(taken.shape[0]):
        listed = list_units(taken[w], w * 64, misses, listed)
        taken[w] = 0


@stored(nogil=True, key=fingerprint())
def _price(missed, start, stop, requests, scratch, reads, costs):
    """Write what the misses of every row cost.

    Args:
        missed: uint64[n, words]; those of this part lie in words ``start`` to ``stop``.
        requests: the `Requests` of the part, framed.
        scratch: a `Listing`, framed.
        reads: int32[n, 2] out, READS and OUTSIDE.
        costs: float64[n, 2] out, MOVED and SECONDS.
    """
    misses, runs, taken, place = scratch.misses, scratch.runs, scratch.taken, requests.place
    for r in range(missed.shape[0]):
        count = 0
        for w in range(start, stop):
            count = list_units(missed[r, w], (w - start) * 64, misses, count)
        if place.shape[0] > 0:
            to_places(misses, count, place, taken)
        if count > 0:
            number, moved, seconds, outside = coalesce(count, misses, requests, runs)
            reads[r, READS] = number
            reads[r, OUTSIDE] = np.int32(outside)
            costs[r, MOVED] = moved
            costs[r, SECONDS] = seconds


def price(
    missed: NDArray[np.uint64], start: int, stop: int, units: int, requests: Requests
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return what the misses of every row cost.

    Args:
        missed: uint64[n, words]; those of one part lie in words ``start`` to ``stop``.
        units: units of the part.
        requests: of the part.

    Returns:
        int32[n, 2] READS and OUTSIDE, and float64[n, 2] MOVED and SECONDS.
    """
    reads, costs = np.zeros((len(missed), 2), np.int32), np.zeros((len(missed), 2))
    scratch = Listing(
        np.empty(units + AT_ONCE, np.int64),
        np.empty(units + 1, np.int64),
        np.zeros(stop - start, np.uint64),
    )
    _price(missed, start, stop, framed(requests), framed(scratch), reads, costs)
    return reads, costs


NO_REQUESTS = Requests(
    seconds=np.empty((0, 0)),
    moved=np.empty(0),
    outside=np.empty((0, 0), np.bool_),
    curve_of=np.zeros(1, np.int64),
    whole=np.zeros(3),
)
"""Leaves the costs out."""
