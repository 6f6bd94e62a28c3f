"""Schema of a profile: DRAM, flash, backends, energy; every number with a source and a kind.

A profile is one YAML file in ``hardware_profiles/`` (docs/profiles.md); unknown keys are errors.
The simulator sees one frozen, complete `Profile`.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dipsim.errors import ProfileError, brief
from dipsim.units import (
    BANDWIDTH,
    BYTES,
    Bandwidth,
    Bytes,
    JoulesPerByte,
    Seconds,
    UnlimitedBandwidth,
    UnlimitedCompute,
    UnlimitedIops,
    Watts,
)
from dipsim.views import shortened

Kind = Literal["measured", "vendor", "fitted", "estimate"]
STATED = "stated by "
"""Beginning of the source of a number that came without one; what stated it follows."""
TEXTS = ("name", "summary", "default", "first", "sources", "extends")
"""Keys of a profile that are no numbers."""
FIXED_COSTS = ("per_layer", "per_mask", "per_score")
"""Keys of a backend that are costs however many bytes it uses."""
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
SpeedShare = Annotated[float, Field(ge=1e-3, le=1, strict=True)]
"""Share of a speed that is left: never none of it."""
Spread = Annotated[float, Field(ge=0, le=20)]
Lanes = Annotated[int, Field(ge=1, le=256, strict=True)]
SMALL_READ = 4096.0
"""Bytes of the reads that ``flash.iops`` counts."""
_LARGEST_PAGE = 2.0**30
"""Largest page of a read, in bytes: far above any real one."""


class _Section(BaseModel):
    """A section of a profile: frozen, of known keys only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    __repr__ = __str__ = shortened


class Dram(_Section):
    """Main memory. ``available`` is what an app may use; it defaults to ``capacity``."""

    capacity: Bytes = Field(description="size of DRAM")
    available: Bytes = Field(description="DRAM for weights and KV; default: capacity")
    bandwidth: Bandwidth = Field(description="peak read bandwidth")
    background: Bandwidth = Field(
        default="0 B/s", validate_default=True, description="bandwidth that other programs take"
    )

    @model_validator(mode="before")
    @classmethod
    def _all_available(cls, data: Any) -> Any:
        if isinstance(data, dict) and "capacity" in data:
            return {"available": data["capacity"], **data}
        return data

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.available > self.capacity:
            raise ValueError("available is larger than capacity: lower it")
        if self.bandwidth == 0:
            raise ValueError("bandwidth is 0: it must be positive")
        if self.background >= self.bandwidth:
            raise ValueError("background takes all the bandwidth: lower it")
        return self


class Read(_Section):
    """One measured point: reads of ``size``, ``lanes`` in flight, reach ``bandwidth`` together."""

    size: Bytes
    lanes: Lanes
    bandwidth: Bandwidth

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.size == 0 or self.bandwidth == 0:
            raise ValueError("a read point needs a positive size and bandwidth")
        return self


