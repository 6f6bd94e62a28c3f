"""Laws of flash: buses, curves that rise, small reads, writes, page faults."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from dipsim.analysis.finding import Finding, doubt, error
from dipsim.analysis.profile_list import flash_bandwidth
from dipsim.hardware import SMALL_READ, Profile, Read
from dipsim.units import BANDWIDTH, BYTES, RATE, TIME

NOISE = 0.1
"""Relative noise of measured reads: below it nothing falls."""
_SURELY = 0.25
"""Fall of a curve that no noise explains."""
_ROUNDED = 1.01
"""Factor that stated numbers may exceed each other by, for they are rounded."""
_FASTEST_READ = 5e-6
"""Seconds below which no flash answers: its cells alone take tens of microseconds."""
_PCIE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9}
"""Bytes per second of one lane, by generation: 2.5 and 5 GT/s in 8b/10b, then 8, 16 and 32 GT/s in
128b/130b."""
_WIDEST = 4
"""Lanes of a drive."""


class Bus(NamedTuple):
    """The bus that flash is attached by, and the bandwidth that it cannot exceed."""

    name: str
    limit: float
    """Bytes per second."""
    why: str
    usual: str


_BUSES = (
    (r"\bUFS\s*2", Bus("UFS 2", 1.166e9, "2 lanes of 5.83 Gb/s in 8b/10b", "0.5 to 0.9 GB/s")),
    (r"\bUFS\s*3", Bus("UFS 3", 2.332e9, "2 lanes of 11.66 Gb/s in 8b/10b", "1.2 to 2.1 GB/s")),
    (r"\bUFS\s*4", Bus("UFS 4", 4.664e9, "2 lanes of 23.32 Gb/s in 8b/10b", "2 to 4.2 GB/s")),
    (r"\beMMC", Bus("eMMC", 0.4e9, "8 bits at 400 MT/s", "0.15 to 0.3 GB/s")),
    (r"\bNVMe", Bus("NVMe", _WIDEST * _PCIE[5], "PCIe 5.0 x4 is the fastest", "0.7 to 7 GB/s")),
)
_LANES = re.compile(r"\b(?:PCIe|Gen)\s*([1-5])(?:\.0)?(?:\s*x\s*(1|2|4)\b)?", re.IGNORECASE)


def bus_of(profile: Profile) -> Bus | None:
    """Return the fastest bus of flash that the summary and the sources of its speed name; None
    where they name none. A generation of PCIe tells more than the word NVMe."""
    sources = [profile.source(key) for key in ("flash.reads", "flash.bandwidth", "flash.fit.cap")]
    text = "\n".join([profile.summary, *(source.origin for source in sources if source)])
    buses = [bus for form, bus in _BUSES if re.search(form, text, re.IGNORECASE)]
    widths = [
        (int(generation), int(lanes or _WIDEST)) for generation, lanes in _LANES.findall(text)
    ]
    if widths:
        buses = [bus for bus in buses if bus.name != "NVMe"]
    for generation, lanes in widths:
        limit, name = lanes * _PCIE[generation], f"PCIe {generation}.0 x{lanes}"
        usual = f"up to {BANDWIDTH.show(0.9 * limit, 2)}"
        buses.append(Bus(name, limit, f"{lanes} x {BANDWIDTH.show(_PCIE[generation])}", usual))
    return max(buses, key=lambda bus: bus.limit, default=None)


def peak_of(profile: Profile) -> tuple[str, float]:
    """Return the key that states the highest bandwidth of the flash, and that bandwidth."""
    flash = profile.flash
    if flash.bandwidth is not None:
        return "flash.bandwidth", flash.bandwidth
    if flash.fit is not None:
        return "flash.fit.cap", flash.fit.cap
    return "flash.reads", max(read.bandwidth for read in flash.reads)


def bus_carries_it(profile: Profile) -> Iterator[Finding]:
    """Flash is no faster than what it is attached by, nor than DRAM, which its bytes go to."""
    key, peak = peak_of(profile)
    shown, dram = BANDWIDTH.show(peak), profile.dram.bandwidth
    bus = bus_of(profile)
    if peak >= dram:
        yield error(key, f"{shown} is as fast as DRAM ({BANDWIDTH.show(dram)}); usual is 1 to 10 %")
    elif bus is not None and peak > _ROUNDED * bus.limit:
        yield error(
            key,
            f"{shown} is more than {bus.name} carries, {BANDWIDTH.show(bus.limit)} ({bus.why}); "
            f"usual is {bus.usual}",
        )
    elif bus is None and peak > _WIDEST * _PCIE[5]:
        limit = BANDWIDTH.show(_WIDEST * _PCIE[5])
        yield doubt(key, f"{shown} is more than a drive on PCIe 5.0 x4 has, {limit}")
    elif peak < 10e6:
        yield doubt(
            key, f"{shown} is slower than a memory card; usual are GB/s: is the unit right?"
        )


def larger_is_no_slower(profile: Profile) -> Iterator[Finding]:
    """Neither larger reads nor more of them in flight are slower in all, but for noise."""
    for what, alike in (("size", "lanes"), ("lanes", "size")):
        worst = max(
            _falls(profile.flash.reads, what, alike), default=None, key=lambda fall: fall[0]
        )
        if worst is None or worst[0] <= NOISE:
            continue
        fall, fast, slow = worst
        tell = error if fall > _SURELY else doubt
        yield tell(
            "flash.reads",
            f"falls by {fall:.0%} with {what}: {_point(fast)}, but {_point(slow)}; usual is noise "
            "of 10 %: measure again, cold and with nothing else running",
        )


def _falls(reads: tuple[Read, ...], what: str, alike: str) -> Iterator[tuple[float, Read, Read]]:
    """Yield by which share each bandwidth falls below the best of smaller reads (or of fewer in
    flight), with that read and its own; of as many in flight (or of the same size)."""
    best: dict[float, Read] = {}
    for read in sorted(reads, key=lambda read: float(getattr(read, what))):
        fastest = best.setdefault(getattr(read, alike), read)
        if read.bandwidth < fastest.bandwidth:
            yield 1 - read.bandwidth / fastest.bandwidth, fastest, read
        else:
            best[getattr(read, alike)] = read


def _point(read: Read) -> str:
    shown = BANDWIDTH.show(read.bandwidth)
    return f"{BYTES.exact(read.size)} with {read.lanes} in flight reach {shown}"


def small_reads_take_time(profile: Profile) -> Iterator[Finding]:
    """No read answers before flash can, and small ones are no faster than large ones."""
    flash = profile.flash
    for read in flash.reads:
        seconds = read.size * read.lanes / read.bandwidth
        if seconds < _FASTEST_READ:
            yield doubt(
                "flash.reads",
                f"{_point(read)}: {TIME.show(seconds)} a read, and flash takes 20 to 100 us: was "
                "it the page cache?",
            )
            break
    limits = {"flash.iops": flash.iops}
    if flash.fit is not None:
        limits["flash.fit.iops"] = flash.fit.iops
    for key, iops in limits.items():
        if iops is None or math.isinf(iops):
            continue
        small, large = iops * SMALL_READ, flash_bandwidth(profile)
        if small > _ROUNDED * large:
            yield error(
                key,
                f"{RATE.show(iops)} of 4 KiB are {BANDWIDTH.show(small)}, more than the largest "
                f"reads reach ({BANDWIDTH.show(large)}); usual is a tenth to a third",
            )


def writes_are_slower(profile: Profile) -> Iterator[Finding]:
    """Writing is no faster than reading, and a page fault no faster than a read."""
    flash, large = profile.flash, flash_bandwidth(profile)
    if flash.write is not None and flash.write > _ROUNDED * large:
        yield doubt(
            "flash.write",
            f"{BANDWIDTH.show(flash.write)} is more than reads reach ({BANDWIDTH.show(large)}); "
            "usual is 40 to 90 % of it",
        )
    if flash.fault is None:
        return
    seconds = flash.fault.seconds
    if flash.fault.page / seconds > large:
        yield error(
            "flash.fault.seconds",
            f"{TIME.show(seconds)} for {BYTES.exact(flash.fault.page)} is faster than the largest "
            "reads; usual is 20 to 200 us",
        )
    elif not 5e-6 <= seconds <= 2e-3:
        yield doubt("flash.fault.seconds", f"{TIME.show(seconds)}; usual is 20 to 200 us")


FLASH_LAWS = (bus_carries_it, larger_is_no_slower, small_reads_take_time, writes_are_slower)
