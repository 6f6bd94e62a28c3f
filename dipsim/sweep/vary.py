"""Variations of a run: its DRAM, and the speed of its device's flash."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from dipsim.errors import DipsimError, ProfileError, brief
from dipsim.flash.cost import FlashCost
from dipsim.flash.read_time import Points, ReadCurve, with_times
from dipsim.hardware import STATED, Profile, Source
from dipsim.option import flag
from dipsim.replay.traffic import Traffic
from dipsim.result import Result
from dipsim.run import Run
from dipsim.settings import concerning
from dipsim.simulate import prepare
from dipsim.timeline.timing import time_traffic
from dipsim.trace import Trace

Axis = Literal["dram", "flash-bandwidth", "iops"]
AXES: tuple[Axis, ...] = ("dram", "flash-bandwidth", "iops")
"""Their values: bytes, a factor on the profile's bandwidth, reads of the smallest measured size per
second."""


def check_axes(axes: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse axes that are none, or the same, or that an option fixes.

    Raises:
        DipsimError: in one line.
    """
    for axis in axes:
        if not isinstance(axis, str) or axis not in AXES:
            raise DipsimError(f"{brief(repr(axis), 60)} cannot be searched: use {', '.join(AXES)}")
    if len(set(axes)) < len(axes):
        raise DipsimError(f"{','.join(axes)}: name two different ones of {', '.join(AXES)}")
    given = [name for name in concerning("budget") if options.get(name) is not None]
    if given and "dram" in axes:
        raise DipsimError(f"{flag(given[0])} fixes the DRAM that is searched: drop it")


def dram_sizes(
    trace: Trace, device: Profile, options: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Return the whole bytes of DRAM that a run needs: for KV alone, without a cache, and for
    everything.

    Reads ahead need their buffer in any case, beside static weights.
    """
    budget = prepare(trace, device, **{**options, "cache_fraction": 1.0}).budget
    cacheless = budget.kv_in_all + budget.static.total + budget.buffer
    least = cacheless if budget.buffer else max(budget.kv_in_all, 1.0)
    everything = cacheless + budget.units_bytes
    return float(math.ceil(least)), float(math.ceil(cacheless)), float(math.ceil(everything))


def scaled(device: Profile, factor: float) -> Profile:
    """Return the device with flash ``factor`` times as fast at every size and number of lanes, page
    faults included."""
    flash, change = device.flash, f"{factor:.4g} times the profile's"
    if flash.fault is not None:
        seconds = flash.fault.seconds / factor
        fault = flash.fault.model_copy(update={"seconds": seconds})
        device = _with_flash(device, {"fault": fault}, "flash.fault.seconds", change)
    if flash.bandwidth is not None:
        changed = {"bandwidth": flash.bandwidth * factor}
        return _with_flash(device, changed, "flash.bandwidth", change)
    if flash.fit is not None:
        old = flash.fit
        times = {"t0": old.t0 / factor, "iops": old.iops * factor}
        rates = {"bandwidth": old.bandwidth * factor, "cap": old.cap * factor}
        return _with_flash(
            device, {"fit": old.model_copy(update={**times, **rates})}, "flash.fit", change
        )
    reads = [read.model_copy(update={"bandwidth": read.bandwidth * factor}) for read in flash.reads]
    iops = None if flash.iops is None else flash.iops * factor
    return _with_flash(device, {"reads": tuple(reads), "iops": iops}, "flash.reads", change)


def with_iops(device: Profile, iops: float) -> Profile:
    """Return the device with its smallest measured read taking 1 / ``iops`` seconds at its lanes.

    The times t(s) of all points shift by the same amount, by what a command costs more or less;
    none comes to less than its bytes take when they are read in order.

    Raises:
        ProfileError: the profile has no measured points.
    """
    in_order = FlashCost(device.flash).sequential_bandwidth
    shift = 1 / iops - float(_curve(device).seconds[0])

    def shifted(size: float, seconds: float) -> float:
        return max(seconds + shift, min(seconds, size / in_order))

    flash = with_times(device.flash, shifted)
    change = f"shifted to {iops:.6g} reads/s of the smallest size"
    return _with_flash(device, {"reads": flash.reads, "iops": flash.iops}, "flash.reads", change)


def iops_of(device: Profile) -> tuple[float, float]:
    """Return the smallest reads per second: the profile's, and the most its bandwidth allows.

    Raises:
        ProfileError: the profile has no measured points.
    """
    curve = _curve(device)
    now = 1 / float(curve.seconds[0])
    return now, max(now, FlashCost(device.flash).sequential_bandwidth / float(curve.sizes[0]))


def check_direct(run: Run) -> None:
    """Refuse to vary the flash of a run that reads through the page cache.

    Raises:
        DipsimError: not all of its times are the flash's.
    """
    if run.settings.io != "direct":
        raise DipsimError(
            f"--io {run.settings.io}: the flash's bandwidth is varied with direct reads only; "
            "drop it"
        )


def retimed(run: Run, traffic: Traffic, factor: float) -> Result:
    """Return the run on flash ``factor`` times as fast, without another replay.

    Raises:
        DipsimError: as `check_direct`.
    """
    check_direct(run)
    device, traffic = scaled(run.device, factor), faster(traffic, factor)
    run = replace(run, device=device, flash=FlashCost(device.flash))
    return Result(run, traffic, time_traffic(run, traffic))


def faster(traffic: Traffic, factor: float) -> Traffic:
    """Return the counts by a flash that is ``factor`` times as fast at every size.

    Counts do not depend on the flash, and times that are all scaled alike leave every choice
    between single reads, merged reads and whole matrices as it was.
    """
    ahead = traffic.ahead
    if ahead is not None:
        ahead = replace(ahead, flash_seconds=ahead.flash_seconds / factor)
    return replace(traffic, flash_seconds=traffic.flash_seconds / factor, ahead=ahead)


def _curve(device: Profile) -> ReadCurve:
    """Return the times of reads at the flash's own lanes.

    Raises:
        ProfileError: the profile has no measured points.
    """
    if not device.flash.reads:
        fitted = device.flash.fit is not None
        has = "a fitted flash" if fitted else "one flash.bandwidth for reads of any size"
        raise ProfileError(
            f"profile {device.name} has {has}, so its IOPS cannot be searched: use "
            "flash-bandwidth, or a profile with flash.reads"
        )
    return Points(device.flash).curve_for(device.flash.lanes)


def _with_flash(device: Profile, update: dict[str, Any], key: str, change: str) -> Profile:
    """Return the device with another flash, and with the source of the key that changed."""
    source = Source(kind="estimate", origin=f"{STATED}search: {change}")
    flash = device.flash.model_copy(update=update)
    sources = {**device.sources, key: source}
    return device.model_copy(update={"flash": flash, "sources": sources})
