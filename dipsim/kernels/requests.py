"""From misses to flash reads: neighbours become one read when that takes less time."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.cache import LONGEST, SHORTEST

_SAVING = 1 - 1e-12  # a read is worth joining when it saves more than rounding noise


class Requests(NamedTuple):
    """What reading a span of L units from flash costs, for every L; empty to leave costs out."""

    seconds: NDArray[np.float64]  # [curves, units + 1]
    moved: NDArray[np.float64]  # [units + 1] bytes, whole pages
    curve_of: NDArray[np.int64]  # [most + 1] which curve serves n reads in flight
    whole: NDArray[np.float64]  # [3] reading everything in order: reads, bytes, seconds


@register_jitable
def coalesce(count: int, requests: Any, cache: Any) -> tuple[int, float, float]:
    """(reads, bytes moved, seconds) of the misses in ``lists[0]``, ascending.

    Greedily from the left: a run and the next miss become one read when that takes less time.
    Reading everything in order is taken instead when it is faster.
    """
    misses, runs = cache.lists[0], cache.lists[1]
    most = requests.curve_of.shape[0] - 1
    curve = requests.seconds[requests.curve_of[min(count, most)]]
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
    curve = requests.seconds[requests.curve_of[min(reads, most)]]
    moved = seconds = 0.0
    for i in range(reads):
        moved += requests.moved[runs[i]]
        seconds += curve[runs[i]]
        cache.numbers[SHORTEST] = min(cache.numbers[SHORTEST], runs[i])
        cache.numbers[LONGEST] = max(cache.numbers[LONGEST], runs[i])
    if requests.whole[2] < seconds * _SAVING:
        return np.int64(requests.whole[0]), requests.whole[1], requests.whole[2]
    return reads, moved, seconds
