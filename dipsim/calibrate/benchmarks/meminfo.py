"""Reader of sizes of memory: ``/proc/meminfo`` of Linux, ``sysctl hw.memsize`` and ``vm_stat`` of
macOS."""

import re

from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Memory, Origin

_BYTES = (2.0**20, 2.0**44)
"""Believable sizes of memory."""
_FREE = ("free", "inactive", "speculative", "purgeable")
"""Kinds of pages of vm_stat that programs can have."""


def read(source: Source) -> Measurements:
    """Read the sizes of DRAM.

    Raises:
        DipsimError: it cannot be read.
    """
    text = source.text
    linux = _count(text, r"(?m)^MemTotal:\s+(\d{1,15}) kB")
    capacity = linux * 1024 if linux else _count(text, r"(?m)^hw\.memsize\s*[:=]\s*(\d{1,18})\b")
    available = _count(text, r"(?m)^MemAvailable:\s+(\d{1,15}) kB") * 1024 or _of_pages(text)
    if not _BYTES[0] <= capacity <= _BYTES[1]:
        told = f"{source.name}: the size of memory is {capacity:.0f} B: no device has that"
        return Measurements(refused=(told,))
    sound = 0 < available <= capacity
    origin = Origin(source.name, "/proc/meminfo" if linux else "sysctl")
    return Measurements(memory=(Memory(capacity, available if sound else None, origin),))


def _count(text: str, form: str) -> float:
    match = re.search(form, text, re.ASCII)
    return float(match[1]) if match else 0.0


def _of_pages(text: str) -> float:
    """Return bytes of the pages that vm_stat counts as free or soon to be."""
    page = _count(text, r"page size of (\d{1,9}) bytes")
    return page * sum(_count(text, rf"(?m)^Pages {kind}:\s+(\d{{1,15}})") for kind in _FREE)


MEMINFO = Format(
    "/proc/meminfo, or sysctl hw.memsize with vm_stat",
    lambda head: re.search(r"(?m)^(MemTotal:|hw\.memsize)", head) is not None,
    read,
)
