"""Kernels of synthetic traces: normals as numpy's generator draws them, and quantiles mapped.

What is compiled here uses nothing outside this file, so numba's stored code is renewed with it.
"""

import math

import numpy as np
from numba.np.random._constants import fi_float, ki_float, wi_float

from dipsim.kernels.stored import stored

_WIDTHS = np.concatenate((wi_float, -wi_float))  # by layer and sign
_TAIL, _INVERSE_TAIL = np.float32(3.6541528853610088), np.float32(0.27366123732975828)
_FRACTION = np.float32(2.0**-24)


@stored(nogil=True)
def make_normals(words, out):
    """Fill ``out``, float32[n], with standard normals until the words run out.

    The ziggurat of numpy's ``Generator.standard_normal(dtype=float32)`` (Marsaglia and Tsang, J.
    Stat. Softw. 5(8), 2000), value for value. As numpy compiles it, the sign is a branch that every
    other value mispredicts, and it takes six times as long.

    Args:
        words: uint32[m], random words in the order in which numpy takes them.

    Returns:
        How many values were made, and of how many words.
    """
    made, used = 0, 0
    while made < out.shape[0] and used < words.shape[0]:
        word = words[used]
        layer, place = word & np.uint32(0xFF), word >> np.uint32(9)
        x = np.float32(np.int32(place)) * _WIDTHS[word & np.uint32(0x1FF)]
        out[made] = x
        taken, accepted = used + 1, True
        if place >= ki_float[layer]:  # beside the layer's rectangle: 1.5 % of the words
            if layer == 0:
                accepted = False
                while not accepted:
                    if taken + 2 > words.shape[0]:
                        return made, used
                    u = np.float32(words[taken] >> np.uint32(8)) * _FRACTION
                    v = np.float32(words[taken + 1] >> np.uint32(8)) * _FRACTION
                    taken += 2
                    x, y = -_INVERSE_TAIL * np.log1p(-u), -np.log1p(-v)
                    accepted = y + y > x * x
                out[made] = -(_TAIL + x) if place & np.uint32(0x100) else _TAIL + x
            else:
                if taken == words.shape[0]:
                    return made, used
                u = np.float32(words[taken] >> np.uint32(8)) * _FRACTION
                taken += 1
                height = (fi_float[layer - 1] - fi_float[layer]) * u + fi_float[layer]
                accepted = height < math.exp(-0.5 * np.float64(x) * np.float64(x))
        made += accepted
        used = taken
    return made, used


@stored(nogil=True)
def add_pieces(values, knots, begins, slopes, bases, starts, low, scale):
    """Add to every value, float32[rows, n], a piecewise linear function of it.

    The first knot that may lie above a value is looked up by the value; a search as in `np.interp`
    mispredicts most of its steps, and takes ten times as long.

    Args:
        knots: float64[m + 1], ascending, where the pieces end; NaN behind the last.
        begins: float64[m + 1], where each piece begins.
        slopes: float64[m + 1], how much each piece rises from there.
        bases: float64[m + 1], value of each piece there.
        starts: uint16[places], by (value - low) * scale, the first piece that may hold the value.
    """
    last = np.float64(starts.shape[0] - 1)
    for row in range(values.shape[0]):
        for i in range(values.shape[1]):
            x = np.float64(values[row, i])
            place = (x - low) * scale
            place = place if place > 0.0 else 0.0
            piece = np.uint64(starts[np.uint32(place if place < last else last)])
            piece += np.uint64(knots[piece] <= x)
            while knots[piece] <= x:
                piece += np.uint64(1)
            rise = slopes[piece] * (x - begins[piece])
            values[row, i] += np.float32(bases[piece] + (rise if x != begins[piece] else 0.0))
