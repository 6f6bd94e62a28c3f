"""Copying a trace's floats to float32, with a look at each on the way.

Floats are given by their bits: numba has no float16. Of floats without a sign the bits sort as the
floats do, NaN is above infinity, and whatever has a sign is above that.
"""

import numpy as np

from dipsim.kernels.stored import stored


@stored(nogil=True)
def copy_floats(bits, scores):
    """Copy float32, and return the largest of their bits.

    Args:
        bits: uint32[n].
        scores: out float32[n].
    """
    largest, out = np.uint32(0), scores.view(np.uint32)
    for i in range(bits.shape[0]):
        largest = bits[i] if bits[i] > largest else largest
        out[i] = bits[i]
    return largest


@stored(nogil=True)
def widen_halves(bits, scores):
    """Convert float16, exact where they are finite and >= 0; return the largest of their bits.

    Args:
        bits: uint16[n].
        scores: out float32[n].
    """
    largest = np.uint16(0)
    for i in range(bits.shape[0]):
        largest = bits[i] if bits[i] > largest else largest
        wide = np.uint32(np.uint32(bits[i]) << np.uint32(13))  # right but for the exponent's bias
        scores[i] = wide.view(np.float32) * np.float32(2.0 ** (127 - 15))
    return largest
