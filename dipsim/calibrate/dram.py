"""Sizes and bandwidth of DRAM, from what the system and memory benchmarks say."""

from collections.abc import Sequence

from dipsim.calibrate.measured import Measurements, Memory, Transfer
from dipsim.calibrate.number import NumberChange, measured_source, rounded, text_before
from dipsim.hardware import Profile
from dipsim.units import BANDWIDTH, BYTES

_SIZE_SPREAD, _BANDWIDTH_SPREAD = 0.05, 0.1


def measure_dram(
    measured: Measurements, before: Profile | None
) -> tuple[list[NumberChange], list[str]]:
    """Return the numbers of DRAM that were measured, and sentences on what was left out.

    A profile that knows the peak keeps it, as programs reach a share of it; without a profile, the
    highest bandwidth that was reached stands for the peak.
    """
    numbers: list[NumberChange] = []
    if measured.memory:
        numbers += _sizes(measured.memory[-1], before)
    best = fastest(measured.transfers)
    if best is None:
        return numbers, []
    if before is None:
        source = measured_source(
            [best.origin],
            f"the highest of {len(measured.transfers)}; the peak is higher",
            _BANDWIDTH_SPREAD,
        )
        rate = BANDWIDTH.exact(rounded(best.bandwidth))
        return [*numbers, NumberChange("dram.bandwidth", None, rate, source)], []
    peak = before.dram.bandwidth
    if best.bandwidth > peak:
        return numbers, [
            f"{best.origin.file}: {BANDWIDTH.show(best.bandwidth)} was reached, above the "
            f"{BANDWIDTH.show(peak)} of dram.bandwidth: correct that one with -s"
        ]
    return numbers, []


def measure_efficiency(
    transfers: Sequence[Transfer], device: Profile, backends: Sequence[str]
) -> list[NumberChange]:
    """Return the shares of the peak bandwidth that CPU backends reach, as memory benchmarks say.

    Args:
        backends: those whose share no rate told.
    """
    best = fastest(transfers)
    if best is None or best.bandwidth > device.dram.bandwidth:
        return []
    share = rounded(best.bandwidth / device.dram.bandwidth, 3)
    what = f"{BANDWIDTH.show(best.bandwidth)} of the peak"
    source = measured_source([best.origin], what, _BANDWIDTH_SPREAD)
    numbers = []
    for backend in backends:
        key = f"backends.{backend}.dram_efficiency"
        numbers.append(NumberChange(key, text_before(device, key), share, source))
    return numbers


def fastest(transfers: Sequence[Transfer]) -> Transfer | None:
    """Return the fastest transfer; None for none."""
    return max(transfers, key=lambda each: each.bandwidth, default=None)


def _sizes(memory: Memory, before: Profile | None) -> list[NumberChange]:
    sizes = {"dram.capacity": memory.capacity, "dram.available": memory.available}
    numbers = []
    for key, size in sizes.items():
        if size is None:
            continue
        source = measured_source([memory.origin], "as the system states it", _SIZE_SPREAD)
        text = BYTES.exact(rounded(size))
        numbers.append(NumberChange(key, text_before(before, key), text, source))
    return numbers
