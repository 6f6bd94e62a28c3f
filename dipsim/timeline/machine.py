"""What the steps of a token share: DRAM, kernels, and how hot the device is."""

from typing import NamedTuple


class Heat(NamedTuple):
    """A device that throttles: shares of its cold speed that are left, from ``after`` on."""

    after: float
    """Seconds of simulated time."""
    flash: float
    compute: float
    """Of kernels; what DRAM limits stays as it is."""


class Machine(NamedTuple):
    """What the steps of a token share."""

    dram: float
    """Bytes per second for all who read or write DRAM; infinite: they never meet."""
    background: float
    """Bytes per second that other programs want of it."""
    weights: float
    """Bytes per second at which weights are used, and ``kv``, keys and values."""
    kv: float
    compute_bound: bool
    """Whether the kernel, not DRAM, limits the use of weights."""
    heat: Heat | None = None
