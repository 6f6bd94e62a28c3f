"""Laws of backends: nothing uses weights faster than DRAM delivers them, nothing is for free."""

import math
from collections.abc import Iterator, Mapping

from dipsim.analysis.finding import Finding, doubt, error
from dipsim.hardware import Backend, Profile
from dipsim.model import FORMAT_BITS
from dipsim.units import BANDWIDTH, COMPUTE, POWER, TIME, show_number

_BEST = 0.95
"""Share of the peak of DRAM that no engine was seen to reach."""
_LEAST = 0.05
_COMPUTE: Mapping[str, tuple[float, float, str]] = {
    "cpu": (10e9, 5e12, "0.1 to 2 TFLOP/s"),
    "gpu": (50e9, 100e12, "1 to 20 TFLOP/s"),
    "npu": (100e9, 100e12, "1 to 40 TFLOP/s"),
    "ane": (100e9, 100e12, "1 to 40 TFLOP/s"),
}
"""Lowest and highest rate that is believed of a device, and the usual one, by unit."""
_COSTS = {"per_layer": (5e-3, "30 us to 1 ms"), "per_mask": (5e-3, "10 us to 0.3 ms")}
"""Fixed costs: the highest that is believed, and what is usual."""


def _each(profile: Profile) -> Iterator[tuple[str, str, Backend]]:
    """Yield the key of every backend, its unit, and itself."""
    for name, backend in profile.backends.items():
        yield f"backends.{name}", name.partition("-")[0], backend


def weights_come_from_dram(profile: Profile) -> Iterator[Finding]:
    """Weights are used no faster than DRAM delivers them at its peak."""
    peak = profile.dram.bandwidth
    for key, _, backend in _each(profile):
        rates = {f"{key}.gemv.{name}": rate for name, rate in backend.gemv.items()}
        if "dram_efficiency" in backend.model_fields_set:
            rates[f"{key}.dram_efficiency"] = backend.dram_efficiency * peak
        else:
            yield doubt(key, "states no dram_efficiency, so 1 is taken; usual is 0.3 to 0.85")
        for each, rate in rates.items():
            share, shown = rate / peak, f"{BANDWIDTH.show(rate)} of weights"
            usual = f"of DRAM's peak ({BANDWIDTH.show(peak)}); usual is 30 to 85 %"
            if share > 1 + 1e-9:
                yield error(each, f"{shown} is {share:.0%} {usual}")
            elif not _LEAST <= share <= _BEST:
                yield doubt(each, f"{shown} is {share:.0%} {usual}")
        for name in backend.gemv:
            if name not in FORMAT_BITS:
                known = ", ".join(FORMAT_BITS)
                yield doubt(f"{key}.gemv.{name}", f"no format that dipsim knows; it knows {known}")


def copies_cross_dram_twice(profile: Profile) -> Iterator[Finding]:
    """Copying reads and writes every byte, so it runs at half of DRAM's peak at most."""
    peak = profile.dram.bandwidth
    rates = {f"{key}.cache_copy": backend.cache_copy for key, _, backend in _each(profile)}
    if profile.page_cache is not None:
        rates["page_cache.bandwidth"] = profile.page_cache.bandwidth
    for key, rate in rates.items():
        if math.isinf(rate):
            continue
        tell = error if rate > peak else doubt
        if rate > peak / 2:
            yield tell(
                key,
                f"copying {BANDWIDTH.show(rate)} moves twice as much, and DRAM's peak is "
                f"{BANDWIDTH.show(peak)}; usual is 10 to 35 % of it",
            )


def compute_is_plausible(profile: Profile) -> Iterator[Finding]:
    """Compute rates are those of devices one can hold, and named after their unit."""
    for key, unit, backend in _each(profile):
        if unit not in _COMPUTE and unit != "default":
            yield doubt(key, f"its name begins with {unit!r}; usual is the unit: cpu, gpu or npu")
        low, high, usual = _COMPUTE.get(unit, (10e9, 100e12, "0.1 to 40 TFLOP/s"))
        if math.isinf(backend.compute):
            yield doubt(f"{key}.compute", f"unlimited: prompts cost no compute; usual is {usual}")
        elif backend.compute > 10 * high:
            yield error(f"{key}.compute", f"{COMPUTE.show(backend.compute)}; usual is {usual}")
        elif not low <= backend.compute <= high:
            yield doubt(f"{key}.compute", f"{COMPUTE.show(backend.compute)}; usual is {usual}")


def overheads_are_plausible(profile: Profile) -> Iterator[Finding]:
    """Layers take time, and not too much; reads hide in part behind compute."""
    for key, _, backend in _each(profile):
        if backend.per_layer == 0:
            yield doubt(f"{key}.per_layer", "0: a layer costs nothing; usual is 30 us to 1 ms")
        for name, (most, usual) in _COSTS.items():
            seconds = getattr(backend, name)
            if seconds > most:
                yield doubt(f"{key}.{name}", f"{TIME.show(seconds)}; usual is {usual}")
        if backend.overlap_factor > 0.6:
            yield doubt(
                f"{key}.overlap_factor",
                f"{show_number(backend.overlap_factor)}: fits of measured runs are below 0.5",
            )


def power_is_plausible(profile: Profile) -> Iterator[Finding]:
    """Devices that one can hold take watts, and bytes picojoules."""
    for key, _, backend in _each(profile):
        watts = backend.active_power
        if watts is not None and not 0.1 <= watts <= 150:
            shown = POWER.show(watts)
            yield doubt(f"{key}.active_power", f"{shown}; usual is 2 to 15 W, of laptops to 60 W")
    energy = profile.energy
    if energy is None:
        return
    ranges = {"dram": (5e-12, 300e-12, "30 to 60"), "flash": (20e-12, 20e-9, "200 to 1000")}
    for name, (low, high, usual) in ranges.items():
        joules = getattr(energy, name)
        if not low <= joules <= high:
            shown = show_number(1e12 * joules)
            yield doubt(f"energy.{name}", f"{shown} pJ/B; usual is {usual} pJ/B")
    if energy.flash < energy.dram:
        yield doubt("energy.flash", "less than energy.dram; usual is ten times as much")
    if energy.idle > 30:
        yield doubt("energy.idle", f"{POWER.show(energy.idle)}; usual is 0.3 to 5 W")


BACKEND_LAWS = (
    weights_come_from_dram,
    copies_cross_dram_twice,
    compute_is_plausible,
    overheads_are_plausible,
    power_is_plausible,
)
