"""Sizes and bandwidth of DRAM, from what the system and memory benchmarks say."""

from collections.abc import Sequence
from typing import Any

from dipsim.calibrate.measured import Measurements, Memory, Transfer
from dipsim.calibrate.number import Number, measured_by, text_before
from dipsim.errors import brief
from dipsim.hardware import Profile
from dipsim.units import BANDWIDTH, BYTES

_SIZE_SPREAD, _BANDWIDTH_SPREAD = 0.05, 0.1


def measure_dram(measured: Measurements, before: Profile | None) -> tuple[list[Number], list[str]]:
    """Return the numbers of DRAM that were measured, and sentences on what was left out.

    A profile that knows the peak keeps it, as programs reach a share of it; without a profile, the
    highest bandwidth that was reached stands for the peak.
    """
    numbers: list[Number] = []
    if measured.memory:
        numbers += _sizes(measured.memory[-1], before)
    best = fastest(measured.transfers)
    if best is None:
        return numbers, []
    if before is None:
        source = _source([best], f"the highest of {len(measured.transfers)}; the peak is higher")
        rate = BANDWIDTH.exact(float(f"{best.bandwidth:.4g}"))
        return [*numbers, Number("dram.bandwidth", None, rate, source)], []
    peak = before.dram.bandwidth
    if best.bandwidth > peak:
        return numbers, [
            f"{best.origin.file}: {BANDWIDTH.show(best.bandwidth)} was reached, above the "
            f"{BANDWIDTH.show(peak)} of dram.bandwidth: correct that one with -s"
        ]
    return numbers, []


def measure_efficiency(
    transfers: Sequence[Transfer], device: Profile, backends: Sequence[str]
) -> list[Number]:
    """Return the shares of the peak bandwidth that CPU backends reach, as memory benchmarks say.

    Args:
        backends: those whose share no rate told.
    """
    best = fastest(transfers)
    if best is None or best.bandwidth > device.dram.bandwidth:
        return []
    share = float(f"{best.bandwidth / device.dram.bandwidth:.3g}")
    source = _source([best], f"{BANDWIDTH.show(best.bandwidth)} of the peak")
    numbers = []
    for backend in backends:
        key = f"backends.{backend}.dram_efficiency"
        numbers.append(Number(key, text_before(device, key), share, source))
    return numbers


def fastest(transfers: Sequence[Transfer]) -> Transfer | None:
    """Return the fastest transfer; None for none."""
    return max(transfers, key=lambda each: each.bandwidth, default=None)


def _source(transfers: Sequence[Transfer], what: str) -> dict[str, Any]:
    text = measured_by([each.origin for each in transfers], what)
    return {"kind": "measured", "from": brief(text, 300), "spread": _BANDWIDTH_SPREAD}


def _sizes(memory: Memory, before: Profile | None) -> list[Number]:
    told = {"dram.capacity": memory.capacity, "dram.available": memory.available}
    numbers = []
    for key, size in told.items():
        if size is None:
            continue
        old = None if before is None else text_before(before, key)
        text = measured_by([memory.origin], "as the system states it")
        source = {"kind": "measured", "from": brief(text, 300), "spread": _SIZE_SPREAD}
        numbers.append(Number(key, old, BYTES.exact(float(f"{size:.4g}")), source))
    return numbers
