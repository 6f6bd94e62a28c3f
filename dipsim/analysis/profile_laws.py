"""Laws that a profile must obey: `dipsim profiles --check` tests them on a file.

A finding is one line on a number: what is wrong with it, and what is usual. What is impossible or
missing is an error, what is seldom so a doubt. Limits are those of buses and of memory; what is
usual is what published measurements of phones, laptops and boards show.
"""

import re
from collections.abc import Iterator

from dipsim.analysis.backend_laws import BACKEND_LAWS
from dipsim.analysis.finding import Finding, Law, doubt, error
from dipsim.analysis.flash_laws import FLASH_LAWS
from dipsim.errors import brief
from dipsim.hardware import STATED, Profile, Source
from dipsim.units import BANDWIDTH, BYTES

_SHORTEST = 10
"""Characters of a source that says something."""
_MOST_AVAILABLE = 0.8
"""Share of DRAM that an app was ever seen to have."""
_FEW_CASES = 3
"""Cases from which on a fit tells the error of a model that is left out."""
_NAMES = 3
"""Most keys that are named of those with one fault."""


def check_profile(profile: Profile) -> list[Finding]:
    """Return what is wrong with a profile: errors first, then doubts, each in the order of the
    laws."""
    findings = [finding for law in LAWS for finding in law(profile)]
    return sorted(findings, key=lambda finding: not finding.certain)


def numbers_have_sources(profile: Profile) -> Iterator[Finding]:
    """Every number says where it is from."""
    missing = []
    for key, _ in profile.numbers():
        source = profile.source(key)
        if source is None or source.origin.startswith(STATED):
            missing.append(key)
    if missing:
        more = f" and {len(missing) - _NAMES} more" if len(missing) > _NAMES else ""
        yield error(
            "sources",
            f"none for {', '.join(missing[:_NAMES])}{more}: state kind (measured, vendor, fitted, "
            "estimate) and from, e.g. the page or the tool",
        )


def sources_say_something(profile: Profile) -> Iterator[Finding]:
    """A source names what can be looked up; one that several numbers share is named once."""
    shared: dict[Source, list[str]] = {}
    for key, source in profile.sources.items():
        shared.setdefault(source, []).append(key)
    for source, keys in shared.items():
        if not source.origin.startswith(STATED) and (fault := _silent(source)):
            yield doubt(f"sources.{min(keys, key=len)}", fault)


def _silent(source: Source) -> str:
    """Return what is wrong with a source; nothing if it says where a number is from."""
    quoted, words = repr(brief(source.origin, 40)), source.origin.split()
    if source.kind == "fitted":
        if not source.cases:
            return "fitted, and names no cases; usual are their ids"
        if source.left_out is None and len(source.cases) >= _FEW_CASES:
            return "fitted, and without left_out, the error of a model that is left out"
        return ""
    if len(source.origin) < _SHORTEST or len(words) < 2:
        return f"{quoted} says nothing; usual is the page, paper or tool, and the device"
    if source.kind == "measured" and not re.search(r"[A-Z0-9/:]", source.origin):
        return f"{quoted} does not say where it was measured; usual is a device, a tool, a date"
    return ""


def dram_is_plausible(profile: Profile) -> Iterator[Finding]:
    """DRAM is of devices that one can hold, and the system keeps some of it."""
    dram = profile.dram
    if not 2**30 <= dram.capacity <= 2**40:
        yield doubt("dram.capacity", f"{BYTES.show(dram.capacity)}; usual is 4 to 64 GB")
    if dram.bandwidth > 10e12:
        yield error("dram.bandwidth", f"{BANDWIDTH.show(dram.bandwidth)}; usual is 17 to 550 GB/s")
    elif not 2e9 <= dram.bandwidth <= 1.2e12:
        yield doubt("dram.bandwidth", f"{BANDWIDTH.show(dram.bandwidth)}; usual is 17 to 550 GB/s")
    share = dram.available / max(dram.capacity, 1.0)
    if share > _MOST_AVAILABLE:
        yield doubt(
            "dram.available",
            f"{share:.0%} of capacity; usual is half of it on phones, 70 to 75 % on laptops",
        )
    if dram.background > dram.bandwidth / 2:
        yield doubt("dram.background", "takes more than half of the bandwidth; usual is 0 to 10 %")
    if profile.runtime_overhead >= dram.available:
        yield error("runtime_overhead", "takes all of dram.available; usual is 100 to 500 MB")


LAWS: tuple[Law, ...] = (
    numbers_have_sources,
    sources_say_something,
    dram_is_plausible,
    *FLASH_LAWS,
    *BACKEND_LAWS,
)
"""All laws in the order of testing."""
