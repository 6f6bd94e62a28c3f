"""The entry ``about`` of every JSON report: trace, devices, options, version, and units."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from dipsim.hardware import Profile
from dipsim.trace import Trace

SHARE, BYTES, MS, RATE, COUNT = "share", "B", "ms", "tokens/s", "units"
UNITS = {
    "accesses": COUNT,
    "active": "units/token",
    "admission_misses": COUNT,
    "admission_rate": RATE,
    "attribution.parts": MS,
    "break_even_miss_density": SHARE,
    "budget": BYTES,
    "budget_bytes": BYTES,
    "budget_share": SHARE,
    "bytes": BYTES,
    "bytes_read": BYTES,
    "cache_bytes": BYTES,
    "cache_fraction": SHARE,
    "capacity": COUNT,
    "cases": "cases",
    "cold_start_ms": MS,
    "density": SHARE,
    "dense.reads": "reads/token",
    "dram_bytes": BYTES,
    "dram_bytes_per_token": "B/token",
    "elasticity": "% of the rate for 1 %",
    "energy_kept": SHARE,
    "energy_kept_plain": SHARE,
    "energy_mj_per_token": "mJ/token",
    "first_uses": COUNT,
    "flash_bytes": "B/token",
    "flash_bytes_per_token": "B/token",
    "flash_ms_per_token": "ms/token",
    "flash_reads_per_token": "reads/token",
    "flash_useful_bytes_per_token": "B/token",
    "hit_rate": "share of bytes",
    "hits": COUNT,
    "lanes": "reads in flight",
    "level": SHARE,
    "latency_ms": MS,
    "layers": "layers",
    "lost": COUNT,
    "mass_kept": SHARE,
    "mass_kept_plain": SHARE,
    "misses": COUNT,
    "no_cache.reads": "reads/token",
    "optimum.reads": "reads/token",
    "optimum_rate": RATE,
    "output_error": SHARE,
    "part": "index of a layer",
    "per_layer.layer": "index of a layer",
    "perplexity": "perplexity",
    "policys_time": "share of the time",
    "prefetch": COUNT,
    "prefill_tokens": "tokens",
    "rate": RATE,
    "reads": "reads",
    "routing_weight_lost": SHARE,
    "seconds": "s",
    "sequences": "sequences",
    "step": SHARE,
    "step.accept": SHARE,
    "step.batch": "sequences",
    "step.cost": "tokens",
    "step.draft": "tokens",
    "step.draft_ms": MS,
    "step.seed": "seed",
    "step.steps": "steps",
    "step.tokens_per_step": "tokens",
    "step.tokens_per_step_drawn": "tokens",
    "thermal": RATE,
    "time_ms": MS,
    "times": "the rate of the run as a multiple",
    "time_share": "share of the time",
    "to_optimum": "share of units",
    "tokens": "tokens",
    "tokens_per_second": RATE,
    "tokens_per_second_interval": RATE,
    "tokens_per_second_range": RATE,
    "ttft_ms": MS,
    "unavoidable": COUNT,
    "unmeasured": "tokens",
    "unit_bytes": BYTES,
    "unit_hit_rate": "share of units",
    "units": COUNT,
}
"""Unit of a figure by its key, or by the last two of its path; where neither is here, that of the
figure around it."""
INPUTS = frozenset({"about", "config", "fixed", "flash", "meta", "options", "settings"})
"""Keys of what was given, which holds its units itself."""


def about(
    command: str,
    figures: Mapping[str, Any],
    *,
    trace: Trace | None = None,
    profiles: Sequence[Profile] = (),
    options: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what must be known to read a report's figures, and to repeat them.

    Args:
        command: name on the command line.
        figures: the report.
        trace: what was replayed or written.
        profiles: devices that times rest on.
        options: what was given, by option.
        units: of keys that mean something else here than in `UNITS`.

    Returns:
        ``command``; ``trace`` (name and hash) or None; ``profiles``, whole; ``options``;
        ``version`` of dipsim; ``units`` of the figures, by key.
    """
    return {
        "command": command,
        "trace": None if trace is None else _identity(trace),
        "profiles": [
            each.model_dump(mode="json", by_alias=True, exclude_unset=True) for each in profiles
        ],
        "options": dict(options or {}),
        "version": version("dipsim"),
        "units": units_of(figures, units),
    }


def _identity(trace: Trace) -> dict[str, str]:
    """Return the name of a trace, of a file its full path, and its hash."""
    name = os.path.abspath(trace.name) if os.path.exists(trace.name) else trace.name
    return {"name": name, "hash": trace.hash}


def units_of(figures: Mapping[str, Any], units: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the units of a report's numbers, by the key that names each.

    Args:
        figures: the report.
        units: of keys that mean something else here than in `UNITS`.
    """
    known = {**UNITS, **(units or {})}
    keys = {named for path in numbers_of(figures) if (named := _named(path, known)) is not None}
    return {key: known[key] for key in sorted(keys)}


def numbers_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of keys to every number of a report that is a figure, no input."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in INPUTS:
                yield from numbers_of(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from numbers_of(inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def _named(path: tuple[str, ...], known: Mapping[str, str]) -> str | None:
    """Return the key of ``known`` that a path falls under; None where there is none."""
    for end in range(len(path), 0, -1):
        for key in (".".join(path[max(end - 2, 0) : end]), path[end - 1]):
            if key in known:
                return key
    return None
