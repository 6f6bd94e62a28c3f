"""Writing keys and values to flash: whole pages, and how much of them wears the flash.

What leaves DRAM is gathered in a buffer of one page per layer, as flash is written in pages.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Wear(NamedTuple):
    """Bytes that decoding writes to flash."""

    bytes_per_token: float
    bytes_per_second: float
    bytes_per_million_tokens: float


def wear(bytes_per_token: float, tokens_per_second: float) -> Wear:
    """Return what decoding at a rate writes to flash."""
    return Wear(bytes_per_token, bytes_per_token * tokens_per_second, bytes_per_token * 1e6)


def in_pages(written: NDArray[Any], page: float) -> NDArray[np.float64]:
    """Return the bytes of whole pages that each token writes, once a layer's buffer is full.

    Args:
        written: float64[tokens, layers], bytes that leave DRAM for flash at each token.
        page: bytes of a page.

    Returns:
        float64[tokens, layers]; what fills no page by the last token is not written.
    """
    pages = np.floor(np.cumsum(written, axis=0, dtype=np.float64) / page)
    return np.diff(pages, axis=0, prepend=0.0) * page
