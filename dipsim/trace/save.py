"""Saving arrays as a trace, whole or not at all."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dipsim import files
from dipsim.errors import TraceError, not_taken
from dipsim.trace.archive import Compress, check_compress, pack
from dipsim.trace.checks import check_written
from dipsim.trace.npz import Array, check_names
from dipsim.trace.opening import as_arrays, open_trace
from dipsim.trace.signal import SIGNALS


def save_trace(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], *, compress: Compress = "auto"
) -> None:
    """Write arrays (and ``meta``, a dict) as an `.npz`, whole or not at all.

    Args:
        path: a file, which is replaced.
        arrays: as `open_trace` takes them; float64 signals become float32.
        compress: see `TraceWriter`.

    Raises:
        TraceError: arrays that are no trace, with values that none may hold, or a path that cannot
            be written.
    """
    target = files.path_of(path)
    check_compress(compress)
    if not isinstance(arrays, Mapping):
        raise TraceError(not_taken("arrays", arrays, 'a mapping such as {"glu": array}'))
    members = {
        key: _narrowed(key, array) if key in SIGNALS else array
        for key, array in as_arrays(arrays).items()
    }
    check_names("arrays", members)
    trace = open_trace(members)
    if trace.warnings:  # of what a reader would ignore
        raise TraceError(trace.warnings[0])
    trace.check_values()
    try:
        with files.whole_file(target) as handle:
            pack(handle, members, compress)
    except OSError as problem:
        raise files.unwritable(path, problem, TraceError) from None


def _narrowed(key: str, array: Array) -> Array:
    """Return float64 values as float32, checked; any other array as it is."""
    if array.dtype != np.float64:
        return array
    check_written(key, array, "float32")
    return array.astype(np.float32)