class Fit(_Section):
    """A formula fitted to measured reads (flash/read_time.py)."""

    t0: Seconds = Field(description="time from a read's start to its first byte")
    bandwidth: Bandwidth = Field(description="bandwidth of one lane once its bytes flow")
    cap: Bandwidth = Field(description="bandwidth of the whole device")
    iops: UnlimitedIops = Field(
        default="unlimited", validate_default=True, description="reads per second of the device"
    )
    p: float = Field(ge=0.5, le=100, strict=True, description="how sharply the limits meet")
    sizes: tuple[Bytes, Bytes] = Field(description="smallest and largest read that was fitted")
    lanes: tuple[Lanes, Lanes] = Field(
        description="fewest and most reads in flight that were fitted"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if min(self.bandwidth, self.cap, self.iops, self.sizes[0]) == 0:
            raise ValueError("bandwidth, cap, iops and sizes of a fit must be positive")
        for name, (least, most) in (("sizes", self.sizes), ("lanes", self.lanes)):
            if least > most:
                raise ValueError(f"{name} must ascend: the smallest, then the largest")
        return self


class Fault(_Section):
    """A page fault: touching a page of a mapped file that is not in DRAM (``--io mmap``)."""

    seconds: Seconds = Field(description="time from the touch until the page is in DRAM")
    page: Bytes = Field(
        default="4 KiB", validate_default=True, description="bytes that one fault loads"
    )
    readahead: Bytes = Field(
        default="128 KiB",  # of Linux: read_ahead_kb of a block device
        validate_default=True,
        description="bytes that one fault loads when a file is read in order, at least a page",
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.seconds == 0 or not 512 <= self.page <= _LARGEST_PAGE:
            raise ValueError("seconds must be positive and page 512 B to 1 GiB")
        if self.readahead > _LARGEST_PAGE:
            raise ValueError("readahead must be at most 1 GiB")
        return self

    @property
    def window(self) -> float:
        """Bytes that one fault loads when a file is read in order."""
        return max(self.page, self.readahead)


class Flash(_Section):
    """Storage; its speed is one ``bandwidth``, measured ``reads``, or a ``fit`` to such."""

    capacity: Bytes | None = Field(default=None, description="size of flash; a model must fit")
    lanes: Lanes = Field(default=1, description="reads kept in flight")
    align: Bytes = Field(default="1 B", validate_default=True, description="page size of a read")
    bandwidth: Bandwidth | None = None
    reads: tuple[Read, ...] = ()
    iops: UnlimitedIops | None = Field(
        default=None, description="4 KiB reads per second, where measured reads begin above 4 KiB"
    )
    fit: Fit | None = None
    fault: Fault | None = Field(default=None, description="page faults of --io mmap")
    write: Bandwidth | None = Field(
        default=None, description="bandwidth of writing whole pages in order, for KV in flash"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if (self.bandwidth is not None) + bool(self.reads) + (self.fit is not None) != 1:
            raise ValueError(
                "give either bandwidth or reads (measured points) or fit (a formula), one of them"
            )
        if self.write == 0:
            raise ValueError("write is 0: it must be positive")
        if self.bandwidth == 0 or not 1 <= self.align <= _LARGEST_PAGE:
            raise ValueError("bandwidth must be positive and align 1 B to 1 GiB")
        points = [(read.size, read.lanes) for read in self.reads]
        if len(set(points)) < len(points):
            raise ValueError("reads: the same size and lanes stand there twice")
        for lanes in {read.lanes for read in self.reads}:
            sizes = [read.size for read in self.reads if read.lanes == lanes]
            if sizes != sorted(sizes):
                raise ValueError(f"reads: with {lanes} lanes the sizes do not ascend; sort them")
        if self.iops is not None:
            self._check_iops(self.iops)
        return self

    def _check_iops(self, iops: float) -> None:
        if iops == 0:
            raise ValueError("iops is 0: it must be positive")
        if max((read.size for read in self.reads), default=0) <= SMALL_READ:
            raise ValueError(
                "iops stands beside reads that are larger than 4 KiB; drop it, "
                "or give fit.iops to a fit"
            )


class Backend(_Section):
    """An engine on a compute unit; its numbers belong to the pair, not to the chip.

    Its name begins with the unit: ``cpu``, or ``cpu-litert`` for a second engine on it.
    """

    engine: str | None = Field(
        default=None, min_length=1, max_length=80, description="software that runs the model"
    )
    gemv: Mapping[str, Bandwidth] = Field(
        default={}, description="matrix-vector rate in weight bytes/s, per weight format"
    )
    dram_efficiency: SpeedShare = Field(
        default=1.0, description="share of peak DRAM bandwidth reached"
    )
    compute: UnlimitedCompute = Field(default="unlimited", validate_default=True)
    per_layer: Seconds = Field(
        default="0 s",
        validate_default=True,
        description="fixed cost of a layer, and of the head: launches, barriers",
    )
    per_mask: Seconds = Field(
        default="0 s", validate_default=True, description="fixed cost of choosing a mask"
    )
    per_score: Seconds = Field(
        default="0 s", validate_default=True, description="cost of choosing a mask, per unit"
    )
    overlap_factor: Share = Field(
        default=0.0, description="share of reading that compute can hide, 0 to 1"
    )
    cache_copy: UnlimitedBandwidth = Field(
        default="unlimited",
        validate_default=True,
        description="rate of copying kept weights into the cache",
    )
    active_power: Watts | None = None

    def mask_seconds(self, units: int) -> float:
        """Return the seconds that choosing among ``units`` takes."""
        return self.per_mask + self.per_score * units

    @model_validator(mode="after")
    def _positive(self) -> Self:
        rates = {"compute": self.compute, "cache_copy": self.cache_copy}
        rates |= {f"gemv.{name}": rate for name, rate in self.gemv.items()}
        for name, rate in rates.items():
            if rate == 0:
                raise ValueError(f"{name} is 0: it must be positive")
        return self


class Thermal(_Section):
    """Throttling of a device: the shares of its speed that are left once it is hot."""

    after: Seconds = Field(description="decoding time until it throttles")
    flash: SpeedShare = Field(default=1.0, description="share of the flash's speed that is left")
    compute: SpeedShare = Field(default=1.0, description="share of the kernels' speed that is left")


class PageCache(_Section):
    """The operating system's cache of file pages, for ``--io buffered``."""

    bandwidth: Bandwidth = Field(description="rate of copying its pages to the reader")
    size: Bytes | None = Field(
        default=None, description="its size; default: available DRAM that the run leaves free"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.bandwidth == 0:
            raise ValueError("bandwidth is 0: it must be positive")
        return self


class Energy(_Section):
    """Energy per byte moved, and the power of an idle device."""

    dram: JoulesPerByte
    flash: JoulesPerByte
    idle: Watts = Field(default="0 W", validate_default=True)


class Source(BaseModel):
    """The origin of a number, and its kind, which says how far to trust it.

    A fitted number names the published cases it was fitted to, by their ids among those of
    ``dipsim validate``, and the median error of their times when it is fitted without the model of
    the case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    kind: Kind
    origin: str = Field(alias="from", min_length=3)
    spread: Spread | None = Field(
        default=None,
        description="nine of ten such numbers lie within a factor of 1 + spread; default: its kind",
    )
    cases: tuple[str, ...] = Field(default=(), description="cases that it was fitted to")
    left_out: float | None = Field(
        default=None, ge=0, le=10, description="median error of cases, their model left out"
    )

    __repr__ = __str__ = shortened

    @model_validator(mode="before")
    @classmethod
    def _given_before(cls, data: Any) -> Any:
        """Read what results of earlier versions call a number of ``-s``."""
        if isinstance(data, dict) and data.get("kind") == "given":
            return {"kind": "estimate", "from": f"{STATED}{data.get('from')}"}
        return data


class Profile(_Section):
    """A device. Load one with `load_profile`; all quantities are in base units."""

    name: str = Field(min_length=1)
    summary: str = ""
    default: str = Field(
        default="", description="why its first backend is the one that is used unless asked"
    )
    dram: Dram
    flash: Flash
    backends: Mapping[str, Backend] = Field(min_length=1)
    staging: Bytes | None = Field(
        default=None, description="buffer for loads; default: the largest active set of one group"
    )
    runtime_overhead: Bytes = Field(default="0 B", validate_default=True)
    thermal: Thermal | None = None
    page_cache: PageCache | None = None
    energy: Energy | None = None
    sources: Mapping[str, Source] = {}

    @model_validator(mode="after")
    def _sources_name_keys(self) -> Self:
        for name in self.backends:
            if "." in name or "=" in name:
                raise ValueError(f"backend {name!r}: its name takes no '.' or '=' (-s needs them)")
        known = {key for path, _ in self.numbers() for key in prefixes(path)}
        for path in self.sources:
            if path not in known:
                raise ValueError(f"sources names {path!r}, which is no number of this profile")
        return self

    def __repr__(self) -> str:
        dram = f"{BYTES.show(self.dram.capacity)} of DRAM at {BANDWIDTH.show(self.dram.bandwidth)}"
        return f"Profile {brief(self.name, 40)}: {dram}, {brief(', '.join(self.backends), 60)}"

    __str__ = __repr__

    def backend(self, name: str | None = None) -> tuple[str, Backend]:
        """Return (name, backend) by its name; None means the first one.

        Raises:
            ProfileError: no such backend.
        """
        chosen = name or next(iter(self.backends))
        if chosen not in self.backends:
            allowed = ", ".join(self.backends)
            raise ProfileError(f"profile {self.name} has no backend {chosen!r}: use {allowed}")
        return chosen, self.backends[chosen]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that may state other numbers."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_numbers", None)  # those of this one
        return copied

    def numbers(self) -> tuple[tuple[str, Any], ...]:
        """Return every number that the profile states, as (dotted key, text)."""
        return self._numbers

    @cached_property
    def _numbers(self) -> tuple[tuple[str, Any], ...]:
        dump = self.model_dump(mode="json", exclude_unset=True, exclude={"sources"})
        return tuple((key, value) for key, value in leaves(dump) if not is_text(key))

    def source(self, path: str) -> Source | None:
        """Return the source of a dotted key, or of the nearest section above it that has one."""
        for prefix in reversed(prefixes(path)):
            if prefix in self.sources:
                return self.sources[prefix]
        return None


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile file: `Profile`, ``extends``, ``first``, the short
    ``compute``."""
    schema = Profile.model_json_schema(by_alias=True)
    schema["$defs"]["Dram"]["required"].remove("available")
    schema["properties"]["extends"] = {"type": "string", "description": "start from this profile"}
    schema["properties"]["first"] = {
        "type": "string",
        "description": "the backend to use unless asked",
    }
    schema["properties"]["compute"] = {
        **schema["$defs"]["Backend"]["properties"]["compute"],
        "description": "short for one backend with this compute rate",
    }
    del schema["required"]
    schema["anyOf"] = [
        {"required": ["extends"]},
        {"required": ["name", "dram", "flash", "backends"]},
        {"required": ["name", "dram", "flash", "compute"]},
    ]
    for section in schema["$defs"].values():  # one that extends another may state a part of it
        if section["title"] not in ("Profile", "Source", "Read"):
            section.pop("required", None)
    return schema


def is_text(path: str) -> bool:
    """Return whether a dotted key is of a text, which has no unit and no source."""
    parts = path.split(".")
    return parts[0] in TEXTS or (parts[0] == "backends" and parts[2:] == ["engine"])


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of all values that are neither sections nor null."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, value


def prefixes(path: str) -> list[str]:
    """Return ``["a", "a.b", "a.b.c"]`` for ``a.b.c``."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
